//! Project quota: a limit the file system itself holds for a directory, where it can (ext4 and xfs with `prjquota`).
//!
//! The project's number is the tenant's first id. From inside a user namespace neither the number nor the inherit
//! flag can be changed (`fileattr_set_prepare`, fs/ioctl.c), so a tenant's root cannot get out of it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;

use super::Figures;

const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;
const PROJECT_INHERIT: u32 = 0x200;
/// `QCMD(command, PRJQUOTA)` (uapi/linux/quota.h).
const fn command(number: u32) -> u32 {
    (number << 8) | 2
}
const Q_GETINFO: u32 = command(0x80_0005);
const Q_GETQUOTA: u32 = command(0x80_0007);
const Q_SETQUOTA: u32 = command(0x80_0008);
const VALID_BLOCK_LIMITS: u32 = 1;
const VALID_INODE_LIMITS: u32 = 4;
/// Limits of blocks are in units of so many bytes.
const UNIT: u64 = 1024;
/// One inode for so many bytes, as in an image.
const BYTES_AN_INODE: u64 = 8192;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `struct if_dqblk`.
#[repr(C)]
#[derive(Default)]
struct Limits {
    block_hard: u64,
    block_soft: u64,
    space: u64,
    inode_hard: u64,
    inode_soft: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

const _: () = assert!(size_of::<Attributes>() == 28 && size_of::<Limits>() == 72);

fn quotactl<T>(file: &File, command: u32, project: u32, argument: &mut T) -> io::Result<()> {
    // SAFETY: the argument lives in the caller and has the layout the command asks for. From Linux 5.14.
    let result = unsafe {
        libc::syscall(libc::SYS_quotactl_fd, file.as_raw_fd(), command, project, std::ptr::from_mut(argument))
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether the file system of a directory enforces project quota.
pub(super) fn is_supported(directory: &Path) -> bool {
    // Large enough for `struct if_dqinfo`; only the answer matters.
    let mut info = [0_u64; 4];
    File::open(directory).is_ok_and(|file| quotactl(&file, Q_GETINFO, 0, &mut info).is_ok())
}

/// Puts a directory with everything in it, and what will be made in it, under a project. Links and special files
/// cannot be opened and stay outside: they use an inode each and no space.
pub(super) fn mark(directory: &Path, project: u32) -> io::Result<()> {
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        if !mark_one(&directory, project, PROJECT_INHERIT)? {
            // It is what it shall be, and then so is what was made in it.
            continue;
        }
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                mark_one(&entry.path(), project, 0)?;
            }
        }
    }
    Ok(())
}

/// Whether there was something to change.
fn mark_one(path: &Path, project: u32, flags: u32) -> io::Result<bool> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let mut attributes = Attributes::default();
    // SAFETY: the structure lives here and has the kernel's layout.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR, &mut attributes) })?;
    if attributes.project == project && attributes.flags & flags == flags {
        return Ok(false);
    }
    attributes.flags |= flags;
    attributes.project = project;
    // SAFETY: as above.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSSETXATTR, &attributes) })?;
    Ok(true)
}

/// Sets the limit of a project; none takes it away.
pub(super) fn limit(directory: &Path, project: u32, bytes: Option<u64>) -> io::Result<()> {
    let mut limits = Limits {
        block_hard: bytes.map_or(0, |bytes| bytes / UNIT),
        inode_hard: bytes.map_or(0, |bytes| bytes / BYTES_AN_INODE),
        valid: VALID_BLOCK_LIMITS | VALID_INODE_LIMITS,
        ..Limits::default()
    };
    quotactl(&File::open(directory)?, Q_SETQUOTA, project, &mut limits)
}

/// What a project uses.
pub(super) fn figures(directory: &Path, project: u32) -> io::Result<Figures> {
    let mut limits = Limits::default();
    quotactl(&File::open(directory)?, Q_GETQUOTA, project, &mut limits)?;
    let set = |limit: u64| (limit != 0).then_some(limit);
    Ok(Figures {
        bytes: limits.space,
        bytes_limit: set(limits.block_hard.saturating_mul(UNIT)),
        inodes: limits.inodes,
        inodes_limit: set(limits.inode_hard),
    })
}
