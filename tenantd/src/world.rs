//! Where plans meet the kernel: reading what is so for one tenant and taking one step for it. Nothing is remembered
//! here but descriptors of what was found; work for one tenant does not depend on how many there are.

mod asked;
mod begin;
mod differences;
mod errors;
mod files;
mod filter;
mod guard;
mod measure;
mod orphans;
mod places;
mod port;
mod rates;
mod running;
mod seat;
mod services;
mod shares;
pub mod verify;

pub use services::{Job, Verb};

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stack_guard::Guard;
use stackmap::{MacAddr, MacRole, Segment, TenantName};
use tenant_init::client::{Client, ClientError};
use tokio::sync::mpsc;

use crate::access::{AccessClients, AccessError};
use crate::api::Doors;
use crate::cgroups::{Cgroups, Layout};
use crate::config::Config;
use crate::control;
use crate::fault;
use crate::images::ImageStore;
use crate::kernel::KernelEvent;
use crate::launch;
use crate::model::{Counters, Tenant};
use crate::net::link::Link;
use crate::net::ns::{NsError, Visitor};
use crate::net::room::PatchRoom;
use crate::net::rtnl::Netlink;
use crate::plan::{Action, Actual, Part, service_of};
use crate::store::Desired;

pub use errors::{OpenError, StepError};
pub use orphans::Orphan;
use places::Places;
use seat::Seats;

/// How long a stack may take to answer its first probe.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);
/// How long init may take to answer.
const INIT_DEADLINE: Duration = Duration::from_secs(5);
/// How long it may take in a pass, once: a tenant that starves its own init must not hold up the others. One that has not
/// answered is then asked beside the owner.
pub const PASS_DEADLINE: Duration = Duration::from_millis(200);
/// How long a tenant's processes may take to end after SIGKILL.
const END_DEADLINE: Duration = Duration::from_secs(10);
/// How long a service may take to end after SIGTERM.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What a world is made of.
pub struct WorldParts {
    /// The daemon's settings.
    pub config: Config,
    /// The open patch room.
    pub room: PatchRoom,
    /// The access servers.
    pub access: AccessClients,
    /// Who is told of what happens by itself.
    pub events: mpsc::Sender<KernelEvent>,
    /// The way to the owner, for the tenants' own APIs and for what the guard refuses.
    pub handle: control::Handle,
    /// The instance's directory in a bpffs.
    pub bpf_dir: PathBuf,
}

/// The kernel, the access server and the files, as far as tenants go.
pub struct World {
    config: Config,
    here: Netlink,
    room: PatchRoom,
    /// The access servers.
    pub access: AccessClients,
    seats: Seats,
    visitor: Visitor,
    cgroups: Cgroups,
    guard: Guard,
    images: Arc<ImageStore>,
    /// Longest inner packet of each VLAN as the access server said last.
    inner_mtu: HashMap<Segment, u32>,
    events: mpsc::Sender<KernelEvent>,
    places: Places,
    /// Sockets of the tenants' own APIs.
    doors: Doors,
    /// The pass at hand is one of many.
    among_many: bool,
}

impl World {
    /// A world over an open patch room. Inits that end unasked are told to `ended`.
    ///
    /// # Errors
    /// The cgroups or the images cannot be opened.
    pub fn new(parts: WorldParts) -> Result<Self, OpenError> {
        let WorldParts { config, room, access, events, handle, bpf_dir } = parts;
        launch::reserve().map_err(NsError::Netlink)?;
        let (here, visitor) = (Netlink::open().map_err(NsError::Netlink)?, Visitor::start()?);
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
        let (seats, inner_mtu) = (Seats::new(), HashMap::new());
        let doors = Doors::new(config.run_dir.join("tenants"), handle.clone());
        let world = Self {
            config,
            here,
            room,
            access,
            seats,
            visitor,
            cgroups,
            guard,
            images,
            inner_mtu,
            events,
            places: Places::default(),
            doors,
            among_many: false,
        };
        world.sweep_files();
        world.watch_guard(handle);
        world.watch_kernel();
        Ok(world)
    }

