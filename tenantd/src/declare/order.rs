//! Every tenant of a server against the declarative file: what is done, and who waits for whom. What one tenant gives up
//! another may take, so removals come first, then changes in place, each after those that free what it takes, then new
//! tenants. Two that take from each other first both give up what moves.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use stackmap::{GidRange, Invalid, StackIndex, TenantName, TunnelSpec, Vlan};
use utoipa::ToSchema;

use super::Wanted;
use super::diff::{changes, same_tunnel, settle};
use crate::model::{DeclaredTenant, Export, Exported, FieldChange};
use crate::problem::{Problem, ProblemKind};

/// What may be done beyond adding tenants and changing them in place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permission {
    /// Tenants that the file does not name are removed.
    pub prune: bool,
    /// These may be ended and made again.
    pub replace: BTreeSet<TenantName>,
}

/// What becomes of one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is made.
    Add,
    /// It is changed in place.
    Change,
    /// It is ended and made again.
    Replace,
    /// It is removed.
    Remove,
    /// It is so already.
    Same,
    /// It is not in the file, and stays.
    Left,
    /// It cannot be brought there; see `reason`.
    Refused,
}

/// A tenant in the comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantDiff {
    /// Tenant.
    #[schema(value_type = String)]
    pub name: TenantName,
    /// What is done.
    pub verdict: Verdict,
    /// Fields that differ; of a new tenant none, its fields are in the file.
    #[serde(default)]
    pub changes: Vec<FieldChange>,
    /// With `refused`: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl TenantDiff {
    /// Why it is refused, as a problem; none when it is not.
    #[must_use]
    pub fn problem(&self) -> Option<Problem> {
        let reason = self.reason.as_ref()?;
        let fixed = self.changes.iter().find(|change| !change.in_place);
        Some(match fixed {
            Some(change) => {
                let value = change.after.clone().unwrap_or_default();
                Problem::at(ProblemKind::Conflict, &Invalid::new(change.field.clone(), value, reason.clone()))
            }
            None => Problem::new(ProblemKind::HalfDone, reason.clone()),
        })
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Remove the tenant.
    Remove {
        /// Tenant.
        name: TenantName,
        /// Its processes are ended: it was said by name that it may be.
        force: bool,
    },
    /// Bring it to this; with `replace` by ending it first when nothing else helps. What `give_up` says is not the end:
    /// the tenant is put again later.
    Put {
        /// Tenant.
        name: TenantName,
        /// As it shall be.
        tenant: Box<DeclaredTenant>,
        /// It may be ended and made again.
        replace: bool,
        /// Only frees what another one takes.
        give_up: bool,
    },
}

impl Task {
    /// Whether a tenant is ended by it, or may be.
    #[must_use]
    pub fn ends(&self) -> bool {
        matches!(self, Self::Remove { .. } | Self::Put { replace: true, .. })
    }

    /// The tenant it is about.
    #[must_use]
    pub fn name(&self) -> &TenantName {
        match self {
            Self::Remove { name, .. } | Self::Put { name, .. } => name,
        }
    }
}

/// What is to be done, and what is said about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Every tenant of file and server, by name.
    pub tenants: Vec<TenantDiff>,
    /// Waves: what is in one can be done at the same time, and waits for those before.
    pub waves: Vec<Vec<Task>>,
}

/// A comparison as `diff --json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Found {
    /// True when something would be done, or cannot be.
    pub differs: bool,
    /// Every tenant of file and server, by name.
    pub tenants: Vec<TenantDiff>,
}

impl From<&Schedule> for Found {
    fn from(schedule: &Schedule) -> Self {
        Self { differs: schedule.differs(), tenants: schedule.tenants.clone() }
    }
}

impl Schedule {
    /// True when something would be done, or cannot be.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.tenants.iter().any(|t| !matches!(t.verdict, Verdict::Same | Verdict::Left))
    }
}

/// Leaves out the name of the first trunk of the server where it says nothing new.
pub fn unname_first(wanted: &mut Wanted, export: &Export) {
    for (name, tenant) in &mut wanted.tenants {
        let there = export.tenants.iter().find(|there| there.name == *name).map(|there| &there.tenant);
        tenant.unname_first(&export.first_trunk, there);
    }
}

