//! What the owner tells the service manager (sd_notify(3)): that it has adopted what was there, that it is alive, that it
//! ends. Without a service manager (`NOTIFY_SOCKET` not set) nothing is told and nothing is missed.
//!
//! The watchdog is fed from the owner's own loop and from nowhere else: an owner that hangs must be started again, and a
//! timer beside it would keep it alive. A pause between two rounds of the loop is one step of one tenant, at most some
//! seconds; the unit's `WatchdogSec` is a minute.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// While tenants are adopted the manager is told that often that the start goes on.
const PROGRESS: Duration = Duration::from_secs(1);
/// How long the start may take from the last word of progress.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the owner has before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Tenants that wait for a pass.
    pub waiting: usize,
    /// All tenants.
    pub tenants: usize,
    /// Tenants that are not as desired.
    pub failing: usize,
}

/// The owner's word to the service manager; see the module.
#[derive(Debug)]
pub struct Pulse {
    /// How often the watchdog is fed; none when the manager has none.
    every: Option<Duration>,
    fed: Option<Instant>,
    told: Option<Instant>,
    ready: bool,
    last: Option<Load>,
}

impl Pulse {
    /// As the environment says (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`).
    #[must_use]
    pub fn from_environment() -> Self {
        // A quarter, not the half that sd_watchdog_enabled(3) recommends: a long step may follow a word at once.
        let every = sd_notify::watchdog_enabled().map(|limit| limit / 4);
        Self { every, fed: None, told: None, ready: false, last: None }
    }

    /// Once a round of the owner's loop. The first time nobody waits, what was there is adopted: ready.
    pub fn beat(&mut self, load: Load) {
        for word in self.due(load, Instant::now()) {
            let status = in_words(load);
            let told = match word {
                Word::Ready => tell(&format!("READY=1\nSTATUS={status}")),
                Word::Progress => tell(&format!("STATUS={status}\nEXTEND_TIMEOUT_USEC={}", PATIENCE.as_micros())),
                Word::Status => tell(&format!("STATUS={status}")),
                Word::Alive => tell("WATCHDOG=1"),
            };
            if word == Word::Ready {
                // A full queue: said again at the next round.
                self.ready = told;
            }
        }
    }

    /// Waits until the watchdog is to be fed again, for ever where there is none. To be waited for in the owner's loop.
    pub async fn hungry(&self) {
        match (self.every, self.fed) {
            (Some(every), Some(fed)) => tokio::time::sleep_until((fed + every).into()).await,
            _ => std::future::pending().await,
        }
    }

    /// What is to be told now. Pure but for what it remembers.
    fn due(&mut self, load: Load, now: Instant) -> Vec<Word> {
        let past = |then: Option<Instant>, pause| then.is_none_or(|then| now.duration_since(then) >= pause);
        let mut words = Vec::new();
        if !self.ready && load.waiting == 0 {
            self.ready = true;
            words.push(Word::Ready);
        } else if !self.ready && past(self.told, PROGRESS) {
            words.push(Word::Progress);
        } else if self.ready && self.last.is_some_and(|last| differs(last, load)) && past(self.told, PROGRESS) {
            words.push(Word::Status);
        }
        if !words.is_empty() {
            self.told = Some(now);
            self.last = Some(load);
        }
        if let Some(every) = self.every
            && past(self.fed, every)
        {
            self.fed = Some(now);
            words.push(Word::Alive);
        }
        words
    }
}

/// The daemon begins to end: no more requests are taken.
pub fn stopping() {
    tell("STOPPING=1\nSTATUS=ending; tenants go on");
}

/// A step of the start, for `systemctl status`.
pub fn starting(step: &str) {
    tell(&format!("STATUS={step}"));
}

#[derive(Debug, PartialEq, Eq)]
enum Word {
    Ready,
    Progress,
    Status,
    Alive,
}

/// What changes with every pass is not worth a word.
fn differs(a: Load, b: Load) -> bool {
    (a.tenants, a.failing) != (b.tenants, b.failing)
}

fn in_words(load: Load) -> String {
    let Load { waiting, tenants, failing } = load;
    match (waiting, failing) {
        (0, 0) => format!("{tenants} tenants"),
        (0, _) => format!("{tenants} tenants, {failing} not as desired"),
        (_, 0) => format!("{tenants} tenants, {waiting} to be looked at"),
        _ => format!("{tenants} tenants, {waiting} to be looked at, {failing} not as desired"),
    }
}

/// Says whether the manager has it, or there is none. Never waits: a manager that is deaf must not stop the owner.
fn tell(message: &str) -> bool {
    match send(message) {
        Ok(()) => true,
        Err(error) => {
            // One that went away is no reason to stop serving.
            tracing::debug!(%error, "the service manager was not told");
            false
        }
    }
}

/// One datagram (sd_notify(3)). Not by a library: the one we use otherwise waits while the manager's queue is full.
fn send(message: &str) -> io::Result<()> {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&place)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulse(every: Option<u64>) -> Pulse {
        Pulse { every: every.map(Duration::from_secs), fed: None, told: None, ready: false, last: None }
    }

    fn load(waiting: usize) -> Load {
        Load { waiting, tenants: 7, failing: 0 }
    }

    #[test]
    fn ready_comes_once_and_after_the_first_passes() {
        let (mut pulse, start) = (pulse(None), Instant::now());
        assert_eq!(pulse.due(load(7), start), [Word::Progress]);
        assert_eq!(pulse.due(load(6), start + Duration::from_millis(10)), []);
        assert_eq!(pulse.due(load(2), start + PROGRESS), [Word::Progress]);
        assert_eq!(pulse.due(load(0), start + PROGRESS), [Word::Ready]);
        assert_eq!(pulse.due(load(7), start + PROGRESS * 5), [], "a later full pass is no start");
        assert_eq!(pulse.due(load(0), start + PROGRESS * 9), []);
        let failing = Load { failing: 1, ..load(0) };
        assert_eq!(pulse.due(failing, start + PROGRESS * 12), [Word::Status]);
    }

    #[test]
    fn the_watchdog_is_fed_by_rounds_only_and_not_by_each() {
        let (mut pulse, start) = (pulse(Some(10)), Instant::now());
        assert_eq!(pulse.due(load(0), start), [Word::Ready, Word::Alive]);
        assert_eq!(pulse.due(load(0), start + Duration::from_secs(9)), []);
        assert_eq!(pulse.due(load(0), start + Duration::from_secs(10)), [Word::Alive]);
    }

    #[test]
    fn status_names_what_is_not_zero() {
        assert_eq!(in_words(load(0)), "7 tenants");
        assert_eq!(
            in_words(Load { waiting: 3, tenants: 7, failing: 2 }),
            "7 tenants, 3 to be looked at, 2 not as desired"
        );
    }
}
