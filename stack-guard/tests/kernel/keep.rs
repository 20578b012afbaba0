//! What stays when the process that opened a guard is gone, and what the verbs do to the tables.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use stack_guard::{
    Cgroup, CgroupError, Change, Guard, MAX_LEVEL, OpenError, OpenOptions, PutError, Refusal, Row, RowError,
    TableError, discard,
};

use crate::probe::Probe;
use crate::world::{GIDS_A, GIDS_B, Netns, World, cgroup_dir, pin_dir};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("enforced_without_a_process_and_adopted", enforced_without_a_process),
    ("replacement_opens_no_gap", replacement_opens_no_gap),
    ("another_layout_is_carried_over_without_a_gap", another_layout),
    ("put_and_remove", put_and_remove),
    ("what_is_taken", what_is_taken),
    ("cgroups_of_unknown_level_and_too_deep_ones", unknown_levels),
    ("full", full),
    ("wrong_places", wrong_places),
    ("half_a_put_is_cleaned_up", half_a_put_is_cleaned_up),
    ("a_removed_cgroup_is_attached_anew", a_removed_cgroup),
    ("too_many_events_are_counted", too_many_events),
];

/// What needs a kernel that describes itself.
pub(crate) const SEEING: &[(&str, fn())] = &[("without_btf_real_gid_and_cgroup_are_seen", without_btf)];

const EPERM: Result<(), Errno> = Err(Errno::EPERM);

/// Does it with nothing of a guard open but its pins.
fn with_guard_closed(world: &mut World, job: impl FnOnce()) {
    // Another guard, to have something in the field.
    let other = OpenOptions::new(cgroup_dir(), pin_dir());
    world.guard = Guard::open(&other).unwrap();
    world.events = world.guard.events().unwrap();
    job();
    world.guard = Guard::open(&world.options).unwrap();
    world.events = world.guard.events().unwrap();
    discard(&other.pin_dir).unwrap();
}

fn enforced_without_a_process() {
    let mut world = World::new();
    let probe = Probe::start(&world.cgroup("a"));
    probe.enter(&world.b);
    assert_eq!(probe.tries("socket x v4 tcp"), EPERM);
    let mut rows = vec![world.row_a(), world.row_b()];
    rows.sort_by_key(|row| row.cookie);
    world.refused();
    with_guard_closed(&mut world, || assert_eq!(probe.tries("socket x v4 tcp"), EPERM));
    let adoption = world.guard.adoption();
    assert_eq!((adoption.replaced, adoption.stacks, adoption.half.len()), (8, 2, 0));
    assert!(world.guard.rows().eq(&rows));
    assert_eq!(world.refused().len(), 1, "what nobody read is still there");
    assert_eq!(probe.tries("socket x v4 tcp"), EPERM);
    let counters = world.guard.counters_of(world.a.cookie).unwrap();
    assert_eq!(counters.refusals, [(Refusal::OtherStack, 3)].into());
    let before = rows.clone();
    for row in &before {
        assert_eq!(world.guard.put(row, None).unwrap(), Change::Unchanged);
    }
    // Nothing is refused after it.
    discard(&world.options.pin_dir).unwrap();
    world.guard = Guard::open(&OpenOptions::new(cgroup_dir(), &world.options.pin_dir)).unwrap();
    probe.does("socket x v4 tcp");
}

/// A process that tries all the time while programs are replaced gets no socket.
fn replacement_opens_no_gap() {
    let world = World::new();
    let probe = Probe::start(&world.cgroup("a"));
    probe.enter(&world.b);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let tries = scope.spawn(|| {
            let mut tries = 0;
            while !done.load(Ordering::Relaxed) || tries < 1000 {
                assert_eq!(probe.tries("socket x v4 tcp"), EPERM);
                tries += 1;
            }
            tries
        });
        for _ in 0..20 {
            assert_eq!(Guard::open(&world.options).unwrap().adoption().replaced, 8);
        }
        done.store(true, Ordering::Relaxed);
        assert!(tries.join().unwrap() >= 1000);
    });
}

/// Those whose rows the programs only read or change in place: a later version may make them longer.
const TABLES: &[&str] = &["guard", "stacks", "owners_by_cgroup", "owners_by_gids", "connections"];

