//! The words of the API: what a caller may ask for and what it is told. Requests are parsed here once; everything
//! behind this room works with checked types. Field names are stable: the command line's `--json` prints them.
//!
//! One long file, because it is a list of types, most of it their documentation, which becomes the OpenAPI document.

pub(crate) mod declared;
mod filter;
mod service;
pub(crate) mod short;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use stackmap::{GidRange, MacAddr, Segment, StackIndex, TenantName, TrunkIndex, TunnelSpec, Vlan};
use utoipa::ToSchema;

use crate::limits::Limits;
pub use declared::{
    DeclaredService, DeclaredShare, DeclaredTenant, Export, Exported, FieldChange, Outcome, Put, ShareForForm,
};
pub use filter::{Filter, FilterRule, FilterRuleForm, MOST_RULES, Ports, Protocol, Verdict};
pub use service::{ReadyWhen, RestartPolicy, ServiceOptions, SettingView, StopSignal, TemplateView};

/// A closed network as an operator asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantRequest {
    /// DNS label, at most 48 characters; unique.
    #[schema(value_type = String, example = "acme")]
    pub name: TenantName,
    /// Addresses of the server inside the closed network, in CIDR form; they may repeat across tenants.
    #[schema(value_type = Vec<String>, example = json!(["192.168.1.1/24"]))]
    pub addresses: Vec<IpNet>,
    /// VLAN on the trunk, 1..=4094; the lowest free one when left out.
    #[serde(default)]
    #[schema(value_type = Option<u16>)]
    pub vlan: Option<Vlan>,
    /// Name of the trunk; when left out the first one, or the first with a free VLAN when none is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunk: Option<String>,
    /// First id of the tenant's 65,536 group ids; the lowest free range when left out.
    #[serde(default)]
    pub gid: Option<u32>,
    /// A network card given whole instead of a port on the trunk.
    #[serde(default)]
    pub device: Option<String>,
    /// The sites, one tunnel each; as text or as object.
    #[serde(default)]
    #[schema(value_type = Vec<String>, example = json!(["ipip:198.51.100.2"]))]
    pub tunnels: Vec<TunnelSpec>,
    /// Name servers for the tenant's own resolv.conf.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<IpAddr>,
    /// Default router inside a layer-2 closed network.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub gateway: Option<IpAddr>,
    /// Further routes.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// What of its own house the tenant's administrator may change beyond files and processes; fixed for good.
    #[serde(default)]
    pub privileges: BTreeSet<Privilege>,
    /// The image below its root file system; `host` when left out.
    #[serde(default)]
    pub image: Option<String>,
    /// Forget what it has written whenever it is started.
    #[serde(default)]
    pub ephemeral: bool,
    /// What it may use of the machine.
    #[serde(default)]
    pub limits: Limits,
}

/// What a tenant's administrator may change beyond files and processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Privilege {
    /// Its own stack: addresses, routes, filters. The stack is then made inside the tenant's user namespace; the port's
    /// guards hold as before.
    Network,
}

/// A directory of the host that several tenants see.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShareMount {
    /// On the host, absolute.
    pub directory: String,
    /// In the tenant, absolute.
    pub target: String,
    /// Nobody in the tenant writes.
    #[serde(default)]
    pub read_only: bool,
}

/// Who shall see a directory of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShareRequest {
    /// On the host, absolute.
    #[schema(example = "/srv/common")]
    pub directory: String,
    /// Who shall see it; those who see it already go on.
    pub tenants: Vec<ShareFor>,
    /// Make the directory when it is not there, owned so that tenants may write.
    #[serde(default)]
    pub create: bool,
}

/// One tenant of a shared directory; as text `NAME` or `NAME:ro`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct ShareFor {
    /// Tenant.
    #[schema(value_type = String)]
    pub name: TenantName,
    /// Nobody in the tenant writes.
    #[serde(default)]
    pub read_only: bool,
}

/// A directory of the host and who sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SharedDirectory {
    /// On the host.
    pub directory: String,
    /// In the tenants.
    pub target: String,
    /// Who sees it.
    pub tenants: Vec<ShareFor>,
}

/// An image as it is asked for: of a tarball or by debootstrap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageRequest {
    /// DNS label, at most 48 characters; not `host`.
    #[schema(value_type = String)]
    pub name: TenantName,
    /// Absolute path on the host; excludes `debootstrap`.
    #[serde(default)]
    pub tarball: Option<String>,
    /// Excludes `tarball`.
    #[serde(default)]
    pub debootstrap: Option<DebootstrapRequest>,
}

