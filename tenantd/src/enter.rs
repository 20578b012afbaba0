//! Entering a tenant from outside: the way of `exec`, `shell` and `cp`.
//!
//! In: the daemon's word for init's process id and for the inode of its network namespace, which prove each other, and
//! what shall be done. Out: a process of the tenant that has what a service has and nothing of ours: its root (or a
//! user of its own), its bounding set, its system call filter, its cgroups and limits; no descriptor, no terminal, no
//! environment and no keyring of the operator. What it reads and writes goes through pipes or a pseudo terminal of the
//! tenant that it makes itself, and we copy.
//!
//! We stay where we are: only a child enters. It is not dumpable until it becomes a program of the tenant, so nobody in
//! the tenant traces it or reads its files in /proc.
//!
//! Rooms: [`copy`] files in and out; `child` the straight list of the one who enters; `hold` taking hold of init;
//! `people` the tenant's passwd and group; `relay` the bytes; `terminal` the operator's terminal.

mod child;
pub mod copy;
mod hold;
mod people;
mod relay;
pub(crate) mod terminal;

use std::ffi::{CString, NulError};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::unistd::{ForkResult, Pid, Uid, fork};
use stackmap::TenantName;

pub use hold::Hold;

/// Whom to enter, as the daemon says.
#[derive(Debug, Clone)]
pub struct Target {
    /// The tenant.
    pub name: TenantName,
    /// Process id of its init.
    pub pid: i32,
    /// Inode number of its network namespace.
    pub netns: u64,
}

/// What is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// The user's shell, as a login.
    Login,
    /// A program and its arguments; searched in the tenant's directories.
    Command(Vec<String>),
}

/// What is to be done in the tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Name or number in the tenant's passwd; its root when none.
    pub user: Option<String>,
    /// What to run.
    pub program: Program,
    /// True for a pseudo terminal, false for three pipes.
    pub tty: bool,
}

/// Why a tenant could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// Entering namespaces needs root.
    #[error("must be root (uid 0) to enter a tenant; this is uid {0}")]
    NotRoot(Uid),
    /// What belongs to init could not be read or opened.
    #[error("cannot open {what} of process {pid}, the init of tenant {name}")]
    Open {
        /// The tenant.
        name: TenantName,
        /// A file of /proc, or `pidfd`.
        what: &'static str,
        /// Process id of init.
        pid: i32,
        /// Why.
        source: io::Error,
    },
    /// The process is not the tenant's init any more.
    #[error("process {pid} is not the init of tenant {name}: {found}, expected {expected}")]
    Mistaken {
        /// The tenant.
        name: TenantName,
        /// Process id the daemon told.
        pid: i32,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// Init has not finished the tenant's house.
    #[error("tenant {0} is still being made, or its init could not finish; see: tenantd status {0}")]
    Unfinished(TenantName),
    /// A cgroup of the tenant cannot be joined.
    #[error("cannot join the tenant's cgroup {path}")]
    Cgroup {
        /// Its `cgroup.procs`, or the hierarchy.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// An argument has a NUL byte.
    #[error("a command must not contain a NUL byte")]
    Nul(#[from] NulError),
    /// A step on our side.
    #[error("cannot {step}")]
    Here {
        /// What was tried.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Files could not be copied.
    #[error(transparent)]
    Copy(#[from] copy::CopyError),
    /// A step of the child that enters.
    #[error("cannot enter tenant {name}: {step}")]
    There {
        /// The tenant.
        name: TenantName,
        /// What was tried, and why it failed.
        step: String,
    },
}

pub(crate) fn here<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> EnterError {
    move |source| EnterError::Here { step, source: source.into() }
}

/// Runs a program in the tenant with our standard input, output and errors copied, and returns its exit code: 127 when
/// it is not found, 126 when it cannot be executed, 128 and the number of a signal that ended it.
///
/// The calling process must have one thread.
///
/// # Errors
/// [`EnterError`], when it came to no program.
pub fn run(hold: &Hold, order: &Order) -> Result<u8, EnterError> {
    let program = match &order.program {
        Program::Login => None,
        Program::Command(words) => {
            Some(words.iter().map(|word| CString::new(word.as_str())).collect::<Result<Vec<_>, _>>()?)
        }
    };
    // Before the fork: what comes meanwhile waits.
    let signals = relay::Signals::block()?;
    let entered = enter(hold, order.user.as_deref(), |entry| {
        let channel = if order.tty { entry.terminal()? } else { entry.pipes()? };
        Ok(Box::new(move || channel.execute(program)))
    })?;
    if order.tty { relay::terminal(entered, signals) } else { relay::pipes(entered, signals) }
}

/// Somebody of ours in the tenant.
pub(crate) struct Entered {
    /// The child, ours to wait for.
    pub(crate) child: Pid,
    /// Our ends of what it made.
    pub(crate) ends: Vec<OwnedFd>,
}

/// The last thing a child does; returns its exit code if it returns.
type Work<'w> = Box<dyn FnOnce() -> i32 + 'w>;

/// An error with its causes, in one line.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// Makes a child that enters the tenant, becomes its user, prepares what it needs (whose far ends are handed to us) and
/// then does its work.
fn enter<'w>(
    hold: &Hold,
    user: Option<&str>,
    prepare: impl FnOnce(&mut child::Entry<'_>) -> Result<Work<'w>, child::Failed>,
) -> Result<Entered, EnterError> {
    let (ours, theirs) = UnixDatagram::pair().map_err(here("make a socket pair"))?;
    let everything = SigSet::all();
    let mut before = SigSet::empty();
    // Read before another pid namespace is chosen for children.
    let own = std::fs::File::open("/proc/self/ns/pid").map_err(here("open our pid namespace"))?;
    // Nobody in the tenant looks into a copy of us.
    nix::sys::prctl::set_dumpable(false).map_err(here("forbid tracing"))?;
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&everything), Some(&mut before)).map_err(here("block signals"))?;
    setns(&hold.pidfd, CloneFlags::CLONE_NEWPID).map_err(here("choose the tenant's pid namespace"))?;
    // SAFETY: this process has one thread (see `run`), so the child may allocate.
    let forked = unsafe { fork() };
    if let Ok(ForkResult::Child) = forked {
        drop(ours);
        // Whatever happens, a panic too: nothing of the parent's image is unwound or flushed here.
        let life = AssertUnwindSafe(|| live(child::Entry::new(hold), user, prepare, theirs));
        let code = catch_unwind(life).unwrap_or(126);
        // SAFETY: runs no destructor and no exit handler of the parent's image.
        unsafe { libc::_exit(code) }
    }
    let back = setns(&own, CloneFlags::CLONE_NEWPID);
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None).map_err(here("restore signals"))?;
    let child = match forked.map_err(here("fork"))? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => unreachable!("the child does not come here"),
    };
    drop(theirs);
    let end = |error| {
        relay::end(child);
        error
    };
    back.map_err(here("go back to our pid namespace")).map_err(end)?;
    match hear(&ours) {
        Ok((text, ends)) if text.is_empty() => Ok(Entered { child, ends }),
        Ok((step, _)) => Err(end(EnterError::There { name: hold.name.clone(), step })),
        Err(source) => Err(end(EnterError::Here { step: "hear from the child that enters", source })),
    }
}

