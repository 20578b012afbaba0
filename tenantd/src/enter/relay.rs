//! The bytes between the operator and a program of the tenant: one thread, one poll, nothing written that could block,
//! until the program has ended and what it left in its pipes is out.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, killpg, pthread_sigmask, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, read, write};

use super::terminal::{Raw, copy_size};
use super::{EnterError, Entered, here};

/// Read at once.
const PIECE: usize = 64 * 1024;
/// Written at once into what may block: as much as a pipe takes whole when it takes anything (PIPE_BUF).
const SMALL: usize = 4096;
/// How long a program may take to end when its terminal is gone.
const GRACE: Duration = Duration::from_secs(2);
/// Typed three times within a second, breaks off: Ctrl-].
const BREAK: u8 = 0x1d;

/// Signals for us, meant for the program.
const WATCHED: [Signal; 8] = [
    Signal::SIGCHLD,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGWINCH,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

/// Our signals as a descriptor; dropping it gives them their old way.
pub(super) struct Signals {
    fd: SignalFd,
    before: SigSet,
}

impl Signals {
    pub(super) fn block() -> Result<Self, EnterError> {
        let watched: SigSet = WATCHED.into_iter().collect();
        let mut before = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&watched), Some(&mut before)).map_err(here("block signals"))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let fd = SignalFd::with_flags(&watched, flags).map_err(here("watch signals"))?;
        Ok(Self { fd, before })
    }

    fn next(&self) -> Option<Signal> {
        let info = self.fd.read_signal().ok().flatten()?;
        i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok())
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        while self.next().is_some() {}
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

/// Ends a child that nobody needs any more.
pub(super) fn end(child: Pid) {
    let _ = kill(child, Signal::SIGKILL);
    while waitpid(child, None) == Err(Errno::EINTR) {}
}

/// Its exit code, once it has ended.
pub(super) fn ended(child: Pid) -> Result<Option<u8>, EnterError> {
    match waitpid(child, Some(WaitPidFlag::WNOHANG)).map_err(here("wait for the command"))? {
        WaitStatus::Exited(_, code) => Ok(Some(u8::try_from(code & 0xff).unwrap_or(u8::MAX))),
        WaitStatus::Signaled(_, signal, _) => Ok(Some(128 + signal as u8)),
        _ => Ok(None),
    }
}

/// One side of a flow.
enum End {
    /// One of our first three descriptors.
    Ours(BorrowedFd<'static>),
    /// Of a pipe or terminal of the tenant; dropping it closes it, which the command sees.
    Theirs(OwnedFd),
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            End::Ours(fd) => *fd,
            End::Theirs(fd) => fd.as_fd(),
        }
    }
}

fn ours(number: i32) -> BorrowedFd<'static> {
    // SAFETY: every Rust program has descriptors 0 to 2 when main begins, and nothing here closes them.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Bytes from one descriptor to another. A side is gone when it is none.
struct Flow {
    from: Option<End>,
    to: Option<End>,
    waiting: VecDeque<u8>,
    /// Largest write.
    most: usize,
    /// Why writing failed, when not because nobody reads.
    failed: Option<Errno>,
    /// How much was read last and not looked at yet.
    fresh: usize,
}

impl Flow {
    fn new(from: End, to: End) -> Self {
        let regular = |kind| kind & libc::S_IFMT == libc::S_IFREG;
        let regular = nix::sys::stat::fstat(&to).is_ok_and(|found| regular(found.st_mode));
        let most = if regular { PIECE } else { SMALL };
        Self { from: Some(from), to: Some(to), waiting: VecDeque::new(), most, failed: None, fresh: 0 }
    }