/// What debootstrap is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DebootstrapRequest {
    /// Release, such as `bookworm`.
    pub suite: String,
    /// Archive.
    #[schema(example = "http://deb.debian.org/debian")]
    pub mirror: String,
    /// Packages besides.
    #[serde(default)]
    pub include: Vec<String>,
    /// The smallest system.
    #[serde(default)]
    pub minbase: bool,
    /// File of keys that vouch for the packages; the distribution's when left out.
    #[serde(default)]
    pub keyring: Option<String>,
    /// Take packages that nobody vouches for.
    #[serde(default)]
    pub unsigned: bool,
}

/// An image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageView {
    /// Name.
    pub name: String,
    /// `host`, `debootstrap` or `tarball`; empty when it is broken.
    pub kind: String,
    /// What it was made of.
    pub source: String,
    /// When, in seconds since 1970.
    pub made: u64,
    /// Files, directories and links in it.
    pub entries: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Tenants that stand on it.
    pub used_by: Vec<String>,
    /// What is wrong with it.
    pub broken: Option<String>,
}

/// A route of a tenant's stack; as text `CIDR[,via=ADDR]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct Route {
    /// Destination prefix.
    #[schema(value_type = String)]
    pub to: IpNet,
    /// Next hop inside the closed network; none means through the port.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub via: Option<IpAddr>,
}

short::text_or_object!(Route, RouteForm, "a route: CIDR[,via=ADDR], or an object");

/// A process of the tenant that is kept running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceRequest {
    /// DNS label, at most 48 characters; unique within the tenant.
    #[schema(value_type = String)]
    pub name: TenantName,
    /// Name of a template, such as `nginx` (`GET /v1/templates` lists them); excludes `command`.
    #[serde(default)]
    pub template: Option<String>,
    /// Values for the template's settings.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Program and arguments; excludes `template`.
    #[serde(default)]
    pub command: Vec<String>,
    /// How it runs; what is said here wins over the template.
    #[serde(default, skip_serializing_if = "ServiceOptions::is_empty")]
    pub options: ServiceOptions,
}

/// One tenant with everything that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    /// Name.
    #[schema(value_type = String)]
    pub name: TenantName,
    /// Stack index; `inet0` and so on in the tables.
    #[schema(value_type = String)]
    pub stack: StackIndex,
    /// VLAN on the trunk; none when the tenant owns a network card.
    #[schema(value_type = Option<u16>)]
    pub vlan: Option<Vlan>,
    /// Name of its trunk; left out: it is on the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunk: Option<String>,
    /// Number of its trunk; left out: 0, the first one.
    #[serde(default, skip_serializing_if = "is_first")]
    #[schema(value_type = u16)]
    pub trunk_number: TrunkIndex,
    /// The range of group (and user) ids.
    #[schema(value_type = u32)]
    pub gid: GidRange,
    /// Device inside the stack: `devN`, or the network card given whole.
    pub device: String,
    /// True when `device` is a network card given whole.
    pub whole_device: bool,
    /// Ethernet address of the port; none for a network card.
    #[schema(value_type = Option<String>)]
    pub mac: Option<MacAddr>,
    /// Server addresses.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpNet>,
    /// Sites.
    #[schema(value_type = Vec<crate::api::TunnelSchema>)]
    pub tunnels: Vec<TunnelSpec>,
    /// Name servers.
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<IpAddr>,
    /// Default router.
    #[schema(value_type = Option<String>)]
    pub gateway: Option<IpAddr>,
    /// Further routes.
    pub routes: Vec<Route>,
    /// What its stack lets in.
    #[serde(default)]
    pub filter: Filter,
    /// Services asked for.
    pub services: Vec<ServiceRequest>,
    /// What its administrator may change beyond files and processes.
    #[serde(default)]
    pub privileges: BTreeSet<Privilege>,
    /// The image below its root file system.
    #[serde(default = "host_image")]
    pub image: String,
    /// What it has written is forgotten whenever it is started.
    #[serde(default)]
    pub ephemeral: bool,
    /// What it may use of the machine.
    #[serde(default)]
    pub limits: Limits,
    /// Directories it shares with others.
    #[serde(default)]
    pub shares: Vec<ShareMount>,
    /// Raised by one with every change.
    pub generation: u64,
}

fn host_image() -> String {
    crate::images::HOST.to_owned()
}

fn is_first(trunk: &TrunkIndex) -> bool {
    *trunk == TrunkIndex::default()
}

