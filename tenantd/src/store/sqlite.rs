//! The default store: one SQLite database. Write-ahead log with full synchronisation, so a transaction that was answered
//! survives a power cut, and one that was not is there as a whole or not at all.
//!
//! SQLite has no checksums of its own over rows, so each row of a tenant carries one: a bit that turned on the disk is a
//! named error and not another address. Order of a write: lock, next revision, compare, row, audit, commit, tell.

mod audit;
mod copy;
mod mark;
mod schema;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use sha2::{Digest, Sha256};
use stackmap::{TenantName, TrunkIndex};
use tokio::sync::watch;

use super::{
    Change, Copying, Desired, Expect, Health, Home, Revision, Snapshot, Store, StoreError, Trouble, Unreadable, Write,
};
use crate::audit::{AuditRow, Entry, Outcome, Query};
use crate::control::Who;
use crate::fault;
use crate::trunks::Known;
pub use copy::{CopyError, read_copy};
use mark::{Mark, Marked};
pub use schema::SCHEMA;

/// How long a write waits for a foreign process that holds a lock. The owner waits with it.
const PATIENCE: Duration = Duration::from_secs(1);
/// Copies of one kind that are kept beside the store.
const COPIES: u32 = 16;
/// Removed tenants that are remembered for [`Store::since`].
const REMOVED: i64 = 8192;

/// The default store.
#[derive(Debug)]
pub struct SqliteStore {
    db: Connection,
    path: PathBuf,
    revision: watch::Sender<Revision>,
    health: Health,
    journal: audit::Journal,
    home: Option<Home>,
    /// The identity of this store.
    id: String,
    mark: Option<Mark>,
}

/// Where a store is opened.
#[derive(Debug)]
pub struct Settling<'a> {
    /// This machine and instance.
    pub home: Home,
    /// Take over one that belongs elsewhere.
    pub accept: bool,
    /// File that outlives the daemon and not the machine's run: see `mark`.
    pub mark: &'a Path,
}

impl SqliteStore {
    /// Open or make the database, bring an older schema forward, and compare it with where it is and what was answered.
    ///
    /// # Errors
    /// [`StoreError`]; a database that is damaged, newer than this program, or of another machine, is left as it is.
    pub fn settle(path: &Path, at: &Settling<'_>) -> Result<Self, StoreError> {
        let mut store = Self::open_of(path, (!at.accept).then_some(&at.home))?;
        store.move_in(&at.home)?;
        let (mark, marked) =
            Mark::open(at.mark).map_err(|source| StoreError::Mark { path: at.mark.display().to_string(), source })?;
        if let Some(marked) = marked {
            store.compare_with(&marked)?;
        }
        mark.write(&Marked { id: store.id.clone(), revision: store.health.revision });
        store.mark = Some(mark);
        Ok(store)
    }

