//! Directories of the cgroup2 hierarchy.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How deep below the root of the hierarchy a group's directory may be: the programs look no deeper. As in stacks.h.
pub const MAX_LEVEL: u32 = 16;

/// `statfs` type of a cgroup2 mount.
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// A path is not a cgroup2 directory that can be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// It cannot be opened.
    #[error("open the cgroup {}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something else, such as a directory of a version 1 hierarchy.
    #[error("{} is not a directory of a cgroup2 file system", path.display())]
    NotCgroup2 {
        /// The directory.
        path: PathBuf,
    },
    /// It is too deep.
    #[error("{} is more than {MAX_LEVEL} levels below the root of the hierarchy", path.display())]
    TooDeep {
        /// The directory.
        path: PathBuf,
    },
}

/// `statfs` type of an open file.
pub(crate) fn file_system(file: &File) -> io::Result<u64> {
    let mut answer = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: a descriptor that is open, and a buffer of the right type.
    let rc = unsafe { libc::fstatfs(file.as_raw_fd(), answer.as_mut_ptr()) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    // The type of f_type differs between targets.
    #[allow(clippy::unnecessary_cast)]
    // SAFETY: the call succeeded and so wrote the buffer.
    Ok(unsafe { answer.assume_init() }.f_type as u64 & 0xffff_ffff)
}

/// Opens a directory and says its id.
pub(crate) fn open(path: &Path) -> Result<(File, u64), CgroupError> {
    let failed = |source| CgroupError::Open { path: path.to_owned(), source };
    let dir = File::open(path).map_err(failed)?;
    if file_system(&dir).map_err(failed)? != CGROUP2_SUPER_MAGIC {
        return Err(CgroupError::NotCgroup2 { path: path.to_owned() });
    }
    // The inode number is the id (64-bit kernels, 5.5 and newer).
    let id = dir.metadata().map_err(failed)?.ino();
    Ok((dir, id))
}

/// The id by which the kernel's helpers name a cgroup2 directory: it is never re-used. For [`crate::Row::cgroups`].
pub fn cgroup_id(path: &Path) -> Result<u64, CgroupError> {
    let (dir, id) = open(path)?;
    let failed = |source| CgroupError::Open { path: path.to_owned(), source };
    let mut at = path.to_owned();
    let mut inode = id;
    let device = dir.metadata().map_err(failed)?.dev();
    for _ in 0..=MAX_LEVEL {
        at.push("..");
        let parent = std::fs::metadata(&at).map_err(failed)?;
        if parent.dev() != device || parent.ino() == inode {
            return Ok(id);
        }
        inode = parent.ino();
    }
    Err(CgroupError::TooDeep { path: path.to_owned() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_cgroup() {
        assert!(matches!(cgroup_id(Path::new("/proc")), Err(CgroupError::NotCgroup2 { .. })));
        let error = cgroup_id(Path::new("/nowhere")).unwrap_err();
        assert_eq!(error.to_string(), "open the cgroup /nowhere");
    }
}
