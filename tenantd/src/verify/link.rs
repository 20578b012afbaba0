//! Devices with their other ends, and the numbers by which one network namespace knows another.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use stackmap::MacAddr;

use super::facts::Device;
use crate::net::rtnl::Netlink;

/// All devices.
pub(super) fn devices(netlink: &Netlink) -> io::Result<Vec<Device>> {
    let answers = netlink.list(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let devices = answers.iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some(device(message)),
        _ => None,
    });
    Ok(devices.collect())
}

fn device(message: &LinkMessage) -> Device {
    let loopback = message.header.flags.contains(LinkFlags::Loopback);
    let mut device = Device { index: message.header.index, loopback, ..Device::default() };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::Address(bytes) => {
                device.mac = <[u8; 6]>::try_from(&bytes[..]).ok().and_then(|octets| MacAddr::new(octets).ok());
            }
            LinkAttribute::LinkInfo(infos) => {
                device.virtual_kind = infos.iter().any(|info| matches!(info, LinkInfo::Kind(_)));
            }
            // A device that is its own lower one has none.
            LinkAttribute::Link(peer) if *peer != 0 && *peer != message.header.index => device.peer = Some(*peer),
            LinkAttribute::LinkNetNsId(number) => device.peer_ns = Some(*number),
            _ => {}
        }
    }
    device
}

/// The number by which the namespace behind `netlink` knows another one; none: it never met it.
pub(super) fn number_of(netlink: &Netlink, other: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let mut question = NsidMessage::default();
    // The kernel reads a descriptor of the process that sends, which is us.
    question.attributes.push(NsidAttribute::Fd(other.as_raw_fd().unsigned_abs()));
    let answers = netlink.ask(RouteNetlinkMessage::GetNsId(question), 0)?;
    let number = answers.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewNsId(answer) => answer.attributes.iter().find_map(|attribute| match attribute {
            NsidAttribute::Id(number) => Some(*number),
            _ => None,
        }),
        _ => None,
    });
    // NETNSA_NSID_NOT_ASSIGNED
    Ok(number.filter(|number| *number >= 0))
}
