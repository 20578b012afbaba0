//! The database as it is on the disk: brought forward, damaged, held by others, copied. One long file, because each case is
//! a few lines over the same few helpers.

#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::audit::{AuditResult, FORGET};
use crate::control::Who;
use crate::model::EventOrigin;
use crate::store::tests::{desired, entry};

/// A database as the program with schema 1 left it.
const SCHEMA_1: &str = include_str!("../fixtures/schema-1.sql");

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path).unwrap()
}

fn everything() -> Query {
    Query { limit: Query::MOST, ..Query::default() }
}

#[test]
fn what_was_put_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let mut acme = desired("acme", 1);
    {
        let mut store = open(&path);
        acme.revision = store.put(&acme, Expect::Absent, &entry("add", &acme)).unwrap();
        let gone = desired("gone", 1);
        let at = store.put(&gone, Expect::Absent, &entry("add", &gone)).unwrap();
        store.remove(&gone.tenant.name, Expect::At(at), &entry("remove", &gone)).unwrap();
        store.remove(&"never".parse().unwrap(), Expect::Absent, &entry("remove", &gone)).unwrap();
        acme.removing = true;
        acme.revision = store.put(&acme, acme.expect(), &entry("remove", &acme)).unwrap();
        for side in ["t.db", "t.db-wal", "t.db-shm"] {
            let mode = fs::metadata(dir.path().join(side)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{side}");
        }
    }
    let mut store = open(&path);
    assert_eq!(store.load().unwrap(), Snapshot { revision: acme.revision, rows: vec![acme], unreadable: Vec::new() });
    assert_eq!(store.audit(&everything()).unwrap().len(), 4);
}

#[test]
fn a_database_of_the_first_schema_is_brought_forward_and_copied_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let old = |path: &Path| Connection::open(path).unwrap().execute_batch(SCHEMA_1).unwrap();
    old(&path);
    let before = rows_of(&path);
    let snapshot = open(&path).load().unwrap();
    let names: Vec<_> = snapshot.rows.iter().map(|row| (row.tenant.name.as_str(), row.removing)).collect();
    assert_eq!(names, [("acme", false), ("beta", true)]);
    assert_eq!(snapshot.rows[0].tenant.tunnels[0].to_string(), "gre:198.51.100.2,local=203.0.113.1,key=7");
    // The copy is what the older program opens: its schema, its rows, one file.
    let copy = dir.path().join("t.db.schema-1");
    assert_eq!(rows_of(&copy), before);
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    // Back to the old program and forward again: no copy replaces an older one.
    let first = fs::read(&copy).unwrap();
    fs::remove_file(&path).unwrap();
    old(&path);
    open(&path);
    assert_eq!(fs::read(&copy).unwrap(), first);
    assert_eq!(rows_of(&dir.path().join("t.db.schema-1-2")), before);
    // A second start has nothing to do.
    open(&path);
    assert!(!dir.path().join("t.db.schema-1-3").exists() && !dir.path().join("t.db.copy").exists());
}

/// Schema and rows as the first schema has them.
fn rows_of(path: &Path) -> (i64, Vec<(String, String)>) {
    let db = Connection::open(path).unwrap();
    let version = db.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    let mut rows = db.prepare("SELECT name, body FROM tenants ORDER BY name").unwrap();
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    (version, rows.collect::<Result<_, _>>().unwrap())
}

#[test]
fn a_migration_that_is_cut_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    {
        let mut db = Connection::open(&path).unwrap();
        db.execute_batch(SCHEMA_1).unwrap();
        // What a step had done when the power went: nothing of it was committed.
        let tx = db.transaction().unwrap();
        tx.execute_batch("CREATE TABLE meta (x); DROP TABLE tenants;").unwrap();
    }
    assert_eq!(open(&path).load().unwrap().rows.len(), 2);
}

