//! Tenants of a backup: compared with those that are there, checked as a whole, written at once. The kernel is brought to
//! them by ordinary passes, so what is the same is not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use stackmap::{Invalid, Maps, TenantName};

use super::Owner;
use super::declare::PutHow;
use super::errors::{chain, conflict};
use super::stored::now_ms;
use crate::audit::{Entry, difference};
use crate::control::OpError;
use crate::declare::changes;
use crate::kernel::Kernel;
use crate::model::*;
use crate::shares::check_nesting;
use crate::store::{Change, Copied, Desired, Revision, StoreError, Write};
use crate::world::StepError;
use tenant_init::client::ClientError;

/// Generations that a backup may have: far from the end of what a number holds, and exact in JSON (RFC 8259, 6).
const GENERATIONS: u64 = 1 << 53;

/// How a backup is restored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestoreHow {
    /// Only check and compare.
    pub dry_run: bool,
    /// Remove the tenants that are not in it.
    pub prune: bool,
    /// Also those in which processes run.
    pub force: bool,
    /// Take one of another machine or instance.
    pub accept: bool,
}

/// What a restore would do, and with which rows.
struct Difference {
    told: Restored,
    /// As they shall be; those to be removed are so marked.
    rows: Vec<Desired>,
}

impl<K: Kernel> Owner<K> {
    /// Bring the tenants to what a backup says. Nothing is changed when one of them cannot be.
    pub(super) async fn restore(&mut self, copied: Copied, how: RestoreHow) -> Result<Restored, OpError> {
        self.check_home(&copied, how)?;
        let Difference { told, rows } = self.against(&copied, how)?;
        let maps = self.maps_with(&rows)?;
        self.check_rows(&rows).await?;
        if how.dry_run {
            return Ok(told);
        }
        if !how.prune && !told.removed.is_empty() {
            let rule =
                "these tenants are there and not in the backup: --prune removes them, with their files".to_owned();
            return Err(OpError::Conflict { field: "prune".into(), value: told.removed.join(", "), rule });
        }
        for desired in rows.iter().filter(|desired| desired.removing && !how.force) {
            self.check_idle(&desired.tenant.name).await?;
        }
        if rows.is_empty() {
            return Ok(told);
        }
        let kept = self.store.keep_copy("before-restore").map_err(|error| cannot(&error))?;
        let revision = self.write_all(&rows)?;
        self.doing.written.push(revision);
        self.maps = maps;
        for desired in rows {
            let name = desired.tenant.name.clone();
            self.orphans.is_known_now(&name);
            self.bad_rows.forget(&name);
            self.failures.remove(&name);
            // Removals first: what they give up may be wanted.
            if desired.removing {
                self.turns.first(name.clone());
            } else {
                self.turns.last(name.clone());
            }
            self.desired.insert(name, Desired { revision, ..desired });
        }
        if let Err(error) = self.look_for_orphans().await {
            // The timer looks again.
            tracing::warn!(error = chain(&error), "cannot look for what is nobody's");
        }
        let (added, changed, removed) = (told.added.len(), told.changed.len(), told.removed.len());
        self.tell("restored", None, format!("{added} tenants added, {changed} changed, {removed} removed"));
        Ok(Restored { kept: Some(kept), ..told })
    }

    fn check_home(&self, copied: &Copied, how: RestoreHow) -> Result<(), OpError> {
        match (&copied.home, self.store.home()) {
            (Some(theirs), Some(ours)) if !how.accept && !theirs.is(&ours) => {
                let rule = format!(
                    "is a backup of another machine or instance, this is {ours}: --accept-store takes it all the same; \
                     export and import move tenants between servers"
                );
                Err(OpError::Conflict { field: "backup".into(), value: theirs.to_string(), rule })
            }
            _ => Ok(()),
        }
    }

