//! Which services come before which.

use std::collections::BTreeSet;

use tenant_init::protocol::{Refusal, RefusalKind, ServiceSpec};

use super::{Service, Stage, Supervisor, Then};
use crate::check::invalid;

/// What the services that come before one say about its start.
pub(super) enum Order {
    Clear,
    Wait,
    /// This one will not become ready by itself.
    Broken(String),
}

impl Supervisor {
    /// May it be started after the services it names?
    pub(super) fn may_follow(&self, spec: &ServiceSpec) -> Result<(), Refusal> {
        for name in &spec.after {
            let Some(other) = self.services.get(name) else {
                let rule = "no service of this name; one that comes before has to be started before";
                return Err(Refusal::new(RefusalKind::Unknown, "after", name, rule));
            };
            if name == &spec.name || self.comes_after(other, &spec.name) {
                return Err(invalid("after", name, "it comes after this service itself"));
            }
            if matches!(other.stage, Stage::Stopped | Stage::Failed | Stage::Stopping { .. }) {
                return Err(not_ready(name));
            }
        }
        Ok(())
    }

    /// True when `service` comes after `name`, directly or not.
    fn comes_after(&self, service: &Service, name: &str) -> bool {
        let mut seen = BTreeSet::new();
        let mut rest: Vec<&String> = service.spec.after.iter().collect();
        while let Some(before) = rest.pop() {
            if before == name {
                return true;
            }
            if let Some(one) = self.services.get(before).filter(|_| seen.insert(before)) {
                rest.extend(&one.spec.after);
            }
        }
        false
    }

    pub(super) fn order(&self, service: &Service) -> Order {
        let mut order = Order::Clear;
        for name in &service.spec.after {
            let other = self.services.get(name);
            match other.map(|other| &other.stage) {
                Some(Stage::Running { .. } | Stage::Done) => {}
                // It will be tried again.
                Some(Stage::Stopping { then: Then::Fail(_), .. }) if other.is_some_and(|one| !one.attempt.asked) => {
                    order = Order::Wait;
                }
                Some(
                    Stage::Blocked { .. }
                    | Stage::Preparing { .. }
                    | Stage::Starting { .. }
                    | Stage::Waiting { .. }
                    | Stage::Stopping { then: Then::StartAgain, .. },
                ) => order = Order::Wait,
                Some(Stage::Stopping { .. } | Stage::Stopped | Stage::Failed) | None => {
                    return Order::Broken(name.clone());
                }
            }
        }
        order
    }
}

pub(super) fn not_ready(other: &str) -> Refusal {
    Refusal::new(RefusalKind::Conflict, "after", other, "it is stopped or has failed; start it first")
}
