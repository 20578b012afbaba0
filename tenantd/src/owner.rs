//! The one task that owns all tenant state. Everything else sends it an [`Input`]; nothing is shared and nothing is
//! locked.
//!
//! Tasks of the daemon: this owner; the API's listener and one task a connection (they only hold a
//! [`Handle`](crate::control::Handle)); one task a tenant that waits for its init to end; the thread of the patch room.
//!
//! A pass for one tenant reads what is so, plans, and takes the steps one by one. A step that fails leaves the tenant
//! half done with step and cause, and the others alone; it is tried again on the timer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use stackmap::{
    FlowRequest, GidRange, Invalid, LinkRequest, Maps, Meta, NicName, Origin, Owner as RowOwner, Site, StackIndex,
    TenantName, TunnelSpec,
};
use tokio::sync::mpsc;

use crate::control::{Command, Handle, OpError, Reply};
use crate::model::*;
use crate::plan::{Action, plan, service_of};
use crate::rules;
use crate::store::{Desired, Store, StoreError};
use crate::world::{InitEnded, StepError, World};

/// How often a half-done tenant is tried again, and the access server asked whether it is there.
const RETRY: Duration = Duration::from_secs(2);
/// How often every tenant is compared with the kernel.
const FULL_PASS: Duration = Duration::from_secs(30);

/// Everything that can happen to the owner.
enum Input {
    Command(Command),
    Ended(InitEnded),
    Turn(TenantName),
    Tick,
    Closed,
}

/// Why a tenant is not as desired.
#[derive(Debug, Clone)]
struct Failure {
    step: &'static str,
    cause: String,
}

/// The owner's state.
pub struct Owner {
    instance: String,
    trunk: String,
    store: Box<dyn Store>,
    world: World,
    maps: Maps,
    desired: BTreeMap<TenantName, Desired>,
    failures: BTreeMap<TenantName, Failure>,
    /// Tenants that wait for a pass.
    turns: VecDeque<TenantName>,
    /// The access server's own addresses; empty while it was never reached.
    locals: Vec<IpAddr>,
    access_state: String,
    handle: Handle,
    inbox: mpsc::Receiver<Command>,
    ended: mpsc::Receiver<InitEnded>,
    last_full: Instant,
    next_event: u64,
}

/// What an owner is made of.
pub struct Parts {
    /// Instance name.
    pub instance: String,
    /// Name of the trunk, for showing.
    pub trunk: String,
    /// Desired state.
    pub store: Box<dyn Store>,
    /// Kernel, access server, files.
    pub world: World,
    /// Inits that ended.
    pub ended: mpsc::Receiver<InitEnded>,
}

