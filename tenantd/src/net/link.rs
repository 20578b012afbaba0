//! Devices over netlink: the few verbs this crate needs, each one request. Deleting the absent succeeds.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InetDevConf, InfoData, InfoVeth, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};
use stackmap::MacAddr;

use super::rtnl::Netlink;

/// A netlink request that failed: what was asked, of which device, and the kernel's word.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {object}")]
pub struct NetlinkError {
    /// What was asked.
    pub verb: &'static str,
    /// Device, address or route.
    pub object: String,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

impl NetlinkError {
    /// The error number the kernel answered with, positive; none if it was not the kernel.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

pub(super) fn failed(verb: &'static str, object: impl Into<String>) -> impl FnOnce(io::Error) -> NetlinkError {
    let object = object.into();
    move |source| NetlinkError { verb, object, source }
}

/// What matters of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Index in its namespace.
    pub index: u32,
    /// Administratively up.
    pub up: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// Hardware address, where it has six bytes.
    pub mac: Option<MacAddr>,
    /// For a veth whose other end is in another namespace: where that is.
    pub across: Option<Across>,
}

/// The other end of a veth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Across {
    /// The number by which this end's namespace knows the other's.
    pub space: i32,
    /// Its index there.
    pub index: u32,
}

/// Without counters, which nobody here reads and which are most of an answer.
fn plain_question() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

/// The device with this name; `None` when there is none.
pub fn find(netlink: &Netlink, name: &str) -> Result<Option<Link>, NetlinkError> {
    let mut question = plain_question();
    question.attributes.push(LinkAttribute::IfName(name.into()));
    found(netlink, question).map_err(failed("look up", name))
}

/// The device with this index; `None` when there is none.
pub fn find_index(netlink: &Netlink, index: u32) -> Result<Option<Link>, NetlinkError> {
    let mut question = plain_question();
    question.header.index = index;
    found(netlink, question).map_err(failed("look up", format!("device {index}")))
}

fn found(netlink: &Netlink, question: LinkMessage) -> io::Result<Option<Link>> {
    match netlink.ask(RouteNetlinkMessage::GetLink(question), 0) {
        Ok(answers) => Ok(answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(parse(message)),
            _ => None,
        })),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives a device another name. Before Linux 6.2 it has to be down for that.
pub fn rename(netlink: &Netlink, link: &Link, name: &str) -> Result<(), NetlinkError> {
    let device = || LinkMessageBuilder::<LinkUnspec>::new().index(link.index);
    let named = || device().name(name.to_owned()).build();
    match set(netlink, link.index, named(), "rename") {
        Err(error) if error.errno() == Some(libc::EBUSY) => {
            set(netlink, link.index, device().down().build(), "set down")?;
            set(netlink, link.index, named(), "rename")?;
        }
        other => other?,
    }
    set_up(netlink, link.index)
}

/// All devices of the namespace with their names.
pub fn list(netlink: &Netlink) -> Result<Vec<(String, Link)>, NetlinkError> {
    let answers = netlink.list(RouteNetlinkMessage::GetLink(plain_question())).map_err(failed("list", "devices"))?;
    let named = answers.iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => {
            let name = message.attributes.iter().find_map(|a| match a {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            });
            Some((name?, parse(message)))
        }
        _ => None,
    });
    Ok(named.collect())
}

fn parse(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        mtu: 0,
        mac: None,
        across: None,
    };
    let (mut veth, mut space, mut index) = (false, None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => {
                link.mac = <[u8; 6]>::try_from(&bytes[..]).ok().and_then(|octets| MacAddr::new(octets).ok())
            }
            LinkAttribute::LinkInfo(infos) => {
                veth = infos.iter().any(|i| matches!(i, LinkInfo::Kind(netlink_packet_route::link::InfoKind::Veth)))
            }
            LinkAttribute::LinkNetNsId(number) => space = Some(*number),
            LinkAttribute::Link(number) => index = Some(*number),
            _ => {}
        }
    }
    // Both are told of every veth that leads out of its namespace (kernel: rtnl_fill_link_netnsid).
    link.across = space.zip(index).filter(|_| veth).map(|(space, index)| Across { space, index });
    link
}

