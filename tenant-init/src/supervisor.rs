//! The services of the tenant and what has to happen to them next.
//!
//! In: requests, ends of processes, the clock (always an argument). Out: signals and new processes through
//! [`Processes`], answers to those who wait, events. No system call is made here, so all of it is tested with a fake.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tenant_init::protocol::{Event, MAX_SERVICES, Refusal, RefusalKind, Reply, RunState, ServiceSpec, ServiceState};

/// First pause before a service that ended by itself is started again; doubled each time.
pub(crate) const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest pause.
pub(crate) const BACKOFF_LAST: Duration = Duration::from_secs(10);
/// A service that ran this long is healthy again: the pause starts over.
pub(crate) const HEALTHY: Duration = Duration::from_secs(10);
/// Grace between SIGTERM and SIGKILL when init itself is told to end.
const GRACE_AT_END: Duration = Duration::from_secs(10);

/// The system as the supervisor needs it.
pub(crate) trait Processes {
    /// Starts the service's program in a session (and process group) of its own; returns its process id.
    fn spawn(&mut self, spec: &ServiceSpec) -> Result<i32, Refusal>;
    /// Sends a signal to every process of the group.
    fn signal(&mut self, group: i32, signal: i32);
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Stay,
    StartAgain,
    Forget,
}

#[derive(Debug)]
enum Stage {
    Running { pid: i32, since: Instant },
    Stopping { pid: i32, kill_at: Option<Instant>, then: Then, waiters: Vec<Waiter> },
    Waiting { due: Instant },
    Stopped,
}

#[derive(Debug)]
struct Service {
    spec: ServiceSpec,
    stage: Stage,
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
}

impl Supervisor {
    /// Starts a service, or makes sure that it runs when it is known with the same command.
    pub(crate) fn start(
        &mut self,
        spec: ServiceSpec,
        now: Instant,
        processes: &mut impl Processes,
    ) -> Result<i32, Refusal> {
        check(&spec)?;
        if let Some(known) = self.services.get_mut(&spec.name) {
            return match known.stage {
                Stage::Stopping { .. } => Err(conflict(&spec.name, "it is being stopped")),
                _ if known.spec != spec => Err(conflict(&spec.name, "it exists with another command; remove it first")),
                Stage::Running { pid, .. } => Ok(pid),
                Stage::Waiting { .. } | Stage::Stopped => {
                    let pid = known.run(now, processes)?;
                    self.notices.push(started(known, pid));
                    Ok(pid)
                }
            };
        }
        if self.services.len() >= MAX_SERVICES {
            return Err(invalid("service", &spec.name, &format!("a tenant has at most {MAX_SERVICES} services")));
        }
        let mut service = Service { spec, stage: Stage::Stopped, backoff: BACKOFF_FIRST, restarts: 0, last_exit: None };
        let pid = service.run(now, processes)?;
        self.notices.push(started(&service, pid));
        self.services.insert(service.spec.name.clone(), service);
        Ok(pid)
    }

    /// Ends a service. The answer is returned when nothing runs any more, otherwise `waiter` gets it later.
    pub(crate) fn stop(
        &mut self,
        name: &str,
        what: (Then, Duration),
        waiter: Waiter,
        now: Instant,
        processes: &mut impl Processes,
    ) -> Option<Reply> {
        let (then, grace) = what;
        let Some(service) = self.services.get_mut(name) else {
            return Some(match then {
                Then::Forget => Reply::Done,
                Then::Stay | Then::StartAgain => {
                    Reply::Error(Refusal::new(RefusalKind::Unknown, "service", name, "no service of this name"))
                }
            });
        };
        match &mut service.stage {
            Stage::Running { pid, .. } => {
                let pid = *pid;
                processes.signal(pid, libc::SIGTERM);
                service.stage = Stage::Stopping { pid, kill_at: now.checked_add(grace), then, waiters: vec![waiter] };
                None
            }
            Stage::Stopping { then: earlier, waiters, kill_at, .. } => {
                // Two stops agree. What one asks for beyond ending (start again, forget) must not be undone by the
                // other behind its back, except that forgetting includes staying stopped.
                match (*earlier, then) {
                    (a, b) if a == b => {}
                    (Then::Stay, Then::Forget) => *earlier = Then::Forget,
                    (Then::Forget, Then::Stay) => {}
                    _ => {
                        return Some(Reply::Error(conflict(name, "it is being stopped by another request")));
                    }
                }
                waiters.push(waiter);
                *kill_at = (*kill_at).min(now.checked_add(grace)).or(*kill_at);
                None
            }
            Stage::Waiting { .. } | Stage::Stopped => {
                service.stage = Stage::Stopped;
                match then {
                    Then::Stay => Some(Reply::Done),
                    Then::Forget => {
                        self.services.remove(name);
                        Some(Reply::Done)
                    }
                    Then::StartAgain => Some(match service.run(now, processes) {
                        Ok(pid) => {
                            self.notices.push(started(service, pid));
                            Reply::Started { pid }
                        }
                        Err(refusal) => Reply::Error(refusal),
                    }),
                }
            }
        }
    }

