//! Sockets of a network namespace, asked of the kernel itself (`sock_diag(7)`; structures of linux/inet_diag.h): which
//! ports are listened on, and which socket would take a packet. netlink-packet-route has no such messages.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// TCP_ESTABLISHED, TCP_CLOSE (UDP: bound, not connected) and TCP_LISTEN as the kernel counts (include/net/tcp_states.h).
const ESTABLISHED: u8 = 1;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;

/// SOCK_DIAG_BY_FAMILY: kind of the question and of each answer.
const BY_FAMILY: u16 = 20;
const HEADER: usize = 16;
/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
const QUESTION: usize = HEADER + 56;
/// The kernel fills at most 32 KiB (`netlink_dump`).
const ANSWER: usize = 1 << 15;

/// A socket that the kernel found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// It waits for connections.
    pub listens: bool,
    /// It is connected.
    pub connected: bool,
    /// Address and port it is bound to; the unspecified one means all.
    pub local: SocketAddr,
    /// User id of who made it, as the host sees it.
    pub uid: u32,
    /// Inode, by which `/proc/PID/fd` names it.
    pub inode: u32,
}

/// A way to the sockets of one network namespace.
#[derive(Debug)]
pub struct Diag {
    socket: OwnedFd,
}

impl Diag {
    /// Opens it for the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel has no `sock_diag`.
    pub fn open() -> io::Result<Self> {
        let kind = (AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC);
        Ok(Self { socket: socket(kind.0, kind.1, kind.2, SockProtocol::NetlinkSockDiag)? })
    }

    /// Ports on which TCP listens, or to which UDP sockets are bound that are not connected.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn listening(&self, transport: Transport) -> io::Result<BTreeSet<u16>> {
        let mut ports = BTreeSet::new();
        let states = 1_u32 << if transport == Transport::Tcp { LISTEN } else { CLOSE };
        for family in [libc::AF_INET, libc::AF_INET6] {
            let asked = self.ask(&question(family, transport, states, None), |socket| {
                ports.insert(socket.local.port());
            });
            match asked {
                // A kernel without IPv6.
                Err(error) if family == libc::AF_INET6 && error.raw_os_error() == Some(libc::ENOENT) => {}
                other => other?,
            }
        }
        // One that is not bound yet.
        ports.remove(&0);
        Ok(ports)
    }

    /// The socket that would take a packet from `remote` to `local` that came in by device `ifindex`: the kernel's own
    /// look-up, at the same cost whatever the number of sockets.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn find(
        &self,
        transport: Transport,
        local: SocketAddr,
        remote: SocketAddr,
        ifindex: u32,
    ) -> io::Result<Option<Found>> {
        let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        // UDP's look-up takes the two ends the other way round (net/ipv4/udp_diag.c: "for historical reasons").
        let ends = if transport == Transport::Tcp { (local, remote) } else { (remote, local) };
        let mut found = None;
        match self.ask(&question(family, transport, u32::MAX, Some((ends.0, ends.1, ifindex))), |s| found = Some(s)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            other => other.map(|()| found),
        }
    }

    fn ask(&self, question: &[u8], mut take: impl FnMut(Found)) -> io::Result<()> {
        let fd = self.socket.as_raw_fd();
        send(fd, question, MsgFlags::empty())?;
        let dump = question.get(6..8) != Some(&(libc::NLM_F_REQUEST as u16).to_ne_bytes()[..]);
        let mut buffer = vec![0; ANSWER];
        loop {
            // Everything is answered inside the calls that ask and read: nothing to wait for.
            let length = match recv(fd, &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let [a, b, c, d, kind, more, ..] = *rest {
                match i32::from(u16::from_ne_bytes([kind, more])) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        let code = rest.get(HEADER..HEADER + 4).and_then(|code| code.try_into().ok());
                        return Err(io::Error::from_raw_os_error(-code.map_or(-libc::EIO, i32::from_ne_bytes)));
                    }
                    answer if answer == i32::from(BY_FAMILY) => {
                        rest.get(HEADER..).and_then(parse).into_iter().for_each(&mut take);
                        if !dump {
                            return Ok(());
                        }
                    }
                    _ => {}
                }
                let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(usize::MAX).max(HEADER);
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// `struct inet_diag_req_v2`; without `ends` a list of all in `states`.
fn question(family: i32, transport: Transport, states: u32, ends: Option<(SocketAddr, SocketAddr, u32)>) -> Vec<u8> {
    let protocol = if transport == Transport::Tcp { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP };
    let flags = if ends.is_some() { libc::NLM_F_REQUEST } else { libc::NLM_F_REQUEST | libc::NLM_F_DUMP };
    let mut bytes = Vec::with_capacity(QUESTION);
    bytes.extend((QUESTION as u32).to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend((flags as u16).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family as u8, protocol as u8, 0, 0]);
    bytes.extend(states.to_ne_bytes());
    if let Some((source, destination, ifindex)) = ends {
        bytes.extend(source.port().to_be_bytes());
        bytes.extend(destination.port().to_be_bytes());
        for end in [source.ip(), destination.ip()] {
            match end {
                IpAddr::V4(a) => bytes.extend(a.octets().into_iter().chain([0; 12])),
                IpAddr::V6(a) => bytes.extend(a.octets()),
            }
        }
        bytes.extend(ifindex.to_ne_bytes());
        // INET_DIAG_NOCOOKIE twice.
        bytes.extend([0xff; 8]);
    }
    bytes.resize(QUESTION, 0);
    bytes
}

/// `struct inet_diag_msg`.
fn parse(bytes: &[u8]) -> Option<Found> {
    let (family, state) = (i32::from(*bytes.first()?), *bytes.get(1)?);
    let port = u16::from_be_bytes(bytes.get(4..6)?.try_into().ok()?);
    let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
    let number = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    let address = match family {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3])),
        _ => IpAddr::V6(Ipv6Addr::from(octets)),
    };
    Some(Found {
        listens: state == LISTEN,
        connected: state == ESTABLISHED,
        local: SocketAddr::new(address, port),
        uid: number(64)?,
        inode: number(68)?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_socket_that_would_take_a_packet_is_found() {
        let diag = Diag::open().unwrap();
        for (text, asked) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")] {
            let remote = SocketAddr::new(asked.parse().unwrap(), 0);
            let tcp = std::net::TcpListener::bind(text).unwrap();
            let port = tcp.local_addr().unwrap().port();
            let local = SocketAddr::new(asked.parse().unwrap(), port);
            let found = diag.find(Transport::Tcp, local, remote, 1).unwrap().unwrap();
            assert!(found.listens && found.local.port() == port && found.inode > 0, "{text}: {found:?}");
            assert!(diag.listening(Transport::Tcp).unwrap().contains(&port));
            drop(tcp);
            assert_eq!(diag.find(Transport::Tcp, local, remote, 1).unwrap(), None);
            let udp = std::net::UdpSocket::bind(text).unwrap();
            let local = SocketAddr::new(asked.parse().unwrap(), udp.local_addr().unwrap().port());
            let remote = SocketAddr::new(remote.ip(), 1);
            let found = diag.find(Transport::Udp, local, remote, 1).unwrap().unwrap();
            assert!(!found.listens && found.local.port() == local.port(), "{text}: {found:?}");
            assert!(diag.listening(Transport::Udp).unwrap().contains(&local.port()));
            drop(udp);
            assert_eq!(diag.find(Transport::Udp, local, remote, 1).unwrap(), None);
        }
    }
}