#[test]
fn further_trunks_keep_older_programs_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let schema = |path: &Path| rows_of(path).0;
    let known = |names: &[&str]| (0..).map(TrunkIndex).zip(names.iter().map(ToString::to_string)).collect::<Known>();
    let mut store = open(&path);
    assert_eq!(store.trunks().unwrap(), Known::new());
    // One is what older programs have: the way back stays open.
    store.keep_trunks(&known(&["eth1"])).unwrap();
    assert_eq!((store.trunks().unwrap(), schema(&path)), (known(&["eth1"]), 2));
    let revision = store.health().revision;
    store.keep_trunks(&known(&["eth1", "west"])).unwrap();
    assert_eq!((schema(&path), schema(&dir.path().join("t.db.schema-2"))), (SCHEMA, 2));
    assert_eq!(store.health().revision, revision, "nobody's tenants changed");
    drop(store);
    // Again, and by a backup: the same, and no further copy.
    let mut store = open(&path);
    assert_eq!(store.trunks().unwrap(), known(&["eth1", "west"]));
    store.keep_trunks(&known(&["eth1", "west", "south"])).unwrap();
    assert!(!dir.path().join("t.db.schema-2-2").exists());
    let copied = store.backup().unwrap().make().unwrap();
    read_copy(&copied).unwrap();
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let acme = desired("acme", 1);
    open(&path).put(&acme, Expect::Absent, &entry("add", &acme)).unwrap();
    // Held by its own program meanwhile, so that what is new is still in the log.
    let newer = Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", SCHEMA + 1).unwrap();
    let files = || ["t.db", "t.db-wal"].map(|file| fs::read(dir.path().join(file)).unwrap());
    let before = files();
    let refused = SqliteStore::open(&path).err().unwrap();
    assert!(matches!(refused, StoreError::Newer { found, .. } if found == SCHEMA + 1), "{refused}");
    assert!(files() == before, "its files were touched");
    drop(newer);
    let before = fs::read(&path).unwrap();
    SqliteStore::open(&path).unwrap_err();
    assert!(fs::read(&path).unwrap() == before);
    let mut files = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    assert!(!files.any(|file| file.starts_with("t.db.")), "a copy of what was not touched");
}

#[test]
fn a_file_that_is_no_database_is_a_named_error_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let junk = "x".repeat(4096);
    fs::write(&path, &junk).unwrap();
    let refused = SqliteStore::open(&path).unwrap_err();
    assert!(matches!(refused, StoreError::Open { trouble: Trouble::NoDatabase, .. }), "{refused}");
    assert_eq!(fs::read_to_string(&path).unwrap(), junk);
}

#[test]
fn a_bit_that_turned_in_a_row_is_named_and_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let acme = desired("acme", 1);
    open(&path).put(&acme, Expect::Absent, &entry("add", &acme)).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let text = b"\"addresses\":[\"192.168.1.1/24\"]";
    let places: Vec<usize> = (0..bytes.len() - text.len()).filter(|at| bytes[*at..].starts_with(text)).collect();
    // Also in the audit, which comes later in the file or not: each is turned alone.
    let mut named = 0;
    for place in places {
        bytes[place + 24] ^= 2;
        fs::write(&path, &bytes).unwrap();
        // SQLite's own check sees nothing.
        let found =
            Connection::open(&path).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
        assert_eq!(found.unwrap(), "ok");
        let found = open(&path).load().unwrap();
        if let Some(unreadable) = found.unreadable.first() {
            assert_eq!((unreadable.name.as_str(), unreadable.revision), ("acme", Revision(1)));
            assert!(unreadable.cause.contains("checksum"), "{}", unreadable.cause);
            assert!(found.rows.is_empty());
            // Whoever watches is refused, and so is a backup: what it would bring back is not what was written.
            let since = open(&path).since(Revision(0)).unwrap_err();
            assert!(matches!(&since, StoreError::Damaged { name, .. } if name == "acme"), "{since}");
            assert!(matches!(open(&path).backup().unwrap().make(), Err(StoreError::Backup { .. })));
            named += 1;
        }
        bytes[place + 24] ^= 2;
    }
    assert_eq!(named, 1);
}

#[test]
fn removals_are_remembered_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(&dir.path().join("t.db"));
    store.db.pragma_update(None, "synchronous", "OFF").unwrap();
    let first = Revision(1);
    for number in 0..REMOVED + 10 {
        let one = desired(&format!("t{number}"), 1);
        let at = store.put(&one, Expect::Absent, &entry("add", &one)).unwrap();
        store.remove(&one.tenant.name, Expect::At(at), &entry("remove", &one)).unwrap();
    }
    assert!(matches!(store.since(first), Err(StoreError::Compacted { .. })));
    let last = *store.watch().borrow();
    let changes = store.since(Revision(last.0 - 10)).unwrap();
    assert_eq!(changes.len(), 5);
    assert!(changes.iter().all(|change| matches!(change, Change::Removed { .. })));
}