    /// As [`settle`](Self::settle), wherever it is.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_of(path, None)
    }

    fn open_of(path: &Path, ours: Option<&Home>) -> Result<Self, StoreError> {
        let mut db = schema::open(path, ours)?;
        let tried = schema::last_revision(&db).and_then(|revision| {
            audit::close_open_rows(&mut db)?;
            Ok((revision, identity(&mut db)?, schema::home(&db)?))
        });
        let (last, id, home) = tried.map_err(|source| open_failed(path, source))?;
        let health = Health { revision: last, ..Health::default() };
        let revision = watch::channel(last).0;
        let journal = audit::Journal::default();
        Ok(Self { db, path: path.to_owned(), revision, health, journal, home, id, mark: None })
    }

    /// Write down where it is, unless it is there already. That it was elsewhere is told by the audit.
    fn move_in(&mut self, ours: &Home) -> Result<(), StoreError> {
        let theirs = self.home.replace(ours.clone());
        if theirs.as_ref() == Some(ours) {
            return Ok(());
        }
        let text = serde_json::to_string(ours).unwrap_or_default();
        if let Some(theirs) = theirs.filter(|theirs| !theirs.is(ours)) {
            tracing::warn!(%theirs, %ours, "the store was taken over");
            let (before, after) = (serde_json::to_value(&theirs).ok(), serde_json::to_value(ours).ok());
            self.note(own_entry("accept-store", before, after), Outcome::Done);
        }
        self.write("write", "where it belongs", None, |tx, _| {
            let failed = |source| statement("write", "where it belongs", source);
            schema::set_words(tx, schema::HOME, &text).map_err(failed)
        })
        .map(drop)
    }

    /// A store that has less than what was answered since the machine started, or another one: said, and the numbers that
    /// were given out are not given out again.
    fn compare_with(&mut self, marked: &Marked) -> Result<(), StoreError> {
        let found = self.health.revision;
        let warning = if marked.id != self.id {
            format!(
                "it is another store than the one in use before on this run of the machine, which had come to revision {}",
                marked.revision
            )
        } else if marked.revision > found {
            format!(
                "it is older than what was answered: it came to revision {}, this is revision {found}; what was changed in \
                 between is lost (a damaged log, or an older copy put in place)",
                marked.revision
            )
        } else {
            return Ok(());
        };
        tracing::error!(warning, "the store");
        let value = |id: &str, revision: Revision| Some(serde_json::json!({"id": id, "revision": revision}));
        let entry = own_entry("store-changed", value(&marked.id, marked.revision), value(&self.id, found));
        self.note(entry, Outcome::Failed(warning.clone()));
        let next = found.max(marked.revision);
        self.write("write", "the revision", None, |tx, _| {
            schema::set_revision(tx, next).map_err(|source| statement("write", "the revision", source))
        })?;
        self.health.revision = next;
        self.revision.send_replace(next);
        self.health.warning = Some(warning);
        Ok(())
    }

    /// Names of the trunks by number; empty as long as none was ever kept.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn trunks(&self) -> Result<Known, StoreError> {
        let failed = |source| statement("read", "the trunks", source);
        let text = schema::words(&self.db, schema::TRUNKS).map_err(failed)?;
        let path = || self.path.display().to_string();
        let read = |text: String| {
            let words = |error| format!("the numbers of the trunks do not parse: {error}");
            let read = serde_json::from_str::<BTreeMap<u16, String>>(&text);
            read.map_err(|error| StoreError::Broken { path: path(), words: words(error) })
        };
        let known = text.map_or_else(|| Ok(BTreeMap::new()), read)?;
        Ok(known.into_iter().map(|(number, name)| (TrunkIndex(number), name)).collect())
    }

    /// Keeps names of trunks by number.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn keep_trunks(&mut self, known: &Known) -> Result<(), StoreError> {
        if self.trunks()? == *known {
            return Ok(());
        }
        let known: BTreeMap<u16, &String> = known.iter().map(|(number, name)| (number.get(), name)).collect();
        let text = serde_json::to_string(&known).unwrap_or_default();
        let further = known.len() > 1;
        if further {
            schema::raise_for_trunks(&self.db, &self.path)?;
        }
        self.write("write", "the trunks", None, |tx, _| {
            let failed = |source| statement("write", "the trunks", source);
            schema::set_words(tx, schema::TRUNKS, &text).map_err(failed)?;
            if further { schema::set_for_trunks(tx).map_err(failed) } else { Ok(()) }
        })
        .map(drop)
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One transaction: what waited to be written, the next revision, `work`, the entries. Without an entry the revision
    /// stays what it is.
    fn write<'a>(
        &mut self,
        verb: &'static str,
        what: &str,
        entries: impl IntoIterator<Item = &'a Entry>,
        work: impl FnOnce(&Transaction<'_>, Revision) -> Result<(), StoreError>,
    ) -> Result<Revision, StoreError> {
        let started = Instant::now();
        let failed = |source| statement(verb, what, source);
        let entries: Vec<&Entry> = entries.into_iter().collect();
        let journal = &mut self.journal;
        let write = || {
            let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
            let mut revision = schema::last_revision(&tx).map_err(failed)?;
            // Before the entry, whose number shall be the higher one.
            journal.write_waiting(&tx).map_err(failed)?;
            if !entries.is_empty() {
                revision.0 += 1;
                schema::set_revision(&tx, revision).map_err(failed)?;
            }
            work(&tx, revision)?;
            for entry in entries {
                journal.append(&tx, entry, Some(revision)).map_err(failed)?;
            }
            tx.commit().map_err(failed)?;
            Ok(revision)
        };
        let written = write();
        match &written {
            Ok(revision) => {
                self.journal.written();
                self.health.writes.add(started.elapsed());
                self.health.revision = *revision;
                self.health.trouble = None;
                if let Some(mark) = &self.mark {
                    mark.write(&Marked { id: self.id.clone(), revision: *revision });
                }
                self.revision.send_if_modified(|told| std::mem::replace(told, *revision) != *revision);
            }
            Err(_) => self.journal.not_written(),
        }
        self.judge(&written);
        written
    }

    /// Keeps what `status` says of the store. A read that succeeds says nothing of the next write.
    fn judge<T>(&mut self, result: &Result<T, StoreError>) {
        match result {
            // Somebody else was faster: the store is well.
            Ok(_) | Err(StoreError::Stale { .. } | StoreError::Compacted { .. }) => {}
            Err(error) => {
                self.health.failures += 1;
                self.health.trouble = Some(crate::owner::chain(error));
            }
        }
    }

    /// What cannot be written now must not hinder a reader.
    fn flush_if_possible(&mut self) {
        if let Err(error) = self.flush() {
            tracing::warn!(error = crate::owner::chain(&error), "the audit waits to be written");
        }
    }

    fn read_all(&self) -> Result<Snapshot, StoreError> {
        let failed = |source| statement("read", "every tenant", source);
        // One transaction, so that rows and revision are of one moment.
        let tx = self.db.unchecked_transaction().map_err(failed)?;
        let revision = schema::last_revision(&tx).map_err(failed)?;
        let mut snapshot = Snapshot { revision, ..Snapshot::default() };
        for row in stored_rows(&tx, Revision(0))? {
            match row.read() {
                Ok(desired) => snapshot.rows.push(desired),
                Err(error) => snapshot.unreadable.push(row.unreadable(&error)),
            }
        }
        Ok(snapshot)
    }

    fn read_since(&self, asked: Revision) -> Result<Vec<Change>, StoreError> {
        let failed = |source| statement("read", "changes", source);
        let tx = self.db.unchecked_transaction().map_err(failed)?;
        let oldest = schema::meta(&tx, schema::COMPACTED).map_err(failed)?.map_or(Revision(0), Revision);
        if asked < oldest {
            return Err(StoreError::Compacted { asked, oldest });
        }
        let put = |row: StoredRow| row.read().map(|desired| Change::Put(Box::new(desired)));
        let mut all = stored_rows(&tx, asked)?.into_iter().map(put).collect::<Result<Vec<Change>, _>>()?;
        let mut removed =
            tx.prepare_cached("SELECT name, revision FROM removed WHERE revision > ?1").map_err(failed)?;
        let rows = removed
            .query_map(params![asked.0], |row| Ok((row.get::<_, String>(0)?, Revision(row.get(1)?))))
            .map_err(failed)?;
        for row in rows {
            let (name, revision) = row.map_err(failed)?;
            // A name that does not parse was never written by us: what it stood for cannot be here either.
            let Ok(name) = name.parse() else { continue };
            all.push(Change::Removed { name, revision });
        }
        all.sort_by_key(Change::revision);
        Ok(all)
    }
}

