//! Refusals of the guard as the daemon tells them: one thread reads the guard's events for all tenants and hands them to
//! the owner, who knows whose stack is whose. How many of one tenant are told in a second is bounded here as it is in the
//! kernel; those left out are counted and said with the next one, and the counters of a tenant's status count them all.
//!
//! The events wait in a pinned buffer: what was refused while no daemon ran is told by the next one. There is one reader
//! because there is one daemon of an instance (it holds the lock).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use stack_guard::{Event, Events, Refusal};
use stackmap::TenantName;
use utoipa::ToSchema;

use crate::control::Handle;

/// Refusals of one tenant told in one [`WINDOW`].
const PER_WINDOW: u32 = 20;
/// See [`PER_WINDOW`].
const WINDOW: Duration = Duration::from_secs(1);
/// How long the thread sleeps at most before it looks whether the daemon is still there.
const SLEEP: Duration = Duration::from_secs(5);

/// A refusal of the guard; or a `listen` that could not be refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuardRefusal {
    /// Process id as the host sees it; 0: it was a packet, not a process.
    pub pid: u32,
    /// Real user id as the host sees it.
    pub uid: u32,
    /// Real group id as the host sees it.
    pub gid: u32,
    /// What the process calls itself.
    pub command: String,
    /// Where it was refused, such as `sock_create`, `connect4`.
    pub hook: String,
    /// Why, such as `stranger`, `not_own_stack`.
    pub reason: String,
    /// The tenant whose stack was wanted; none: a stack of no tenant, such as the host's.
    pub wanted: Option<String>,
    /// Cookie of the network namespace that was wanted.
    pub wanted_cookie: u64,
    /// The tenant the process belongs to; none: no tenant.
    pub owner: Option<String>,
    /// Port bound, connected to or listened on; 0: none yet.
    pub port: u16,
}

impl GuardRefusal {
    /// An event with the names of tenants in place of cookies.
    pub fn new(event: &Event, name: impl Fn(u64) -> Option<TenantName>) -> Self {
        let text = |cookie: u64| name(cookie).map(|name| name.to_string());
        Self {
            pid: event.pid,
            uid: event.uid,
            gid: event.gid,
            // A process calls itself what it likes: nothing of it must look like a line of the log.
            command: event.comm.escape_debug().to_string(),
            hook: event.hook.name().to_owned(),
            reason: event.refusal.name().to_owned(),
            wanted: text(event.wanted),
            wanted_cookie: event.wanted,
            owner: event.owner.and_then(text),
            port: event.port,
        }
    }

    /// The tenant it is about: whose process it was, else whose stack was wanted.
    pub fn tenant(&self) -> Option<&str> {
        self.owner.as_deref().or(self.wanted.as_deref())
    }

    /// In words.
    pub fn words(&self) -> String {
        let whose =
            |tenant: &Option<String>| tenant.as_ref().map_or_else(|| "no tenant".into(), |t| format!("tenant {t}"));
        let wanted = match &self.wanted {
            Some(tenant) => format!("the stack of {tenant}"),
            None => format!("a stack of no tenant (cookie {})", self.wanted_cookie),
        };
        let port = if self.port == 0 { String::new() } else { format!(", port {}", self.port) };
        format!(
            "process {} ({}, uid {}, gid {}) of {} wanted {wanted}: {} at {}{port}",
            self.pid,
            self.command,
            self.uid,
            self.gid,
            whose(&self.owner),
            self.reason,
            self.hook,
        )
    }
}

/// What the guard counted of a tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantRefusals {
    /// TCP connections it has now.
    pub connections: u64,
    /// Refusals by reason: of its processes, and of processes of no tenant that wanted its stack.
    pub refused: BTreeMap<String, u64>,
    /// Of these, how many the kernel told nobody one by one.
    pub not_told: u64,
}

/// Kind of the event of the daemon.
pub fn kind(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Listen => "guard-listen",
        _ => "guard-refused",
    }
}

/// How many were told of each tenant lately, and how many were not.
#[derive(Debug, Default)]
pub struct Bound {
    told: BTreeMap<Option<TenantName>, Window>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    told: u32,
    left_out: u64,
}

