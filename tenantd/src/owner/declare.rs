//! A tenant as a whole: brought to what is declared by one write of the store and one pass.

use std::path::Path;
use tokio::time::Instant;

use stackmap::{FlowRequest, Invalid, Key, Site, TenantName, TrunkIndex};

use super::errors::{conflict, half_made};
use super::{Owner, step};
use crate::control::OpError;
use crate::declare::{changes, settle};
use crate::kernel::Kernel;
use crate::model::declared::service_field;
use crate::model::*;
use crate::plan::{plan, service_of};
use crate::shares::{check_nesting, target_of};
use crate::store::Desired;
use crate::world::Verb;

/// How a tenant is put.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PutHow {
    /// Only check and compare.
    pub dry_run: bool,
    /// End it and make it again when it cannot be changed in place.
    pub replace: bool,
}

impl<K: Kernel> Owner<K> {
    /// Every tenant, with what it takes to declare it again: passwords too.
    pub(super) fn export(&self) -> Export {
        let one =
            |d: &Desired| Exported { name: d.tenant.name.clone(), removing: d.removing, tenant: (&d.tenant).into() };
        let (locals, first_trunk) = (self.trunks.locals(TrunkIndex::default()).to_vec(), self.trunks.first_name());
        Export { locals, first_trunk, tenants: self.desired.values().map(one).collect() }
    }

    /// Bring a tenant to what is declared: make it, change it in place, or say why not.
    pub(super) async fn put(
        &mut self,
        name: &TenantName,
        mut declared: DeclaredTenant,
        how: PutHow,
    ) -> Result<Put, OpError> {
        declared.check()?;
        let before = self.desired.get(name).map(|desired| DeclaredTenant::from(&desired.tenant));
        declared.unname_first(&self.trunks.first_name(), before.as_ref());
        let Some(there) = self.desired.get(name) else { return self.put_new(name, &declared, how).await };
        if there.removing {
            return Err(self.half_done(name));
        }
        let before = DeclaredTenant::from(&there.tenant);
        let found = changes(&before, &declared);
        if let Some(fixed) = found.iter().find(|change| !change.in_place) {
            if !how.replace {
                let value = fixed.after.clone().unwrap_or_default();
                let rule = format!(
                    "tenant {name} has {:?}, which cannot be changed while it is there; to replace it ends it, with its \
                     files, and makes it again",
                    fixed.before.as_deref().unwrap_or_default()
                );
                return Err(OpError::Conflict { field: fixed.field.clone().into(), value, rule });
            }
            return self.put_again(name, &settle(&before, &declared), found, how).await;
        }
        if found.is_empty() {
            let tenant = there.tenant.clone();
            if how.dry_run || !self.failures.contains_key(name) {
                return Ok(put(tenant, Outcome::Same, found, Vec::new(), how));
            }
            // It is as declared and not as desired: who asks again wants to know whether it works now.
            let steps = self.pass(name).await.map_err(|(step, error)| half_made(name, step, &error))?;
            return Ok(put(tenant, Outcome::Same, found, steps, how));
        }
        self.put_changed(name, &settle(&before, &declared), found, how).await
    }

    async fn put_new(&mut self, name: &TenantName, declared: &DeclaredTenant, how: PutHow) -> Result<Put, OpError> {
        let (tenant, flow) = self.planned_whole(name, declared, how).await?;
        if how.dry_run {
            let desired = Desired::new(tenant.clone());
            let actions = plan(&desired, &Default::default());
            let steps = actions.iter().map(|a| Step { name: a.action.name().into(), us: 0 }).collect();
            return Ok(put(tenant, Outcome::Added, Vec::new(), steps, how));
        }
        let steps = self.make(&tenant, flow).await?;
        Ok(put(tenant, Outcome::Added, Vec::new(), steps, how))
    }

