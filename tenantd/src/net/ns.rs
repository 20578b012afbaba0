//! Entering network namespaces. A namespace is always named by an open file descriptor, never by a path that may have
//! come to mean another one; a thread that entered one never serves anything else afterwards.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};

use super::rtnl::Netlink;

/// Why a namespace could not be made or entered.
#[derive(Debug, thiserror::Error)]
pub enum NsError {
    /// Opening the file that stands for the namespace failed.
    #[error("cannot open the network namespace {path}")]
    Open {
        /// Its path.
        path: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// `setns(2)` or `unshare(2)` failed.
    #[error("cannot enter a network namespace")]
    Enter(#[source] io::Error),
    /// Pinning it with a bind mount failed.
    #[error("cannot pin the network namespace at {path}")]
    Pin {
        /// The mount point.
        path: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A thread could not be started, or ended without an answer.
    #[error("cannot start a thread for a network namespace")]
    Thread(#[source] io::Error),
    /// The netlink socket could not be made.
    #[error("cannot open a netlink socket")]
    Netlink(#[source] io::Error),
    /// The thread that visits namespaces has ended.
    #[error("the thread that visits network namespaces has ended")]
    Gone,
    /// A visit took too long.
    #[error("nothing could be done in the network namespace within {0:?}")]
    Slow(Duration),
}

/// A network namespace, held alive by its descriptor.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for NetNs {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl NetNs {
    /// Open the namespace that a file in nsfs stands for, such as `/proc/PID/ns/net`.
    pub fn open(path: &Path) -> Result<Self, NsError> {
        let file =
            std::fs::File::open(path).map_err(|source| NsError::Open { path: path.display().to_string(), source })?;
        Ok(Self { fd: file.into() })
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, NsError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Inode number on nsfs: the identity of the namespace as long as it lives.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(nix::sys::stat::fstat(&self.fd)?.st_ino)
    }

    /// Pin it at `path` once more, when what pinned it was taken away.
    pub fn pin(&self, path: &Path) -> Result<(), NsError> {
        let pin = |source: io::Error| NsError::Pin { path: path.display().to_string(), source };
        std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(pin)?;
        let held = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let flags = nix::mount::MsFlags::MS_BIND;
        nix::mount::mount(Some(held.as_str()), path, None::<&str>, flags, None::<&str>).map_err(|e| pin(e.into()))
    }

    /// Run `work` on a thread of its own inside the namespace and wait for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NsError> {
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("netns".into())
                .spawn_scoped(scope, || {
                    setns(&self.fd, CloneFlags::CLONE_NEWNET).map_err(|e| NsError::Enter(e.into()))?;
                    Ok(work())
                })
                .map_err(NsError::Thread)?
                .join()
                .map_err(|_| NsError::Thread(io::Error::other("the thread panicked")))?
        })
    }

    /// A netlink socket that lives in the namespace.
    pub fn netlink(&self) -> Result<Netlink, NsError> {
        self.run(Netlink::open)?.map_err(NsError::Netlink)
    }

    /// Make a namespace without IPv6 on its devices and pin it at `path`, which must be an empty file or absent.
    pub fn create_pinned(path: &Path) -> Result<Self, NsError> {
        let pin = |source: io::Error| NsError::Pin { path: path.display().to_string(), source };
        std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(pin)?;
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("netns-new".into())
                .spawn_scoped(scope, || {
                    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| NsError::Enter(e.into()))?;
                    // Host-side IPv6 (link-local addresses, DAD, route lists) is what makes creating devices slower
                    // with their number; a kernel without IPv6 has no such file, which is as good.
                    for name in ["all", "default"] {
                        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
                    }
                    nix::mount::mount(
                        Some("/proc/thread-self/ns/net"),
                        path,
                        None::<&str>,
                        nix::mount::MsFlags::MS_BIND,
                        None::<&str>,
                    )
                    .map_err(|e| pin(e.into()))?;
                    Self::current()
                })
                .map_err(NsError::Thread)?
                .join()
                .map_err(|_| NsError::Thread(io::Error::other("the thread panicked")))?
        })
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// How long a visit may take, the wait for the one before it included: several times the longest that is begun there.
const VISIT: Duration = Duration::from_secs(20);

