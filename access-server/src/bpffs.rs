//! The BPF file system in which maps and programs are pinned, mounted where there is none.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use thiserror::Error;
use tracing::info;

/// Why there is no BPF file system to pin in.
#[derive(Debug, Error)]
pub enum BpffsError {
    /// The directory could not be made or looked at.
    #[error("cannot use the directory {} for a BPF file system", .dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The mount was refused.
    #[error("cannot mount a BPF file system on {}", .dir.display())]
    Mount {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Sees to it that `dir` is a BPF file system. Returns whether it had to be mounted.
pub fn ensure(dir: &Path) -> Result<bool, BpffsError> {
    let directory = |source| BpffsError::Directory { dir: dir.to_owned(), source };
    if is_bpffs(dir) {
        return Ok(false);
    }
    std::fs::create_dir_all(dir).map_err(directory)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RELATIME;
    mount(Some("bpf"), dir, Some("bpf"), flags, Some("mode=700"))
        .map_err(|errno| BpffsError::Mount { dir: dir.to_owned(), source: errno.into() })?;
    info!(dir = %dir.display(), "mounted a BPF file system");
    Ok(true)
}

/// Whether `path` lies in a BPF file system.
pub fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}
