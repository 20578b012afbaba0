//! A daemon's hold on the [`Machine`], and its fault-injecting sibling in one: every call may fail before or after it took
//! effect, or kill the daemon there. A killed daemon is a task that unwinds: everything it remembered is gone.
//!
//! One long file, because it stands in for every trait that the owner is generic over, call for call.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stackmap::{Invalid, MacAddr, MacRole, Segment, TenantName, TrunkIndex};
use tenant_init::protocol::{RunState, ServiceState};
use tenant_init::service::ServiceSpec;
use tokio::sync::{oneshot, watch};

use super::machine::{AccessRow, House, Init, Machine, Row, mtu};
use crate::access::{AccessError, AccessStatus};
use crate::audit::{AuditRow, Entry, Outcome, Query};
use crate::cgroups::Usage;
use crate::images::ImageStore;
use crate::kernel::{Access, Rules, ServiceJob, Services, Steps, Views, Whose};
use crate::limits::Limits;
use crate::metrics::{Readers, Seated};
use crate::model::{Counters, Filter, ServiceRequest, ShareMount, ShareRequest, Tenant, TenantRequest};
use crate::net::link::NetlinkError;
use crate::net::watch::Changed;
use crate::plan::{Action, Actual, MountedShare, Part, plan, service_of, stack_plan};
use crate::refusals::TenantRefusals;
use crate::store::memory::MemoryStore;
use crate::store::{
    Change, Copying, Desired, Expect, Health, Home, Revision, Snapshot, Store, StoreError, Trouble, Write,
};
use crate::trace::Parts;
use crate::verify::Gathered;
use crate::world::verify::Listed;
use crate::world::{StepError, Verb};

/// What happens at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    FailBefore,
    FailAfter,
    KillBefore,
    KillAfter,
}

/// The next fault, counted in calls.
#[derive(Debug, Default)]
pub(super) struct Faults {
    next: Option<(u32, Fault)>,
    pub(super) struck: u64,
}

impl Faults {
    pub(super) fn arm(&mut self, calls: u32, fault: Fault) {
        self.next = Some((calls, fault));
    }
    pub(super) fn disarm(&mut self) {
        self.next = None;
    }
    fn strike(&mut self, killing: bool) -> Option<Fault> {
        let (calls, fault) = self.next?;
        if calls > 0 {
            self.next = Some((calls - 1, fault));
            return None;
        }
        self.next = None;
        self.struck += 1;
        match fault {
            Fault::KillBefore if !killing => Some(Fault::FailBefore),
            Fault::KillAfter if !killing => Some(Fault::FailAfter),
            other => Some(other),
        }
    }
}

/// Everything that outlives a daemon.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    machine: Arc<Mutex<Machine>>,
    faults: Arc<Mutex<Faults>>,
    store: MemoryStore,
}

/// How the daemon ends when it is killed.
pub(super) struct Killed;

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn machine(&self) -> MutexGuard<'_, Machine> {
        locked(&self.machine)
    }
    pub(super) fn faults(&self) -> MutexGuard<'_, Faults> {
        locked(&self.faults)
    }
    /// An empty machine.
    pub(super) fn new() -> Self {
        Self { machine: Arc::default(), faults: Arc::default(), store: MemoryStore::new() }
    }
    /// The store as a daemon that starts opens it.
    pub(super) fn open_store(&self) -> FaultyStore {
        FaultyStore { shared: self.clone(), store: self.store.reopen() }
    }
    pub(super) fn stored(&self) -> BTreeMap<TenantName, Desired> {
        let rows = self.store.clone().load().map(|snapshot| snapshot.rows).unwrap_or_default();
        rows.into_iter().map(|row| (row.tenant.name.clone(), row)).collect()
    }

    /// One call: nothing is locked when the daemon is killed.
    fn call<T, E>(
        &self,
        killing: bool,
        fail: impl Fn() -> E,
        work: impl FnOnce(&mut Machine) -> Result<T, E>,
    ) -> Result<T, E> {
        let fault = self.faults().strike(killing);
        match fault {
            Some(Fault::FailBefore) => return Err(fail()),
            Some(Fault::KillBefore) => resume_unwind(Box::new(Killed)),
            _ => {}
        }
        let done = work(&mut self.machine());
        match fault {
            Some(Fault::FailAfter) => Err(fail()),
            Some(Fault::KillAfter) => resume_unwind(Box::new(Killed)),
            _ => done,
        }
    }
}

