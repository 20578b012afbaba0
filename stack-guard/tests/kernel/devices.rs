//! The list of devices. Nodes are made in a private tmpfs and opened there; of a forbidden device only harmless things
//! are tried.

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use stack_guard::{Devices, DevicesError};

use crate::probe::Probe;
use crate::world::cgroup_dir;

pub(crate) const TESTS: &[(&str, fn())] =
    &[("only_the_list", only_the_list), ("attached_again", attached_again), ("wrong_places", wrong_places)];

const EPERM: Result<(), Errno> = Err(Errno::EPERM);

/// (name, major, minor)
const ALLOWED: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
    ("ptmx", 5, 2),
];

/// mem, kmem, port, kmsg, console, tty0, loop-control, fuse, tun, kvm, vhost-net.
const REFUSED: &[(u32, u32)] =
    &[(1, 1), (1, 2), (1, 4), (1, 11), (5, 1), (4, 0), (10, 237), (10, 229), (10, 200), (10, 232), (10, 238)];

fn only_the_list() {
    let cgroup = cgroup_dir();
    std::fs::create_dir(cgroup.join("below")).unwrap();
    let tmpfs = Tmpfs::new("list");
    let dir = &tmpfs.0;
    let outside = Probe::start(&cgroup_dir());
    let probe = Probe::start(&cgroup.join("below"));
    // Before: nothing is refused. No device has these numbers.
    probe.does(&format!("mknod {dir}/before 254 77 c"));
    Devices::load().unwrap().attach(&cgroup).unwrap();
    for (name, major, minor) in ALLOWED {
        probe.does(&format!("mknod {dir}/{name} {major} {minor} c"));
        // A tty must control the process, a ptmx have its devpts beside it: said by the driver, so let through.
        let answer = probe.tries(&format!("open {dir}/{name}"));
        assert!(matches!(answer, Ok(()) | Err(Errno::ENXIO | Errno::ENOENT)), "{name}: {answer:?}");
    }
    probe.does(&format!("mknod {dir}/pts 136 0 c"));
    for (major, minor) in REFUSED {
        let node = format!("{dir}/c{major}.{minor}");
        assert_eq!(probe.tries(&format!("mknod {node} {major} {minor} c")), EPERM, "{major}:{minor}");
        // A node that somebody else made.
        outside.does(&format!("mknod {node} {major} {minor} c"));
        assert_eq!(probe.tries(&format!("open {node}")), EPERM, "{major}:{minor}");
    }
    for (major, minor) in [(7, 0), (8, 0), (254, 0), (1, 3)] {
        assert_eq!(probe.tries(&format!("mknod {dir}/b{major} {major} {minor} b")), EPERM, "block {major}:{minor}");
    }
    outside.does(&format!("mknod {dir}/after 254 77 c"));
}

/// A tmpfs in the test's own mount namespace.
struct Tmpfs(String);

impl Tmpfs {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("stack-guard-{name}-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let none: Option<&str> = None;
        mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        Self(dir.display().to_string())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        nix::mount::umount2(self.0.as_str(), nix::mount::MntFlags::MNT_DETACH).unwrap();
        std::fs::remove_dir(&self.0).unwrap();
    }
}

fn attached_again() {
    let cgroup = cgroup_dir();
    assert!(!Devices::is_attached(&cgroup).unwrap());
    let devices = Devices::load().unwrap();
    // More often than a cgroup takes programs.
    for _ in 0..70 {
        devices.attach(&cgroup).unwrap();
    }
    drop(devices);
    assert!(Devices::is_attached(&cgroup).unwrap());
    let probe = Probe::start(&cgroup);
    let tmpfs = Tmpfs::new("again");
    let node = format!("{}/node", tmpfs.0);
    assert_eq!(probe.tries(&format!("mknod {node} 254 77 c")), EPERM);
    for _ in 0..70 {
        Devices::load().unwrap().attach(&cgroup).unwrap();
    }
    assert_eq!(probe.tries(&format!("mknod {node} 254 77 c")), EPERM);
}

fn wrong_places() {
    let devices = Devices::load().unwrap();
    let error = devices.attach(std::path::Path::new("/proc")).unwrap_err();
    assert!(matches!(error, DevicesError::Cgroup(_)), "{error}");
}
