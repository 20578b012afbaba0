//! Entering network namespaces. A namespace is always named by an open file descriptor, never by a path that may have
//! come to mean another one; a thread that entered one never serves anything else afterwards.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, mpsc};
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

/// One thread that goes into tenants' stacks, one after the other, and does nothing else. Between two visits it is at
/// home: a thread that stayed would keep a removed tenant's stack alive. Nothing is held open for a stack that nobody
/// visits.
#[derive(Debug)]
pub struct Visitor {
    jobs: mpsc::Sender<Job>,
}

impl Visitor {
    /// Starts the thread in the caller's network namespace, which is its home.
    ///
    /// # Errors
    /// No thread.
    pub fn start() -> Result<Self, NsError> {
        let path = "/proc/thread-self/ns/net";
        let home = File::open(path).map_err(|source| NsError::Open { path: path.into(), source })?;
        let (jobs, inbox) = mpsc::channel::<Job>();
        let work = move || {
            for job in inbox {
                job();
                // Only for want of memory, which comes back.
                while setns(&home, CloneFlags::CLONE_NEWNET).is_err() {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        };
        std::thread::Builder::new().name("stacks".into()).spawn(work).map_err(NsError::Thread)?;
        Ok(Self { jobs })
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
        self.jobs.send(job).map_err(|_| NsError::Gone)?;
        answer.await.map_err(|_| NsError::Gone)
    }
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