fn injected() -> StepError {
    StepError::Watch(io::Error::other("injected"))
}

fn away() -> AccessError {
    AccessError::Unreachable { path: "nowhere".into(), source: io::ErrorKind::NotFound.into() }
}

fn refused(detail: &str) -> AccessError {
    AccessError::Refused { status: 409, detail: detail.into(), field: None, value: None, rule: None }
}

/// The store as one daemon has it open. A write that fails, or kills, may have been made.
pub(super) struct FaultyStore {
    shared: Shared,
    store: MemoryStore,
}

impl FaultyStore {
    fn write<T>(
        &mut self,
        what: &TenantName,
        work: impl FnOnce(&mut MemoryStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let store = &mut self.store;
        self.shared.call(true, || full(what), |_| work(store))
    }
}

impl Store for FaultyStore {
    fn load(&mut self) -> Result<Snapshot, StoreError> {
        self.store.load()
    }
    fn put(&mut self, desired: &Desired, expect: Expect, entry: &Entry) -> Result<Revision, StoreError> {
        self.write(&desired.tenant.name, |store| store.put(desired, expect, entry))
    }
    fn remove(&mut self, name: &TenantName, expect: Expect, entry: &Entry) -> Result<Revision, StoreError> {
        self.write(name, |store| store.remove(name, expect, entry))
    }
    fn put_all(&mut self, writes: &[Write]) -> Result<Revision, StoreError> {
        let Some(first) = writes.first() else { return self.store.put_all(writes) };
        self.write(&first.desired.tenant.name, |store| store.put_all(writes))
    }
    fn backup(&mut self) -> Result<Copying, StoreError> {
        self.store.backup()
    }
    fn keep_copy(&mut self, why: &'static str) -> Result<String, StoreError> {
        self.store.keep_copy(why)
    }
    fn home(&self) -> Option<Home> {
        self.store.home()
    }
    fn since(&mut self, revision: Revision) -> Result<Vec<Change>, StoreError> {
        self.store.since(revision)
    }
    fn watch(&self) -> watch::Receiver<Revision> {
        self.store.watch()
    }
    fn finish(&mut self, revision: Revision, outcome: Outcome) {
        self.store.finish(revision, outcome);
    }
    fn note(&mut self, entry: Entry, outcome: Outcome) {
        self.store.note(entry, outcome);
    }
    fn flush(&mut self) -> Result<(), StoreError> {
        self.store.flush()
    }
    fn audit(&mut self, query: &Query) -> Result<Vec<AuditRow>, StoreError> {
        self.store.audit(query)
    }
    fn health(&self) -> Health {
        self.store.health()
    }
}

fn full(name: &TenantName) -> StoreError {
    let source = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None);
    StoreError::Statement { verb: "write", what: format!("tenant {name}"), trouble: Trouble::DiskFull, source }
}

/// One daemon's hold.
pub(super) struct FakeKernel {
    shared: Shared,
    doors: BTreeSet<TenantName>,
}

impl FakeKernel {
    pub(super) fn new(shared: Shared) -> Self {
        Self { shared, doors: BTreeSet::new() }
    }
}

/// Trunks of the machine.
pub(super) const TRUNKS: [TrunkIndex; 2] = [TrunkIndex(0), TrunkIndex(1)];

pub(super) fn ends(at: Segment) -> (MacAddr, MacAddr) {
    let of = |role| MacAddr::derive("model", at.trunk, at.vlan, role);
    (of(MacRole::Server), of(MacRole::Gateway))
}

fn part(there: bool, right: bool) -> Part {
    match (there, right) {
        (false, _) => Part::Missing,
        (true, true) => Part::Right,
        (true, false) => Part::Wrong(vec!["it differs".into()]),
    }
}

fn removes(action: &Action) -> bool {
    use Action::*;
    matches!(
        action,
        StopService(_)
            | WithdrawAccess
            | Unbind
            | DeletePort
            | ReturnDevice
            | EndInit
            | Unguard
            | RemoveCgroups
            | RemoveFiles
            | UnmountShare(_)
    )
}