    /// What it waits for now.
    fn interest(&self) -> Option<PollFd<'_>> {
        match (self.waiting.is_empty(), &self.from, &self.to) {
            (true, Some(from), Some(_)) => Some(PollFd::new(from.as_fd(), PollFlags::POLLIN)),
            (false, _, Some(to)) => Some(PollFd::new(to.as_fd(), PollFlags::POLLOUT)),
            _ => None,
        }
    }

    /// Does what it waited for.
    fn go(&mut self) {
        if self.waiting.is_empty() { self.fill() } else { self.flush() }
    }

    fn fill(&mut self) {
        let Some(from) = &self.from else { return };
        let mut piece = vec![0; PIECE];
        match read(from, &mut piece) {
            Ok(n) if n > 0 => {
                self.waiting.extend(&piece[..n]);
                self.fresh = n;
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // The end; of a pseudo terminal whose other side is closed: EIO.
            _ => self.from = None,
        }
    }

    fn flush(&mut self) {
        let Some(to) = &self.to else { return };
        let (first, _) = self.waiting.as_slices();
        match write(to, &first[..first.len().min(self.most)]) {
            Ok(n) => drop(self.waiting.drain(..n)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => {
                self.failed = Some(errno).filter(|errno| !matches!(errno, Errno::EPIPE | Errno::EIO));
                self.break_off();
            }
        }
    }

    /// Nobody reads: whoever writes shall know.
    fn break_off(&mut self) {
        (self.from, self.to) = (None, None);
        self.waiting.clear();
    }

    /// Nothing more comes, and what came is out.
    fn finished(&self) -> bool {
        self.waiting.is_empty() && self.from.is_none()
    }

    /// Brings out what is there already, when no more will come.
    fn drain(&mut self) {
        loop {
            if self.waiting.is_empty() {
                self.fill();
            }
            if self.waiting.is_empty() {
                return;
            }
            if let Some(interest) = self.interest() {
                let _ = poll(&mut [interest], PollTimeout::NONE);
            }
            self.flush();
        }
    }
}

/// Waits until a flow can go on or a signal has come, `until` at the longest, and lets the flows go on.
fn wait(flows: &mut [&mut Flow], signals: &Signals, until: Option<Instant>) -> Result<(), EnterError> {
    let mut fds = vec![PollFd::new(signals.fd.as_fd(), PollFlags::POLLIN)];
    let mut whose = Vec::new();
    for (index, flow) in flows.iter().enumerate() {
        if let Some(interest) = flow.interest() {
            fds.push(interest);
            whose.push(index);
        }
    }
    let left = until.map(|until| until.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
    let timeout = left.and_then(|left| PollTimeout::try_from(left).ok()).unwrap_or(PollTimeout::NONE);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(here("wait for the command")(errno)),
    }
    let happened = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
    let ready: Vec<usize> =
        whose.into_iter().zip(&fds[1..]).filter(|(_, fd)| happened(fd)).map(|(index, _)| index).collect();
    drop(fds);
    for index in ready {
        flows[index].go();
    }
    Ok(())
}

fn unblocking(fd: &OwnedFd) -> Result<(), EnterError> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(here("prepare a pipe"))?;
    Ok(())
}

/// Takes the ends that the child made; without them there is nothing to wait for.
fn take<const N: usize>(entered: Entered) -> Result<(Pid, [OwnedFd; N]), EnterError> {
    let child = entered.child;
    let ends = <[OwnedFd; N]>::try_from(entered.ends).ok().filter(|ends| ends.iter().all(|fd| unblocking(fd).is_ok()));
    match ends {
        Some(ends) => Ok((child, ends)),
        None => {
            end(child);
            Err(here("prepare pipes")(io::Error::from(io::ErrorKind::UnexpectedEof)))
        }
    }
}

/// Copies standard input, output and errors through pipes until the command has ended. Signals for us are handed on to
/// it; a child that it leaves behind is not waited for.
pub(super) fn pipes(entered: Entered, signals: Signals) -> Result<u8, EnterError> {
    let (child, [feed, out, err]) = take(entered)?;
    let mut input = Flow::new(End::Ours(ours(0)), End::Theirs(feed));
    let mut output = Flow::new(End::Theirs(out), End::Ours(ours(1)));
    let mut errors = Flow::new(End::Theirs(err), End::Ours(ours(2)));
    let code = loop {
        wait(&mut [&mut input, &mut output, &mut errors], &signals, None).inspect_err(|_| end(child))?;
        if input.finished() {
            input.break_off();
        }
        while let Some(signal) = signals.next() {
            match signal {
                Signal::SIGCHLD => {}
                Signal::SIGTSTP => {
                    let _ = killpg(child, Signal::SIGSTOP);
                    let _ = raise(Signal::SIGSTOP);
                    let _ = killpg(child, Signal::SIGCONT);
                }
                // The session is its own process group; gone already is no error.
                signal => drop(killpg(child, signal)),
            }
        }
        if let Some(code) = ended(child)? {
            break code;
        }
    };
    output.drain();
    errors.drain();
    match output.failed.or(errors.failed) {
        Some(errno) => Err(here("write what the command says")(errno)),
        None => Ok(code),
    }
}

