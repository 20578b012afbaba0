//! Tenants: add with everything checked before anything is touched, change, remove.

use stackmap::{FlowRequest, GidRange, Invalid, LinkRequest, NicName, TenantName, TrunkIndex, TunnelSpec};
use tokio::time::Instant;

use super::errors::{chain, conflict, half_made, not_done, step_refused};
use super::{Owner, step};
use crate::change::{Change, check_bounds};
use crate::control::{OpError, Stopping};
use crate::images::HOST;
use crate::kernel::Kernel;
use crate::model::*;
use crate::plan::plan;
use crate::store::Desired;

impl<K: Kernel> Owner<K> {
    /// Check a request against every rule and table; nothing is changed.
    pub(super) async fn planned(&mut self, request: &TenantRequest) -> Result<(Tenant, FlowRequest), OpError> {
        if let Some(there) = self.desired.get(&request.name)
            && there.removing
        {
            return Err(self.half_done(&request.name));
        }
        self.bad_rows.check(&request.name)?;
        request.check()?;
        self.kernel.check_house(request).await?;
        let trunk = self.trunk_for(request)?;
        let mut flow = FlowRequest::new(request.name.clone(), self.meta(1)?);
        flow.gid = request.gid.map(GidRange::new).transpose().map_err(|e| e.for_field("gid"))?;
        if let Some(device) = &request.device {
            let nic: NicName = device.parse().map_err(|e: Invalid| e.for_field("device"))?;
            // One that it has itself comes back when it is replaced.
            let held = |d: &Desired| d.tenant.whole_device && d.tenant.device == *device;
            let held = self.desired.get(&request.name).is_some_and(held);
            let here = self.kernel.card_is_here(device).await;
            if !held && !here.map_err(|e| not_done(&request.name, "read", &e))? {
                let rule = "no such network card in the server's own network namespace";
                return Err(Invalid::new("device", device.clone(), rule).into());
            }
            flow.link = LinkRequest::Nic(nic);
        } else {
            flow.link = LinkRequest::Port { trunk, vlan: request.vlan };
        }
        if !request.tunnels.is_empty() && !self.trunks.is_connected(trunk) {
            self.reach_access(trunk).await;
            if !self.trunks.is_connected(trunk) {
                let cause = self.trunks.access(trunk).to_owned();
                return Err(OpError::Failed { name: request.name.clone(), step: "access", cause });
            }
        }
        let tunnels: Vec<_> = request.tunnels.iter().map(|t| self.with_local(trunk, t)).collect::<Result<_, _>>()?;
        flow.sites = self.sites(trunk, &tunnels)?;
        let placed = self.maps.plan(&flow).map_err(conflict)?;
        let at = placed.lower.link.segment();
        let tenant = Tenant {
            name: request.name.clone(),
            stack: placed.upper.stack,
            vlan: at.map(|at| at.vlan),
            trunk: at.and_then(|at| self.trunks.carried(at.trunk)),
            trunk_number: at.map(|at| at.trunk).unwrap_or_default(),
            gid: placed.upper.gid,
            device: request.device.clone().unwrap_or_else(|| placed.upper.stack.port_name()),
            whole_device: request.device.is_some(),
            mac: at.map(|at| self.kernel.macs(at).0),
            addresses: request.addresses.clone(),
            tunnels,
            dns: request.dns.clone(),
            gateway: request.gateway,
            routes: request.routes.clone(),
            filter: Filter::default(),
            services: Vec::new(),
            privileges: request.privileges.clone(),
            image: request.image.clone().unwrap_or_else(|| HOST.to_owned()),
            ephemeral: request.ephemeral,
            limits: request.limits,
            shares: Vec::new(),
            generation: 1,
        };
        flow.stack = Some(tenant.stack);
        flow.gid = Some(tenant.gid);
        if let Some(at) = at {
            flow.link = LinkRequest::Port { trunk: at.trunk, vlan: Some(at.vlan) };
        }
        Ok((tenant, flow))
    }

    /// The tunnel with its local address said: a later change of the access server's addresses moves nobody.
    pub(super) fn with_local(&self, trunk: TrunkIndex, tunnel: &TunnelSpec) -> Result<TunnelSpec, Invalid> {
        let id = tunnel.resolve_among(self.trunks.locals(trunk))?;
        TunnelSpec::new(id.kind(), id.remote(), Some(id.local()), id.key(), tunnel.prefixes().to_vec())
    }

    pub(super) async fn add(&mut self, request: TenantRequest, dry_run: bool) -> Result<Added, OpError> {
        let (tenant, flow) = self.planned(&request).await?;
        let desired = Desired::new(tenant.clone());
        if dry_run {
            let actions = plan(&desired, &Default::default());
            let steps = actions.iter().map(|step| Step { name: step.action.name().into(), us: 0 }).collect();
            return Ok(Added { tenant, steps, dry_run });
        }
        let steps = self.make(&tenant, flow).await?;
        Ok(Added { tenant, steps, dry_run })
    }

