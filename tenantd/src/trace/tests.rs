#![allow(clippy::unwrap_used, clippy::expect_used)]
//! A flow through facts of which one is broken at a time.

use std::collections::BTreeMap;
use std::net::IpAddr;

use vlan_rs::{DropReason, PortConfig, PortLook, TagLook, Vid};

use super::facts::{Facts, FilterFacts, Holder, Holders, RoomFacts, SocketFacts, StackFacts};
use super::follow::follow;
use super::{Direction, HopState, Question, Trace, TraceProtocol, Way};
use crate::access::{AccessLook, LookDevice, LookHop, LookProgram, LookSite};
use crate::model::{Counters, Filter, Tenant, Verdict};
use crate::net::ask::{Device, Neighbour, Routed};

const MAC: [u8; 6] = [2, 0, 0, 0, 6, 0];
const GATEWAY: &str = "02:00:00:00:06:01";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn question(from: &str, to: &str, size: u32) -> Question {
    Question::new("acme".parse().unwrap(), from, to, None, size).unwrap()
}

fn tenant() -> Tenant {
    serde_json::from_value(serde_json::json!({
        "name": "acme", "stack": "inet0", "vlan": 600, "gid": 524_288, "device": "dev0", "whole_device": false,
        "mac": "02:00:00:00:06:00", "addresses": ["192.168.1.1/24"],
        "tunnels": ["ipip:198.51.100.2,local=203.0.113.1,prefix=192.168.1.0/24"],
        "dns": [], "gateway": null, "routes": [], "services": [], "generation": 3
    }))
    .unwrap()
}

fn wan() -> LookDevice {
    LookDevice { device: "wan0".into(), mtu: 1500, up: true }
}

fn access() -> AccessLook {
    let program = |program: &str, device: &str| LookProgram {
        program: program.into(),
        attached: true,
        device: Some(LookDevice { device: device.into(), ..wan() }),
    };
    AccessLook {
        generation: Some(3),
        vlan_row: true,
        site: Some(LookSite {
            tunnel: "ipip:198.51.100.2,local=203.0.113.1".into(),
            prefix: "192.168.1.0/24".parse().ok(),
            mtu: 1480,
            arrives_on: Some(600),
            path_known: true,
            source_passes: true,
            server_mac: "02:00:00:00:06:00".parse().ok(),
            next_hop: Some(LookHop { device: "wan0".into(), via: ip("203.0.113.254") }),
            device: Some(wan()),
        }),
        programs: vec![program("wan_ingress", "wan0"), program("trunk_ingress", "trunk-main")],
        counters: Counters { drops: BTreeMap::from([("inner_source".into(), 4)]), ..Counters::default() },
        unattributed: BTreeMap::from([("unknown_key".into(), 9), ("unknown_vlan".into(), 8)]),
    }
}

fn device(index: u32, mtu: u32) -> Device {
    Device { index, up: true, running: true, mtu, mac: stackmap::MacAddr::new(MAC).ok() }
}

fn port() -> PortConfig {
    PortConfig {
        ifindex: 7,
        trunk: 2,
        vid: Vid::try_from(600).unwrap(),
        mac: MAC,
        gateway_mac: [2, 0, 0, 0, 6, 1],
        layer: vlan_rs::Layer::Three,
        mtu: 1480,
        answer: Vec::new(),
        neighbour_rate: vlan_rs::RateLimit::default(),
        packet_rate: vlan_rs::PACKET_RATE,
        class: 0,
    }
}

fn facts() -> Facts {
    let look = PortLook {
        to_port: Some(TagLook { port: 7, mac: MAC, mtu: 1480 }),
        from_port: Some(port()),
        trunk_attached: true,
        port_attached: true,
        trunk_drops: BTreeMap::from([(DropReason::UnknownVlan, 5)]),
        ..PortLook::default()
    };
    let holder = Holder { pid: 12, command: "nginx".into(), service: Some("web".into()) };
    Facts {
        tenant: tenant(),
        removing: false,
        failure: None,
        gateway_mac: GATEWAY.parse().ok(),
        access: Some(Ok(access())),
        room: Some(Ok(RoomFacts { trunk: Some(device(2, 9216)), port: Some(device(7, 1480)), look })),
        stack: Some(Ok(StackFacts {
            device: Some(device(3, 1480)),
            addresses: vec![ip("192.168.1.1")],
            input: Some(Routed::Local),
            output: Routed::Out { device: 3, via: Some(ip("fe80::1")), mtu: None },
            neighbour: Some(Neighbour { mac: GATEWAY.parse().ok(), permanent: true, failed: false }),
            filter: FilterFacts::None,
            others: Vec::new(),
            socket: SocketFacts::Found {
                local: "0.0.0.0:80".parse().unwrap(),
                listens: true,
                holders: Holders { known: vec![holder], found: 1, all: true },
            },
        })),
    }
}