/// Shows a terminal of the tenant in ours until the command has ended. A signal that would end us hangs up.
pub(super) fn terminal(entered: Entered, signals: Signals) -> Result<u8, EnterError> {
    let (child, [near]) = take(entered)?;
    let started = near.try_clone().and_then(|copy| {
        // The size before anything else: the program may ask for it at once.
        let size = near.try_clone()?;
        copy_size(shown(), size.as_fd())?;
        Ok((copy, size, Raw::enter(ours(0))?))
    });
    let (copy, size, mut raw) = started.map_err(here("use the terminal")).inspect_err(|_| end(child))?;
    let mut keys = Keys { flow: Flow::new(End::Ours(ours(0)), End::Theirs(copy)), last: b'\n', breaks: Vec::new() };
    let mut screen = Flow::new(End::Theirs(near), End::Ours(ours(1)));
    let mut size = Some(size);
    let mut hung_up: Option<(Signal, Instant)> = None;
    let code = loop {
        let until = hung_up.map(|(_, since)| since + GRACE);
        wait(&mut [&mut keys.flow, &mut screen], &signals, until).inspect_err(|_| end(child))?;
        let mut ending = keys.look(raw.is_some());
        // Nobody sees it any more.
        ending = ending.or((screen.to.is_none() && hung_up.is_none()).then_some(Signal::SIGPIPE));
        while let Some(signal) = signals.next() {
            match (signal, &size) {
                (Signal::SIGCHLD, _) => {}
                (Signal::SIGWINCH, Some(size)) => drop(copy_size(shown(), size.as_fd())),
                (Signal::SIGWINCH, None) => {}
                (Signal::SIGTSTP, _) => {
                    drop(raw.take());
                    let _ = raise(Signal::SIGSTOP);
                    raw = Raw::enter(ours(0)).ok().flatten();
                }
                (Signal::SIGCONT, _) => drop(raw.as_ref().map(Raw::again)),
                (signal, _) => ending = Some(signal),
            }
        }
        if let (Some(signal), None) = (ending, hung_up) {
            // Our side of its terminal goes, and the kernel tells its session by SIGHUP.
            keys.flow.break_off();
            screen.break_off();
            size = None;
            hung_up = Some((signal, Instant::now()));
        }
        match (ended(child)?, hung_up) {
            (Some(_), Some((signal, _))) => break 128 + signal as u8,
            (Some(code), None) => break code,
            (None, Some((signal, since))) if since.elapsed() > GRACE => {
                end(child);
                break 128 + signal as u8;
            }
            _ => {}
        }
    };
    screen.drain();
    drop(raw);
    Ok(code)
}

/// The descriptor that may be the operator's terminal: its size is shown.
fn shown() -> BorrowedFd<'static> {
    [0, 1, 2].map(ours).into_iter().find(|fd| nix::unistd::isatty(fd) == Ok(true)).unwrap_or(ours(0))
}

/// What is typed.
struct Keys {
    flow: Flow,
    /// The last byte before the end of the input.
    last: u8,
    /// When the operator asked to break off.
    breaks: Vec<Instant>,
}

/// Ctrl-D: the end of a terminal's input.
const END_OF_INPUT: u8 = 4;

impl Keys {
    /// Looks at what was read: the wish to break off, and the end of an input that is no terminal.
    fn look(&mut self, is_terminal: bool) -> Option<Signal> {
        // Read into an empty queue, so all of it is new.
        if std::mem::take(&mut self.flow.fresh) > 0 && is_terminal {
            let now = Instant::now();
            self.breaks.retain(|at| now.duration_since(*at) < Duration::from_secs(1));
            self.breaks.extend(self.flow.waiting.iter().filter(|byte| **byte == BREAK).map(|_| now));
            if self.breaks.len() >= 3 {
                return Some(Signal::SIGHUP);
            }
        }
        self.last = self.flow.waiting.back().copied().unwrap_or(self.last);
        if self.flow.from.is_none() && self.flow.to.is_some() && self.last != 0 {
            // In the middle of a line the first one only sends what is typed so far.
            let times = if self.last == b'\n' { 1 } else { 2 };
            self.flow.waiting.extend(std::iter::repeat_n(END_OF_INPUT, times));
            self.last = 0;
        }
        None
    }
}
