//! Tenants that live and that the store does not know. Their keys are kept from others, a tenant of the store that has
//! one of these keys waits, and nothing of them is swept. They come about when a store is lost, or a backup of it is put
//! back that is older than the machine: what is then right only an operator can say.

use std::collections::{BTreeMap, BTreeSet};

use stackmap::{FlowRequest, LinkRequest, TenantName};

use super::Owner;
use super::errors::half_made;
use crate::control::OpError;
use crate::kernel::Kernel;
use crate::world::{Orphan, StepError};

/// The orphans, and who waits for them.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    found: BTreeMap<TenantName, Orphan>,
    /// Tenants of the store, and the orphan that has what is theirs.
    waiting: BTreeMap<TenantName, TenantName>,
    /// Whether the machine could be looked through at least once: until then there may be some.
    looked: bool,
}

impl Orphans {
    /// What is to be said of them.
    pub(super) fn words(&self) -> Vec<String> {
        self.found.values().map(Orphan::words).collect()
    }

    /// Refuses a pass for a tenant whose keys an orphan has.
    pub(super) fn check(&self, name: &TenantName) -> Result<(), StepError> {
        match self.waiting.get(name) {
            Some(orphan) => Err(StepError::Orphan { orphan: orphan.clone() }),
            None => Ok(()),
        }
    }

    /// The store knows it again: it is no orphan, and what it has is its own.
    pub(super) fn is_known_now(&mut self, name: &TenantName) {
        self.found.remove(name);
    }

    /// Whether one lives, or may.
    pub(super) fn any_lives(&self) -> bool {
        !self.looked || self.found.values().any(Orphan::lives)
    }

    fn living(&self) -> impl Iterator<Item = &Orphan> {
        self.found.values().filter(|orphan| orphan.lives())
    }
}

impl<K: Kernel> Owner<K> {
    /// Looks for orphans, and removes what is nobody's: at the start, and with every full pass.
    pub(super) async fn look_for_orphans(&mut self) -> Result<(), StepError> {
        let known: BTreeSet<TenantName> = self.desired.keys().cloned().collect();
        let found = self.kernel.orphans(&known).await?;
        let found: BTreeMap<_, _> = found.into_iter().map(|orphan| (orphan.name.clone(), orphan)).collect();
        let before = std::mem::take(&mut self.orphans.found);
        for (name, orphan) in &before {
            if !found.contains_key(name) {
                self.maps.remove(name);
                self.tell("orphan-gone", Some(name), "it is not on the machine any more".into());
            } else if orphan.lives() && !found.get(name).is_some_and(Orphan::lives) {
                self.maps.remove(name);
            }
        }
        for (name, orphan) in &found {
            if before.get(name).is_none_or(|was| was.lives() != orphan.lives()) {
                tracing::warn!(orphan = orphan.words(), "a tenant that the store does not know");
                self.tell("orphan", Some(name), orphan.words());
            }
            self.keep_keys(orphan);
        }
        self.orphans.found = found;
        if !std::mem::replace(&mut self.orphans.looked, true) {
            // The access server's rows were left as they were because there might have been some.
            self.trunks.ask_again();
        }
        self.orphans.waiting = self.who_waits();
        self.sweep(known).await
    }

    /// Its keys are its own as long as it lives; those that a tenant of the store has already are that one's, who waits.
    fn keep_keys(&mut self, orphan: &Orphan) {
        if !orphan.lives() || self.maps.flow(&orphan.name).is_some() {
            return;
        }
        let Ok(meta) = self.meta(1) else { return };
        let mut request = FlowRequest::new(orphan.name.clone(), meta);
        (request.stack, request.gid) = (orphan.stack, orphan.ids);
        let at = orphan.segments.first().copied();
        let trunk = at.map(|at| at.trunk).unwrap_or_default();
        request.link = LinkRequest::Port { trunk, vlan: at.map(|at| at.vlan) };
        let _ = self.maps.add(request);
    }

    fn who_waits(&self) -> BTreeMap<TenantName, TenantName> {
        let mut waiting = BTreeMap::new();
        for orphan in self.orphans.living() {
            let same = self.desired.values().map(|desired| &desired.tenant).filter(|tenant| {
                tenant.segment().is_some_and(|at| orphan.segments.contains(&at))
                    || Some(tenant.gid) == orphan.ids
                    || Some(tenant.stack) == orphan.stack
            });
            waiting.extend(same.map(|tenant| (tenant.name.clone(), orphan.name.clone())));
        }
        waiting
    }

    /// Removes what neither a tenant of the store nor an orphan has: left by a daemon that was killed after it forgot and
    /// before it removed, or by an orphan that has ended. Nothing, while it is not known what an orphan has.
    async fn sweep(&mut self, mut names: BTreeSet<TenantName>) -> Result<(), StepError> {
        if !self.orphans.found.values().all(Orphan::is_known) {
            tracing::warn!(
                "nothing is swept: of a tenant that the store does not know it is not known what is its own"
            );
            return Ok(());
        }
        let mut segments: BTreeSet<_> = self.desired.values().filter_map(|d| d.tenant.segment()).collect();
        let mut ids: BTreeSet<_> = self.desired.values().map(|d| d.tenant.gid.get()).collect();
        for orphan in self.orphans.living() {
            segments.extend(&orphan.segments);
            ids.extend(orphan.ids.map(|ids| ids.get()));
            names.insert(orphan.name.clone());
        }
        for at in self.kernel.ports().await?.difference(&segments) {
            tracing::warn!(%at, "removing a leftover port");
            self.kernel.sweep(*at).await?;
        }
        self.kernel.sweep_dead(&names, &ids)
    }

    /// Ends an orphan, or says that there is none of this name.
    pub(super) async fn remove_orphan(&mut self, name: &TenantName, force: bool) -> Result<(), OpError> {
        let unknown = || OpError::Unknown { what: "tenant", name: name.to_string() };
        let orphan = self.orphans.found.get(name).filter(|orphan| orphan.lives()).cloned().ok_or_else(unknown)?;
        if !force {
            return Err(OpError::Busy { name: name.clone(), processes: orphan.processes.len() });
        }
        self.kernel.end_orphan(&orphan).await.map_err(|error| half_made(name, "end", &error))?;
        self.look_for_orphans().await.map_err(|error| half_made(name, "sweep", &error))?;
        // Those that waited for it.
        self.look_at_all();
        // Its row, which was kept for it, goes with the rows of nobody.
        self.trunks.ask_again();
        Ok(())
    }
}
