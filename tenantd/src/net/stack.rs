//! A tenant's stack: addresses, routes and the one permanent neighbour of its port. What is wanted is a value
//! ([`StackPlan`]); what is there is read from the kernel ([`read`]); [`apply`] brings one to the other and touches
//! nothing that is right already, so that a repair or an adoption loses no packet.
//!
//! Behind a layer-3 tunnel the server and its hosts may believe in one shared /24 although no Ethernet joins them. The
//! stack therefore never asks: addresses are set without their connected route and every route goes
//! `via inet6 fe80::1 onlink`, whose Ethernet address is permanent. One entry a tenant also keeps the kernel's
//! neighbour table, which is one for all namespaces, out of the tenants' reach.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteVia};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use stackmap::MacAddr;

use crate::fault;

use super::link::{self, NetlinkError, failed};
use super::rtnl::Netlink;

/// Next hop of everything in a layer-3 stack; its Ethernet address is the gateway's.
pub const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Routes made by us carry this protocol number, so that a tenant's own routes are never touched. Free in
/// iproute2's table of route protocols.
pub const ROUTE_PROTOCOL: u8 = 116;

/// Addresses made by us carry this protocol number too (`IFA_PROTO`, Linux 5.18), so that those a tenant gave its own
/// stack can be told from ours.
pub const ADDRESS_PROTOCOL: u8 = ROUTE_PROTOCOL;

/// How a route leaves the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// Through the port to the access server, no asking: `via inet6 fe80::1 onlink`.
    Port,
    /// To a router in a layer-2 closed network.
    Router(IpAddr),
    /// The destination is on the link (layer 2 without a router).
    Link,
}

/// One route that shall be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackRoute {
    /// Destination.
    pub to: IpNet,
    /// Next hop.
    pub via: Via,
    /// Preferred source address; the kernel chooses when left out.
    pub source: Option<IpAddr>,
}

/// One address of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackAddress {
    /// Address and prefix length.
    pub address: IpNet,
    /// Set with its connected route (layer 2) or without (layer 3).
    pub connected: bool,
}

/// A stack as it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackPlan {
    /// Addresses.
    pub addresses: BTreeSet<StackAddress>,
    /// Routes made by us.
    pub routes: BTreeSet<StackRoute>,
    /// Ethernet address behind [`GATEWAY`]; none when no route needs it.
    pub gateway_mac: Option<MacAddr>,
    /// MTU of the device in bytes.
    pub mtu: u32,
    /// The device makes itself a link-local IPv6 address: needed where neighbours are asked for (layer 2).
    pub link_local: bool,
    /// The tenant administers its stack: addresses that are not ours are its own and stay.
    pub shared: bool,
}

/// Most addresses, and most routes of ours, that a stack may have: who administers its stack may put any number there, and
/// the daemon reads them in every pass.
pub const MOST: usize = 4096;
/// Most addresses and routes that one pass deletes; the next one goes on.
const DELETED_AT_ONCE: usize = 512;

/// A stack as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackActual {
    /// The device.
    pub link: link::Link,
    /// Addresses, link-local ones left out.
    pub addresses: BTreeSet<StackAddress>,
    /// Those of them that we made.
    pub ours: BTreeSet<StackAddress>,
    /// Routes made by us.
    pub routes: BTreeSet<StackRoute>,
    /// Permanent Ethernet address of [`GATEWAY`].
    pub gateway_mac: Option<MacAddr>,
    /// What there is more than [`MOST`] of. It was not read to its end, and nothing is known of the stack but its device.
    pub crowded: Option<&'static str>,
}

impl StackActual {
    /// What has to be done, in words; nothing when it is as it should be.
    pub fn differences(&self, device: &str, plan: &StackPlan) -> Vec<String> {
        let mut found = Vec::new();
        if !self.link.up {
            found.push(format!("device {device} is down"));
        }
        if self.link.mtu != plan.mtu {
            found.push(format!("device {device} has MTU {}, not {}", self.link.mtu, plan.mtu));
        }
        if let Some(what) = self.crowded {
            found.push(format!("it has more than {MOST} {what}"));
            return found;
        }
        let same = |one: &StackAddress| plan.addresses.iter().any(|other| other.address == one.address);
        for one in plan.addresses.difference(&self.addresses) {
            let there = self.addresses.iter().any(|other| other.address == one.address);
            let (address, kind) = (one.address, if there { "is of another kind" } else { "is missing" });
            found.push(format!("address {address} {kind}"));
        }
        for one in self.superfluous(plan).filter(|one| !same(one)) {
            found.push(format!("address {} is not desired", one.address));
        }
        for route in plan.routes.difference(&self.routes) {
            let there = self.routes.iter().any(|other| other.to == route.to);
            found.push(format!("route {} {}", route.to, if there { "leads elsewhere" } else { "is missing" }));
        }
        for route in self.routes.difference(&plan.routes).filter(|route| !self.is_replaced(route, plan)) {
            found.push(format!("route {} is not desired", route.to));
        }
        if plan.gateway_mac.is_some() && self.gateway_mac != plan.gateway_mac {
            let word = if self.gateway_mac.is_some() { "has another address" } else { "is missing" };
            found.push(format!("neighbour {GATEWAY} {word}"));
        }
        found
    }

