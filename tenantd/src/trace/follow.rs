//! From facts to hops. Pure: each place is one function that says what a packet meets there; a trace is the list of
//! places in the order in which it meets them, up to where it ends.
//!
//! One long file, because the places are read in the order of the way, there and back, and share nothing but the facts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use vlan_rs::DropReason;

use super::facts::{Facts, FilterFacts, Holders, RoomFacts, SocketFacts, StackFacts};
use super::{Direction, Hop, HopCounter, HopState, Question, Trace, TraceProtocol, Way};
use crate::access::{AccessLook, LookSite};
use crate::model::{Filter, FilterRule, Protocol, Verdict};
use crate::net::ask::Routed;
use crate::net::room::port_name;

/// Follows the flow through the facts.
pub(super) fn follow(question: &Question, direction: Direction, facts: &Facts) -> Trace {
    let mut walk = Walk { question, direction, facts, way: Way::There, hops: Vec::new() };
    let places = match direction {
        Direction::In => [Walk::inwards, Walk::outwards],
        Direction::Out => [Walk::outwards, Walk::inwards],
    };
    for (way, places) in [Way::There, Way::Back].into_iter().zip(places) {
        walk.way = way;
        if walk.goes_on() {
            places(&mut walk);
        }
    }
    let ends = walk.hops.iter().find(|hop| hop.state == HopState::Ends).map(|hop| hop.place.clone());
    Trace {
        tenant: question.name.to_string(),
        flow: question.words(),
        direction,
        arrives: walk.hops.iter().all(|hop| hop.state == HopState::Ok),
        ends,
        hops: walk.hops,
        counters: counters(facts),
        shared: shared(facts),
        took_us: 0,
    }
}

struct Walk<'a> {
    question: &'a Question,
    direction: Direction,
    facts: &'a Facts,
    way: Way,
    hops: Vec<Hop>,
}

/// What a place says.
struct Said {
    state: HopState,
    found: String,
    counter: Option<HopCounter>,
    differs: Option<String>,
}

impl Said {
    fn ok(found: impl Into<String>) -> Self {
        Self { state: HopState::Ok, found: found.into(), counter: None, differs: None }
    }

    fn ends(found: impl Into<String>) -> Self {
        Self { state: HopState::Ends, ..Self::ok(found) }
    }

    fn unknown(found: impl Into<String>) -> Self {
        Self { state: HopState::Unknown, ..Self::ok(found) }
    }

    fn counted(mut self, name: impl Into<String>, packets: u64) -> Self {
        self.counter = Some(HopCounter { name: name.into(), packets, shared: false });
        self
    }

    /// By a counter that counts packets of every tenant's.
    fn counted_of_all(mut self, name: impl Into<String>, packets: u64) -> Self {
        self.counter = Some(HopCounter { name: name.into(), packets, shared: true });
        self
    }

    fn differs(mut self, words: impl Into<String>) -> Self {
        self.differs = Some(words.into());
        self
    }
}

/// The address behind the sites and the stack's own.
fn ends(question: &Question, direction: Direction) -> (IpAddr, IpAddr) {
    match direction {
        Direction::In => (question.from, question.to),
        Direction::Out => (question.to, question.from),
    }
}