impl Bound {
    /// Whether one more of `tenant` may be told now; then with the number of those left out before.
    pub fn may_tell(&mut self, tenant: Option<&TenantName>, now: Instant) -> Option<u64> {
        // A tenant that is gone leaves its row; there are never more than were refused something in this window.
        self.told.retain(|_, window| now.duration_since(window.since) < WINDOW || window.left_out > 0);
        let fresh = || Window { since: now, told: 0, left_out: 0 };
        let window = self.told.entry(tenant.cloned()).or_insert_with(fresh);
        if now.duration_since(window.since) >= WINDOW {
            (window.since, window.told) = (now, 0);
        }
        if window.told >= PER_WINDOW {
            window.left_out += 1;
            return None;
        }
        window.told += 1;
        Some(std::mem::take(&mut window.left_out))
    }

    /// Those left out of windows that have ended; each is given once.
    pub fn left_out(&mut self, now: Instant) -> Vec<(Option<TenantName>, u64)> {
        let ended = |window: &Window| window.left_out > 0 && now.duration_since(window.since) >= WINDOW;
        let ended = self.told.extract_if(.., |_, window| ended(window));
        ended.map(|(tenant, window)| (tenant, window.left_out)).collect()
    }
}

/// Reads events on a thread of its own until the daemon ends.
///
/// # Errors
/// The thread cannot be started.
pub fn watch(mut events: Events, handle: Handle) -> std::io::Result<()> {
    let read = move || {
        while handle.is_open() {
            match events.wait(SLEEP) {
                Ok(taken) if taken.is_empty() => {}
                Ok(taken) => {
                    if handle.refused(taken).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "refusals of the guard are counted but not told any more");
                    return;
                }
            }
        }
    };
    std::thread::Builder::new().name("guard-events".into()).spawn(read).map(drop)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use stack_guard::Hook;

    fn name(text: &str) -> TenantName {
        text.parse().unwrap()
    }

    #[test]
    fn one_tenant_does_not_silence_another_and_nothing_is_lost_uncounted() {
        let (mut bound, start) = (Bound::default(), Instant::now());
        let (a, b) = (name("a"), name("b"));
        let told = (0..1000).filter(|_| bound.may_tell(Some(&a), start).is_some()).count();
        assert_eq!(told, PER_WINDOW as usize);
        assert_eq!(bound.may_tell(Some(&b), start), Some(0));
        assert_eq!(bound.may_tell(None, start), Some(0));
        assert_eq!(bound.left_out(start), [], "the window has not ended");
        let later = start + WINDOW;
        assert_eq!(bound.may_tell(Some(&a), later), Some(1000 - u64::from(PER_WINDOW)));
        assert_eq!(bound.may_tell(Some(&a), later), Some(0));
        for _ in 0..30 {
            bound.may_tell(Some(&b), later);
        }
        assert_eq!(bound.left_out(later + WINDOW), [(Some(b), 10)]);
        assert_eq!(bound.left_out(later + WINDOW), []);
    }

    #[test]
    fn words_and_whose() {
        let event = |owner: Option<u64>, wanted| Event {
            time: Duration::ZERO,
            refusal: Refusal::Stranger,
            hook: Hook::Connect4,
            wanted,
            owner,
            other: None,
            pid: 4711,
            uid: 1000,
            gid: 524_288,
            comm: "n\nc".into(),
            family: 2,
            protocol: 6,
            port: 80,
        };
        let names = |cookie| match cookie {
            7 => Some(name("acme")),
            8 => Some(name("bcme")),
            _ => None,
        };
        let stranger = GuardRefusal::new(&event(None, 7), names);
        assert_eq!(
            stranger.words(),
            "process 4711 (n\\nc, uid 1000, gid 524288) of no tenant wanted the stack of acme: stranger at connect4, port 80"
        );
        assert_eq!(stranger.tenant(), Some("acme"));
        assert_eq!(GuardRefusal::new(&event(Some(8), 99), names).tenant(), Some("bcme"));
        assert_eq!(GuardRefusal::new(&event(Some(8), 7), names).tenant(), Some("bcme"));
        assert_eq!(kind(Refusal::Listen), "guard-listen");
        assert_eq!(kind(Refusal::Stranger), "guard-refused");
    }
}
