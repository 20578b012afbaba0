//! Rows of the store that are not followed: damaged ones, and those that contradict another one. They keep nobody else
//! from what is desired. Each stays as it is until a backup is restored over it or an operator gives it up; what lives of
//! its tenant meanwhile is kept like that of a tenant that the store does not know.

use std::collections::BTreeMap;

use stackmap::TenantName;

use super::errors::not_done;
use super::{Owner, chain};
use crate::control::OpError;
use crate::kernel::Kernel;
use crate::store::{Desired, Expect, Revision, Snapshot};

/// The rows, by name.
#[derive(Debug, Default)]
pub(super) struct BadRows {
    named: BTreeMap<TenantName, (Revision, String)>,
    /// Those whose very name is none.
    nameless: Vec<String>,
}

impl BadRows {
    /// One more.
    pub(super) fn add(&mut self, name: &str, revision: Revision, cause: String) {
        match name.parse() {
            Ok(name) => drop(self.named.insert(name, (revision, cause))),
            Err(_) => self.nameless.push(format!("{name:?}: {cause}")),
        }
    }

    /// It is there no more, or is followed now.
    pub(super) fn forget(&mut self, name: &TenantName) {
        self.named.remove(name);
    }

    /// Refuses what would be done to a tenant whose row is not followed.
    pub(super) fn check(&self, name: &TenantName) -> Result<(), OpError> {
        match self.named.get(name) {
            Some((_, cause)) => Err(OpError::BadRow { name: name.clone(), cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// What the store must hold for a write over such a row.
    pub(super) fn expect(&self, name: &TenantName) -> Option<Expect> {
        self.named.get(name).map(|(revision, _)| Expect::At(*revision))
    }

    /// What is to be said of them.
    pub(super) fn words(&self) -> Vec<String> {
        let named = self.named.iter().map(|(name, (_, cause))| format!("{name}: {cause}"));
        named.chain(self.nameless.iter().cloned()).collect()
    }
}

impl<K: Kernel> Owner<K> {
    /// Takes up what the store holds; what cannot be followed is told.
    pub(super) fn take_all(&mut self, snapshot: Snapshot) {
        self.revision = snapshot.revision;
        for row in snapshot.unreadable {
            self.not_followed(&row.name, row.revision, row.cause);
        }
        let mut rows = snapshot.rows;
        // Of two that contradict each other the one that was there first is followed, at every start the same.
        rows.sort_by(|a, b| (a.revision, &a.tenant.name).cmp(&(b.revision, &b.tenant.name)));
        for desired in rows {
            let name = desired.tenant.name.clone();
            match self.place(&desired) {
                Ok(()) => {
                    self.turns.last(name.clone());
                    self.desired.insert(name, desired);
                }
                Err(cause) => self.not_followed(name.as_str(), desired.revision, cause),
            }
        }
    }

    /// Puts a row into the tables; why it contradicts what is there already.
    pub(super) fn place(&mut self, desired: &Desired) -> Result<(), String> {
        let request = self.flow_of(&desired.tenant).map_err(|error| error.to_string())?;
        self.maps.add(request).map(drop).map_err(|error| error.to_string())
    }

    pub(super) fn not_followed(&mut self, name: &str, revision: Revision, cause: String) {
        tracing::error!(tenant = name, cause, "a row of the store is not followed");
        self.tell("bad-row", name.parse().ok().as_ref(), cause.clone());
        self.bad_rows.add(name, revision, cause);
    }

    /// Ends what lives of a tenant whose row is not followed, and removes the row.
    pub(super) async fn give_up(&mut self, name: &TenantName, force: bool) -> Result<(), OpError> {
        if !force {
            return self.bad_rows.check(name);
        }
        match self.remove_orphan(name, true).await {
            // Nothing of it lives.
            Ok(()) | Err(OpError::Unknown { .. }) => {}
            Err(error) => return Err(error),
        }
        self.forget(name).map_err(|error| not_done(name, "store", &error))?;
        self.tell("tenant-removed", Some(name), "its row was not followed".into());
        // Who waited for what it had, and what of it nobody has now.
        if let Err(error) = self.look_for_orphans().await {
            tracing::warn!(error = chain(&error), "cannot look for what is nobody's");
        }
        Ok(())
    }
}