/// Compares what is wanted with what is there.
#[must_use]
pub fn schedule(wanted: &Wanted, there: &[Exported], may: &Permission) -> Schedule {
    let there: BTreeMap<_, _> = there.iter().map(|t| (&t.name, t)).collect();
    let mut out = Schedule::default();
    let mut put = BTreeMap::new();
    let (mut remove, mut replace, mut change, mut add) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (name, after) in &wanted.tenants {
        let (verdict, changes, reason) = match there.get(name) {
            None => (Verdict::Add, Vec::new(), None),
            Some(before) if before.removing => {
                (Verdict::Refused, Vec::new(), Some("its removal goes on; try again when it is gone".to_owned()))
            }
            Some(before) => judge(changes(&before.tenant, after), may.replace.contains(name)),
        };
        let before = there.get(name).map(|before| &before.tenant);
        match verdict {
            Verdict::Add => add.push(name),
            Verdict::Change => change.push(name),
            Verdict::Replace => replace.push(name),
            _ => {}
        }
        put.insert(name, before.map_or_else(|| after.clone(), |before| settle(before, after)));
        out.tenants.push(TenantDiff { name: name.clone(), verdict, changes, reason });
    }
    for (name, _) in there.iter().filter(|(name, _)| !wanted.tenants.contains_key(**name)) {
        let verdict = if may.prune { Verdict::Remove } else { Verdict::Left };
        if may.prune {
            remove.push(*name);
        }
        out.tenants.push(TenantDiff { name: (*name).clone(), verdict, changes: Vec::new(), reason: None });
    }
    // One that stays has what it would take: it must not be ended for that.
    let left = |name: &TenantName| !may.prune && !wanted.tenants.contains_key(name);
    let left: Vec<_> = there.iter().filter(|(name, _)| left(name)).collect();
    replace.retain(|name| {
        let Some((holder, _)) = left.iter().find(|(_, other)| collide(&put[name], &other.tenant)) else { return true };
        let reason = format!("tenant {holder}, which is not in the file and stays, has a number or a tunnel of it");
        for diff in out.tenants.iter_mut().filter(|diff| diff.name == **name) {
            (diff.verdict, diff.reason) = (Verdict::Refused, Some(reason.clone()));
        }
        put.insert(*name, there[*name].tenant.clone());
        false
    });
    out.tenants.sort_by(|a, b| a.name.cmp(&b.name));
    let gone: BTreeSet<_> = remove.iter().chain(&replace).copied().collect();
    let staying = there.iter().filter(|(name, _)| !gone.contains(*name)).map(|(_, t)| &t.tenant);
    number(&mut put, staying);

    let task = |name: &TenantName, replace, put: &BTreeMap<&TenantName, DeclaredTenant>| Task::Put {
        name: name.clone(),
        tenant: Box::new(put.get(name).cloned().unwrap_or_default()),
        replace,
        give_up: false,
    };
    let mut wave = |tasks: Vec<Task>| {
        if !tasks.is_empty() {
            out.waves.push(tasks);
        }
    };
    let removal = |name: &TenantName, force| Task::Remove { name: name.clone(), force };
    wave(remove.into_iter().map(|name| removal(name, false)).collect());
    // What is replaced and has what another one takes ends before that one's turn.
    let gives = |name: &&&TenantName| {
        let mut others = put.iter().filter(|(other, _)| *other != *name);
        there.get(**name).is_some_and(|mine| others.any(|(_, other)| collide(&mine.tenant, other)))
    };
    wave(replace.iter().filter(gives).map(|name| removal(name, true)).collect());
    let held = |name: &TenantName| there.get(name).map(|t| t.tenant.tunnels.as_slice()).unwrap_or_default();
    let (give_up, changes) = changes_in_order(&change, &put, held);
    let freed = |name: &TenantName| {
        let taken = |t: &TunnelSpec| {
            let others = put.iter().filter(|(other, _)| **other != name);
            others.flat_map(|(_, tenant)| &tenant.tunnels).any(|theirs| same_tunnel(t, theirs))
        };
        let before = there.get(name).map(|t| t.tenant.clone()).unwrap_or_default();
        let tunnels = before.tunnels.iter().filter(|t| !taken(t)).cloned().collect();
        let tenant = Box::new(DeclaredTenant { tunnels, ..before });
        Task::Put { name: name.clone(), tenant, replace: false, give_up: true }
    };
    wave(give_up.into_iter().map(freed).collect());
    for level in changes {
        wave(level.into_iter().map(|name| task(name, false, &put)).collect());
    }
    wave(replace.iter().map(|name| task(name, true, &put)).collect());
    wave(add.iter().map(|name| task(name, false, &put)).collect());
    out
}

/// What the differences of a tenant that is there mean.
fn judge(changes: Vec<FieldChange>, replace: bool) -> (Verdict, Vec<FieldChange>, Option<String>) {
    let fixed: Vec<_> = changes.iter().filter(|c| !c.in_place).map(|c| c.field.as_str()).collect();
    match (changes.is_empty(), fixed.is_empty()) {
        (true, _) => (Verdict::Same, changes, None),
        (_, true) => (Verdict::Change, changes, None),
        _ if replace => (Verdict::Replace, changes, None),
        _ => {
            let reason = format!(
                "{} cannot be changed while it is there; --replace NAME ends it, with its files, and makes it again",
                fixed.join(", ")
            );
            (Verdict::Refused, changes, Some(reason))
        }
    }
}