#[test]
fn a_tenant_that_asks_without_end_pushes_out_its_own_traces_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let mut store = open(&path);
    let note = |verb, who: Who, tenant: &str| {
        let tenant: Option<TenantName> = Some(tenant.parse().unwrap());
        (Entry { at_ms: 1, who, verb, tenant, before: None, after: None }, Outcome::Refused("x".repeat(200)))
    };
    let inside = |name: &str| Who { origin: EventOrigin::Tenant, tenant: Some(name.parse().unwrap()), ..Who::daemon() };
    let operator = Who { origin: EventOrigin::Operator, ..Who::daemon() };
    for (entry, outcome) in [note("first", operator, "evil"), note("first", inside("good"), "good")] {
        store.note(entry, outcome);
    }
    for _ in 0..5 {
        for _ in 0..1000 {
            let (entry, outcome) = note("noise", inside("evil"), "evil");
            store.note(entry, outcome);
        }
        store.flush().unwrap();
    }
    let rows = store.audit(&Query { since: Some(0), ..everything() }).unwrap();
    assert_eq!(rows.iter().filter(|row| row.verb == "first").count(), 2);
    let noise = rows.iter().filter(|row| row.verb == "noise").count();
    assert!((450..=500).contains(&noise), "{noise}");
    // The counts of a fresh start are the same.
    drop(store);
    let mut store = open(&path);
    for _ in 0..100 {
        let (entry, outcome) = note("noise", inside("evil"), "evil");
        store.note(entry, outcome);
    }
    store.flush().unwrap();
    let left: i64 =
        store.db.query_row("SELECT count(*) FROM audit WHERE account = 'evil'", [], |row| row.get(0)).unwrap();
    assert!((450..=500).contains(&left), "{left}");
}

#[test]
fn a_name_that_is_given_again_does_not_show_what_was_done_with_it_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(&dir.path().join("t.db"));
    let acme = desired("acme", 1);
    let by = |origin| Who { origin, tenant: Some(acme.tenant.name.clone()), ..Who::daemon() };
    let about = |verb, origin| Entry { who: by(origin), ..entry(verb, &acme) };
    let holder = |store: &mut SqliteStore, forget: bool| {
        let at = store.put(&acme, Expect::Absent, &about("add", EventOrigin::Operator)).unwrap();
        store.note(about("own", EventOrigin::Tenant), crate::audit::Outcome::Done);
        store.flush().unwrap();
        if forget {
            // As the daemon's timer does it, long after the operator asked.
            store.remove(&acme.tenant.name, Expect::At(at), &about(FORGET, EventOrigin::Daemon)).unwrap();
        }
    };
    holder(&mut store, true);
    holder(&mut store, true);
    holder(&mut store, false);
    let verbs = |store: &mut SqliteStore, present, since| {
        let query = Query { tenant: Some(acme.tenant.name.clone()), present, since, ..everything() };
        store.audit(&query).unwrap().into_iter().map(|row| row.verb).collect::<Vec<_>>()
    };
    assert_eq!(verbs(&mut store, false, None).len(), 8);
    assert_eq!(verbs(&mut store, true, None), ["add", "own"]);
    assert_eq!(verbs(&mut store, true, Some(0)), ["add", "own"]);
    let newest = store.audit(&everything()).unwrap().last().unwrap().id;
    assert!(verbs(&mut store, true, Some(newest)).is_empty());
    // The end of the one before was pushed out by operators' rows; what it did itself is there still.
    let last = "SELECT max(id) FROM audit WHERE verb = 'forget'";
    store.db.execute(&format!("DELETE FROM audit WHERE account = '' AND id <= ({last})"), []).unwrap();
    assert_eq!(verbs(&mut store, false, None), ["own", "own", "add", "own"]);
    assert_eq!(verbs(&mut store, true, None), ["add", "own"]);
}

