//! What the daemon tells the service manager (sd_notify(3)). Without one (`NOTIFY_SOCKET` not set) nothing is told.
//!
//! The watchdog is fed from the owner's own loop and from nowhere else: an owner that hangs must be started again, and a
//! task beside it would keep it alive.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior};
use tracing::debug;

/// How long to wait for a manager whose queue is full.
const AGAIN: Duration = Duration::from_millis(50);

/// When the owner feeds the watchdog.
#[derive(Debug)]
pub struct Pulse(Option<Interval>);

impl Pulse {
    /// As the environment says (`WATCHDOG_USEC`, `WATCHDOG_PID`). Needs a running event loop.
    #[must_use]
    pub fn from_environment() -> Self {
        // A quarter, not the half that sd_watchdog_enabled(3) recommends: writing 4,000 rows may follow a word at once.
        let interval = sd_notify::watchdog_enabled().map(|limit| {
            let mut interval = tokio::time::interval((limit / 4).max(Duration::from_millis(1)));
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        Self(interval)
    }

    /// Waits until the watchdog is to be fed and feeds it; for ever where there is none.
    pub async fn beat(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
                tell("WATCHDOG=1");
            }
            None => std::future::pending().await,
        }
    }
}

/// Rows are read back, programs are in place, the API is served. Said again while the manager's queue is full.
pub async fn ready(status: &str) {
    let message = format!("READY=1\nSTATUS={status}");
    while !tell(&message) {
        tokio::time::sleep(AGAIN).await;
    }
}

/// The daemon begins to end.
pub fn stopping() {
    tell("STOPPING=1\nSTATUS=ending; the data path goes on");
}

/// False when the manager's queue is full. Never waits: a manager that is deaf must not stop the owner.
fn tell(message: &str) -> bool {
    match send(message) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        Err(error) => {
            // One that went away is no reason to stop serving.
            debug!(%error, "the service manager was not told");
            true
        }
        Ok(()) => true,
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