fn inwards(facts: &Facts) -> Trace {
    follow(&question("192.168.1.10", "192.168.1.1:80", 0), Direction::In, facts)
}

/// Way, place and counter of where it ends.
fn ends(trace: &Trace) -> (Way, &str, &str) {
    let hop = trace.hops.last().unwrap();
    assert!(hop.state == HopState::Ends && !trace.arrives && trace.ends.as_ref() == Some(&hop.place), "{trace:#?}");
    (hop.way, &hop.place, hop.counter.as_ref().map_or("", |counter| &counter.name))
}

fn look(facts: &mut Facts) -> &mut AccessLook {
    facts.access.as_mut().unwrap().as_mut().unwrap()
}

fn site(facts: &mut Facts) -> &mut LookSite {
    look(facts).site.as_mut().unwrap()
}

fn room(facts: &mut Facts) -> &mut RoomFacts {
    facts.room.as_mut().unwrap().as_mut().unwrap()
}

fn stack(facts: &mut Facts) -> &mut StackFacts {
    facts.stack.as_mut().unwrap().as_mut().unwrap()
}

#[test]
fn what_is_whole_arrives_and_is_answered_both_ways() {
    let trace = inwards(&facts());
    assert!(trace.arrives && trace.ends.is_none(), "{trace:#?}");
    let places: Vec<_> = trace.hops.iter().map(|hop| hop.place.as_str()).collect();
    let there = ["tunnel", "wan", "trunk", "port", "device", "address", "filter", "socket"];
    let back = ["route", "neighbour", "port", "trunk", "tag", "tunnel"];
    assert_eq!(places, there.into_iter().chain(back).collect::<Vec<_>>());
    assert!(trace.hops.iter().all(|hop| hop.differs.is_none()), "{trace:#?}");
    assert!(trace.hops[7].found.contains("service web, process 12 (nginx) listens on 0.0.0.0:80"), "{trace:#?}");
    let mut facts = facts();
    stack(&mut facts).socket = SocketFacts::NotAsked;
    let out = follow(&question("192.168.1.1", "192.168.1.10", 0), Direction::Out, &facts);
    assert!(out.arrives && out.hops[0].place == "route" && out.hops[6].way == Way::Back, "{out:#?}");
}

/// What is broken, and where the packet then ends.
type Case = (fn(&mut Facts), Way, &'static str, &'static str);

#[test]
fn each_broken_thing_is_named_at_its_place() {
    use Way::{Back, There};
    let cases: &[Case] = &[
        (|f| look(f).site = None, There, "tunnel", "access_inner_source"),
        (|f| site(f).arrives_on = None, There, "tunnel", "access_unknown_key"),
        (|f| (site(f).arrives_on, site(f).path_known) = (None, false), There, "tunnel", "access_unknown_tunnel"),
        (|f| site(f).arrives_on = Some(601), There, "tunnel", ""),
        (|f| site(f).source_passes = false, There, "tunnel", "access_inner_source"),
        (|f| look(f).programs[0].attached = false, There, "wan", ""),
        (|f| look(f).programs[0].device.as_mut().unwrap().up = false, There, "wan", ""),
        (|f| look(f).programs[1].device = None, There, "trunk", ""),
        (|f| room(f).trunk.as_mut().unwrap().up = false, There, "trunk", ""),
        (|f| room(f).look.trunk_attached = false, There, "trunk", ""),
        (|f| room(f).look.to_port = None, There, "port", "port_unknown_vlan"),
        (|f| room(f).port = None, There, "port", ""),
        (|f| room(f).look.to_port.as_mut().unwrap().port = 9, There, "port", ""),
        (|f| room(f).look.to_port.as_mut().unwrap().mac[5] = 9, There, "port", "port_destination_mac"),
        (|f| room(f).port.as_mut().unwrap().up = false, There, "port", ""),
        (|f| f.stack = None, There, "device", ""),
        (|f| stack(f).device = None, There, "device", ""),
        (|f| stack(f).device.as_mut().unwrap().up = false, There, "device", ""),
        (|f| stack(f).input = Some(Routed::Refused(libc::EHOSTUNREACH)), There, "address", ""),
        (|f| stack(f).input = Some(Routed::Out { device: 3, via: None, mtu: None }), There, "address", ""),
        (|f| stack(f).socket = SocketFacts::Nobody, There, "socket", ""),
        (|f| stack(f).output = Routed::Refused(libc::ENETUNREACH), Back, "route", ""),
        (|f| stack(f).output = Routed::Out { device: 9, via: None, mtu: None }, Back, "route", ""),
        (|f| stack(f).neighbour.as_mut().unwrap().failed = true, Back, "neighbour", ""),
        (|f| room(f).look.port_attached = false, Back, "port", ""),
        (|f| room(f).look.from_port = None, Back, "port", "port_no_port"),
        (|f| room(f).look.from_port.as_mut().unwrap().mac[5] = 9, Back, "port", "port_source_mac"),
        (|f| look(f).vlan_row = false, Back, "tag", "access_unknown_vlan"),
        (|f| site(f).next_hop = None, Back, "tunnel", "access_no_next_hop"),
    ];
    for (n, (break_it, way, place, counter)) in cases.iter().enumerate() {
        let mut facts = facts();
        break_it(&mut facts);
        let trace = inwards(&facts);
        assert_eq!(ends(&trace), (*way, *place, *counter), "case {n}: {trace:#?}");
    }
}