impl Store for SqliteStore {
    fn load(&mut self) -> Result<Snapshot, StoreError> {
        let loaded = self.read_all();
        self.judge(&loaded);
        loaded
    }

    fn put(&mut self, desired: &Desired, expect: Expect, entry: &Entry) -> Result<Revision, StoreError> {
        let name = &desired.tenant.name;
        let body = body(desired)?;
        fault::point("store.put.before");
        let written = self.write("write", &format!("tenant {name}"), Some(entry), |tx, revision| {
            compare(tx, name, expect)?;
            put_row(tx, name, &body, revision).map_err(|source| statement("write", &format!("tenant {name}"), source))
        });
        fault::point("store.put.after");
        written
    }

    fn remove(&mut self, name: &TenantName, expect: Expect, entry: &Entry) -> Result<Revision, StoreError> {
        let what = format!("tenant {name}");
        if expect == Expect::Absent {
            compare(&self.db, name, expect)?;
            return Ok(self.health.revision);
        }
        fault::point("store.remove.before");
        let written = self.write("remove", &what, Some(entry), |tx, revision| {
            compare(tx, name, expect)?;
            remove_row(tx, name, revision).map_err(|source| statement("remove", &what, source))
        });
        fault::point("store.remove.after");
        written
    }

    fn put_all(&mut self, writes: &[Write]) -> Result<Revision, StoreError> {
        let what = format!("{} tenants", writes.len());
        let bodies = writes.iter().map(|write| body(&write.desired)).collect::<Result<Vec<_>, _>>()?;
        fault::point("store.put.before");
        let written = self.write("write", &what, writes.iter().map(|write| &write.entry), |tx, revision| {
            for (write, body) in writes.iter().zip(&bodies) {
                let name = &write.desired.tenant.name;
                compare(tx, name, write.expect)?;
                put_row(tx, name, body, revision).map_err(|source| statement("write", &what, source))?;
            }
            Ok(())
        });
        fault::point("store.put.after");
        written
    }