    fn against(&self, copied: &Copied, how: RestoreHow) -> Result<Difference, OpError> {
        // What was on its way out when the backup was made need not come back.
        let wanted = copied.snapshot.rows.iter().filter(|row| !row.removing).map(|row| &row.tenant);
        // Ethernet addresses are of the instance: one of another instance gets ours.
        let ours =
            |tenant: &Tenant| Tenant { mac: tenant.segment().map(|at| self.kernel.macs(at).0), ..tenant.clone() };
        let wanted: BTreeMap<&TenantName, Tenant> = wanted.map(|tenant| (&tenant.name, ours(tenant))).collect();
        let mut told = Restored { dry_run: how.dry_run, revision: copied.snapshot.revision.0, ..Restored::default() };
        let mut rows = Vec::new();
        for (name, tenant) in &wanted {
            if tenant.generation >= GENERATIONS {
                let rule = format!("must be below {GENERATIONS}");
                return Err(Invalid::new(format!("{name}.generation"), tenant.generation, rule).into());
            }
            let Some(there) = self.desired.get(*name) else {
                told.added.push(name.to_string());
                rows.push(Desired::new(tenant.clone()));
                continue;
            };
            if there.removing {
                return Err(self.half_done(name));
            }
            let generation = there.tenant.generation;
            if (Tenant { generation, ..tenant.clone() }) == there.tenant {
                told.same += 1;
                continue;
            }
            let found = changes(&DeclaredTenant::from(&there.tenant), &DeclaredTenant::from(tenant));
            if let Some(fixed) = found.iter().find(|change| !change.in_place) {
                let (field, value) = (format!("{name}.{}", fixed.field), fixed.after.clone().unwrap_or_default());
                let rule = format!(
                    "tenant {name} has {:?}, which cannot be changed while it is there; remove-tenant {name} first",
                    fixed.before.as_deref().unwrap_or_default()
                );
                return Err(OpError::Conflict { field: field.into(), value, rule });
            }
            told.changed.push(RestoredTenant { name: name.to_string(), changes: found });
            let generation = generation.max(tenant.generation) + 1;
            rows.push(Desired { tenant: Tenant { generation, ..tenant.clone() }, ..there.clone() });
        }
        for (name, there) in self.desired.iter().filter(|(name, there)| !wanted.contains_key(name) && !there.removing) {
            told.removed.push(name.to_string());
            rows.push(Desired { removing: true, ..there.clone() });
        }
        Ok(Difference { told, rows })
    }

    /// Checks every row as a put of its tenant does: what a file says that somebody brings has passed no rule of ours.
    async fn check_rows(&mut self, rows: &[Desired]) -> Result<(), OpError> {
        let mut shared = BTreeSet::new();
        for tenant in rows.iter().filter(|row| !row.removing).map(|row| &row.tenant) {
            let name = &tenant.name;
            let at = |refused: Invalid| {
                let field = format!("{name}.{}", refused.field);
                OpError::from(refused.for_field(field))
            };
            self.check_row(tenant).await.map_err(|error| match error {
                OpError::Invalid(refused) => at(refused),
                OpError::Conflict { field, value, rule } => {
                    OpError::Conflict { field: format!("{name}.{field}").into(), value, rule }
                }
                other => other,
            })?;
            shared.extend(tenant.shares.iter().map(|share| (Path::new(&share.directory), name)));
        }
        // In this order whatever lies in a directory comes right after it.
        let shared: Vec<_> = shared.into_iter().collect();
        for pair in shared.windows(2) {
            let [(outer, _), (inner, name)] = pair else { continue };
            check_nesting(inner, [*outer]).map_err(|refused| refused.for_field(format!("{name}.shares")))?;
        }
        Ok(())
    }