    /// Record a planned tenant and bring it up; what fails is taken back.
    pub(super) async fn make(&mut self, tenant: &Tenant, flow: FlowRequest) -> Result<Vec<Step>, OpError> {
        let desired = Desired::new(tenant.clone());
        let started = Instant::now();
        self.record(desired).map_err(|e| not_done(&tenant.name, "store", &e))?;
        self.maps.add(flow).map_err(conflict)?;
        let mut steps = vec![step("store", started)];
        match self.pass(&tenant.name).await {
            Ok(taken) => {
                steps.extend(taken);
                self.tell("tenant-added", Some(&tenant.name), format!("{} {}", tenant.stack, tenant.device));
                Ok(steps)
            }
            Err((step, error)) => {
                let failed = step_refused(&tenant.name, step, &error);
                self.undo(&tenant.name).await;
                Err(if self.desired.contains_key(&tenant.name) { self.half_done(&tenant.name) } else { failed })
            }
        }
    }

    /// Take back an add that failed; what cannot be taken back now is tried again on the timer.
    pub(super) async fn undo(&mut self, name: &TenantName) {
        if let Some(desired) = self.desired.get(name) {
            if let Err(error) = self.record(Desired { removing: true, ..desired.clone() }) {
                tracing::warn!(tenant = %name, error = chain(&error), "cannot record the undoing");
                // Gone from the kernel all the same; the store follows on the timer.
                self.desired.entry(name.clone()).and_modify(|desired| desired.removing = true);
            }
            self.failures.remove(name);
            let _ = self.pass(name).await;
        }
    }

    pub(super) async fn remove(&mut self, name: &TenantName, force: bool) -> Result<(), OpError> {
        if !self.desired.contains_key(name) {
            let is_bad = self.bad_rows.expect(name).is_some();
            return if is_bad { self.give_up(name, force).await } else { self.remove_orphan(name, force).await };
        }
        let desired = self.known(name)?.clone();
        if !force && !desired.removing {
            self.check_idle(name).await?;
        }
        let desired = Desired { removing: true, ..desired };
        self.record(desired).map_err(|e| not_done(name, "store", &e))?;
        self.pass(name).await.map_err(|(step, error)| half_made(name, step, &error))?;
        self.failures.remove(name);
        self.tell("tenant-removed", Some(name), String::new());
        Ok(())
    }

    /// One of the changes that need no more than their own rules and, for limits, this host's.
    pub(super) async fn change_by(&mut self, name: &TenantName, change: Change) -> Result<Tenant, OpError> {
        if let Change::Limits(words) = &change {
            let limits = self.changeable(name)?.limits.with_words(words)?;
            self.kernel.check_limits(&limits)?;
        }
        if let Change::Filter(filter) = &change {
            self.kernel.check_filter(name, filter).await?;
        }
        self.change(name, |tenant| change.make(tenant)).await
    }

    /// Tell its init to end its services and then itself; what does not end in time is killed. Returns at once.
    pub(super) async fn stop_tenant(&mut self, name: &TenantName) -> Result<Stopping, OpError> {
        let tenant = self.changeable(name)?.clone();
        let gone = self.kernel.stop(&tenant).await.map_err(|e| not_done(name, "end", &e))?;
        self.tell("tenant-changed", Some(name), "restarted".into());
        Ok(Stopping { gone })
    }

    /// Bring a tenant to what is desired.
    pub(super) async fn settle(&mut self, name: &TenantName) -> Result<Tenant, OpError> {
        let tenant = self.changeable(name)?.clone();
        self.kernel.forget_ended(name);
        self.pass(name).await.map_err(|(step, error)| half_made(name, step, &error))?;
        Ok(tenant)
    }

    /// Change a tenant: check, record, pass. A change that fails in the kernel is kept and tried again.
    pub(super) async fn change(
        &mut self,
        name: &TenantName,
        change: impl FnOnce(&mut Tenant) -> Result<(), OpError>,
    ) -> Result<Tenant, OpError> {
        let before = self.changeable(name)?.clone();
        let mut tenant = before.clone();
        change(&mut tenant)?;
        if self.doing.who.origin == EventOrigin::Tenant {
            check_bounds(&tenant)?;
        }
        if tenant == before {
            return Ok(tenant);
        }
        tenant.generation += 1;
        self.record(Desired::new(tenant.clone())).map_err(|e| not_done(name, "store", &e))?;
        self.pass(name).await.map_err(|(step, error)| half_made(name, step, &error))?;
        self.tell("tenant-changed", Some(name), format!("generation {}", tenant.generation));
        Ok(tenant)
    }
}
