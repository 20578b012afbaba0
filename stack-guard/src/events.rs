//! Refusals one by one: the ring buffer of `src/bpf/events.h`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};

use crate::refusal::{Hook, Refusal};
use crate::skel::guard::types::event;
use crate::tables::plain;

/// Something was refused, or, with [`Refusal::Listen`], could not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When: CLOCK_MONOTONIC.
    pub time: Duration,
    /// Why.
    pub refusal: Refusal,
    /// Where.
    pub hook: Hook,
    /// Cookie of the namespace whose socket was wanted: a stack or not.
    pub wanted: u64,
    /// Cookie of the stack the process belongs to.
    pub owner: Option<u64>,
    /// With [`Refusal::Contradiction`], the other one.
    pub other: Option<u64>,
    /// Process id in the initial pid namespace. 0 with [`Refusal::ConnectionsIn`], which is a packet of no process.
    pub pid: u32,
    /// Real user id, as the host sees it.
    pub uid: u32,
    /// Real group id, as the host sees it; not always the one that told the owner.
    pub gid: u32,
    /// The command, up to 15 bytes, as the process likes to call itself.
    pub comm: String,
    /// Address family of the socket: AF_INET or AF_INET6.
    pub family: u32,
    /// Protocol of the socket, 0 where `socket` was asked for the default.
    pub protocol: u32,
    /// Port bound or connected to, or listened on; 0: there is none, or the kernel was to choose.
    pub port: u16,
}

/// The events could not be opened or read.
#[derive(Debug, thiserror::Error)]
#[error("{step} the event buffer")]
pub struct EventsError {
    step: &'static str,
    #[source]
    source: libbpf_rs::Error,
}

impl Event {
    /// None: of a newer program.
    fn new(row: &event) -> Option<Self> {
        let some = |cookie: u64| (cookie != 0).then_some(cookie);
        let comm: Vec<u8> = row.comm.iter().take_while(|&&byte| byte != 0).map(|&byte| byte.cast_unsigned()).collect();
        Some(Self {
            time: Duration::from_nanos(row.time),
            refusal: Refusal::from_number(row.refusal)?,
            hook: Hook::from_number(row.hook)?,
            wanted: row.wanted,
            owner: some(row.owner),
            other: some(row.other),
            pid: row.pid,
            uid: row.uid,
            gid: row.gid,
            comm: String::from_utf8_lossy(&comm).into_owned(),
            family: row.family,
            protocol: row.protocol,
            port: u16::try_from(row.port).unwrap_or(0),
        })
    }
}

/// The reader of a guard's events. There is one buffer a guard: what one reader took no other sees, and what nobody read
/// before is still there. Its descriptor is readable when there are events (for `tokio::io::unix::AsyncFd` and the like).
#[derive(Debug)]
pub struct Events {
    ring: RingBuffer<'static>,
    taken: Receiver<Event>,
}

impl Events {
    pub(crate) fn new(map: &MapHandle) -> Result<Self, EventsError> {
        let failed = |source| EventsError { step: "open", source };
        let (sender, taken) = channel();
        let mut builder = RingBufferBuilder::new();
        let take = move |bytes: &[u8]| {
            // The receiver lives as long as the ring buffer, in the same struct.
            if let Some(event) = plain(bytes).as_ref().and_then(Event::new) {
                let _ = sender.send(event);
            }
            0
        };
        builder.add(map, take).map_err(failed)?;
        let ring = builder.build().map_err(failed)?;
        Ok(Self { ring, taken })
    }

    /// What has happened since the last call, oldest first. Does not wait.
    pub fn take(&mut self) -> Result<Vec<Event>, EventsError> {
        self.ring.consume().map_err(|source| EventsError { step: "read", source })?;
        Ok(self.taken.try_iter().collect())
    }

    /// As [`Self::take`], but waits up to `timeout` for the first.
    pub fn wait(&mut self, timeout: Duration) -> Result<Vec<Event>, EventsError> {
        match self.ring.poll(timeout) {
            Err(e) if e.kind() == libbpf_rs::ErrorKind::Interrupted => {}
            Err(source) => return Err(EventsError { step: "poll", source }),
            Ok(()) => {}
        }
        self.take()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.epoll_fd()
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the ring buffer's, which lives as long as self.
        unsafe { BorrowedFd::borrow_raw(self.ring.epoll_fd()) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_event_as_the_program_writes_it() {
        let mut row = event { time: 5_000_000_001, wanted: 7, pid: 4, uid: 1, gid: 2, ..event::default() };
        (row.hook, row.refusal, row.family, row.protocol, row.port) = (4, 3, 2, 6, 80);
        row.comm[..2].copy_from_slice(&[0x6e, 0x63]);
        let event = Event::new(&row).unwrap();
        assert_eq!((event.hook, event.refusal), (Hook::Connect4, Refusal::Stranger));
        assert_eq!((event.owner, event.other, event.wanted), (None, None, 7));
        assert_eq!((event.comm.as_str(), event.port, event.time.as_nanos()), ("nc", 80, 5_000_000_001));
        row.hook = 15;
        assert_eq!(Event::new(&row), None);
    }
}