/// One end of a veth pair to be made.
#[derive(Debug, Clone, Copy)]
pub struct VethEnd<'a> {
    /// Device name.
    pub name: &'a str,
    /// Hardware address; the kernel draws one when left out.
    pub mac: Option<MacAddr>,
    /// MTU in bytes.
    pub mtu: u32,
}

/// Make a veth pair with `near` in the namespace of `netlink`, up, and `far` already in place in `far_ns`: a device
/// is never moved (docs/decisions/0001). A veth peer cannot be made up (kernel 6.18), so `far` is still down.
pub fn add_veth(
    netlink: &Netlink,
    near: VethEnd<'_>,
    far: VethEnd<'_>,
    far_ns: BorrowedFd<'_>,
) -> Result<(), NetlinkError> {
    let peer = end(LinkMessageBuilder::<LinkUnspec>::new(), far).setns_by_fd(far_ns.as_raw_fd()).build();
    let message = end(LinkMessageBuilder::<LinkVeth>::new(near.name, far.name), near)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .up()
        .build();
    let made = netlink.ask(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL);
    made.map(drop).map_err(failed("create veth", near.name))
}

fn end<T>(builder: LinkMessageBuilder<T>, end: VethEnd<'_>) -> LinkMessageBuilder<T> {
    // One queue: a veth otherwise gets a queue a CPU, which costs time and memory a port (docs/decisions/0001).
    let mut builder = builder
        .name(end.name.to_string())
        .mtu(end.mtu)
        // A super-packet and the outer headers must fit into 16 bits of length.
        .append_extra_attribute(LinkAttribute::GsoMaxSize(vlan_rs::GSO_MAX_SIZE))
        .append_extra_attribute(LinkAttribute::NumTxQueues(1))
        .append_extra_attribute(LinkAttribute::NumRxQueues(1));
    if let Some(mac) = end.mac {
        builder = builder.address(mac.octets().to_vec());
    }
    builder
}

/// Delete the device; one that is not there is deleted already.
pub fn delete(netlink: &Netlink, name: &str) -> Result<(), NetlinkError> {
    let Some(link) = find(netlink, name)? else { return Ok(()) };
    let mut message = LinkMessage::default();
    message.header.index = link.index;
    match netlink.ask(RouteNetlinkMessage::DelLink(message), 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other.map(drop).map_err(failed("delete", name)),
    }
}

fn set(netlink: &Netlink, index: u32, message: LinkMessage, verb: &'static str) -> Result<(), NetlinkError> {
    let done = netlink.ask(RouteNetlinkMessage::SetLink(message), 0);
    done.map(drop).map_err(failed(verb, format!("device {index}")))
}

/// Set a device up.
pub fn set_up(netlink: &Netlink, index: u32) -> Result<(), NetlinkError> {
    set(netlink, index, LinkMessageBuilder::<LinkUnspec>::new().index(index).up().build(), "set up")
}

/// Keep a device that is still down from making itself a link-local IPv6 address.
pub fn without_link_local(netlink: &Netlink, index: u32) -> Result<(), NetlinkError> {
    let spec = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    let message = LinkMessageBuilder::<LinkUnspec>::new()
        .index(index)
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![spec]))
        .build();
    set(netlink, index, message, "set the address mode of")
}

/// Let the other addresses of a subnet stay when its first one is deleted (`promote_secondaries`): by default the kernel
/// deletes all of them.
pub fn promote_secondaries(netlink: &Netlink, index: u32) -> Result<(), NetlinkError> {
    let mut conf = InetDevConf::default();
    conf.promote_secondaries = 1;
    let spec = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(conf)]);
    let message = LinkMessageBuilder::<LinkUnspec>::new()
        .index(index)
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![spec]))
        .build();
    set(netlink, index, message, "set the address mode of")
}

/// Change a device's MTU, in bytes.
pub fn set_mtu(netlink: &Netlink, index: u32, mtu: u32) -> Result<(), NetlinkError> {
    set(netlink, index, LinkMessageBuilder::<LinkUnspec>::new().index(index).mtu(mtu).build(), "set the MTU of")
}

/// Move a device into another namespace: only for a network card given whole, never for a device of ours.
pub fn give_away(netlink: &Netlink, index: u32, ns: BorrowedFd<'_>) -> Result<(), NetlinkError> {
    let message = LinkMessageBuilder::<LinkUnspec>::new().index(index).setns_by_fd(ns.as_raw_fd()).build();
    set(netlink, index, message, "move")
}
