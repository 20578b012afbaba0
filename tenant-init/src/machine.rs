//! The real system behind [`System`], and the end of services with all their processes.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tenant_init::protocol::{Ready, Refusal, RefusalKind, ServiceSpec};

use crate::files;
use crate::logs::Logs;
use crate::members::{self, Marks};
use crate::ports;
use crate::spawn::Program;
use crate::supervisor::{Run, System};
use crate::users::Users;

/// How long the killed rest of a service may take. A process that waits for a dead disk takes longer; the service
/// counts as ended then.
const LEAVING: Duration = Duration::from_secs(3);
/// Pause between two looks whether it is gone. Mostly a SIGCHLD comes earlier: orphans are init's.
const LOOK: Duration = Duration::from_millis(20);

/// Files, logs and processes of the tenant.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) logs: Logs,
    marks: Marks,
    /// The first processes that are not reaped, with their marks.
    leaders: BTreeMap<i32, Option<u64>>,
}

/// A service whose first process has been reaped while others may still be on their way out: its ports are free and
/// its stop is done only when they are gone.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub(crate) leader: i32,
    pub(crate) exit: String,
    pub(crate) next_look: Instant,
    mark: Option<u64>,
    until: Instant,
}

impl Machine {
    pub(crate) fn new(logs: Logs) -> Machine {
        Machine { logs, marks: Marks::new(), leaders: BTreeMap::new() }
    }

    /// Ends what a first process has left behind.
    pub(crate) fn leave(&mut self, leader: i32, exit: String, now: Instant) -> Leaving {
        let mark = self.leaders.remove(&leader).flatten();
        Leaving { leader, exit, mark, next_look: now, until: now + LEAVING }
    }
}

impl Leaving {
    /// True when nothing is left, or what is left is waited for no longer. Kills what it finds.
    pub(crate) fn is_gone(&mut self, now: Instant) -> bool {
        let left = self.mark.is_some_and(members::kill) || group_exists(self.leader);
        self.next_look = now + LOOK;
        !left || self.until <= now
    }
}

impl System for Machine {
    fn lay_out(&mut self, spec: &ServiceSpec) -> Result<(), Refusal> {
        let users = Users::read();
        let identity = users.identity(spec.user.as_deref(), spec.group.as_deref())?;
        self.logs.begin(&spec.name, (identity.uid, identity.gid)).map_err(|error| {
            Refusal::new(RefusalKind::Failed, "service", &spec.name, format!("pipe of the log: {error}"))
        })?;
        files::make(spec, &users)
    }

    fn spawn(&mut self, spec: &ServiceSpec, run: Run) -> Result<i32, Refusal> {
        // Read anew: a command before may have made the user.
        let identity = Users::read().identity(spec.user.as_deref(), spec.group.as_deref())?;
        let words = match run {
            Run::Prepare(step) => spec.prepare.get(step).map_or(&[][..], Vec::as_slice),
            Run::Main => &spec.argv,
        };
        let mark = self.marks.next();
        let Some(output) = self.logs.writer(&spec.name) else {
            return Err(Refusal::new(RefusalKind::Failed, "service", &spec.name, "its log is not open"));
        };
        let pid = Program { spec, words, identity: &identity, output: output.as_fd(), mark }.spawn()?;
        self.leaders.insert(pid, mark);
        Ok(pid)
    }

    fn signal_group(&mut self, group: i32, signal: i32) {
        if self.leaders.contains_key(&group) {
            // SAFETY: plain system call. The group's leader has not been reaped, so the number is still its own.
            unsafe { libc::kill(-group, signal) };
        }
    }

    fn signal(&mut self, pid: i32, signal: i32) {
        if self.leaders.contains_key(&pid) {
            // SAFETY: as above.
            unsafe { libc::kill(pid, signal) };
        }
    }

    fn open(&mut self, port: Ready) -> bool {
        ports::open(port)
    }

    fn last_lines(&mut self, service: &str) -> Vec<String> {
        self.logs.excerpt(service)
    }
}

/// True while the group has a process, be it a zombie.
fn group_exists(group: i32) -> bool {
    // SAFETY: plain system call; signal 0 only asks.
    unsafe { libc::kill(-group, 0) == 0 || Errno::last() != Errno::ESRCH }
}