#[test]
fn order_is_by_number_when_the_clock_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(&dir.path().join("t.db"));
    let acme = desired("acme", 1);
    let at = |ms| Entry { at_ms: ms, ..entry("change", &acme) };
    let mut expect = Expect::Absent;
    for ms in [5000, 6000, 1000, 0, 7000] {
        expect = Expect::At(store.put(&acme, expect, &at(ms)).unwrap());
    }
    let rows = store.audit(&everything()).unwrap();
    assert_eq!(rows.iter().map(|row| row.at_ms).collect::<Vec<_>>(), [5000, 6000, 1000, 0, 7000]);
    assert!(rows.is_sorted_by_key(|row| row.id) && rows.is_sorted_by_key(|row| row.revision));
    assert_eq!(store.audit(&Query { since: Some(rows[2].id), ..everything() }).unwrap().len(), 2);
    assert!(rows.iter().all(|row| row.result == AuditResult::Open));
}

#[test]
fn somebody_who_holds_a_lock_is_waited_for_and_then_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let mut store = open(&path);
    let foreign = Connection::open(&path).unwrap();
    foreign.execute_batch("BEGIN IMMEDIATE").unwrap();
    let acme = desired("acme", 1);
    let started = Instant::now();
    let refused = store.put(&acme, Expect::Absent, &entry("add", &acme)).unwrap_err();
    assert!(started.elapsed() >= PATIENCE && started.elapsed() < PATIENCE * 20, "{:?}", started.elapsed());
    assert_eq!(refused.to_string(), "cannot write tenant acme in the store: another process holds a lock on it");
    let trouble = store.health().trouble.unwrap();
    assert!(trouble.contains("another process holds a lock"), "{trouble}");
    foreign.execute_batch("COMMIT").unwrap();
    store.put(&acme, Expect::Absent, &entry("add", &acme)).unwrap();
    let health = store.health();
    assert_eq!((health.trouble, health.failures, health.writes.count), (None, 1, 1));
}

fn home(machine: &str, instance: &str) -> Home {
    Home { machine: Some(machine.into()), host: format!("host-{machine}"), instance: instance.into() }
}

fn settle(dir: &Path, home: Home, accept: bool) -> Result<SqliteStore, StoreError> {
    SqliteStore::settle(&dir.join("t.db"), &Settling { home, accept, mark: &dir.join("mark") })
}

#[test]
fn a_store_of_another_host_is_refused_until_it_is_accepted_and_that_is_audited() {
    let dir = tempfile::tempdir().unwrap();
    let acme = desired("acme", 1);
    settle(dir.path(), home("a", "main"), false).unwrap().put(&acme, Expect::Absent, &entry("add", &acme)).unwrap();
    let before = fs::read(dir.path().join("t.db")).unwrap();
    for elsewhere in [home("b", "main"), home("a", "lab")] {
        let refused = settle(dir.path(), elsewhere, false).unwrap_err();
        assert!(matches!(refused, StoreError::Elsewhere { .. }));
        let words = refused.to_string();
        assert!(words.contains("host-a") && words.contains("--accept-store"), "{words}");
    }
    assert!(fs::read(dir.path().join("t.db")).unwrap() == before, "its file was touched");
    let mut taken = settle(dir.path(), home("b", "main"), true).unwrap();
    let rows = taken.audit(&everything()).unwrap();
    let row = rows.iter().find(|row| row.verb == "accept-store").unwrap();
    assert_eq!(row.before.as_ref().unwrap()["host"], "host-a");
    assert_eq!(row.after.as_ref().unwrap()["host"], "host-b");
    drop(taken);
    settle(dir.path(), home("b", "main"), false).unwrap();
    settle(dir.path(), home("a", "main"), false).unwrap_err();
    // Taken over twice, told twice; at home, nothing is told.
    drop(settle(dir.path(), home("a", "main"), true).unwrap());
    let mut taken = settle(dir.path(), home("a", "main"), true).unwrap();
    assert_eq!(taken.audit(&everything()).unwrap().iter().filter(|row| row.verb == "accept-store").count(), 2);
}

