//! The temporary directory an image is made in: locked while its maker lives, removed when it is given up.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// No image can have such a name.
const PREFIX: &str = ".building-";

/// An image that is being made.
#[derive(Debug)]
pub(super) struct Building {
    path: PathBuf,
    /// Held until the directory is whole or gone; the kernel lets go of it when we are killed.
    _lock: Flock<File>,
}

impl Building {
    /// An empty directory beside the images.
    pub(super) fn start(images: &Path) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = images.join(format!("{PREFIX}{}-{number}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path)?;
        let lock = lock(&path)?.ok_or(io::ErrorKind::ResourceBusy)?;
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it and says what could not be removed.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_dir_all(&self.path)
    }

    /// Gives the whole directory its name. Where an empty directory or nothing is, it is replaced; anything else is
    /// an error and the work is removed.
    pub(super) fn finish(self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        // After `finish` there is nothing. What cannot be removed is swept at the next open.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(File::open(path)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// Removes what makers that are gone have left below `images`.
pub(super) fn sweep(images: &Path) -> Result<(), (PathBuf, io::Error)> {
    let read = |source| (images.to_owned(), source);
    for entry in fs::read_dir(images).map_err(read)? {
        let entry = entry.map_err(read)?;
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let path = entry.path();
        let removed = lock(&path).and_then(|lock| match lock {
            Some(_held) => fs::remove_dir_all(&path),
            // Its maker lives.
            None => Ok(()),
        });
        match removed {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err((path, source)),
            _ => {}
        }
    }
    Ok(())
}
