#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::audit::AuditResult;
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
    assert_eq!(store.load().unwrap(), Snapshot { revision: acme.revision, rows: vec![acme] });
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
        if let Err(error) = open(&path).load() {
            assert!(matches!(&error, StoreError::Damaged { name, .. } if name == "acme"), "{error}");
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
    assert!(started.elapsed() >= PATIENCE && started.elapsed() < PATIENCE * 3);
    assert_eq!(refused.to_string(), "cannot write tenant acme in the store: another process holds a lock on it");
    let trouble = store.health().trouble.unwrap();
    assert!(trouble.contains("another process holds a lock"), "{trouble}");
    foreign.execute_batch("COMMIT").unwrap();
    store.put(&acme, Expect::Absent, &entry("add", &acme)).unwrap();
    let health = store.health();
    assert_eq!((health.trouble, health.failures, health.writes.count), (None, 1, 1));
}
