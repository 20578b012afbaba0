//! What the trait promises, of every store: each is driven by the same histories beside the naive one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use serde_json::json;

use super::faulty::{Faults, FaultyStore};
use super::memory::MemoryStore;
use super::*;
use crate::audit::{AuditResult, difference};
use crate::control::Who;

/// A tenant that nobody has written yet.
pub(crate) fn desired(name: &str, generation: u64) -> Desired {
    let tenant = json!({
        "name": name, "stack": "inet0", "vlan": 600, "gid": 524_288, "device": "dev0", "whole_device": false,
        "mac": null, "addresses": ["192.168.1.1/24"], "tunnels": ["gre:198.51.100.2,key=7"], "dns": [],
        "gateway": null, "routes": [], "services": [], "generation": generation,
    });
    Desired::new(serde_json::from_value(tenant).unwrap())
}

/// An entry for a change to `desired`.
pub(crate) fn entry(verb: &'static str, desired: &Desired) -> Entry {
    let (before, after) = difference(None, Some(desired));
    Entry { at_ms: 1, who: Who::daemon(), verb, tenant: Some(desired.tenant.name.clone()), before, after }
}

/// One thing that is done to a store.
#[derive(Debug, Clone)]
enum Act {
    /// Tenant, generation, whether the right revision is expected.
    Put(u8, u64, bool),
    Remove(u8, bool),
    Finish(u64),
    Note(u8),
    Flush,
    Since(u64),
    Audit(Option<u8>, Option<u64>, usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let right = prop::bool::weighted(0.8);
    let act = prop_oneof![
        6 => (0..6_u8, 1..100_u64, right).prop_map(|(n, g, r)| Act::Put(n, g, r)),
        3 => (0..6_u8, right).prop_map(|(n, r)| Act::Remove(n, r)),
        2 => (0..40_u64).prop_map(Act::Finish),
        1 => (0..6_u8).prop_map(Act::Note),
        1 => Just(Act::Flush),
        2 => (0..40_u64).prop_map(Act::Since),
        1 => (prop::option::of(0..6_u8), prop::option::of(0..40_u64), 1..20_usize).prop_map(|(n, s, l)| Act::Audit(n, s, l)),
    ];
    prop::collection::vec(act, 1..60)
}

fn name(number: u8) -> TenantName {
    format!("t{number}").parse().unwrap()
}

/// What an act shows, in words that two stores must share.
fn act(store: &mut dyn Store, act: &Act) -> String {
    let at = |store: &mut dyn Store, n: u8| {
        let found = store.load().unwrap().rows.into_iter().find(|row| row.tenant.name == name(n));
        found.map_or(Expect::Absent, |row| row.expect())
    };
    let wrong = |expect| match expect {
        Expect::Absent => Expect::At(Revision(7777)),
        Expect::At(_) => Expect::Absent,
    };
    match act {
        Act::Put(n, generation, right) => {
            let desired = desired(name(*n).as_str(), *generation);
            let expect = at(store, *n);
            let expect = if *right { expect } else { wrong(expect) };
            told(store.put(&desired, expect, &entry("put", &desired)))
        }
        Act::Remove(n, right) => {
            let expect = at(store, *n);
            let expect = if *right { expect } else { wrong(expect) };
            told(store.remove(&name(*n), expect, &entry("remove", &desired(name(*n).as_str(), 0))))
        }
        Act::Finish(revision) => {
            store.finish(Revision(*revision), Outcome::Failed("no".into()));
            String::new()
        }
        Act::Note(n) => {
            let entry = entry("note", &desired(name(*n).as_str(), 0));
            store.note(entry, Outcome::Refused("never".into()));
            String::new()
        }
        Act::Flush => told(store.flush()),
        Act::Since(revision) => told(store.since(Revision(*revision))),
        Act::Audit(n, since, limit) => {
            let query = Query { tenant: n.map(name), since: *since, limit: *limit, ..Query::default() };
            told(store.audit(&query))
        }
    }
}

fn told<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => error.to_string(),
    }
}

fn sorted(store: &mut dyn Store) -> Snapshot {
    let mut snapshot = store.load().unwrap();
    snapshot.rows.sort_by(|a, b| a.tenant.name.cmp(&b.tenant.name));
    snapshot
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn sqlite_does_what_the_naive_store_does(acts in acts(), reopen in 0..60_usize) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let mut real = SqliteStore::open(&path).unwrap();
        let mut naive = MemoryStore::new();
        for (number, one) in acts.iter().enumerate() {
            prop_assert_eq!(act(&mut real, one), act(&mut naive, one), "act {} of {:?}", number, acts);
            prop_assert_eq!(*real.watch().borrow(), *naive.watch().borrow());
            if number == reopen {
                real.flush().unwrap();
                drop(real);
                real = SqliteStore::open(&path).unwrap();
                naive = naive.reopen();
            }
        }
        prop_assert_eq!(sorted(&mut real), sorted(&mut naive));
    }
}

#[test]
fn of_two_writers_one_wins_and_the_other_is_told_both_revisions() {
    let mut store = MemoryStore::new();
    let acme = desired("acme", 1);
    let first = store.put(&acme, Expect::Absent, &entry("add", &acme)).unwrap();
    let second = store.put(&acme, Expect::At(first), &entry("change", &acme)).unwrap();
    let lost = store.put(&acme, Expect::At(first), &entry("change", &acme)).unwrap_err();
    assert_eq!(
        lost.to_string(),
        "tenant acme was changed meanwhile: revision 1 was expected in the store, there is revision 2"
    );
    assert!(matches!(lost, StoreError::Stale { found: Some(found), .. } if found == second));
    let there = store.put(&acme, Expect::Absent, &entry("add", &acme)).unwrap_err();
    assert!(matches!(there, StoreError::Stale { expected: Expect::Absent, .. }));
}

#[test]
fn a_fault_is_before_or_after_the_effect_and_only_once() {
    let faults = Faults::default();
    let mut store = FaultyStore::new(MemoryStore::new(), faults.clone());
    let (a, b) = (desired("a", 1), desired("b", 1));
    faults.before(1);
    assert!(matches!(store.put(&a, Expect::Absent, &entry("add", &a)), Err(StoreError::Injected(1))));
    assert!(store.load().unwrap().rows.is_empty());
    faults.after(2);
    store.put(&a, Expect::Absent, &entry("add", &a)).unwrap();
    assert!(matches!(store.put(&b, Expect::Absent, &entry("add", &b)), Err(StoreError::Injected(3))));
    assert_eq!(store.load().unwrap().rows.len(), 2);
    faults.before(1);
    faults.heal();
    assert_eq!(faults.writes(), 3);
    let changes = store.since(Revision(1)).unwrap();
    assert!(matches!(&changes[..], [Change::Put(found)] if found.same(&b)), "{changes:?}");
}

#[test]
fn what_a_killed_daemon_left_open_is_unfinished() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let (a, b) = (desired("a", 1), desired("b", 1));
    let mut store = SqliteStore::open(&path).unwrap();
    let first = store.put(&a, Expect::Absent, &entry("add", &a)).unwrap();
    store.finish(first, Outcome::Done);
    store.put(&b, Expect::Absent, &entry("add", &b)).unwrap();
    drop(store);
    let rows = SqliteStore::open(&path).unwrap().audit(&Query { limit: 10, ..Query::default() }).unwrap();
    let results: Vec<_> = rows.iter().map(|row| row.result).collect();
    // The first outcome went with the second change's transaction.
    assert_eq!(results, [AuditResult::Done, AuditResult::Unfinished]);
}