#[test]
fn a_counter_has_its_present_value() {
    let mut facts = facts();
    room(&mut facts).look.to_port = None;
    let trace = inwards(&facts).seen_from_outside();
    assert_eq!(trace.hops.last().unwrap().counter.as_ref().unwrap().packets, 5);
    assert_eq!(trace.counters["port_unknown_vlan"], 5);
    assert_eq!((trace.counters["access_unknown_key"], trace.counters["access_inner_source"]), (9, 4));
}

#[test]
fn the_filter_of_the_kernel_decides_and_not_the_desired_one() {
    let filter =
        |default, rules: &[&str]| Filter { default, rules: rules.iter().map(|r| r.parse().unwrap()).collect() };
    let cases = [
        (filter(Verdict::Drop, &["accept,tcp/80"]), None),
        (filter(Verdict::Drop, &["accept,tcp/81"]), Some("filter_default")),
        (filter(Verdict::Accept, &["drop,tcp/1-100,from=192.168.1.0/28", "accept"]), Some("filter_1")),
        (filter(Verdict::Accept, &["drop,udp/80", "drop,icmp"]), None),
        (filter(Verdict::Accept, &["accept,tcp/80", "drop"]), None),
    ];
    for (filter, dropped_by) in cases {
        let mut facts = facts();
        let drops = [("filter_1", 1), ("filter_default", 2)].map(|(name, n)| (name.to_owned(), n)).into();
        stack(&mut facts).filter = FilterFacts::Ours { filter: filter.clone(), drops };
        let trace = inwards(&facts);
        let hop = trace.hops.iter().find(|hop| hop.place == "filter").unwrap();
        assert_eq!(hop.state == HopState::Ends, dropped_by.is_some(), "{filter:?}: {hop:?}");
        assert_eq!(hop.counter.as_ref().map(|counter| counter.name.as_str()), dropped_by, "{filter:?}");
        assert!(hop.differs.is_some(), "the tenant asked for none");
    }
    let mut facts = facts();
    stack(&mut facts).filter = FilterFacts::Changed;
    stack(&mut facts).others = vec!["nft table house".into()];
    let trace = inwards(&facts);
    let hop = trace.hops.iter().find(|hop| hop.place == "filter").unwrap();
    assert!(hop.state == HopState::Unknown && hop.found.contains("nft table house"), "{hop:?}");
    assert!(!trace.arrives && trace.ends.is_none(), "what cannot be known neither arrives nor ends");
}

#[test]
fn a_packet_that_is_too_long_ends_where_it_no_longer_fits() {
    let long = |from: &str, to: &str, size, direction| follow(&question(from, to, size), direction, &facts());
    let trace = long("192.168.1.10", "192.168.1.1:80", 1481, Direction::In);
    assert_eq!(ends(&trace), (Way::There, "port", "port_too_long"));
    assert!(long("192.168.1.10", "192.168.1.1:80", 1480, Direction::In).arrives);
    let trace = long("192.168.1.1", "192.168.1.10", 1481, Direction::Out);
    assert_eq!(ends(&trace), (Way::There, "route", ""));
    let mut facts = facts();
    site(&mut facts).mtu = 1400;
    stack(&mut facts).socket = SocketFacts::NotAsked;
    let trace = follow(&question("192.168.1.1", "192.168.1.10", 1450), Direction::Out, &facts);
    assert_eq!(ends(&trace), (Way::There, "tunnel", "access_too_long"));
}

#[test]
fn an_access_server_that_is_away_is_told_as_such() {
    let mut facts = facts();
    facts.access = Some(Err("nobody answers".into()));
    let trace = inwards(&facts);
    assert!(trace.hops[0].state == HopState::Unknown && !trace.arrives && trace.ends.is_none(), "{trace:#?}");
    stack(&mut facts).socket = SocketFacts::Nobody;
    assert_eq!(ends(&inwards(&facts)), (Way::There, "socket", ""), "what can be known is looked at");
}