    /// Addresses that shall not be there.
    fn superfluous<'a>(&'a self, plan: &'a StackPlan) -> impl Iterator<Item = &'a StackAddress> {
        let judged = if plan.shared { &self.ours } else { &self.addresses };
        judged.difference(&plan.addresses)
    }

    /// True when a route that shall not be will be replaced by one that is still missing.
    fn is_replaced(&self, route: &StackRoute, plan: &StackPlan) -> bool {
        plan.routes.iter().any(|wanted| wanted.to == route.to && !self.routes.contains(wanted))
    }
}

/// Read the stack behind `netlink`; `None` when the device is not there.
pub fn read(netlink: &Netlink, device: &str) -> Result<Option<StackActual>, NetlinkError> {
    let Some(link) = link::find(netlink, device)? else { return Ok(None) };
    let nothing = StackActual {
        link,
        addresses: BTreeSet::new(),
        ours: BTreeSet::new(),
        routes: BTreeSet::new(),
        gateway_mac: None,
        crowded: None,
    };
    let index = nothing.link.index;
    let Some((addresses, made)) = addresses(netlink, index)? else {
        return Ok(Some(StackActual { crowded: Some("addresses"), ..nothing }));
    };
    let Some(routes) = routes(netlink, index)? else {
        return Ok(Some(StackActual { crowded: Some("routes"), ..nothing }));
    };
    let gateway_mac = gateway_mac(netlink, index)?;
    Ok(Some(StackActual { addresses, ours: made, routes, gateway_mac, ..nothing }))
}

/// All addresses and, of these, those that we made.
type Addresses = (BTreeSet<StackAddress>, BTreeSet<StackAddress>);

/// The addresses of a device; none when there are too many.
fn addresses(netlink: &Netlink, index: u32) -> Result<Option<Addresses>, NetlinkError> {
    let mut question = AddressMessage::default();
    question.header.index = index;
    let found = netlink.list_most(RouteNetlinkMessage::GetAddress(question), MOST);
    let Some(found) = found.map_err(failed("list", "addresses"))? else { return Ok(None) };
    let (mut addresses, mut ours) = (BTreeSet::new(), BTreeSet::new());
    for answer in &found {
        let RouteNetlinkMessage::NewAddress(message) = answer else { continue };
        let Some(address) = parse_address(message).filter(|_| message.header.index == index) else { continue };
        if message.attributes.contains(&AddressAttribute::Protocol(ADDRESS_PROTOCOL.into())) {
            ours.insert(address);
        }
        addresses.insert(address);
    }
    Ok(Some((addresses, ours)))
}

/// The routes over a device that we made; none when there are too many.
fn routes(netlink: &Netlink, index: u32) -> Result<Option<BTreeSet<StackRoute>>, NetlinkError> {
    let mut routes = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut ours = RouteMessage::default();
        (ours.header.address_family, ours.header.protocol) = (family, ROUTE_PROTOCOL.into());
        let found = netlink.list_most(RouteNetlinkMessage::GetRoute(ours), MOST).map_err(failed("list", "routes"))?;
        let Some(found) = found else { return Ok(None) };
        routes.extend(found.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(message) => parse_route(message, index),
            _ => None,
        }));
    }
    Ok(Some(routes))
}

/// Asked for alone: the kernel has one table of neighbours for all namespaces, and a list is a walk through all of it.
fn gateway_mac(netlink: &Netlink, index: u32) -> Result<Option<MacAddr>, NetlinkError> {
    let mut question = NeighbourMessage::default();
    (question.header.family, question.header.ifindex) = (AddressFamily::Inet6, index);
    question.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet6(GATEWAY)));
    let found = match netlink.ask(RouteNetlinkMessage::GetNeighbour(question), 0) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EAFNOSUPPORT)) => return Ok(None),
        other => other.map_err(failed("look up neighbour", GATEWAY.to_string()))?,
    };
    Ok(found.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewNeighbour(there) if there.header.state == NeighbourState::Permanent => {
            there.attributes.iter().find_map(|a| match a {
                NeighbourAttribute::LinkLayerAddress(mac) => {
                    <[u8; 6]>::try_from(&mac[..]).ok().and_then(|m| MacAddr::new(m).ok())
                }
                _ => None,
            })
        }
        _ => None,
    }))
}

