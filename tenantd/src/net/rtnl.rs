//! Rtnetlink in one namespace: a socket and one question at a time. The kernel answers inside the call that asks
//! (`rtnetlink_rcv` runs in `sendmsg`, the rest of a dump in `recvmsg`), so nothing here waits for anybody and nothing is
//! gained by a connection with a task of its own: with 4,000 stacks those were a descriptor, a task and two changes of
//! threads for every question (docs/decisions/0016).
//!
//! Opened in the namespace it is to speak to, used from anywhere.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};

/// The longest piece of an answer: the kernel fills at most 32 KiB (`netlink_dump`).
const PIECE: usize = 1 << 15;
/// A list that changes while it is read is read again, so often at most.
const TRIES: usize = 16;
/// `NLM_F_DUMP_INTR`: the list changed meanwhile.
const INTERRUPTED: u16 = 0x10;
/// `NETLINK_GET_STRICT_CHK`: the kernel leaves out what does not fit the question (4.20).
const STRICT: libc::c_int = 12;

/// A way to the devices, addresses and routes of one network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    next: AtomicU32,
}

impl Netlink {
    /// Opens it for the calling thread's network namespace.
    ///
    /// # Errors
    /// No descriptor, or no memory.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        let on: libc::c_int = 1;
        let length = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or(0);
        // SAFETY: system call on a live socket, a number and its length.
        let set =
            unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_NETLINK, STRICT, (&raw const on).cast(), length) };
        if set == 0 { Ok(Self { socket, next: AtomicU32::new(1) }) } else { Err(io::Error::last_os_error()) }
    }

    /// One question or change; what the kernel answered beside its acknowledgement.
    ///
    /// # Errors
    /// The kernel's own error number where it refused.
    pub fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let flags = NLM_F_REQUEST | flags | if dump { 0 } else { NLM_F_ACK };
        for _ in 0..TRIES {
            let number = self.send(message.clone(), flags)?;
            let (answers, whole) = self.answers(number, usize::MAX)?;
            if whole {
                return Ok(answers);
            }
        }
        Err(Errno::EAGAIN.into())
    }

    /// Everything of a kind.
    ///
    /// # Errors
    /// As [`Netlink::ask`].
    pub fn list(&self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.ask(message, NLM_F_DUMP)
    }

    /// Everything of a kind; nothing when there is more than `most` of it. What is left unread then ends with the socket:
    /// before that, nothing else can be listed by it.
    ///
    /// # Errors
    /// As [`Netlink::ask`].
    pub fn list_most(&self, message: RouteNetlinkMessage, most: usize) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
        for _ in 0..TRIES {
            let number = self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            match self.answers(number, most)? {
                (found, _) if found.len() > most => return Ok(None),
                (found, true) => return Ok(Some(found)),
                _ => {}
            }
        }
        Err(Errno::EAGAIN.into())
    }

    fn send(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<u32> {
        let mut message = NetlinkMessage::from(message);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (message.header.flags, message.header.sequence_number) = (flags, number);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        Ok(number)
    }

    /// The answers to one question, and whether they are all of one state. Of more than `most` no more is read.
    fn answers(&self, number: u32, most: usize) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
        let (mut found, mut whole) = (Vec::new(), true);
        let mut buffer = vec![0; PIECE];
        loop {
            if found.len() > most {
                return Ok((found, whole));
            }
            // Everything is there already: an empty queue would be a kernel that answers otherwise, not one that is slow.
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC)?;
            let mut rest = buffer.get(..length).ok_or(Errno::EMSGSIZE)?;
            while !rest.is_empty() {
                let bad = |error| io::Error::new(io::ErrorKind::InvalidData, error);
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(bad)?;
                let length = usize::try_from(answer.header.length).unwrap_or(usize::MAX).max(16).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                // What a question before left unread.
                if answer.header.sequence_number != number {
                    continue;
                }
                whole &= answer.header.flags & INTERRUPTED == 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => found.push(message),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok((found, whole)),
                    _ => {}
                }
            }
        }
    }
}
