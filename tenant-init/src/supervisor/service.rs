//! One service: what it does, when something is due for it, and the steps of its start.

use std::time::{Duration, Instant};

use tenant_init::protocol::{Ready, Refusal, RefusalKind, RunState};

use super::{BACKOFF_LAST, LOOK, Run, Service, Stage, System};

impl Service {
    pub(super) fn pid(&self) -> Option<i32> {
        match self.stage {
            Stage::Preparing { pid, .. }
            | Stage::Starting { pid, .. }
            | Stage::Running { pid, .. }
            | Stage::Stopping { pid, .. } => Some(pid),
            Stage::Blocked { .. } | Stage::Waiting { .. } | Stage::Stopped | Stage::Done | Stage::Failed => None,
        }
    }

    pub(super) fn state(&self) -> RunState {
        match self.stage {
            Stage::Blocked { .. } | Stage::Preparing { .. } => RunState::Preparing,
            Stage::Starting { .. } => RunState::Starting,
            Stage::Running { .. } => RunState::Running,
            Stage::Stopping { .. } => RunState::Stopping,
            Stage::Waiting { .. } => RunState::Waiting,
            Stage::Stopped => RunState::Stopped,
            Stage::Done => RunState::Done,
            Stage::Failed => RunState::Failed,
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        match self.stage {
            Stage::Blocked { until } => Some(until),
            Stage::Preparing { until, .. } => until,
            Stage::Starting { until, look, .. } => [until, look].into_iter().flatten().min(),
            Stage::Stopping { kill_at, .. } => kill_at,
            Stage::Waiting { due } => Some(due),
            Stage::Running { .. } | Stage::Stopped | Stage::Done | Stage::Failed => None,
        }
    }

    pub(super) fn lay_out(&self, system: &mut impl System) -> Result<(), Refusal> {
        // An open port would make us call a service ready that cannot even bind.
        let taken = |port: u16, kind: &str| {
            let rule = format!("port {port}/{kind} is already used in the tenant");
            Refusal::new(RefusalKind::Port, "port", &port.to_string(), rule)
        };
        match self.spec.ready {
            Ready::Tcp(port) if system.open(self.spec.ready) => Err(taken(port, "tcp")),
            Ready::Udp(port) if system.open(self.spec.ready) => Err(taken(port, "udp")),
            _ => system.lay_out(&self.spec),
        }
    }

    /// Starts the next program; returns the process when the service is ready with that.
    pub(super) fn next(&mut self, step: usize, now: Instant, system: &mut impl System) -> Result<Option<i32>, Refusal> {
        if step < self.spec.prepare.len() {
            let pid = system.spawn(&self.spec, Run::Prepare(step))?;
            self.stage = Stage::Preparing { step, pid, until: now.checked_add(self.spec.prepare_timeout()) };
            return Ok(None);
        }
        let pid = system.spawn(&self.spec, Run::Main)?;
        let until = now.checked_add(self.spec.ready_timeout());
        let (until, look) = match self.spec.ready {
            Ready::None => {
                self.stage = Stage::Running { pid, since: now };
                return Ok(Some(pid));
            }
            Ready::Exit => (until, None),
            Ready::Alive(time) => (None, now.checked_add(Duration::from_millis(time))),
            Ready::Tcp(_) | Ready::Udp(_) => (until, Some(now + LOOK.0)),
        };
        self.stage = Stage::Starting { pid, since: now, until, look };
        Ok(None)
    }

    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        let pause = self.backoff;
        self.backoff = (pause * 2).min(BACKOFF_LAST);
        self.stage = Stage::Waiting { due: now + pause };
        pause
    }
}
