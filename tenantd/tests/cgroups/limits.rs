//! Each limit, held.

use std::time::{Duration, Instant};

use tenantd::cgroups::{CgroupError, Cgroups};
use tenantd::limits::Limits;

use crate::room::{Room, files};

fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

pub(crate) fn memory() {
    let room = Room::new();
    let acme = room.tenant("acme", &["memory=32M"]);
    let other = room.tenant("other", &[]);
    let mut beside = room.start(&acme, &["--role=sleep"]);
    let mut elsewhere = room.start(&other, &["--role=hold", "67108864"]);
    assert_eq!(elsewhere.line(), "held");
    let mut hog = room.start(&acme, &["--role=hog", "134217728"]);
    assert_eq!(hog.signal(), Some(libc::SIGKILL), "128 MiB in a tenant with 32 MiB");
    let usage = room.cgroups.usage(&acme);
    assert!(usage.oom_kills >= Some(1), "{usage:?}");
    assert!(usage.memory <= Some(32 << 20), "{usage:?}");
    assert!(beside.lives(), "the small process in the same tenant was not to be killed");
    assert!(elsewhere.lives());
    let usage = room.cgroups.usage(&other);
    // Not counted where memory that is not limited has no cgroup of the tenant's own.
    assert!(usage.oom_kills.is_none_or(|kills| kills == 0), "{usage:?}");
    assert!(usage.memory >= Some(64 << 20), "{usage:?}");
    // Enough is enough: the same hog in a larger tenant ends by itself.
    let large = room.tenant("large", &["memory=256M"]);
    assert_eq!(room.start(&large, &["--role=hog", "134217728"]).signal(), None);
}

/// A limit comes to who lives already.
pub(crate) fn memory_later() {
    let room = Room::new();
    let (acme, large) = (room.tenant("acme", &[]), room.tenant("large", &[]));
    let (before, mut beside) = (room.directories(&acme), room.start(&acme, &["--role=sleep"]));
    let mut holder = room.start(&large, &["--role=hold", "67108864"]);
    assert_eq!(holder.line(), "held");
    let limits = Limits::from_words(["memory=32M"]).unwrap();
    room.cgroups.set(&acme, &limits).unwrap();
    assert_eq!(room.cgroups.limits(&acme).unwrap(), Some(Cgroups::held(&limits)));
    assert_eq!(crate::lives::memberships_of(&room, &beside, &acme), room.directories(&acme));
    assert_eq!(room.start(&acme, &["--role=hog", "134217728"]).signal(), Some(libc::SIGKILL));
    assert!(beside.lives());
    if room.directories(&acme) > before {
        // Version 1: who holds more already is not killed, it is refused.
        let refused = room.cgroups.set(&large, &limits).unwrap_err();
        assert!(refused.to_string().starts_with("cannot set limit memory to 32M"), "{refused}");
        assert!(holder.lives());
        assert_eq!(room.cgroups.limits(&large).unwrap(), Some(Limits::default()));
    }
    // Taken away again.
    room.cgroups.set(&acme, &Limits::default()).unwrap();
    assert_eq!(room.start(&acme, &["--role=hog", "134217728"]).signal(), None);
}

pub(crate) fn processes() {
    let room = Room::new();
    let acme = room.tenant("acme", &["processes=16"]);
    let other = room.tenant("other", &["processes=16"]);
    let mut bomb = room.start(&acme, &["--role=fork", "64"]);
    assert_eq!(bomb.line(), "15", "of 64 children, beside the bomb itself");
    let usage = room.cgroups.usage(&acme);
    assert_eq!(usage.processes, Some(16));
    // Some kernels count every refusal, some only here.
    assert!(usage.processes_refused >= Some(1), "{usage:?}");
    assert_eq!(room.cgroups.processes(&acme).unwrap().len(), 16);
    assert_eq!(room.start(&other, &["--role=fork", "5"]).line(), "5");
}