fn parse_address(message: &AddressMessage) -> Option<StackAddress> {
    let address = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = address.or_else(|| {
        message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return None;
    }
    let flags = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    Some(StackAddress {
        address: IpNet::new(address, message.header.prefix_len).ok()?,
        connected: !flags.is_some_and(|f| f.contains(AddressFlags::Noprefixroute)),
    })
}

fn parse_route(message: &RouteMessage, index: u32) -> Option<StackRoute> {
    if message.header.protocol != RouteProtocol::from(ROUTE_PROTOCOL) {
        return None;
    }
    let v4 = message.header.address_family == AddressFamily::Inet;
    let (mut to, mut via, mut oif, mut source) = (None, Via::Link, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(a)) => to = Some(IpAddr::V4(*a)),
            RouteAttribute::Destination(RouteAddress::Inet6(a)) => to = Some(IpAddr::V6(*a)),
            RouteAttribute::Gateway(RouteAddress::Inet(a)) => via = Via::Router(IpAddr::V4(*a)),
            RouteAttribute::Gateway(RouteAddress::Inet6(a)) | RouteAttribute::Via(RouteVia::Inet6(a)) => {
                via = if *a == GATEWAY { Via::Port } else { Via::Router(IpAddr::V6(*a)) }
            }
            RouteAttribute::Oif(i) => oif = Some(*i),
            RouteAttribute::PrefSource(RouteAddress::Inet(a)) => source = Some(IpAddr::V4(*a)),
            RouteAttribute::PrefSource(RouteAddress::Inet6(a)) => source = Some(IpAddr::V6(*a)),
            _ => {}
        }
    }
    let any = if v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let to = IpNet::new(to.unwrap_or(any), message.header.destination_prefix_length).ok()?;
    (oif == Some(index)).then_some(StackRoute { to, via, source })
}

/// Bring the stack from `actual` to `plan`: device up, then addresses and routes. Routes are removed first, addresses last,
/// so that a connection to one that stays notices nothing.
pub fn apply(netlink: &Netlink, actual: &StackActual, plan: &StackPlan) -> Result<(), NetlinkError> {
    let index = actual.link.index;
    if let Some(what) = actual.crowded {
        let rule = format!("there are more than {MOST} of them");
        return Err(failed("tell apart", what)(io::Error::other(rule)));
    }
    let mut routes = actual.routes.difference(&plan.routes).filter(|gone| !actual.is_replaced(gone, plan));
    for gone in routes.by_ref().take(DELETED_AT_ONCE) {
        absent_is_fine(netlink.ask(RouteNetlinkMessage::DelRoute(route_message(index, gone)), 0))
            .map_err(failed("delete route", gone.to.to_string()))?;
    }
    // One that only changes its kind: the kernel does not change that in place.
    let same = |gone: &&StackAddress| plan.addresses.iter().any(|wanted| wanted.address == gone.address);
    let delete = |gone: &StackAddress| {
        absent_is_fine(netlink.ask(RouteNetlinkMessage::DelAddress(address_message(index, gone)), 0))
            .map_err(failed("delete address", gone.address.to_string()))
    };
    actual.superfluous(plan).filter(same).try_for_each(delete)?;
    fault::point("stack.cleared");
    if actual.link.mtu != plan.mtu {
        link::set_mtu(netlink, index, plan.mtu)?;
    }
    for new in plan.addresses.difference(&actual.addresses) {
        add_address(netlink, index, new)?;
    }
    // Only then the others: with the last address of a family the kernel takes its routes away.
    let mut superfluous = actual.superfluous(plan).filter(|gone| !same(gone));
    superfluous.by_ref().take(DELETED_AT_ONCE).try_for_each(delete)?;
    let mut kept = actual.routes.clone();
    if actual.superfluous(plan).next().is_some() {
        kept = after_deletions(netlink, index, plan)?;
    }
    fault::point("stack.addressed");
    if !actual.link.up {
        // Where nobody is asked nothing needs a link-local address, its duplicate detection or its group reports.
        if !plan.link_local {
            link::without_link_local(netlink, index)?;
        }
        link::promote_secondaries(netlink, index)?;
        link::set_up(netlink, index)?;
    }
    if let Some(mac) = plan.gateway_mac
        && actual.gateway_mac != Some(mac)
    {
        let mut message = NeighbourMessage::default();
        (message.header.family, message.header.ifindex) = (AddressFamily::Inet6, index);
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet6(GATEWAY)));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()));
        put(netlink, RouteNetlinkMessage::NewNeighbour(message))
            .map_err(failed("set neighbour", GATEWAY.to_string()))?;
    }
    fault::point("stack.neighbour");
    // A device that was down has lost its IPv6 routes: nothing of what was read before is left of them.
    if !actual.link.up {
        kept.clear();
    }
    // Routes on the link first: a router's route needs the way to the router.
    let mut new: Vec<_> = plan.routes.difference(&kept).collect();
    new.sort_by_key(|r| matches!(r.via, Via::Router(_)));
    for route in new {
        put(netlink, RouteNetlinkMessage::NewRoute(route_message(index, route)))
            .map_err(failed("add route", route.to.to_string()))?;
    }
    match routes.count() + superfluous.count() {
        0 => Ok(()),
        left => Err(failed("delete all at once", "addresses and routes")(io::Error::other(format!("{left} are left")))),
    }
}

