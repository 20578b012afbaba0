//! What can go wrong with the store, and what kind of trouble is behind an error of SQLite.

use rusqlite::ErrorCode;
use stackmap::TenantName;

use super::{CopyError, Expect, Home, Revision, SCHEMA};

/// Why the store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file could not be opened.
    #[error("cannot open the store {path}: {trouble}")]
    Open {
        /// Path of the database.
        path: String,
        /// What kind of trouble.
        trouble: Trouble,
        /// Cause.
        #[source]
        source: rusqlite::Error,
    },
    /// The file could not be opened, made, or kept from other users.
    #[error("cannot open {path} as a file of root alone")]
    Mode {
        /// Path of the database.
        path: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The file was written by a newer program.
    #[error("the store {path} has schema {found}, this program knows up to {SCHEMA}; it is left as it is")]
    Newer {
        /// Path of the database.
        path: String,
        /// Schema found.
        found: i64,
    },
    /// The database contradicts itself.
    #[error("the store {path} is damaged and left as it is: {words}")]
    Broken {
        /// Path of the database.
        path: String,
        /// What SQLite's check found first.
        words: String,
    },
    /// Another machine's or another instance's.
    #[error(
        "the store {path} is that of {theirs}, this is {ours}; it is left as it is. If this machine shall have its tenants \
         and the other one shall not, take it over once: tenantd run --accept-store"
    )]
    Elsewhere {
        /// Path of the database.
        path: String,
        /// Where it says it belongs.
        theirs: Box<Home>,
        /// Where it is.
        ours: Box<Home>,
    },
    /// The mark of the last revision could not be opened.
    #[error("cannot open {path}, the mark of the store's last revision")]
    Mark {
        /// Its path.
        path: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// What would be handed out as a backup could not be restored.
    #[error("the store cannot be backed up as it is")]
    Backup {
        /// What is wrong with it.
        #[source]
        source: Box<CopyError>,
    },
    /// A copy of the store could not be written.
    #[error("cannot write the copy {path} of the store")]
    Copy {
        /// Path of the copy.
        path: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The database could not be copied.
    #[error("cannot copy the store to {path}: {}", Trouble::of(source))]
    CopyRows {
        /// Path of the copy.
        path: String,
        /// Cause.
        #[source]
        source: rusqlite::Error,
    },
    /// A statement failed, for example because the disk is full.
    #[error("cannot {verb} {what} in the store: {trouble}")]
    Statement {
        /// `read`, `write`, `remove`...
        verb: &'static str,
        /// `tenant acme`, `every tenant`, `the audit`.
        what: String,
        /// What kind of trouble.
        trouble: Trouble,
        /// Cause.
        #[source]
        source: rusqlite::Error,
    },
    /// A row does not parse.
    #[error("the store's row of tenant {name} does not parse")]
    Row {
        /// Tenant.
        name: String,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
    /// A row is not what was written.
    #[error("the store's row of tenant {name} is damaged: its checksum is {found}, {expected} was written")]
    Damaged {
        /// Tenant.
        name: String,
        /// Checksum written beside the row.
        expected: String,
        /// Checksum of what is there.
        found: String,
    },
    /// Somebody else has written the row meanwhile; nothing was changed.
    #[error("tenant {name} was changed meanwhile: {expected} was expected in the store, there is {}", there(.found))]
    Stale {
        /// Tenant.
        name: TenantName,
        /// What the writer believed.
        expected: Expect,
        /// What is there; none: no row.
        found: Option<Revision>,
    },
    /// Changes so old are not kept.
    #[error("changes since revision {asked} are not kept in the store, only those since {oldest}")]
    Compacted {
        /// Revision asked for.
        asked: Revision,
        /// The first that could be asked for.
        oldest: Revision,
    },
    /// A fault that a test asked for.
    #[error("a fault was asked for at write {0} of the store")]
    Injected(u64),
}

fn there(found: &Option<Revision>) -> String {
    found.map_or_else(|| "no row".into(), |revision| format!("revision {revision}"))
}

/// What kind of trouble an error of SQLite is, for people: SQLite's own words name its internals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// `SQLITE_FULL`, ENOSPC.
    #[error("the disk is full")]
    DiskFull,
    /// `SQLITE_READONLY`.
    #[error("the file or its file system is read-only")]
    ReadOnly,
    /// `SQLITE_BUSY`.
    #[error("another process holds a lock on it")]
    Locked,
    /// `SQLITE_CORRUPT`.
    #[error("the database is damaged")]
    Corrupt,
    /// `SQLITE_NOTADB`.
    #[error("it is no database")]
    NoDatabase,
    /// `SQLITE_CANTOPEN`.
    #[error("a file of it cannot be opened")]
    CannotOpen,
    /// `SQLITE_IOERR`.
    #[error("the disk failed")]
    Io,
    /// Everything else; the source tells.
    #[error("it failed")]
    Other,
}

impl Trouble {
    /// The kind of an error.
    #[must_use]
    pub fn of(error: &rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull,
            Some(ErrorCode::ReadOnly) => Self::ReadOnly,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked,
            Some(ErrorCode::DatabaseCorrupt) => Self::Corrupt,
            Some(ErrorCode::NotADatabase) => Self::NoDatabase,
            Some(ErrorCode::CannotOpen) => Self::CannotOpen,
            Some(ErrorCode::SystemIoFailure) => Self::Io,
            _ => Self::Other,
        }
    }
}
