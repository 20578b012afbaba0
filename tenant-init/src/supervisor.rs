//! The services of the tenant and what has to happen to them next.
//!
//! In: requests, ends of processes, the clock (always an argument). Out: files, signals and new processes through
//! [`System`], answers to those who wait, events. No system call is made here, so all of it is tested with a fake.
//!
//! The way of a start: *blocked* by services that come before it, *preparing* (one command after another), *starting*
//! (its process runs, readiness is awaited), *running*. A start that somebody asked for and that fails is answered
//! with a refusal and not tried again; one that init made by itself is tried again after a pause.

mod order;
mod service;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tenant_init::protocol::{
    Event, MAX_SERVICES, Ready, Refusal, RefusalKind, Reply, Restart, ServiceSpec, ServiceState,
};
use tenant_init::service::AFTER_TIMEOUT;

use self::order::{Order, not_ready};
use crate::check::{check, invalid};

/// First pause before a service that ended by itself is started again; doubled each time.
pub(crate) const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest pause.
pub(crate) const BACKOFF_LAST: Duration = Duration::from_secs(10);
/// A service that ran this long is healthy again: the pause starts over.
pub(crate) const HEALTHY: Duration = Duration::from_secs(10);
/// Pauses between two looks whether a port is open: a quarter of the time waited so far, within these.
const LOOK: (Duration, Duration) = (Duration::from_micros(250), Duration::from_millis(100));
/// Longest text (bytes) kept about the last end of a service.
const EXIT_TEXT: usize = 1024;

/// Which program of a service is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// One of its `prepare` commands.
    Prepare(usize),
    /// The service itself.
    Main,
}

/// The system as the supervisor needs it.
pub(crate) trait System {
    /// Makes the service's directories and files. From here on its log belongs to a new start.
    fn lay_out(&mut self, spec: &ServiceSpec) -> Result<(), Refusal>;
    /// Starts a program of the service in a session (and process group) of its own; returns its process id.
    fn spawn(&mut self, spec: &ServiceSpec, run: Run) -> Result<i32, Refusal>;
    /// Sends a signal to every process of the group.
    fn signal_group(&mut self, group: i32, signal: i32);
    /// Sends a signal to one process.
    fn signal(&mut self, pid: i32, signal: i32);
    /// True when the port is open in the tenant's stack.
    fn open(&mut self, port: Ready) -> bool;
    /// The last lines of the service's log since its last start.
    fn last_lines(&mut self, service: &str) -> Vec<String>;
}

/// Who waits for an answer: connection and request id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub(crate) connection: u64,
    pub(crate) request: u64,
}

/// What the supervisor has to tell.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    Answer(Waiter, Reply),
    Event(Event),
}

/// What follows when a service that was told to end has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Then {
    Stay,
    StartAgain,
    Forget,
    /// Its start has failed for this reason.
    Fail(Box<Refusal>),
}

#[derive(Debug)]
enum Stage {
    Blocked { until: Instant },
    Preparing { step: usize, pid: i32, until: Option<Instant> },
    Starting { pid: i32, since: Instant, until: Option<Instant>, look: Option<Instant> },
    Running { pid: i32, since: Instant },
    Stopping { pid: i32, kill_at: Option<Instant>, then: Then, waiters: Vec<Waiter> },
    Waiting { due: Instant },
    Stopped,
    Done,
    Failed,
}

/// The start that is under way, or was last.
#[derive(Debug, Default)]
struct Attempt {
    /// Who is told how it went.
    waiters: Vec<Waiter>,
    /// Somebody asked for it; otherwise init tries again by itself.
    asked: bool,
    /// The service was not known before.
    new: bool,
}

#[derive(Debug)]
struct Service {
    spec: ServiceSpec,
    stage: Stage,
    attempt: Attempt,
    /// Pause before the next start without being asked.
    backoff: Duration,
    restarts: u64,
    last_exit: Option<String>,
}

/// All services of the tenant.
#[derive(Debug, Default)]
pub(crate) struct Supervisor {
    services: BTreeMap<String, Service>,
    notices: Vec<Notice>,
    ending: bool,
}

