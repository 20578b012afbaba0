//! What the kernel tells by itself: that somebody made, changed or deleted a device, address, route, neighbour,
//! queueing discipline or filter in the patch room or in any tenant's stack.
//!
//! One socket for all of them: it lives in the patch room and hears every namespace that the room has a number for
//! (`NETLINK_LISTEN_ALL_NSID`, Linux 4.2); a namespace gets one when a veth leads into it. So a tenant costs neither a
//! descriptor nor a task here. A filter on the socket keeps out what cannot concern us: neighbours that come and go,
//! routes of others. What does not fit into its buffer the kernel drops, and says so once: [`KernelEvent::Overrun`].

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkAttribute;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, setsockopt, socket, sockopt,
};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::kernel::KernelEvent;

/// Groups (linux/rtnetlink.h, `RTNLGRP_*`): link, neighbour, traffic control, IPv4 and IPv6 addresses and routes.
const GROUPS: [u32; 7] = [1, 3, 4, 5, 7, 9, 11];
/// linux/netlink.h.
const NETLINK_LISTEN_ALL_NSID: libc::c_int = 8;
/// Bytes that wait to be read. A message takes about 1.5 KiB of it: 4,000 tenants whose devices go at the same moment
/// fit.
const BUFFER: usize = 16 << 20;
/// The longest message: of a device, with all its statistics.
const MESSAGE_MAX: usize = 32 << 10;
/// Messages read in one round. They are counted, and not the changes in them: whoever makes the same change again and
/// again adds nothing to a set.
const ROUND: usize = 1024;

/// Which namespace a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The patch room itself.
    Room,
    /// The namespace that the patch room knows by this number.
    Numbered(i32),
}

/// Something changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Changed {
    /// Where.
    pub place: Place,
    /// Index of the device; 0: not told.
    pub index: u32,
    /// Its name, where a device itself changed.
    pub device: Option<String>,
}

/// Why nobody listens.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen to the kernel: cannot {step}")]
pub struct ListenError {
    /// What was tried.
    pub step: &'static str,
    /// Cause.
    #[source]
    pub source: io::Error,
}

/// Opens the socket in the network namespace of the calling thread, with a buffer of `buffer` bytes if one is given.
///
/// # Errors
/// [`ListenError`].
pub fn open(buffer: Option<usize>) -> Result<OwnedFd, ListenError> {
    let failed = |step| move |source: nix::Error| ListenError { step, source: source.into() };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)
        .map_err(failed("open a netlink socket"))?;
    let bytes = buffer.unwrap_or(BUFFER);
    // Beyond what everybody may have; without the right to that, what everybody may have.
    if setsockopt(&socket, sockopt::RcvBufForce, &bytes).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &bytes).map_err(failed("set its buffer"))?;
    }
    attach(&socket).map_err(|source| ListenError { step: "set its filter", source })?;
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: a live descriptor and a number that outlives the call.
    let done = unsafe {
        let value = (&raw const on).cast::<libc::c_void>();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, value, size)
    };
    if done != 0 {
        return Err(ListenError { step: "listen to other namespaces", source: io::Error::last_os_error() });
    }
    let groups = GROUPS.iter().fold(0, |mask, group| mask | 1 << (group - 1));
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups)).map_err(failed("join its groups"))?;
    Ok(socket)
}

/// Tells what the socket hears until nobody wants to know any more. What is told waits for the listener: what then
/// does not fit is an overrun. After a full round it rests as long as the round took: whoever makes the kernel tell without
/// end costs half of a processor at most, and everybody else of this thread has their turns.
pub async fn follow(socket: OwnedFd, tell: mpsc::Sender<KernelEvent>) {
    // SAFETY: an owned descriptor names the same open socket until it is dropped with the registration.
    let socket = match unsafe { AsyncFd::register(socket) } {
        Ok(socket) => socket,
        Err(error) => {
            let error = io::Error::from(error);
            tracing::error!(%error, "the kernel's events cannot be followed: what changes is found on the timer only");
            return;
        }
    };
    let own = std::process::id();
    let mut buffer = vec![0_u8; MESSAGE_MAX];
    loop {
        let Ok(mut ready) = socket.readable().await else { return };
        let started = Instant::now();
        let next = || match ready.try_io(|fd| receive(fd.get_ref(), &mut buffer)) {
            Ok(Ok((length, place))) => Some(Ok(parse(&buffer[..length], place, own))),
            Ok(Err(error)) => Some(Err(error)),
            Err(_would_block) => None,
        };
        let heard = match round(next) {
            Ok(heard) => heard,
            Err(error) => {
                tracing::error!(%error, "the kernel's events cannot be read any more");
                return;
            }
        };
        // Before what is known: the whole look that follows finds that too.
        if heard.overrun && tell.send(KernelEvent::Overrun).await.is_err() {
            return;
        }
        if !heard.changed.is_empty() && tell.send(KernelEvent::Changed(heard.changed)).await.is_err() {
            return;
        }
        if heard.more {
            tokio::time::sleep(started.elapsed()).await;
        }
    }
}

