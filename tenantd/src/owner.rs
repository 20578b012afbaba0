//! The one task that owns all tenant state. Everything else sends it an `Input`; nothing is shared and nothing is
//! locked.
//!
//! Tasks of the daemon: this owner; the API's listener and one task a connection (they only hold a
//! [`Handle`]); one task a tenant that waits for its init to end; one that listens to the kernel, for all; the thread of
//! the patch room.
//!
//! A pass for one tenant reads what is so, plans, and takes the steps one by one. A step that fails leaves the tenant
//! half done with step and cause, and the others alone; it is tried again on the timer.

mod bad_rows;
mod declare;
mod errors;
mod heed;
mod measure;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod model_tests;
mod orphans;
mod pace;
mod repairs;
mod restore;
pub(crate) mod services;
pub(crate) mod shares;
mod stored;
mod tenants;
mod told;
mod trunks;
mod tunnels;
mod turns;
mod verify;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stackmap::{
    FlowRequest, Invalid, LinkRequest, Maps, Meta, NicName, Origin, Owner as RowOwner, Site, TenantName, TrunkIndex,
    TunnelId, TunnelSpec,
};
use tenant_init::client::ClientError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::control::{Asked, Command, Handle, Inbox, OpError, Reply};
use crate::fault::{self, Moment};
use crate::kernel::{Kernel, KernelEvent};
use crate::model::*;
use crate::plan::{Action, Planned, plan, service_of};
use crate::pulse::{Load, Pulse};
use crate::store::{Desired, Revision, Store, StoreError};
use crate::trunks::TrunkSpec;
use crate::world::{PASS_DEADLINE, StepError};

pub use declare::PutHow;
pub use errors::chain;
use errors::store_step;
use heed::Heed;
pub use restore::RestoreHow;
pub(crate) use stored::now_ms;
use stored::{Doing, Ended};
use told::{Commons, at};
use trunks::Trunks;
use turns::Turns;
pub(crate) use verify::Proof;

/// How often a half-done tenant is tried again, and the access server asked whether it is there.
const RETRY: Duration = Duration::from_secs(2);
/// How many times in a row a step may fail before its tenant is tried again at every fifth of these times only.
const OFTEN: u32 = 10;
/// So many tenants that wait are asked about one by one where they could be asked about together.
const FEW: usize = 8;
/// How often every tenant is compared with the kernel; with very many of them less often ([`pace`]).
const FULL_PASS: Duration = Duration::from_secs(30);

/// After so many turns in a row one of a full pass comes before the next.
const TURNS: u32 = 8;

/// Everything that can happen to the owner.
enum Input {
    Command(Asked),
    FromTenant(Asked),
    Kernel(KernelEvent),
    /// Somebody about whom the kernel told something is to be looked at.
    Look,
    Turn(TenantName),
    /// The next one of a full pass.
    Round,
    /// Somebody has written to the store.
    Stored,
    Tick,
    Closed,
}

/// Why a tenant is not as desired.
#[derive(Debug, Clone)]
struct Failure {
    step: &'static str,
    cause: String,
    /// How often in a row.
    times: u32,
    /// Not tried again before.
    again: Instant,
    /// When the first try in this row failed: Unix time in milliseconds, only shown.
    since_ms: u64,
}

/// The owner's state.
pub struct Owner<K> {
    instance: String,
    trunks: Trunks,
    store: Box<dyn Store>,
    /// Rises with every write to the store.
    written: tokio::sync::watch::Receiver<Revision>,
    /// The store's revision that `desired` is of.
    revision: Revision,
    kernel: K,
    maps: Maps,
    desired: BTreeMap<TenantName, Desired>,
    failures: BTreeMap<TenantName, Failure>,
    /// Tenants that wait for a pass.
    turns: Turns,
    /// Those of a full pass, which has no haste.
    pace: pace::Pace,
    /// Those of whom the kernel told something.
    heed: Heed,
    /// What many share: the trunks, and the kernel's events themselves.
    commons: Commons,
    /// Services that a task is busy with.
    starting: BTreeMap<TenantName, BTreeSet<TenantName>>,
    handle: Handle,
    inbox: Inbox,
    /// What is being done now, and on whose behalf.
    doing: Doing,
    events: mpsc::Receiver<KernelEvent>,
    last_full: Instant,
    /// When the timer comes next.
    next_tick: Instant,
    next_event: u64,
    drift: verify::Drift,
    orphans: orphans::Orphans,
    bad_rows: bad_rows::BadRows,
    refusals: crate::refusals::Bound,
    restarts: BTreeMap<TenantName, measure::Restarts>,
}

