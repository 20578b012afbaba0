//! An instance's cgroups for one test, and processes in them.

use std::ffi::{CString, c_int, c_void};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::id;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use stackmap::TenantName;
use tenantd::cgroups::{Cgroups, Entry, Held};
use tenantd::limits::Limits;

use crate::birth::{ChildStack, clone_into};

/// Below the own place, so that what holds for the test holds for what it starts.
fn parent() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("./tenantd-test-{}-{}", id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Where files are whose disk is limited.
pub(crate) fn files() -> PathBuf {
    std::env::var_os(crate::foreign::FILES).map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from)
}

/// Why this host cannot hold one of the limits.
pub(crate) fn missing(needs: &[&str]) -> Option<String> {
    let room = Room::new();
    let support = room.cgroups.support();
    support.into_iter().filter(|s| needs.contains(&s.limit)).find_map(|s| match s.held {
        Held::No(why) => Some(format!("{}: {why}", s.limit)),
        _ => None,
    })
}

pub(crate) struct Room {
    pub(crate) cgroups: Cgroups,
    pub(crate) parent: String,
}

impl Room {
    pub(crate) fn new() -> Self {
        let parent = parent();
        Self { cgroups: Cgroups::open(&parent, &files()).unwrap(), parent }
    }

    /// Makes a tenant, and reads back what it asked for before anybody runs in it.
    pub(crate) fn tenant(&self, name: &str, words: &[&str]) -> TenantName {
        let tenant: TenantName = name.parse().unwrap();
        let limits = Limits::from_words(words).unwrap();
        self.cgroups.make(&tenant).unwrap();
        self.cgroups.set(&tenant, &limits).unwrap();
        assert_eq!(self.cgroups.limits(&tenant).unwrap(), Some(Cgroups::held(&limits)));
        tenant
    }

    /// Starts a role in the tenant's cgroups.
    pub(crate) fn start(&self, tenant: &TenantName, role: &[&str]) -> Process {
        start_in(&self.cgroups.entry(tenant).unwrap(), role)
    }

    /// In how many hierarchies a tenant has a directory of its own.
    pub(crate) fn directories(&self, tenant: &TenantName) -> usize {
        self.left().iter().filter(|dir| dir.join(format!("tenant-{tenant}")).is_dir()).count()
    }

    /// The directories of the instance that exist anywhere.
    pub(crate) fn left(&self) -> Vec<PathBuf> {
        let name = Path::new(&self.parent).file_name().unwrap().to_owned();
        let layout = tenantd::cgroups::Layout::read().unwrap();
        let dirs = layout.hierarchies.iter().map(|h| h.mount_point.join(&h.own).join(&name));
        dirs.filter(|dir| dir.exists()).collect()
    }
}

/// Starts a role where the entry leads; the empty entry leads to where the test is.
pub(crate) fn start_in(entry: &Entry, role: &[&str]) -> Process {
    let program = CString::new(std::env::current_exe().unwrap().to_str().unwrap()).unwrap();
    let words: Vec<CString> =
        std::iter::once(program.clone()).chain(role.iter().map(|word| CString::new(*word).unwrap())).collect();
    let argv: Vec<*const libc::c_char> = words.iter().map(|w| w.as_ptr()).chain([std::ptr::null()]).collect();
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let plan = Plan {
        tasks: entry.tasks.iter().map(AsRawFd::as_raw_fd).collect(),
        out: write.as_raw_fd(),
        program: program.as_ptr(),
        argv: argv.as_ptr(),
    };
    let mut stack = vec![0_u128; 4096];
    let stack = ChildStack { base: stack.as_mut_ptr().cast(), size: stack.len() * 16 };
    // SAFETY: the parent stands still until the child has left its memory; `born` makes system calls only.
    let (pid, pidfd) = unsafe {
        clone_into(
            libc::CLONE_VM | libc::CLONE_VFORK,
            entry.unified.as_ref().map(|fd| fd.as_fd()),
            stack,
            born,
            std::ptr::from_ref(&plan).cast_mut().cast(),
        )
    }
    .unwrap();
    Process { pid, pidfd, out: File::from(read), status: None }
}

impl Drop for Room {
    fn drop(&mut self) {
        for tenant in self.cgroups.tenants().unwrap_or_default() {
            let _ = self.cgroups.remove(&tenant, Duration::from_secs(30));
        }
        let _ = self.cgroups.remove_instance();
        if !std::thread::panicking() {
            assert_eq!(self.left(), Vec::<PathBuf>::new());
        }
    }
}

struct Plan {
    tasks: Vec<RawFd>,
    out: RawFd,
    program: *const libc::c_char,
    argv: *const *const libc::c_char,
}

extern "C" fn born(plan: *mut c_void) -> c_int {
    // SAFETY: `start` passed a `Plan` and stands still; system calls on descriptors and strings that live.
    unsafe {
        let plan = &*plan.cast::<Plan>();
        let entered = plan.tasks.iter().all(|fd| libc::write(*fd, c"0".as_ptr().cast(), 1) == 1);
        if entered && libc::dup2(plan.out, 1) == 1 {
            libc::execve(plan.program, plan.argv, [std::ptr::null()].as_ptr());
        }
        libc::_exit(127)
    }
}

/// A child of the test.
pub(crate) struct Process {
    pub(crate) pid: i32,
    #[allow(dead_code, reason = "holds the number")]
    pidfd: OwnedFd,
    out: File,
    status: Option<c_int>,
}

impl Process {
    /// The first line it says.
    pub(crate) fn line(&mut self) -> String {
        let (mut line, mut byte) = (String::new(), [0]);
        while self.out.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(char::from(byte[0]));
        }
        line
    }

    fn poll(&mut self, flags: c_int) -> bool {
        let mut status = 0;
        // SAFETY: our own child, reaped here only.
        if self.status.is_none() && unsafe { libc::waitpid(self.pid, &mut status, flags) } == self.pid {
            self.status = Some(status);
        }
        self.status.is_some()
    }

    pub(crate) fn lives(&mut self) -> bool {
        !self.poll(libc::WNOHANG)
    }

    /// The signal that ended it within a minute; none for an exit of its own.
    pub(crate) fn signal(&mut self) -> Option<i32> {
        let until = Instant::now() + Duration::from_secs(60);
        while self.lives() {
            assert!(Instant::now() < until, "process {} does not end", self.pid);
            std::thread::sleep(Duration::from_millis(2));
        }
        self.status.filter(|s| libc::WIFSIGNALED(*s)).map(|s| libc::WTERMSIG(s))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.lives() {
            // SAFETY: our own child, not reaped yet.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            self.poll(0);
        }
    }
}
