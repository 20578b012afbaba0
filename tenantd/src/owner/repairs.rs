//! What differed without anybody having asked for it: told when it was repaired, and shown before it is.

use serde_json::json;
use stackmap::TenantName;

use super::{Owner, chain};
use crate::audit::Outcome;
use crate::control::OpError;
use crate::kernel::Kernel;
use crate::model::{EventOrigin, PlannedStep, Repair, Step, TenantPlan};
use crate::plan::{Action, plan};
use crate::store::Desired;

/// Words of one repair that are told at most: a stack that died differs in everything.
const WORDS: usize = 8;

impl<K: Kernel> Owner<K> {
    /// Tells that a pass of our own accord took these steps because of what it found. The socket of the tenant's API is
    /// the daemon's own and opened anew by each.
    pub(super) fn repaired(&mut self, desired: &Desired, steps: &[Step], mut found: Vec<String>) {
        let done = steps.iter().map(|step| step.name.clone());
        let done: Vec<_> = done.filter(|name| name != "read" && name != Action::OpenDoor.name()).collect();
        if self.doing.who.origin != EventOrigin::Daemon || desired.removing || done.is_empty() {
            return;
        }
        let name = &desired.tenant.name;
        let left_out = found.len().saturating_sub(WORDS);
        found.truncate(WORDS);
        if left_out > 0 {
            found.push(format!("and {left_out} more"));
        }
        let (steps, words) = (done.join(", "), found.join("; "));
        tracing::warn!(tenant = %name, steps, "repaired");
        tracing::debug!(tenant = %name, words, "found");
        let mut event = self.event("repaired", Some(name.as_str()), format!("{words}; done: {steps}"));
        self.write_down_repair(Some(name.clone()), &found, &done);
        event.repair = Some(Repair { found, steps: done });
        self.handle.publish(event);
    }

    /// A repair changes the machine although nobody asked: the audit has it.
    pub(super) fn write_down_repair(&mut self, tenant: Option<TenantName>, found: &[String], done: &[String]) {
        self.note("repair", tenant, Some(json!({"found": found, "steps": done})), Outcome::Done);
    }

    /// What a pass would do for a tenant now; nothing is done.
    pub(super) async fn planned_for(&mut self, name: &TenantName) -> Result<TenantPlan, OpError> {
        let desired = self.known(name)?.clone();
        let mut shown =
            TenantPlan { name: name.clone(), removing: desired.removing, steps: Vec::new(), cannot_read: None };
        match self.kernel.actual(&desired).await {
            Ok(actual) => {
                let step = |planned: crate::plan::Planned| PlannedStep {
                    step: planned.action.to_string(),
                    found: planned.found,
                };
                shown.steps = plan(&desired, &actual).into_iter().map(step).collect();
            }
            Err(error) => shown.cannot_read = Some(chain(&error)),
        }
        Ok(shown)
    }
}