    /// Everything of a new tenant, checked against every rule, table and this host; nothing is changed but, with a share
    /// that asks for it and not in a dry run, its directory made.
    async fn planned_whole(
        &mut self,
        name: &TenantName,
        declared: &DeclaredTenant,
        how: PutHow,
    ) -> Result<(Tenant, FlowRequest), OpError> {
        let (mut tenant, mut flow) = self.planned(&declared.request(name)).await?;
        if let Some(stack) = declared.stack {
            flow.stack = Some(stack);
            self.maps.plan(&flow).map_err(conflict)?;
            tenant.stack = stack;
            if !tenant.whole_device {
                tenant.device = stack.port_name();
            }
        }
        self.complete(&mut tenant, declared, how, None).await?;
        Ok((tenant, flow))
    }

    async fn put_again(
        &mut self,
        name: &TenantName,
        declared: &DeclaredTenant,
        found: Vec<FieldChange>,
        how: PutHow,
    ) -> Result<Put, OpError> {
        // What the new one would be refused for must not cost the old one: all of it is checked as if that were gone.
        let maps = self.maps.clone();
        self.maps.remove(name);
        let checked = self.planned_whole(name, declared, PutHow { dry_run: true, ..how }).await;
        self.maps = maps;
        let (tenant, _) = checked?;
        if how.dry_run {
            return Ok(put(tenant, Outcome::Replaced, found, Vec::new(), how));
        }
        self.remove(name, true).await?;
        let again = self.put_new(name, declared, how).await?;
        Ok(Put { outcome: Outcome::Replaced, changes: found, ..again })
    }

    async fn put_changed(
        &mut self,
        name: &TenantName,
        declared: &DeclaredTenant,
        found: Vec<FieldChange>,
        how: PutHow,
    ) -> Result<Put, OpError> {
        let before = self.changeable(name)?.clone();
        let trunk = before.trunk_number;
        let mut tenant = before.clone();
        tenant.addresses.clone_from(&declared.addresses);
        tenant.dns.clone_from(&declared.dns);
        tenant.gateway = declared.gateway;
        tenant.routes.clone_from(&declared.routes);
        if found.iter().any(|change| change.field == "tunnel") {
            tenant.tunnels = self.tunnels_for(name, declared).await?;
        }
        if tenant.limits != declared.limits {
            self.kernel.check_limits(&declared.limits)?;
        }
        if tenant.filter != declared.filter {
            self.kernel.check_filter(name, &declared.filter).await?;
        }
        self.complete(&mut tenant, declared, how, Some(&before)).await?;
        let started = Instant::now();
        if how.dry_run {
            return Ok(put(tenant, Outcome::Changed, found, Vec::new(), how));
        }
        let (old, new) = (self.sites(trunk, &before.tunnels)?, self.sites(trunk, &tenant.tunnels)?);
        let meta = self.meta(before.generation + 1)?;
        let wanted = tenant.clone();
        let result = self.change(name, move |tenant| {
            *tenant = wanted;
            Ok(())
        });
        let result = result.await;
        // The tables follow what is recorded, also when the kernel has to be asked again for it.
        if !matches!(result, Err(OpError::Failed { step: "store", .. })) {
            for gone in old.iter().filter(|site| !new.iter().any(|n| n.tunnel() == site.tunnel())) {
                self.maps.remove_tunnel(name, gone.tunnel());
            }
            for site in new.into_iter().filter(|site| !old.contains(site)) {
                self.maps.put_tunnel(name, site, meta.clone()).map_err(conflict)?;
            }
        }
        let tenant = result?;
        Ok(put(tenant, Outcome::Changed, found, vec![step("change", started)], how))
    }

    /// Tunnels with their local ends said, none of them another tenant's.
    async fn tunnels_for(
        &mut self,
        name: &TenantName,
        declared: &DeclaredTenant,
    ) -> Result<Vec<stackmap::TunnelSpec>, OpError> {
        let open = declared.tunnels.iter().any(|t| t.local().is_none());
        let trunk = self.known(name)?.tenant.trunk_number;
        if open && !self.trunks.is_connected(trunk) {
            self.reach_access(trunk).await;
        }
        if open && self.trunks.locals(trunk).is_empty() {
            let cause = self.trunks.access(trunk).to_owned();
            return Err(OpError::Failed { name: name.clone(), step: "access", cause });
        }
        let mut tunnels = Vec::new();
        for (i, tunnel) in declared.tunnels.iter().enumerate() {
            let field = || format!("tunnels[{i}]");
            let tunnel = match tunnel.local() {
                Some(_) => tunnel.clone(),
                None => self.with_local(trunk, tunnel).map_err(|e| e.for_field(field()))?,
            };
            let site = Site::new(self.tunnel_id(trunk, &tunnel)?, tunnel.prefixes().to_vec())?;
            if let Some(holder) = self.maps.find(&Key::Tunnel(*site.tunnel())).filter(|holder| *holder != name) {
                let rule = format!("is taken by tenant {holder}");
                return Err(OpError::Conflict { field: field().into(), value: tunnel.to_string(), rule });
            }
            tunnels.push(tunnel);
        }
        Ok(tunnels)
    }

