//! Where plans meet the kernel: reading what is so for one tenant and taking one step for it. Nothing is remembered
//! here but descriptors of what was found; work for one tenant does not depend on how many there are.

mod files;
mod filter;
mod guard;
mod rates;
mod running;
mod services;
mod shares;
pub(crate) mod verify;

pub use services::{Job, Verb};

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rtnetlink::Handle;
use stack_guard::Guard;
use stackmap::{Invalid, MacAddr, MacRole, TenantName, TrunkIndex, Vlan};
use tenant_init::client::{Client, ClientError};
use tenant_init::house::{self, Image, Share};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::access::{AccessClient, AccessError, StoredRow};
use crate::api::{DoorError, Doors};
use crate::cgroups::{CgroupError, Cgroups, Entry, Layout};
use crate::config::Config;
use crate::images::{self, GetError, HostError, ImageStore};
use crate::launch::{self, AdoptError, EndError, LaunchError, LaunchSpec, Launched, Surroundings};
use crate::layer::{self, Layer, LayerError};
use crate::limits::{Bytes, Limits};
use crate::model::{Counters, ShareMount, Tenant, TenantRequest};
use crate::net::filter::{FilterError, Netfilter};
use crate::net::link::{self, NetlinkError, VethEnd};
use crate::net::ns::{NetNs, NsError};
use crate::net::offload;
use crate::net::probe::{ProbeError, Prober, Question};
use crate::net::qdisc::{self, RateError};
use crate::net::room::{PatchError, PatchRoom, PortRow, port_name};
use crate::net::stack;
use crate::plan::{Action, Actual, answered_prefixes, asks_neighbours, service_of, stack_plan};
use crate::services::ServiceError;
use crate::store::Desired;

