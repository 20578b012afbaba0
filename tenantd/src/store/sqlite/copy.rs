//! Copies of the store: a backup as bytes, and what a copy that somebody brings says. Both in memory: a full disk hinders
//! neither, and nothing is written at a place that a caller chose.

use std::io::Read as _;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::schema::{self, SCHEMA};
use super::{PATIENCE, StoredRow, statement, stored_rows};
use crate::store::{Copied, Revision, Snapshot, StoreError, Trouble};

/// Where the header says by which journal the file is written and read: 2 is a write-ahead log, 1 none (SQLite, "Database
/// File Format", 1.3.3).
const JOURNAL: std::ops::Range<usize> = 18..20;
/// What every database begins with.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Why a copy is not taken.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// It does not begin as one.
    #[error("it is no SQLite database")]
    NoDatabase,
    /// SQLite cannot read it.
    #[error("it cannot be read: {}", Trouble::of(.0))]
    Read(#[source] rusqlite::Error),
    /// Its pages contradict each other.
    #[error("it is damaged: {words}")]
    Damaged {
        /// What SQLite's check found first.
        words: String,
    },
    /// Another program's, or changed by hand.
    #[error("it is no store of tenantd: {what}")]
    Stranger {
        /// What is not as tenantd makes it.
        what: String,
    },
    /// Of a program that comes after this one.
    #[error("it has schema {found}, this program knows up to {SCHEMA}")]
    Newer {
        /// Its schema.
        found: i64,
    },
    /// A row does not parse or is damaged.
    #[error("a row of it cannot be taken")]
    Row(#[source] StoreError),
}

/// The database as it is at this moment, in one piece, whoever writes meanwhile.
///
/// # Errors
/// [`StoreError`]; also when what was read could not be restored.
pub(super) fn copy_of(path: &Path) -> Result<Vec<u8>, StoreError> {
    let failed = |source| statement("read", "every page", source);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags).map_err(failed)?;
    db.busy_timeout(PATIENCE).map_err(failed)?;
    let mut bytes = db.serialize("main").map_err(failed)?.to_vec();
    if let Some(journal) = bytes.get_mut(JOURNAL) {
        // What was in the log is in these pages: the copy has none and needs none.
        journal.fill(1);
    }
    read_copy(&bytes).map_err(|error| StoreError::Backup { source: Box::new(error) })?;
    Ok(bytes)
}

/// What a copy says, checked: it is a database, whole, of a schema this program knows, nothing but the tables that
/// tenantd makes, and every row parses and is as it was written. An older schema is brought forward.
///
/// # Errors
/// [`CopyError`].
pub fn read_copy(bytes: &[u8]) -> Result<Copied, CopyError> {
    if !bytes.starts_with(MAGIC) {
        return Err(CopyError::NoDatabase);
    }
    // SQLite's own is the only copy that is made.
    let (head, rest) = bytes.split_at_checked(JOURNAL.end).ok_or(CopyError::NoDatabase)?;
    let mut head = head.to_vec();
    head[JOURNAL].fill(1);
    let mut db = Connection::open_in_memory().map_err(CopyError::Read)?;
    db.deserialize_read_exact("main", head.chain(rest), bytes.len(), false).map_err(CopyError::Read)?;
    // Nothing of what a stranger may have put into the schema is run.
    db.pragma_update(None, "trusted_schema", false).map_err(CopyError::Read)?;
    let words: String = db.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(CopyError::Read)?;
    if words != "ok" {
        return Err(CopyError::Damaged { words });
    }
    let found = schema::version(&db).map_err(CopyError::Read)?;
    if found > SCHEMA {
        return Err(CopyError::Newer { found });
    }
    let expected = schema::shape_of(found).map_err(CopyError::Read)?;
    let shape = schema::shape(&db).map_err(CopyError::Read)?;
    if found < 1 {
        return Err(CopyError::Stranger { what: "it has no schema of tenantd".into() });
    }
    let odd =
        shape.iter().find(|one| !expected.contains(one)).or_else(|| expected.iter().find(|one| !shape.contains(one)));
    if let Some((kind, name, _)) = odd {
        return Err(CopyError::Stranger { what: format!("{kind} {name} is not as tenantd makes it") });
    }
    schema::bring_forward(&mut db, found).map_err(CopyError::Read)?;
    let revision = schema::last_revision(&db).map_err(CopyError::Read)?;
    let home = schema::words(&db, schema::HOME).map_err(CopyError::Read)?;
    let home = home.and_then(|text| serde_json::from_str(&text).ok());
    let rows = stored_rows(&db, Revision(0)).map_err(|error| match error {
        StoreError::Statement { source, .. } => CopyError::Read(source),
        error => CopyError::Row(error),
    })?;
    // Whoever restores it wants all of it: here one bad row is a bad copy.
    let rows = rows.iter().map(StoredRow::read).collect::<Result<_, _>>().map_err(CopyError::Row)?;
    Ok(Copied { home, snapshot: Snapshot { revision, rows, unreadable: Vec::new() } })
}
