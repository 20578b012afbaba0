//! A store in memory, for tests: the naive model of what the trait promises. Clones share one state, so that a daemon can
//! be dropped and another one started over the same store, as after a kill.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stackmap::TenantName;
use tokio::sync::watch;

use super::{Change, Copying, Desired, Expect, Health, Home, Revision, Snapshot, Store, StoreError, Write};
use crate::audit::{AuditResult, AuditRow, Entry, FORGET, Outcome, Query};

/// A store in memory.
#[derive(Debug, Clone)]
pub(crate) struct MemoryStore {
    state: Arc<Mutex<State>>,
    revision: watch::Sender<Revision>,
}

#[derive(Debug, Default)]
struct State {
    rows: BTreeMap<TenantName, Desired>,
    removed: BTreeMap<TenantName, Revision>,
    revision: Revision,
    audit: Vec<AuditRow>,
}

impl MemoryStore {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), revision: watch::channel(Revision(0)).0 }
    }

    /// What a daemon that was killed left open, as a real store shows it at its next start.
    pub(crate) fn reopen(&self) -> Self {
        let open = |row: &&mut AuditRow| row.result == AuditResult::Open;
        self.state().audit.iter_mut().filter(open).for_each(|row| row.result = AuditResult::Unfinished);
        self.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(
        &self,
        name: &TenantName,
        expect: Expect,
        entry: &Entry,
        what: impl FnOnce(&mut State, Revision),
    ) -> Result<Revision, StoreError> {
        let mut state = self.state();
        let found = state.rows.get(name).map(|row| row.revision);
        if !expect.holds(found) {
            return Err(StoreError::Stale { name: name.clone(), expected: expect, found });
        }
        let revision = Revision(state.revision.0 + 1);
        state.revision = revision;
        what(&mut state, revision);
        state.push(entry, Some(revision), &None);
        drop(state);
        self.revision.send_replace(revision);
        Ok(revision)
    }
}

impl State {
    fn push(&mut self, entry: &Entry, revision: Option<Revision>, outcome: &Option<Outcome>) {
        let (result, reason) = outcome.as_ref().map_or((AuditResult::Open, None), Outcome::words);
        let who = &entry.who;
        self.audit.push(AuditRow {
            id: self.audit.len() as u64 + 1,
            revision: revision.map(|revision| revision.0),
            at_ms: entry.at_ms,
            origin: who.origin,
            uid: Some(who.uid),
            gid: Some(who.gid),
            pid: Some(who.pid).filter(|pid| *pid != 0),
            command: Some(who.comm.clone()).filter(|comm| !comm.is_empty()),
            verb: entry.verb.to_owned(),
            tenant: entry.tenant.as_ref().map(ToString::to_string),
            before: entry.before.clone(),
            after: entry.after.clone(),
            result,
            reason: reason.map(str::to_owned),
        });
    }
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Snapshot, StoreError> {
        let state = self.state();
        let rows = state.rows.values().cloned().collect();
        Ok(Snapshot { revision: state.revision, rows, unreadable: Vec::new() })
    }

    fn put(&mut self, desired: &Desired, expect: Expect, entry: &Entry) -> Result<Revision, StoreError> {
        let name = &desired.tenant.name;
        self.write(name, expect, entry, |state, revision| {
            state.removed.remove(name);
            state.rows.insert(name.clone(), Desired { revision, ..desired.clone() });
        })
    }

    fn remove(&mut self, name: &TenantName, expect: Expect, entry: &Entry) -> Result<Revision, StoreError> {
        if expect == Expect::Absent && !self.state().rows.contains_key(name) {
            return Ok(self.state().revision);
        }
        self.write(name, expect, entry, |state, revision| {
            state.rows.remove(name);
            state.removed.insert(name.clone(), revision);
        })
    }

    fn put_all(&mut self, writes: &[Write]) -> Result<Revision, StoreError> {
        let mut state = self.state();
        for write in writes {
            let name = &write.desired.tenant.name;
            let found = state.rows.get(name).map(|row| row.revision);
            if !write.expect.holds(found) {
                return Err(StoreError::Stale { name: name.clone(), expected: write.expect, found });
            }
        }
        let revision = Revision(state.revision.0 + 1);
        state.revision = revision;
        for write in writes {
            let name = &write.desired.tenant.name;
            state.removed.remove(name);
            state.rows.insert(name.clone(), Desired { revision, ..write.desired.clone() });
            state.push(&write.entry, Some(revision), &None);
        }
        drop(state);
        self.revision.send_replace(revision);
        Ok(revision)
    }

    fn backup(&mut self) -> Result<Copying, StoreError> {
        let text = format!("{:?}", self.load()?);
        Ok(Copying::new(move || Ok(text.into_bytes())))
    }

    fn keep_copy(&mut self, why: &'static str) -> Result<String, StoreError> {
        Ok(why.to_owned())
    }

    fn home(&self) -> Option<Home> {
        None
    }

    fn since(&mut self, revision: Revision) -> Result<Vec<Change>, StoreError> {
        let state = self.state();
        let put = state.rows.values().cloned().map(|row| Change::Put(Box::new(row)));
        let removed = state.removed.iter().map(|(name, r)| Change::Removed { name: name.clone(), revision: *r });
        let mut all: Vec<Change> = put.chain(removed).filter(|change| change.revision() > revision).collect();
        all.sort_by_key(Change::revision);
        Ok(all)
    }

    fn watch(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    fn finish(&mut self, revision: Revision, outcome: Outcome) {
        let (result, reason) = outcome.words();
        let mut state = self.state();
        for row in state.audit.iter_mut().filter(|row| row.revision == Some(revision.0)) {
            (row.result, row.reason) = (result, reason.map(str::to_owned));
        }
    }

    fn note(&mut self, entry: Entry, outcome: Outcome) {
        self.state().push(&entry, None, &Some(outcome));
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn audit(&mut self, query: &Query) -> Result<Vec<AuditRow>, StoreError> {
        let state = self.state();
        let tenant = query.tenant.as_ref().map(TenantName::as_str);
        let about = |row: &&AuditRow| tenant.is_none() || row.tenant.as_deref() == tenant;
        let forgotten =
            state.audit.iter().filter(about).filter(|row| query.present && row.verb == FORGET).map(|row| row.id);
        let after = forgotten.max().unwrap_or(0);
        let mine = state.audit.iter().filter(about).filter(|row| row.id > after);
        let mine: Vec<AuditRow> = match query.since {
            Some(since) => mine.filter(|row| row.id > since).take(query.limit).cloned().collect(),
            None => {
                let all: Vec<_> = mine.cloned().collect();
                all[all.len().saturating_sub(query.limit)..].to_vec()
            }
        };
        Ok(mine)
    }

    fn health(&self) -> Health {
        Health { revision: self.state().revision, ..Health::default() }
    }
}
