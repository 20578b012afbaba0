//! When a tenant about which the kernel told something is looked at. Pure: the clock is an argument.
//!
//! Events come in bursts (a device that goes takes its addresses and routes along), so a tenant is looked at a moment
//! after the first one. Whoever changes something of a tenant all the time - its own administrator may, where the stack
//! is its own - is followed at once for a while and then at a steady pace: what is desired is put back, but nobody can
//! keep the daemon busy, and no other tenant waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stackmap::TenantName;
use tokio::time::Instant;

/// How long after the first event: the others of a burst have arrived then.
const PAUSE: Duration = Duration::from_millis(20);
/// Looks that a tenant can have at once.
const AT_ONCE: u32 = 20;
/// One more look is allowed after each of these.
const EACH: Duration = Duration::from_secs(3);

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// The tenant is looked at soon, because of this one or of one before.
    Soon,
    /// It has had its looks and waits for the next; said once a time.
    Paced,
}

/// Who is to be looked at, and when.
#[derive(Debug, Default)]
pub(super) struct Heed {
    due: BTreeMap<TenantName, Instant>,
    order: BTreeSet<(Instant, TenantName)>,
    pace: BTreeMap<TenantName, Pace>,
}

/// Looks that a tenant has had.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// When all of its looks would be allowed again if it had no more.
    full: Instant,
    told: bool,
}

impl Heed {
    /// Something of a tenant changed.
    pub(super) fn heard(&mut self, name: &TenantName, now: Instant) -> Heard {
        if self.due.contains_key(name) {
            return Heard::Soon;
        }
        let pace = self.pace.entry(name.clone()).or_insert(Pace { full: now, told: false });
        pace.full = pace.full.max(now) + EACH;
        let most = EACH * AT_ONCE;
        let wait = (pace.full - now).saturating_sub(most);
        let at = now + wait.max(PAUSE);
        self.due.insert(name.clone(), at);
        self.order.insert((at, name.clone()));
        match wait.is_zero() || std::mem::replace(&mut pace.told, true) {
            true => Heard::Soon,
            false => Heard::Paced,
        }
    }

    /// The moment at which somebody is to be looked at.
    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Those whose moment has come; they are forgotten.
    pub(super) fn due(&mut self, now: Instant) -> Vec<TenantName> {
        let mut names = Vec::new();
        while self.order.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, name)) = self.order.pop_first() else { break };
            self.due.remove(&name);
            names.push(name);
        }
        let due = &self.due;
        self.pace.retain(|name, pace| pace.full > now || due.contains_key(name));
        names
    }

    /// A tenant that is gone.
    pub(super) fn forget(&mut self, name: &TenantName) {
        if let Some(at) = self.due.remove(name) {
            self.order.remove(&(at, name.clone()));
        }
        self.pace.remove(name);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn name(text: &str) -> TenantName {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_is_one_look_a_moment_later() {
        let (mut heed, now) = (Heed::default(), Instant::now());
        for _ in 0..1000 {
            assert_eq!(heed.heard(&name("acme"), now), Heard::Soon);
        }
        assert_eq!(heed.next(), Some(now + PAUSE));
        assert!(heed.due(now).is_empty(), "not before");
        assert_eq!(heed.due(now + PAUSE), [name("acme")]);
        assert!(heed.due(now + PAUSE).is_empty() && heed.next().is_none());
    }

    #[test]
    fn who_never_rests_is_looked_at_every_few_seconds_and_that_is_said_once() {
        let (mut heed, start) = (Heed::default(), Instant::now());
        let (mut looks, mut paced) = (0, 0);
        let mut now = start;
        while now < start + Duration::from_secs(600) {
            paced += usize::from(heed.heard(&name("busy"), now) == Heard::Paced);
            looks += heed.due(now).len();
            now += Duration::from_millis(10);
        }
        assert_eq!(paced, 1);
        // The first twenty, then one every three seconds.
        assert!((215..=225).contains(&looks), "{looks}");
        assert_eq!(heed.heard(&name("acme"), now), Heard::Soon, "nobody else is");
        let rested = now + EACH * (AT_ONCE + 2);
        heed.due(rested);
        assert!(heed.pace.is_empty(), "who rests is forgotten");
        assert_eq!(heed.heard(&name("busy"), rested), Heard::Soon);
    }
}