/// What an owner is made of.
pub struct Parts<K> {
    /// Instance name.
    pub instance: String,
    /// The trunks, by number.
    pub trunks: Vec<TrunkSpec>,
    /// Desired state.
    pub store: Box<dyn Store>,
    /// Kernel, access server, files.
    pub kernel: K,
    /// What the machine tells by itself.
    pub events: mpsc::Receiver<KernelEvent>,
    /// The way to the owner.
    pub handle: Handle,
    /// Where its commands arrive.
    pub inbox: Inbox,
}

/// Why the owner could not take up its work.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error("the store")]
    Store(#[from] StoreError),
}

impl<K: Kernel> Owner<K> {
    /// Load what is desired, remove what nobody desires, and queue a pass for every tenant.
    pub async fn start(parts: Parts<K>) -> Result<Self, StartError> {
        let mut owner = Self {
            instance: parts.instance,
            trunks: Trunks::new(parts.trunks),
            written: parts.store.watch(),
            revision: Revision(0),
            store: parts.store,
            kernel: parts.kernel,
            maps: Maps::new(),
            desired: BTreeMap::new(),
            failures: BTreeMap::new(),
            turns: Turns::default(),
            pace: pace::Pace::default(),
            heed: Heed::default(),
            commons: Commons::default(),
            starting: BTreeMap::new(),
            handle: parts.handle,
            inbox: parts.inbox,
            doing: Doing::by_the_daemon(),
            events: parts.events,
            last_full: Instant::now(),
            next_tick: Instant::now(),
            next_event: 1,
            drift: verify::Drift::new(),
            orphans: orphans::Orphans::default(),
            bad_rows: bad_rows::BadRows::default(),
            refusals: crate::refusals::Bound::default(),
            restarts: BTreeMap::new(),
        };
        let snapshot = owner.store.load()?;
        owner.take_all(snapshot);
        // What is nobody's and cannot be removed must not keep all others waiting: the timer tries again.
        if let Err(error) = owner.look_for_orphans().await {
            tracing::error!(error = chain(&error), "cannot look for what is nobody's, or cannot remove it");
            owner.tell("sweep-failed", None, chain(&error));
        }
        fault::point("start.swept");
        if owner.trunks.are_several() {
            owner.mend_trunks().await;
        }
        owner.reach_all().await;
        fault::point("start.access");
        Ok(owner)
    }