impl FakeKernel {
    fn read(&self, m: &mut Machine, desired: &Desired) -> Result<Actual, StepError> {
        let tenant = &desired.tenant;
        let nothing = House::default();
        let house = m.houses.get(&tenant.name).unwrap_or(&nothing);
        let mut actual = Actual { door: self.doors.contains(&tenant.name), files: house.files, ..Actual::default() };
        actual.limits = part(house.cgroups.is_some(), house.cgroups.as_ref() == Some(&tenant.limits));
        actual.names = house.names.as_ref() == Some(&tenant.dns);
        let row = m.guard.get(&tenant.gid.get());
        actual.guard = part(row.is_some(), row == house.init.as_ref().map(|init| &init.cookie));
        if let Some(at) = tenant.segment() {
            let pair = m.room.get(&at);
            actual.port = pair.is_some();
            let bound = m.rows.get(&at);
            actual.bound = part(bound.is_some(), bound == pair.map(|pair| Row::of(tenant, *pair)).as_ref());
            actual.access_away = m.away.contains(&at.trunk) && (desired.removing || !tenant.tunnels.is_empty());
            let row = m.access.get(&at);
            if actual.access_away {
                actual.access = if desired.removing { Part::Right } else { Part::Missing };
            } else {
                actual.access = part(row.is_some(), row.is_some_and(|row| row.generation == tenant.generation));
                actual.access_newer = row.map(|row| row.generation).filter(|there| *there > tenant.generation);
            }
        }
        if let Some(init) = &house.init {
            actual.init = true;
            actual.device = init.device.is_some();
            let wanted = stack_plan(tenant, tenant.segment().map(|at| ends(at).1), mtu(tenant));
            actual.stack = part(init.stack.is_some(), init.stack.as_ref() == Some(&wanted));
            actual.filter = part(init.filter != Filter::default(), init.filter == tenant.filter);
            if init.filter == tenant.filter {
                actual.filter = Part::Right;
            }
            let mounted = |(id, share): (usize, &ShareMount)| MountedShare {
                id: id as u64,
                at: share.target.clone(),
                target: share.target.clone(),
                read_only: share.read_only,
            };
            actual.shares = init.shares.iter().enumerate().map(mounted).collect();
            actual.silent = init.silent;
            if !init.silent {
                let same = |(name, service): (&TenantName, &ServiceRequest)| {
                    (name.clone(), service_of(tenant, name) == Some(service))
                };
                actual.services = init.services.iter().map(same).collect();
            }
        }
        let steps = plan(desired, &actual);
        if let Some(first) = steps.iter().position(|step| !removes(&step.action))
            && let Some(late) = steps[first..].iter().find(|step| removes(&step.action) && !actual.access_away)
        {
            let (late, before) = (late.action.to_string(), steps[first].action.to_string());
            m.violation(format!("{}: plans {late} after {before}", tenant.name));
        }
        Ok(actual)
    }

