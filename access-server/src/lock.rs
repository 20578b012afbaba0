//! One daemon an instance: a lock file in the run directory that lives exactly as long as its holder.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;

/// How long a killed holder may take to let go.
const DYING: Duration = Duration::from_secs(3);

/// The held lock of an instance; dropping it gives the instance free.
#[derive(Debug)]
pub struct InstanceLock {
    _file: Flock<File>,
}

/// Why the lock of an instance could not be taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// The run directory could not be made.
    #[error("cannot make the run directory {}", .dir.display())]
    RunDir {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The lock file could not be opened or written.
    #[error("cannot use the lock file {}", .path.display())]
    File {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another process has the instance.
    #[error("instance {instance} is held by {holder} (lock file {})", .path.display())]
    Held {
        /// The instance asked for.
        instance: String,
        /// The holder as it wrote itself into the file: process id and role.
        holder: String,
        /// The lock file.
        path: PathBuf,
    },
}

impl InstanceLock {
    /// Takes the lock of `instance` in `dir` (made if missing) and writes the process id and `role` into it.
    pub fn take(dir: &Path, instance: &str, role: &str) -> Result<Self, LockError> {
        std::fs::create_dir_all(dir).map_err(|source| LockError::RunDir { dir: dir.to_owned(), source })?;
        let path = dir.join("lock");
        let failed = |source| LockError::File { path: path.clone(), source };
        // Not truncated on open: the text in it is the holder's until the lock is ours.
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        let mut file = match wait_for(file) {
            Ok(file) => file,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(failed)?;
                let holder = match holder.trim() {
                    "" => "an unnamed process".to_owned(),
                    named => named.to_owned(),
                };
                return Err(LockError::Held { instance: instance.to_owned(), holder, path });
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "pid {} ({role})", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// A holder that was killed keeps the lock until the kernel has taken it apart, which a quick restart must survive.
fn wait_for(mut file: File) -> Result<Flock<File>, (File, Errno)> {
    let deadline = Instant::now() + DYING;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((same, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file = same,
            outcome => return outcome,
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn second_taker_is_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = InstanceLock::take(dir.path(), "main", "access-server run").unwrap();
        let error = InstanceLock::take(dir.path(), "main", "access-server run").unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("pid {} (access-server run)", std::process::id())), "{text}");
        assert!(text.contains("instance main"), "{text}");
        drop(held);
        InstanceLock::take(dir.path(), "main", "access-server site").unwrap();
    }
}
