//! Taking hold of a tenant's init: a descriptor that never comes to mean another process, and what is needed of it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use caps::Capability;
use nix::unistd::Uid;
use stackmap::TenantName;

use super::{EnterError, Target};

/// A tenant taken hold of.
#[derive(Debug)]
pub struct Hold {
    pub(super) name: TenantName,
    /// Init.
    pub(super) pidfd: OwnedFd,
    /// `cgroup.procs` of its cgroups, those that are not ours already.
    pub(super) cgroups: Vec<OwnedFd>,
    /// True when the tenant administers its own stack.
    pub(super) network: bool,
    /// Its limits: resource, soft, hard.
    pub(super) limits: Vec<(u32, libc::rlim_t, libc::rlim_t)>,
}

/// Resources of setrlimit(2) in their order, RLIMIT_CPU (0) to RLIMIT_RTTIME (15), as /proc/PID/limits calls them.
const RESOURCES: [&str; 16] = [
    "Max cpu time",
    "Max file size",
    "Max data size",
    "Max stack size",
    "Max core file size",
    "Max resident set",
    "Max processes",
    "Max open files",
    "Max locked memory",
    "Max address space",
    "Max file locks",
    "Max pending signals",
    "Max msgqueue size",
    "Max nice priority",
    "Max realtime priority",
    "Max realtime timeout",
];

/// Read as text: `prlimit` of a process with other ids needs CAP_SYS_RESOURCE, which the host's root may lack.
fn parse_limits(text: &str) -> Vec<(u32, libc::rlim_t, libc::rlim_t)> {
    let value = |word: &str| if word == "unlimited" { Some(libc::RLIM_INFINITY) } else { word.parse().ok() };
    let limit = |(number, name): (u32, &&str)| {
        let mut words = text.lines().find_map(|line| line.strip_prefix(*name))?.split_whitespace();
        Some((number, value(words.next()?)?, value(words.next()?)?))
    };
    (0..).zip(&RESOURCES).filter_map(limit).collect()
}

impl Hold {
    /// Takes hold of the process and makes sure that it is the one meant: process 1 of a pid namespace, with the
    /// network namespace that the daemon told, in a user namespace that is not ours, and alive after all that was read.
    ///
    /// # Errors
    /// [`EnterError`].
    pub fn take(target: &Target) -> Result<Hold, EnterError> {
        let Target { name, pid, netns } = target;
        let uid = Uid::effective();
        if !uid.is_root() {
            return Err(EnterError::NotRoot(uid));
        }
        let failed = |what| move |source: io::Error| EnterError::Open { name: name.clone(), what, pid: *pid, source };
        let mistaken =
            |found: String, expected: String| EnterError::Mistaken { name: name.clone(), pid: *pid, found, expected };
        let pidfd = pidfd_open(*pid).map_err(failed("pidfd"))?;
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let found = fs::metadata(proc.join("ns/net")).map_err(failed("ns/net"))?.ino();
        if found != *netns {
            return Err(mistaken(format!("it has network namespace {found}"), netns.to_string()));
        }
        let status = fs::read_to_string(proc.join("status")).map_err(failed("status"))?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let inside = field("NSpid").and_then(|ids| ids.split_whitespace().last()).unwrap_or("?");
        if inside != "1" {
            return Err(mistaken(format!("it is process {inside} of its pid namespace"), "1".to_owned()));
        }
        let user = |path: &Path| fs::metadata(path.join("ns/user")).map(|found| found.ino()).map_err(failed("ns/user"));
        if user(&proc)? == user(Path::new("/proc/self"))? {
            return Err(EnterError::Unfinished(name.clone()));
        }
        let bounding = field("CapBnd").and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        let network = bounding & Capability::CAP_NET_ADMIN.bitmask() != 0;
        let cgroups = fs::read_to_string(proc.join("cgroup")).map_err(failed("cgroup"))?;
        let limits = parse_limits(&fs::read_to_string(proc.join("limits")).map_err(failed("limits"))?);
        // Still there: the number meant the same process all the time.
        // SAFETY: plain system call; signal 0 is none.
        let alive =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), 0, std::ptr::null::<u8>(), 0) };
        if alive < 0 {
            return Err(failed("pidfd")(io::Error::last_os_error()));
        }
        Ok(Hold { name: name.clone(), pidfd, cgroups: open_cgroups(&cgroups)?, network, limits })
    }
}

fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain system call.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens `cgroup.procs` of every cgroup in the words of `/proc/PID/cgroup`, but of those where we are already.
fn open_cgroups(theirs: &str) -> Result<Vec<OwnedFd>, EnterError> {
    let failed = |path: &str| {
        let path = path.to_owned();
        move |source| EnterError::Cgroup { path, source }
    };
    let ours = fs::read_to_string("/proc/self/cgroup").map_err(failed("/proc/self/cgroup"))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(failed("/proc/self/mountinfo"))?;
    let mut opened = Vec::new();
    for line in theirs.lines().filter(|line| !ours.lines().any(|own| own == *line)) {
        let path = procs(line, &mounts).ok_or_else(|| failed(line)(io::ErrorKind::NotFound.into()))?;
        let file = OpenOptions::new().write(true).open(&path).map_err(failed(&path.to_string_lossy()))?;
        opened.push(File::into(file));
    }
    Ok(opened)
}

/// Where `cgroup.procs` of a line `ID:CONTROLLERS:PATH` is, by the mounts of `/proc/self/mountinfo`.
fn procs(line: &str, mounts: &str) -> Option<PathBuf> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let mut first = controllers.split(',');
    let controller = first.next()?;
    mounts.lines().find_map(|mount| {
        let (left, right) = mount.split_once(" - ")?;
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let fits = match controller {
            "" => kind == "cgroup2",
            _ => kind == "cgroup" && options.split(',').any(|option| option == controller),
        };
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        // A mount may show a part of the hierarchy only.
        let below = Path::new(path).strip_prefix(root).ok().filter(|_| fits)?;
        Some(Path::new(point).join(below).join("cgroup.procs"))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn limits_are_read_as_proc_writes_them() {
        let text = "Limit    Soft Limit  Hard Limit  Units\nMax open files    1024    20000    files\n\
            Max nice priority    0    0\nMax stack size    8388608    unlimited    bytes\n";
        assert_eq!(parse_limits(text), [(3, 8_388_608, libc::RLIM_INFINITY), (7, 1024, 20_000), (13, 0, 0)]);
    }

    const MOUNTS: &str = "\
        30 24 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n\
        31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n\
        33 30 0:29 /part /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
        34 30 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n\
        35 30 0:31 / /sys/fs/cgroup/systemd rw,nosuid - cgroup cgroup rw,xattr,name=systemd\n";

    #[test]
    fn cgroups_of_both_versions_are_found_by_their_mounts() {
        let found = |line| procs(line, MOUNTS).map(|path| path.to_str().unwrap().to_owned());
        let at = |path: &str| Some(format!("/sys/fs/cgroup/{path}/cgroup.procs"));
        assert_eq!(found("0::/tenants/a:b"), at("unified/tenants/a:b"));
        assert_eq!(found("7:memory:/part/tenants/acme"), at("memory/tenants/acme"));
        assert_eq!(found("7:memory:/other"), None);
        assert_eq!(found("4:cpu,cpuacct:/x"), at("cpu,cpuacct/x"));
        assert_eq!(found("1:name=systemd:/x"), at("systemd/x"));
        assert_eq!(found("9:pids:/x"), None);
    }
}