    fn take(m: &mut Machine, tenant: &Tenant, action: &Action) -> Result<(), StepError> {
        let name = &tenant.name;
        let no_init = || StepError::NoInit(name.clone());
        let alive = m.init(name).is_some();
        match action {
            Action::StopService(service) => drop(m.init(name).ok_or_else(no_init)?.services.remove(service)),
            Action::StartService(service) => {
                if let Some(wanted) = service_of(tenant, service) {
                    m.init(name).ok_or_else(no_init)?.services.insert(service.clone(), wanted.clone());
                }
            }
            Action::WithdrawAccess if m.away.contains(&tenant.trunk_number) => return Err(away().into()),
            Action::WithdrawAccess => tenant.segment().map_or((), |at| drop(m.access.remove(&at))),
            Action::StateAccess => {
                let Some(at) = tenant.segment() else { return Ok(()) };
                if m.away.contains(&at.trunk) {
                    return Err(away().into());
                }
                if m.refuses == Some(at) {
                    return Err(refused("no").into());
                }
                if m.access.get(&at).is_some_and(|row| row.generation > tenant.generation) {
                    return Err(refused("generation: older than what was stated").into());
                }
                m.access.insert(at, AccessRow { generation: tenant.generation, tunnels: tenant.tunnels.clone() });
            }
            Action::Unbind => tenant.segment().map_or((), |at| drop(m.rows.remove(&at))),
            Action::DeletePort => tenant.segment().map_or((), |at| m.port_goes(at)),
            Action::ReturnDevice | Action::GiveDevice | Action::OpenDoor | Action::Forget => {}
            Action::EndInit => drop(m.init_dies(name)),
            Action::Unguard => drop(m.guard.remove(&tenant.gid.get())),
            Action::RemoveCgroups | Action::RemoveFiles if alive => {
                m.violation(format!("{name}: {action} while its init lives"));
            }
            Action::RemoveCgroups => {
                if let Some(house) = m.houses.get_mut(name) {
                    house.cgroups = None;
                }
                m.tidy(name);
            }
            Action::RemoveFiles => {
                if let Some(house) = m.houses.get_mut(name) {
                    (house.files, house.names) = (false, None);
                }
                m.tidy(name);
            }
            Action::Limit => m.houses.entry(name.clone()).or_default().cgroups = Some(tenant.limits),
            Action::Launch => Self::launch(m, tenant)?,
            Action::Guard => {
                let cookie = m.init(name).ok_or_else(no_init)?.cookie;
                m.guard.insert(tenant.gid.get(), cookie);
            }
            Action::Filter => m.init(name).ok_or_else(no_init)?.filter.clone_from(&tenant.filter),
            Action::AddPort => {
                let Some(at) = tenant.segment() else { return Ok(()) };
                let pair = m.number();
                if m.init(name).ok_or_else(no_init)?.device.is_some() || m.room.contains_key(&at) {
                    m.violation(format!("{name}: a second port"));
                    return Err(StepError::Watch(io::ErrorKind::AlreadyExists.into()));
                }
                m.room.insert(at, pair);
                m.init(name).ok_or_else(no_init)?.device = Some(pair);
            }
            Action::Bind => {
                let Some(at) = tenant.segment() else { return Ok(()) };
                let pair = *m.room.get(&at).ok_or_else(|| StepError::NoDevice(format!("port of {at}")))?;
                m.rows.insert(at, Row::of(tenant, pair));
            }
            Action::Configure => {
                let plan = stack_plan(tenant, tenant.segment().map(|at| ends(at).1), mtu(tenant));
                let init = m.init(name).ok_or_else(no_init)?;
                if init.device.is_none() {
                    return Err(StepError::NoDevice(tenant.device.clone()));
                }
                init.stack = Some(plan);
            }
            Action::Probe => {
                let Some(at) = tenant.segment() else { return Ok(()) };
                let pair = m.room.get(&at).copied();
                let bound = m.rows.get(&at).map(|row| row.pair);
                let init = m.init(name).ok_or_else(no_init)?;
                if pair.is_none() || pair != bound || init.device != pair || init.stack.is_none() {
                    m.violation(format!("{name}: a probe that nobody can answer"));
                }
            }
            Action::WriteNames => m.houses.entry(name.clone()).or_default().names = Some(tenant.dns.clone()),
            Action::UnmountShare(share) => {
                m.init(name).ok_or_else(no_init)?.shares.retain(|there| there.target != share.at);
            }
            Action::MountShare(share) => {
                let init = m.init(name).ok_or_else(no_init)?;
                if init.shares.iter().any(|there| there.target == share.target) {
                    m.violation(format!("{name}: {} mounted twice", share.target));
                } else {
                    init.shares.push(share.clone());
                }
            }
        }
        Ok(())
    }

    fn launch(m: &mut Machine, tenant: &Tenant) -> Result<(), StepError> {
        let name = &tenant.name;
        if m.init(name).is_some() {
            m.violation(format!("{name}: a second init"));
            return Err(injected());
        }
        if m.guard.contains_key(&tenant.gid.get()) {
            m.violation(format!("{name}: a new init while the guard has the row of an old one"));
        }
        let (pid, cookie) = (m.number() as i32, m.number());
        let house = m.houses.entry(name.clone()).or_default();
        if house.cgroups.is_none() {
            house.init = None;
            m.violation(format!("{name}: an init without cgroups"));
            return Err(injected());
        }
        (house.files, house.names) = (true, Some(tenant.dns.clone()));
        house.init = Some(Init {
            pid,
            cookie,
            device: None,
            stack: None,
            filter: Filter::default(),
            services: Default::default(),
            shares: tenant.shares.clone(),
            silent: false,
        });
        Ok(())
    }
}

impl Machine {
    /// A house of which nothing is left is none.
    fn tidy(&mut self, name: &TenantName) {
        let empty = |house: &House| house.cgroups.is_none() && !house.files && house.init.is_none();
        if self.houses.get(name).is_some_and(empty) {
            self.houses.remove(name);
        }
    }
}

