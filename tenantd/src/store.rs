//! What is desired, kept over restarts, and the audit of who changed it. One trait; SQLite behind it is the default.
//!
//! Intent is recorded before the kernel is touched: a daemon killed in between finishes what it wrote. A write is
//! durable when it returns. The trait blocks: the owner has nothing to do for a tenant before its intent is durable, and
//! a write is one flush of one file.
//!
//! # What etcd would be here
//!
//! The words are those of etcd (v3), so that a fleet's store can stand behind the same trait:
//!
//! | here | etcd |
//! |---|---|
//! | [`Revision`], one counter a store | `header.revision` |
//! | [`Desired::revision`] | `mod_revision` of the key `tenants/NAME` |
//! | [`Store::put`] with [`Expect`] | `txn`: if `mod_revision(tenants/NAME) == expected` (0: absent) then put it and `audit/REVISION` |
//! | [`Store::since`] | `watch` from `revision + 1` until the present; [`StoreError::Compacted`] is its `ErrCompacted` |
//! | [`Store::watch`] | the same watch going on: the greatest revision heard of |
//! | [`Store::load`] | `range` of `tenants/` at one revision |
//! | a write whose end is not known | the answer was lost: read back ([`Store::since`] does), never repeat blindly |
//!
//! Two writers of one row cannot both win: the second one's `expected` is no longer true ([`StoreError::Stale`]).
//!
//! Rooms: [`sqlite`](SqliteStore) (rows, audit, schema), `memory` and `faulty` for tests.

mod error;
#[cfg(test)]
pub(crate) mod faulty;
mod home;
#[cfg(test)]
pub(crate) mod memory;
mod sqlite;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stackmap::TenantName;
use tokio::sync::watch;

use crate::audit::{AuditRow, Entry, Outcome, Query};
use crate::model::Tenant;

pub use error::{StoreError, Trouble};
pub use home::Home;
pub use sqlite::{CopyError, SCHEMA, Settling, SqliteStore, read_copy};

/// Number of a write: one counter for the whole store, never used twice; 0 is before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One tenant as it shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// The tenant.
    pub tenant: Tenant,
    /// True from the moment its removal was asked for until nothing of it is left.
    pub removing: bool,
    /// The write that made it so; 0: not written yet. Kept beside the row, not in it.
    #[serde(skip)]
    pub revision: Revision,
}

impl Desired {
    /// A tenant that nobody has written yet.
    #[must_use]
    pub fn new(tenant: Tenant) -> Self {
        Self { tenant, removing: false, revision: Revision(0) }
    }

    /// What the store must hold for a write over this one.
    #[must_use]
    pub fn expect(&self) -> Expect {
        if self.revision == Revision(0) { Expect::Absent } else { Expect::At(self.revision) }
    }

    /// Equal but for the revision.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.tenant == other.tenant && self.removing == other.removing
    }
}

/// What a writer believes the store holds; the write is refused when it is not so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// No row of this name.
    Absent,
    /// The row as this write left it.
    At(Revision),
}

impl Expect {
    /// Whether a row of this revision is as believed.
    #[must_use]
    pub fn holds(self, found: Option<Revision>) -> bool {
        match self {
            Self::Absent => found.is_none(),
            Self::At(revision) => found == Some(revision),
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("no row"),
            Self::At(revision) => write!(f, "revision {revision}"),
        }
    }
}

/// Everything at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The moment.
    pub revision: Revision,
    /// Every tenant whose row can be read, in no particular order.
    pub rows: Vec<Desired>,
    /// The rows that are there and cannot be read: one of them keeps nobody else from what is desired.
    pub unreadable: Vec<Unreadable>,
}

/// A row that is damaged or does not parse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Whose it is, as its key says.
    pub name: String,
    /// The write that made it, as it says itself: what replaces it must say so.
    pub revision: Revision,
    /// What is wrong with it.
    pub cause: String,
}

/// What a copy of a store holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Where it belongs; none: it was never said.
    pub home: Option<Home>,
    /// Its tenants, at its last write.
    pub snapshot: Snapshot,
}

/// One of several writes that take effect together or not at all.
#[derive(Debug, Clone)]
pub struct Write {
    /// The tenant as it shall be.
    pub desired: Desired,
    /// What is there before.
    pub expect: Expect,
    /// The audit's entry.
    pub entry: Entry,
}

