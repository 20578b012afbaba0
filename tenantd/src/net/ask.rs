//! Single questions to the routing side of one network namespace, answered inside the call that asks: what would be done
//! with a packet. For a thread that has entered the namespace for just that; who stays uses `rtnetlink`.

use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use stackmap::MacAddr;

/// The longest answer: the kernel fills at most 32 KiB (`netlink_dump`).
const ANSWER: usize = 1 << 15;
/// Answers to one question at most. A tenant that may make addresses itself makes as many as it likes.
const ANSWERS: usize = 4096;

/// A device as packets meet it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Index in its namespace.
    pub index: u32,
    /// Administratively up.
    pub up: bool,
    /// Up, and its other end too.
    pub running: bool,
    /// Longest packet in bytes.
    pub mtu: u32,
    /// Ethernet address.
    pub mac: Option<MacAddr>,
}

/// What the kernel would do with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Routed {
    /// It is for this stack itself.
    Local,
    /// It leaves by a device.
    Out {
        /// The device's index.
        device: u32,
        /// Next hop; none: the destination itself is asked for.
        via: Option<IpAddr>,
        /// Longest packet in bytes that this route takes, where it says so.
        mtu: Option<u32>,
    },
    /// A route says that it goes nowhere, such as `blackhole`.
    Nowhere(String),
    /// No route, or a check refused it.
    Refused(i32),
}

/// A neighbour entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its Ethernet address; none while it is asked for.
    pub mac: Option<MacAddr>,
    /// Set by hand: nobody is asked.
    pub permanent: bool,
    /// Nobody answered.
    pub failed: bool,
}

/// A netlink socket of the calling thread's network namespace.
#[derive(Debug)]
pub struct Asker {
    socket: OwnedFd,
    number: Cell<u32>,
}

impl Asker {
    /// Opens it.
    ///
    /// # Errors
    /// What the system says.
    pub fn open() -> io::Result<Self> {
        let family = nix::sys::socket::AddressFamily::Netlink;
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        Ok(Self { socket, number: Cell::new(1) })
    }

    /// The device with this name; none when there is none.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn device(&self, name: &str) -> io::Result<Option<Device>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answers = match self.ask(RouteNetlinkMessage::GetLink(message), 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            other => other?,
        };
        Ok(answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(device(&link)),
            _ => None,
        }))
    }

    /// All addresses of the device.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn addresses(&self, index: u32) -> io::Result<Vec<IpAddr>> {
        let answers = self.ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP)?;
        let local = |message: &AddressMessage| {
            let mut found = None;
            for attribute in &message.attributes {
                match attribute {
                    AddressAttribute::Local(address) => return Some(*address),
                    AddressAttribute::Address(address) => found = Some(*address),
                    _ => {}
                }
            }
            found
        };
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(message) if message.header.index == index => local(message),
                _ => None,
            })
            .collect())
    }

    /// What becomes of a packet from `from` to `to` that comes in by device `input`; one that the stack sends itself
    /// when none.
    ///
    /// # Errors
    /// The kernel could not be asked; what it refuses is an answer.
    pub fn route(&self, from: IpAddr, to: IpAddr, input: Option<u32>) -> io::Result<Routed> {
        let mut message = RouteMessage::default();
        let (family, bits) = match to {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        message.header.address_family = family;
        (message.header.destination_prefix_length, message.header.source_prefix_length) = (bits, bits);
        message.attributes.push(RouteAttribute::Destination(to.into()));
        message.attributes.push(RouteAttribute::Source(from.into()));
        message.attributes.extend(input.map(RouteAttribute::Iif));
        let answers = match self.ask(RouteNetlinkMessage::GetRoute(message), 0) {
            Err(error) => match error.raw_os_error() {
                Some(errno) => return Ok(Routed::Refused(errno)),
                None => return Err(error),
            },
            Ok(answers) => answers,
        };
        let found = answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => Some(routed(&route)),
            _ => None,
        });
        found.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The neighbour entry of an address behind a device; none when there is none.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn neighbour(&self, device: u32, address: IpAddr) -> io::Result<Option<Neighbour>> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = device;
        message.header.family = match address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.attributes.push(NeighbourAttribute::Destination(address.into()));
        let answers = match self.ask(RouteNetlinkMessage::GetNeighbour(message), 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            other => other?,
        };
        Ok(answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewNeighbour(entry) => Some(neighbour(&entry)),
            _ => None,
        }))
    }

    /// Asks and reads until the end of the answer.
    fn ask(&self, question: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let number = self.number.replace(self.number.get().wrapping_add(1));
        let mut message = NetlinkMessage::from(question);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = number;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let (mut found, mut buffer) = (Vec::new(), vec![0; ANSWER]);
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            let mut rest = buffer.get(..length).unwrap_or_default();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                let length = usize::try_from(answer.header.length).unwrap_or(usize::MAX).max(1);
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                if answer.header.sequence_number != number {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) => {
                        let errno = error.code.map_or(0, |code| -code.get());
                        return if errno == 0 { Ok(found) } else { Err(io::Error::from_raw_os_error(errno)) };
                    }
                    // The rest stays unread: who asked gives this way up.
                    NetlinkPayload::InnerMessage(_) if found.len() >= ANSWERS => {
                        return Err(io::Error::other(format!("more than {ANSWERS} answers")));
                    }
                    NetlinkPayload::InnerMessage(message) => found.push(message),
                    _ => {}
                }
                if flags & NLM_F_DUMP != NLM_F_DUMP {
                    return Ok(found);
                }
            }
        }
    }
}

fn device(message: &LinkMessage) -> Device {
    let flags = message.header.flags;
    let mut device = Device {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Running),
        mtu: 0,
        mac: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::Address(bytes) => device.mac = mac(bytes),
            _ => {}
        }
    }
    device
}

fn mac(bytes: &[u8]) -> Option<MacAddr> {
    <[u8; 6]>::try_from(bytes).ok().and_then(|octets| MacAddr::new(octets).ok())
}

fn routed(message: &RouteMessage) -> Routed {
    let (mut device, mut via, mut mtu) = (0, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = *index,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => via = Some(IpAddr::V4(*address)),
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) | RouteAttribute::Via(RouteVia::Inet6(address)) => {
                via = Some(IpAddr::V6(*address));
            }
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    match message.header.kind {
        RouteType::Local => Routed::Local,
        RouteType::Unicast => Routed::Out { device, via, mtu },
        other => Routed::Nowhere(format!("{other:?}").to_lowercase()),
    }
}

fn neighbour(message: &NeighbourMessage) -> Neighbour {
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => mac(bytes),
        _ => None,
    });
    let state = message.header.state;
    Neighbour { mac, permanent: state == NeighbourState::Permanent, failed: state == NeighbourState::Failed }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn loopback_is_up_and_leads_to_itself() {
        let asker = Asker::open().unwrap();
        let lo = asker.device("lo").unwrap().unwrap();
        assert_eq!(lo.index, 1);
        assert_eq!(asker.device("no-such-device").unwrap(), None);
        if lo.up {
            let home: IpAddr = "127.0.0.1".parse().unwrap();
            assert_eq!(asker.route(home, home, None).unwrap(), Routed::Local);
            assert!(asker.addresses(1).unwrap().contains(&home));
        }
        assert_eq!(asker.neighbour(1, "192.0.2.1".parse().unwrap()).unwrap(), None);
    }
}
