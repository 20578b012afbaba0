//! What is desired and what the store holds: written with the audit, read back when the end of a write is not known, taken
//! up when somebody else wrote. What a command does is told here to the audit when it ends.

use std::time::{Instant, SystemTime};

use serde_json::Value;
use stackmap::TenantName;

use super::{Owner, chain};
use crate::audit::{Entry, FORGET, Outcome, difference};
use crate::control::{Command, OpError, Who};
use crate::kernel::Kernel;
use crate::store::{Change, Desired, Expect, Revision, StoreError};

/// What is being done, for the audit.
#[derive(Debug, Clone)]
pub(super) struct Doing {
    /// On whose behalf.
    pub(super) who: Who,
    /// What was asked for; none: nothing that changes anything.
    verb: Option<&'static str>,
    about: Option<TenantName>,
    /// What it has written so far.
    pub(super) written: Vec<Revision>,
}

impl Doing {
    /// What the daemon does by itself.
    pub(super) fn by_the_daemon() -> Self {
        Self { who: Who::daemon(), verb: None, about: None, written: Vec::new() }
    }

    /// What somebody asked for.
    pub(super) fn new(who: Who, command: &Command) -> Self {
        Self { who, verb: command.verb(), about: command.about().cloned(), written: Vec::new() }
    }
}

/// How a command ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// With this.
    With(Outcome),
    /// Not yet: a task goes on with it.
    Later,
    /// It was nothing that the audit tells of.
    Nothing,
}

impl Ended {
    pub(super) fn of<T>(result: &Result<T, OpError>) -> Self {
        Self::With(result.as_ref().err().map_or(Outcome::Done, Outcome::of))
    }
}

impl<K: Kernel> Owner<K> {
    /// Write what shall be, and that it was asked for, in one transaction; then it is what is desired.
    pub(super) fn record(&mut self, desired: Desired) -> Result<(), StoreError> {
        let name = &desired.tenant.name;
        let before = self.desired.get(name);
        let expect = self.expect(name);
        let entry = self.entry("reconcile", name, before, Some(&desired));
        let begun = Instant::now();
        let written = self.store.put(&desired, expect, &entry);
        self.handle.live().stored("put", begun.elapsed());
        let revision = self.certain(written, |change| match change {
            Change::Put(found) if found.same(&desired) => Some(found.revision),
            _ => None,
        })?;
        self.doing.written.push(revision);
        self.desired.insert(name.clone(), Desired { revision, ..desired });
        Ok(())
    }

    /// What the store holds of a tenant, as far as is known here.
    pub(super) fn expect(&self, name: &TenantName) -> Expect {
        // A row that is not followed is the newer one, if both are there.
        let bad = self.bad_rows.expect(name);
        bad.or_else(|| self.desired.get(name).map(Desired::expect)).unwrap_or(Expect::Absent)
    }

    /// Nothing of a tenant is left: neither is its row.
    pub(super) fn forget(&mut self, name: &TenantName) -> Result<(), StoreError> {
        let known = self.revision;
        let before = self.desired.get(name);
        let expect = self.expect(name);
        let entry = Entry { verb: FORGET, ..self.entry(FORGET, name, before, None) };
        let begun = Instant::now();
        let written = self.store.remove(name, expect, &entry);
        self.handle.live().stored("remove", begun.elapsed());
        let revision = self.certain(written, |change| match change {
            Change::Removed { name: found, revision } if found == name => Some(*revision),
            _ => None,
        })?;
        // Of one that was absent already nothing is written.
        if revision > known {
            self.doing.written.push(revision);
        }
        self.desired.remove(name);
        self.bad_rows.forget(name);
        self.heed.forget(name);
        self.restarts.remove(name);
        self.maps.remove(name);
        Ok(())
    }

