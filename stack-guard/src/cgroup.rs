//! Directories of the cgroup2 hierarchy.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How deep below the root of the hierarchy a group's directory may be: the programs look no deeper. As in stacks.h.
pub const MAX_LEVEL: u32 = 16;

/// As in stacks.h.
const ALL_LEVELS: u32 = 0x1_fffe;

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

/// A cgroup2 directory as the programs know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cgroup {
    /// The id by which the kernel's helpers name it; never re-used.
    pub id: u64,
    /// How deep below the root of the hierarchy it is, up to [`MAX_LEVEL`]; 0: not known, which costs time at every
    /// socket of the machine.
    pub level: u32,
}

impl Cgroup {
    /// The directory at this path.
    pub fn at(path: &Path) -> Result<Self, CgroupError> {
        let (dir, id) = open(path)?;
        let failed = |source| CgroupError::Open { path: path.to_owned(), source };
        let device = dir.metadata().map_err(failed)?.dev();
        let (mut at, mut inode) = (path.to_owned(), id);
        for level in 0..=MAX_LEVEL {
            let parent = std::fs::metadata(at.join("..")).map_err(failed)?;
            if parent.dev() != device || parent.ino() == inode {
                // Every cgroup has this file but the root: what looks like the root may be that of a cgroup namespace.
                let is_root = !at.join("cgroup.events").exists();
                return Ok(Self { id, level: if is_root { level } else { 0 } });
            }
            at.push("..");
            inode = parent.ino();
        }
        Err(CgroupError::TooDeep { path: path.to_owned() })
    }

    /// As in stacks.h: the levels at which the programs must look for it.
    pub(crate) fn levels(self) -> u32 {
        if self.level == 0 { ALL_LEVELS } else { 1 << self.level }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_cgroup() {
        assert!(matches!(Cgroup::at(Path::new("/proc")), Err(CgroupError::NotCgroup2 { .. })));
        let error = Cgroup::at(Path::new("/nowhere")).unwrap_err();
        assert_eq!(error.to_string(), "open the cgroup /nowhere");
    }

    #[test]
    fn levels_are_bits() {
        assert_eq!(Cgroup { id: 1, level: 3 }.levels(), 0b1000);
        assert_eq!(Cgroup { id: 1, level: 0 }.levels(), (1..=MAX_LEVEL).fold(0, |levels, level| levels | 1 << level));
    }
}
