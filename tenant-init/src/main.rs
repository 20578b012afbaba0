//! Process 1 of a tenant. Started by the daemon in new namespaces, it makes the tenant's house ([`setup`]), gives up
//! its privileges, and then waits: for requests ([`server`]), for ends of processes, for the pause of a service that
//! has to be started again ([`supervisor`]). It has one thread, no timer that runs without need, and ends only when
//! it is told to (SIGTERM stops the services in good order) or killed (the kernel then ends the whole tenant).
//!
//! `tenant-init NAME --control-fd=N --house-fd=N`; not meant to be started by hand.

mod server;
mod setup;
mod spawn;
mod supervisor;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tenant_init::house::HouseSpec;
use tenant_init::protocol::{Hello, Refusal, RefusalKind, Reply, Request, ServiceSpec};

use crate::server::{Incoming, Server};
use crate::spawn::Tenant;
use crate::supervisor::{Notice, Processes, Supervisor, Then, Waiter};

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

/// Everything init knows.
struct Init {
    name: String,
    netns: u64,
    failed: Option<String>,
    signals: SignalFd,
    server: Server,
    supervisor: Supervisor,
    system: System,
    ending: bool,
    leaving: Vec<Leaving>,
}

/// A service whose first process has been reaped while others of its group may still be on their way out: its ports
/// are free and its stop is done only when they are gone.
struct Leaving {
    group: i32,
    exit: String,
    /// A process of the group can be a zombie whose parent left the group and does not reap: not waited for longer.
    until: Instant,
}

/// How long the killed rest of a service's group may take.
const LEAVING: Duration = Duration::from_secs(1);

/// The real system behind [`Processes`].
struct System(Tenant);

impl Processes for System {
    fn spawn(&mut self, spec: &ServiceSpec) -> Result<i32, Refusal> {
        self.0.spawn(spec)
    }

    fn signal(&mut self, group: i32, signal: i32) {
        // SAFETY: plain system call. The group's leader has not been reaped, so the number is still its own.
        unsafe { libc::kill(-group, signal) };
    }
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
            netns: held.as_ref().map_or(0, |held| held.netns),
            failed,
            signals,
            server: Server::new(control)?,
            supervisor: Supervisor::default(),
            system: System(Tenant { ids: house.ids, logs: held.map(|held| held.logs) }),
            ending: false,
            leaving: Vec::new(),
        })
    }

    fn run(mut self) -> io::Result<()> {
        while !(self.ending && self.supervisor.all_ended()) {
            let (signalled, calling, speaking) = self.wait();
            if signalled {
                self.read_signals();
                self.reap();
            }
            self.let_go();
            self.supervisor.tick(Instant::now(), &mut self.system);
            if calling {
                self.server.accept();
            }
            for connection in speaking {
                self.listen_to(connection);
            }
            for notice in self.supervisor.notices() {
                match notice {
                    Notice::Answer(waiter, reply) => self.server.answer(waiter.connection, waiter.request, reply),
                    Notice::Event(event) => self.server.publish(event),
                }
            }
        }
        Ok(())
    }

    /// Sleeps until something happens: (a signal, a new client, clients with a message).
    fn wait(&self) -> (bool, bool, Vec<u64>) {
        let due = self.leaving.iter().map(|service| service.until).chain(self.supervisor.next_due()).min();
        let timeout = match due {
            None => PollTimeout::NONE,
            // Rounded up, or the last millisecond would be a busy loop.
            Some(due) => {
                let left = due.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.server.listener(), PollFlags::POLLIN),
        ];
        let ids: Vec<u64> = self.server.connections().map(|(id, _)| id).collect();
        fds.extend(self.server.connections().map(|(_, fd)| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return (true, false, Vec::new()),
            Err(_) => {
                // Out of memory is the only cause left; process 1 waits for better times instead of ending.
                std::thread::sleep(Duration::from_millis(100));
                return (true, true, ids);
            }
        }
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let speaking = ids.iter().zip(&fds[2..]).filter(|(_, fd)| ready(fd)).map(|(id, _)| *id).collect();
        (ready(&fds[0]), ready(&fds[1]), speaking)
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
                // What is left of the service's group would keep its ports. Before the reaping, while nobody else
                // can have the number.
                self.system.signal(pid, libc::SIGKILL);
            }
            let exit = take_child(pid);
            if leads {
                self.leaving.push(Leaving { group: pid, exit, until: Instant::now() + LEAVING });
            }
        }
    }

    /// Tells the supervisor of services that are gone with their whole group.
    fn let_go(&mut self) {
        let now = Instant::now();
        let (still, gone) = std::mem::take(&mut self.leaving)
            .into_iter()
            .partition::<Vec<_>, _>(|service| service.until > now && group_exists(service.group));
        self.leaving = still;
        for service in gone {
            self.supervisor.ended(service.group, &service.exit, now, &mut self.system);
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
        let grace = Duration::from_millis;
        match request {
            Request::Hello => Some(Reply::Hello(self.hello())),
            Request::List { .. } => Some(Reply::Services { services: self.supervisor.list(), more: false }),
            Request::Signal { name, .. } | Request::Tail { name, .. } => Some(Reply::Error(Refusal::new(
                RefusalKind::NotUnderstood,
                "request",
                &name,
                "this init does not know it yet",
            ))),
            Request::Processes => Some(Reply::Processes { count: processes() }),
            Request::Subscribe => {
                self.server.subscribe(waiter.connection);
                Some(Reply::Done)
            }
            Request::Start { service } => Some(match self.may_start() {
                Ok(()) => match self.supervisor.start(*service, now, &mut self.system) {
                    Ok(pid) => Reply::Started { pid },
                    Err(refusal) => Reply::Error(refusal),
                },
                Err(refusal) => Reply::Error(refusal),
            }),
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
            ids: self.system.0.ids,
            ready: self.failed.is_none(),
            failed: self.failed.clone(),
            netns: self.netns,
            processes: processes(),
        }
    }
}

/// True while the group has a process, be it a zombie.
fn group_exists(group: i32) -> bool {
    // SAFETY: plain system call; signal 0 only asks.
    unsafe { libc::kill(-group, 0) == 0 || Errno::last() != Errno::ESRCH }
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
