//! Process 1 of a tenant. Started by the daemon in new namespaces, it makes the tenant's house ([`setup`]), gives up
//! its privileges, and then waits: for requests ([`server`]), for ends of processes, for the pause of a service that
//! has to be started again ([`supervisor`]). It has one thread, no timer that runs without need, and ends only when
//! it is told to (SIGTERM stops the services in good order) or killed (the kernel then ends the whole tenant).
//!
//! `tenant-init NAME --control-fd=N --house-fd=N`; not meant to be started by hand.

mod check;
mod files;
mod logs;
mod machine;
mod members;
mod ports;
mod server;
mod setup;
mod spawn;
mod supervisor;
mod users;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use tenant_init::house::HouseSpec;
use tenant_init::protocol::{Hello, MAX_MESSAGE, Refusal, RefusalKind, Reply, Request};

use crate::logs::Logs;
use crate::machine::{Leaving, Machine};
use crate::server::{Incoming, Server};
use crate::supervisor::{Notice, Supervisor, System, Then, Waiter};

/// What the daemon says on the command line.
struct Arguments {
    house: HouseSpec,
    control: OwnedFd,
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(wrong) => {
            eprintln!("tenant-init: {wrong}; it is started by tenantd, not by hand");
            return ExitCode::from(2);
        }
    };
    match Init::new(arguments).and_then(Init::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tenant-init: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments, String> {
    let mut words = std::env::args().skip(1);
    let _name = words.next().ok_or("the tenant's name is missing")?;
    let (mut control, mut house) = (None, None);
    for word in words {
        match word.split_once('=') {
            Some(("--control-fd", number)) => control = number.parse::<i32>().ok(),
            Some(("--house-fd", number)) => house = number.parse::<i32>().ok(),
            _ => return Err(format!("unknown argument {word:?}")),
        }
    }
    // Killing process 1 of the host's own namespace, or making mounts in it, must not be one typing error away.
    if std::process::id() != 1 {
        return Err("not process 1 of a pid namespace".to_owned());
    }
    let control = inherited("--control-fd", control)?;
    let house = File::from(inherited("--house-fd", house)?);
    let house = serde_json::from_reader(io::BufReader::new(&house)).map_err(|error| format!("--house-fd: {error}"))?;
    Ok(Arguments { house, control })
}

/// A descriptor that the daemon left to us.
fn inherited(name: &str, number: Option<i32>) -> Result<OwnedFd, String> {
    let fd = number.filter(|fd| *fd > 2).ok_or_else(|| format!("{name} is missing"))?;
    nix::fcntl::fcntl(
        // SAFETY: only used for this call, which fails when the descriptor is not open.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) },
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )
    .map_err(|error| format!("{name} {fd}: {error}"))?;
    // SAFETY: the daemon passed this descriptor to us and nobody else in this process uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What an answer needs beside the services it lists, in bytes.
const ROOM: usize = 1024;

/// What happened while init slept.
#[derive(Default)]
struct Woken {
    signalled: bool,
    calling: bool,
    /// Connections with a message.
    speaking: Vec<u64>,
    /// Services with something for their logs.
    written: Vec<String>,
}

/// Everything init knows.
struct Init {
    name: String,
    ids: u32,
    netns: u64,
    failed: Option<String>,
    signals: SignalFd,
    server: Server,
    supervisor: Supervisor,
    system: Machine,
    ending: bool,
    leaving: Vec<Leaving>,
}

impl Init {
    fn new(arguments: Arguments) -> io::Result<Init> {
        let Arguments { house, control } = arguments;
        let mut wanted = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM] {
            wanted.add(signal);
        }
        wanted.thread_set_mask()?;
        let signals = SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        // A failed set-up is told to whoever asks: the daemon decides what becomes of the tenant.
        let (held, failed) = match setup::set_up(&house) {
            Ok(held) => (Some(held), None),
            Err(error) => {
                eprintln!("tenant-init: {error}");
                (None, Some(error.to_string()))
            }
        };
        Ok(Init {
            name: house.name,
            ids: house.ids,
            netns: held.as_ref().map_or(0, |held| held.netns),
            failed,
            signals,
            server: Server::new(control)?,
            supervisor: Supervisor::default(),
            system: Machine::new(Logs::new(held.map(|held| held.logs))),
            ending: false,
            leaving: Vec::new(),
        })
    }

    fn run(mut self) -> io::Result<()> {
        while !(self.ending && self.supervisor.all_ended()) {
            let woken = self.wait();
            for service in woken.written {
                self.system.logs.read(&service);
            }
            if woken.signalled {
                self.read_signals();
                self.reap();
            }
            self.let_go();
            if woken.calling {
                self.server.accept();
            }
            for connection in woken.speaking {
                self.listen_to(connection);
            }
            // Last, because whatever happened above may have made something due.
            self.supervisor.tick(Instant::now(), &mut self.system);
            for notice in self.supervisor.notices() {
                match notice {
                    Notice::Answer(waiter, reply) => self.server.answer(waiter.connection, waiter.request, reply),
                    Notice::Event(event) => self.server.publish(event),
                }
            }
            self.system.logs.close(|name| self.supervisor.is_live(name));
        }
        Ok(())
    }

    /// Sleeps until something happens.
    fn wait(&self) -> Woken {
        let due = self.leaving.iter().map(|service| service.next_look).chain(self.supervisor.next_due()).min();
        // Not poll(2), which waits for whole milliseconds: a service that is starting is looked at more often.
        let timeout = due.map(|due| TimeSpec::from_duration(due.saturating_duration_since(Instant::now())));
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.server.listener(), PollFlags::POLLIN),
        ];
        let clients = fds.len()..fds.len() + self.server.connections().count();
        fds.extend(self.server.connections().map(|(_, fd)| PollFd::new(fd, PollFlags::POLLIN)));
        fds.extend(self.system.logs.readers().map(|(_, fd)| PollFd::new(fd, PollFlags::POLLIN)));
        match ppoll(&mut fds, timeout, None) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Woken { signalled: true, ..Woken::default() },
            Err(_) => {
                // Out of memory is the only cause left; process 1 waits for better times instead of ending.
                std::thread::sleep(Duration::from_millis(100));
                let speaking = self.server.connections().map(|(id, _)| id).collect();
                return Woken { signalled: true, calling: true, speaking, written: Vec::new() };
            }
        }
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let speaking = self.server.connections().zip(&fds[clients.clone()]).filter(|(_, fd)| ready(fd));
        let written = self.system.logs.readers().zip(&fds[clients.end..]).filter(|(_, fd)| ready(fd));
        Woken {
            signalled: ready(&fds[0]),
            calling: ready(&fds[1]),
            speaking: speaking.map(|((id, _), _)| id).collect(),
            written: written.map(|((name, _), _)| name.to_owned()).collect(),
        }
    }

    fn read_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == Signal::SIGTERM as u32 && !self.ending {
                self.ending = true;
                self.supervisor.stop_all(Instant::now(), &mut self.system);
            }
        }
    }

    /// Takes every process that ended: services and the orphans that the kernel gives to process 1.
    fn reap(&mut self) {
        while let Some(pid) = ended_child() {
            let leads = self.supervisor.leads(pid);
            if leads {
                // What is left of the service would keep its ports. The group before the reaping, while nobody else
                // can have the number.
                self.system.signal_group(pid, libc::SIGKILL);
            }
            let exit = take_child(pid);
            if leads {
                self.leaving.push(self.system.leave(pid, exit, Instant::now()));
            }
        }
    }

    /// Tells the supervisor of services that are gone with all their processes.
    fn let_go(&mut self) {
        for mut service in std::mem::take(&mut self.leaving) {
            let now = Instant::now();
            if service.is_gone(now) {
                self.supervisor.ended(service.leader, &service.exit, now, &mut self.system);
            } else {
                self.leaving.push(service);
            }
        }
    }

    fn listen_to(&mut self, connection: u64) {
        match self.server.read(connection) {
            Incoming::Nothing => {}
            Incoming::Gone => self.server.drop_connection(connection),
            Incoming::Bad(id, refusal) => self.server.answer(connection, id, Reply::Error(refusal)),
            Incoming::Request(id, request) => {
                if let Some(reply) = self.execute(request, Waiter { connection, request: id }) {
                    self.server.answer(connection, id, reply);
                }
            }
        }
    }

    /// One request; none when the answer comes later.
    fn execute(&mut self, request: Request, waiter: Waiter) -> Option<Reply> {
        let now = Instant::now();
        let grace = |milliseconds| Some(Duration::from_millis(milliseconds));
        match request {
            Request::Hello => Some(Reply::Hello(self.hello())),
            Request::List { after } => Some(self.list(after.as_deref())),
            Request::Signal { name, signal } => {
                let done = self.supervisor.signal(&name, signal, &mut self.system);
                Some(done.map_or_else(Reply::Error, |()| Reply::Done))
            }
            Request::Tail { name, lines } => Some(match self.supervisor.knows(&name) {
                true => Reply::Lines { lines: self.system.logs.tail(&name, lines) },
                false => Reply::Error(Refusal::new(RefusalKind::Unknown, "service", &name, "no service of this name")),
            }),
            Request::Processes => Some(Reply::Processes { count: processes() }),
            Request::Subscribe => {
                self.server.subscribe(waiter.connection);
                Some(Reply::Done)
            }
            Request::Start { service } => match self.may_start() {
                Ok(()) => self.supervisor.start(*service, waiter, now, &mut self.system),
                Err(refusal) => Some(Reply::Error(refusal)),
            },
            Request::Stop { name, timeout_ms } => {
                self.supervisor.stop(&name, (Then::Stay, grace(timeout_ms)), waiter, now, &mut self.system)
            }
            Request::Remove { name, timeout_ms } => {
                self.supervisor.stop(&name, (Then::Forget, grace(timeout_ms)), waiter, now, &mut self.system)
            }
            Request::Restart { name, timeout_ms } => match self.may_start() {
                Ok(()) => {
                    self.supervisor.stop(&name, (Then::StartAgain, grace(timeout_ms)), waiter, now, &mut self.system)
                }
                Err(refusal) => Some(Reply::Error(refusal)),
            },
        }
    }

    /// As many services as one message takes; one always fits.
    fn list(&self, after: Option<&str>) -> Reply {
        let (mut services, mut length, mut more) = (Vec::new(), 0, false);
        for state in self.supervisor.list(after) {
            length += serde_json::to_vec(&state).map_or(0, |text| text.len() + 1);
            if length > MAX_MESSAGE - ROOM && !services.is_empty() {
                more = true;
                break;
            }
            services.push(state);
        }
        Reply::Services { services, more }
    }

    /// Nothing is started in a house that is not finished: the service might see the host.
    fn may_start(&self) -> Result<(), Refusal> {
        let rule = match (&self.failed, self.ending) {
            (Some(failed), _) => format!("the set-up of the tenant failed: {failed}"),
            (None, true) => "the tenant's init is ending".to_owned(),
            (None, false) => return Ok(()),
        };
        Err(Refusal::new(RefusalKind::NotReady, "tenant", &self.name, rule))
    }

    fn hello(&self) -> Hello {
        Hello {
            name: self.name.clone(),
            ids: self.ids,
            ready: self.failed.is_none(),
            failed: self.failed.clone(),
            netns: self.netns,
            processes: processes(),
        }
    }
}

