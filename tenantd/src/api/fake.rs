//! An owner made of memory, for tests of the API: the same commands, the same refusals, no kernel.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use stackmap::{GidRange, Invalid, StackIndex, TenantName, TunnelSpec, Vlan};
use tempfile::TempDir;

use super::Doors;
use crate::audit::Entry;
use crate::client::Client;
use crate::control::{Asked, Command, Handle, OpError, Proof, PutHow, Stopping, Who};
use crate::declare::changes;
use crate::images::ImageStore;
use crate::metrics::{Enlisted, Roster};
use crate::model::*;
use crate::owner::shares::shared_directories;
use crate::store::Store as _;
use crate::store::memory::MemoryStore;

/// A served API with a fake owner behind it; ends with the process.
pub(crate) struct Served {
    pub(crate) client: Client,
    pub(crate) socket: PathBuf,
    pub(crate) dir: TempDir,
}

/// Tenants that have an API of their own in a fake, whether they were added or not.
pub(crate) const INSIDE: [&str; 2] = ["acme", "beta"];

/// Serves the API on a socket in a directory of its own. The owner's logs are `SERVICE.log` there.
pub(crate) fn serve() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("api.sock");
    let (handle, mut inbox) = Handle::new();
    let mut owner = Fake {
        logs: dir.path().to_owned(),
        tenants: BTreeMap::new(),
        handle: handle.clone(),
        events: 0,
        origin: EventOrigin::Operator,
        notes: MemoryStore::new(),
        who: Who::daemon(),
        images: Arc::new(ImageStore::open(dir.path()).unwrap()),
    };
    let (ready, is_ready) = mpsc::channel();
    let path = socket.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = super::bind(&path).await.unwrap();
            let mut doors = Doors::new(path.parent().unwrap().to_owned(), handle.clone());
            for name in INSIDE {
                doors.open_for(&name.parse().unwrap(), nix::unistd::geteuid().as_raw()).unwrap();
            }
            ready.send(()).unwrap();
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        Some(asked) = inbox.operators.recv() => owner.hear(asked),
                        Some(asked) = inbox.tenants.recv() => owner.hear(asked),
                        else => return,
                    }
                }
            });
            super::serve(listener, handle, std::future::pending()).await.unwrap();
        });
    });
    is_ready.recv().unwrap();
    Served { client: Client::new(&socket).unwrap(), socket, dir }
}

/// The process and namespace that every tenant of the fake seems to have.
pub(crate) const INIT: (i32, u64) = (4711, 4_026_532_000);

struct Fake {
    logs: PathBuf,
    tenants: BTreeMap<TenantName, Tenant>,
    handle: Handle,
    events: u64,
    origin: EventOrigin,
    notes: MemoryStore,
    who: Who,
    images: Arc<ImageStore>,
}

