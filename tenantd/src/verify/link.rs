//! Devices with their other ends, and the numbers by which one network namespace knows another.

use std::os::fd::{AsRawFd, BorrowedFd};

use futures::StreamExt;
use futures::TryStreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::{Error, Handle};
use stackmap::MacAddr;

use super::facts::Device;

/// All devices.
pub(super) async fn devices(netlink: &Handle) -> Result<Vec<Device>, Error> {
    let messages: Vec<LinkMessage> = netlink.link().get().execute().try_collect().await?;
    Ok(messages.iter().map(device).collect())
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
pub(super) async fn number_of(netlink: &Handle, other: BorrowedFd<'_>) -> Result<Option<i32>, Error> {
    let mut question = NsidMessage::default();
    // The kernel reads a descriptor of the process that sends, which is us.
    question.attributes.push(NsidAttribute::Fd(other.as_raw_fd().unsigned_abs()));
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(question));
    message.header.flags = NLM_F_REQUEST;
    let mut answers = netlink.clone().request(message)?;
    while let Some(answer) = answers.next().await {
        match answer.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(answer)) => {
                let number = answer.attributes.iter().find_map(|attribute| match attribute {
                    NsidAttribute::Id(number) => Some(*number),
                    _ => None,
                });
                // NETNSA_NSID_NOT_ASSIGNED
                return Ok(number.filter(|number| *number >= 0));
            }
            NetlinkPayload::Error(error) => return Err(Error::NetlinkError(error)),
            _ => {}
        }
    }
    Err(Error::RequestFailed)
}
