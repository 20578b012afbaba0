//! Mounts by descriptor: each function is one or two system calls of the mount API of Linux 5.2 and newer
//! (`mount_setattr`: 5.12), which names a mount before it is anywhere and so needs no path that could change.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Nobody writes; this and the next three are of `mount_setattr(2)`, values of linux/mount.h.
pub const RDONLY: u64 = 0x1;
/// Set-id bits have no effect.
pub const NOSUID: u64 = 0x2;
/// Device nodes have no effect.
pub const NODEV: u64 = 0x4;
/// Programs are not executed.
pub const NOEXEC: u64 = 0x8;
const IDMAP: u64 = 0x0010_0000;

const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// The number that a system call gave, or its error.
///
/// # Errors
/// The system's, when the number is negative.
pub fn check(result: libc::c_long) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(result).map_err(io::Error::other) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    // SAFETY: the kernel just gave us this descriptor.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// A new file system, attached nowhere. An option without value is a flag.
///
/// # Errors
/// The system's.
pub fn new(kind: &CStr, options: &[(&CStr, &str)], attributes: u64) -> io::Result<OwnedFd> {
    let nothing = std::ptr::null::<libc::c_char>();
    // SAFETY: system calls on live strings and a live descriptor.
    unsafe {
        let context = owned(libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1))?;
        let fd = context.as_raw_fd();
        for (key, value) in options {
            let value = CString::new(*value)?;
            let (command, value) =
                if value.is_empty() { (FSCONFIG_SET_FLAG, nothing) } else { (FSCONFIG_SET_STRING, value.as_ptr()) };
            check(libc::syscall(libc::SYS_fsconfig, fd, command, key.as_ptr(), value, 0))
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", key.to_string_lossy())))?;
        }
        check(libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, nothing, nothing, 0))?;
        owned(libc::syscall(libc::SYS_fsmount, fd, 1, attributes))
    }
}

/// A copy of the mount at `path`, that directory or file only, attached nowhere.
///
/// # Errors
/// The system's.
pub fn copy(path: &Path) -> io::Result<OwnedFd> {
    let path = text(path)?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: system call on a live string.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// As [`copy`], of a directory to which no symbolic link leads: others may have written on the way to it.
///
/// # Errors
/// `ELOOP` for a link, else the system's.
pub fn copy_plain(path: &Path) -> io::Result<OwnedFd> {
    let directory = open_plain(libc::AT_FDCWD, path)?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH.unsigned_abs();
    // SAFETY: system call on a live descriptor and string.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, directory.as_raw_fd(), c"".as_ptr(), flags) })
}

/// Holds a directory to which no symbolic link leads (`openat2`, Linux 5.6).
///
/// # Errors
/// `ELOOP` for a link, else the system's.
pub fn open_plain(at: i32, path: &Path) -> io::Result<OwnedFd> {
    let path = text(path)?;
    // SAFETY: all zero is a valid `open_how`.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC).unsigned_abs().into();
    how.resolve = libc::RESOLVE_NO_SYMLINKS;
    // SAFETY: system call on a live string and structure.
    owned(unsafe { libc::syscall(libc::SYS_openat2, at, path.as_ptr(), &raw const how, size_of::<libc::open_how>()) })
}

/// Attaches a mount over a directory that is held.
///
/// # Errors
/// The system's.
pub fn attach_at(mount: &impl AsFd, target: &impl AsFd) -> io::Result<()> {
    let (from, to) = (mount.as_fd().as_raw_fd(), target.as_fd().as_raw_fd());
    // MOVE_MOUNT_F_EMPTY_PATH and MOVE_MOUNT_T_EMPTY_PATH.
    // SAFETY: system call on live descriptors and strings.
    check(unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), to, c"".as_ptr(), 0x4 | 0x40) }).map(drop)
}

/// Sets attributes of a mount that is attached nowhere yet; with `users` its ids are mapped.
///
/// # Errors
/// The system's.
pub fn attributes(mount: &OwnedFd, set: u64, users: Option<&OwnedFd>) -> io::Result<()> {
    let attr = MountAttr {
        attr_set: set | users.map_or(0, |_| IDMAP),
        // The copy of a mount has its attributes: set-id programs must work also where the host's directory is nosuid.
        attr_clr: NOSUID & !set,
        propagation: 0,
        userns_fd: users.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs())),
    };
    // SAFETY: system call on a live descriptor and structure.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Attaches a mount. `target` is a path of ours: its last part is not followed when it is a link.
///
/// # Errors
/// The system's.
pub fn attach(mount: &impl AsFd, target: &Path) -> io::Result<()> {
    let target = text(target)?;
    let from = mount.as_fd().as_raw_fd();
    // MOVE_MOUNT_F_EMPTY_PATH; without MOVE_MOUNT_T_SYMLINKS.
    // SAFETY: system call on a live descriptor and strings.
    check(unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), libc::AT_FDCWD, target.as_ptr(), 4) })
        .map(drop)
}

/// Binds `source` over `target` with attributes.
///
/// # Errors
/// The system's.
pub fn bind(source: &Path, target: &Path, set: u64) -> io::Result<()> {
    let mount = copy(source)?;
    attributes(&mount, set, None)?;
    attach(&mount, target)
}

/// A directory that is there afterwards, whatever was at its name: a tenant may have put a link there.
///
/// # Errors
/// The system's.
pub fn directory(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs::create_dir(path)
}

/// A regular file that is there afterwards, to bind another one over.
///
/// # Errors
/// The system's.
pub fn file(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => return Ok(()),
        Ok(found) if found.is_dir() => crate::tree::remove(path)?,
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs::OpenOptions::new().write(true).create_new(true).open(path).map(drop)
}
