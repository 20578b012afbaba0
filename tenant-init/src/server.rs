//! The control socket: connections, messages in, answers out. It understands the protocol and decides nothing.
//!
//! A client that sends garbage gets an error; one that does not read, dies, or is not root loses its connection.
//! None of it reaches the services.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{Backlog, MsgFlags, SockFlag, accept4, getsockopt, listen, recv, send};
use tenant_init::protocol::{Answer, Envelope, Event, MAX_MESSAGE, PROTOCOL, Refusal, RefusalKind, Reply, Request};

/// A message longer than this (bytes) leaves more free memory behind than an init should keep.
const LONG: usize = 8 * 1024;

/// Connections at a time; more are refused by closing.
const MOST: usize = 32;

/// One client.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Never used twice.
    pub(crate) id: u64,
    socket: OwnedFd,
    subscribed: bool,
}

/// The listening socket and its clients.
#[derive(Debug)]
pub(crate) struct Server {
    listener: OwnedFd,
    connections: Vec<Connection>,
    last_id: u64,
}

/// What was read from a connection.
pub(crate) enum Incoming {
    /// A request with its id.
    Request(u64, Request),
    /// An error to be answered.
    Bad(u64, Refusal),
    /// Nothing to read now.
    Nothing,
    /// The client is gone.
    Gone,
}

impl Server {
    /// Takes over the socket that the daemon bound. Listening once more makes init the peer whose credentials
    /// connecting clients see.
    pub(crate) fn new(listener: OwnedFd) -> io::Result<Server> {
        listen(&listener, Backlog::new(16)?)?;
        // Nonblocking, or a client that connects and goes away between poll and accept would hang init.
        nix::fcntl::fcntl(&listener, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        Ok(Server { listener, connections: Vec::new(), last_id: 0 })
    }

    /// The listening socket, for poll.
    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The clients, for poll.
    pub(crate) fn connections(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.connections.iter().map(|one| (one.id, one.socket.as_fd()))
    }

    /// Takes every client that waits.
    pub(crate) fn accept(&mut self) {
        while let Ok(fd) = accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
            // SAFETY: the kernel just gave us this descriptor.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            // The host's root is nobody here. Who it really is was asked at the socket's file, which is root's alone
            // and outside of every path of the tenant.
            let root = getsockopt(&socket, PeerCredentials).is_ok_and(|peer| matches!(peer.uid(), 0 | 65_534));
            if self.connections.len() >= MOST {
                // Some may have gone without our having looked yet.
                self.connections.retain(|one| !hung_up(one));
            }
            if root && self.connections.len() < MOST {
                self.last_id += 1;
                self.connections.push(Connection { id: self.last_id, socket, subscribed: false });
            }
        }
    }