    fn backup(&mut self) -> Result<Copying, StoreError> {
        self.flush_if_possible();
        let path = self.path.clone();
        Ok(Copying::new(move || copy::copy_of(&path)))
    }

    fn keep_copy(&mut self, why: &'static str) -> Result<String, StoreError> {
        self.flush()?;
        let ending = format!(".{why}");
        schema::copy_beside(&self.db, &self.path, &ending, COPIES).map(|copy| copy.display().to_string())
    }

    fn home(&self) -> Option<Home> {
        self.home.clone()
    }

    fn since(&mut self, revision: Revision) -> Result<Vec<Change>, StoreError> {
        let read = self.read_since(revision);
        self.judge(&read);
        read
    }

    fn watch(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    fn finish(&mut self, revision: Revision, outcome: Outcome) {
        self.journal.finish(revision, outcome);
    }

    fn note(&mut self, entry: Entry, outcome: Outcome) {
        self.journal.note(entry, outcome);
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        if self.journal.is_empty() {
            return Ok(());
        }
        self.write("write", "the audit", None, |_, _| Ok(())).map(drop)
    }

    fn audit(&mut self, query: &Query) -> Result<Vec<AuditRow>, StoreError> {
        // What waits is shown as well.
        self.flush_if_possible();
        audit::read(&self.db, query).map_err(|source| statement("read", "the audit", source))
    }

    fn health(&self) -> Health {
        self.health.clone()
    }
}

/// The identity of a store, given when it is first opened by a program that gives one.
fn identity(db: &mut Connection) -> rusqlite::Result<String> {
    if let Some(id) = schema::words(db, schema::ID)? {
        return Ok(id);
    }
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let id: String = tx.query_row("SELECT lower(hex(randomblob(16)))", [], |row| row.get(0))?;
    schema::set_words(&tx, schema::ID, &id)?;
    tx.commit()?;
    Ok(id)
}

fn own_entry(verb: &'static str, before: Option<serde_json::Value>, after: Option<serde_json::Value>) -> Entry {
    Entry { at_ms: crate::owner::now_ms(), who: Who::daemon(), verb, tenant: None, before, after }
}

fn statement(verb: &'static str, what: &str, source: rusqlite::Error) -> StoreError {
    StoreError::Statement { verb, what: what.to_owned(), trouble: Trouble::of(&source), source }
}

fn open_failed(path: &Path, source: rusqlite::Error) -> StoreError {
    StoreError::Open { path: path.display().to_string(), trouble: Trouble::of(&source), source }
}

fn body(desired: &Desired) -> Result<String, StoreError> {
    serde_json::to_string(desired).map_err(|source| StoreError::Row { name: desired.tenant.name.to_string(), source })
}

/// What a row must be when nothing has touched it: of name, revision and body.
fn checksum(name: &str, revision: Revision, body: &str) -> String {
    let sum = Sha256::new_with_prefix(name).chain_update([0]).chain_update(revision.0.to_be_bytes());
    sum.chain_update(body).finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn compare(db: &Connection, name: &TenantName, expected: Expect) -> Result<(), StoreError> {
    let found = db
        .prepare_cached("SELECT revision FROM tenants WHERE name = ?1")
        .and_then(|mut s| s.query_row(params![name.as_str()], |row| row.get(0).map(Revision)).optional())
        .map_err(|source| statement("read", &format!("tenant {name}"), source))?;
    if expected.holds(found) { Ok(()) } else { Err(StoreError::Stale { name: name.clone(), expected, found }) }
}

fn put_row(tx: &Transaction<'_>, name: &TenantName, body: &str, revision: Revision) -> rusqlite::Result<()> {
    let name = name.as_str();
    let sum = checksum(name, revision, body);
    tx.prepare_cached("INSERT OR REPLACE INTO tenants (name, body, revision, sum) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![name, body, revision.0, sum])?;
    tx.prepare_cached("DELETE FROM removed WHERE name = ?1")?.execute(params![name])?;
    Ok(())
}

fn remove_row(tx: &Transaction<'_>, name: &TenantName, revision: Revision) -> rusqlite::Result<()> {
    let name = name.as_str();
    tx.prepare_cached("DELETE FROM tenants WHERE name = ?1")?.execute(params![name])?;
    tx.prepare_cached("INSERT OR REPLACE INTO removed (name, revision) VALUES (?1, ?2)")?
        .execute(params![name, revision.0])?;
    // The newest ones are kept; whoever asks for older changes is told to read everything.
    let beyond: Option<u64> = tx
        .prepare_cached("SELECT revision FROM removed ORDER BY revision DESC LIMIT 1 OFFSET ?1")?
        .query_row(params![REMOVED], |row| row.get(0))
        .optional()?;
    if let Some(beyond) = beyond {
        tx.prepare_cached("DELETE FROM removed WHERE revision <= ?1")?.execute(params![beyond])?;
        schema::set_meta(tx, schema::COMPACTED, beyond)?;
    }
    Ok(())
}

/// A row as it lies there.
struct StoredRow {
    name: String,
    body: String,
    revision: Revision,
    sum: String,
}

impl StoredRow {
    /// The tenant that it says shall be, if it is what was written.
    fn read(&self) -> Result<Desired, StoreError> {
        let found = checksum(&self.name, self.revision, &self.body);
        if found != self.sum {
            let (name, expected) = (self.name.clone(), self.sum.clone());
            return Err(StoreError::Damaged { name, expected, found });
        }
        let parsed = serde_json::from_str(&self.body);
        let desired: Desired = parsed.map_err(|source| StoreError::Row { name: self.name.clone(), source })?;
        Ok(Desired { revision: self.revision, ..desired })
    }

    fn unreadable(&self, error: &StoreError) -> Unreadable {
        Unreadable { name: self.name.clone(), revision: self.revision, cause: crate::owner::chain(error) }
    }
}

/// Rows written after a revision.
fn stored_rows(db: &Connection, after: Revision) -> Result<Vec<StoredRow>, StoreError> {
    let failed = |source| statement("read", "every tenant", source);
    let mut rows =
        db.prepare_cached("SELECT name, body, revision, sum FROM tenants WHERE revision > ?1").map_err(failed)?;
    let rows = rows
        .query_map(params![after.0], |row| {
            Ok(StoredRow { name: row.get(0)?, body: row.get(1)?, revision: Revision(row.get(2)?), sum: row.get(3)? })
        })
        .map_err(failed)?;
    rows.collect::<Result<_, _>>().map_err(failed)
}

#[cfg(test)]
mod tests;