impl Tenant {
    /// Its VLAN on its trunk; none when it owns a network card.
    pub fn segment(&self) -> Option<Segment> {
        Some(Segment { trunk: self.trunk_number, vlan: self.vlan? })
    }

    /// True when its stack is its own to administer.
    pub fn owns_network(&self) -> bool {
        self.privileges.contains(&Privilege::Network)
    }
}

/// What is so, read from the kernel, beside what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantStatus {
    /// Name.
    #[schema(value_type = String)]
    pub name: TenantName,
    /// `ready`, `half-done` (see `step` and `cause`), or `removing`.
    pub state: TenantState,
    /// The step that failed last, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Since when it fails: Unix time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// How often it was tried in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tries: Option<u32>,
    /// When it is tried next, unless something happens before: Unix time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_ms: Option<u64>,
    /// Process id of the tenant's init, seen from the host.
    pub init_pid: Option<i32>,
    /// Inode number of the network namespace.
    pub netns: Option<u64>,
    /// Device MTU in bytes.
    pub mtu: Option<u32>,
    /// Services and what they do now.
    pub services: Vec<ServiceStatus>,
    /// Packets and bytes at the port and drops by reason (port and access server).
    pub counters: Counters,
    /// Connections and refusals that the guard counted; none while the tenant has no stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<crate::refusals::TenantRefusals>,
    /// Memory, processor time, processes and so on; none when the daemon is older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<crate::cgroups::Usage>,
}

/// The life of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TenantState {
    /// Everything asked for is in the kernel.
    Ready,
    /// Some step failed; it is tried again.
    HalfDone,
    /// Asked to go, not all gone yet.
    Removing,
}

/// One service as init sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceStatus {
    /// Name.
    #[schema(value_type = String)]
    pub name: TenantName,
    /// `running`, `waiting` (before a restart), `stopped`, `unknown` (init does not answer).
    pub state: String,
    /// Process id inside the tenant.
    pub pid: Option<i32>,
    /// How often it was started again.
    pub restarts: u64,
    /// How it ended last, such as `exit 1` or `signal 9`.
    pub last_exit: Option<String>,
}

/// Traffic of a tenant, read from the data path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counters {
    /// Packets towards the tenant.
    pub rx_packets: u64,
    /// Bytes towards the tenant.
    pub rx_bytes: u64,
    /// Packets from the tenant.
    pub tx_packets: u64,
    /// Bytes from the tenant.
    pub tx_bytes: u64,
    /// Drops by reason; names as in docs/drops.md.
    pub drops: BTreeMap<String, u64>,
}

/// Answer to add-tenant: the tenant and how long each step took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Added {
    /// The tenant as made.
    pub tenant: Tenant,
    /// Steps in order with their time in microseconds; with `dry_run` the time is 0.
    pub steps: Vec<Step>,
    /// True when nothing was done: the steps are the plan.
    #[serde(default)]
    pub dry_run: bool,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// What is done, such as `stack`, `port`, `access`, `probe`.
    pub name: String,
    /// Duration in microseconds.
    pub us: u64,
}

/// State of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DaemonStatus {
    /// Instance name.
    pub instance: String,
    /// Version of the program.
    pub version: String,
    /// Device of the first trunk (near end, or the card in the patch room).
    pub trunk: String,
    /// Why the first trunk is not as it should be; none while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunk_cause: Option<String>,
    /// `connected`, or why the access server of the first trunk cannot be reached.
    pub access: String,
    /// Every trunk, the first one too, by number.
    #[serde(default)]
    pub trunks: Vec<TrunkStatus>,
    /// Number of tenants.
    pub tenants: usize,
    /// Tenants that are not ready.
    pub half_done: Vec<String>,
    /// Tenants that wait to be compared with the kernel: all of them after a start, fewer and fewer until 0.
    #[serde(default)]
    pub waiting: usize,
    /// Tenants that live, or have files, and that the store does not know: each in words, with what can be done.
    #[serde(default)]
    pub orphans: Vec<String>,
    /// Rows of the store that are not followed, for they are damaged or contradict another one: each with its cause.
    #[serde(default)]
    pub bad_rows: Vec<String>,
    /// Where desired state is kept.
    #[serde(default)]
    pub store: StoreStatus,
}

/// State of a trunk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrunkStatus {
    /// Its name.
    pub name: String,
    /// Its number, which it has for good.
    pub number: u16,
    /// Its device (near end, or the card in the patch room).
    pub device: String,
    /// Why it is not as it should be; none while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// `connected`, or why its access server cannot be reached.
    pub access: String,
    /// Number of tenants on it.
    pub tenants: usize,
}