impl Supervisor {
    /// Starts a service, or makes sure that it runs when it is known with the same command. The answer is returned
    /// when it is known now, otherwise `waiter` gets it later.
    pub(crate) fn start(
        &mut self,
        spec: ServiceSpec,
        waiter: Waiter,
        now: Instant,
        system: &mut impl System,
    ) -> Option<Reply> {
        if let Err(refusal) = check(&spec) {
            return Some(Reply::Error(refusal));
        }
        let name = spec.name.clone();
        let mut attempt = Attempt { waiters: vec![waiter], asked: true, new: false };
        if let Some(known) = self.services.get_mut(&name) {
            match known.stage {
                Stage::Stopping { .. } => return Some(Reply::Error(conflict(&name, "it is being stopped"))),
                _ if known.spec != spec => {
                    let rule = "it exists with another command; remove it first";
                    return Some(Reply::Error(conflict(&name, rule)));
                }
                Stage::Running { pid, .. } => return Some(Reply::Started { pid }),
                Stage::Blocked { .. } | Stage::Preparing { .. } | Stage::Starting { .. } => {
                    known.attempt.waiters.push(waiter);
                    return None;
                }
                Stage::Waiting { .. } | Stage::Stopped | Stage::Done | Stage::Failed => {}
            }
        } else if self.services.len() >= MAX_SERVICES {
            let rule = format!("a tenant has at most {MAX_SERVICES} services");
            return Some(Reply::Error(invalid("service", &name, &rule)));
        } else {
            attempt.new = true;
        }
        if let Err(refusal) = self.may_follow(&spec) {
            return Some(Reply::Error(refusal));
        }
        let service = self.services.entry(name.clone()).or_insert_with(|| Service {
            spec,
            stage: Stage::Stopped,
            attempt: Attempt::default(),
            backoff: BACKOFF_FIRST,
            restarts: 0,
            last_exit: None,
        });
        service.attempt = attempt;
        self.begin(&name, now, system);
        None
    }

    /// Ends a service. The answer is returned when nothing runs any more, otherwise `waiter` gets it later. Without a
    /// grace the service's own is used.
    pub(crate) fn stop(
        &mut self,
        name: &str,
        what: (Then, Option<Duration>),
        waiter: Waiter,
        now: Instant,
        system: &mut impl System,
    ) -> Option<Reply> {
        let (then, grace) = what;
        let Some(service) = self.services.get_mut(name) else {
            return Some(if then == Then::Forget { Reply::Done } else { Reply::Error(unknown(name)) });
        };
        let kill_at = now.checked_add(grace.unwrap_or_else(|| service.spec.stop_timeout()));
        match &mut service.stage {
            Stage::Preparing { pid, .. } | Stage::Starting { pid, .. } | Stage::Running { pid, .. } => {
                let pid = *pid;
                let signal = match service.stage {
                    Stage::Preparing { .. } => libc::SIGTERM,
                    _ => service.spec.stop_signal.unwrap_or(libc::SIGTERM),
                };
                system.signal_group(pid, signal);
                service.stage = Stage::Stopping { pid, kill_at, then, waiters: vec![waiter] };
                self.give_up(name, conflict(name, "it was stopped before it was ready"));
                None
            }
            Stage::Stopping { then: earlier, waiters, kill_at: at, .. } => {
                // Two stops agree. What one asks for beyond ending (start again, forget) must not be undone by the
                // other behind its back, except that forgetting includes staying stopped.
                let mut failed = None;
                match (&*earlier, &then) {
                    (a, b) if a == b => {}
                    (Then::Stay, Then::Forget) => *earlier = Then::Forget,
                    (Then::Forget, Then::Stay) => {}
                    (Then::Fail(refusal), _) => {
                        failed = Some((**refusal).clone());
                        *earlier = then;
                    }
                    _ => {
                        return Some(Reply::Error(conflict(name, "it is being stopped by another request")));
                    }
                }
                waiters.push(waiter);
                *at = (*at).min(kill_at).or(*at);
                if let Some(refusal) = failed {
                    self.give_up(name, refusal);
                }
                None
            }
            Stage::Blocked { .. } | Stage::Waiting { .. } | Stage::Stopped | Stage::Done | Stage::Failed => {
                service.stage = Stage::Stopped;
                self.give_up(name, conflict(name, "it was stopped before it was ready"));
                match then {
                    Then::StartAgain => {
                        self.again(name, vec![waiter], now, system);
                        None
                    }
                    Then::Forget => {
                        self.services.remove(name);
                        Some(Reply::Done)
                    }
                    Then::Stay | Then::Fail(_) => Some(Reply::Done),
                }
            }
        }
    }

    /// Sends a signal to the first process of a service.
    pub(crate) fn signal(&mut self, name: &str, signal: i32, system: &mut impl System) -> Result<(), Refusal> {
        if !(1..=64).contains(&signal) {
            return Err(invalid("signal", &signal.to_string(), "the number of a signal, 1 to 64"));
        }
        match self.services.get(name).ok_or_else(|| unknown(name))?.stage {
            Stage::Running { pid, .. } => {
                system.signal(pid, signal);
                Ok(())
            }
            _ => Err(conflict(name, "it does not run")),
        }
    }