    async fn check_row(&mut self, tenant: &Tenant) -> Result<(), OpError> {
        let declared = DeclaredTenant::from(tenant);
        declared.check()?;
        let before = self.desired.get(&tenant.name).map(|desired| desired.tenant.clone());
        if tenant.whole_device {
            let held = before.as_ref().is_some_and(|before| before.whole_device && before.device == tenant.device);
            let here = self.kernel.card_is_here(&tenant.device).await;
            if !held && !here.map_err(|error| super::errors::not_done(&tenant.name, "read", &error))? {
                let rule = "no such network card in the server's own network namespace";
                return Err(Invalid::new("device", &tenant.device, rule).into());
            }
        } else if tenant.device != tenant.stack.port_name() || tenant.vlan.is_none() {
            let rule = format!("is not the port of {} on a VLAN", tenant.stack);
            return Err(Invalid::new("device", &tenant.device, rule).into());
        }
        self.kernel.check_house(&declared.request(&tenant.name)).await?;
        if before.as_ref().is_some_and(|before| before.filter != tenant.filter) {
            self.kernel.check_filter(&tenant.name, &tenant.filter).await?;
        }
        let shares = before.as_ref().map(|before| before.shares.clone()).unwrap_or_default();
        let mut made = Tenant { shares, ..tenant.clone() };
        let how = PutHow { dry_run: true, replace: false };
        self.complete(&mut made, &declared, how, before.as_ref()).await?;
        if made.services != tenant.services {
            return Err(Invalid::new("services", tenant.services.len(), "each must have a name of its own").into());
        }
        let sorted = |shares: &[ShareMount]| shares.iter().cloned().collect::<BTreeSet<_>>();
        if sorted(&made.shares) != sorted(&tenant.shares) {
            return Err(Invalid::new("shares", tenant.shares.len(), "one is to be seen under another name").into());
        }
        Ok(())
    }

    /// The tables with these rows in the place of what is there. One that is to be removed has its keys until it is gone.
    fn maps_with(&self, rows: &[Desired]) -> Result<Maps, OpError> {
        let mut maps = Maps::new();
        let names: BTreeSet<&TenantName> = rows.iter().map(|row| &row.tenant.name).collect();
        let others = self.desired.values().filter(|desired| !names.contains(&desired.tenant.name));
        for desired in others.chain(rows) {
            maps.add(self.flow_of(&desired.tenant)?).map_err(conflict)?;
        }
        Ok(maps)
    }

    /// Refuses to end a tenant in which processes run.
    pub(super) async fn check_idle(&mut self, name: &TenantName) -> Result<(), OpError> {
        match self.kernel.processes(name).await {
            Ok(0) | Err(StepError::Init(ClientError::Gone { .. })) => Ok(()),
            // One that does not answer may well have processes.
            Err(error) => Err(super::errors::not_done(name, "processes", &error)),
            Ok(processes) => Err(OpError::Busy { name: name.clone(), processes }),
        }
    }

    /// All rows at once; when the answer is lost, the store is asked whether they are there.
    fn write_all(&mut self, rows: &[Desired]) -> Result<Revision, OpError> {
        let writes: Vec<Write> = rows
            .iter()
            .map(|desired| {
                let before = self.desired.get(&desired.tenant.name);
                let (was, is) = difference(before, Some(desired));
                let (who, tenant) = (self.doing.who.clone(), Some(desired.tenant.name.clone()));
                let entry = Entry { at_ms: now_ms(), who, verb: "restore", tenant, before: was, after: is };
                let expect = self.expect(&desired.tenant.name);
                Write { desired: desired.clone(), expect, entry }
            })
            .collect();
        let begun = Instant::now();
        let written = self.store.put_all(&writes);
        self.handle.live().stored("put", begun.elapsed());
        let first = &rows[0];
        self.certain(written, |change| match change {
            Change::Put(found) if found.same(first) => Some(found.revision),
            _ => None,
        })
        .map_err(|error: StoreError| cannot(&error))
    }
}

fn cannot(error: &StoreError) -> OpError {
    OpError::CannotRestore { cause: chain(error) }
}
