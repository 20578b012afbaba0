//! A store that fails when it is told to, for tests: the n-th write fails before or after it took effect. After the fault
//! it works again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stackmap::TenantName;
use tokio::sync::watch;

use super::{Change, Copying, Desired, Expect, Health, Home, Revision, Snapshot, Store, StoreError, Write};
use crate::audit::{AuditRow, Entry, Outcome, Query};

/// When the store fails; clones steer the same store.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(Arc<State>);

#[derive(Debug, Default)]
struct State {
    writes: AtomicU64,
    before: AtomicU64,
    after: AtomicU64,
}

impl Faults {
    /// The `nth` write from now (1: the next) fails and has no effect.
    pub(crate) fn before(&self, nth: u64) {
        self.0.before.store(self.writes() + nth, Ordering::Relaxed);
    }

    /// The `nth` write from now takes effect, and fails.
    pub(crate) fn after(&self, nth: u64) {
        self.0.after.store(self.writes() + nth, Ordering::Relaxed);
    }

    /// No fault any more.
    pub(crate) fn heal(&self) {
        self.0.before.store(0, Ordering::Relaxed);
        self.0.after.store(0, Ordering::Relaxed);
    }

    /// Writes so far, also those that failed.
    pub(crate) fn writes(&self) -> u64 {
        self.0.writes.load(Ordering::Relaxed)
    }

    fn write<T>(&self, write: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let number = self.0.writes.fetch_add(1, Ordering::Relaxed) + 1;
        if self.0.before.load(Ordering::Relaxed) == number {
            return Err(StoreError::Injected(number));
        }
        let written = write()?;
        if self.0.after.load(Ordering::Relaxed) == number {
            return Err(StoreError::Injected(number));
        }
        Ok(written)
    }
}

/// A store with faults.
#[derive(Debug)]
pub(crate) struct FaultyStore<S> {
    inner: S,
    faults: Faults,
}

impl<S: Store> FaultyStore<S> {
    /// Over a real one.
    pub(crate) fn new(inner: S, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

impl<S: Store> Store for FaultyStore<S> {
    fn load(&mut self) -> Result<Snapshot, StoreError> {
        self.inner.load()
    }

    fn put(&mut self, desired: &Desired, expect: Expect, entry: &Entry) -> Result<Revision, StoreError> {
        self.faults.write(|| self.inner.put(desired, expect, entry))
    }

    fn remove(&mut self, name: &TenantName, expect: Expect, entry: &Entry) -> Result<Revision, StoreError> {
        self.faults.write(|| self.inner.remove(name, expect, entry))
    }

    fn put_all(&mut self, writes: &[Write]) -> Result<Revision, StoreError> {
        self.faults.write(|| self.inner.put_all(writes))
    }

    fn backup(&mut self) -> Result<Copying, StoreError> {
        self.inner.backup()
    }

    fn keep_copy(&mut self, why: &'static str) -> Result<String, StoreError> {
        self.inner.keep_copy(why)
    }

    fn home(&self) -> Option<Home> {
        self.inner.home()
    }

    fn since(&mut self, revision: Revision) -> Result<Vec<Change>, StoreError> {
        self.inner.since(revision)
    }

    fn watch(&self) -> watch::Receiver<Revision> {
        self.inner.watch()
    }

    fn finish(&mut self, revision: Revision, outcome: Outcome) {
        self.inner.finish(revision, outcome);
    }

    fn note(&mut self, entry: Entry, outcome: Outcome) {
        self.inner.note(entry, outcome);
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.inner.flush()
    }

    fn audit(&mut self, query: &Query) -> Result<Vec<AuditRow>, StoreError> {
        self.inner.audit(query)
    }

    fn health(&self) -> Health {
        self.inner.health()
    }
}