/// What one round heard.
#[derive(Debug, Default)]
struct Heard {
    changed: BTreeSet<Changed>,
    /// The kernel dropped some.
    overrun: bool,
    /// Something may be left.
    more: bool,
}

/// Reads what there is, up to [`ROUND`] messages or to an overrun. `next` gives a message's change, if it is about one, and
/// nothing when none is left.
fn round(mut next: impl FnMut() -> Option<io::Result<Option<Changed>>>) -> io::Result<Heard> {
    let mut heard = Heard::default();
    for _ in 0..ROUND {
        match next() {
            Some(Ok(changed)) => heard.changed.extend(changed),
            Some(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                (heard.overrun, heard.more) = (true, true);
                return Ok(heard);
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Some(Err(error)) => return Err(error),
            None => return Ok(heard),
        }
    }
    heard.more = true;
    Ok(heard)
}

/// One message and whose it is.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, Place)> {
    #[repr(align(8))]
    struct Control([u8; 64]);
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zero is a valid `msghdr`.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len();
    // SAFETY: the descriptor lives, and so does everything the header points to.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let mut place = Place::Room;
    // SAFETY: the header was filled by the kernel; the macros stay within its control part, which is aligned.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(&raw const header);
        while !next.is_null() {
            if (*next).cmsg_level == libc::SOL_NETLINK && (*next).cmsg_type == NETLINK_LISTEN_ALL_NSID {
                place = Place::Numbered(libc::CMSG_DATA(next).cast::<i32>().read_unaligned());
            }
            next = libc::CMSG_NXTHDR(&raw const header, next);
        }
    }
    Ok((length, place))
}

/// The device a message is about; nothing when it was caused by a request of our own process `own`, whose port number is
/// its process id in every namespace in which it was the first to take it.
fn parse(bytes: &[u8], place: Place, own: u32) -> Option<Changed> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes);
    let Ok(message) = message else {
        // Longer or newer than what is known here, and therefore something.
        return Some(Changed { place, index: 0, device: None });
    };
    if message.header.port_number == own {
        return None;
    }
    let NetlinkPayload::InnerMessage(message) = message.payload else { return None };
    let changed = |index: u32| Some(Changed { place, index, device: None });
    match message {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            let device = link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            });
            Some(Changed { place, index: link.header.index, device })
        }
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            changed(address.header.index)
        }
        RouteNetlinkMessage::NewNeighbour(entry) | RouteNetlinkMessage::DelNeighbour(entry) => {
            changed(entry.header.ifindex)
        }
        RouteNetlinkMessage::NewQueueDiscipline(part)
        | RouteNetlinkMessage::DelQueueDiscipline(part)
        | RouteNetlinkMessage::NewTrafficClass(part)
        | RouteNetlinkMessage::DelTrafficClass(part)
        | RouteNetlinkMessage::NewTrafficFilter(part)
        | RouteNetlinkMessage::DelTrafficFilter(part) => changed(part.header.index.cast_unsigned()),
        RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => changed(0),
        _ => None,
    }
}

/// Keeps out, in the kernel, what must not wake us: neighbour entries but that of the gateway (a busy layer-2 stack
/// changes some all the time), link-local addresses, and routes that neither are ours nor replace one.
fn attach(socket: &OwnedFd) -> io::Result<()> {
    let program = program();
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let handed = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    let size = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).map_err(io::Error::other)?;
    // SAFETY: a live descriptor; the kernel copies the program during the call and does not write to it.
    let done = unsafe {
        let value = (&raw const handed).cast::<libc::c_void>();
        libc::setsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, value, size)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Offsets into a message: its header (linux/netlink.h), then the family's (linux/rtnetlink.h, linux/neighbour.h,
