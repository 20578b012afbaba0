//! The schema of the database and the way from older ones: looked at before anything is written, a copy put aside, each
//! step one transaction.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{PATIENCE, Revision, checksum, open_failed};
use crate::store::{Home, StoreError};

/// The newest schema that this program knows; a file with a higher one is refused. It is `BASE` with tenants on further
/// trunks: a program that does not know of trunks would take their VLANs for those of the first.
pub const SCHEMA: i64 = 3;
/// The schema of a store as long as no tenant needs a newer one.
const BASE: i64 = 2;

/// The store's last revision.
const REVISION: &str = "revision";
/// Removals up to this revision are forgotten.
pub(super) const COMPACTED: &str = "compacted";

/// The store's identity: random, of no meaning.
pub(super) const ID: &str = "id";
/// The machine and the instance it is of, as JSON.
pub(super) const HOME: &str = "home";
/// Names of the trunks by number, as JSON.
pub(super) const TRUNKS: &str = "trunks";

/// One step: from the schema of its place in the list to the next one.
type Step = fn(&Transaction<'_>) -> rusqlite::Result<()>;

/// From nothing to 1, from 1 to 2, and so on; a step is never changed once a program with it was given out.
const STEPS: [Step; BASE as usize] = [tenants, revisions];

/// The first schema.
fn tenants(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch("CREATE TABLE tenants (name TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;")
}

/// Revisions, checksums, the audit.
fn revisions(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch(
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
         CREATE TABLE removed (name TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID;
         CREATE INDEX removed_revision ON removed (revision);
         CREATE TABLE audit (
             id INTEGER PRIMARY KEY,
             revision INTEGER,
             at_ms INTEGER NOT NULL,
             origin TEXT NOT NULL,
             uid INTEGER NOT NULL,
             gid INTEGER NOT NULL,
             pid INTEGER NOT NULL,
             command TEXT NOT NULL,
             verb TEXT NOT NULL,
             tenant TEXT,
             before TEXT,
             after TEXT,
             result TEXT NOT NULL,
             reason TEXT,
             account TEXT NOT NULL,
             bytes INTEGER NOT NULL
         );
         CREATE INDEX audit_tenant ON audit (tenant, id);
         CREATE INDEX audit_account ON audit (account, id, bytes);
         CREATE INDEX audit_revision ON audit (revision) WHERE revision IS NOT NULL;
         CREATE INDEX audit_open ON audit (id) WHERE result = 'open';
         CREATE TABLE with_revision (
             name TEXT PRIMARY KEY, body TEXT NOT NULL, revision INTEGER NOT NULL, sum TEXT NOT NULL
         ) WITHOUT ROWID;",
    )?;
    // One write made them all, if there are any.
    let first: Revision = tx.query_row("SELECT EXISTS (SELECT 1 FROM tenants)", [], |row| row.get(0)).map(Revision)?;
    let mut rows = tx.prepare("SELECT name, body FROM tenants")?;
    let rows = rows.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    for row in rows {
        let (name, body) = row?;
        let sum = checksum(&name, first, &body);
        tx.prepare_cached("INSERT INTO with_revision (name, body, revision, sum) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![name, body, first.0, sum])?;
    }
    tx.execute_batch(
        "DROP TABLE tenants;
         ALTER TABLE with_revision RENAME TO tenants;
         CREATE INDEX tenants_revision ON tenants (revision);",
    )?;
    set_meta(tx, REVISION, first.0)?;
    set_meta(tx, COMPACTED, first.0)
}

/// A number of the table `meta`.
pub(super) fn meta(db: &Connection, key: &str) -> rusqlite::Result<Option<u64>> {
    db.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row(params![key], |row| row.get(0)).optional()
}

/// A text of the table `meta`.
pub(super) fn words(db: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    db.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row(params![key], |row| row.get(0)).optional()
}

pub(super) fn set_words(tx: &Transaction<'_>, key: &str, value: &str) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)")?.execute(params![key, value])?;
    Ok(())
}

pub(super) fn set_meta(tx: &Transaction<'_>, key: &str, value: u64) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)")?.execute(params![key, value])?;
    Ok(())
}

/// The store's last revision.
pub(super) fn last_revision(db: &Connection) -> rusqlite::Result<Revision> {
    // A store without it is damaged, and the error says that no row was returned.
    db.prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row(params![REVISION], |row| row.get(0))
        .map(Revision)
}

/// The greatest that a row has.
fn greatest_revision(db: &Connection) -> rusqlite::Result<Revision> {
    db.query_row(
        "SELECT max(coalesce((SELECT max(revision) FROM tenants), 0), coalesce((SELECT max(revision) FROM removed), 0))",
        [],
        |row| row.get(0),
    )
    .map(Revision)
}

pub(super) fn set_revision(tx: &Transaction<'_>, revision: Revision) -> rusqlite::Result<()> {
    set_meta(tx, REVISION, revision.0)
}

/// Open the database, or make it, and bring it to [`BASE`]. One of another home than `ours` is left as it is.
pub(super) fn open(path: &Path, ours: Option<&Home>) -> Result<Connection, StoreError> {
    let open = |source| open_failed(path, source);
    let mode = |source| StoreError::Mode { path: path.display().to_string(), source };
    if path.exists() {
        // SQLite does not say why it cannot open a file.
        drop(File::open(path).map_err(mode)?);
        look(path, ours)?;
    }
    // The directory is passable, because tenants' files lie in it; SQLite gives its side files the mode of this one.
    let private = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    private.and_then(|file| file.set_permissions(Permissions::from_mode(0o600))).map_err(mode)?;
    // SQLite does so for its side files, not for the database itself: without it a power cut could take the name away.
    sync_directory(path).map_err(mode)?;
    let mut db = Connection::open(path).map_err(open)?;
    db.busy_timeout(PATIENCE).map_err(open)?;
    // A new database has a rollback journal until it has a log. Its deletion must be durable (EXTRA): a journal that a power
    // cut brings back is rolled back, whatever was written since.
    db.pragma_update(None, "synchronous", "EXTRA").map_err(open)?;
    db.pragma_update(None, "journal_mode", "WAL").map_err(open)?;
    db.pragma_update(None, "synchronous", "FULL").map_err(open)?;
    let found = version(&db).map_err(open)?;
    if (1..BASE).contains(&found) {
        put_aside(&db, path, found)?;
    }
    bring_forward(&mut db, found).map_err(open)?;
    if found < BASE {
        tracing::info!(path = %path.display(), schema = BASE, "the store has a new schema");
    }
    Ok(db)
}

/// The steps that are missing from a schema on, each one transaction.
pub(super) fn bring_forward(db: &mut Connection, found: i64) -> rusqlite::Result<()> {
    let missing = (1..).zip(STEPS).skip_while(|(number, _)| *number <= found);
    missing.into_iter().try_for_each(|(number, step)| migrate(db, number, step))
}

/// Kind, name and words of everything in a schema; SQLite's own tables apart.
pub(super) fn shape(db: &Connection) -> rusqlite::Result<Vec<(String, String, String)>> {
    let sql = "SELECT type, name, coalesce(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    let mut all = db.prepare(sql)?;
    all.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
}

/// What [`shape`] is of a database of this schema.
pub(super) fn shape_of(schema: i64) -> rusqlite::Result<Vec<(String, String, String)>> {
    let mut db = Connection::open_in_memory()?;
    for (number, step) in (1..=schema).zip(STEPS) {
        migrate(&mut db, number, step)?;
    }
    shape(&db)
}

/// Look without writing: a database that this program must not touch stays as it is, byte for byte.
fn look(path: &Path, ours: Option<&Home>) -> Result<(), StoreError> {
    let open = |source| open_failed(path, source);
    let (db, found) = match opened(path, OpenFlags::SQLITE_OPEN_READ_ONLY) {
        // Cut in the middle of its first steps, before there was a log: what was begun has to be taken back before anybody
        // can read, and whoever made the file would take the same back.
        Err(error) if is_to_be_rolled_back(&error) => opened(path, OpenFlags::SQLITE_OPEN_READ_WRITE),
        other => other,
    }
    .map_err(open)?;
    if found > SCHEMA {
        return Err(StoreError::Newer { path: path.display().to_string(), found });
    }
    let words: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(open)?;
    if words != "ok" {
        return Err(StoreError::Broken { path: path.display().to_string(), words });
    }
    if found >= 2 && last_revision(&db).map_err(open)? < greatest_revision(&db).map_err(open)? {
        let words = "a row has a greater revision than the last one".to_owned();
        return Err(StoreError::Broken { path: path.display().to_string(), words });
    }
    let theirs = if found < 2 { None } else { home(&db).map_err(open)? };
    match (theirs, ours) {
        (Some(theirs), Some(ours)) if !theirs.is(ours) => {
            let (path, theirs, ours) = (path.display().to_string(), Box::new(theirs), Box::new(ours.clone()));
            Err(StoreError::Elsewhere { path, theirs, ours })
        }
        _ => Ok(()),
    }
}

fn opened(path: &Path, mode: OpenFlags) -> rusqlite::Result<(Connection, i64)> {
    let db = Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(PATIENCE)?;
    let found = version(&db)?;
    Ok((db, found))
}

fn is_to_be_rolled_back(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_READONLY_ROLLBACK)
}

/// Where a database belongs; none: nobody has said so yet.
pub(super) fn home(db: &Connection) -> rusqlite::Result<Option<Home>> {
    // What does not parse names no place.
    Ok(words(db, HOME)?.and_then(|text| serde_json::from_str(&text).ok()))
}

pub(super) fn version(db: &Connection) -> rusqlite::Result<i64> {
    db.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Before further trunks are kept: the database as it is is put aside, for the program before this one.
pub(super) fn raise_for_trunks(db: &Connection, path: &Path) -> Result<(), StoreError> {
    let found = version(db).map_err(|source| open_failed(path, source))?;
    if found < SCHEMA { put_aside(db, path, found) } else { Ok(()) }
}

/// With further trunks kept, programs that know of none are kept out.
pub(super) fn set_for_trunks(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.pragma_update(None, "user_version", SCHEMA)
}

fn migrate(db: &mut Connection, number: i64, step: Step) -> rusqlite::Result<()> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    step(&tx)?;
    tx.pragma_update(None, "user_version", number)?;
    tx.commit()
}

/// Copy the database as it is to `NAME.schema-N`, so that the program before this one can be gone back to. A copy that is
/// there stays: the next one gets a number.
fn put_aside(db: &Connection, path: &Path, schema: i64) -> Result<(), StoreError> {
    let copy = copy_beside(db, path, &format!(".schema-{schema}"), u32::MAX)?;
    tracing::info!(copy = %copy.display(), schema, "the store was copied before its schema changes");
    Ok(())
}

/// A copy beside the database, under its name and an ending; one that is there stays, the next one gets a number. When
/// there are `most` of them, the oldest one is replaced.
pub(super) fn copy_beside(db: &Connection, path: &Path, ending: &str, most: u32) -> Result<PathBuf, StoreError> {
    let place = |number| beside(path, &if number == 1 { ending.to_owned() } else { format!("{ending}-{number}") });
    let age = |copy: &PathBuf| fs::metadata(copy).and_then(|found| found.modified()).ok();
    let free = (1..=most).map(place).find(|copy| !copy.exists());
    let oldest = || (1..=most).map(place).min_by_key(age);
    let copy = free.or_else(oldest).unwrap_or_else(|| place(1));
    let part = beside(path, ".copy");
    copy_into(db, &part)?;
    let place = |source| StoreError::Copy { path: copy.display().to_string(), source };
    fs::rename(&part, &copy).map_err(place)?;
    sync_directory(path).map_err(place)?;
    Ok(copy)
}

/// A consistent copy in one file of its own, flushed, for root only; replaces what is there.
fn copy_into(db: &Connection, to: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::Copy { path: to.display().to_string(), source };
    let sql = |source| StoreError::CopyRows { path: to.display().to_string(), source };
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(to).map_err(failed)?;
    let mut copy = Connection::open(to).map_err(sql)?;
    {
        let backup = Backup::new(db, &mut copy).map_err(sql)?;
        // All pages in one step: of one moment, whoever writes meanwhile. Whoever holds a lock is waited for, not for ever.
        let until = Instant::now() + PATIENCE;
        while !matches!(backup.step(-1).map_err(sql)?, StepResult::Done) {
            if Instant::now() >= until {
                let held = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
                return Err(sql(rusqlite::Error::SqliteFailure(held, None)));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    // A copy is one file: no side files, wherever it is carried.
    copy.pragma_update(None, "journal_mode", "DELETE").map_err(sql)?;
    copy.close().map_err(|(_, source)| sql(source))?;
    file.sync_all().map_err(failed)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// A new name is durable when its directory is.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}