/// The child's life; returns its exit code.
fn live<'w>(
    entry: child::Entry<'_>,
    user: Option<&str>,
    prepare: impl FnOnce(&mut child::Entry<'_>) -> Result<Work<'w>, child::Failed>,
    parent: UnixDatagram,
) -> i32 {
    let mut entry = entry;
    match entry.go(user).and_then(|()| prepare(&mut entry)) {
        Ok(work) => match tell(&parent, "", &entry.far_ends()) {
            Ok(()) => {
                drop(parent);
                entry.close_far_ends();
                work()
            }
            Err(_) => 126,
        },
        Err(failed) => {
            let _ = tell(&parent, &failed.to_string(), &[]);
            126
        }
    }
}

/// At most this many descriptors in one message.
const ENDS: usize = 3;

/// Sends words and descriptors.
fn tell(socket: &UnixDatagram, text: &str, ends: &[RawFd]) -> io::Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let text = [text.as_bytes(), b"."].concat();
    let rights = [ControlMessage::ScmRights(ends)];
    let rights = if ends.is_empty() { &[] as &[_] } else { &rights };
    sendmsg::<()>(socket.as_raw_fd(), &[io::IoSlice::new(&text)], rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives words and descriptors; an end without words is an error.
fn hear(socket: &UnixDatagram) -> io::Result<(String, Vec<OwnedFd>)> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut text = [0_u8; 4096];
    let mut buffer = [io::IoSliceMut::new(&mut text)];
    let mut space = nix::cmsg_space!([RawFd; ENDS]);
    let (length, ends) = loop {
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(socket.as_raw_fd(), &mut buffer, Some(&mut space), flags) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let mut ends = Vec::new();
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = part {
                // SAFETY: the kernel just gave us these descriptors.
                ends.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        break (message.bytes, ends);
    };
    match text[..length].split_last() {
        Some((b'.', words)) => Ok((String::from_utf8_lossy(words).into_owned(), ends)),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