    /// The revision of a write; when it failed, the store is asked whether it took effect all the same.
    pub(super) fn certain(
        &mut self,
        written: Result<Revision, StoreError>,
        is_ours: impl Fn(&Change) -> Option<Revision>,
    ) -> Result<Revision, StoreError> {
        let found = match written {
            Ok(revision) => Ok(revision),
            Err(error) => {
                let changes = self.store.since(self.revision).unwrap_or_default();
                changes.iter().find_map(is_ours).ok_or(error)
            }
        };
        // A gap: somebody else wrote in between, and the watch will tell.
        if let Ok(revision) = found
            && revision.0 == self.revision.0 + 1
        {
            self.revision = revision;
        }
        found
    }

    /// Take up what others wrote to the store.
    pub(super) fn take_up(&mut self) {
        if *self.written.borrow_and_update() <= self.revision {
            return;
        }
        let changes = self.store.since(self.revision).or_else(|error| match error {
            StoreError::Compacted { .. } => self
                .store
                .load()
                .map(|snapshot| snapshot.rows.into_iter().map(|row| Change::Put(Box::new(row))).collect()),
            error => Err(error),
        });
        match changes {
            Ok(changes) => changes.into_iter().for_each(|change| self.take(change)),
            // The timer asks again.
            Err(error) => tracing::warn!(error = chain(&error), "changes of the store cannot be read"),
        }
    }

    fn take(&mut self, change: Change) {
        self.revision = self.revision.max(change.revision());
        let (name, desired) = match change {
            Change::Put(desired) => (desired.tenant.name.clone(), *desired),
            Change::Removed { name, .. } => {
                self.bad_rows.forget(&name);
                let Some(known) = self.desired.get(&name) else { return };
                // Its row is gone and it is not: taken down as a removal is, and there is nothing to be forgotten.
                (name, Desired { removing: true, revision: Revision(0), ..known.clone() })
            }
        };
        if self.desired.get(&name).is_some_and(|known| *known == desired) {
            return;
        }
        self.maps.remove(&name);
        if let Err(cause) = self.place(&desired) {
            // What was followed until now goes on.
            if let Some(known) = self.desired.get(&name).cloned() {
                let _ = self.place(&known);
            }
            self.not_followed(name.as_str(), desired.revision, cause);
            return;
        }
        self.bad_rows.forget(&name);
        self.desired.insert(name.clone(), desired);
        self.turns.last(name);
    }

    /// On the timer: what waits for the store, and what it could not tell before.
    pub(super) fn keep_store(&mut self) {
        if let Err(error) = self.store.flush() {
            tracing::warn!(error = chain(&error), "the audit waits to be written");
        }
        self.take_up();
    }

    /// The audit's entry of what is being done; `else_verb` when nobody asked for it.
    fn entry(
        &self,
        else_verb: &'static str,
        name: &TenantName,
        before: Option<&Desired>,
        after: Option<&Desired>,
    ) -> Entry {
        let verb = self.doing.verb.unwrap_or(else_verb);
        let (before, after) = difference(before, after);
        Entry { at_ms: now_ms(), who: self.doing.who.clone(), verb, tenant: Some(name.clone()), before, after }
    }

    /// What is being done has ended: the audit is told.
    pub(super) fn close(&mut self, ended: Ended) {
        let doing = std::mem::replace(&mut self.doing, Doing::by_the_daemon());
        let Ended::With(outcome) = ended else { return };
        for revision in &doing.written {
            self.store.finish(*revision, outcome.clone());
        }
        // Refused, or nothing of it is stored.
        if let Some(verb) = doing.verb
            && doing.written.is_empty()
        {
            self.doing.who = doing.who;
            self.note(verb, doing.about, None, outcome);
            self.doing = Doing::by_the_daemon();
        }
    }

    /// Tell the audit what changed nothing in the store, on behalf of who is being served.
    pub(super) fn note(
        &mut self,
        verb: &'static str,
        tenant: Option<TenantName>,
        after: Option<Value>,
        outcome: Outcome,
    ) {
        let who = self.doing.who.clone();
        self.store.note(Entry { at_ms: now_ms(), who, verb, tenant, before: None, after }, outcome);
    }
}

/// Unix time in milliseconds: of the wall clock, for showing.
pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_millis() as u64
}