    /// Ends everything: init was told to end.
    pub(crate) fn stop_all(&mut self, now: Instant, processes: &mut impl Processes) {
        let names: Vec<String> = self.services.keys().cloned().collect();
        for name in names {
            let nobody = Waiter { connection: 0, request: 0 };
            if let Some(Service { stage: Stage::Stopping { then, .. }, .. }) = self.services.get_mut(&name) {
                *then = Then::Stay;
            }
            self.stop(&name, (Then::Stay, GRACE_AT_END), nobody, now, processes);
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

    /// A process ended. Processes that are no service's first process are orphans and of no interest.
    pub(crate) fn ended(&mut self, pid: i32, exit: &str, now: Instant, processes: &mut impl Processes) {
        let Some((name, service)) = self.services.iter_mut().find(|(_, service)| service.pid() == Some(pid)) else {
            return;
        };
        let name = name.clone();
        service.last_exit = Some(exit.to_owned());
        match std::mem::replace(&mut service.stage, Stage::Stopped) {
            Stage::Running { since, .. } => {
                if now.saturating_duration_since(since) >= HEALTHY {
                    service.backoff = BACKOFF_FIRST;
                }
                let pause = service.wait(now);
                self.notices.push(exited(&name, exit, Some(pause)));
            }
            Stage::Stopping { then, waiters, .. } => {
                self.notices.push(exited(&name, exit, None));
                let reply = match then {
                    Then::Stay => Reply::Done,
                    Then::Forget => {
                        self.services.remove(&name);
                        Reply::Done
                    }
                    Then::StartAgain => {
                        service.backoff = BACKOFF_FIRST;
                        match service.run(now, processes) {
                            Ok(pid) => {
                                self.notices.push(started(service, pid));
                                Reply::Started { pid }
                            }
                            Err(refusal) => Reply::Error(refusal),
                        }
                    }
                };
                self.notices.extend(waiters.into_iter().map(|waiter| Notice::Answer(waiter, reply.clone())));
            }
            Stage::Waiting { .. } | Stage::Stopped => {}
        }
    }

    /// Does what is due: starts after the pause, kills after the grace.
    pub(crate) fn tick(&mut self, now: Instant, processes: &mut impl Processes) {
        for service in self.services.values_mut() {
            match &mut service.stage {
                Stage::Waiting { due } if *due <= now => {
                    service.restarts += 1;
                    match service.run(now, processes) {
                        Ok(pid) => self.notices.push(started(service, pid)),
                        Err(refusal) => {
                            service.last_exit = Some(refusal.to_string());
                            let pause = service.wait(now);
                            self.notices.push(exited(&service.spec.name, &refusal.to_string(), Some(pause)));
                        }
                    }
                }
                Stage::Stopping { pid, kill_at, .. } if kill_at.is_some_and(|at| at <= now) => {
                    *kill_at = None;
                    processes.signal(*pid, libc::SIGKILL);
                }
                _ => {}
            }
        }
    }

    /// When [`Supervisor::tick`] has something to do next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.services
            .values()
            .filter_map(|service| match service.stage {
                Stage::Waiting { due } => Some(due),
                Stage::Stopping { kill_at, .. } => kill_at,
                Stage::Running { .. } | Stage::Stopped => None,
            })
            .min()
    }

    /// What has to be told since the last call.
    pub(crate) fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// All services in the order of their names.
    pub(crate) fn list(&self) -> Vec<ServiceState> {
        self.services
            .values()
            .map(|service| ServiceState {
                spec: service.spec.clone(),
                state: match service.stage {
                    Stage::Running { .. } => RunState::Running,
                    Stage::Stopping { .. } => RunState::Stopping,
                    Stage::Waiting { .. } => RunState::Waiting,
                    Stage::Stopped => RunState::Stopped,
                },
                pid: service.pid(),
                restarts: service.restarts,
                last_exit: service.last_exit.clone(),
            })
            .collect()
    }
}

impl Service {
    fn pid(&self) -> Option<i32> {
        match self.stage {
            Stage::Running { pid, .. } | Stage::Stopping { pid, .. } => Some(pid),
            Stage::Waiting { .. } | Stage::Stopped => None,
        }
    }

    fn run(&mut self, now: Instant, processes: &mut impl Processes) -> Result<i32, Refusal> {
        let pid = processes.spawn(&self.spec)?;
        self.stage = Stage::Running { pid, since: now };
        Ok(pid)
    }

    fn wait(&mut self, now: Instant) -> Duration {
        let pause = self.backoff;
        self.backoff = (pause * 2).min(BACKOFF_LAST);
        self.stage = Stage::Waiting { due: now + pause };
        pause
    }
}

fn check(spec: &ServiceSpec) -> Result<(), Refusal> {
    // The name becomes a file name, so init checks it although the daemon has done so.
    let label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if spec.name.is_empty()
        || spec.name.len() > 48
        || !spec.name.bytes().all(label)
        || spec.name.starts_with('-')
        || spec.name.ends_with('-')
    {
        return Err(invalid("service", &spec.name, "a DNS label of at most 48 characters"));
    }
    if spec.argv.first().is_none_or(String::is_empty) {
        return Err(invalid("command", "", "a program is needed"));
    }
    let words = spec.argv.iter().chain(spec.env.keys()).chain(spec.env.values());
    if let Some(bad) = words.into_iter().find(|word| word.contains('\0')) {
        return Err(invalid("command", bad, "no NUL character"));
    }
    if let Some(bad) = spec.env.keys().find(|key| key.is_empty() || key.contains('=')) {
        return Err(invalid("env", bad, "a variable's name is not empty and has no '='"));
    }
    Ok(())
}

fn invalid(field: &str, value: &str, rule: &str) -> Refusal {
    Refusal::new(RefusalKind::Invalid, field, value, rule)
}

fn conflict(name: &str, rule: &str) -> Refusal {
    Refusal::new(RefusalKind::Conflict, "service", name, rule)
}

fn started(service: &Service, pid: i32) -> Notice {
    let name = service.spec.name.clone();
    Notice::Event(Event::ServiceStarted { name, pid, restarts: service.restarts })
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