    /// Ends everything: init was told to end. A service is asked when those that come after it are gone.
    pub(crate) fn stop_all(&mut self, now: Instant, system: &mut impl System) {
        self.ending = true;
        for service in self.services.values_mut() {
            if let Stage::Stopping { then, .. } = &mut service.stage {
                *then = Then::Stay;
            }
        }
        // First those without a process, or the end of one would start another.
        let idle = self.services.values().filter(|service| service.pid().is_none());
        let idle: Vec<String> = idle.map(|service| service.spec.name.clone()).collect();
        for name in idle {
            self.stop(&name, (Then::Stay, None), NOBODY, now, system);
        }
        self.stop_more(now, system);
    }

    /// Asks those to end that nobody needs any more.
    fn stop_more(&mut self, now: Instant, system: &mut impl System) {
        let live = |service: &&Service| service.pid().is_some();
        let asked = |service: &Service| matches!(service.stage, Stage::Stopping { .. });
        let needed = |name: &String| self.services.values().filter(live).any(|other| other.spec.after.contains(name));
        let rest: Vec<&Service> = self.services.values().filter(live).filter(|one| !asked(one)).collect();
        let mut names: Vec<String> =
            rest.iter().map(|one| &one.spec.name).filter(|name| !needed(name)).cloned().collect();
        if names.is_empty() && !self.services.values().any(asked) {
            // A circle cannot be made; if it could, its services would be stopped nevertheless.
            names = rest.iter().map(|one| one.spec.name.clone()).collect();
        }
        for name in names {
            self.stop(&name, (Then::Stay, None), NOBODY, now, system);
        }
    }

    /// True when no service has a process.
    pub(crate) fn all_ended(&self) -> bool {
        self.services.values().all(|service| service.pid().is_none())
    }

    /// True when `pid` is the first process of a service.
    pub(crate) fn leads(&self, pid: i32) -> bool {
        self.services.values().any(|service| service.pid() == Some(pid))
    }

    /// True while something may be written to the service's log.
    pub(crate) fn is_live(&self, name: &str) -> bool {
        self.services.get(name).is_some_and(|service| service.pid().is_some())
    }