/// Cores that the tenant gets in 1.5 seconds, as a part of those it may have. The time is taken around both readings:
/// where this thread is held up, the part becomes smaller and never larger than it was. And a busy machine gives less: the
/// largest of a few tries counts, for both sides of the range.
fn part(room: &Room, tenant: &stackmap::TenantName, cores: f64) -> f64 {
    let used = || room.cgroups.usage(tenant).cpu_us.expect("processor time is counted");
    let mut got: f64 = 0.0;
    for _ in 0..6 {
        let (began, before) = (Instant::now(), used());
        sleep_ms(1500);
        let used = used() - before;
        got = got.max(used as f64 / began.elapsed().as_micros() as f64 / cores);
        if got > 0.85 {
            break;
        }
    }
    got
}

pub(crate) fn cpu() {
    let room = Room::new();
    let acme = room.tenant("acme", &["cpu=0.5"]);
    let _spinner = room.start(&acme, &["--role=spin"]);
    let got = part(&room, &acme, 0.5);
    assert!((0.85..1.15).contains(&got), "{got} of 0.5 cores");
    assert!(room.cgroups.usage(&acme).throttled_us > Some(0));
}

pub(crate) fn live() {
    let room = Room::new();
    let acme = room.tenant("acme", &["cpu=0.5", "memory=64M", "processes=10"]);
    let mut spinner = room.start(&acme, &["--role=spin"]);
    for words in [
        &["cpu=0.2", "memory=256M", "processes=20"][..],
        &["cpu=1.5", "memory=48M", "processes=12"],
        &["memory=128M"],
        &[],
        &["cpu=0.2"],
    ] {
        room.tenant("acme", words);
    }
    let got = part(&room, &acme, 0.2);
    assert!((0.85..1.15).contains(&got), "{got} of 0.2 cores");
    assert!(spinner.lives());
}

pub(crate) fn below_use() {
    let room = Room::new();
    let acme = room.tenant("acme", &["memory=128M"]);
    let mut holder = room.start(&acme, &["--role=hold", "67108864"]);
    assert_eq!(holder.line(), "held");
    match room.cgroups.set(&acme, &Limits::from_words(["memory=16M"]).unwrap()) {
        Err(CgroupError::Set { limit: "memory", value, .. }) => {
            assert_eq!(value, "16M");
            assert!(holder.lives(), "refused, so nobody was killed");
            let kept = room.cgroups.limits(&acme).unwrap().unwrap();
            assert_eq!(kept.memory.unwrap().get(), 128 << 20);
        }
        // Version 2 kills until it fits.
        Ok(()) => assert_eq!(holder.signal(), Some(libc::SIGKILL)),
        Err(error) => panic!("{error}"),
    }
}

/// Bytes a second of a role that moves blocks of 64 KiB through `file`.
fn speed(role: &str, words: &[&str], blocks: u64) -> f64 {
    let file = tempfile::NamedTempFile::new_in(files()).unwrap();
    let path = file.path().to_str().unwrap();
    std::fs::write(path, vec![1_u8; usize::try_from(blocks).unwrap() << 16]).unwrap();
    std::fs::File::open(path).unwrap().sync_all().unwrap();
    let room = Room::new();
    let acme = room.tenant("acme", words);
    let mut process = room.start(&acme, &[role, path, &blocks.to_string()]);
    let ms: f64 = process.line().parse().expect("the role says how long it took");
    (blocks << 16) as f64 / ms.max(1.0) * 1000.0
}

/// 4 MiB a second for two seconds; then without a limit, which must be much faster, else the disk was the limit. Other
/// users of the disk only make it slower: the fastest of six counts, for both sides of the range.
fn throttled(role: &str, limit: &str) {
    let asked = f64::from(4 << 20);
    let near = |held: f64| (held / asked - 1.0).abs() < 0.2;
    let mut held = 0.0;
    for _ in 0..6 {
        held = speed(role, &[limit], 128).max(held);
        if near(held) {
            break;
        }
    }
    let free = (0..6).map(|_| speed(role, &[], 128)).find(|free| *free > 12e6).unwrap_or(0.0);
    assert!(free > 12e6, "the disk itself is too slow to see a limit, six times");
    assert!(near(held), "{held} bytes a second instead of {asked}");
}

pub(crate) fn reading() {
    throttled("--role=read", "io_read=4M");
}

pub(crate) fn writing() {
    throttled("--role=write", "io_write=4M");
}