impl Walk<'_> {
    fn goes_on(&self) -> bool {
        self.hops.iter().all(|hop| hop.state != HopState::Ends)
    }

    /// One more place; nothing is asked of it when the packet ended before.
    fn at(&mut self, place: &str, look: impl FnOnce(&Self) -> Said) {
        if !self.goes_on() {
            return;
        }
        let Said { state, found, counter, differs } = look(self);
        self.hops.push(Hop { way: self.way, place: place.to_owned(), state, found, counter, differs });
    }

    /// From a site to the stack.
    fn inwards(&mut self) {
        if self.facts.tenant.vlan.is_some() {
            self.at("tunnel", Self::tunnel_in);
            self.at("wan", |walk| walk.program("wan_ingress", "from the sites"));
            self.at("trunk", Self::trunk_in);
            self.at("port", Self::port_in);
        }
        self.at("device", Self::device_in);
        self.at("address", Self::address);
        self.at("filter", Self::filter);
        self.at("socket", Self::socket);
    }

    /// From the stack to a site.
    fn outwards(&mut self) {
        self.at("route", Self::route);
        self.at("neighbour", Self::neighbour);
        if self.facts.tenant.vlan.is_some() {
            self.at("port", Self::port_out);
            self.at("trunk", |walk| walk.program("trunk_ingress", "from the trunk"));
            self.at("tag", Self::tag);
            self.at("tunnel", Self::tunnel_out);
        }
    }

    fn site_address(&self) -> IpAddr {
        ends(self.question, self.direction).0
    }

    fn stack_address(&self) -> IpAddr {
        ends(self.question, self.direction).1
    }

    fn segment(&self) -> String {
        self.facts.tenant.segment().map(|at| at.to_string()).unwrap_or_default()
    }

    /// Name of the port in the patch room.
    fn near(&self) -> String {
        self.facts.tenant.segment().map(port_name).unwrap_or_default()
    }

    fn vlan(&self) -> u16 {
        self.facts.tenant.vlan.map_or(0, |vlan| vlan.get())
    }

    fn access(&self) -> Result<&AccessLook, Said> {
        match &self.facts.access {
            Some(Ok(look)) => Ok(look),
            Some(Err(why)) => Err(Said::unknown(format!("the access server does not say: {why}"))),
            None => Err(Said::unknown("the tenant has no VLAN")),
        }
    }

    fn room(&self) -> Result<&RoomFacts, Said> {
        match &self.facts.room {
            Some(Ok(room)) => Ok(room),
            Some(Err(why)) => Err(Said::unknown(format!("the patch room cannot be read: {why}"))),
            None => Err(Said::unknown("the tenant has no VLAN")),
        }
    }

    fn stack(&self) -> Result<&StackFacts, Said> {
        let failed =
            self.facts.failure.as_ref().map(|why| format!("; the tenant is half done: {why}")).unwrap_or_default();
        match &self.facts.stack {
            Some(Ok(stack)) => Ok(stack),
            Some(Err(why)) => Err(Said::unknown(format!("the stack cannot be read: {why}"))),
            None if self.facts.removing => Err(Said::ends("the tenant is being removed: there is no stack")),
            None => Err(Said::ends(format!("the tenant has no init, and so no stack{failed}"))
                .differs("a tenant that is desired has a stack")),
        }
    }

    fn tunnel_in(&self) -> Said {
        let look = match self.access() {
            Ok(look) => look,
            Err(said) => return said,
        };
        let (address, vlan) = (self.site_address(), self.vlan());
        let drops = &look.counters.drops;
        let counted = |said: Said, name: &str| said.counted(format!("access_{name}"), count(drops, name));
        let nobody =
            |said: Said, name: &str| said.counted_of_all(format!("access_{name}"), count(&look.unattributed, name));
        let Some(site) = &look.site else {
            return if look.vlan_row {
                let words =
                    format!("{address} lies behind no tunnel of vlan{vlan}: it is no source that may come from there");
                counted(Said::ends(words), "inner_source")
            } else {
                let said = Said::ends(format!("the access server has no row for vlan{vlan}"));
                let said =
                    if self.facts.tenant.tunnels.is_empty() { said } else { said.differs("the tenant has tunnels") };
                nobody(said, "unknown_tunnel")
            };
        };
        let generation = self.generation(look);
        let from = format!("from {address} through {}", site.tunnel);
        let said = match site.arrives_on {
            None => {
                let name = if site.path_known { "unknown_key" } else { "unknown_tunnel" };
                let words = format!("{}: the access server's table of tunnels has no such row", site.tunnel);
                nobody(Said::ends(words).differs("the VLAN's row names this tunnel"), name)
            }
            Some(there) if there != vlan => Said::ends(format!("{} comes out on vlan{there}", site.tunnel))
                .differs(format!("it should on vlan{vlan}")),
            Some(_) if !site.source_passes => {
                counted(Said::ends(format!("{address} does not lie behind {}", site.tunnel)), "inner_source")
            }
            Some(_) => Said::ok(format!("{from}{}, onto vlan{vlan}", prefix(site))),
        };
        let said = if said.state == HopState::Ok { counted(said, "inner_source") } else { said };
        match generation {
            Some(differs) if said.differs.is_none() => said.differs(differs),
            _ => said,
        }
    }

    /// The row that the access server has is an older or a newer one.
    fn generation(&self, look: &AccessLook) -> Option<String> {
        let (there, wanted) = (look.generation?, self.facts.tenant.generation);
        (there != wanted).then(|| format!("the access server has generation {there} of the row, desired is {wanted}"))
    }

    /// Is a program of the access server where it belongs, on a device that is up?
    fn program(&self, name: &str, whence: &str) -> Said {
        let look = match self.access() {
            Ok(look) => look,
            Err(said) => return said,
        };
        // With several devices towards the sites any of them may be the one, but for the next hop's.
        let leaves = look.site.as_ref().and_then(|site| site.device.as_ref()).map(|device| device.device.as_str());
        let programs: Vec<_> = look.programs.iter().filter(|program| program.program == name).collect();
        let here = programs.iter().find(|p| p.device.as_ref().is_some_and(|d| Some(d.device.as_str()) == leaves));
        let Some(program) = here.or(programs.first()) else {
            return Said::ends(format!("the access server has no program {name}"));
        };
        let Some(device) = &program.device else {
            return Said::ends(format!("the access server's device {whence} is gone"));
        };
        if !device.up {
            return Said::ends(format!("device {} is down", device.device));
        }
        if !program.attached {
            return Said::ends(format!("no program of the access server is on {}: packets pass by it", device.device));
        }
        Said::ok(format!("{name} on {}, MTU {}", device.device, device.mtu))
    }

    fn trunk_in(&self) -> Said {
        match self.program("trunk_ingress", "towards the servers") {
            said if said.state == HopState::Ends => return said,
            _ => {}
        }
        let room = match self.room() {
            Ok(room) => room,
            Err(said) => return said,
        };
        let Some(trunk) = &room.trunk else { return Said::ends("the patch room has no trunk") };
        if !trunk.up || !trunk.running {
            return Said::ends("the trunk's end in the patch room, or its other end, is down");
        }
        if !room.look.trunk_attached {
            return Said::ends("no program is on the trunk's end in the patch room: frames go nowhere");
        }
        if self.question.size > trunk.mtu {
            return Said::ends(format!("{} bytes are more than the trunk's MTU {}", self.question.size, trunk.mtu));
        }
        Said::ok(format!("tag {}, MTU {}", self.vlan(), trunk.mtu))
    }

    fn port_in(&self) -> Said {
        let room = match self.room() {
            Ok(room) => room,
            Err(said) => return said,
        };
        let (vlan, near) = (self.vlan(), self.near());
        let Some(row) = room.look.to_port else {
            let packets = room.look.trunk_drops.get(&DropReason::UnknownVlan).copied().unwrap_or(0);
            return Said::ends(format!("no port has the tag {vlan}"))
                .counted_of_all("port_unknown_vlan", packets)
                .differs(format!("the tenant's port should have it ({})", self.lower()));
        };
        let Some(port) = &room.port else {
            return Said::ends(format!("device {near} is not in the patch room")).differs(self.lower());
        };
        if row.port != port.index {
            return Said::ends(format!("frames with the tag go to device {}, which is not {near}", row.port))
                .differs(self.lower());
        }
        let drop = |reason: DropReason| {
            (format!("port_{}", reason.name()), room.look.counters.drops.get(&reason).copied().unwrap_or(0))
        };
        let counted = |said: Said, reason| {
            let (name, packets) = drop(reason);
            said.counted(name, packets)
        };
        let server = self.access().ok().and_then(|look| look.site.as_ref()?.server_mac);
        if let Some(server) = server.filter(|server| server.octets() != row.mac) {
            let words = format!("frames come for {server}, the port lets {} through", mac(row.mac));
            return counted(Said::ends(words), DropReason::DestinationMac);
        }
        if self.question.size > row.mtu {
            let words = format!("{} bytes are more than the port's MTU {}", self.question.size, row.mtu);
            return counted(Said::ends(words), DropReason::TooLong);
        }
        if !port.up {
            return Said::ends(format!("device {near} is down"));
        }
        let said = Said::ok(format!("{near}, for {}, MTU {}", mac(row.mac), row.mtu));
        match room.look.counters.drops.get(&DropReason::FloodRx) {
            Some(packets) if *packets > 0 => said.counted("port_flood_rx", *packets),
            _ => said,
        }
    }

    fn lower(&self) -> String {
        let tenant = &self.facts.tenant;
        format!("the tables say ({}, {}) <-> {}", tenant.stack, tenant.device, self.segment())
    }

    fn device_in(&self) -> Said {
        let stack = match self.stack() {
            Ok(stack) => stack,
            Err(said) => return said,
        };
        let name = &self.facts.tenant.device;
        let Some(device) = &stack.device else {
            return Said::ends(format!("the stack has no device {name}")).differs("the tables say it has");
        };
        if !device.up {
            return Said::ends(format!("device {name} is down")).differs("it should be up");
        }
        if !device.running {
            return Said::ends(format!("device {name} is up, but not its other end"));
        }
        if let (Some(wanted), Some(found)) = (self.facts.tenant.mac, device.mac)
            && wanted != found
        {
            return Said::ends(format!("frames come for {wanted}, the device is {found}"))
                .differs(format!("MAC {wanted}"));
        }
        // What a veth takes beyond its MTU: a tag (is_skb_forwardable()).
        if self.question.size > device.mtu + 4 {
            return Said::ends(format!("{} bytes are more than the device's MTU {}", self.question.size, device.mtu));
        }
        Said::ok(format!("{name}, MTU {}", device.mtu))
    }

    fn address(&self) -> Said {
        let stack = match self.stack() {
            Ok(stack) => stack,
            Err(said) => return said,
        };
        let address = self.stack_address();
        let desired = self.facts.tenant.addresses.iter().any(|net| net.addr() == address);
        let missing =
            |said: Said| if desired { said.differs(format!("{address} is an address of the tenant")) } else { said };
        match &stack.input {
            Some(Routed::Local) => {
                let said = Said::ok(format!("{address} is an address of the stack"));
                if desired { said } else { said.differs(format!("{address} is no address that was asked for")) }
            }
            Some(Routed::Out { .. }) => {
                missing(Said::ends(format!("{address} is no address of the stack, which would pass it on")))
            }
            Some(Routed::Nowhere(kind)) => missing(Said::ends(format!("a route of kind {kind} has {address}"))),
            Some(Routed::Refused(errno)) => missing(Said::ends(refused(*errno, address, self.site_address()))),
            None => Said::ends("the stack has no device to take it"),
        }
    }

    fn filter(&self) -> Said {
        let stack = match self.stack() {
            Ok(stack) => stack,
            Err(said) => return said,
        };
        let others = match &stack.others[..] {
            [] => String::new(),
            others => format!("; not evaluated: {}", others.join(", ")),
        };
        let desired = &self.facts.tenant.filter;
        let said = match &stack.filter {
            FilterFacts::None => Said::ok(format!("no filter{others}")),
            FilterFacts::Unknown(why) => Said::unknown(format!("the filter cannot be read: {why}")),
            FilterFacts::Changed => {
                Said::unknown(format!("the filter is not as it was made and is not evaluated{others}"))
            }
            FilterFacts::Ours { filter, drops } => {
                let (verdict, name, words) = match self.way {
                    Way::There => decide(filter, self.question, self.site_address()),
                    // What the tenant began: the kernel knows the connection.
                    Way::Back if filter.default == Verdict::Drop => (Verdict::Accept, None, "replies pass".to_owned()),
                    Way::Back => answer(filter, self.question, self.site_address()),
                };
                let said = match verdict {
                    Verdict::Accept => Said::ok(format!("{words}{others}")),
                    Verdict::Drop => Said::ends(format!("{words}{others}")),
                };
                match name {
                    Some(name) => {
                        let packets = drops.get(&name).copied().unwrap_or(0);
                        said.counted(name, packets)
                    }
                    None => said,
                }
            }
        };
        let real = match &stack.filter {
            FilterFacts::Ours { filter, .. } => Some(filter.clone()),
            FilterFacts::None => Some(Filter::default()),
            FilterFacts::Changed | FilterFacts::Unknown(_) => None,
        };
        if real.as_ref() == Some(desired) {
            said
        } else {
            said.differs("the stack's filter is not the one that was asked for")
        }
    }

    fn socket(&self) -> Said {
        let stack = match self.stack() {
            Ok(stack) => stack,
            Err(said) => return said,
        };
        match (&stack.socket, self.question.protocol) {
            (SocketFacts::NotAsked, _) => Said::ok("the socket that asked takes the answer"),
            (SocketFacts::Echo, _) => Said::ok("the stack answers echo requests"),
            (SocketFacts::NoEcho, _) => Said::ends("the stack was told to ignore echo requests (icmp_echo_ignore_all)"),
            (SocketFacts::Unknown(why), _) => Said::unknown(format!("sockets cannot be looked for: {why}")),
            (SocketFacts::Found { local, listens, holders }, protocol) => {
                let what = match (protocol, listens) {
                    (TraceProtocol::Tcp, true) => "listens on",
                    _ => "is bound to",
                };
                Said::ok(format!("{} {what} {local}", who(holders)))
            }
            (SocketFacts::Nobody, TraceProtocol::Tcp) => {
                Said::ends(format!("nobody listens on {}: refused with a TCP reset", self.aim()))
            }
            (SocketFacts::Nobody, _) => {
                Said::ends(format!("nobody is bound to {}: refused as port unreachable", self.aim()))
            }
        }
    }

    fn aim(&self) -> String {
        let port = self.question.port.unwrap_or(0);
        std::net::SocketAddr::new(self.question.to, port).to_string()
    }

    fn route(&self) -> Said {
        let stack = match self.stack() {
            Ok(stack) => stack,
            Err(said) => return said,
        };
        let (site, own) = (self.site_address(), self.stack_address());
        let device = stack.device.as_ref().map_or(0, |device| device.index);
        match &stack.output {
            Routed::Out { device: by, via, mtu } if *by == device => {
                let via = via.map(|via| format!(" via {via}")).unwrap_or_default();
                let longest = mtu.or(stack.device.as_ref().map(|device| device.mtu)).unwrap_or(0);
                if self.way == Way::There && self.question.size > longest && longest > 0 {
                    return Said::ends(format!(
                        "{} bytes are more than the route's MTU {longest}: the sender cuts it or is told",
                        self.question.size
                    ));
                }
                Said::ok(format!("to {site} by {}{via}, MTU {longest}", self.facts.tenant.device))
            }
            Routed::Out { device: by, .. } => {
                Said::ends(format!("the route to {site} leaves by device {by}, not by {}", self.facts.tenant.device))
            }
            Routed::Local => Said::ends(format!("{site} is an address of the stack itself")),
            Routed::Nowhere(kind) => Said::ends(format!("a route of kind {kind} has {site}")),
            Routed::Refused(libc::EINVAL) => Said::ends(format!("{own} is no address of the stack to send from")),
            Routed::Refused(errno) => {
                Said::ends(format!("the stack has no route to {site} ({})", std::io::Error::from_raw_os_error(*errno)))
            }
        }
    }

    fn neighbour(&self) -> Said {
        let stack = match self.stack() {
            Ok(stack) => stack,
            Err(said) => return said,
        };
        let wanted = self.facts.gateway_mac;
        match &stack.neighbour {
            None => Said::ok("will be asked for"),
            Some(entry) if entry.failed => Said::ends("nobody answers when it is asked for"),
            Some(entry) => {
                let words = match (entry.mac, entry.permanent) {
                    (Some(mac), true) => format!("{mac}, permanent"),
                    (Some(mac), false) => format!("{mac}, as somebody answered"),
                    (None, _) => "is being asked for".to_owned(),
                };
                match (entry.mac, wanted) {
                    (Some(mac), Some(wanted)) if entry.permanent && mac != wanted => {
                        Said::ok(words).differs(format!("the gateway is {wanted}"))
                    }
                    _ => Said::ok(words),
                }
            }
        }
    }

    fn port_out(&self) -> Said {
        let stack = match self.stack() {
            Ok(stack) => stack,
            Err(said) => return said,
        };
        let room = match self.room() {
            Ok(room) => room,
            Err(said) => return said,
        };
        let (vlan, near, look) = (self.vlan(), self.near(), &room.look);
        let device = stack.device.as_ref();
        if let Some(device) = device.filter(|device| !device.up || !device.running) {
            let which = if device.up { near } else { self.facts.tenant.device.clone() };
            return Said::ends(format!("device {which} is down"));
        }
        if room.port.is_none() {
            return Said::ends(format!("device {near} is not in the patch room")).differs(self.lower());
        }
        if !look.port_attached {
            return Said::ends(format!("no program is on {near}: frames go nowhere"));
        }
        let counted = |said: Said, reason: DropReason| {
            said.counted(format!("port_{}", reason.name()), look.counters.drops.get(&reason).copied().unwrap_or(0))
        };
        let Some(row) = &look.from_port else {
            let packets = look.room_drops.get(&DropReason::NoPort).copied().unwrap_or(0);
            return Said::ends(format!("device {near} has no row"))
                .counted_of_all("port_no_port", packets)
                .differs(self.lower());
        };
        if row.vid.get() != vlan {
            return Said::ends(format!("its frames get the tag {}", row.vid.get())).differs(self.lower());
        }
        if let Some(own) = device.and_then(|device| device.mac).filter(|own| own.octets() != row.mac) {
            let words = format!("the device sends as {own}, the port lets {} through", mac(row.mac));
            return counted(Said::ends(words), DropReason::SourceMac);
        }
        if self.way == Way::There && self.question.size > row.mtu {
            let words = format!("{} bytes are more than the port's MTU {}", self.question.size, row.mtu);
            return counted(Said::ends(words), DropReason::TooLong);
        }
        if let Some(trunk) = room.trunk.as_ref().filter(|trunk| !trunk.up || !trunk.running) {
            return Said::ends(format!("the trunk (device {}) is down", trunk.index));
        }
        let said = Said::ok(format!("as {}, with tag {vlan}", mac(row.mac)));
        match look.counters.drops.get(&DropReason::FloodTx) {
            Some(packets) if *packets > 0 => said.counted("port_flood_tx", *packets),
            _ => said,
        }
    }

    fn tag(&self) -> Said {
        match self.access() {
            Ok(look) if look.vlan_row => match self.generation(look) {
                Some(differs) => Said::ok(format!("vlan{} has a row", self.vlan())).differs(differs),
                None => Said::ok(format!("vlan{} has a row", self.vlan())),
            },
            Ok(look) => {
                let packets = count(&look.unattributed, "unknown_vlan");
                let said = Said::ends(format!("the access server has no row for vlan{}", self.vlan()));
                let said = said.counted_of_all("access_unknown_vlan", packets);
                if self.facts.tenant.tunnels.is_empty() { said } else { said.differs("the tenant has tunnels") }
            }
            Err(said) => said,
        }
    }

    fn tunnel_out(&self) -> Said {
        let look = match self.access() {
            Ok(look) => look,
            Err(said) => return said,
        };
        let address = self.site_address();
        let counted =
            |said: Said, name: &str| said.counted(format!("access_{name}"), count(&look.counters.drops, name));
        let Some(site) = &look.site else {
            return counted(Said::ends(format!("{address} lies behind no tunnel of vlan{}", self.vlan())), "no_site");
        };
        let Some(hop) = &site.next_hop else {
            return counted(Said::ends(format!("no route to {}", site.tunnel)), "no_next_hop");
        };
        if site.device.as_ref().is_some_and(|device| !device.up) {
            return Said::ends(format!("device {} is down", hop.device));
        }
        if self.way == Way::There && self.question.size > site.mtu {
            let words =
                format!("{} bytes are more than the {} that {} takes", self.question.size, site.mtu, site.tunnel);
            return counted(Said::ends(words), "too_long");
        }
        Said::ok(format!(
            "to {address} through {}{} by {} via {}, MTU {}",
            site.tunnel,
            prefix(site),
            hop.device,
            hop.via,
            site.mtu
        ))
    }
}