/// How long a stack may take to answer its first probe.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);
/// How long init may take to answer.
const INIT_DEADLINE: Duration = Duration::from_secs(5);
/// How long it may take in a pass: a tenant that starves its own init must not hold up the others.
pub const PASS_DEADLINE: Duration = Duration::from_millis(500);
/// How long a tenant's processes may take to end after SIGKILL.
const END_DEADLINE: Duration = Duration::from_secs(10);
/// How long a service may take to end after SIGTERM.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// A step that failed; the variant is the step.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Cgroups and the limits they hold.
    #[error("limits")]
    Limits(#[from] CgroupError),
    /// A row of the guard.
    #[error("the guard")]
    Guard(#[source] Box<stack_guard::PutError>),
    /// The tenant's private layer.
    #[error("the private layer")]
    Layer(#[source] Box<LayerError>),
    /// The tenant's directory in version 2.
    #[error("the guard")]
    GuardCgroup(#[from] stack_guard::CgroupError),
    /// Bandwidth that cannot be held.
    #[error(transparent)]
    Rate(#[from] RateError),
    /// A discipline or class of bandwidth.
    #[error("bandwidth")]
    Bandwidth(#[source] Box<qdisc::LimitError>),
    /// The image below the tenant's root.
    #[error("image")]
    Image(#[from] HostError),
    /// The named image below the tenant's root.
    #[error("image")]
    NamedImage(#[from] GetError),
    /// The tenant's init could not be started.
    #[error("cannot start the tenant's init")]
    Launch(#[from] LaunchError),
    /// The tenant's init does not answer, or refuses.
    #[error("the tenant's init")]
    Init(#[from] ClientError),
    /// The tenant's init could not set itself up.
    #[error("the tenant's init is not ready: {0}")]
    NotReady(String),
    /// There is no init, and the step needs one.
    #[error("tenant {0} has no init")]
    NoInit(TenantName),
    /// A namespace.
    #[error("a namespace")]
    Ns(#[from] NsError),
    /// A device, address or route.
    #[error("netlink")]
    Netlink(#[from] NetlinkError),
    /// The packet filter of the stack.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The patch room.
    #[error("the patch room")]
    Patch(#[from] PatchError),
    /// The tenant's init was found, but it is not to be trusted.
    #[error("cannot adopt the tenant's init")]
    Adopt(#[from] AdoptError),
    /// The access server.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The stack does not answer.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// A service that cannot be as it is asked for.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// A device that should be there is not.
    #[error("device {0} is not there")]
    NoDevice(String),
    /// The port's end in the stack keeps its offloads.
    #[error("cannot switch the offload of tunnelled packets of {device} off")]
    Offload {
        /// Device.
        device: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A file or directory of the tenant.
    #[error("cannot {verb} {path}")]
    File {
        /// What was done.
        verb: &'static str,
        /// Path.
        path: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The tenant's processes do not end.
    #[error("cannot end the tenant")]
    End(#[from] EndError),
    /// The socket of the tenant's own API.
    #[error(transparent)]
    Door(#[from] DoorError),
    /// A thread of ours ended, or a descriptor could not be watched.
    #[error("cannot watch or wait")]
    Watch(#[source] io::Error),
}

// Boxed: each is larger than all the others.
impl From<LayerError> for StepError {
    fn from(error: LayerError) -> Self {
        Self::Layer(Box::new(error))
    }
}

impl From<stack_guard::PutError> for StepError {
    fn from(error: stack_guard::PutError) -> Self {
        Self::Guard(Box::new(error))
    }
}

impl From<qdisc::LimitError> for StepError {
    fn from(error: qdisc::LimitError) -> Self {
        Self::Bandwidth(Box::new(error))
    }
}

/// An init that ended although nobody asked it to.
#[derive(Debug)]
pub struct InitEnded {
    /// Its tenant.
    pub tenant: TenantName,
    /// Its process id.
    pub pid: i32,
}

/// What a world is made of.
pub struct WorldParts {
    /// The daemon's settings.
    pub config: Config,
    /// The open patch room.
    pub room: PatchRoom,
    /// The access server.
    pub access: AccessClient,
    /// Who is told of inits that end unasked.
    pub ended: mpsc::Sender<InitEnded>,
    /// The instance's directory in a bpffs.
    pub bpf_dir: PathBuf,
}

/// Why there is no world.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Our own network namespace.
    #[error(transparent)]
    Ns(#[from] NsError),
    /// The tenants' cgroups.
    #[error("the tenants' cgroups")]
    Cgroups(#[from] CgroupError),
    /// Cgroups of version 2 are not mounted.
    #[error(
        "no cgroup file system of version 2 is mounted: the guard needs one (mount -t cgroup2 none /sys/fs/cgroup/unified), \
         or name a directory in it with --guard-cgroup"
    )]
    NoCgroup2,
    /// The guard of the tenants' stacks.
    #[error("the guard")]
    Guard(#[from] stack_guard::OpenError),
    /// The list of devices.
    #[error("the list of devices")]
    Devices(#[from] stack_guard::DevicesError),
    /// The images.
    #[error("the images")]
    Images(#[from] images::OpenError),
    /// The image of the host.
    #[error("the image {}", images::HOST)]
    Host(#[from] HostError),
}

/// Descriptors of a tenant's living init and stack.
struct Seat {
    pid: i32,
    pidfd: OwnedFd,
    netns: NetNs,
    inode: u64,
    /// The namespace's cookie, by which the guard knows it.
    cookie: u64,
    netlink: Handle,
    /// None where the kernel has no netfilter.
    netfilter: Option<Netfilter>,
}

/// The kernel, the access server and the files, as far as tenants go.
pub struct World {
    config: Config,
    here: Handle,
    room: PatchRoom,
    /// The access server.
    pub access: AccessClient,
    seats: HashMap<TenantName, Seat>,
    cgroups: Cgroups,
    guard: Guard,
    images: Arc<ImageStore>,
    /// Longest inner packet of each VLAN as the access server said last.
    inner_mtu: HashMap<Vlan, u32>,
    ended: mpsc::Sender<InitEnded>,
}

impl World {
    /// A world over an open patch room. Inits that end unasked are told to `ended`.
    ///
    /// # Errors
    /// The cgroups or the images cannot be opened.
    pub fn new(parts: WorldParts) -> Result<Self, OpenError> {
        let WorldParts { config, room, access, ended, bpf_dir } = parts;
        let here = NetNs::current()?.netlink()?;
        let cgroups = Cgroups::open(&config.cgroup, &config.state_dir)?;
        cgroups.tell_support();
        let asked = match &config.guard_cgroup {
            Some(directory) => directory.clone(),
            None => cgroup2().ok_or(OpenError::NoCgroup2)?,
        };
        let guard = guard::open(&asked, &bpf_dir.join("guard"), &cgroups)?;
        let images = Arc::new(ImageStore::open(&config.state_dir)?);
        // Now, or the first tenant would wait for it.
        images.host()?;
        let (seats, inner_mtu) = (HashMap::new(), HashMap::new());
        let world = Self { config, here, room, access, seats, cgroups, guard, images, inner_mtu, ended };
        world.sweep_files();
        Ok(world)
    }

    /// Ethernet addresses of a VLAN's two ends: server and gateway.
    pub fn macs(&self, vlan: Vlan) -> (MacAddr, MacAddr) {
        let of = |role| MacAddr::derive(&self.config.instance, TrunkIndex::default(), vlan, role);
        (of(MacRole::Server), of(MacRole::Gateway))
    }

    /// True when a network card of this name is in our namespace.
    pub async fn card_is_here(&self, name: &str) -> Result<bool, NetlinkError> {
        Ok(link::find(&self.here, name).await?.is_some())
    }

    /// VLANs that have a port in the data path, for finding leftovers.
    pub async fn bound_vlans(&self) -> Result<Vec<Vlan>, StepError> {
        Ok(self.room.vlans().await?)
    }

    /// Remove what a tenant that nobody knows left in the patch room.
    pub async fn sweep(&self, vlan: Vlan) -> Result<(), StepError> {
        self.room.unbind(vlan).await?;
        self.free_class(vlan).await?;
        link::delete(&self.room.netlink, &port_name(vlan)).await?;
        Ok(())
    }

    /// Ports in the patch room, by VLAN.
    pub async fn port_vlans(&self) -> Result<Vec<Vlan>, StepError> {
        let links = link::list(&self.room.netlink).await?;
        let number = |name: &str| name.strip_prefix('p')?.parse().ok().and_then(|n| Vlan::new(n).ok());
        Ok(links.iter().filter_map(|(name, _)| number(name)).collect())
    }

    /// Process id and namespace of a tenant's init, if it lives.
    pub fn seat(&self, name: &TenantName) -> Option<(i32, u64)> {
        self.seats.get(name).map(|seat| (seat.pid, seat.inode))
    }

    /// Drop the descriptors of an init that ended.
    pub fn forget_seat(&mut self, name: &TenantName, pid: i32) {
        if let Some(seat) = self.seats.remove(name) {
            if seat.pid == pid {
                // Our child, if this daemon started it: one that died unasked would stay a zombie as long as we live.
                launch::reap(&seat.pidfd);
            } else {
                self.seats.insert(name.clone(), seat);
            }
        }
    }

    /// Directory in which every tenant has one for the socket of its own API.
    pub fn doors_dir(&self) -> PathBuf {
        self.config.run_dir.join("tenants")
    }

    fn control_socket(&self, name: &TenantName) -> PathBuf {
        self.config.run_dir.join("tenants").join(format!("{name}.sock"))
    }

    /// Directory of a tenant's files.
    pub fn files(&self, name: &TenantName) -> PathBuf {
        self.config.state_dir.join("tenants").join(name.as_str())
    }

    /// Ask the tenant's init something, off the owner's thread: init may take its time.
    pub async fn ask_init<T: Send + 'static>(
        &self,
        name: &TenantName,
        ask: impl FnOnce(&mut Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, StepError> {
        let path = self.control_socket(name);
        let asked = tokio::task::spawn_blocking(move || ask(&mut Client::connect(&path)?)).await;
        Ok(asked.map_err(joined)??)
    }

    /// Read what is so for one tenant.
    pub async fn actual(&mut self, desired: &Desired) -> Result<Actual, StepError> {
        let tenant = &desired.tenant;
        let mut actual = Actual { files: self.files(&tenant.name).exists(), ..Actual::default() };
        actual.init = self.take_seat(&tenant.name).await?;
        let limits = self.cgroups.limits(&tenant.name)?;
        actual.cgroups = limits.is_some();
        actual.limits = limits == Some(Cgroups::held(&self.cgroups.with_defaults(&tenant.limits)));
        let mut port = None;
        if let Some(vlan) = tenant.vlan {
            port = link::find(&self.room.netlink, &port_name(vlan)).await?;
            actual.port = port.is_some();
        }
        let in_stack = match self.seats.get(&tenant.name) {
            Some(seat) => stack::read(&seat.netlink, &tenant.device).await?,
            None => None,
        };
        actual.device = in_stack.is_some();
        actual.filter = self.filter_is(tenant);
        actual.guarded = self.is_guarded(tenant)?;
        actual.guard_row = self.has_guard_row(tenant);
        if let Some(vlan) = tenant.vlan {
            let bound = self.room.bound(vlan).await?;
            let stored = self.stored(tenant, vlan).await;
            actual.access_away = stored.as_ref().is_err_and(AccessError::is_away);
            if desired.removing {
                actual.bound = bound.is_some();
                // One that does not answer may still hold a row of ours: then removal waits.
                actual.access_any = stored.map_or(true, |row| row.is_some_and(|row| self.access.is_ours(&row)));
            } else {
                let stored = if actual.access_away { None } else { stored? };
                let ours = stored.as_ref().filter(|row| self.access.is_ours(row));
                actual.access_any = ours.is_some();
                actual.access = ours.is_some_and(|row| row.generation == tenant.generation);
                actual.access_newer = ours.map(|row| row.generation).filter(|there| *there > tenant.generation);
                let mut inner = self.inner_of(tenant, stored.as_ref());
                if actual.access_away {
                    // As long as nobody says otherwise the port is right as it is.
                    inner = self.inner_mtu.get(&vlan).copied().or(port.as_ref().map(|port| port.mtu));
                }
                if let Some(inner) = inner {
                    self.inner_mtu.insert(vlan, inner);
                }
                if let (Some(port), Some(inner)) = (&port, inner) {
                    let wanted = self.port_row(tenant, vlan, port.index, self.port_mtu(inner));
                    actual.bound = bound == Some(wanted.config(&self.room)?);
                    actual.bound &= self.rates_are(tenant, vlan, port.index).await?;
                }
            }
        }
        if let (Some(found), false) = (in_stack, desired.removing) {
            actual.stack = found.satisfies(&self.wanted_stack(tenant, found.link.mtu).await?);
        }
        if actual.init && !desired.removing {
            actual.names = self.names_are(tenant);
            actual.shares = self.mounted_shares(tenant)?;
            let asked = self.ask_init(&tenant.name, |c| Ok((c.hello(PASS_DEADLINE)?, c.list(PASS_DEADLINE)?))).await;
            let (hello, states) = match asked {
                Err(StepError::Init(ClientError::Deadline(_))) => {
                    actual.silent = true;
                    return Ok(actual);
                }
                asked => asked?,
            };
            if !hello.ready {
                // A house that could not be finished never will be: the next pass starts anew.
                self.end_init(&tenant.name).await?;
                return Err(StepError::NotReady(hello.failed.unwrap_or_default()));
            }
            for state in states {
                let Ok(name) = state.spec.name.parse::<TenantName>() else { continue };
                let wanted = service_of(tenant, &name).and_then(|s| self.service_spec(tenant, s).ok());
                actual.services.insert(name, wanted.map(|w| w.outline()).as_ref() == Some(&state.spec));
            }
        }
        Ok(actual)
    }

    /// Take one step.
    pub async fn apply(&mut self, tenant: &Tenant, action: &Action) -> Result<(), StepError> {
        match action {
            Action::StopService(service) => self.stop_service(&tenant.name, service).await,
            Action::WithdrawAccess => match tenant.vlan {
                Some(vlan) => Ok(self.access.delete(vlan).await?),
                None => Ok(()),
            },
            Action::Unbind => match tenant.vlan {
                Some(vlan) => {
                    self.room.unbind(vlan).await?;
                    self.free_class(vlan).await
                }
                None => Ok(()),
            },
            Action::DeletePort => match tenant.vlan {
                Some(vlan) => Ok(link::delete(&self.room.netlink, &port_name(vlan)).await?),
                None => Ok(()),
            },
            Action::ReturnDevice => self.return_device(tenant).await,
            Action::EndInit => self.end_init(&tenant.name).await,
            Action::RemoveFiles => self.remove_files(tenant).await,
            Action::WriteNames => self.write_names(tenant),
            Action::UnmountShare(share) => self.unmount_share(tenant, share).await,
            Action::MountShare(share) => self.mount_share(tenant, share).await,
            // The owner's: what listens there leads to it.
            Action::OpenDoor => Ok(()),
            Action::Forget => {
                if let Some(vlan) = tenant.vlan {
                    self.inner_mtu.remove(&vlan);
                }
                Ok(())
            }
            Action::Limit => self.limit(tenant),
            Action::Guard => self.put_guard(tenant),
            Action::Filter => self.set_filter(tenant),
            Action::Unguard => self.remove_guard_rows(tenant.gid, None),
            Action::RemoveCgroups => Ok(self.cgroups.remove(&tenant.name, END_DEADLINE)?),
            Action::Launch => self.launch(tenant).await,
            Action::StateAccess => self.state_access(tenant).await,
            Action::AddPort => self.add_port(tenant).await,
            Action::GiveDevice => self.give_device(tenant).await,
            Action::Bind => self.bind(tenant).await,
            Action::Configure => self.configure(tenant).await,
            Action::Probe => self.probe(tenant).await,
            Action::StartService(name) => match service_of(tenant, name) {
                Some(service) => self.start_service(tenant, service).await,
                None => Ok(()),
            },
        }
    }

    /// Find the tenant's living init by its control socket and hold descriptors of it; true when there is one.
    async fn take_seat(&mut self, name: &TenantName) -> Result<bool, StepError> {
        if self.seats.contains_key(name) {
            return Ok(true);
        }
        let (path, tenant) = (self.control_socket(name), name.clone());
        let found = tokio::task::spawn_blocking(move || launch::adopt(&path, &tenant)).await.map_err(joined)?;
        match found {
            Ok((launched, _)) => self.sit(name, launched).map(|()| true),
            Err(AdoptError::Client(ClientError::Gone { .. })) => Ok(false),
            Err(other) => Err(other.into()),
        }
    }

    fn sit(&mut self, name: &TenantName, launched: Launched) -> Result<(), StepError> {
        let Launched { pid, pidfd, netns, netns_inode: inode } = launched;
        let netns = NetNs::from(netns);
        let (cookie, netfilter) = netns.run(|| (guard::cookie(), Netfilter::open().ok()))?;
        let cookie = cookie.map_err(StepError::Watch)?;
        let netlink = netns.netlink()?;
        let watched = pidfd.try_clone().map_err(StepError::Watch)?;
        let (tenant, ended) = (name.clone(), self.ended.clone());
        tokio::spawn(async move {
            // SAFETY: an owned descriptor names the same process until it is dropped with the registration.
            let fd = unsafe { AsyncFd::register_with_interest(watched, Interest::READABLE) };
            if let Ok(fd) = fd {
                let _ = fd.readable().await;
                let _ = ended.send(InitEnded { tenant, pid }).await;
            }
        });
        self.seats.insert(name.clone(), Seat { pid, pidfd, netns, inode, cookie, netlink, netfilter });
        Ok(())
    }

    async fn launch(&mut self, tenant: &Tenant) -> Result<(), StepError> {
        let spec = LaunchSpec {
            init_path: self.config.init.clone(),
            name: tenant.name.clone(),
            stack: tenant.stack,
            gids: tenant.gid,
            control_socket: self.control_socket(&tenant.name),
            state_dir: self.files(&tenant.name),
            dns: tenant.dns.clone(),
            addresses: tenant.addresses.clone(),
            image: self.image(tenant).await?,
            layer: house::Layer::Directory,
            network: tenant.owns_network(),
            api: Some(Doors::dir_of(&self.doors_dir(), &tenant.name)),
            // While it is being replaced by a newer one there may be none; the tenant lives without.
            program: Some(self.config.program.clone()).filter(|program| program.is_file()),
            shares: tenant.shares.iter().map(share).collect(),
            scratch: SCRATCH,
        };
        let cgroups = Some(self.cgroups.entry(&tenant.name)?);
        let (ephemeral, disk) = (tenant.ephemeral, tenant.limits.disk.map(Bytes::get));
        let launched = tokio::task::spawn_blocking(move || start(spec, cgroups, ephemeral, disk)).await;
        self.sit(&tenant.name, launched.map_err(joined)??)
    }

    /// What below the state of the world a request asks for can be had here: limits and image.
    ///
    /// # Errors
    /// [`Invalid`] naming the limit that this host cannot hold.
    pub async fn check_house(&self, request: &TenantRequest) -> Result<(), Invalid> {
        if let Some(name) = request.image.clone().filter(|name| name != images::HOST) {
            self.images.get(&name).map_err(|error| match error {
                GetError::Name(refused) => refused,
                broken => Invalid::new("image", name, crate::owner::chain(&broken)),
            })?;
        }
        self.check_limits(&request.limits)
    }

    /// Whether this host can hold such limits.
    pub fn check_limits(&self, limits: &Limits) -> Result<(), Invalid> {
        self.cgroups.check(limits).map_err(|error| match error {
            CgroupError::NotHere { limit, why } => {
                let value = limits.pairs().into_iter().find(|(name, _)| *name == limit);
                Invalid::new(format!("limits.{limit}"), value.map_or_else(String::new, |(_, value)| value), why)
            }
            other => Invalid::new("limits", "", other.to_string()),
        })?;
        if let Some(disk) = limits.disk {
            layer::check_limit(disk.get()).map_err(|error| error.for_field("limits.disk"))?;
        }
        rates::check(limits)
    }

    fn limit(&self, tenant: &Tenant) -> Result<(), StepError> {
        self.cgroups.make(&tenant.name)?;
        Ok(self.cgroups.set(&tenant.name, &self.cgroups.with_defaults(&tenant.limits))?)
    }

    /// The images.
    pub fn images(&self) -> Arc<ImageStore> {
        self.images.clone()
    }

    async fn image(&self, tenant: &Tenant) -> Result<Image, StepError> {
        let images = self.images.clone();
        if tenant.image != images::HOST {
            let name = tenant.image.clone();
            let found = tokio::task::spawn_blocking(move || images.get(&name)).await.map_err(joined)??;
            return Ok(Image::Tree { root: found.root });
        }
        let host = tokio::task::spawn_blocking(move || images.host()).await.map_err(joined)??;
        let _ = tenant;
        Ok(Image::Host { root: host.root, set_id: host.set_id })
    }

    async fn end_init(&mut self, name: &TenantName) -> Result<(), StepError> {
        if let Some(seat) = self.seats.remove(name) {
            let pidfd = seat.pidfd;
            tokio::task::spawn_blocking(move || launch::end(&pidfd, END_DEADLINE)).await.map_err(joined)??;
        }
        Ok(())
    }

    async fn state_access(&mut self, tenant: &Tenant) -> Result<(), StepError> {
        let Some(vlan) = tenant.vlan else { return Ok(()) };
        let gateway = self.macs(vlan).1;
        if let Some(row) = self.access.row(tenant, gateway) {
            let stored = self.access.put(&row).await?;
            self.inner_mtu.insert(vlan, stored.mtu);
        }
        Ok(())
    }

    /// MTU of a port whose longest inner packet is `inner` bytes: never more than the trunk carries with a tag.
    fn port_mtu(&self, inner: u32) -> u32 {
        inner.min(self.room.trunk.mtu.saturating_sub(4)).max(1280)
    }

    async fn wanted_mtu(&mut self, tenant: &Tenant, otherwise: u32) -> Result<u32, StepError> {
        let Some(vlan) = tenant.vlan else { return Ok(otherwise) };
        if let Some(inner) = self.inner_mtu.get(&vlan) {
            return Ok(self.port_mtu(*inner));
        }
        let stored = match self.stored(tenant, vlan).await {
            Err(error) if error.is_away() => return Ok(otherwise),
            answer => answer?,
        };
        Ok(self.inner_of(tenant, stored.as_ref()).map_or(otherwise, |inner| self.port_mtu(inner)))
    }

    /// The VLAN's row at the access server. A tenant without tunnels needs none, and no server either: the other end of
    /// the trunk may be somebody else's.
    async fn stored(&mut self, tenant: &Tenant, vlan: Vlan) -> Result<Option<StoredRow>, AccessError> {
        match self.access.get(vlan).await {
            Err(AccessError::Unreachable { .. }) if tenant.tunnels.is_empty() => Ok(None),
            other => other,
        }
    }

    /// Longest packet in bytes that passes beyond the trunk; `None` when only a row not stated yet will tell. Without
    /// tunnels the trunk is the limit, unless somebody else stated some for the VLAN.
    fn inner_of(&self, tenant: &Tenant, stored: Option<&StoredRow>) -> Option<u32> {
        if !tenant.tunnels.is_empty() {
            return stored.map(|row| row.mtu);
        }
        let others = stored.filter(|row| !self.access.is_ours(row));
        Some(others.map_or(self.room.trunk.mtu, |row| row.mtu))
    }

    async fn add_port(&mut self, tenant: &Tenant) -> Result<(), StepError> {
        let Some(vlan) = tenant.vlan else { return Ok(()) };
        let mtu = self.wanted_mtu(tenant, 1280).await?;
        let seat = self.seats.get(&tenant.name).ok_or_else(|| StepError::NoInit(tenant.name.clone()))?;
        let near = port_name(vlan);
        let inside = VethEnd { name: &tenant.device, mac: tenant.mac, mtu };
        link::add_veth(&self.room.netlink, VethEnd { name: &near, mac: None, mtu }, inside, seat.netns.as_fd()).await?;
        Ok(())
    }

    fn port_row(&self, tenant: &Tenant, vlan: Vlan, ifindex: u32, mtu: u32) -> PortRow {
        let (server, gateway_mac) = self.macs(vlan);
        let mut answer = answered_prefixes(&tenant.tunnels);
        let asks = asks_neighbours(&tenant.tunnels);
        if !asks {
            // Should the stack lose its one permanent neighbour, it asks for it and recovers.
            answer.push(IpNet::from(IpAddr::V6(stack::GATEWAY)));
        }
        answer.sort();
        answer.dedup();
        let mac = tenant.mac.unwrap_or(server);
        PortRow { ifindex, vlan, mac, gateway_mac, mtu, asks, answer, class: rates::class(tenant, vlan) }
    }

    async fn bind(&mut self, tenant: &Tenant) -> Result<(), StepError> {
        let Some(vlan) = tenant.vlan else { return Ok(()) };
        let name = port_name(vlan);
        let port = link::find(&self.room.netlink, &name).await?.ok_or(StepError::NoDevice(name))?;
        let mtu = self.wanted_mtu(tenant, port.mtu).await?;
        if port.mtu != mtu {
            link::set_mtu(&self.room.netlink, port.index, mtu).await?;
        }
        // A stack that died took its port along, but not the port's row.
        if self.room.bound(vlan).await?.is_some_and(|there| there.ifindex != port.index) {
            self.room.unbind(vlan).await?;
        }
        let row = self.port_row(tenant, vlan, port.index, mtu);
        self.hold_rates(tenant, vlan, port.index).await?;
        self.room.bind(row.config(&self.room)?).await?;
        if tenant.limits.rate_out.is_none() {
            self.free_class(vlan).await?;
        }
        Ok(())
    }

    async fn wanted_stack(&mut self, tenant: &Tenant, otherwise: u32) -> Result<stack::StackPlan, StepError> {
        let mtu = self.wanted_mtu(tenant, otherwise).await?;
        Ok(stack_plan(tenant, tenant.vlan.map(|v| self.macs(v).1), mtu))
    }

    async fn configure(&mut self, tenant: &Tenant) -> Result<(), StepError> {
        let netlink = match self.seats.get(&tenant.name) {
            Some(seat) => seat.netlink.clone(),
            None => return Err(StepError::NoInit(tenant.name.clone())),
        };
        let found = stack::read(&netlink, &tenant.device).await?;
        let found = found.ok_or_else(|| StepError::NoDevice(tenant.device.clone()))?;
        let wanted = self.wanted_stack(tenant, found.link.mtu).await?;
        // The names first: when we are killed in between, the addresses still differ and this is done again.
        let files = self.files(&tenant.name);
        launch::write_hosts(&files, &tenant.name, &tenant.addresses).map_err(|source| StepError::File {
            verb: "write etc/hosts in",
            path: files.display().to_string(),
            source,
        })?;
        if tenant.vlan.is_some() {
            self.cut_tunnelled(tenant)?;
        }
        stack::apply(&netlink, &found, &wanted).await?;
        Ok(())
    }

    fn cut_tunnelled(&self, tenant: &Tenant) -> Result<(), StepError> {
        let seat = self.seats.get(&tenant.name).ok_or_else(|| StepError::NoInit(tenant.name.clone()))?;
        let cut = seat.netns.run(|| offload::cut_tunnelled(&tenant.device))?;
        cut.map_err(|source| StepError::Offload { device: tenant.device.clone(), source })
    }

    async fn probe(&mut self, tenant: &Tenant) -> Result<(), StepError> {
        let (Some(vlan), Some(address)) = (tenant.vlan, tenant.addresses.first()) else { return Ok(()) };
        let (server_mac, gateway_mac) = self.macs(vlan);
        let mut question = Question { ifindex: 0, vlan: Some(vlan), target: address.addr(), server_mac, gateway_mac };
        let prober = match self.room.trunk.near_ifindex {
            Some(near) => Prober::open(Question { ifindex: near, ..question })?,
            None => {
                // The trunk is a card: what is sent on it leaves the machine, so the port's own end asks.
                let name = port_name(vlan);
                let port = link::find(&self.room.netlink, &name).await?.ok_or(StepError::NoDevice(name))?;
                question = Question { ifindex: port.index, vlan: None, ..question };
                let runtime = tokio::runtime::Handle::current();
                self.room.ns.run(|| {
                    let _inside = runtime.enter();
                    Prober::open(question)
                })??
            }
        };
        Ok(prober.ask(PROBE_DEADLINE).await?)
    }

    async fn give_device(&mut self, tenant: &Tenant) -> Result<(), StepError> {
        let seat = self.seats.get(&tenant.name).ok_or_else(|| StepError::NoInit(tenant.name.clone()))?;
        if let Some(card) = link::find(&self.here, &tenant.device).await? {
            link::give_away(&self.here, card.index, seat.netns.as_fd()).await?;
            return Ok(());
        }
        match link::find(&seat.netlink, &tenant.device).await? {
            Some(_) => Ok(()),
            None => Err(StepError::NoDevice(tenant.device.clone())),
        }
    }

    async fn return_device(&mut self, tenant: &Tenant) -> Result<(), StepError> {
        let Some(seat) = self.seats.get(&tenant.name) else { return Ok(()) };
        if let Some(card) = link::find(&seat.netlink, &tenant.device).await? {
            let ours = NetNs::current()?;
            link::give_away(&seat.netlink, card.index, ours.as_fd()).await?;
        }
        Ok(())
    }

    /// MTU of the tenant's device in bytes, as it is.
    pub async fn mtu(&self, tenant: &Tenant) -> Option<u32> {
        let seat = self.seats.get(&tenant.name)?;
        Some(link::find(&seat.netlink, &tenant.device).await.ok()??.mtu)
    }

    /// What the tenant uses of the machine, as its cgroups count.
    #[must_use]
    pub fn usage(&self, name: &TenantName) -> crate::cgroups::Usage {
        self.cgroups.usage(name)
    }

    /// Traffic and drops of a tenant: its port's, its filter's and the access server's.
    pub async fn counters(&mut self, tenant: &Tenant) -> Result<Counters, StepError> {
        let mut counters = Counters { drops: self.filter_drops(tenant), ..Counters::default() };
        let Some(vlan) = tenant.vlan else { return Ok(counters) };
        let port = self.room.counters(vlan).await?.unwrap_or_default();
        (counters.rx_packets, counters.rx_bytes) = (port.rx_packets, port.rx_bytes);
        (counters.tx_packets, counters.tx_bytes) = (port.tx_packets, port.tx_bytes);
        counters.drops.extend(port.drops.iter().map(|(reason, n)| (format!("port_{}", reason.name()), *n)));
        // The port's counters are worth showing also while the access server is away.
        let access = self.access.counters().await.ok().and_then(|mut all| all.remove(&vlan.get()));
        if let Some(access) = access {
            counters.drops.extend(access.drops.into_iter().map(|(reason, n)| (format!("access_{reason}"), n)));
        }
        Ok(counters)
    }
}

/// Size of a tenant's /tmp, /run and /dev/shm each, bytes; a limit of memory counts what is in them.
const SCRATCH: u64 = 256 << 20;
/// Size of an ephemeral tenant's layer, bytes.
const EPHEMERAL: u64 = 1 << 30;

/// Prepares the layer of a tenant that does not run, and starts its init.
fn start(
    mut spec: LaunchSpec,
    cgroups: Option<Entry>,
    ephemeral: bool,
    disk: Option<u64>,
) -> Result<Launched, StepError> {
    let mut surroundings = Surroundings { cgroups, layer: None };
    if ephemeral {
        spec.layer = house::Layer::Memory { size: disk.unwrap_or(EPHEMERAL) };
    } else {
        launch::make_state_dir(&spec)?;
        let prepared = Layer::new(&spec.state_dir, spec.gids).prepare(disk)?;
        if let Some(mounted) = prepared.mount {
            spec.layer = house::Layer::Mounted;
            surroundings.layer = Some(mounted.mount);
        }
    }
    Ok(launch::launch_into(&spec, &surroundings)?)
}

fn share(mount: &ShareMount) -> Share {
    Share { source: PathBuf::from(&mount.directory), target: PathBuf::from(&mount.target), read_only: mount.read_only }
}

/// Where cgroups of version 2 are mounted.
fn cgroup2() -> Option<PathBuf> {
    Layout::read().ok()?.unified().map(|unified| unified.mount_point.clone())
}

fn joined(error: tokio::task::JoinError) -> StepError {
    StepError::Watch(io::Error::other(error))
}