/// The next version has longer rows. It comes, once after having been killed half-way, and takes everything over: who may
/// not have a socket never gets one, who may always does. The version before refuses what it does not know.
fn another_layout() {
    let mut world = World::new();
    let (stranger, owner) = (Probe::start(&world.cgroup("a")), Probe::start(&world.cgroup("b")));
    stranger.enter(&world.b);
    owner.enter(&world.b);
    let old = world.options.clone();
    let rows: Vec<Row> = world.guard.rows().cloned().collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let tries = scope.spawn(|| {
            let mut tries = 0;
            while !done.load(Ordering::Relaxed) || tries < 1000 {
                assert_eq!(stranger.tries("socket x v4 tcp"), EPERM);
                owner.does("socket y v4 tcp");
                tries += 1;
            }
            tries
        });
        for tables in [&TABLES[..2], TABLES, TABLES] {
            world.options.longer_rows = tables;
            world.guard = Guard::open(&world.options).unwrap();
            let adoption = world.guard.adoption();
            assert_eq!((adoption.replaced, adoption.stacks, adoption.half.len()), (8, 2, 0));
            assert!(world.guard.rows().eq(&rows));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let refused = Guard::open(&old).unwrap_err();
        assert!(matches!(&refused, OpenError::Layout { .. }) && refused.to_string().contains("newer"), "{refused}");
        done.store(true, Ordering::Relaxed);
        assert!(tries.join().unwrap() >= 1000);
    });
    let length = |name: &str| {
        use libbpf_rs::MapCore as _;
        libbpf_rs::MapHandle::from_pinned_path(old.pin_dir.join(name)).unwrap().value_size()
    };
    assert_eq!((length("owners_by_gids"), length("stacks")), (16, 24));
    for row in &rows {
        assert_eq!(world.guard.put(row, None).unwrap(), Change::Unchanged);
    }
    assert!(world.guard.remove(world.a.cookie).unwrap());
    stranger.does("socket x v4 tcp");
}

fn put_and_remove() {
    let mut world = World::empty();
    let probe = Probe::start(&world.cgroup("a"));
    probe.enter(&world.b);
    let row = world.row_a();
    probe.does("socket x v4 tcp");
    assert_eq!(world.guard.put(&row, None).unwrap(), Change::Added);
    assert_eq!(world.guard.put(&row, None).unwrap(), Change::Unchanged);
    assert_eq!(probe.tries("socket x v4 tcp"), EPERM);
    // Another group.
    let moved = Row { cgroups: world.row_b().cgroups, gids_start: GIDS_B, ..row.clone() };
    assert_eq!(world.guard.put(&moved, None).unwrap(), Change::Changed);
    probe.does("socket x v4 tcp");
    probe.does(&format!("rgid {GIDS_A}"));
    probe.does("socket x v4 tcp");
    probe.does(&format!("rgid {GIDS_B}"));
    assert_eq!(probe.tries("socket x v4 tcp"), EPERM);
    assert!(world.guard.rows().eq([&moved]));
    let usage = world.guard.usage();
    assert_eq!((usage.stacks, usage.cgroups, usage.max_stacks), (1, 1, stack_guard::DEFAULT_MAX_STACKS));
    assert!(world.guard.remove(row.cookie).unwrap());
    assert!(!world.guard.remove(row.cookie).unwrap());
    probe.does("socket x v4 tcp");
    assert_eq!(world.guard.counters().unwrap(), [].into());
    assert_eq!(world.guard.usage().cgroups, 0);
    // Its number of refusals does not come back with it.
    world.guard.put(&row, None).unwrap();
    assert_eq!(world.guard.counters_of(row.cookie).unwrap(), stack_guard::Counters::default());
}