/// Puts back what the kernel took along with addresses that were deleted: those of the same subnet, where the device does
/// not promote them (one that was set up by an older version). Returns the routes that are still there.
fn after_deletions(netlink: &Netlink, index: u32, plan: &StackPlan) -> Result<BTreeSet<StackRoute>, NetlinkError> {
    if let Some((now, _)) = addresses(netlink, index)? {
        plan.addresses.difference(&now).try_for_each(|lost| add_address(netlink, index, lost))?;
    }
    Ok(routes(netlink, index)?.unwrap_or_default())
}

/// Made, or replaced where it is there.
fn put(netlink: &Netlink, message: RouteNetlinkMessage) -> io::Result<()> {
    netlink.ask(message, NLM_F_CREATE | NLM_F_REPLACE).map(drop)
}

fn add_address(netlink: &Netlink, index: u32, wanted: &StackAddress) -> Result<(), NetlinkError> {
    let mut message = address_message(index, wanted);
    // We own the addresses: duplicate detection would only make a tenant wait (docs/decisions/0001).
    let mut flags = AddressFlags::Nodad;
    if !wanted.connected {
        flags |= AddressFlags::Noprefixroute;
    }
    message.attributes.push(AddressAttribute::Flags(flags));
    message.attributes.push(AddressAttribute::Protocol(ADDRESS_PROTOCOL.into()));
    put(netlink, RouteNetlinkMessage::NewAddress(message)).map_err(failed("add address", wanted.address.to_string()))
}

fn address_message(index: u32, wanted: &StackAddress) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = wanted.address.prefix_len();
    message.header.family = match wanted.address {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.attributes.push(AddressAttribute::Local(wanted.address.addr()));
    message.attributes.push(AddressAttribute::Address(wanted.address.addr()));
    if let (IpNet::V4(net), true) = (wanted.address, wanted.connected && wanted.address.prefix_len() < 31) {
        message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
    }
    message
}

fn route_message(index: u32, route: &StackRoute) -> RouteMessage {
    let protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    let mut message = match route.to {
        IpNet::V4(to) => {
            let mut b = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to.addr(), to.prefix_len())
                .output_interface(index)
                .protocol(protocol);
            b = match route.via {
                Via::Port => b.via(GATEWAY),
                Via::Router(IpAddr::V4(router)) => b.gateway(router),
                Via::Router(IpAddr::V6(router)) => b.via(router),
                Via::Link => b.scope(netlink_packet_route::route::RouteScope::Link),
            };
            b.build()
        }
        IpNet::V6(to) => {
            let b = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to.addr(), to.prefix_len())
                .output_interface(index)
                .protocol(protocol);
            match route.via {
                Via::Port => b.gateway(GATEWAY),
                Via::Router(IpAddr::V6(router)) => b.gateway(router),
                Via::Router(IpAddr::V4(_)) | Via::Link => b,
            }
            .build()
        }
    };
    if !matches!(route.via, Via::Link) {
        message.header.flags |= RouteFlags::Onlink;
    }
    if let Some(source) = route.source {
        message.attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    message
}