/// A child that ended and is not reaped yet.
fn ended_child() -> Option<i32> {
    loop {
        // SAFETY: plain system call on a structure that lives here; si_pid is valid after waitid.
        let (result, pid) = unsafe {
            let mut info = std::mem::zeroed::<libc::siginfo_t>();
            let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            (libc::waitid(libc::P_ALL, 0, &mut info, flags), info.si_pid())
        };
        match result {
            0 => return (pid > 0).then_some(pid),
            _ if Errno::last() == Errno::EINTR => {}
            _ => return None,
        }
    }
}

/// Reaps a child that has ended and says how.
fn take_child(pid: i32) -> String {
    let mut status = 0;
    // SAFETY: plain system call on a variable that lives here.
    while unsafe { libc::waitpid(pid, &mut status, 0) } < 0 && Errno::last() == Errno::EINTR {}
    if libc::WIFSIGNALED(status) {
        format!("signal {}", libc::WTERMSIG(status))
    } else {
        format!("exit {}", libc::WEXITSTATUS(status))
    }
}

/// Processes of the tenant beside init. Read from our own /proc, which shows only this pid namespace.
fn processes() -> usize {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return 0;
    };
    let is_pid = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.parse::<u32>().is_ok());
    entries.flatten().filter(|entry| is_pid(&entry.file_name())).count().saturating_sub(1)
}
