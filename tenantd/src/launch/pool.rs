//! Stacks made ahead: network namespaces with their settings, in which nothing is yet. Making one is a third of a
//! launch (set-up of every protocol, some dozens of files of /proc/sys), and nothing of it depends on the tenant.
//!
//! In: how many. Out: descriptors, one by one. They are held by nothing else, so a daemon that is killed leaves none. A
//! thread makes them while there is room in the queue: as fast as they are taken, never more than a few at a time, and
//! with a pause after each, so that who waits for a tenant goes first.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use tenant_init::house::{Absent, SETTINGS};
use tokio::sync::mpsc::{Receiver, channel};

/// Between two that are made.
const PAUSE: Duration = Duration::from_millis(2);
/// After one that could not be made: most likely there is no memory, or the limit of namespaces is reached.
const LATER: Duration = Duration::from_secs(1);

/// Stacks that wait for tenants.
#[derive(Debug)]
pub struct Pool {
    ready: Receiver<OwnedFd>,
    count: Arc<AtomicUsize>,
}

impl Pool {
    /// Keeps at most `size` ready; 0 makes none.
    ///
    /// # Errors
    /// No thread.
    pub fn start(size: usize) -> io::Result<Self> {
        let (put, ready) = channel(size.max(1));
        let count = Arc::new(AtomicUsize::new(0));
        if size > 0 {
            let (home, counter) = (File::open("/proc/thread-self/ns/net")?, count.clone());
            std::thread::Builder::new().name("pool".into()).spawn(move || {
                loop {
                    let made = make();
                    // Not in one of them while it waits: it would be kept alive.
                    while setns(&home, CloneFlags::CLONE_NEWNET).is_err() {
                        std::thread::sleep(PAUSE);
                    }
                    match made {
                        Ok(stack) => {
                            counter.fetch_add(1, Ordering::Relaxed);
                            if put.blocking_send(stack).is_err() {
                                return;
                            }
                            std::thread::sleep(PAUSE);
                        }
                        Err(error) => {
                            tracing::warn!(%error, "cannot make a stack ahead; tenants are made without");
                            std::thread::sleep(LATER);
                        }
                    }
                }
            })?;
        }
        Ok(Self { ready, count })
    }

    /// One of them, if there is any.
    #[must_use]
    pub fn take(&mut self) -> Option<OwnedFd> {
        let taken = self.ready.try_recv().ok()?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        Some(taken)
    }

    /// How many there are.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// A stack as a tenant's child would make it; the calling thread is in it afterwards.
///
/// # Errors
/// No namespace, or a setting that must be there is not.
pub fn make() -> io::Result<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    for (path, value, absent) in &SETTINGS {
        match fs::write(path.to_str().map_err(io::Error::other)?, value) {
            Err(error) if *absent == Absent::IsFine && error.kind() == io::ErrorKind::NotFound => {}
            written => written?,
        }
    }
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}
