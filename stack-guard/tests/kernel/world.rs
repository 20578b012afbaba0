//! Cgroups, namespaces and guards that end with the test process: nothing here has a name on the machine but one
//! directory in the cgroup2 hierarchy, removed at the end, and never is anything attached above it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use stack_guard::{Cgroup, Event, Events, Guard, OpenOptions, Row};

/// Where the test process mounts its own bpffs, visible to it alone.
const BPFFS: &str = "/sys/fs/bpf";

/// Name of the one directory, followed by the process id.
const PREFIX: &str = "stack-guard-test-";

/// Gids of the groups: far from what a machine uses.
pub(crate) const GIDS_A: u32 = 3_000 * 65_536;
pub(crate) const GIDS_B: u32 = 3_001 * 65_536;

static CGROUP_ROOT: OnceLock<PathBuf> = OnceLock::new();

/// Where the cgroup2 hierarchy is mounted: of its own, or beside version 1.
fn cgroup2_mount() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (words.get(2) == Some(&"cgroup2")).then(|| PathBuf::from(words[1]))
    })
}

/// Why root's tests cannot run here; None: they can.
pub(crate) fn unable() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root");
    }
    if cgroup2_mount().is_none() {
        return Some("needs a cgroup2 hierarchy");
    }
    None
}

/// As [`unable`], for what is seen only where the kernel describes itself.
pub(crate) fn unable_to_see() -> Option<&'static str> {
    unable().or((!sees_tasks()).then_some("this kernel has no BTF: only cgroup and real gid are seen"))
}

pub(crate) fn sees_tasks() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// Before any thread is started: a mount namespace with a bpffs, a network namespace that is not the host's, and the
/// directory for all cgroups.
pub(crate) fn leave_the_host() {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), none).unwrap();
    loopback_up();
    let hierarchy = cgroup2_mount().unwrap();
    // Of runs that were killed.
    for entry in std::fs::read_dir(&hierarchy).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(pid) = name.strip_prefix(PREFIX).filter(|pid| !Path::new("/proc").join(pid).exists()) {
            assert!(pid.parse::<u32>().is_ok());
            remove_cgroup(&entry.path());
        }
    }
    let root = hierarchy.join(format!("{PREFIX}{}", std::process::id()));
    std::fs::create_dir(&root).unwrap();
    CGROUP_ROOT.set(root).unwrap();
}

/// At the end.
pub(crate) fn clean_up() {
    if let Some(root) = CGROUP_ROOT.get() {
        remove_cgroup(root);
    }
}

/// A directory and all below. What is still in it ends soon: children of this process, whose end it waits for.
fn remove_cgroup(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    for _ in 0..1500 {
        if std::fs::remove_dir(dir).is_ok() || !dir.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    eprintln!("{}: could not be removed", dir.display());
}

/// 127.0.0.1 and ::1 of the calling thread's namespace.
fn loopback_up() {
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    // SAFETY: all zero is a value of this C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = 0x6c;
    request.ifr_name[1] = 0x6f;
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap();
    // SAFETY: the request this ioctl takes, with a name that ends with 0.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
}

/// A network namespace held open by a file descriptor.
pub(crate) struct Netns {
    pub(crate) file: File,
    pub(crate) cookie: u64,
}

fn cookie() -> u64 {
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let (mut cookie, mut length) = (0u64, 8u32);
    // SO_NETNS_COOKIE, which the libc crate lacks.
    // SAFETY: the option writes 8 bytes, which is what cookie has and length says.
    let rc = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, 71, (&raw mut cookie).cast(), &raw mut length)
    };
    assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
    cookie
}

fn current() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

impl Netns {
    /// A new one, loopback up.
    pub(crate) fn new() -> Self {
        std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                loopback_up();
                Self { file: current(), cookie: cookie() }
            });
            made.join().unwrap()
        })
    }

    /// That of the test process, which stands for the host's.
    pub(crate) fn here() -> Self {
        Self { file: current(), cookie: cookie() }
    }

    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A pin directory of its own.
pub(crate) fn pin_dir() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    PathBuf::from(format!("{BPFFS}/guard{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// A cgroup of its own below the test's.
pub(crate) fn cgroup_dir() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let dir = CGROUP_ROOT.get().unwrap().join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    std::fs::create_dir(&dir).unwrap();
    dir
}

/// A guard with two stacks, their cgroups, and a cgroup and a namespace that are nobody's.
pub(crate) struct World {
    pub(crate) dir: PathBuf,
    pub(crate) options: OpenOptions,
    pub(crate) guard: Guard,
    pub(crate) events: Events,
    pub(crate) a: Netns,
    pub(crate) b: Netns,
    pub(crate) host: Netns,
}

impl World {
    /// Without rows.
    pub(crate) fn empty() -> Self {
        let dir = cgroup_dir();
        for name in ["a", "b", "outside"] {
            std::fs::create_dir(dir.join(name)).unwrap();
        }
        let options = OpenOptions::new(&dir, pin_dir());
        let guard = Guard::open(&options).unwrap();
        let events = guard.events().unwrap();
        Self { dir, options, guard, events, a: Netns::new(), b: Netns::new(), host: Netns::here() }
    }

    /// With both.
    pub(crate) fn new() -> Self {
        let mut world = Self::empty();
        let (a, b) = (world.row_a(), world.row_b());
        world.guard.put(&a, None).unwrap();
        world.guard.put(&b, None).unwrap();
        world
    }

    fn row(&self, name: &str, netns: &Netns, gids_start: u32) -> Row {
        let cgroup = Cgroup::at(&self.dir.join(name)).unwrap();
        Row { cookie: netns.cookie, cgroups: [cgroup].into(), gids_start, max_connections: None }
    }

    pub(crate) fn row_a(&self) -> Row {
        self.row("a", &self.a, GIDS_A)
    }

    pub(crate) fn row_b(&self) -> Row {
        self.row("b", &self.b, GIDS_B)
    }

    pub(crate) fn cgroup(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What has been refused since the last call.
    pub(crate) fn refused(&mut self) -> Vec<Event> {
        self.events.take().unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        stack_guard::discard(&self.options.pin_dir).unwrap();
    }
}