/// Why the owner could not take up its work.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error("the store")]
    Store(#[from] StoreError),
    /// Two rows of the store contradict each other.
    #[error("the store contradicts itself at tenant {tenant}: {cause}")]
    Contradiction {
        /// Tenant whose row came second.
        tenant: TenantName,
        /// The conflict.
        cause: String,
    },
    /// The patch room could not be read.
    #[error("cannot look for leftovers")]
    Sweep(#[from] StepError),
}

impl Owner {
    /// Load what is desired, remove what nobody desires, and queue a pass for every tenant.
    pub async fn start(parts: Parts) -> Result<(Self, Handle), StartError> {
        let (handle, inbox) = Handle::new();
        let mut owner = Self {
            instance: parts.instance,
            trunk: parts.trunk,
            store: parts.store,
            world: parts.world,
            maps: Maps::new(),
            desired: BTreeMap::new(),
            failures: BTreeMap::new(),
            turns: VecDeque::new(),
            locals: Vec::new(),
            access_state: "not asked yet".into(),
            handle: handle.clone(),
            inbox,
            ended: parts.ended,
            last_full: Instant::now(),
            next_event: 1,
        };
        for desired in owner.store.load()? {
            let tenant = desired.tenant.clone();
            let request = owner.flow_of(&tenant);
            let placed = request.map_err(|e| e.to_string()).and_then(|r| owner.maps.add(r).map_err(|e| e.to_string()));
            if let Err(cause) = placed {
                return Err(StartError::Contradiction { tenant: tenant.name, cause });
            }
            owner.turns.push_back(tenant.name.clone());
            owner.desired.insert(tenant.name, desired);
        }
        owner.sweep().await?;
        owner.reach_access().await;
        Ok((owner, handle))
    }

    /// Remove ports of VLANs that no tenant has: left by a daemon that was killed after it forgot and before it removed.
    async fn sweep(&mut self) -> Result<(), StartError> {
        let known: BTreeSet<_> = self.desired.values().filter_map(|d| d.tenant.vlan).collect();
        let mut found: BTreeSet<_> = self.world.bound_vlans().await?.into_iter().collect();
        found.extend(self.world.port_vlans().await?);
        for vlan in found.difference(&known) {
            tracing::warn!(%vlan, "removing a leftover port");
            self.world.sweep(*vlan).await?;
        }
        Ok(())
    }

    /// Work until every handle is gone.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(RETRY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let turn = self.turns.front().cloned();
            let input = tokio::select! {
                // Operators before repairs: a long full pass must not make a command wait.
                biased;
                command = self.inbox.recv() => command.map_or(Input::Closed, Input::Command),
                Some(ended) = self.ended.recv() => Input::Ended(ended),
                _ = ticks.tick() => Input::Tick,
                Some(name) = std::future::ready(turn), if !self.turns.is_empty() => Input::Turn(name),
            };
            match input {
                Input::Command(command) => self.command(command).await,
                Input::Ended(ended) => self.init_ended(ended),
                Input::Turn(name) => {
                    self.turns.pop_front();
                    let _ = self.pass(&name).await;
                }
                Input::Tick => self.tick().await,
                Input::Closed => return,
            }
        }
    }

    async fn tick(&mut self) {
        self.reach_access().await;
        let full = self.last_full.elapsed() >= FULL_PASS;
        if full {
            self.last_full = Instant::now();
        }
        if self.turns.is_empty() {
            let due = self.desired.keys().filter(|name| full || self.failures.contains_key(*name)).cloned();
            self.turns.extend(due);
        }
    }

    fn init_ended(&mut self, ended: InitEnded) {
        self.world.forget_seat(&ended.tenant, ended.pid);
        if self.desired.contains_key(&ended.tenant) {
            self.tell("tenant-changed", Some(&ended.tenant), format!("init {} ended", ended.pid));
            self.turns.push_front(ended.tenant);
        }
    }

    /// Ask the access server who it is; when it was away, state every row again.
    async fn reach_access(&mut self) {
        let was = self.access_state.clone();
        match self.world.access.status().await {
            Ok(status) => {
                self.locals = status.local;
                if was != "connected" {
                    let rows: Vec<_> = self
                        .desired
                        .values()
                        .filter(|d| !d.removing)
                        .filter_map(|d| self.world.access.row(&d.tenant, self.world.macs(d.tenant.vlan?).1))
                        .collect();
                    self.access_state = match self.world.access.replace_all(&rows).await {
                        Ok(()) => "connected".into(),
                        Err(error) => chain(&error),
                    };
                }
            }
            Err(error) => self.access_state = chain(&error),
        }
        if was != self.access_state {
            let kind = if self.access_state == "connected" { "access-connected" } else { "access-lost" };
            let detail = self.access_state.clone();
            tracing::info!(kind, detail, "access server");
            self.tell(kind, None, detail);
        }
    }

    /// One tenant's pass: read, plan, apply. Returns the steps taken with their times.
    async fn pass(&mut self, name: &TenantName) -> Result<Vec<Step>, (&'static str, StepError)> {
        let Some(desired) = self.desired.get(name).cloned() else { return Ok(Vec::new()) };
        let result = self.steps(&desired).await;
        match &result {
            Ok(_) => {
                if self.failures.remove(name).is_some() {
                    self.tell("tenant-changed", Some(name), "as desired again".into());
                }
            }
            Err((step, error)) => {
                let cause = chain(error);
                tracing::warn!(tenant = %name, step, cause, "step failed");
                let before = self.failures.insert(name.clone(), Failure { step, cause: cause.clone() });
                if before.is_none_or(|f| f.cause != cause) {
                    self.tell("tenant-half-done", Some(name), format!("{step}: {cause}"));
                }
            }
        }
        result
    }

    async fn steps(&mut self, desired: &Desired) -> Result<Vec<Step>, (&'static str, StepError)> {
        let started = Instant::now();
        let actual = self.world.actual(desired).await.map_err(|e| ("read", e))?;
        let mut steps = vec![step("read", started)];
        for action in plan(desired, &actual) {
            let started = Instant::now();
            let name = action.name();
            self.world.apply(&desired.tenant, &action).await.map_err(|e| (name, e))?;
            if action == Action::Forget {
                self.forget(&desired.tenant.name).map_err(|e| (name, store_step(e)))?;
            }
            steps.push(step(name, started));
        }
        Ok(steps)
    }

    fn forget(&mut self, name: &TenantName) -> Result<(), StoreError> {
        self.store.remove(name)?;
        self.desired.remove(name);
        self.maps.remove(name);
        Ok(())
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::AddTenant { request, dry_run, reply } => answer(reply, self.add(*request, dry_run).await),
            Command::RemoveTenant { name, force, reply } => answer(reply, self.remove(&name, force).await),
            Command::List { reply } => answer(reply, Ok(self.desired.values().map(|d| d.tenant.clone()).collect())),
            Command::Show { name, reply } => answer(reply, self.known(&name).map(|d| d.tenant.clone())),
            Command::AddTunnel { name, tunnel, reply } => answer(reply, self.add_tunnel(&name, tunnel).await),
            Command::RemoveTunnel { name, tunnel, reply } => answer(reply, self.remove_tunnel(&name, &tunnel).await),
            Command::SetAddresses { name, addresses, reply } => {
                let change = move |tenant: &mut Tenant| {
                    rules::check_address_list(&addresses)?;
                    tenant.addresses = addresses;
                    Ok(())
                };
                answer(reply, self.change(&name, change).await)
            }
            Command::SetRoutes { name, routes, reply } => {
                let change = move |tenant: &mut Tenant| {
                    rules::check_routes(&routes)?;
                    tenant.routes = routes;
                    Ok(())
                };
                answer(reply, self.change(&name, change).await)
            }
            Command::AddService { name, service, reply } => answer(reply, self.add_service(&name, *service).await),
            Command::RemoveService { name, service, reply } => {
                answer(reply, self.remove_service(&name, &service).await)
            }
            Command::RestartService { name, service, reply } => {
                answer(reply, self.restart_service(&name, &service).await)
            }
            Command::Map { reply } => answer(reply, Ok(self.map())),
            Command::Status { reply } => answer(reply, Ok(self.status())),
            Command::TenantStatus { name, reply } => answer(reply, self.tenant_status(&name).await),
            Command::LogPath { name, service, reply } => answer(reply, self.log_path(&name, &service)),
        }
    }

    fn known(&self, name: &TenantName) -> Result<&Desired, OpError> {
        self.desired.get(name).ok_or_else(|| OpError::Unknown { what: "tenant", name: name.to_string() })
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

    fn sites(&self, tunnels: &[TunnelSpec]) -> Result<Vec<Site>, Invalid> {
        tunnels.iter().map(|t| Site::new(t.resolve_among(&self.locals)?, t.prefixes().to_vec())).collect()
    }

    /// The tables' request for a tenant that is known already.
    fn flow_of(&self, tenant: &Tenant) -> Result<FlowRequest, Invalid> {
        let mut request = FlowRequest::new(tenant.name.clone(), self.meta(tenant.generation)?);
        request.stack = Some(tenant.stack);
        request.gid = Some(tenant.gid);
        request.link = match tenant.vlan {
            Some(vlan) => LinkRequest::Port { trunk: Default::default(), vlan: Some(vlan) },
            None => LinkRequest::Nic(tenant.device.parse::<NicName>()?),
        };
        request.sites = self.sites(&tenant.tunnels)?;
        Ok(request)
    }

    /// Check a request against every rule and table; nothing is changed.
    async fn planned(&mut self, request: &TenantRequest) -> Result<(Tenant, FlowRequest), OpError> {
        if let Some(there) = self.desired.get(&request.name)
            && there.removing
        {
            return Err(self.half_done(&request.name));
        }
        request.check()?;
        let mut flow = FlowRequest::new(request.name.clone(), self.meta(1)?);
        flow.gid = request.gid.map(GidRange::new).transpose().map_err(|e| e.for_field("gid"))?;
        if let Some(device) = &request.device {
            let nic: NicName = device.parse().map_err(|e: Invalid| e.for_field("device"))?;
            let here = self.world.card_is_here(device).await;
            if !here.map_err(|e| half_made(&request.name, "read", &e))? {
                let rule = "no such network card in the server's own network namespace";
                return Err(Invalid::new("device", device.clone(), rule).into());
            }
            flow.link = LinkRequest::Nic(nic);
        } else {
            flow.link = LinkRequest::Port { trunk: Default::default(), vlan: request.vlan };
        }
        if !request.tunnels.is_empty() && self.access_state != "connected" {
            self.reach_access().await;
            if self.access_state != "connected" {
                let cause = self.access_state.clone();
                return Err(OpError::HalfDone { name: request.name.clone(), step: "access", cause });
            }
        }
        flow.sites = self.sites(&request.tunnels)?;
        let placed = self.maps.plan(&flow).map_err(conflict)?;
        let vlan = placed.lower.link.segment().map(|s| s.vlan);
        let tenant = Tenant {
            name: request.name.clone(),
            stack: placed.upper.stack,
            vlan,
            gid: placed.upper.gid,
            device: request.device.clone().unwrap_or_else(|| device_name(placed.upper.stack)),
            whole_device: request.device.is_some(),
            mac: vlan.map(|v| self.world.macs(v).0),
            addresses: request.addresses.clone(),
            tunnels: request.tunnels.iter().map(|t| self.with_local(t)).collect::<Result<_, _>>()?,
            dns: request.dns.clone(),
            gateway: request.gateway,
            routes: request.routes.clone(),
            services: Vec::new(),
            generation: 1,
        };
        flow.stack = Some(tenant.stack);
        flow.gid = Some(tenant.gid);
        if let Some(vlan) = vlan {
            flow.link = LinkRequest::Port { trunk: Default::default(), vlan: Some(vlan) };
        }
        Ok((tenant, flow))
    }

    /// The tunnel with its local address said: a later change of the access server's addresses moves nobody.
    fn with_local(&self, tunnel: &TunnelSpec) -> Result<TunnelSpec, Invalid> {
        let id = tunnel.resolve_among(&self.locals)?;
        TunnelSpec::new(id.kind(), id.remote(), Some(id.local()), id.key(), tunnel.prefixes().to_vec())
    }

    async fn add(&mut self, request: TenantRequest, dry_run: bool) -> Result<Added, OpError> {
        let (tenant, flow) = self.planned(&request).await?;
        let desired = Desired { tenant: tenant.clone(), removing: false };
        if dry_run {
            let actions = plan(&desired, &Default::default());
            let steps = actions.iter().map(|a| Step { name: a.name().into(), us: 0 }).collect();
            return Ok(Added { tenant, steps, dry_run });
        }
        let started = Instant::now();
        self.store.put(&desired).map_err(|e| half_made(&tenant.name, "store", &e))?;
        self.maps.add(flow).map_err(conflict)?;
        self.desired.insert(tenant.name.clone(), desired);
        let mut steps = vec![step("store", started)];
        match self.pass(&tenant.name).await {
            Ok(taken) => {
                steps.extend(taken);
                self.tell("tenant-added", Some(&tenant.name), format!("{} {}", tenant.stack, tenant.device));
                Ok(Added { tenant, steps, dry_run })
            }
            Err((step, error)) => {
                let failed = half_made(&tenant.name, step, &error);
                self.undo(&tenant.name).await;
                Err(failed)
            }
        }
    }

    /// Take back an add that failed; what cannot be taken back now is tried again on the timer.
    async fn undo(&mut self, name: &TenantName) {
        if let Some(desired) = self.desired.get_mut(name) {
            desired.removing = true;
            let desired = desired.clone();
            if let Err(error) = self.store.put(&desired) {
                tracing::warn!(tenant = %name, error = chain(&error), "cannot record the undoing");
            }
            self.failures.remove(name);
            let _ = self.pass(name).await;
        }
    }

    async fn remove(&mut self, name: &TenantName, force: bool) -> Result<(), OpError> {
        let desired = self.known(name)?.clone();
        if !force && !desired.removing {
            let processes = self.world.ask_init(name, |c| c.processes(Duration::from_secs(5))).await;
            match processes {
                Ok(0) | Err(_) => {}
                Ok(processes) => return Err(OpError::Busy { name: name.clone(), processes }),
            }
        }
        let desired = Desired { removing: true, ..desired };
        self.store.put(&desired).map_err(|e| half_made(name, "store", &e))?;
        self.desired.insert(name.clone(), desired);
        self.pass(name).await.map_err(|(step, error)| half_made(name, step, &error))?;
        self.failures.remove(name);
        self.tell("tenant-removed", Some(name), String::new());
        Ok(())
    }

    /// Change a tenant: check, record, pass. A change that fails in the kernel is kept and tried again.
    async fn change(
        &mut self,
        name: &TenantName,
        change: impl FnOnce(&mut Tenant) -> Result<(), OpError>,
    ) -> Result<Tenant, OpError> {
        let before = self.changeable(name)?.clone();
        let mut tenant = before.clone();
        change(&mut tenant)?;
        if tenant == before {
            return Ok(tenant);
        }
        tenant.generation += 1;
        let desired = Desired { tenant: tenant.clone(), removing: false };
        self.store.put(&desired).map_err(|e| half_made(name, "store", &e))?;
        self.desired.insert(name.clone(), desired);
        self.pass(name).await.map_err(|(step, error)| half_made(name, step, &error))?;
        self.tell("tenant-changed", Some(name), format!("generation {}", tenant.generation));
        Ok(tenant)
    }

    async fn add_tunnel(&mut self, name: &TenantName, tunnel: TunnelSpec) -> Result<Tenant, OpError> {
        if self.access_state != "connected" {
            self.reach_access().await;
        }
        let generation = self.changeable(name)?.generation + 1;
        let tunnel = self.with_local(&tunnel)?;
        let site = Site::new(tunnel.resolve_among(&self.locals)?, tunnel.prefixes().to_vec())?;
        let id = *site.tunnel();
        let mut tunnels = self.changeable(name)?.tunnels.clone();
        tunnels.retain(|t| !same_tunnel(t, &tunnel));
        tunnels.push(tunnel);
        stackmap::check_prefixes(&tunnels)?;
        let before = self.maps.access().get(&id).cloned();
        self.maps.put_tunnel(name, site, self.meta(generation)?).map_err(conflict)?;
        let result = self.change(name, move |tenant| {
            tenant.tunnels = tunnels;
            Ok(())
        });
        match result.await {
            // Refused before anything was recorded: the table goes back.
            Err(error @ OpError::HalfDone { step: "store", .. }) => {
                self.maps.remove_tunnel(name, &id);
                if let Some(row) = before {
                    self.maps.put_tunnel(name, row.site, row.meta).map_err(conflict)?;
                }
                Err(error)
            }
            other => other,
        }
    }

    async fn remove_tunnel(&mut self, name: &TenantName, tunnel: &TunnelSpec) -> Result<Tenant, OpError> {
        let unknown = || OpError::Unknown { what: "tunnel", name: tunnel.to_string() };
        let found = self.changeable(name)?.tunnels.iter().find(|t| same_tunnel(t, tunnel)).cloned();
        let found = found.ok_or_else(unknown)?;
        let id = found.resolve_among(&self.locals)?;
        let tenant = self
            .change(name, move |tenant| {
                tenant.tunnels.retain(|t| t != &found);
                Ok(())
            })
            .await?;
        self.maps.remove_tunnel(name, &id);
        Ok(tenant)
    }

    async fn add_service(&mut self, name: &TenantName, service: ServiceRequest) -> Result<ServiceStatus, OpError> {
        let tenant = self.changeable(name)?.clone();
        service.check()?;
        match service_of(&tenant, &service.name) {
            Some(there) if *there == service => {}
            Some(_) => {
                return Err(OpError::Conflict {
                    field: "name",
                    value: service.name.to_string(),
                    rule: format!("tenant {name} has a service of this name that runs something else"),
                });
            }
            None => {}
        }
        // Started before it is recorded: a command that cannot be run is refused and nothing is changed.
        self.world.start_service(&tenant, &service).await.map_err(|e| service_refused(name, e))?;
        let asked = service.name.clone();
        let recorded = self
            .change(name, move |tenant| {
                tenant.services.retain(|s| s.name != service.name);
                tenant.services.push(service);
                Ok(())
            })
            .await;
        if let Err(error @ OpError::HalfDone { step: "store", .. }) = recorded {
            let _ = self.world.stop_service(name, &asked).await;
            return Err(error);
        }
        self.tell("service-started", Some(name), asked.to_string());
        self.service_status(name, &asked).await
    }

    async fn remove_service(&mut self, name: &TenantName, service: &TenantName) -> Result<(), OpError> {
        self.known_service(name, service)?;
        let gone = service.clone();
        self.change(name, move |tenant| {
            tenant.services.retain(|s| s.name != gone);
            Ok(())
        })
        .await?;
        self.tell("service-exited", Some(name), format!("{service} removed"));
        Ok(())
    }

    async fn restart_service(&mut self, name: &TenantName, service: &TenantName) -> Result<ServiceStatus, OpError> {
        self.known_service(name, service)?;
        self.world.restart_service(name, service).await.map_err(|e| service_refused(name, e))?;
        self.tell("service-started", Some(name), service.to_string());
        self.service_status(name, service).await
    }

    fn known_service(&self, name: &TenantName, service: &TenantName) -> Result<(), OpError> {
        match service_of(self.changeable(name)?, service) {
            Some(_) => Ok(()),
            None => Err(OpError::Unknown { what: "service", name: service.to_string() }),
        }
    }

    async fn services(&mut self, tenant: &Tenant) -> Vec<ServiceStatus> {
        let states = self.world.ask_init(&tenant.name, |c| c.list(Duration::from_secs(2))).await.unwrap_or_default();
        let status = |service: &ServiceRequest| {
            let found = states.iter().find(|s| s.spec.name == service.name.as_str());
            ServiceStatus {
                name: service.name.clone(),
                state: found.map_or("unknown", |s| s.state.as_str()).into(),
                pid: found.and_then(|s| s.pid),
                restarts: found.map_or(0, |s| s.restarts),
                last_exit: found.and_then(|s| s.last_exit.clone()),
            }
        };
        tenant.services.iter().map(status).collect()
    }

    async fn service_status(&mut self, name: &TenantName, service: &TenantName) -> Result<ServiceStatus, OpError> {
        let tenant = self.known(name)?.tenant.clone();
        let all = self.services(&tenant).await;
        all.into_iter()
            .find(|s| s.name == *service)
            .ok_or_else(|| OpError::Unknown { what: "service", name: service.to_string() })
    }

    fn log_path(&self, name: &TenantName, service: &TenantName) -> Result<std::path::PathBuf, OpError> {
        match service_of(&self.known(name)?.tenant, service) {
            Some(_) => Ok(self.world.files(name).join("logs").join(format!("{service}.log"))),
            None => Err(OpError::Unknown { what: "service", name: service.to_string() }),
        }
    }

    fn map(&self) -> MapView {
        let mut view = MapView { upper: Vec::new(), lower: Vec::new(), access: Vec::new() };
        for flow in self.maps.flows() {
            let row = |text: String| MapRow { tenant: flow.tenant().to_string(), row: text };
            view.upper.push(row(flow.upper.to_string()));
            view.lower.push(row(flow.lower.to_string()));
            view.access.extend(flow.access.iter().map(|a| row(a.to_string())));
        }
        view
    }

    fn status(&self) -> DaemonStatus {
        DaemonStatus {
            instance: self.instance.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            trunk: self.trunk.clone(),
            access: self.access_state.clone(),
            tenants: self.desired.len(),
            half_done: self.failures.keys().map(|n| n.to_string()).collect(),
        }
    }

    async fn tenant_status(&mut self, name: &TenantName) -> Result<TenantStatus, OpError> {
        let desired = self.known(name)?.clone();
        let failure = self.failures.get(name).cloned();
        let state = match (&failure, desired.removing) {
            (_, true) => TenantState::Removing,
            (Some(_), false) => TenantState::HalfDone,
            (None, false) => TenantState::Ready,
        };
        let seat = self.world.seat(name);
        let counters = self.world.counters(&desired.tenant).await.unwrap_or_default();
        Ok(TenantStatus {
            name: name.clone(),
            state,
            step: failure.as_ref().map(|f| f.step.to_string()),
            cause: failure.map(|f| f.cause),
            init_pid: seat.map(|(pid, _)| pid),
            netns: seat.map(|(_, inode)| inode),
            mtu: self.world.mtu(&desired.tenant).await,
            services: self.services(&desired.tenant).await,
            counters,
        })
    }

    fn tell(&mut self, kind: &str, tenant: Option<&TenantName>, detail: String) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let id = self.next_event;
        self.next_event += 1;
        let tenant = tenant.map(|t| t.to_string());
        self.handle.publish(Event { id, at_ms: now.as_millis() as u64, kind: kind.into(), tenant, detail });
    }
}