    /// True when the service is known.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.services.contains_key(name)
    }

    /// A process ended. Processes that are no service's first process are orphans and of no interest.
    pub(crate) fn ended(&mut self, pid: i32, exit: &str, now: Instant, system: &mut impl System) {
        let Some((name, service)) = self.services.iter_mut().find(|(_, service)| service.pid() == Some(pid)) else {
            return;
        };
        let name = name.clone();
        service.last_exit = Some(exit.to_owned());
        let well = exit == "exit 0";
        match std::mem::replace(&mut service.stage, Stage::Stopped) {
            Stage::Preparing { step, .. } if well => {
                let result = service.next(step + 1, now, system);
                self.progress(&name, result, now, system);
            }
            Stage::Preparing { step, .. } => {
                let command = service.spec.prepare.get(step).map_or_else(String::new, |words| words.join(" "));
                let rule = format!("it ended with {exit}");
                self.fail(&name, Refusal::new(RefusalKind::Ended, "prepare", &command, rule), now, system);
            }
            Stage::Starting { .. } if well && service.spec.ready == Ready::Exit => {
                service.stage = Stage::Done;
                self.ready(&name, pid);
            }
            Stage::Starting { .. } => {
                let rule = format!("it ended with {exit} before it was ready");
                self.fail(&name, Refusal::new(RefusalKind::Ended, "service", &name, rule), now, system);
            }
            Stage::Running { since, .. } => {
                if now.saturating_duration_since(since) >= HEALTHY {
                    service.backoff = BACKOFF_FIRST;
                }
                let pause = match service.spec.restart {
                    _ if self.ending => None,
                    Restart::Never => None,
                    Restart::OnFailure if well => None,
                    Restart::Always | Restart::OnFailure => Some(service.wait(now)),
                };
                if pause.is_none() && !self.ending {
                    service.stage = if well { Stage::Done } else { Stage::Failed };
                }
                self.notices.push(exited(&name, exit, pause));
            }
            Stage::Stopping { then, waiters, .. } => {
                if !matches!(then, Then::Fail(_)) {
                    self.notices.push(exited(&name, exit, None));
                }
                match then {
                    Then::Stay => {}
                    Then::Forget => drop(self.services.remove(&name)),
                    Then::StartAgain => return self.again(&name, waiters, now, system),
                    Then::Fail(refusal) => return self.fail(&name, *refusal, now, system),
                }
                self.answer(waiters, &Reply::Done);
            }
            Stage::Blocked { .. } | Stage::Waiting { .. } | Stage::Stopped | Stage::Done | Stage::Failed => {}
        }
        if self.ending {
            self.stop_more(now, system);
        }
    }

    /// Does what is due: starts after the pause, looks whether ports are open, kills after the grace.
    pub(crate) fn tick(&mut self, now: Instant, system: &mut impl System) {
        // Each turn ends with the service waiting for something later; the bound is for the case that it does not.
        for _ in 0..8 * MAX_SERVICES {
            let due = self.services.values().find(|service| self.is_due(service, now));
            let Some(name) = due.map(|service| service.spec.name.clone()) else {
                return;
            };
            self.turn(&name, now, system);
        }
    }

    fn is_due(&self, service: &Service, now: Instant) -> bool {
        match service.stage {
            Stage::Blocked { until } => until <= now || !matches!(self.order(service), Order::Wait),
            _ => service.due().is_some_and(|due| due <= now),
        }
    }

    /// One service for which something is due.
    fn turn(&mut self, name: &str, now: Instant, system: &mut impl System) {
        let order = self.services.get(name).map_or(Order::Clear, |service| self.order(service));
        let Some(service) = self.services.get_mut(name) else {
            return;
        };
        let spec = &service.spec;
        match &mut service.stage {
            Stage::Blocked { .. } => match order {
                Order::Clear => self.go(name, now, system),
                Order::Broken(other) if service.attempt.asked => {
                    self.fail(name, not_ready(&other), now, system);
                }
                Order::Broken(_) => self.go(name, now, system),
                Order::Wait => {
                    let others = spec.after.join(" ");
                    let rule = format!("not ready within {} s", AFTER_TIMEOUT.as_secs());
                    self.fail(name, Refusal::new(RefusalKind::Late, "after", &others, rule), now, system);
                }
            },
            Stage::Preparing { step, pid, .. } => {
                let command = spec.prepare.get(*step).map_or_else(String::new, |words| words.join(" "));
                let rule = format!("it did not end within {:?}", spec.prepare_timeout());
                let then = Then::Fail(Box::new(Refusal::new(RefusalKind::Late, "prepare", &command, rule)));
                system.signal_group(*pid, libc::SIGKILL);
                service.stage = Stage::Stopping { pid: *pid, kill_at: None, then, waiters: Vec::new() };
            }
            Stage::Starting { pid, since, until, look } => {
                let pid = *pid;
                let waited = now.saturating_duration_since(*since);
                let open = match spec.ready {
                    Ready::Alive(time) => waited >= Duration::from_millis(time),
                    Ready::Tcp(_) | Ready::Udp(_) => system.open(spec.ready),
                    Ready::None | Ready::Exit => false,
                };
                if open {
                    service.stage = Stage::Running { pid, since: *since };
                    self.ready(name, pid);
                } else if until.is_some_and(|until| until <= now) {
                    let what = match spec.ready {
                        Ready::Tcp(port) => format!("; nothing listens on port {port}/tcp"),
                        Ready::Udp(port) => format!("; nothing is bound to port {port}/udp"),
                        _ => String::new(),
                    };
                    let rule = format!("it was not ready within {:?}{what}", spec.ready_timeout());
                    let then = Then::Fail(Box::new(Refusal::new(RefusalKind::Late, "service", name, rule)));
                    system.signal_group(pid, spec.stop_signal.unwrap_or(libc::SIGTERM));
                    let kill_at = now.checked_add(spec.stop_timeout());
                    service.stage = Stage::Stopping { pid, kill_at, then, waiters: Vec::new() };
                } else {
                    *look = look.map(|_| now + (waited / 4).clamp(LOOK.0, LOOK.1));
                }
            }
            Stage::Stopping { pid, kill_at, .. } => {
                *kill_at = None;
                system.signal_group(*pid, libc::SIGKILL);
            }
            Stage::Waiting { .. } => {
                service.restarts += 1;
                service.attempt = Attempt::default();
                self.begin(name, now, system);
            }
            Stage::Running { .. } | Stage::Stopped | Stage::Done | Stage::Failed => {}
        }
    }

    /// When [`Supervisor::tick`] has something to do next, if nothing else happens.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.services.values().filter_map(Service::due).min()
    }

    /// What has to be told since the last call.
    pub(crate) fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// The services whose names come after `after`, in their order.
    pub(crate) fn list(&self, after: Option<&str>) -> impl Iterator<Item = ServiceState> {
        let from = match after {
            Some(name) => std::ops::Bound::Excluded(name),
            None => std::ops::Bound::Unbounded,
        };
        self.services.range::<str, _>((from, std::ops::Bound::Unbounded)).map(|(_, service)| ServiceState {
            spec: service.spec.outline(),
            state: service.state(),
            pid: service.pid(),
            restarts: service.restarts,
            last_exit: service.last_exit.clone(),
        })
    }

    /// A start by request of what has just been stopped.
    fn again(&mut self, name: &str, waiters: Vec<Waiter>, now: Instant, system: &mut impl System) {
        if let Some(service) = self.services.get_mut(name) {
            service.backoff = BACKOFF_FIRST;
            service.attempt = Attempt { waiters, asked: true, new: false };
            self.begin(name, now, system);
        }
    }

    /// The first step of a start.
    fn begin(&mut self, name: &str, now: Instant, system: &mut impl System) {
        let order = self.services.get(name).map_or(Order::Clear, |service| self.order(service));
        match (order, self.services.get_mut(name)) {
            (Order::Wait, Some(service)) => service.stage = Stage::Blocked { until: now + AFTER_TIMEOUT },
            _ => self.go(name, now, system),
        }
    }

    /// The steps of a start when nothing comes before it any more.
    fn go(&mut self, name: &str, now: Instant, system: &mut impl System) {
        let Some(service) = self.services.get_mut(name) else {
            return;
        };
        let result = service.lay_out(system).and_then(|()| service.next(0, now, system));
        self.progress(name, result, now, system);
    }

    fn progress(&mut self, name: &str, result: Result<Option<i32>, Refusal>, now: Instant, system: &mut impl System) {
        match result {
            Ok(Some(pid)) => self.ready(name, pid),
            Ok(None) => {}
            Err(refusal) => self.fail(name, refusal, now, system),
        }
    }

    /// The start has succeeded.
    fn ready(&mut self, name: &str, pid: i32) {
        if let Some(service) = self.services.get_mut(name) {
            let waiters = std::mem::take(&mut service.attempt.waiters);
            let restarts = service.restarts;
            self.notices.push(Notice::Event(Event::ServiceStarted { name: name.to_owned(), pid, restarts }));
            self.answer(waiters, &Reply::Started { pid });
        }
    }

    /// The start has failed, and nothing of it runs any more.
    fn fail(&mut self, name: &str, mut refusal: Refusal, now: Instant, system: &mut impl System) {
        let Some(service) = self.services.get_mut(name) else {
            return;
        };
        if matches!(refusal.kind, RefusalKind::Ended | RefusalKind::Late) {
            refusal.log = system.last_lines(name);
        }
        if refusal.kind != RefusalKind::Ended {
            service.last_exit = Some(short(refusal.to_string()));
        }
        let exit = service.last_exit.clone().unwrap_or_default();
        let asked = service.attempt.asked;
        let new = service.attempt.new;
        service.stage = Stage::Failed;
        let pause = (!asked && !self.ending).then(|| service.wait(now));
        if new {
            let waiters = std::mem::take(&mut service.attempt.waiters);
            self.services.remove(name);
            self.answer(waiters, &Reply::Error(refusal));
        } else {
            self.notices.push(exited(name, &exit, pause));
            self.give_up(name, refusal);
        }
    }

    /// Tells those who wait for the start that it came to nothing.
    fn give_up(&mut self, name: &str, refusal: Refusal) {
        if let Some(service) = self.services.get_mut(name) {
            let waiters = std::mem::take(&mut service.attempt.waiters);
            self.answer(waiters, &Reply::Error(refusal));
        }
    }

    fn answer(&mut self, waiters: Vec<Waiter>, reply: &Reply) {
        let real = waiters.into_iter().filter(|waiter| *waiter != NOBODY);
        self.notices.extend(real.map(|waiter| Notice::Answer(waiter, reply.clone())));
    }
}

/// For stops that nobody asked for.
const NOBODY: Waiter = Waiter { connection: 0, request: 0 };

fn conflict(name: &str, rule: &str) -> Refusal {
    Refusal::new(RefusalKind::Conflict, "service", name, rule)
}

fn unknown(name: &str) -> Refusal {
    Refusal::new(RefusalKind::Unknown, "service", name, "no service of this name")
}

fn short(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(EXIT_TEXT));
    text
}

fn exited(name: &str, exit: &str, pause: Option<Duration>) -> Notice {
    Notice::Event(Event::ServiceExited {
        name: name.to_owned(),
        exit: exit.to_owned(),
        again_ms: pause.and_then(|pause| u64::try_from(pause.as_millis()).ok()),
    })
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
