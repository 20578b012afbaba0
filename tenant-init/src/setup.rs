//! Making the tenant's house: mounts, host name, loopback device, and at the end giving up every capability that a
//! supervisor does not need. One straight list; the first step that fails is named in the answer to `hello`.
//!
//! In: namespaces that are already new (the daemon made them with the process). Out: nothing on the host is changed:
//! mount propagation is cut first. Devices other than `lo` belong to the daemon and are not touched.

use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// What init keeps, and why. Everything else is dropped from every set, and the bounding set is emptied, so nothing
/// that init starts can ever have a capability.
const KEPT: [Capability; 3] = [
    // Services run with the tenant's ids.
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    // Stopping a service signals a process of another user.
    Capability::CAP_KILL,
];

/// Where the state of all instances lies unless an operator says otherwise.
const INSTANCES: &str = "/var/lib/tenantd";

// What the tenant has of its own.
const PROC: &str = "/proc";
const SYS: &str = "/sys";
const RUN: &str = "/run";
const TMP: &str = "/tmp";
const VAR_TMP: &str = "/var/tmp";
const SHM: &str = "/dev/shm";
const MQUEUE: &str = "/dev/mqueue";

/// Which step failed, and why.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub(crate) struct SetupError {
    step: String,
    #[source]
    source: io::Error,
}

/// What the house is made from.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) name: String,
    pub(crate) ids: u32,
    pub(crate) state: PathBuf,
}

impl House {
    /// Runs the whole list.
    ///
    /// # Errors
    /// The first step that fails.
    pub(crate) fn set_up(&self) -> Result<(), SetupError> {
        let none = MsFlags::empty();
        let inert = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let own = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let owner = format!("mode=0755,uid={0},gid={0},size=64m,nr_inodes=65536", self.ids);
        let shared = "mode=1777,size=256m,nr_inodes=65536";

        step("state directory", || self.tenants())?;
        step("host name", || host_name(&self.name))?;
        step("private mounts", || attach(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None))?;
        let state = step("open state directory", || open_tree(&self.state))?;
        step("detach the host's mounts", || self.detach())?;
        step("mount /proc", || attach(Some("proc"), Path::new(PROC), Some("proc"), inert, None))?;
        // The devices of the tenant's stack instead of the host's; it also hides what is mounted below /sys.
        step("mount /sys", || attach(Some("sysfs"), Path::new(SYS), Some("sysfs"), inert | MsFlags::MS_RDONLY, None))?;
        step("mount /run", || attach(Some("tmpfs"), Path::new(RUN), Some("tmpfs"), own, Some(&owner)))?;
        step("mount /tmp", || attach(Some("tmpfs"), Path::new(TMP), Some("tmpfs"), own, Some(shared)))?;
        step("mount /var/tmp", || absent_is_fine(attach(Some(TMP), Path::new(VAR_TMP), None, MsFlags::MS_BIND, None)))?;
        // Shared memory files and message queues are ways from tenant to tenant.
        step("mount /dev/shm", || {
            absent_is_fine(attach(Some("tmpfs"), Path::new(SHM), Some("tmpfs"), inert, Some(shared)))
        })?;
        step("mount /dev/mqueue", || {
            absent_is_fine(attach(Some("mqueue"), Path::new(MQUEUE), Some("mqueue"), inert, None))
        })?;
        step("cover other tenants", || self.cover(none))?;
        step("mount state directory", || move_tree(&state, &self.state))?;
        for file in ["resolv.conf", "hosts"] {
            let ours = self.state.join("etc").join(file);
            step(&format!("bind /etc/{file}"), || bind_file(&ours, &Path::new("/etc").join(file)))?;
        }
        step("loopback up", loopback_up)?;
        step("capabilities", give_up)
    }

    /// The directory that holds the state of all tenants. It is covered, so it must not be the root.
    fn tenants(&self) -> io::Result<&Path> {
        let all = self.state.parent().filter(|all| all.parent().is_some());
        all.ok_or_else(|| io::Error::other("the state directory lies directly below the root"))
    }