    /// Puts in what `add-tenant` does not ask for: filter, limits, services, shares; each checked against this host. What
    /// it has of them already as `before` is not checked again; without it, what it has now does not count.
    pub(super) async fn complete(
        &mut self,
        tenant: &mut Tenant,
        declared: &DeclaredTenant,
        how: PutHow,
        before: Option<&Tenant>,
    ) -> Result<(), OpError> {
        tenant.filter.clone_from(&declared.filter);
        tenant.limits = declared.limits;
        tenant.shares = self.shares_for(tenant, declared, how, before).await?;
        tenant.services = same_order(&tenant.services, declared);
        for service in &tenant.services {
            if before.is_some_and(|before| service_of(before, &service.name) == Some(service)) {
                continue;
            }
            // Made and thrown away: what it refuses is refused before anything is recorded.
            let refuse = |error| match super::services::service_refused(&tenant.name, service, error) {
                OpError::Invalid(refused) => {
                    let field = service_field(&service.name, &refused.field);
                    refused.for_field(field).into()
                }
                other => other,
            };
            self.kernel.job(tenant, service, Verb::Start).map_err(refuse)?;
        }
        Ok(())
    }

    async fn shares_for(
        &mut self,
        tenant: &Tenant,
        declared: &DeclaredTenant,
        how: PutHow,
        before: Option<&Tenant>,
    ) -> Result<Vec<ShareMount>, OpError> {
        let mut shares = Vec::new();
        for (i, wanted) in declared.shares.iter().enumerate() {
            let there =
                tenant.shares.iter().find(|s| s.directory == wanted.directory && s.read_only == wanted.read_only);
            if let Some(there) = there {
                shares.push(there.clone());
                continue;
            }
            let at = |refused: Invalid| OpError::from(refused.for_field(format!("shares[{i}]")));
            let one = ShareFor { name: tenant.name.clone(), read_only: wanted.read_only };
            // A directory that would be made is not there yet.
            let create = wanted.create && !how.dry_run;
            let request = ShareRequest { directory: wanted.directory.clone(), tenants: vec![one], create };
            let missing = how.dry_run && wanted.create && !Path::new(&wanted.directory).exists();
            let path = if missing {
                crate::shares::check_path(&wanted.directory, &[]).map_err(at)?
            } else {
                self.kernel.check_share(&request).await.map_err(at)?
            };
            let others = self.desired.values().filter(|d| before.is_some() || d.tenant.name != tenant.name);
            let others = others.flat_map(|d| &d.tenant.shares).map(|s| Path::new(&s.directory));
            check_nesting(&path, others).map_err(at)?;
            let target = target_of(&path).map_err(at)?;
            shares.push(ShareMount { directory: path.display().to_string(), target, read_only: wanted.read_only });
        }
        shares.sort();
        Ok(shares)
    }
}

/// The services that are declared; those that are there keep their places.
fn same_order(there: &[ServiceRequest], declared: &DeclaredTenant) -> Vec<ServiceRequest> {
    let mut wanted = declared.services_in_order();
    let mut services = Vec::with_capacity(wanted.len());
    for old in there {
        if let Some(at) = wanted.iter().position(|s| s.name == old.name) {
            services.push(wanted.remove(at));
        }
    }
    services.extend(wanted);
    services
}

fn put(tenant: Tenant, outcome: Outcome, changes: Vec<FieldChange>, steps: Vec<Step>, how: PutHow) -> Put {
    Put { tenant: tenant.shown(), outcome, changes, steps, dry_run: how.dry_run }
}
