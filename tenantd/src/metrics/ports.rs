//! Listening ports of all stacks, looked for in the background. The kernel has one table of listeners for the whole
//! machine and goes through it for each stack that is asked about, so a look at 4,000 stacks takes a second of
//! processor time: too much for a scrape. A look begins when somebody scrapes and the last one is old, works a tenth of
//! the time, and is over before the next one begins; nobody scrapes, nobody looks.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use super::roster::{Listening, Seated};
use crate::net::diag::{Diag, Transport};

/// A look that is younger is good enough.
const FRESH: Duration = Duration::from_secs(15);
/// For each part of its time that it works the thread sleeps so many.
const REST: u32 = 9;

/// What was found, by inode of the network namespace.
#[derive(Debug, Default)]
struct Table {
    ports: HashMap<u64, Listening>,
    /// When the look began from which it is.
    begun: Option<Instant>,
    /// A look is under way.
    looking: bool,
}

/// Looks, and remembers what it saw last.
#[derive(Debug, Clone, Default)]
pub(super) struct Ports {
    table: Arc<Mutex<Table>>,
}

impl Ports {
    /// What is known, and since when; begins a look when that is old.
    pub(super) fn known(&self, seats: impl Iterator<Item = Seated>) -> (HashMap<u64, Listening>, Option<Duration>) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let old = table.begun.is_none_or(|begun| begun.elapsed() >= FRESH);
        if old && !table.looking {
            let (shared, seats) = (self.clone(), seats.collect::<Vec<_>>());
            // A thread of its own: it goes through stacks and ends in one of them.
            let started = std::thread::Builder::new().name("ports".into()).spawn(move || shared.look(&seats));
            table.looking = started.is_ok();
        }
        (table.ports.clone(), table.begun.map(|begun| begun.elapsed()))
    }

    fn look(&self, seats: &[Seated]) {
        let begun = Instant::now();
        let mut ports = HashMap::with_capacity(seats.len());
        for seat in seats {
            let at = Instant::now();
            // One that cannot be looked at has just ended, or will be seen next time.
            if let Ok(found) = listening(*seat) {
                ports.insert(seat.inode, found);
            }
            std::thread::sleep(at.elapsed() * REST);
        }
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        *table = Table { ports, begun: Some(begun), looking: false };
    }
}

/// Ports of one stack. Leaves the calling thread in it.
fn listening(seat: Seated) -> io::Result<Listening> {
    let space = File::open(format!("/proc/{}/ns/net", seat.pid))?;
    // The number may be another process's by now.
    if nix::sys::stat::fstat(space.as_fd())?.st_ino != seat.inode {
        return Err(io::ErrorKind::NotFound.into());
    }
    setns(&space, CloneFlags::CLONE_NEWNET)?;
    let diag = Diag::open()?;
    let count = |transport| Ok::<_, io::Error>(diag.listening(transport)?.len() as u64);
    Ok(Listening { tcp: count(Transport::Tcp)?, udp: count(Transport::Udp)? })
}