#[test]
fn a_store_that_lost_what_was_answered_on_this_run_of_the_machine_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let (a, b) = (desired("a", 1), desired("b", 1));
    let open = || settle(dir.path(), home("a", "main"), false).unwrap();
    let mut store = open();
    store.put(&a, Expect::Absent, &entry("add", &a)).unwrap();
    drop(store);
    let mut store = open();
    assert_eq!(store.health().warning, None);
    let last = store.put(&b, Expect::Absent, &entry("add", &b)).unwrap();
    // Killed, and a byte of the log turned: SQLite takes it for the end of the log.
    let files = ["t.db", "t.db-wal"].map(|name| (name, fs::read(dir.path().join(name)).unwrap()));
    drop(store);
    for (name, bytes) in &files {
        let mut bytes = bytes.clone();
        if *name == "t.db-wal" {
            bytes[40] ^= 1;
        }
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    let _ = fs::remove_file(dir.path().join("t.db-shm"));
    let mut store = open();
    let names: Vec<_> = store.load().unwrap().rows.iter().map(|row| row.tenant.name.to_string()).collect();
    assert_eq!(names, ["a"], "the damage costs what came after it");
    let warning = store.health().warning.unwrap();
    assert!(warning.contains("older than what was answered") && warning.contains("revision 2"), "{warning}");
    // The numbers that were given out are not given out again, and the audit tells.
    assert!(store.put(&b, Expect::Absent, &entry("add", &b)).unwrap() > last);
    let rows = store.audit(&everything()).unwrap();
    assert!(rows.iter().any(|row| row.verb == "store-changed" && row.result == AuditResult::Failed), "{rows:?}");
    drop(store);
    // Told once; another store is another matter; the next run of the machine knows nothing.
    assert_eq!(open().health().warning, None);
    fs::remove_file(&path).unwrap();
    assert!(open().health().warning.unwrap().contains("another store"));
    fs::remove_file(&path).unwrap();
    fs::remove_file(dir.path().join("mark")).unwrap();
    assert_eq!(open().health().warning, None);
}

#[test]
fn a_backup_is_one_moment_and_what_it_says_is_taken_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = settle(dir.path(), home("a", "main"), false).unwrap();
    let (a, b) = (desired("a", 1), desired("b", 1));
    store.put(&a, Expect::Absent, &entry("add", &a)).unwrap();
    let copying = store.backup().unwrap();
    store.put(&b, Expect::Absent, &entry("add", &b)).unwrap();
    let bytes = copying.make().unwrap();
    let copied = read_copy(&bytes).unwrap();
    assert_eq!(copied.home, Some(home("a", "main")));
    assert_eq!(copied.snapshot, store.load().unwrap());
    // A file of its own, without a log: anybody's SQLite opens it, also from where nothing can be written.
    let file = dir.path().join("backup.db");
    fs::write(&file, &bytes).unwrap();
    let db = Connection::open_with_flags(&file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    assert_eq!(db.query_row("SELECT count(*) FROM tenants", [], |row| row.get::<_, i64>(0)).unwrap(), 2);
    assert_eq!(db.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0)).unwrap(), "delete");
    assert!(!dir.path().join("backup.db-wal").exists());
    // One of the first schema is taken too.
    let old = dir.path().join("old.db");
    Connection::open(&old).unwrap().execute_batch(SCHEMA_1).unwrap();
    let copied = read_copy(&fs::read(&old).unwrap()).unwrap();
    assert_eq!((copied.home, copied.snapshot.rows.len()), (None, 2));
}

#[test]
fn copies_before_a_restore_are_kept_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = settle(dir.path(), home("a", "main"), false).unwrap();
    let copies: Vec<String> = (0..18).map(|_| store.keep_copy("before-restore").unwrap()).collect();
    let names: std::collections::BTreeSet<_> = copies.iter().collect();
    assert_eq!(names.len(), 16);
    assert_eq!((&copies[16], &copies[17]), (&copies[0], &copies[1]), "the oldest are replaced");
    assert!(copies.iter().all(|copy| Path::new(copy).exists()));
}