fn absent_is_fine<T>(result: io::Result<T>) -> io::Result<()> {
    const ABSENT: [i32; 4] = [libc::ESRCH, libc::EADDRNOTAVAIL, libc::ENOENT, libc::ENODEV];
    match result {
        Err(error) if error.raw_os_error().is_some_and(|errno| ABSENT.contains(&errno)) => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// One pass is enough, whatever the kernel takes along with an address.
    #[test]
    fn an_address_takes_neither_routes_nor_its_neighbours_with_it() {
        assert!(nix::unistd::geteuid().is_root(), "only root may make a namespace");
        let inside = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let netlink = Netlink::open().unwrap();
            let end = |name| link::VethEnd { name, mac: None, mtu: 1500 };
            let here = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
            link::add_veth(&netlink, end("port"), end("dev"), std::os::fd::AsFd::as_fd(&here)).unwrap();
            let found = || read(&Netlink::open().unwrap(), "dev").unwrap().unwrap();
            let plan = |addresses: &[&str]| StackPlan {
                addresses: addresses
                    .iter()
                    .map(|text| StackAddress { address: text.parse().unwrap(), connected: false })
                    .collect(),
                routes: ["0.0.0.0/0", "::/0"]
                    .map(|to| StackRoute { to: to.parse().unwrap(), via: Via::Port, source: None })
                    .into(),
                gateway_mac: Some("02:00:00:00:00:01".parse().unwrap()),
                mtu: 1480,
                link_local: false,
                shared: false,
            };
            // The last one is what an older version left behind.
            for promoting in ["1", "0"] {
                for addresses in [
                    &["192.168.1.1/24", "fd00::1/64"][..],
                    &["192.168.1.2/24", "fd00::2/64"],
                    &["192.168.1.2/24", "192.168.1.3/24", "192.168.1.4/24"],
                    &["192.168.1.3/24", "192.168.1.4/24", "10.0.0.1/8", "fd00::1/64"],
                    &["192.168.1.4/24"],
                    &["192.168.1.4/16"],
                ] {
                    let plan = plan(addresses);
                    apply(&netlink, &found(), &plan).unwrap();
                    assert_eq!(found().differences("dev", &plan), Vec::<String>::new(), "{addresses:?}");
                }
                let promotes = "/proc/sys/net/ipv4/conf/dev/promote_secondaries";
                assert_eq!(std::fs::read_to_string(promotes).unwrap().trim(), promoting);
                apply(&netlink, &found(), &plan(&[])).unwrap();
                std::fs::write(promotes, "0").unwrap();
            }
        };
        std::thread::spawn(inside).join().unwrap();
    }

    /// What an administrator of a stack may put there, on `lo` of a new namespace.
    #[test]
    fn too_much_is_not_read_to_its_end_and_not_deleted_at_once() {
        assert!(nix::unistd::geteuid().is_root(), "only root may make a namespace");
        let inside = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let netlink = Netlink::open().unwrap();
            link::set_up(&netlink, 1).unwrap();
            let found = || read(&Netlink::open().unwrap(), "lo").unwrap().unwrap();
            let plan = StackPlan {
                addresses: BTreeSet::new(),
                routes: BTreeSet::new(),
                gateway_mac: None,
                mtu: found().link.mtu,
                link_local: true,
                shared: true,
            };
            let net = |n: usize, len: u8| {
                let bits = u32::try_from(n << (32 - u32::from(len))).unwrap();
                IpNet::new(Ipv4Addr::from(0x0a00_0000 + bits).into(), len).unwrap()
            };
            for n in 0..DELETED_AT_ONCE + 10 {
                let route = StackRoute { to: net(n, 24), via: Via::Link, source: None };
                put(&netlink, RouteNetlinkMessage::NewRoute(route_message(1, &route))).unwrap();
            }
            assert_eq!(found().routes.len(), DELETED_AT_ONCE + 10);
            apply(&netlink, &found(), &plan).unwrap_err();
            assert_eq!(found().routes.len(), 10, "a pass deletes so many");
            apply(&netlink, &found(), &plan).unwrap();
            assert!(found().routes.is_empty());
            for n in 0..=MOST {
                let mut message = address_message(1, &StackAddress { address: net(n, 32), connected: false });
                message.attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
                put(&netlink, RouteNetlinkMessage::NewAddress(message)).unwrap();
            }
            let crowd = found();
            assert_eq!((crowd.crowded, crowd.addresses.len()), (Some("addresses"), 0));
            assert_eq!(crowd.differences("lo", &plan), ["it has more than 4096 addresses"]);
            apply(&netlink, &crowd, &plan).unwrap_err();
        };
        std::thread::spawn(inside).join().unwrap();
    }
}
