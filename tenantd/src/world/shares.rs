//! Shared directories in a running tenant: which are there, putting one in, taking one out. At launch init does the
//! same by itself.
//!
//! Everything in the tenant's root may be a trap: names are looked up in its mount namespace by a thread of ours that
//! follows no link and holds what it found, so nothing outside the tenant's own root can be meant. A tenant cannot
//! mount, so what is mounted is ours; a share that was moved with its directory is found too.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchdir, fchownat, unlinkat};
use stackmap::{GidRange, Invalid};
use tenant_init::house::SHARE_IDS;
use tenant_init::mounts::{NODEV, NOSUID, RDONLY, attach_at, attributes, copy_plain, open_plain};
use tenant_init::seed;

use super::seat::Seat;
use super::{StepError, World, joined};
use crate::model::{ShareMount, ShareRequest, Tenant};
use crate::plan::MountedShare;
use crate::shares;

impl World {
    /// Checks that a directory can be shared here, and makes it when that is asked for. Returns its path in one spelling.
    ///
    /// # Errors
    /// [`Invalid`] (field `directory`).
    pub async fn check_share(&self, request: &ShareRequest) -> Result<PathBuf, Invalid> {
        let path = shares::check_path(&request.directory, &[&self.config.state_dir, &self.config.run_dir])?;
        let (directory, create) = (path.clone(), request.create);
        let writable = request.tenants.iter().any(|tenant| !tenant.read_only);
        let checked = tokio::task::spawn_blocking(move || {
            shares::check_directory(&directory, create, writable)?;
            let refuse = |error: io::Error| {
                let rule = match error.raw_os_error() {
                    Some(libc::EINVAL) => {
                        "its file system cannot map ids (idmapped mounts), which sharing needs".into()
                    }
                    _ => format!("cannot be shared: {error}"),
                };
                Invalid::new("directory", directory.display(), rule)
            };
            // A trial that is attached nowhere.
            mapped(&directory, false, GidRange::FIRST.get()).map(drop).map_err(refuse)
        });
        checked.await.map_err(|error| Invalid::new("directory", path.display(), error.to_string()))??;
        Ok(path)
    }

    /// The shared directories that the tenant's running init has mounted.
    pub(super) fn mounted_shares(&self, tenant: &Tenant) -> Result<Vec<MountedShare>, StepError> {
        let Some(seat) = self.seats.get(&tenant.name) else { return Ok(Vec::new()) };
        let path = format!("/proc/{}/mountinfo", seat.pid);
        let text = fs::read_to_string(&path).map_err(|source| StepError::File { verb: "read", path, source })?;
        Ok(parse(&text))
    }

    pub(super) async fn mount_share(&self, tenant: &Tenant, share: &ShareMount) -> Result<(), StepError> {
        let (seat, share, ids) = (self.held(tenant)?, share.clone(), tenant.gid.get());
        let failed = StepError::share(&share.directory, "mount");
        let work = move || {
            let mount = mapped(Path::new(&share.directory), share.read_only, ids)?;
            seat.run(move || {
                let at = directory(Path::new(&share.target), ids)?;
                attach_at(&mount, &at)
            })
        };
        tokio::task::spawn_blocking(work).await.map_err(joined)?.map_err(failed)
    }

    pub(super) async fn unmount_share(&self, tenant: &Tenant, share: &MountedShare) -> Result<(), StepError> {
        let (seat, share) = (self.held(tenant)?, share.clone());
        let failed = StepError::share(&share.target, "unmount");
        let work = move || seat.run(move || unmount(&share));
        tokio::task::spawn_blocking(work).await.map_err(joined)?.map_err(failed)
    }

    fn held(&self, tenant: &Tenant) -> Result<Mounts, StepError> {
        let seat = self.seats.get(&tenant.name).ok_or_else(|| StepError::NoInit(tenant.name.clone()))?;
        Mounts::of(seat).map_err(StepError::share(tenant.name.as_str(), "enter the mounts of"))
    }
}

impl StepError {
    fn share(path: &str, verb: &'static str) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { verb, path, source }
    }
}

/// A tenant's mount namespace, held.
struct Mounts {
    namespace: File,
}

impl Mounts {
    fn of(seat: &Seat) -> io::Result<Self> {
        let namespace = File::open(format!("/proc/{}/ns/mnt", seat.pid))?;
        // Alive after it was opened: the number meant init.
        if seat.has_ended()? {
            return Err(Errno::ESRCH.into());
        }
        Ok(Self { namespace })
    }

    /// Runs something in the namespace, on a thread that ends with it: its root and directory are its own.
    fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_FS)?;
                // Root and directory of the thread are the tenant's from here on.
                setns(&self.namespace, CloneFlags::CLONE_NEWNS)?;
                work()
            });
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread ended")))
        })
    }
}