#[test]
fn nothing_of_the_host_is_seen_from_inside() {
    let trace = inwards(&facts()).seen_from_inside();
    let text = serde_json::to_string(&trace).unwrap();
    for secret in ["wan0", "trunk-main", "203.0.113", "198.51.100", "wan_ingress", "p600"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    assert!(text.contains("nginx") && trace.arrives);
}

#[test]
fn what_is_counted_for_all_tenants_is_not_seen_from_inside() {
    let mut facts = facts();
    look(&mut facts).unattributed.insert("unknown_key".into(), 77);
    room(&mut facts).look.room_drops.insert(DropReason::NoPort, 78);
    room(&mut facts).look.counters.drops.insert(DropReason::UnknownVlan, 3);
    let outside = inwards(&facts).seen_from_outside();
    let of = |trace: &Trace, name: &str| trace.counters.get(name).copied();
    assert_eq!(of(&outside, "port_unknown_vlan"), Some(8), "the trunk's and the port's");
    assert_eq!((of(&outside, "access_unknown_key"), of(&outside, "port_no_port")), (Some(77), Some(78)));
    let inside = inwards(&facts).seen_from_inside();
    assert_eq!(of(&inside, "port_unknown_vlan"), Some(3), "its own port's");
    assert_eq!((of(&inside, "access_unknown_key"), of(&inside, "port_no_port")), (None, None));
    assert!(of(&inside, "port_in_packets").is_some());
    // Nor at the hop where it ends.
    site(&mut facts).arrives_on = None;
    let hop = |trace: Trace| trace.hops.last().unwrap().counter.clone();
    assert!(hop(inwards(&facts)).is_some_and(|counter| counter.name.starts_with("access_unknown_")));
    assert_eq!(hop(inwards(&facts).seen_from_inside()), None);
}

#[test]
fn a_search_that_was_ended_is_told_as_such() {
    let mut facts = facts();
    let mut words = |known: Vec<Holder>, found, all| {
        let local = "0.0.0.0:80".parse().unwrap();
        let holders = Holders { known, found, all };
        stack(&mut facts).socket = SocketFacts::Found { local, listens: true, holders };
        let hops = inwards(&facts).hops;
        hops.into_iter().find(|hop| hop.place == "socket").unwrap().found
    };
    let one = || vec![Holder { pid: 12, command: "nginx".into(), service: None }];
    assert!(words(Vec::new(), 0, false).contains("not found among so many"));
    assert!(words(Vec::new(), 0, true).contains("no process of the tenant holds"));
    assert!(words(one(), 40, true).contains("(nginx) and 39 more"));
    assert!(words(one(), 40, false).contains("and at least 39 more"));
    assert!(words(one(), 1, false).contains("and perhaps more"));
}

#[test]
fn questions_that_cannot_be() {
    let ask = |from: &str, to: &str, protocol, size| {
        Question::new("acme".parse().unwrap(), from, to, protocol, size).map_err(|e| e.field.into_owned())
    };
    let tcp = ask("192.168.1.10", "192.168.1.1:80", None, 0).unwrap();
    assert_eq!(
        (tcp.protocol, tcp.port, tcp.words().as_str()),
        (TraceProtocol::Tcp, Some(80), "tcp 192.168.1.10 -> 192.168.1.1:80")
    );
    assert_eq!(
        ask("fd00::10", "[fd00::1]:53", Some(TraceProtocol::Udp), 9).unwrap().words(),
        "udp fd00::10 -> [fd00::1]:53, 9 bytes"
    );
    assert_eq!(ask("fd00::10", "fd00::1", None, 0).unwrap().protocol, TraceProtocol::Icmp);
    for (from, to, protocol, size, field) in [
        ("x", "192.168.1.1", None, 0, "from"),
        ("192.168.1.10", "host:80", None, 0, "to"),
        ("192.168.1.10", "192.168.1.1", Some(TraceProtocol::Tcp), 0, "to"),
        ("192.168.1.10", "192.168.1.1:0", None, 0, "to"),
        ("192.168.1.10", "192.168.1.1:80", Some(TraceProtocol::Icmp), 0, "to"),
        ("192.168.1.10", "fd00::1", None, 0, "to"),
        ("127.0.0.1", "192.168.1.1", None, 0, "from"),
        ("192.168.1.10", "224.0.0.1", None, 0, "to"),
        ("192.168.1.10", "192.168.1.1", None, 65_536, "size"),
    ] {
        assert_eq!(ask(from, to, protocol, size).unwrap_err(), field, "{from} {to}");
    }
}