    /// Reads one message of a connection.
    pub(crate) fn read(&mut self, id: u64) -> Incoming {
        let Some(connection) = self.connections.iter().find(|one| one.id == id) else {
            return Incoming::Nothing;
        };
        let fd = connection.socket.as_raw_fd();
        // MSG_TRUNC: the true length. A buffer of that length and no longer, because most messages are short and what
        // a long one has touched would stay with init.
        let length = match recv(fd, &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC) {
            Ok(0) => return Incoming::Gone,
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => return Incoming::Nothing,
            Err(_) => return Incoming::Gone,
        };
        let mut message = vec![0; length.min(MAX_MESSAGE)];
        match recv(fd, &mut message, MsgFlags::MSG_TRUNC) {
            Ok(_) if length > MAX_MESSAGE => Incoming::Bad(
                0,
                not_understood("message", &format!("{length} bytes"), &format!("at most {MAX_MESSAGE} bytes")),
            ),
            Ok(_) => {
                let incoming = parse(&message);
                drop(message);
                if length > LONG {
                    // SAFETY: gives free memory back to the kernel; there is one thread.
                    unsafe { libc::malloc_trim(0) };
                }
                incoming
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Incoming::Nothing,
            Err(_) => Incoming::Gone,
        }
    }

    /// Sends an answer; a client that does not take it is dropped.
    pub(crate) fn answer(&mut self, connection: u64, id: u64, reply: Reply) {
        let Some(position) = self.connections.iter().position(|one| one.id == connection) else {
            return;
        };
        if !deliver(&self.connections[position], &Answer { protocol: PROTOCOL, id, reply }) {
            self.connections.swap_remove(position);
        }
    }

    /// Sends an event to every connection that subscribed.
    pub(crate) fn publish(&mut self, event: Event) {
        if !self.connections.iter().any(|one| one.subscribed) {
            return;
        }
        let answer = Answer { protocol: PROTOCOL, id: 0, reply: Reply::Event(event) };
        self.connections.retain(|one| !one.subscribed || deliver(one, &answer));
    }

    /// From now on the connection gets events.
    pub(crate) fn subscribe(&mut self, connection: u64) {
        if let Some(one) = self.connections.iter_mut().find(|one| one.id == connection) {
            one.subscribed = true;
        }
    }

    /// Forgets a connection.
    pub(crate) fn drop_connection(&mut self, connection: u64) {
        self.connections.retain(|one| one.id != connection);
    }
}

fn hung_up(connection: &Connection) -> bool {
    let mut fds = [PollFd::new(connection.socket.as_fd(), PollFlags::empty())];
    let asked = poll(&mut fds, PollTimeout::ZERO);
    asked.is_ok() && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

fn deliver(connection: &Connection, answer: &Answer) -> bool {
    let Ok(message) = serde_json::to_vec(answer) else {
        return false;
    };
    send(connection.socket.as_raw_fd(), &message, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT).is_ok()
}

fn parse(message: &[u8]) -> Incoming {
    if let Ok(envelope) = serde_json::from_slice::<Envelope>(message)
        && (envelope.protocol == PROTOCOL || envelope.request == Request::Hello)
    {
        return Incoming::Request(envelope.id, envelope.request);
    }
    // In two steps, so that a request that we do not know is answered to its id.
    let value = match serde_json::from_slice::<serde_json::Value>(message) {
        Ok(value) => value,
        Err(error) => {
            return Incoming::Bad(0, not_understood("message", "", &format!("JSON ({error})")));
        }
    };
    let id = value.get("id").and_then(serde_json::Value::as_u64).unwrap_or(0);
    let verb = value.pointer("/request/do").and_then(serde_json::Value::as_str).unwrap_or("").to_owned();
    let protocol = value.get("protocol").and_then(serde_json::Value::as_u64);
    // Anyone may ask who we are; everything else needs the same protocol.
    if protocol != Some(u64::from(PROTOCOL)) && verb != "hello" {
        let number = protocol.map_or_else(String::new, |number| number.to_string());
        return Incoming::Bad(id, not_understood("protocol", &number, &format!("this init speaks {PROTOCOL}")));
    }
    match serde_json::from_value::<Envelope>(value) {
        Ok(envelope) => Incoming::Request(envelope.id, envelope.request),
        Err(error) => Incoming::Bad(id, not_understood("request", &verb, &error.to_string())),
    }
}

fn not_understood(field: &str, value: &str, rule: &str) -> Refusal {
    Refusal::new(RefusalKind::NotUnderstood, field, value, rule)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn bad(message: &str) -> (u64, Refusal) {
        match parse(message.as_bytes()) {
            Incoming::Bad(id, refusal) => (id, refusal),
            _ => panic!("{message} was taken"),
        }
    }

    #[test]
    fn what_is_not_understood_is_answered_to_its_id() {
        assert_eq!(bad("hello").0, 0);
        assert_eq!(bad("[]").0, 0);
        assert_eq!(bad(r#"{"protocol":1,"id":4,"request":{"do":"fly"}}"#).0, 4);
        let (id, refusal) = bad(r#"{"protocol":2,"id":5,"request":{"do":"list"}}"#);
        assert_eq!((id, refusal.field.as_str(), refusal.value.as_str()), (5, "protocol", "2"));
        let (_, refusal) = bad(r#"{"protocol":1,"id":6,"request":{"do":"list","all":true},"more":1}"#);
        assert_eq!(refusal.kind, RefusalKind::NotUnderstood);
    }

    #[test]
    fn hello_is_answered_to_every_protocol() {
        let message = br#"{"protocol":9,"id":1,"request":{"do":"hello"}}"#;
        assert!(matches!(parse(message), Incoming::Request(1, Request::Hello)));
    }
}