impl Steps for FakeKernel {
    async fn ports(&self) -> Result<BTreeSet<Segment>, StepError> {
        self.shared.call(true, injected, |m| Ok(m.room.keys().chain(m.rows.keys()).copied().collect()))
    }
    async fn sweep(&mut self, at: Segment) -> Result<(), StepError> {
        self.shared.call(true, injected, |m| {
            // Nobody else makes ports here: what a removal leaves to the sweep it has forgotten.
            if m.rows.remove(&at).is_some() || m.room.contains_key(&at) {
                m.violation(format!("the port or the row of {at} was left to the sweep"));
            }
            m.port_goes(at);
            Ok(())
        })
    }
    async fn actual(&mut self, desired: &Desired) -> Result<Actual, StepError> {
        self.shared.call(true, injected, |m| self.read(m, desired))
    }
    async fn apply(&mut self, tenant: &Tenant, action: &Action) -> Result<(), StepError> {
        let deaf = self.shared.machine().deaf_to;
        if deaf == Some(action.name()) {
            return Ok(());
        }
        self.shared.call(true, injected, |m| {
            Self::take(m, tenant, action)?;
            if *action != Action::OpenDoor {
                m.steps.entry(tenant.name.clone()).or_default().push(action.to_string());
            }
            Ok(())
        })?;
        if *action == Action::OpenDoor {
            self.doors.insert(tenant.name.clone());
        }
        Ok(())
    }
    async fn probe_beside(&mut self, tenant: &Tenant) -> Result<(), StepError> {
        self.apply(tenant, &Action::Probe).await
    }
    fn init_answers(&mut self, _: &TenantName, _: i32) {}
    async fn stop(&mut self, tenant: &Tenant) -> Result<oneshot::Receiver<()>, StepError> {
        let (_done, gone) = oneshot::channel();
        self.shared.call(true, injected, |m| {
            m.init_dies(&tenant.name);
            Ok(())
        })?;
        Ok(gone)
    }
    fn whose(&self, changed: &Changed) -> Whose {
        let owner = |name: &String| name.parse().map_or(Whose::Nobody, Whose::Tenant);
        changed.device.as_ref().map_or(Whose::Nobody, owner)
    }
    async fn mend_trunks(&mut self) -> Vec<(TrunkIndex, Result<Vec<String>, StepError>)> {
        TRUNKS.map(|number| (number, self.shared.call(true, injected, |_| Ok(Vec::new())))).into()
    }
    fn close_door(&mut self, name: &TenantName) {
        self.doors.remove(name);
    }
    fn forget_seat(&mut self, _: &TenantName, _: i32) {}
    fn forget_ended(&mut self, _: &TenantName) {}
    async fn processes(&self, name: &TenantName) -> Result<usize, StepError> {
        self.shared.call(true, injected, |m| Ok(m.init(name).map_or(0, |init| init.services.len())))
    }
}

impl Access for FakeKernel {
    async fn access_status(&mut self, trunk: TrunkIndex) -> Result<AccessStatus, AccessError> {
        // Each access server has an address of its own.
        let here = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1 + trunk.get() as u8));
        let status = AccessStatus { local: vec![here] };
        self.shared.call(true, away, |m| if m.away.contains(&trunk) { Err(away()) } else { Ok(status) })
    }
    async fn state_all(&mut self, trunk: TrunkIndex, tenants: &[Tenant]) -> Result<(), AccessError> {
        self.shared.call(true, away, |m| {
            if m.away.contains(&trunk) {
                return Err(away());
            }
            let wanted: Vec<_> = tenants.iter().filter(|t| !t.tunnels.is_empty()).collect();
            if wanted.iter().any(|t| t.segment().is_some_and(|at| at.trunk != trunk)) {
                m.violation(format!("rows of another trunk are stated at that of trunk {trunk}"));
            }
            let older = |t: &&Tenant| {
                t.segment().and_then(|at| m.access.get(&at)).is_some_and(|row| row.generation > t.generation)
            };
            let refused_here = |t: &&Tenant| t.segment().is_some() && t.segment() == m.refuses;
            if wanted.iter().any(refused_here) || wanted.iter().any(older) {
                return Err(refused("one of the rows"));
            }
            m.access.retain(|at, _| at.trunk != trunk);
            for tenant in wanted {
                if let Some(at) = tenant.segment() {
                    m.access.insert(at, AccessRow { generation: tenant.generation, tunnels: tenant.tunnels.clone() });
                }
            }
            Ok(())
        })
    }
    async fn withdraw_others(&mut self, trunk: TrunkIndex, tenants: &[Tenant]) -> Result<(), AccessError> {
        let wanted: BTreeSet<_> =
            tenants.iter().filter(|t| !t.tunnels.is_empty()).filter_map(Tenant::segment).collect();
        self.shared.call(true, away, |m| {
            if m.away.contains(&trunk) {
                return Err(away());
            }
            m.access.retain(|at, _| at.trunk != trunk || wanted.contains(at));
            Ok(())
        })
    }
}