/// As from inside a cgroup namespace, where levels cannot be counted.
fn unknown_levels() {
    let mut world = World::empty();
    let row = world.row_a();
    let known: Vec<Cgroup> = row.cgroups.iter().copied().collect();
    // Below the root: the test's directory, the guard's, the group's.
    assert_eq!(known[0].level, 3, "{known:?}");
    let unknown = Row { cgroups: [Cgroup { level: 0, ..known[0] }].into(), ..row.clone() };
    assert_eq!(world.guard.put(&unknown, None).unwrap(), Change::Added);
    let below = world.cgroup("a").join("below");
    std::fs::create_dir(&below).unwrap();
    let probe = Probe::start(&below);
    probe.enter(&world.b);
    assert_eq!(probe.tries("socket x v4 tcp"), EPERM);
    world.guard = Guard::open(&world.options).unwrap();
    assert!(world.guard.rows().eq([&unknown]));
    assert_eq!(probe.tries("socket x v4 tcp"), EPERM);
    assert_eq!(world.guard.put(&row, None).unwrap(), Change::Changed);
    assert_eq!(world.guard.usage().cgroups, 1);
    world.guard = Guard::open(&world.options).unwrap();
    assert_eq!(probe.tries("socket x v4 tcp"), EPERM);
    // Too deep to be seen.
    let mut deep = world.cgroup("a");
    for _ in known[0].level..=MAX_LEVEL {
        deep.push("d");
        std::fs::create_dir(&deep).unwrap();
    }
    assert!(matches!(Cgroup::at(&deep), Err(CgroupError::TooDeep { .. })));
    deep.pop();
    assert_eq!(Cgroup::at(&deep).unwrap().level, MAX_LEVEL);
}

fn what_is_taken() {
    let mut world = World::new();
    let (a, b) = (world.row_a(), world.row_b());
    let error = world.guard.put(&Row { gids_start: GIDS_A, ..b.clone() }, None).unwrap_err();
    assert!(matches!(error, PutError::GidsTaken { cookie, .. } if cookie == a.cookie), "{error}");
    let error = world.guard.put(&Row { cgroups: a.cgroups.clone(), ..b.clone() }, None).unwrap_err();
    assert!(matches!(error, PutError::CgroupTaken { cookie, .. } if cookie == a.cookie), "{error}");
    let error = world.guard.put(&Row { gids_start: 5, ..b.clone() }, None).unwrap_err();
    assert!(matches!(error, PutError::Row(RowError::Gids(5))), "{error}");
    let error = world.guard.put(&Row { max_connections: Some(1), ..b.clone() }, None).unwrap_err();
    assert!(matches!(error, PutError::NoNamespace { .. }), "{error}");
    assert_eq!(world.guard.row(b.cookie), Some(&b));
}

fn full() {
    let options = OpenOptions { max_stacks: 1, ..OpenOptions::new(cgroup_dir(), pin_dir()) };
    let mut guard = Guard::open(&options).unwrap();
    let row = Row { cookie: 70_000, cgroups: [].into(), gids_start: GIDS_A, max_connections: None };
    guard.put(&row, None).unwrap();
    let second = Row { cookie: 70_001, gids_start: GIDS_B, ..row };
    let error = guard.put(&second, None).unwrap_err();
    assert!(matches!(error, PutError::Table(TableError::Full { capacity: 1, .. })), "{error}");
    assert!(!guard.remove(second.cookie).unwrap());
    guard.remove(70_000).unwrap();
    guard.put(&second, None).unwrap();
    // Tables that are there keep their size.
    let again = Guard::open(&OpenOptions { max_stacks: 5, ..options.clone() }).unwrap();
    assert_eq!(again.usage().max_stacks, 1);
    discard(&options.pin_dir).unwrap();
}

fn wrong_places() {
    let (cgroup, pins) = (cgroup_dir(), pin_dir());
    let error = Guard::open(&OpenOptions::new("/proc", &pins)).unwrap_err();
    assert!(matches!(error, OpenError::Cgroup(_)), "{error}");
    let error = Guard::open(&OpenOptions::new(&cgroup, "/run/stack-guard-test")).unwrap_err();
    assert!(matches!(error, OpenError::NotBpffs { .. }), "{error}");
    assert!(!std::path::Path::new("/run/stack-guard-test").exists());
    drop(Guard::open(&OpenOptions::new(&cgroup, &pins)).unwrap());
    let error = Guard::open(&OpenOptions::new(cgroup_dir(), &pins)).unwrap_err();
    assert!(matches!(error, OpenError::OtherCgroup { .. }), "{error}");
    discard(&pins).unwrap();
    discard(&pins).unwrap();
}