fn prefix(site: &LookSite) -> String {
    site.prefix.map(|prefix| format!(" ({prefix})")).unwrap_or_default()
}

fn mac(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

fn count(drops: &BTreeMap<String, u64>, name: &str) -> u64 {
    drops.get(name).copied().unwrap_or(0)
}

fn refused(errno: i32, address: IpAddr, from: IpAddr) -> String {
    match errno {
        libc::EHOSTUNREACH | libc::ENETUNREACH => {
            format!("{address} is no address of the stack, which passes nothing on")
        }
        libc::EXDEV => format!("the stack has no way back to {from} by this device and refuses it (rp_filter)"),
        libc::EINVAL => format!("{from} or {address} is no address that may come in"),
        other => format!("the stack refuses it ({})", std::io::Error::from_raw_os_error(other)),
    }
}

fn who(holders: &Holders) -> String {
    let Some(first) = holders.known.first() else {
        return match holders.all {
            true => "a socket that no process of the tenant holds".into(),
            false => "a socket of a process that was not found among so many".into(),
        };
    };
    let service = first.service.as_ref().map(|service| format!("service {service}, ")).unwrap_or_default();
    let more = match (holders.found.saturating_sub(1), holders.all) {
        (0, true) => String::new(),
        (0, false) => " and perhaps more".to_owned(),
        (more, true) => format!(" and {more} more"),
        (more, false) => format!(" and at least {more} more"),
    };
    // A process calls itself what it likes.
    format!("{service}process {} ({}){more}", first.pid, first.command.escape_debug())
}

/// The first rule that fits decides, else the default; with the counter of what drops.
fn decide(filter: &Filter, question: &Question, from: IpAddr) -> (Verdict, Option<String>, String) {
    let fits = |rule: &FilterRule| {
        let protocol = matches!(
            (rule.proto, question.protocol),
            (Protocol::Any, _)
                | (Protocol::Tcp, TraceProtocol::Tcp)
                | (Protocol::Udp, TraceProtocol::Udp)
                | (Protocol::Icmp, TraceProtocol::Icmp)
        );
        let port = rule
            .port
            .is_none_or(|ports| question.port.is_some_and(|port| (ports.first()..=ports.last()).contains(&port)));
        protocol && port && rule.from.is_none_or(|net| net.contains(&from))
    };
    by_rules(filter, fits)
}

/// An answer to what the stack began, where connections are not tracked: its port is one of the tenant's own, so that
/// rules about a port say nothing of it.
fn answer(filter: &Filter, question: &Question, from: IpAddr) -> (Verdict, Option<String>, String) {
    let reply = Question { port: None, ..question.clone() };
    decide(filter, &reply, from)
}

fn by_rules(filter: &Filter, fits: impl Fn(&FilterRule) -> bool) -> (Verdict, Option<String>, String) {
    let (verdict, counter, words) = match filter.rules.iter().enumerate().find(|(_, rule)| fits(rule)) {
        Some((n, rule)) => (rule.action, format!("filter_{}", n + 1), format!("rule {}: {rule}", n + 1)),
        None => (filter.default, "filter_default".to_owned(), format!("no rule fits; default {}", filter.default)),
    };
    (verdict, (verdict == Verdict::Drop).then_some(counter), words)
}

/// Every counter on the way that is not 0, and the traffic: the tenant's own.
fn counters(facts: &Facts) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    if let Some(Ok(room)) = &facts.room {
        let port = &room.look.counters;
        all.extend([("port_in_packets".to_owned(), port.rx_packets), ("port_out_packets".to_owned(), port.tx_packets)]);
        all.extend(port.drops.iter().map(|(reason, packets)| (format!("port_{}", reason.name()), *packets)));
    }
    if let Some(Ok(look)) = &facts.access {
        let counters = &look.counters;
        all.insert("access_in_packets".into(), counters.rx_packets);
        all.insert("access_out_packets".into(), counters.tx_packets);
        all.extend(counters.drops.iter().map(|(reason, packets)| (format!("access_{reason}"), *packets)));
    }
    if let Some(Ok(StackFacts { filter: FilterFacts::Ours { drops, .. }, .. })) = &facts.stack {
        all.extend(drops.iter().map(|(name, packets)| (name.clone(), *packets)));
    }
    all
}

/// What trunk, patch room and access server count of packets that could be blamed on no tenant.
fn shared(facts: &Facts) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    if let Some(Ok(room)) = &facts.room {
        for (reason, packets) in room.look.trunk_drops.iter().chain(&room.look.room_drops) {
            *all.entry(format!("port_{}", reason.name())).or_default() += packets;
        }
    }
    if let Some(Ok(look)) = &facts.access {
        all.extend(look.unattributed.iter().map(|(reason, packets)| (format!("access_{reason}"), *packets)));
    }
    all
}