/// A copy of the directory's mount in which the disk's ids are the tenant's.
fn mapped(directory: &Path, read_only: bool, ids: u32) -> io::Result<OwnedFd> {
    let proc: OwnedFd = File::open("/proc")?.into();
    let users = seed::make(&proc, SHARE_IDS, ids, &[])?;
    let mount = copy_plain(directory)?;
    attributes(&mount, NOSUID | NODEV | if read_only { RDONLY } else { 0 }, Some(&users.user))?;
    Ok(mount)
}

/// Holds a directory in the tenant, made where there is none. Whatever the tenant does meanwhile, it is in its root.
fn directory(target: &Path, ids: u32) -> io::Result<OwnedFd> {
    let owner = (Some(Uid::from_raw(ids)), Some(Gid::from_raw(ids)));
    let mut at = open_plain(libc::AT_FDCWD, Path::new("/"))?;
    for part in target.components().skip(1) {
        let name = Path::new(part.as_os_str());
        match mkdirat(&at, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) => fchownat(&at, name, owner.0, owner.1, AtFlags::AT_SYMLINK_NOFOLLOW)?,
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        at = open_plain(at.as_raw_fd(), name)?;
    }
    Ok(at)
}

fn unmount(share: &MountedShare) -> io::Result<()> {
    let path = Path::new(&share.at);
    let held = open_plain(libc::AT_FDCWD, path)?;
    // Whoever moved a directory since we looked gets another look, not another mount taken away.
    if mount_id(&held)? != share.id {
        return Err(Errno::EAGAIN.into());
    }
    fchdir(&held)?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")?;
    if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
        // Left behind when the tenant has put something below it.
        let _ = open_plain(libc::AT_FDCWD, parent)
            .and_then(|parent| Ok(unlinkat(&parent, Path::new(name), UnlinkatFlags::RemoveDir)?));
    }
    Ok(())
}

/// `STATX_MNT_ID`, Linux 5.8.
fn mount_id(fd: &OwnedFd) -> io::Result<u64> {
    // SAFETY: all zero is a valid `statx`, which lives here; the descriptor and the string live too.
    unsafe {
        let mut found: libc::statx = std::mem::zeroed();
        let done = libc::statx(fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_MNT_ID, &mut found);
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(found.stx_mnt_id) }
    }
}

/// The shared directories of a tenant's mountinfo (proc_pid_mountinfo(5)): mounts with mapped ids directly on the root
/// file system. Set-id programs of the host's image have mapped ids too, but lie on the host's programs.
fn parse(text: &str) -> Vec<MountedShare> {
    let lines: Vec<_> = text.lines().filter_map(Line::of).collect();
    let Some(root) = lines.iter().rfind(|line| line.at == "/").map(|line| line.id) else { return Vec::new() };
    let shares = lines.into_iter().filter(|line| line.mapped && line.parent == root);
    let shares = shares.map(|Line { id, at, deleted, read_only, .. }| {
        // Removed on the host: what is mounted is a directory without a name.
        let target = if deleted { String::new() } else { at.clone() };
        MountedShare { id, at, target, read_only }
    });
    shares.collect()
}

/// What matters of a line.
struct Line {
    id: u64,
    parent: u64,
    deleted: bool,
    at: String,
    mapped: bool,
    read_only: bool,
}

impl Line {
    fn of(line: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        let id = fields.next()?.parse().ok()?;
        let parent = fields.next()?.parse().ok()?;
        let deleted = fields.nth(1)?.ends_with("//deleted");
        let at = unescape(fields.next()?);
        let options: Vec<&str> = fields.next()?.split(',').collect();
        let (mapped, read_only) = (options.contains(&"idmapped"), options.contains(&"ro"));
        Some(Self { id, parent, deleted, at, mapped, read_only })
    }
}

/// Blank, tab, newline and backslash are written as three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = part.split_at_checked(3).unwrap_or((part, ""));
        match u8::from_str_radix(digits, 8) {
            Ok(byte) => plain.push(char::from(byte)),
            Err(_) => plain.push_str(digits),
        }
        plain.push_str(rest);
    }
    plain
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn shares_are_told_from_other_mounts() {
        let shares = parse(
            "70 69 0:50 / / rw,nodev,relatime - overlay overlay rw\n\
             71 70 8:1 /usr /usr ro,nosuid,nodev - ext4 /dev/sda1 rw\n\
             98 71 8:1 /var/lib/x/su /usr/bin/su ro,nosuid,nodev,relatime,idmapped - tmpfs tmpfs rw\n\
             97 70 0:51 / /tmp rw,nosuid,nodev - tmpfs tmpfs rw\n\
             99 70 8:1 /srv/a /shared/a\\040b rw,nosuid,nodev,relatime,idmapped - ext4 /dev/sda1 rw\n\
             96 70 8:1 /srv/b//deleted /shared/b ro,nosuid,nodev,idmapped - ext4 /dev/sda1 rw\n",
        );
        let share = |id, at: &str, target: &str, read_only| MountedShare {
            id,
            at: at.into(),
            target: target.into(),
            read_only,
        };
        assert_eq!(shares, [share(99, "/shared/a b", "/shared/a b", false), share(96, "/shared/b", "", true)]);
        assert!(parse("").is_empty());
    }
}