/// One thread that goes into tenants' stacks, one after the other, and does nothing else. Between two visits it is at
/// home: a thread that stayed would keep a removed tenant's stack alive. Nothing is held open for a stack that nobody
/// visits. When a visit takes too long (who administers a stack can make the kernel search it for long) a new thread does
/// what comes next, and the old one ends with its visit.
#[derive(Debug)]
pub struct Visitor {
    home: Arc<File>,
    at_work: Mutex<AtWork>,
    patience: Duration,
}

/// The thread that takes jobs now.
#[derive(Debug)]
struct AtWork {
    jobs: mpsc::Sender<Job>,
    /// How many there were before it.
    number: u64,
}

impl Visitor {
    /// Starts the thread in the caller's network namespace, which is its home.
    ///
    /// # Errors
    /// No thread.
    pub fn start() -> Result<Self, NsError> {
        let path = "/proc/thread-self/ns/net";
        let home = File::open(path).map_err(|source| NsError::Open { path: path.into(), source })?;
        let home = Arc::new(home);
        let jobs = begin(home.clone())?;
        Ok(Self { home, at_work: Mutex::new(AtWork { jobs, number: 0 }), patience: VISIT })
    }

    /// Runs `work` in the stack of a process, which is named by its pidfd (setns(2), Linux 5.8).
    ///
    /// # Errors
    /// The process has ended, or the thread has.
    pub async fn visit<T: Send + 'static>(
        &self,
        process: Arc<OwnedFd>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NsError> {
        self.run(move || {
            enter(process.as_fd())?;
            Ok(work())
        })
        .await?
    }

    /// Runs `work` on the thread, which may go into a stack by [`enter`] and comes home afterwards.
    ///
    /// # Errors
    /// The thread has ended.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, NsError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let job = Box::new(move || {
            let _ = reply.send(work());
        });
        let number = {
            let at_work = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
            at_work.jobs.send(job).map_err(|_| NsError::Gone)?;
            at_work.number
        };
        match tokio::time::timeout(self.patience, answer).await {
            Ok(answer) => answer.map_err(|_| NsError::Gone),
            Err(_late) => {
                self.replace(number)?;
                Err(NsError::Slow(self.patience))
            }
        }
    }

    /// Another thread in the place of this one; the first one to complain of it does so.
    fn replace(&self, number: u64) -> Result<(), NsError> {
        let mut at_work = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        if at_work.number == number {
            tracing::warn!(after = ?self.patience, "a visit to a network namespace does not end: the others go on without it");
            *at_work = AtWork { jobs: begin(self.home.clone())?, number: number + 1 };
        }
        Ok(())
    }
}

/// A thread that does one job after the other, until nobody can have any more for it.
fn begin(home: Arc<File>) -> Result<mpsc::Sender<Job>, NsError> {
    let (jobs, inbox) = mpsc::channel::<Job>();
    let work = move || {
        // It may have been begun from any thread.
        let go_home = || setns(&*home, CloneFlags::CLONE_NEWNET).is_ok();
        // Only for want of memory, which comes back.
        while !go_home() {
            std::thread::sleep(Duration::from_millis(10));
        }
        for job in inbox {
            job();
            while !go_home() {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    };
    std::thread::Builder::new().name("stacks".into()).spawn(work).map_err(NsError::Thread)?;
    Ok(jobs)
}

/// Moves the calling thread into a network namespace: of nsfs, or of the process that a pidfd stands for. For threads
/// that have nothing else to do.
///
/// # Errors
/// [`NsError::Enter`], with `ESRCH` when the process has ended.
pub fn enter(namespace: BorrowedFd<'_>) -> Result<(), NsError> {
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|e| NsError::Enter(e.into()))
}

/// True when `path` is a mount of nsfs, that is, a pinned namespace.
pub fn is_pinned(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[tokio::test]
    async fn a_visit_that_does_not_end_holds_up_nobody_else() {
        assert!(nix::unistd::geteuid().is_root(), "only root may enter a namespace");
        let mut visitor = Visitor { patience: Duration::from_millis(200), ..Visitor::start().unwrap() };
        let (release, held) = mpsc::channel::<()>();
        let stuck = visitor.run(move || held.recv().is_err()).await;
        assert!(matches!(stuck, Err(NsError::Slow(_))), "{stuck:?}");
        // Held up it would be for ever.
        visitor.patience = Duration::from_secs(30);
        assert_eq!(visitor.run(|| 7).await.unwrap(), 7);
        drop(release);
    }
}