/// linux/if_addr.h). Loads of more than a byte are big-endian, so what the host wrote is compared turned around.
fn program() -> Vec<libc::sock_filter> {
    const TYPE: u32 = 4;
    const FLAGS_LOW: u32 = if cfg!(target_endian = "little") { 7 } else { 6 };
    const FAMILY: u32 = 16;
    const SCOPE: u32 = 19;
    const PROTOCOL: u32 = 21;
    // After the 12 bytes of `ndmsg` and the attribute's own header; `NDA_DST` is always the first (kernel:
    // neigh_fill_info).
    const NEIGHBOUR: u32 = 16 + 12 + 4;
    // NLM_F_REPLACE is 0x100: the lowest bit of the second byte.
    const REPLACE: u32 = 1;
    let host = |number: u16| u32::from(u16::from_be_bytes(number.to_ne_bytes()));
    let gateway = super::stack::GATEWAY.octets();
    let word = |at: usize| u32::from_be_bytes([gateway[at], gateway[at + 1], gateway[at + 2], gateway[at + 3]]);
    let (accept, drop) = ("accept", "drop");
    let mut code = Code::default();
    code.load(libc::BPF_H, TYPE);
    for kind in [libc::RTM_NEWNEIGH, libc::RTM_DELNEIGH] {
        code.goto_if(host(kind), "neighbour");
    }
    for kind in [libc::RTM_NEWROUTE, libc::RTM_DELROUTE] {
        code.goto_if(host(kind), "route");
    }
    for kind in [libc::RTM_NEWADDR, libc::RTM_DELADDR] {
        code.goto_if(host(kind), "address");
    }
    code.goto(accept);
    code.label("neighbour");
    for at in [0, 4, 8, 12] {
        code.load(libc::BPF_W, NEIGHBOUR + at);
        code.goto_unless(word(at as usize), drop);
    }
    code.goto(accept);
    code.label("route");
    code.load(libc::BPF_B, PROTOCOL);
    code.goto_if(u32::from(super::stack::ROUTE_PROTOCOL), accept);
    code.load(libc::BPF_B, FLAGS_LOW);
    code.goto_if_set(REPLACE, accept);
    code.goto(drop);
    code.label("address");
    code.load(libc::BPF_B, FAMILY);
    code.goto_unless(libc::AF_INET6 as u32, accept);
    code.load(libc::BPF_B, SCOPE);
    code.goto_if(u32::from(libc::RT_SCOPE_LINK), drop);
    code.label(accept);
    code.end(u32::MAX);
    code.label(drop);
    code.end(0);
    code.done()
}

/// A classic BPF program (bpf(4)) that is written with names of places.
#[derive(Default)]
struct Code {
    lines: Vec<(libc::sock_filter, [Option<&'static str>; 2])>,
    labels: Vec<(&'static str, usize)>,
}

impl Code {
    fn push(&mut self, code: u32, k: u32, to: [Option<&'static str>; 2]) {
        // The codes are bytes.
        self.lines.push((libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }, to));
    }
    fn load(&mut self, size: u32, at: u32) {
        self.push(libc::BPF_LD | size | libc::BPF_ABS, at, [None, None]);
    }
    fn goto_if(&mut self, value: u32, label: &'static str) {
        self.push(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, [Some(label), None]);
    }
    fn goto_unless(&mut self, value: u32, label: &'static str) {
        self.push(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, [None, Some(label)]);
    }
    fn goto_if_set(&mut self, bits: u32, label: &'static str) {
        self.push(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, bits, [Some(label), None]);
    }
    fn goto(&mut self, label: &'static str) {
        // Always true or always false: both ways lead there.
        self.push(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, [Some(label), Some(label)]);
    }
    fn end(&mut self, answer: u32) {
        self.push(libc::BPF_RET | libc::BPF_K, answer, [None, None]);
    }
    fn label(&mut self, name: &'static str) {
        self.labels.push((name, self.lines.len()));
    }
    fn done(self) -> Vec<libc::sock_filter> {
        let place = |label| self.labels.iter().find(|(name, _)| *name == label).map_or(0, |(_, at)| *at);
        let far = |from: usize, to: Option<&'static str>| {
            // All jumps go forward, over fewer than 256 lines.
            to.map_or(0, |label| (place(label) - from - 1) as u8)
        };
        let line = |(at, (line, to)): (usize, &(libc::sock_filter, [Option<&'static str>; 2]))| libc::sock_filter {
            jt: far(at, to[0]),
            jf: far(at, to[1]),
            ..*line
        };
        self.lines.iter().enumerate().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_round_ends_whatever_is_told_without_end() {
        let same = || Changed { place: Place::Numbered(7), index: 2, device: None };
        let heard = round(|| Some(Ok(Some(same())))).unwrap();
        assert_eq!((heard.changed.len(), heard.overrun, heard.more), (1, false, true));
        let heard = round(|| Some(Ok(None))).unwrap();
        assert!(heard.changed.is_empty() && heard.more, "what is about nobody counts too");
        let heard = round(|| Some(Err(io::Error::from_raw_os_error(libc::ENOBUFS)))).unwrap();
        assert!(heard.overrun && heard.more);
        assert!(round(|| Some(Err(io::Error::from_raw_os_error(libc::EBADF)))).is_err());
        let mut left = vec![same(); 3];
        let heard = round(|| left.pop().map(|changed| Ok(Some(changed)))).unwrap();
        assert!(left.is_empty() && !heard.more);
    }
}