    /// Ethernet addresses of a VLAN's two ends: server and gateway.
    pub fn macs(&self, at: Segment) -> (MacAddr, MacAddr) {
        let of = |role| MacAddr::derive(&self.config.instance, at.trunk, at.vlan, role);
        (of(MacRole::Server), of(MacRole::Gateway))
    }

    /// Drop the descriptors of an init that ended.
    pub fn forget_seat(&mut self, name: &TenantName, pid: i32) {
        if let Some(seat) = self.seats.remove(name) {
            if seat.pid == pid {
                // Our child, if this daemon started it: one that died unasked would stay a zombie as long as we live.
                launch::reap(&seat.process);
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
        actual.door = self.doors.is_open(&tenant.name);
        let found_now = !self.seats.contains_key(&tenant.name);
        let inside = self.look_inside(desired).await?;
        actual.init = inside.is_some();
        let (in_stack, house) = match inside {
            Some(found) => {
                actual.filter = filter::part(tenant, found.filter);
                (found.stack?, found.house)
            }
            None => (None, None),
        };
        if !actual.init && !desired.removing {
            self.check_nobody_left(tenant)?;
        }
        if let Some(found) = self.cgroups.limits(&tenant.name)? {
            let wanted = Cgroups::held(&self.cgroups.with_defaults(&tenant.limits));
            actual.limits = Part::of(differences::limits(&found, &wanted));
        } else if self.cgroups.has_some(&tenant.name) {
            // A removal that was killed has left them.
            actual.limits = Part::Wrong(vec!["some of its cgroups are missing".into()]);
        }
        if actual.init && actual.limits.is_right() && self.cgroups.is_deserted(&tenant.name) {
            actual.limits = Part::Wrong(vec!["its processes are not in all of its cgroups".into()]);
        }
        actual.guard = self.guard_is(tenant)?;
        let room = match tenant.segment() {
            Some(at) => Some(self.room.look(at).await?),
            None => None,
        };
        // One of our name that leads nowhere is somebody else's: it is not touched, and the step says so.
        let port = room.as_ref().and_then(|room| room.link.as_ref()).filter(|port| port.across.is_some());
        actual.port = port.is_some();
        let leads_there = |link: &Link| link.across.is_some_and(|across| port.is_some_and(|p| p.index == across.index));
        let in_stack = in_stack.filter(|found| tenant.whole_device || leads_there(&found.link));
        actual.device = in_stack.is_some();
        if let (Some(at), Some(room)) = (tenant.segment(), &room) {
            self.places.found(&tenant.name, at, port);
            let stored = self.stored(tenant, at).await;
            actual.access_away = stored.as_ref().is_err_and(AccessError::is_away);
            if desired.removing {
                // One that does not answer may still hold a row of ours: then removal waits.
                let ours = stored.map_or(true, |row| row.is_some_and(|row| self.access.is_ours(&row)));
                actual.access = if ours { Part::Right } else { Part::Missing };
                actual.bound = if room.row.is_some() { Part::Right } else { Part::Missing };
            } else {
                let stored = if actual.access_away { None } else { stored? };
                if let Some(row) = stored.as_ref().filter(|row| self.access.is_ours(row)) {
                    let (there, wanted) = (row.generation, tenant.generation);
                    let differs = || format!("the access server's row is of generation {there}, not {wanted}");
                    actual.access = Part::of(if there == wanted { Vec::new() } else { vec![differs()] });
                    actual.access_newer = Some(there).filter(|there| *there > wanted);
                }
                let mut inner = self.inner_of(tenant, at, stored.as_ref())?;
                if actual.access_away {
                    // As long as nobody says otherwise the port is right as it is.
                    inner = self.inner_mtu.get(&at).copied().or(port.map(|port| port.mtu));
                }
                if let Some(inner) = inner {
                    self.inner_mtu.insert(at, inner);
                }
                actual.bound = self.bound_is(tenant, at, room, inner)?;
            }
        }
        if let (Some(found), false) = (in_stack, desired.removing) {
            let wanted = self.wanted_stack(tenant, found.link.mtu).await?;
            actual.stack = Part::of(found.differences(&tenant.device, &wanted));
        }
        if actual.init && !desired.removing {
            actual.names = self.names_are(tenant);
            // To read the mounts of all that are found again is a seventh of a start. Who is to have no share waits for the
            // first full pass with it.
            if !(found_now && self.among_many && tenant.shares.is_empty()) {
                actual.shares = self.mounted_shares(tenant)?;
            }
            let (hello, states) = match house {
                Some(Err(ClientError::Deadline(_))) => {
                    actual.silent = true;
                    return Ok(actual);
                }
                Some(asked) => asked?,
                None => return Ok(actual),
            };
            if !hello.ready {
                actual.unfinished = Some(hello.failed.unwrap_or_default());
                return Ok(actual);
            }
            for state in states {
                let Ok(name) = state.spec.name.parse::<TenantName>() else { continue };
                let wanted = service_of(tenant, &name).and_then(|s| self.service_spec(tenant, s).ok());
                actual.service_restarts.push((name.to_string(), state.restarts));
                actual.services.insert(name, wanted.map(|w| w.outline()).as_ref() == Some(&state.spec));
            }
        }
        Ok(actual)
    }

    /// Take one step.
    pub async fn apply(&mut self, tenant: &Tenant, action: &Action) -> Result<(), StepError> {
        match action {
            Action::StopService(service) => self.stop_service(&tenant.name, service).await,
            Action::WithdrawAccess => match tenant.segment() {
                Some(at) => Ok(self.access.of(at.trunk)?.delete(at.vlan).await?),
                None => Ok(()),
            },
            Action::Unbind => match tenant.segment() {
                Some(at) => {
                    self.room.unbind(at).await?;
                    fault::point("unbind.class");
                    self.free_class(at).await
                }
                None => Ok(()),
            },
            Action::DeletePort => match tenant.segment() {
                Some(at) => Ok(self.room.delete_port(at).await?),
                None => Ok(()),
            },
            Action::ReturnDevice => self.return_device(tenant).await,
            Action::EndInit => self.end_init(&tenant.name).await,
            Action::RemoveFiles => self.remove_files(tenant).await,
            Action::WriteNames => self.write_names(tenant),
            Action::UnmountShare(share) => self.unmount_share(tenant, share).await,
            Action::MountShare(share) => self.mount_share(tenant, share).await,
            Action::OpenDoor => Ok(self.doors.open(tenant)?),
            Action::Forget => {
                if let Some(at) = tenant.segment() {
                    self.inner_mtu.remove(&at);
                }
                self.places.forget(&tenant.name);
                Ok(())
            }
            Action::Limit => self.limit(tenant),
            Action::Guard => self.put_guard(tenant),
            Action::Filter => self.set_filter(tenant).await,
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

    /// Traffic and drops of a tenant: its port's, its filter's and the access server's.
    pub async fn counters(&mut self, tenant: &Tenant) -> Result<Counters, StepError> {
        let mut counters = Counters { drops: self.filter_drops(tenant).await, ..Counters::default() };
        let Some(at) = tenant.segment() else { return Ok(counters) };
        let port = self.room.counters(at).await?.unwrap_or_default();
        (counters.rx_packets, counters.rx_bytes) = (port.rx_packets, port.rx_bytes);
        (counters.tx_packets, counters.tx_bytes) = (port.tx_packets, port.tx_bytes);
        counters.drops.extend(port.drops.iter().map(|(reason, n)| (format!("port_{}", reason.name()), *n)));
        // The port's counters are worth showing also while the access server is away.
        if let Ok(access) = self.access.of(at.trunk)?.counters_of(at.vlan).await {
            counters.drops.extend(access.drops.into_iter().map(|(reason, n)| (format!("access_{reason}"), n)));
        }
        Ok(counters)
    }
}

/// Where cgroups of version 2 are mounted.
fn cgroup2() -> Option<PathBuf> {
    Layout::read().ok()?.unified().map(|unified| unified.mount_point.clone())
}

fn joined(error: tokio::task::JoinError) -> StepError {
    StepError::Watch(io::Error::other(error))
}