impl Rules for FakeKernel {
    fn macs(&self, at: Segment) -> (MacAddr, MacAddr) {
        ends(at)
    }
    async fn card_is_here(&self, _: &str) -> Result<bool, NetlinkError> {
        Ok(false)
    }
    async fn check_house(&self, _: &TenantRequest) -> Result<(), Invalid> {
        Ok(())
    }
    fn check_limits(&self, _: &Limits) -> Result<(), Invalid> {
        Ok(())
    }
    async fn check_filter(&self, _: &TenantName, _: &Filter) -> Result<(), Invalid> {
        Ok(())
    }
    async fn check_share(&self, request: &ShareRequest) -> Result<PathBuf, Invalid> {
        Ok(PathBuf::from(&request.directory))
    }
}

/// Runs beside the owner, so that killing happens elsewhere.
pub(super) struct FakeJob {
    shared: Shared,
    tenant: TenantName,
    service: ServiceRequest,
    verb: Verb,
}

impl ServiceJob for FakeJob {
    fn verb(&self) -> Verb {
        self.verb
    }
    async fn run(self) -> Result<(), StepError> {
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        self.shared.call(false, injected, |m| {
            let no_init = || StepError::NoInit(self.tenant.clone());
            match self.verb {
                Verb::Start | Verb::Restart => {
                    let init = m.init(&self.tenant).ok_or_else(no_init)?;
                    init.services.insert(self.service.name.clone(), self.service.clone());
                }
                Verb::Remove => {
                    if let Some(init) = m.init(&self.tenant) {
                        init.services.remove(&self.service.name);
                    }
                }
                Verb::Stop | Verb::Reload => {}
            }
            Ok(())
        })
    }
}

impl Services for FakeKernel {
    type Job = FakeJob;
    fn job(&self, tenant: &Tenant, service: &ServiceRequest, verb: Verb) -> Result<FakeJob, StepError> {
        Ok(FakeJob { shared: self.shared.clone(), tenant: tenant.name.clone(), service: service.clone(), verb })
    }
    async fn stop_service(&self, tenant: &TenantName, service: &TenantName) -> Result<(), StepError> {
        self.shared.call(true, injected, |m| {
            if let Some(init) = m.init(tenant) {
                init.services.remove(service);
            }
            Ok(())
        })
    }
    async fn services(&self, name: &TenantName) -> Result<Vec<ServiceState>, StepError> {
        self.shared.call(true, injected, |m| {
            let state = |name: &TenantName| ServiceState {
                spec: ServiceSpec { name: name.to_string(), ..ServiceSpec::default() },
                state: RunState::Running,
                pid: None,
                restarts: 0,
                last_exit: None,
            };
            Ok(m.init(name).map(|init| init.services.keys().map(state).collect()).unwrap_or_default())
        })
    }
    fn templates(&self) -> PathBuf {
        PathBuf::new()
    }
    fn images(&self) -> Arc<ImageStore> {
        unreachable!("no history asks for images")
    }
}

impl Views for FakeKernel {
    fn seat(&self, name: &TenantName) -> Option<(i32, u64)> {
        self.shared.machine().init(name).map(|init| (init.pid, init.cookie))
    }
    async fn counters(&mut self, _: &Tenant) -> Result<Counters, StepError> {
        Ok(Counters::default())
    }
    async fn mtu(&self, tenant: &Tenant) -> Option<u32> {
        Some(mtu(tenant))
    }
    fn usage(&self, _: &TenantName) -> Usage {
        Usage::default()
    }
    fn refusals(&self, _: &Tenant) -> Option<TenantRefusals> {
        None
    }
    fn files(&self, name: &TenantName) -> PathBuf {
        PathBuf::from(name.as_str())
    }
    fn ids_of_cookie(&self, _: u64) -> Option<u32> {
        None
    }
    fn seated(&self, _: &TenantName) -> Option<Seated> {
        None
    }
    fn readers(&self) -> Option<Readers> {
        None
    }
    fn trace_parts(&self, _: &Desired, _: Option<String>) -> Option<Parts> {
        None
    }
    fn gather(&self, _: &[Listed<'_>]) -> Result<Gathered, StepError> {
        Err(injected())
    }
}
