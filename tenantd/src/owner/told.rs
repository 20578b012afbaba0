//! What the kernel told: noted at once, acted upon a moment later, never more often than makes sense.

use std::time::Duration;

use tokio::time::Instant;

use super::Owner;
use super::heed::Heard;
use crate::kernel::{Kernel, KernelEvent, Whose};

/// How long after the first event about a trunk all of them are looked at.
const PAUSE: Duration = Duration::from_millis(20);
/// Least time between two looks at everything because events were lost: whoever can make the kernel tell much must not
/// keep the daemon busy with all tenants.
const OVERRUN_PAUSE: Duration = Duration::from_secs(10);

/// When what many tenants share is looked at.
#[derive(Debug, Default)]
pub(super) struct Commons {
    trunk_due: Option<Instant>,
    all_due: Option<Instant>,
    overrun_before: Option<Instant>,
}

/// Waits for a moment; without one for ever.
pub(super) async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

impl<K: Kernel> Owner<K> {
    /// Notes what was told.
    pub(super) fn kernel_told(&mut self, event: KernelEvent) {
        let now = Instant::now();
        match event {
            KernelEvent::InitEnded { tenant, pid } => {
                self.kernel.forget_seat(&tenant, pid);
                if self.desired.contains_key(&tenant) {
                    self.tell("tenant-changed", Some(&tenant), format!("init {pid} ended"));
                    // Its root may end it, and again when it has been started again.
                    if self.heed.heard(&tenant, now) == Heard::Paced {
                        let words = "its init ends again and again: looked at every few seconds only";
                        self.tell("repairs-paced", Some(&tenant), words.into());
                    }
                }
            }
            KernelEvent::InitAnswers { tenant, pid } => {
                self.kernel.init_answers(&tenant, pid);
                if self.desired.contains_key(&tenant) {
                    self.turns.first(tenant);
                }
            }
            KernelEvent::Unanswered { tenant, error } => {
                if self.desired.get(&tenant).is_some_and(|desired| !desired.removing) {
                    self.failed(&tenant, "probe", &error);
                }
            }
            KernelEvent::Changed(changes) => {
                for changed in changes {
                    match self.kernel.whose(&changed) {
                        Whose::Tenant(name) if self.desired.contains_key(&name) => {
                            if self.heed.heard(&name, now) == Heard::Paced {
                                let words = "its stack is changed all the time: looked at every few seconds only";
                                self.tell("repairs-paced", Some(&name), words.into());
                            }
                        }
                        Whose::Trunk => drop(self.commons.trunk_due.get_or_insert(now + PAUSE)),
                        Whose::Tenant(_) | Whose::Nobody => {}
                    }
                }
            }
            KernelEvent::Overrun => {
                let not_before = self.commons.overrun_before.map_or(now, |before| before + OVERRUN_PAUSE);
                if self.commons.all_due.is_none() {
                    self.commons.all_due = Some(not_before.max(now));
                    tracing::warn!("the kernel told more than could be heard: every tenant is looked at");
                    self.tell("overrun", None, "events of the kernel were lost: every tenant is looked at".into());
                }
            }
        }
    }

    /// When something is to be looked at because of what was told.
    pub(super) fn next_look(&self) -> Option<Instant> {
        [self.heed.next(), self.commons.trunk_due, self.commons.all_due].into_iter().flatten().min()
    }

    /// Somebody's moment has come.
    pub(super) async fn look(&mut self) {
        let now = Instant::now();
        for name in self.heed.due(now) {
            self.turns.first(name);
        }
        if self.commons.all_due.take_if(|due| *due <= now).is_some() {
            self.commons.overrun_before = Some(now);
            self.look_at_all();
            self.commons.trunk_due = Some(now);
        }
        if self.commons.trunk_due.take_if(|due| *due <= now).is_some() {
            self.mend_trunks().await;
        }
    }

    /// Every tenant gets a turn.
    pub(super) fn look_at_all(&mut self) {
        for name in self.desired.keys() {
            self.turns.last(name.clone());
        }
    }
}
