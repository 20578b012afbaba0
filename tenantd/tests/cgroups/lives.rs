//! How processes come in and go, and what is left.

use std::time::{Duration, Instant};

use stackmap::TenantName;
use tenantd::cgroups::{Cgroups, Entry};

use crate::room::{Process, Room, files, start_in};

const PATIENCE: Duration = Duration::from_secs(30);

/// Lines of a /proc/PID/cgroup that end in the tenant's directory.
fn memberships(room: &Room, text: &str, tenant: &TenantName) -> usize {
    let end = format!("{}/tenant-{tenant}", room.parent.trim_start_matches("./"));
    text.lines().filter(|line| line.ends_with(&end)).count()
}

/// In how many hierarchies a process is in the tenant's own directory.
pub(crate) fn memberships_of(room: &Room, process: &Process, tenant: &TenantName) -> usize {
    memberships(room, &std::fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap(), tenant)
}

pub(crate) fn birth() {
    let room = Room::new();
    let acme = room.tenant("acme", &[]);
    let entry = room.cgroups.entry(&acme).unwrap();
    let hierarchies = room.directories(&acme);
    let nowhere = Entry::default();
    let born = |entry: &Entry, expected: usize| {
        // After a pause the kernel would wait for a grace period, if it waited at all.
        std::thread::sleep(Duration::from_millis(30));
        let began = Instant::now();
        let process = start_in(entry, &["--role=sleep"]);
        let took = began.elapsed();
        assert_eq!(memberships_of(&room, &process, &acme), expected);
        took
    };
    let medians = || {
        let (mut inside, mut outside): (Vec<_>, Vec<_>) =
            (0..20).map(|_| (born(&entry, hierarchies), born(&nowhere, 0))).unzip();
        inside.sort();
        outside.sort();
        (inside[10], outside[10])
    };
    let (mut inside, mut outside) = medians();
    // A grace period is 8 to 16 ms here. The foreign kernel has one processor, where it is nothing at all, so that the
    // time would only say how loaded this machine is.
    if std::env::var_os(crate::foreign::FILES).is_some() {
        return;
    }
    // Who waits does so every time. A loaded machine may show the same once, so there is more than one try.
    for _ in 0..4 {
        if inside.saturating_sub(outside) < Duration::from_millis(4) {
            return;
        }
        (inside, outside) = medians();
    }
    let more = inside.saturating_sub(outside);
    assert!(more < Duration::from_millis(4), "p50 {inside:?} instead of {outside:?}: entering waits");
}

/// The number as name_to_handle_at(2) gives it, which is how user space asks for it.
fn handle(path: &std::path::Path) -> u64 {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        id: [u8; 8],
    }
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let (mut handle, mut mount) = (Handle { bytes: 8, kind: 0, id: [0; 8] }, 0);
    // SAFETY: the handle has room for the eight bytes it says.
    let done = unsafe {
        libc::syscall(libc::SYS_name_to_handle_at, libc::AT_FDCWD, path.as_ptr(), &raw mut handle, &raw mut mount, 0)
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    u64::from_ne_bytes(handle.id)
}

pub(crate) fn id() {
    let room = Room::new();
    let (acme, other) = (room.tenant("acme", &[]), room.tenant("other", &[]));
    let layout = tenantd::cgroups::Layout::read().unwrap();
    let Some(unified) = layout.unified() else {
        assert_eq!(room.cgroups.id(&acme).unwrap(), None);
        return;
    };
    let path = unified.mount_point.join(&unified.own).join(&room.parent).join("tenant-acme");
    assert_eq!(room.cgroups.id(&acme).unwrap(), Some(handle(&path)));
    assert_ne!(room.cgroups.id(&acme).unwrap(), room.cgroups.id(&other).unwrap());
}

pub(crate) fn kill() {
    let room = Room::new();
    let (acme, other) = (room.tenant("acme", &["processes=200"]), room.tenant("other", &[]));
    let mut beside = room.start(&other, &["--role=sleep"]);
    let mut many = room.start(&acme, &["--role=fork", "10"]);
    assert_eq!(many.line(), "10");
    let mut respawning = room.start(&acme, &["--role=respawn", "20000"]);
    assert_eq!(respawning.line(), "going");
    room.cgroups.kill(&acme).unwrap();
    assert_eq!(many.signal(), Some(libc::SIGKILL));
    let until = Instant::now() + PATIENCE;
    while !room.cgroups.processes(&acme).unwrap().is_empty() {
        assert!(Instant::now() < until, "{:?} live on", room.cgroups.processes(&acme).unwrap());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(beside.lives());
}

pub(crate) fn removal() {
    let room = Room::new();
    let acme = room.tenant("acme", &[]);
    let _processes: Vec<_> = (0..5).map(|_| room.start(&acme, &["--role=sleep"])).collect();
    // Somebody made a directory of their own below the tenant's.
    for dir in room.left().into_iter().filter(|dir| dir.join("tenant-acme").is_dir()) {
        std::fs::create_dir(dir.join("tenant-acme/below")).unwrap();
    }
    room.cgroups.remove(&acme, PATIENCE).unwrap();
    assert_eq!(room.cgroups.limits(&acme).unwrap(), None);
    assert!(room.cgroups.tenants().unwrap().is_empty());
    room.cgroups.remove(&acme, PATIENCE).unwrap();
    room.cgroups.remove_instance().unwrap();
    assert!(room.left().is_empty());
    room.cgroups.remove_instance().unwrap();
}

pub(crate) fn found_again() {
    let room = Room::new();
    let (acme, tasks) = (room.tenant("acme", &["processes=99"]), room.tenant("tasks", &[]));
    // Another daemon of the same instance.
    let again = Cgroups::open(&room.parent, &files()).unwrap();
    assert_eq!(again.tenants().unwrap().into_iter().collect::<Vec<_>>(), [acme.clone(), tasks]);
    assert_eq!(again.limits(&acme).unwrap(), room.cgroups.limits(&acme).unwrap());
    assert_eq!(again.id(&acme).unwrap(), room.cgroups.id(&acme).unwrap());
}