#[test]
fn what_is_no_whole_backup_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = settle(dir.path(), home("a", "main"), false).unwrap();
    for number in 0..40 {
        let one = desired(&format!("t{number}"), 1);
        store.put(&one, Expect::Absent, &entry("add", &one)).unwrap();
    }
    let good = store.backup().unwrap().make().unwrap();
    let foreign = |sql: &str| {
        let path = dir.path().join("foreign.db");
        let _ = fs::remove_file(&path);
        fs::write(&path, &good).unwrap();
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        fs::read(&path).unwrap()
    };
    let empty = {
        let path = dir.path().join("empty.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE people (name)").unwrap();
        fs::read(&path).unwrap()
    };
    // A digit turned in a row; a page may hold what was a row before, so each place is tried.
    let text = b"\"generation\":1},\"removing\"";
    let turned = (0..good.len()).filter(|at| good[*at..].starts_with(text)).map(|at| {
        let mut bytes = good.clone();
        bytes[at + 13] = b'2';
        bytes
    });
    let refused =
        turned.filter(|bytes| matches!(read_copy(bytes), Err(CopyError::Row(StoreError::Damaged { .. })))).count();
    assert_eq!(refused, 40);
    for (bytes, words) in [
        (Vec::new(), "no SQLite database"),
        (b"x".repeat(5000), "no SQLite database"),
        (good[..good.len() / 2].to_vec(), ""),
        (good[..4096].to_vec(), ""),
        (empty, "no store of tenantd"),
        (foreign("PRAGMA user_version = 99"), "schema 99"),
        (foreign("CREATE TRIGGER t AFTER INSERT ON tenants BEGIN DELETE FROM audit; END"), "trigger t"),
        (foreign("DROP TABLE audit"), "audit"),
        (foreign("CREATE TABLE more (x)"), "table more"),
        (foreign("UPDATE tenants SET body = 'x' WHERE name = 't7'"), "t7"),
        (foreign("DELETE FROM meta WHERE key = 'revision'"), "cannot be read"),
    ] {
        let Err(refused) = read_copy(&bytes) else { panic!("{words} is taken") };
        let told = crate::owner::chain(&refused);
        assert!(told.contains(words), "{words}: {told}");
    }
    // Pages turned to zeros, one after the other: refused, or the page was of no meaning and nothing differs.
    let expected = read_copy(&good).unwrap();
    let mut refusals = 0;
    for page in 0..good.len() / 4096 {
        let mut bytes = good.clone();
        bytes[page * 4096..(page + 1) * 4096].fill(0);
        match read_copy(&bytes) {
            Ok(copied) => assert_eq!(copied, expected, "page {page}"),
            Err(_) => refusals += 1,
        }
    }
    assert!(refusals > 5, "{refusals}");
}

#[test]
fn several_rows_are_written_at_once_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(&dir.path().join("t.db"));
    let mut naive = crate::store::memory::MemoryStore::new();
    let (a, b) = (desired("a", 1), desired("b", 1));
    let write =
        |desired: &Desired, expect| Write { desired: desired.clone(), expect, entry: entry("restore", desired) };
    for store in [&mut store as &mut dyn Store, &mut naive] {
        let first = store.put_all(&[write(&a, Expect::Absent), write(&b, Expect::Absent)]).unwrap();
        assert_eq!(first, Revision(1));
        let stale = store.put_all(&[write(&a, Expect::At(first)), write(&b, Expect::Absent)]).unwrap_err();
        assert!(matches!(stale, StoreError::Stale { .. }), "{stale}");
        assert!(store.load().unwrap().rows.iter().all(|row| row.revision == first));
        store.finish(first, Outcome::Done);
        let rows = store.audit(&everything()).unwrap();
        assert_eq!(
            rows.iter().map(|row| (row.revision, row.result)).collect::<Vec<_>>(),
            [(Some(1), AuditResult::Done); 2]
        );
    }
}

