//! A file that holds a file system: making it, reading what it says of itself, growing it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::statvfs::fstatvfs;

use super::Figures;
use super::device::LoopDevice;

/// Block size; the journal's smallest size is 1,024 of them.
const BLOCK: u64 = 4096;
/// One inode for so many bytes: a distribution's packages are many small files.
const BYTES_AN_INODE: u64 = 8192;
/// `_IOW('f', 16, __u64)` (fs/ext4/ext4.h).
const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;

/// Why a program of e2fsprogs did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be started.
    #[error("cannot start {program} (Debian package e2fsprogs)")]
    Start {
        /// The program.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("{program} failed with {status}: {words}")]
    Failed {
        /// The program.
        program: &'static str,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it wrote.
        words: String,
    },
}

/// Runs a program and waits for it; `good` are the exit codes that mean success.
pub(super) fn run(program: &'static str, command: &mut Command, good: &[i32]) -> Result<(), ProgramError> {
    // A daemon's search path need not have the administrator's directories.
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().map_err(|source| ProgramError::Start { program, source })?;
    if output.status.code().is_some_and(|code| good.contains(&code)) {
        return Ok(());
    }
    let words = [output.stdout, output.stderr].concat();
    let words = String::from_utf8_lossy(&words).trim().to_owned();
    let from = words.char_indices().rev().nth(500).map_or(0, |(at, _)| at);
    Err(ProgramError::Failed { program, status: output.status, words: words[from..].to_owned() })
}

/// Makes a sparse file with an empty file system of `bytes`. Its root directory is root's.
pub(super) fn make(path: &Path, bytes: u64) -> Result<(), MakeError> {
    let writing = |source| MakeError::Write { path: path.to_owned(), source };
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(writing)?;
    file.set_len(bytes / BLOCK * BLOCK).map_err(writing)?;
    // In MiB: small for a small layer, and no larger than it helps.
    let journal = (bytes >> 20).checked_div(64).unwrap_or(0).clamp(4, 64);
    let mut command = Command::new("mkfs.ext4");
    command.args(["-q", "-F", "-m", "0", "-b"]).arg(BLOCK.to_string());
    command.arg("-i").arg(BYTES_AN_INODE.to_string()).arg("-J").arg(format!("size={journal}"));
    // Tables are written when they are needed, and a file has nothing to discard yet.
    command.args(["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"]).arg(path);
    run("mkfs.ext4", &mut command, &[0])?;
    file.sync_data().map_err(writing)
}

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The file.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// Size and use of the file system in an image that is not mounted, from its superblock (ext4 on-disk format).
pub(super) fn figures_on_disk(path: &Path) -> io::Result<Figures> {
    let mut block = [0; 1024];
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(1024))?;
    file.read_exact(&mut block)?;
    let word = |at: usize| u64::from(u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]));
    if word(0x38) & 0xffff != 0xef53 || word(0x18) > 6 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no ext4 file system in it"));
    }
    let unit = 1024 << word(0x18);
    let blocks = word(0x04) | word(0x150) << 32;
    let free = word(0x0c) | word(0x158) << 32;
    let used = blocks.saturating_sub(free);
    Ok(Figures {
        bytes: used.saturating_mul(unit),
        bytes_limit: Some(blocks.saturating_mul(unit)),
        inodes: word(0x00).saturating_sub(word(0x10)),
        inodes_limit: Some(word(0x00)),
    })
}

/// Size and use of a mounted file system. The tables of the file system count as used, so that use and limit are
/// those of the file.
pub(super) fn figures_mounted(mount: &OwnedFd, path: &Path) -> io::Result<Figures> {
    let figures = fstatvfs(mount)?;
    let whole = figures_on_disk(path)?.bytes_limit.unwrap_or(0);
    Ok(Figures {
        // Less than free is what a tenant can have: ext4 keeps some blocks for its own tables.
        bytes: whole.saturating_sub(figures.blocks_available() * figures.fragment_size()),
        bytes_limit: Some(whole),
        inodes: figures.files() - figures.files_free(),
        inodes_limit: Some(figures.files()),
    })
}

/// What came of growing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grown {
    Now,
    /// The kernel asks for `CAP_SYS_RESOURCE`, which this machine does not give.
    NotWhileMounted,
}

/// Grows the file system of a mounted image.
pub(super) fn grow_mounted(path: &Path, device: &LoopDevice, mount: &OwnedFd, bytes: u64) -> io::Result<Grown> {
    OpenOptions::new().write(true).open(path)?.set_len(bytes / BLOCK * BLOCK)?;
    device.grown()?;
    let blocks = bytes / BLOCK;
    let directory = File::open(format!("/proc/self/fd/{}", mount.as_raw_fd()))?;
    // SAFETY: the number lives here; the kernel reads 8 bytes.
    match Errno::result(unsafe { libc::ioctl(directory.as_raw_fd(), EXT4_IOC_RESIZE_FS, &blocks) }) {
        Ok(_) => Ok(Grown::Now),
        Err(Errno::EPERM) => Ok(Grown::NotWhileMounted),
        Err(errno) => Err(errno.into()),
    }
}

/// Grows the file system of an image that is not attached. A growth that was interrupted is taken up again.
pub(super) fn grow_offline(path: &Path, bytes: u64) -> Result<(), MakeError> {
    let writing = |source| MakeError::Write { path: path.to_owned(), source };
    OpenOptions::new().write(true).open(path).and_then(|f| f.set_len(bytes / BLOCK * BLOCK)).map_err(writing)?;
    // resize2fs wants a file system that was checked since it was mounted last. 1: errors were mended.
    run("e2fsck", Command::new("e2fsck").args(["-f", "-p"]).arg(path), &[0, 1])?;
    run("resize2fs", Command::new("resize2fs").arg(path), &[0])?;
    Ok(())
}