    /// Lets go of the host's mounts where ours will be. Only covered they would live on below: the patch room of
    /// another instance, say, could not go away while this tenant lives.
    fn detach(&self) -> io::Result<()> {
        let others = self.others()?;
        let covered = [PROC, SYS, RUN, TMP, VAR_TMP, SHM, MQUEUE].map(Path::new);
        let table = fs::read("/proc/self/mountinfo")?;
        // From the top: each takes all below it along, which matters, because each waits for an RCU grace period.
        for line in table.split(|byte| *byte == b'\n') {
            let Some(point) = line.split(|byte| *byte == b' ').nth(4).map(unescape) else {
                continue;
            };
            if covered.iter().chain(&others).any(|directory| point.starts_with(directory)) {
                match umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                    // EINVAL, ENOENT: it went with the one it lay on.
                    Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        Ok(())
    }

    /// Directories with the state of others: of this instance's tenants, and of every instance, because the first tenants
    /// of two instances have the same ids.
    fn others(&self) -> io::Result<Vec<&Path>> {
        let (tenants, instances) = (self.tenants()?, Path::new(INSTANCES));
        Ok(if tenants.starts_with(instances) {
            vec![instances]
        } else if instances.is_dir() {
            vec![instances, tenants]
        } else {
            vec![tenants]
        })
    }

    /// Puts empty directories over the state of others, with room for our own.
    fn cover(&self, flags: MsFlags) -> io::Result<()> {
        for directory in self.others()? {
            // When the state is below /run or /tmp it has just been covered.
            fs::create_dir_all(directory)?;
            let small = Some("mode=0755,size=4k,nr_inodes=16");
            attach(Some("tmpfs"), directory, Some("tmpfs"), flags | MsFlags::MS_NOSUID, small)?;
        }
        fs::create_dir_all(&self.state)
    }
}

/// A path as mountinfo writes it: blanks and backslashes are `\` and three octal digits.
fn unescape(path: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

fn step<T>(name: &str, action: impl FnOnce() -> io::Result<T>) -> Result<T, SetupError> {
    action().map_err(|source| SetupError { step: name.to_owned(), source })
}

fn attach(
    source: Option<&str>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    data: Option<&str>,
) -> io::Result<()> {
    Ok(mount(source, target, kind, flags, data)?)
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        // ENODEV: the kernel does not know the file system.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
        other => other,
    }
}

fn host_name(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length are of a live slice.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }.into()).map(drop)
}

/// Takes a copy of the mount at `path` that outlives being covered.
fn open_tree(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as libc::c_uint;
    // SAFETY: plain system call with a live path.
    let fd = check(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches what [`open_tree`] took.
fn move_tree(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    let target = CString::new(target.as_os_str().as_bytes())?;
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH;
    // SAFETY: plain system call with live paths and descriptor.
    check(unsafe {
        libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), c"".as_ptr(), libc::AT_FDCWD, target.as_ptr(), flags)
    })
    .map(drop)
}

fn check(result: libc::c_long) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(result).map_err(io::Error::other) }
}

/// Binds `ours` over `target`. Where the host has a symbolic link (systemd-resolved links resolv.conf into /run), the
/// mount goes on what the link names, and in our own empty /run that has to be made first.
fn bind_file(ours: &Path, target: &Path) -> io::Result<()> {
    let target = follow(target)?;
    if !target.exists() && target.starts_with("/run") {
        if let Some(directory) = target.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::File::create(&target)?;
    }
    Ok(mount(Some(ours), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..8 {
        let Ok(link) = fs::read_link(&path) else {
            return Ok(match path.strip_prefix("/var/run") {
                Ok(below) => Path::new("/run").join(below),
                Err(_) => path,
            });
        };
        let mut next = path.parent().unwrap_or(Path::new("/")).to_owned();
        for part in link.components() {
            match part {
                Component::RootDir => next = PathBuf::from("/"),
                Component::ParentDir => drop(next.pop()),
                Component::Normal(name) => next.push(name),
                Component::CurDir | Component::Prefix(_) => {}
            }
        }
        path = next;
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

fn loopback_up() -> io::Result<()> {
    // SAFETY: plain system calls; `request` lives here and is initialised for the one we use.
    unsafe {
        let socket = check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0).into())?;
        let socket = OwnedFd::from_raw_fd(socket);
        let mut request = std::mem::zeroed::<libc::ifreq>();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request).into())?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request).into()).map(drop)
    }
}

/// The order matters: emptying the bounding set needs CAP_SETPCAP, which the last line gives up.
fn give_up() -> io::Result<()> {
    let kept: CapsHashSet = KEPT.into_iter().collect();
    caps::clear(None, CapSet::Ambient).map_err(io::Error::other)?;
    caps::clear(None, CapSet::Inheritable).map_err(io::Error::other)?;
    // By number until the kernel knows no more: a newer kernel has capabilities that no list of ours names.
    for number in 0..64 {
        // SAFETY: plain system call.
        match check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) }.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && number > 0 => break,
            dropped => drop(dropped?),
        }
    }
    caps::set(None, CapSet::Effective, &kept).map_err(io::Error::other)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_mountinfo_are_read() {
        assert_eq!(unescape(b"/run"), Path::new("/run"));
        assert_eq!(unescape(b"/a\\040b\\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape(b"/a\\04"), Path::new("/a\\04"));
    }
}