/// Makes a backup, on whatever thread it is called: the store's writer does not wait for it.
pub struct Copying(Box<dyn FnOnce() -> Result<Vec<u8>, StoreError> + Send>);

impl Copying {
    /// Made by `make`.
    #[must_use]
    pub fn new(make: impl FnOnce() -> Result<Vec<u8>, StoreError> + Send + 'static) -> Self {
        Self(Box::new(make))
    }

    /// The bytes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn make(self) -> Result<Vec<u8>, StoreError> {
        (self.0)()
    }
}

impl fmt::Debug for Copying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Copying")
    }
}

/// One difference between two moments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is like this now.
    Put(Box<Desired>),
    /// It is not there any more.
    Removed {
        /// Tenant.
        name: TenantName,
        /// The write that removed it.
        revision: Revision,
    },
}

impl Change {
    /// The write that made it.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(desired) => desired.revision,
            Self::Removed { revision, .. } => *revision,
        }
    }
}

/// How long something took, over the life of the daemon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    /// How often.
    pub count: u64,
    /// Together.
    pub sum: Duration,
    /// The longest.
    pub max: Duration,
}

impl Latency {
    /// One more.
    pub fn add(&mut self, took: Duration) {
        self.count += 1;
        self.sum += took;
        self.max = self.max.max(took);
    }
}

/// How the store is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Its last write.
    pub revision: Revision,
    /// Why the last write or read failed; none: it did not.
    pub trouble: Option<String>,
    /// What was found at the start and cannot be mended, such as a store that is older than what was answered.
    pub warning: Option<String>,
    /// Writes that succeeded, each flushed to the disk.
    pub writes: Latency,
    /// Writes and reads that failed.
    pub failures: u64,
}

/// Where desired state lives.
pub trait Store: Send {
    /// Every tenant at one moment. A row that does not parse or is damaged is [`Snapshot::unreadable`].
    ///
    /// # Errors
    /// [`StoreError`].
    fn load(&mut self) -> Result<Snapshot, StoreError>;

    /// Write one tenant over what `expect` says, and the audit's entry with it, durable when this returns. The row's
    /// revision is the one returned, whatever `desired.revision` says.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the store holds something else. After another error the write may have taken
    /// effect: [`since`](Self::since) tells.
    fn put(&mut self, desired: &Desired, expect: Expect, entry: &Entry) -> Result<Revision, StoreError>;

    /// Forget one tenant, as [`put`](Self::put). One that shall be absent and is absent is forgotten already: nothing is
    /// written.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    fn remove(&mut self, name: &TenantName, expect: Expect, entry: &Entry) -> Result<Revision, StoreError>;

    /// Write several tenants at one revision, as [`put`](Self::put): all of them or none. etcd: one `txn`.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    fn put_all(&mut self, writes: &[Write]) -> Result<Revision, StoreError>;

    /// A way to a consistent copy of everything, the audit too. etcd: a snapshot of its maintenance service.
    ///
    /// # Errors
    /// [`StoreError`].
    fn backup(&mut self) -> Result<Copying, StoreError>;

    /// Keep a copy of everything beside the store, durable when this returns; where, in words.
    ///
    /// # Errors
    /// [`StoreError`].
    fn keep_copy(&mut self, why: &'static str) -> Result<String, StoreError>;

    /// Where it belongs; none: anywhere.
    fn home(&self) -> Option<Home>;

    /// What became different after that revision, in the order of the writes; of each tenant the last.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when that is too long ago: [`load`](Self::load) then.
    fn since(&mut self, revision: Revision) -> Result<Vec<Change>, StoreError>;

    /// The last revision, now and whenever it rises, whoever wrote.
    fn watch(&self) -> watch::Receiver<Revision>;

    /// Write down what came of the change that made this revision: with the next write, or at [`flush`](Self::flush).
    fn finish(&mut self, revision: Revision, outcome: Outcome);

    /// Write down what changed nothing here: a refusal, a service restarted. Written like [`finish`](Self::finish).
    fn note(&mut self, entry: Entry, outcome: Outcome);

    /// Write what waits to be written.
    ///
    /// # Errors
    /// [`StoreError`]; it goes on waiting.
    fn flush(&mut self) -> Result<(), StoreError>;

    /// Rows of the audit, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn audit(&mut self, query: &Query) -> Result<Vec<AuditRow>, StoreError>;

    /// How it is.
    fn health(&self) -> Health;
}

#[cfg(test)]
pub(crate) mod tests;