/// How the store is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoreStatus {
    /// Number of its last write.
    pub revision: u64,
    /// Why its last write or read failed; none: it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// What was found at the start and only an operator can judge: a store that is older than what was answered since the
    /// machine started, or another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// Writes of this daemon, each flushed to the disk.
    pub writes: u64,
    /// What they took together, in microseconds.
    pub write_us: u64,
    /// The longest, in microseconds.
    pub write_us_max: u64,
    /// Writes and reads that failed.
    pub failures: u64,
}

/// What a restore changed, or would change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Restored {
    /// Tenants that were not there.
    pub added: Vec<String>,
    /// Tenants that differed.
    pub changed: Vec<RestoredTenant>,
    /// Tenants that are not in the backup.
    pub removed: Vec<String>,
    /// Number of tenants that are the same and were not touched.
    pub same: usize,
    /// The revision of the backup.
    pub revision: u64,
    /// Where the store as it was before is kept; none: nothing was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// True when nothing was done.
    #[serde(default)]
    pub dry_run: bool,
}

/// A tenant that a restore changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoredTenant {
    /// Its name.
    pub name: String,
    /// The fields that differ. Passwords are not shown.
    pub changes: Vec<FieldChange>,
}

/// Something that happened; sent to `/v1/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Rising number, unique while the daemon lives.
    pub id: u64,
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// `tenant-added`, `tenant-removed`, `tenant-changed`, `tenant-half-done`, `service-started`, `service-exited`,
    /// `access-connected`, `access-lost`, `guard-refused`, `guard-listen` (a `listen` outside the own stack, which no
    /// hook can refuse), `drift`, `drift-gone`, `repaired` (what differed although nobody had asked for it),
    /// `repairs-paced` (of a tenant whose stack is changed all the time, or whose init ends again and again), `overrun`
    /// (events of the kernel were lost and every tenant is looked at), `sweep-failed` (what is nobody's could not be
    /// looked for or removed at the start), `trunk-lost`.
    pub kind: String,
    /// The tenant it is about.
    pub tenant: Option<String>,
    /// On whose behalf it happened.
    #[serde(default)]
    pub origin: EventOrigin,
    /// Human words.
    pub detail: String,
    /// With `guard-refused` and `guard-listen`: who wanted what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<crate::refusals::GuardRefusal>,
    /// With `repaired`: what was found and done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<Repair>,
}

/// What the daemon found and did although nobody had asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Repair {
    /// What differed, such as `address 192.168.1.1/24 is missing`.
    pub found: Vec<String>,
    /// Steps taken.
    pub steps: Vec<String>,
}

/// What a pass would do for a tenant now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantPlan {
    /// Tenant.
    #[schema(value_type = String)]
    pub name: TenantName,
    /// It is on its way out.
    pub removing: bool,
    /// Steps in order; none when everything is as desired.
    pub steps: Vec<PlannedStep>,
    /// Why its kernel state cannot be read; nothing is known then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cannot_read: Option<String>,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedStep {
    /// What is done, such as `addresses`, `service web`.
    pub step: String,
    /// Why: what was found.
    pub found: Vec<String>,
}

impl Event {
    /// True for those that tell of the host's processes or of other tenants: no tenant hears of them.
    pub fn is_for_operators(&self) -> bool {
        ["guard-refused", "guard-listen", "drift", "drift-gone"].contains(&self.kind.as_str())
    }
}

/// On whose behalf something happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EventOrigin {
    /// The daemon saw it, or mended something by itself.
    #[default]
    Daemon,
    /// Somebody asked for it on the host.
    Operator,
    /// The tenant's own administrator asked for it from inside.
    Tenant,
}

/// Who is answered here: what a caller may ask first to know where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Here {
    /// Version of the daemon.
    pub version: String,
    /// The tenant that this socket speaks for; null on the host.
    #[schema(value_type = Option<String>)]
    pub tenant: Option<TenantName>,
}

/// The three tables, each row as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MapView {
    /// `inet0 <-> gid 524288`
    pub upper: Vec<MapRow>,
    /// `(inet0, dev0) <-> vlan600`
    pub lower: Vec<MapRow>,
    /// `ipip (198.51.100.2, 203.0.113.1) <-> vlan600`
    pub access: Vec<MapRow>,
}

/// One row of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MapRow {
    /// The tenant it belongs to.
    pub tenant: String,
    /// The row as the field writes it.
    pub row: String,
}