/// Whatever is damaged in the file: it is refused by name and left as it is, or nothing that is desired differs.
#[test]
fn a_damaged_file_is_named_or_the_damage_is_of_no_meaning() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let mut store = open(&path);
    for number in 0..60 {
        let one = desired(&format!("t{number}"), 1);
        let at = store.put(&one, Expect::Absent, &entry("add", &one)).unwrap();
        if number % 7 == 0 {
            store.remove(&one.tenant.name, Expect::At(at), &entry("remove", &one)).unwrap();
        }
    }
    let expected = store.load().unwrap();
    drop(store);
    let good = fs::read(&path).unwrap();
    let pages = good.len() / 4096;
    assert!(pages > 20, "{pages}");
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    let mut case = |words: String, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        cases.push((words, bytes));
    };
    for page in 0..pages {
        let at = page * 4096;
        case(format!("page {page} is zeros"), &|bytes| bytes[at..at + 4096].fill(0));
        case(format!("page {page} is another one"), &|bytes| {
            bytes.copy_within((pages / 2) * 4096..(pages / 2 + 1) * 4096, at)
        });
        case(format!("cut at page {page}"), &|bytes| bytes.truncate(at));
        for bit in 0..3 {
            let place = at + (page * 37 + bit * 1301) % 4096;
            case(format!("a bit at {place}"), &|bytes| bytes[place] ^= 1 << bit);
        }
    }
    for place in 0..100 {
        case(format!("byte {place} of the header"), &|bytes| bytes[place] ^= 0x55);
    }
    let (mut refused, mut harmless) = (0, 0);
    for (words, bytes) in cases {
        fs::write(&path, &bytes).unwrap();
        for side in ["t.db-wal", "t.db-shm"] {
            let _ = fs::remove_file(dir.path().join(side));
        }
        match SqliteStore::open(&path).and_then(|mut store| store.load()) {
            // Nothing at all is a store that is made anew, which the mark tells.
            Ok(found) if bytes.is_empty() => assert_eq!(found, Snapshot::default()),
            Ok(found) if !found.unreadable.is_empty() => {
                // The others are as they were written.
                assert!(found.rows.iter().all(|row| expected.rows.contains(row)), "{words}");
                assert_eq!(found.rows.len() + found.unreadable.len(), expected.rows.len(), "{words}");
                refused += 1;
            }
            Ok(found) => {
                assert_eq!(found.rows, expected.rows, "{words}");
                assert!(found.revision >= expected.revision, "{words}: {}", found.revision);
                harmless += 1;
            }
            Err(error) => {
                let told = crate::owner::chain(&error);
                let named = ["damaged", "database", "schema", "file format"].iter().any(|word| told.contains(word));
                assert!(named, "{words}: {told}");
                refused += 1;
            }
        }
    }
    assert!(refused > 100 && harmless > 20, "{refused} refused, {harmless} harmless");
}

/// What the store takes with as many tenants as a trunk has, and with a full audit. By hand:
/// `cargo test --release -p tenantd --lib store::sqlite::tests::figures -- --ignored --nocapture`.
#[test]
#[ignore = "figures, measured by hand"]
fn figures() {
    let dir = tempfile::tempdir_in(std::env::var("FIGURES_IN").unwrap_or_else(|_| "/var/tmp".into())).unwrap();
    let path = dir.path().join("t.db");
    let mut store = open(&path);
    let started = Instant::now();
    for number in 0..4000 {
        let one = desired(&format!("t{number}"), 1);
        let at = store.put(&one, Expect::Absent, &entry("add", &one)).unwrap();
        store.finish(at, Outcome::Done);
    }
    let writes = store.health().writes;
    println!("4,000 added in {:?}: mean {:?}, longest {:?}", started.elapsed(), writes.sum / 4000, writes.max);
    let timed = |words: &str| {
        let size = fs::metadata(&path).unwrap().len() >> 10;
        let started = Instant::now();
        let mut store = open(&path);
        let opened = started.elapsed();
        let started = Instant::now();
        assert_eq!(store.load().unwrap().rows.len(), 4000);
        println!("{words}, {size} KiB: opened in {opened:?}, read in {:?}", started.elapsed());
        let started = Instant::now();
        let bytes = store.backup().unwrap().make().unwrap();
        println!("  backed up and checked in {:?}, {} KiB", started.elapsed(), bytes.len() >> 10);
        let one = desired("t7", 2);
        let expect = store.load().unwrap().rows.iter().find(|row| row.tenant.name.as_str() == "t7").unwrap().expect();
        let started = Instant::now();
        store.put(&one, expect, &entry("change", &one)).unwrap();
        println!("  first change in {:?}", started.elapsed());
    };
    drop(store);
    timed("4,000 tenants");
    let mut store = open(&path);
    let operator = Who { origin: EventOrigin::Operator, ..Who::daemon() };
    for _ in 0..25 {
        for _ in 0..4000 {
            let (who, tenant) = (operator.clone(), Some("t1".parse().unwrap()));
            let entry = Entry { at_ms: 1, who, verb: "noise", tenant, before: None, after: None };
            store.note(entry, Outcome::Refused("x".repeat(380)));
        }
        store.flush().unwrap();
    }
    drop(store);
    timed("4,000 tenants and a full audit");
}