fn answer<T>(reply: Reply<T>, result: Result<T, OpError>) {
    // A caller that went away needs no answer; what it asked for is done all the same.
    let _ = reply.send(result);
}

fn step(name: &str, started: Instant) -> Step {
    Step { name: name.into(), us: started.elapsed().as_micros() as u64 }
}

fn device_name(stack: StackIndex) -> String {
    stack.port_name()
}

/// The whole chain of causes in one line, for a status or a problem.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

fn half_made(name: &TenantName, step: &'static str, error: &(dyn Error + 'static)) -> OpError {
    OpError::HalfDone { name: name.clone(), step, cause: chain(error) }
}

fn store_step(error: StoreError) -> StepError {
    StepError::File { verb: "forget", path: "the store".into(), source: std::io::Error::other(error) }
}

fn conflict(conflict: stackmap::Conflict) -> OpError {
    let told = conflict.to_invalid();
    let field = match told.field.as_ref() {
        "name" | "tenant" => "name",
        "vlan" => "vlan",
        "gid" => "gid",
        "device" => "device",
        "stack" => "stack",
        _ => "tunnel",
    };
    OpError::Conflict { field, value: told.value, rule: told.rule.into_owned() }
}

fn same_tunnel(a: &TunnelSpec, b: &TunnelSpec) -> bool {
    let local = a.local().is_none() || b.local().is_none() || a.local() == b.local();
    a.kind() == b.kind() && a.remote() == b.remote() && a.key() == b.key() && local
}

/// A service that could not be started: what the caller can mend is told as a field, everything else as a failed step.
fn service_refused(name: &TenantName, error: StepError) -> OpError {
    match error {
        StepError::Init(tenant_init::client::ClientError::Refused(refusal)) => {
            Invalid::new(refusal.field, refusal.value, refusal.rule).into()
        }
        StepError::Service(error) => match error.invalid() {
            Some(invalid) => invalid.into(),
            None => half_made(name, "service", &error),
        },
        other => half_made(name, "service", &other),
    }
}