    /// Work until every handle is gone or `stop` is heard of, which is between two inputs: what was begun is finished.
    /// Those who wait in the queue then are told that the daemon ends.
    pub async fn run(mut self, mut pulse: Pulse, mut stop: oneshot::Receiver<()>) {
        let mut ticks = tokio::time::interval(RETRY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut repair = true;
        // Turns since the full pass had one of its own.
        let mut turns = 0;
        loop {
            pulse.beat(self.load());
            let (turn, look) = (self.turns.front(), self.next_look());
            let input = tokio::select! {
                // Operators before repairs: a long full pass must not make a command wait.
                biased;
                _ = &mut stop => Input::Closed,
                command = self.inbox.operators.recv() => command.map_or(Input::Closed, Input::Command),
                // Only noted here, so that no flood of them holds up what follows.
                Some(event) = self.events.recv() => Input::Kernel(event),
                Ok(()) = self.written.changed() => Input::Stored,
                _ = ticks.tick() => Input::Tick,
                () = at(look) => Input::Look,
                // Whoever makes himself be looked at all the time does not keep the full pass from all others.
                () = self.pace.next(), if turns >= TURNS => Input::Round,
                // Tenants and repairs take turns: neither can keep the other waiting.
                Some(name) = std::future::ready(turn.clone()), if repair && turn.is_some() => Input::Turn(name),
                Some(asked) = self.inbox.tenants.recv() => Input::FromTenant(asked),
                Some(name) = std::future::ready(turn) => Input::Turn(name),
                () = self.pace.next() => Input::Round,
                () = pulse.hungry() => continue,
            };
            repair = matches!(input, Input::FromTenant(_));
            match input {
                Input::Turn(_) => turns += 1,
                Input::Round => turns = 0,
                _ => {}
            }
            self.doing = Doing::by_the_daemon();
            match input {
                Input::Command(asked) | Input::FromTenant(asked) => self.asked(asked).await,
                Input::Stored => self.take_up(),
                Input::Kernel(event) => self.kernel_told(event),
                Input::Look => self.look().await,
                Input::Turn(name) => {
                    self.kernel.expect_many(self.turns.len() > FEW);
                    self.turns.done(&name);
                    let _ = self.pass(&name).await;
                    fault::point("start.one");
                    self.kernel.expect_many(false);
                }
                Input::Round => self.round().await,
                Input::Tick => {
                    self.tick().await;
                    // Counted from its end: a tick that takes long, because somebody does not answer, must leave room
                    // for the turns.
                    ticks.reset();
                    self.next_tick = Instant::now() + RETRY;
                }
                Input::Closed => return,
            }
        }
    }

    fn load(&self) -> Load {
        Load { waiting: self.turns.len(), tenants: self.desired.len(), failing: self.failures.len() }
    }

    async fn tick(&mut self) {
        self.tell_left_out();
        self.keep_store();
        self.reach_all().await;
        let full = self.last_full.elapsed() >= FULL_PASS && self.pace.is_done();
        if let Some(mended) = self.kernel.mend_names() {
            tracing::warn!(mended, "mended");
            self.tell("repaired", None, mended);
        }
        if full {
            self.last_full = Instant::now();
            self.pace.begin(self.desired.keys().cloned());
            if let Err(error) = self.look_for_orphans().await {
                tracing::warn!(error = chain(&error), "cannot look for what is nobody's");
            }
        }
        if full || self.trunks.any_lost() {
            self.mend_trunks().await;
        }
        if self.turns.is_empty() {
            let now = Instant::now();
            let failed = |name: &&TenantName| self.failures.get(*name).is_some_and(|f| f.again <= now);
            let due: Vec<_> = self.desired.keys().filter(failed).cloned().collect();
            due.into_iter().for_each(|name| self.turns.last(name));
        }
    }

    /// One tenant of a full pass.
    async fn round(&mut self) {
        let started = Instant::now();
        if let Some(name) = self.pace.take() {
            self.kernel.expect_many(self.pace.len() > FEW);
            let _ = self.pass(&name).await;
            self.kernel.expect_many(false);
        }
        self.pace.took(started.elapsed(), Instant::now());
        // Counted from its end: with very many tenants there is a pause between two passes too.
        self.last_full = Instant::now();
    }

    /// One tenant's pass: read, plan, apply. Returns the steps taken with their times.
    async fn pass(&mut self, name: &TenantName) -> Result<Vec<Step>, (&'static str, StepError)> {
        let Some(desired) = self.desired.get(name).cloned() else { return Ok(Vec::new()) };
        let started = Instant::now();
        let result = self.steps(&desired).await;
        self.count_pass(started, result.as_ref().err().map(|(step, _)| *step));
        match &result {
            Ok(_) => {
                if self.failures.remove(name).is_some() {
                    self.tell("tenant-changed", Some(name), "as desired again".into());
                }
            }
            Err((step, error)) => self.failed(name, step, error),
        }
        result
    }

    fn failed(&mut self, name: &TenantName, step: &'static str, error: &StepError) {
        let cause = chain(error);
        tracing::warn!(tenant = %name, step, cause, "step failed");
        let before = self.failures.remove(name);
        let (times, since_ms) = before.as_ref().map_or_else(|| (1, now_ms()), |f| (f.times + 1, f.since_ms));
        // What fails for long is tried less often: a tenant that fails slowly must not hold up the others.
        let again = Instant::now() + if times > OFTEN { RETRY * 5 } else { Duration::ZERO };
        self.failures.insert(name.clone(), Failure { step, cause: cause.clone(), times, again, since_ms });
        if before.is_none_or(|f| f.cause != cause) {
            self.tell("tenant-half-done", Some(name), format!("{step}: {cause}"));
        }
    }

    async fn steps(&mut self, desired: &Desired) -> Result<Vec<Step>, (&'static str, StepError)> {
        let started = Instant::now();
        self.orphans.check(&desired.tenant.name).map_err(|e| ("orphan", e))?;
        let mut desired = desired.clone();
        if desired.removing {
            self.kernel.close_door(&desired.tenant.name);
        }
        let mut actual = self.kernel.actual(&desired).await.map_err(|e| ("read", e))?;
        if let Some(busy) = self.starting.get(&desired.tenant.name) {
            // On its way and not desired yet: nothing to be taken away.
            actual.services.retain(|name, _| !busy.contains(name) || service_of(&desired.tenant, name).is_some());
        }
        if let Some(newer) = actual.access_newer {
            // The store is older than what we once stated (a backup was put back): what it says now counts from there.
            desired.tenant.generation = newer + 1;
            self.record(desired.clone()).map_err(|e| ("store", store_step(e)))?;
        }
        let mut steps = vec![step("read", started)];
        let restarts = self.restarts.entry(desired.tenant.name.clone()).or_default();
        restarts.services = std::mem::take(&mut actual.service_restarts);
        restarts.adopted |= actual.init && restarts.launches == 0;
        let mut found = Vec::new();
        for Planned { action, found: why } in plan(&desired, &actual) {
            if let Action::StartService(service) = &action
                && self.starting.get(&desired.tenant.name).is_some_and(|busy| busy.contains(service))
            {
                continue;
            }
            let started = Instant::now();
            let name = action.name();
            if action != Action::OpenDoor {
                found.extend(why);
            }
            fault::step(name, Moment::Before).map_err(|e| (name, e.into()))?;
            if action == Action::Probe && self.doing.who.origin == EventOrigin::Daemon {
                self.kernel.probe_beside(&desired.tenant).await.map_err(|e| (name, e))?;
            } else {
                self.kernel.apply(&desired.tenant, &action).await.map_err(|e| (name, e))?;
            }
            self.count_step(&desired.tenant.name, name);
            if action == Action::Forget {
                self.forget(&desired.tenant.name).map_err(|e| (name, store_step(e)))?;
            }
            fault::step(name, Moment::After).map_err(|e| (name, e.into()))?;
            steps.push(step(name, started));
        }
        if let Some(why) = actual.unfinished {
            return Err(("stack", StepError::NotReady(why)));
        }
        self.repaired(&desired, &steps, found);
        if actual.silent {
            return Err(("services", ClientError::Deadline(PASS_DEADLINE).into()));
        }
        Ok(steps)
    }

    async fn asked(&mut self, asked: Asked) {
        let Asked { who, command, .. } = asked;
        self.doing = Doing::new(who, &command);
        let ended = self.command(command).await;
        self.close(ended);
    }

    async fn command(&mut self, command: Command) -> Ended {
        match command {
            Command::AddTenant { request, dry_run, reply } => answer(reply, self.add(*request, dry_run).await),
            Command::RemoveTenant { name, force, reply } => answer(reply, self.remove(&name, force).await),
            Command::Put { name, tenant, how, reply } => answer(reply, self.put(&name, *tenant, how).await),
            Command::Export { reply } => answer(reply, Ok(self.export())),
            Command::List { reply } => {
                answer(reply, Ok(self.desired.values().map(|d| d.tenant.clone().shown()).collect()))
            }
            Command::Show { name, reply } => answer(reply, self.known(&name).map(|d| d.tenant.clone().shown())),
            Command::AddTunnel { name, tunnel, reply } => {
                answer(reply, self.add_tunnel(&name, tunnel).await.map(Tenant::shown))
            }
            Command::RemoveTunnel { name, tunnel, reply } => {
                answer(reply, self.remove_tunnel(&name, &tunnel).await.map(Tenant::shown))
            }
            Command::Change { name, change, reply } => {
                answer(reply, self.change_by(&name, change).await.map(Tenant::shown))
            }
            Command::StopTenant { name, reply } => answer(reply, self.stop_tenant(&name).await),
            Command::Settle { name, reply } => answer(reply, self.settle(&name).await.map(Tenant::shown)),
            Command::Share { request, reply } => answer(reply, self.share(*request).await),
            Command::Unshare { directory, tenants, reply } => answer(reply, self.unshare(&directory, &tenants).await),
            Command::Images { reply } => answer(reply, Ok(self.kernel.images())),
            Command::ListShares { reply } => answer(reply, Ok(self.shares())),
            Command::AddService { name, service, reply } => self.add_service(&name, *service, reply),
            Command::RemoveService { name, service, reply } => self.remove_service(&name, &service, reply),
            Command::ActOnService { name, service, verb, reply } => self.act_on_service(&name, &service, verb, reply),
            Command::ServiceDone(done) => self.service_done(*done).await,
            Command::Templates { reply } => answer(reply, Ok(self.templates())),
            Command::ShowTemplate { name, reply } => answer(reply, self.template(&name)),
            Command::Map { reply } => answer(reply, Ok(self.map())),
            Command::Audit { query, reply } => {
                let rows = self.store.audit(&query);
                answer(reply, rows.map_err(|error| OpError::CannotRead { cause: chain(&error) }))
            }
            Command::Backup { reply } => {
                let copying = self.store.backup();
                answer(reply, copying.map_err(|error| OpError::CannotRead { cause: chain(&error) }))
            }
            Command::Restore { copied, how, reply } => answer(reply, self.restore(*copied, how).await),
            Command::Note { verb, tenant, after, outcome } => {
                self.note(verb, tenant, after, outcome);
                Ended::Nothing
            }
            Command::Status { reply } => answer(reply, Ok(self.status())),
            Command::Plan { name, reply } => answer(reply, self.planned_for(&name).await),
            Command::TenantStatus { name, reply } => answer(reply, self.tenant_status(&name).await),
            Command::LogPath { name, service, reply } => answer(reply, self.log_path(&name, &service)),
            Command::Prove(proof) => {
                self.prove(proof);
                Ended::Nothing
            }
            Command::TraceParts { name, reply } => answer(reply, self.trace_parts(&name)),
            Command::Roster { reply } => answer(reply, Ok(self.roster())),
        }
    }

    fn known(&self, name: &TenantName) -> Result<&Desired, OpError> {
        let Some(desired) = self.desired.get(name) else {
            self.bad_rows.check(name)?;
            return Err(OpError::Unknown { what: "tenant", name: name.to_string() });
        };
        Ok(desired)
    }

    /// A tenant that may be changed: known and not on its way out.
    fn changeable(&self, name: &TenantName) -> Result<&Tenant, OpError> {
        let desired = self.known(name)?;
        if desired.removing { Err(self.half_done(name)) } else { Ok(&desired.tenant) }
    }

    fn half_done(&self, name: &TenantName) -> OpError {
        match self.failures.get(name) {
            Some(f) => OpError::HalfDone { name: name.clone(), step: f.step, cause: f.cause.clone() },
            None => OpError::HalfDone { name: name.clone(), step: "remove", cause: "its removal goes on".into() },
        }
    }

    fn meta(&self, generation: u64) -> Result<Meta, Invalid> {
        Ok(Meta {
            owner: format!("tenantd/{}", self.instance).parse::<RowOwner>()?,
            generation: stackmap::Generation(generation),
            origin: Origin::Operator,
            lifetime: None,
        })
    }

    /// Identity of a tunnel. One that says its local end keeps it, whatever the access server says it has today.
    fn tunnel_id(&self, trunk: TrunkIndex, tunnel: &TunnelSpec) -> Result<TunnelId, Invalid> {
        match tunnel.local() {
            Some(local) => tunnel.resolve(local),
            None => tunnel.resolve_among(self.trunks.locals(trunk)),
        }
    }

    fn sites(&self, trunk: TrunkIndex, tunnels: &[TunnelSpec]) -> Result<Vec<Site>, Invalid> {
        tunnels.iter().map(|t| Site::new(self.tunnel_id(trunk, t)?, t.prefixes().to_vec())).collect()
    }

    /// The tables' request for a tenant that is known already.
    fn flow_of(&self, tenant: &Tenant) -> Result<FlowRequest, Invalid> {
        let mut request = FlowRequest::new(tenant.name.clone(), self.meta(tenant.generation)?);
        request.stack = Some(tenant.stack);
        request.gid = Some(tenant.gid);
        request.link = match tenant.segment() {
            Some(at) => {
                self.trunks.check(tenant)?;
                LinkRequest::Port { trunk: at.trunk, vlan: Some(at.vlan) }
            }
            None => LinkRequest::Nic(tenant.device.parse::<NicName>()?),
        };
        request.sites = self.sites(tenant.trunk_number, &tenant.tunnels)?;
        Ok(request)
    }

    fn tell(&mut self, kind: &str, tenant: Option<&TenantName>, detail: String) {
        let event = self.event(kind, tenant.map(TenantName::as_str), detail);
        self.handle.publish(event);
    }

    fn event(&mut self, kind: &str, tenant: Option<&str>, detail: String) -> Event {
        let id = self.next_event;
        self.next_event += 1;
        let tenant = tenant.map(str::to_owned);
        let origin = self.doing.who.origin;
        Event { id, at_ms: now_ms(), kind: kind.into(), tenant, origin, detail, refusal: None, repair: None }
    }
}

fn answer<T>(reply: Reply<T>, result: Result<T, OpError>) -> Ended {
    let ended = Ended::of(&result);
    // A caller that went away needs no answer; what it asked for is done all the same.
    let _ = reply.send(result);
    ended
}

fn step(name: &str, started: Instant) -> Step {
    Step { name: name.into(), us: started.elapsed().as_micros() as u64 }
}