/// True when both cannot be there at the same time.
fn collide(a: &DeclaredTenant, b: &DeclaredTenant) -> bool {
    let number = (a.vlan.is_some() && a.vlan == b.vlan && a.trunk == b.trunk)
        || (a.stack.is_some() && a.stack == b.stack)
        || (a.gid.is_some() && a.gid == b.gid)
        || (a.device.is_some() && a.device == b.device);
    number || a.tunnels.iter().any(|t| b.tunnels.iter().any(|other| same_tunnel(t, other)))
}

/// Changes in place, in levels: each tenant after those that give up a tunnel it takes. First of all those that have to
/// give one up because they wait for each other.
fn changes_in_order<'a, 't>(
    changed: &[&'a TenantName],
    put: &BTreeMap<&TenantName, DeclaredTenant>,
    held: impl Fn(&TenantName) -> &'t [TunnelSpec],
) -> (Vec<&'a TenantName>, Vec<Vec<&'a TenantName>>) {
    let mut holder = BTreeMap::new();
    for name in changed {
        holder.extend(held(name).iter().map(|t| (tunnel_key(t), *name)));
    }
    // Of whom each has to wait.
    let mut waits: BTreeMap<&TenantName, BTreeSet<&TenantName>> = BTreeMap::new();
    for name in changed {
        let wanted = put.get(name).map(|t| t.tunnels.as_slice()).unwrap_or_default();
        let of = wanted.iter().filter_map(|t| holder.get(&tunnel_key(t))).copied().filter(|other| other != name);
        waits.insert(name, of.collect());
    }
    let (mut give_up, mut levels) = (Vec::new(), Vec::new());
    while !waits.is_empty() {
        let ready: Vec<_> = waits.iter().filter(|(_, of)| of.is_empty()).map(|(name, _)| *name).collect();
        if ready.is_empty() {
            // They wait for each other: whom somebody waits for gives up what moves, and nobody has to wait.
            let of: BTreeSet<_> = waits.values().flatten().copied().collect();
            give_up.extend(of);
            waits.values_mut().for_each(BTreeSet::clear);
            continue;
        }
        waits.retain(|name, _| !ready.contains(name));
        waits.values_mut().for_each(|of| of.retain(|name| !ready.contains(name)));
        levels.push(ready);
    }
    (give_up, levels)
}

/// What a tunnel is known by; a local end that is left open is a value of its own.
pub(super) fn tunnel_key(t: &TunnelSpec) -> String {
    let plain = TunnelSpec::new(t.kind(), t.remote(), t.local(), t.key(), Vec::new());
    plain.map(|t| t.to_string()).unwrap_or_default()
}

/// Chooses the numbers that new tenants leave open: the lowest that nobody has or asks for. Chosen here and not one by
/// one at the server, so that a tenant that asks for a number never finds that it was just given to one that did not.
fn number<'a>(put: &mut BTreeMap<&TenantName, DeclaredTenant>, staying: impl Iterator<Item = &'a DeclaredTenant>) {
    let (mut vlans, mut stacks, mut gids) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let all: Vec<_> = staying.cloned().chain(put.values().cloned()).collect();
    for tenant in &all {
        vlans.extend(tenant.vlan.map(|vlan| (tenant.trunk.clone(), vlan.get())));
        stacks.extend(tenant.stack.map(|stack| stack.0));
        gids.extend(tenant.gid);
    }
    // VLAN 1 last, as the server does: much equipment has its own traffic there.
    let mut candidates: BTreeMap<Option<String>, _> = BTreeMap::new();
    let mut free_vlan = |trunk: &Option<String>| {
        let all = candidates.entry(trunk.clone()).or_insert_with(|| (2..=Vlan::MAX).chain([1]));
        all.find(|n| !vlans.contains(&(trunk.clone(), *n))).and_then(|n| Vlan::new(n).ok())
    };
    let mut free_stacks = (0..).filter(|n| !stacks.contains(n)).map(StackIndex);
    let all_gids = (GidRange::FIRST.get()..=GidRange::LAST.get()).step_by(GidRange::LEN as usize);
    let mut free_gids = all_gids.filter(|n| !gids.contains(n));
    for tenant in put.values_mut() {
        if tenant.vlan.is_none() && tenant.device.is_none() {
            tenant.vlan = free_vlan(&tenant.trunk);
        }
        tenant.stack = tenant.stack.or_else(|| free_stacks.next());
        tenant.gid = tenant.gid.or_else(|| free_gids.next());
    }
}

#[cfg(test)]
pub(super) fn number_for_tests(tenants: &mut BTreeMap<TenantName, DeclaredTenant>) {
    let mut put: BTreeMap<_, _> = tenants.iter().map(|(name, tenant)| (name, tenant.clone())).collect();
    number(&mut put, std::iter::empty());
    let numbered: Vec<_> = put.into_values().collect();
    tenants.values_mut().zip(numbered).for_each(|(tenant, numbered)| *tenant = numbered);
}
