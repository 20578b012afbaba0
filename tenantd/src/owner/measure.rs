//! The owner's part of metrics and traces: names, numbers and states, in a moment; and what passes count.

use stackmap::TenantName;
use tokio::time::Instant;

use super::Owner;
use crate::control::OpError;
use crate::kernel::Kernel;
use crate::metrics::{Enlisted, Roster};
use crate::model::EventOrigin;
use crate::trace::Parts;

/// What passes saw of a tenant, for the metrics only.
#[derive(Debug, Clone, Default)]
pub(super) struct Restarts {
    /// Steps that started its init, the first of them included.
    pub(super) launches: u64,
    /// Services started again, as init said last.
    pub(super) services: Vec<(String, u64)>,
    /// It was found running when this daemon started, so that the first step is a restart already.
    pub(super) adopted: bool,
}

impl<K: Kernel> Owner<K> {
    pub(super) fn roster(&self) -> Roster {
        let enlist = |desired: &crate::store::Desired| {
            let tenant = &desired.tenant;
            let restarts = self.restarts.get(&tenant.name);
            Enlisted {
                name: tenant.name.clone(),
                stack: tenant.stack.to_string(),
                at: tenant.segment(),
                trunk: tenant.trunk.clone(),
                gid: tenant.gid.get(),
                half_done: self.failures.contains_key(&tenant.name),
                removing: desired.removing,
                seat: self.kernel.seated(&tenant.name),
                init_restarts: restarts.map_or(0, |r| r.launches.saturating_sub(u64::from(!r.adopted))),
                service_restarts: restarts.map(|r| r.services.clone()).unwrap_or_default(),
            }
        };
        Roster {
            tenants: self.desired.values().map(enlist).collect(),
            turns: self.turns.len(),
            access_connected: self.trunks.all_connected(),
            kernel: self.kernel.readers(),
        }
    }

    /// What a trace starts from.
    pub(super) fn trace_parts(&self, name: &TenantName) -> Result<Parts, OpError> {
        let desired = self.known(name)?;
        let failure = self.failures.get(name).map(|failure| format!("step {}: {}", failure.step, failure.cause));
        let parts = self.kernel.trace_parts(desired, failure);
        parts.ok_or_else(|| OpError::CannotMeasure { cause: "there is no way for packets here".into() })
    }

    /// A step of a pass was taken.
    pub(super) fn count_step(&mut self, tenant: &TenantName, step: &'static str) {
        if step == "stack" {
            self.restarts.entry(tenant.clone()).or_default().launches += 1;
        }
        if self.doing.who.origin == EventOrigin::Daemon {
            self.handle.live().repaired(step);
        }
    }

    /// A pass has ended.
    pub(super) fn count_pass(&self, started: Instant, failed: Option<&'static str>) {
        self.handle.live().passed(started.elapsed(), failed);
    }
}