impl Fake {
    fn hear(&mut self, asked: Asked) {
        let named = asked.who.origin != EventOrigin::Daemon;
        assert!(named || asked.command.verb().is_none(), "nobody asked for {:?}", asked.command);
        self.origin = asked.who.origin;
        self.who = asked.who;
        self.obey(asked.command);
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::AddTenant { request, dry_run, reply } => drop(reply.send(self.add(*request, dry_run))),
            Command::RemoveTenant { name, force, reply } => drop(reply.send(self.remove(&name, force))),
            Command::Put { name, tenant, how, reply } => drop(reply.send(self.put(name, *tenant, how))),
            Command::Export { reply } => {
                let one = |t: &Tenant| Exported { name: t.name.clone(), removing: false, tenant: t.into() };
                let tenants = self.tenants.values().map(one).collect();
                drop(reply.send(Ok(Export { locals: Vec::new(), first_trunk: String::new(), tenants })));
            }
            Command::List { reply } => drop(reply.send(Ok(self.tenants.values().cloned().collect()))),
            Command::Show { name, reply } => drop(reply.send(self.tenant(&name).cloned())),
            Command::AddTunnel { name, tunnel, reply } => drop(reply.send(self.change(&name, |t| {
                t.tunnels.retain(|known| !same(known, &tunnel));
                t.tunnels.push(tunnel);
                Ok(())
            }))),
            Command::RemoveTunnel { name, tunnel, reply } => drop(reply.send(self.change(&name, |t| {
                let before = t.tunnels.len();
                t.tunnels.retain(|known| !same(known, &tunnel));
                let gone = t.tunnels.len() < before;
                gone.then_some(()).ok_or(OpError::Unknown { what: "tunnel", name: tunnel.to_string() })
            }))),
            Command::Change { name, change, reply } => drop(reply.send(self.change(&name, |t| change.make(t)))),
            Command::StopTenant { name, reply } => {
                let (_, gone) = tokio::sync::oneshot::channel();
                drop(reply.send(self.tenant(&name).map(|_| Stopping { gone })));
            }
            Command::Settle { name, reply } => drop(reply.send(self.tenant(&name).cloned())),
            Command::Share { request, reply } => drop(reply.send(self.share(&request))),
            Command::Unshare { directory, tenants, reply } => {
                let unknown = || OpError::Unknown { what: "share", name: directory.clone() };
                let one = |name: &TenantName| {
                    let before = self.tenant(name)?.shares.len();
                    let now = self.change(name, |t| {
                        t.shares.retain(|s| s.directory != directory);
                        Ok(())
                    })?;
                    (now.shares.len() < before).then_some(()).ok_or_else(unknown)
                };
                drop(reply.send(tenants.iter().try_for_each(one)));
            }
            Command::Images { reply } => drop(reply.send(Ok(self.images.clone()))),
            Command::ListShares { reply } => drop(reply.send(Ok(shared_directories(self.tenants.values())))),
            Command::AddService { name, service, reply } => {
                let status = running(&service.name);
                drop(
                    reply.send(
                        self.change(&name, |t| {
                            t.services.push(*service);
                            Ok(())
                        })
                        .map(|_| status),
                    ),
                );
            }
            Command::RemoveService { name, service, reply } => {
                let found = self.service(&name, &service);
                drop(reply.send(found.and_then(|_| {
                    self.change(&name, |t| {
                        t.services.retain(|s| s.name != service);
                        Ok(())
                    })
                    .map(drop)
                })));
            }
            Command::ServiceDone(done) => drop(done),
            Command::Templates { reply } => drop(reply.send(Ok(crate::templates::views("/nonexistent".as_ref())))),
            Command::ShowTemplate { name, reply } => {
                let found = crate::templates::view("/nonexistent".as_ref(), &name).map_err(|e| e.invalid().into());
                drop(reply.send(found));
            }
            Command::ActOnService { name, service, reply, .. } => {
                let again = |s| ServiceStatus { restarts: 1, ..s };
                drop(reply.send(self.service(&name, &service).map(again)));
            }
            Command::Map { reply } => drop(reply.send(Ok(self.map()))),
            Command::Backup { reply } => drop(reply.send(Ok(self.notes.backup().unwrap()))),
            Command::Restore { how, reply, .. } => {
                drop(reply.send(Ok(Restored { dry_run: how.dry_run, ..Restored::default() })));
            }
            Command::Audit { query, reply } => {
                drop(reply.send(self.notes.audit(&query).map_err(|e| OpError::CannotRead { cause: e.to_string() })));
            }
            Command::Note { verb, tenant, after, outcome } => {
                let who = self.who.clone();
                self.notes.note(Entry { at_ms: 1, who, verb, tenant, before: None, after }, outcome);
            }
            Command::Status { reply } => drop(reply.send(Ok(DaemonStatus {
                instance: "main".into(),
                version: "0".into(),
                trunk: "trunk-main".into(),
                trunk_cause: None,
                access: "connected".into(),
                trunks: Vec::new(),
                tenants: self.tenants.len(),
                half_done: Vec::new(),
                store: StoreStatus::default(),
                orphans: Vec::new(),
                bad_rows: Vec::new(),
                waiting: 0,
            }))),
            Command::TenantStatus { name, reply } => drop(reply.send(self.status(&name))),
            Command::Plan { name, reply } => {
                let known = self.tenant(&name).map(drop);
                let shown = TenantPlan { name, removing: false, steps: Vec::new(), cannot_read: None };
                drop(reply.send(known.map(|()| shown)));
            }
            Command::LogPath { name, service, reply } => {
                let path = self.logs.join(format!("{service}.log"));
                drop(reply.send(self.service(&name, &service).map(|_| path)));
            }
            Command::TraceParts { reply, .. } => drop(reply.send(Err(OpError::Closed))),
            Command::Roster { reply } => drop(reply.send(Ok(self.roster()))),
            Command::Prove(Proof::Verify { name, reply }) => {
                let known = name.map_or(Ok(()), |name| self.tenant(&name).map(drop));
                drop(reply.send(known.map(|()| crate::verify::Verification {
                    agree: true,
                    at_ms: 0,
                    took_us: 0,
                    rounds: 1,
                    tenants: self.tenants.len(),
                    checks: Vec::new(),
                    notes: Vec::new(),
                })));
            }
            // What only the daemon's own tasks ask.
            Command::Prove(_) => {}
        }
    }

    fn tenant(&self, name: &TenantName) -> Result<&Tenant, OpError> {
        self.tenants.get(name).ok_or_else(|| OpError::Unknown { what: "tenant", name: name.to_string() })
    }

    fn add(&mut self, r: TenantRequest, dry_run: bool) -> Result<Added, OpError> {
        if r.name.as_str() == "half" {
            return Err(OpError::HalfDone { name: r.name, step: "access", cause: "no answer".into() });
        }
        if self.tenants.contains_key(&r.name) {
            return Err(OpError::Invalid(Invalid::new("name", &r.name, "is there already")));
        }
        let vlan = r.vlan.map_or_else(|| Vlan::new(600), Ok)?;
        if let Some(holder) = self.tenants.values().find(|t| t.vlan == Some(vlan)) {
            let rule = format!("is taken by tenant {}", holder.name);
            return Err(OpError::Conflict { field: "vlan".into(), value: vlan.to_string(), rule });
        }
        let tenant = Tenant {
            name: r.name,
            stack: StackIndex(0),
            vlan: Some(vlan),
            trunk: None,
            trunk_number: Default::default(),
            gid: GidRange::FIRST,
            device: "dev0".into(),
            whole_device: false,
            mac: None,
            addresses: r.addresses,
            tunnels: r.tunnels,
            dns: r.dns,
            gateway: r.gateway,
            routes: r.routes,
            filter: Filter::default(),
            services: Vec::new(),
            privileges: r.privileges,
            image: r.image.unwrap_or_else(|| "host".to_owned()),
            ephemeral: r.ephemeral,
            limits: r.limits,
            shares: Vec::new(),
            generation: 1,
        };
        if !dry_run {
            self.tenants.insert(tenant.name.clone(), tenant.clone());
            self.tell("tenant-added", &tenant.name);
        }
        let steps = vec![Step { name: "stack".into(), us: if dry_run { 0 } else { 1100 } }];
        Ok(Added { tenant, steps, dry_run })
    }

    fn put(&mut self, name: TenantName, declared: DeclaredTenant, how: PutHow) -> Result<Put, OpError> {
        let PutHow { dry_run, .. } = how;
        let services = declared.services_in_order();
        let Some(there) = self.tenants.get(&name) else {
            let added = self.add(declared.request(&name), dry_run)?;
            let mut tenant = added.tenant;
            tenant.services = services;
            if !dry_run {
                self.tenants.insert(name, tenant.clone());
            }
            let (outcome, changes) = (Outcome::Added, Vec::new());
            return Ok(Put { tenant, outcome, changes, steps: added.steps, dry_run });
        };
        let found = changes(&there.into(), &declared);
        let outcome = if found.is_empty() { Outcome::Same } else { Outcome::Changed };
        let tenant = match outcome {
            Outcome::Changed if !dry_run => self.change(&name, |t| {
                t.addresses = declared.addresses;
                t.services = services;
                Ok(())
            })?,
            _ => there.clone(),
        };
        Ok(Put { tenant, outcome, changes: found, steps: Vec::new(), dry_run })
    }

    fn remove(&mut self, name: &TenantName, force: bool) -> Result<(), OpError> {
        let processes = self.tenant(name)?.services.len();
        if processes > 0 && !force {
            return Err(OpError::Busy { name: name.clone(), processes });
        }
        self.tenants.remove(name);
        self.tell("tenant-removed", name);
        Ok(())
    }

    fn share(&mut self, request: &ShareRequest) -> Result<SharedDirectory, OpError> {
        let path = crate::shares::check_path(&request.directory, &[])?;
        let (directory, target) = (path.display().to_string(), crate::shares::target_of(&path)?);
        for one in &request.tenants {
            let mount = ShareMount { directory: directory.clone(), target: target.clone(), read_only: one.read_only };
            self.change(&one.name, |t| {
                t.shares.push(mount);
                Ok(())
            })?;
        }
        let all = shared_directories(self.tenants.values());
        all.into_iter().find(|s| s.directory == directory).ok_or(OpError::Closed)
    }

    fn change(
        &mut self,
        name: &TenantName,
        change: impl FnOnce(&mut Tenant) -> Result<(), OpError>,
    ) -> Result<Tenant, OpError> {
        let mut tenant = self.tenant(name)?.clone();
        change(&mut tenant)?;
        tenant.generation += 1;
        self.tenants.insert(name.clone(), tenant.clone());
        self.tell("tenant-changed", name);
        Ok(tenant)
    }

    fn service(&self, name: &TenantName, service: &TenantName) -> Result<ServiceStatus, OpError> {
        let found = self.tenant(name)?.services.iter().find(|s| s.name == *service);
        let unknown = || OpError::Unknown { what: "service", name: service.to_string() };
        found.map(|s| running(&s.name)).ok_or_else(unknown)
    }

    fn status(&self, name: &TenantName) -> Result<TenantStatus, OpError> {
        let tenant = self.tenant(name)?;
        Ok(TenantStatus {
            name: name.clone(),
            state: TenantState::Ready,
            step: None,
            cause: None,
            since_ms: None,
            tries: None,
            next_try_ms: None,
            init_pid: Some(INIT.0),
            netns: Some(INIT.1),
            mtu: Some(1480),
            services: tenant.services.iter().map(|s| running(&s.name)).collect(),
            counters: Counters::default(),
            guard: None,
            usage: None,
        })
    }

    fn roster(&self) -> Roster {
        let enlist = |tenant: &Tenant| Enlisted {
            name: tenant.name.clone(),
            stack: tenant.stack.to_string(),
            at: tenant.segment(),
            trunk: None,
            gid: tenant.gid.get(),
            half_done: false,
            removing: false,
            seat: None,
            init_restarts: 0,
            service_restarts: Vec::new(),
        };
        Roster { tenants: self.tenants.values().map(enlist).collect(), turns: 0, access_connected: true, kernel: None }
    }

    fn map(&self) -> MapView {
        let rows = |row: fn(&Tenant) -> String| {
            self.tenants.values().map(|t| MapRow { tenant: t.name.to_string(), row: row(t) }).collect()
        };
        MapView {
            upper: rows(|t| format!("{} <-> {}", t.stack, t.gid)),
            lower: rows(|t| format!("({}, {}) <-> vlan600", t.stack, t.device)),
            access: Vec::new(),
        }
    }

    fn tell(&mut self, kind: &str, tenant: &TenantName) {
        self.events += 1;
        let (id, kind) = (self.events, kind.to_owned());
        let (tenant, origin) = (Some(tenant.to_string()), self.origin);
        self.handle.publish(Event {
            id,
            at_ms: 0,
            kind,
            tenant,
            origin,
            detail: String::new(),
            refusal: None,
            repair: None,
        });
    }
}

fn same(a: &TunnelSpec, b: &TunnelSpec) -> bool {
    (a.kind(), a.remote(), a.key()) == (b.kind(), b.remote(), b.key())
}

fn running(name: &TenantName) -> ServiceStatus {
    ServiceStatus { name: name.clone(), state: "running".into(), pid: Some(12), restarts: 0, last_exit: None }
}