/// A kill after the owners and before the stack: the rows are taken back at the next open.
fn half_a_put_is_cleaned_up() {
    use libbpf_rs::{MapCore as _, MapFlags, MapHandle};
    let world = World::empty();
    let row = world.row_a();
    let table = |name: &str| MapHandle::from_pinned_path(world.options.pin_dir.join(name)).unwrap();
    let (cookie, gids) = (row.cookie.to_ne_bytes(), (GIDS_A / 65_536).to_ne_bytes());
    table("owners_by_gids").update(&gids, &cookie, MapFlags::ANY).unwrap();
    let cgroup = row.cgroups.first().unwrap().id.to_ne_bytes();
    table("owners_by_cgroup").update(&cgroup, &[cookie, [0; 8]].concat(), MapFlags::ANY).unwrap();
    let guard = Guard::open(&world.options).unwrap();
    assert_eq!(guard.adoption().half, [row.cookie].into());
    assert_eq!(guard.usage().cgroups, 0);
    assert_eq!(table("owners_by_gids").keys().count() + table("owners_by_cgroup").keys().count(), 0);
}

/// The kernel ends attachments with their cgroup. The pins of a guard then say so, and are of no more use.
fn a_removed_cgroup() {
    let (cgroup, pins) = (cgroup_dir(), pin_dir());
    drop(Guard::open(&OpenOptions::new(&cgroup, &pins)).unwrap());
    std::fs::remove_dir(&cgroup).unwrap();
    std::fs::create_dir(&cgroup).unwrap();
    let options = OpenOptions::new(&cgroup, &pins);
    let error = Guard::open(&options).unwrap_err();
    assert!(matches!(error, OpenError::OtherCgroup { .. }), "{error}");
    discard(&pins).unwrap();
    assert_eq!(Guard::open(&options).unwrap().adoption().replaced, 0);
    discard(&pins).unwrap();
}

fn readable(world: &World) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let events = std::os::fd::AsFd::as_fd(&world.events);
    poll(&mut [PollFd::new(events, PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
}

fn too_many_events() {
    let mut world = World::new();
    let probe = Probe::start(&world.cgroup("a"));
    probe.enter(&world.b);
    for _ in 0..500 {
        assert_eq!(probe.tries("socket x v4 tcp"), EPERM);
    }
    assert!(readable(&world), "as an event loop sees it");
    let told = u64::try_from(world.refused().len()).unwrap();
    assert!(!readable(&world));
    let counters = world.guard.counters_of(world.a.cookie).unwrap();
    assert_eq!(counters.refusals, [(Refusal::OtherStack, 500)].into());
    assert_eq!(told + counters.not_told, 500);
    assert!((64..500).contains(&told), "{told} events");
    // The noise of one stack does not silence another.
    let other = Probe::start(&world.cgroup("b"));
    other.enter(&world.a);
    assert_eq!(other.tries("socket x v4 tcp"), EPERM);
    assert_eq!(world.refused().len(), 1);
}

/// As on a kernel without BTF.
fn without_btf() {
    let mut world = World::new();
    assert!(world.guard.sight().all_gids);
    world.guard = Guard::open(&OpenOptions { read_tasks: false, ..world.options.clone() }).unwrap();
    assert!(!world.guard.sight().all_gids);
    let start = |how: &dyn Fn(&Probe)| {
        let probe = Probe::start(&world.cgroup("outside"));
        probe.enter(&world.b);
        how(&probe);
        probe.tries("socket x v4 tcp")
    };
    assert_eq!(start(&|probe| probe.join(&world.cgroup("a"))), EPERM);
    assert_eq!(start(&|probe| probe.does(&format!("rgid {GIDS_A}"))), EPERM);
    assert_eq!(start(&|probe| probe.does("uid 1000")), EPERM);
    assert_eq!(start(&|probe| probe.does(&format!("egid {GIDS_A}"))), Ok(()), "what is not seen");
    let own: &Netns = &world.a;
    let probe = Probe::start(&world.cgroup("a"));
    probe.enter(own);
    probe.does("socket x v4 tcp");
}
