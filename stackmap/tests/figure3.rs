//! The test vectors of the specification's figure 3: three closed networks that all want
//! 192.168.1.1, and a fourth that comes later. The figure counts gids from 1000; a tenant here has
//! a range of 65,536, so its gid 1000 + n is the n-th range.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use stackmap::{
    Change, FlowRequest, Generation, Key, LinkRequest, Maps, Meta, Row, TrunkIndex, TunnelSpec, check_addresses, diff,
    parse_address,
};

const ACCESS_SERVER: &str = "129.60.1.1";

fn request(name: &str, gateway: &str, vlan: u16) -> FlowRequest {
    let meta = Meta::operator("tenantd/main".parse().unwrap(), Generation(1));
    let spec: TunnelSpec = format!("ipip:{gateway}").parse().unwrap();
    let mut request = FlowRequest::new(name.parse().unwrap(), meta);
    request.link = LinkRequest::Port { trunk: TrunkIndex(0), vlan: Some(vlan.try_into().unwrap()) };
    request.sites = vec![spec.site(ACCESS_SERVER.parse().unwrap()).unwrap()];
    request
}

fn figure() -> Maps {
    let mut maps = Maps::new();
    for (name, gateway, vlan) in [("a", "129.60.2.1", 600), ("b", "129.60.3.1", 601), ("c", "129.60.4.1", 602)] {
        // Row 3: the same address for any number of them.
        check_addresses(&[parse_address("192.168.1.1/24").unwrap()]).unwrap();
        maps.add(request(name, gateway, vlan)).unwrap();
    }
    maps
}

#[test]
fn the_three_tables_are_those_of_the_figure() {
    let snapshot = figure().snapshot();
    let upper: Vec<_> = snapshot.upper.iter().map(ToString::to_string).collect();
    assert_eq!(upper, ["inet0 <-> gid 524288", "inet1 <-> gid 589824", "inet2 <-> gid 655360"]);
    let lower: Vec<_> = snapshot.lower.iter().map(ToString::to_string).collect();
    assert_eq!(lower, ["(inet0, dev0) <-> vlan600", "(inet1, dev1) <-> vlan601", "(inet2, dev2) <-> vlan602"]);
    let access: Vec<_> = snapshot.access.iter().map(ToString::to_string).collect();
    assert_eq!(
        access,
        [
            "ipip (129.60.2.1, 129.60.1.1) <-> vlan600",
            "ipip (129.60.3.1, 129.60.1.1) <-> vlan601",
            "ipip (129.60.4.1, 129.60.1.1) <-> vlan602",
        ]
    );
}

#[test]
fn a_packet_finds_its_way_there_and_back() {
    let maps = figure();
    let tunnel = request("b", "129.60.3.1", 601).sites[0].clone();
    let segment = maps.access().get(tunnel.tunnel()).unwrap().segment;
    let stack = maps.lower().by_segment(segment).unwrap().stack;
    let gid = maps.upper().by_stack(stack).unwrap().gid;
    assert_eq!((segment.vlan.get(), stack.get(), gid.get()), (601, 1, 589_824));
    // The reply: a process of the group, its stack, its VLAN, its tunnel.
    let stack = maps.upper().by_id(gid.get() + 33).unwrap().stack;
    let segment = maps.lower().by_stack(stack).unwrap().link.segment().unwrap();
    let back: Vec<_> = maps.access().by_segment(segment).map(|r| *r.tunnel()).collect();
    assert_eq!(back, [*tunnel.tunnel()]);
}

#[test]
fn d_comes_later_and_nobody_else_changes() {
    let mut maps = figure();
    let before = maps.snapshot();
    let flow = maps.add(request("d", "129.60.5.1", 603)).unwrap();
    assert_eq!(
        flow.to_string(),
        "inet3 <-> gid 720896\n(inet3, dev3) <-> vlan603\nipip (129.60.5.1, 129.60.1.1) <-> vlan603"
    );
    let steps = diff(&maps.snapshot(), &before);
    assert_eq!(
        steps,
        [
            Change::Add { row: Row::Upper(flow.upper) },
            Change::Add { row: Row::Lower(flow.lower) },
            Change::Add { row: Row::Access(flow.access[0].clone()) },
        ]
    );
}

#[test]
fn what_is_one_network_s_is_refused_to_another_and_the_holder_is_named() {
    let mut maps = figure();
    let before = maps.snapshot();
    let mut refused = |change: fn(&mut FlowRequest)| {
        let mut request = request("d", "129.60.5.1", 603);
        change(&mut request);
        maps.add(request).unwrap_err().to_string()
    };
    assert_eq!(refused(|r| r.tenant = "a".parse().unwrap()), r#"name: "a" refused: taken by tenant a"#);
    assert_eq!(
        refused(|r| r.link = LinkRequest::Port { trunk: TrunkIndex(0), vlan: Some(601.try_into().unwrap()) }),
        r#"vlan: "601" refused: taken by tenant b"#
    );
    assert_eq!(refused(|r| r.gid = Some("655360".parse().unwrap())), r#"gid: "655360" refused: taken by tenant c"#);
    assert_eq!(refused(|r| r.stack = Some("inet0".parse().unwrap())), r#"stack: "inet0" refused: taken by tenant a"#);
    assert_eq!(
        refused(|r| r.sites = request("d", "129.60.2.1", 603).sites),
        r#"tunnel: "ipip (129.60.2.1, 129.60.1.1)" refused: taken by tenant a"#
    );
    assert_eq!(
        refused(|r| r.link = LinkRequest::Nic("eth1".parse().unwrap())),
        r#"tunnel: "ipip (129.60.5.1, 129.60.1.1)" refused: device eth1 is given whole: there is no VLAN for a tunnel"#
    );
    assert_eq!(maps.snapshot(), before, "a refusal changes nothing");
}

#[test]
fn every_obstacle_is_listed_at_once() {
    let maps = figure();
    let mut request = request("a", "129.60.4.1", 601);
    request.gid = Some("655360".parse().unwrap());
    let fields: Vec<_> = maps.conflicts(&request).iter().map(|c| c.to_invalid().field.into_owned()).collect();
    assert_eq!(fields, ["name", "gid", "vlan", "tunnel"]);
}

#[test]
fn the_same_vlan_on_another_trunk_is_another_network() {
    let mut maps = figure();
    let mut on_trunk_1 = request("d", "129.60.5.1", 600);
    on_trunk_1.link = LinkRequest::Port { trunk: TrunkIndex(1), vlan: Some(600.try_into().unwrap()) };
    let flow = maps.add(on_trunk_1.clone()).unwrap();
    assert_eq!(flow.lower.to_string(), "(inet3, dev3) <-> trunk1/vlan600");
    assert_eq!(flow.access[0].to_string(), "ipip (129.60.5.1, 129.60.1.1) <-> trunk1/vlan600");
    on_trunk_1.tenant = "e".parse().unwrap();
    let refused = maps.add(on_trunk_1).unwrap_err().to_string();
    assert_eq!(refused, r#"vlan: "600" refused: taken on trunk 1 by tenant d"#);
}

#[test]
fn a_card_given_whole_has_no_vlan_and_is_used_once() {
    let mut maps = figure();
    let card = |name: &str| {
        let mut request = request(name, "129.60.5.1", 603);
        request.link = LinkRequest::Nic("eth1".parse().unwrap());
        request.sites.clear();
        request
    };
    let flow = maps.add(card("d")).unwrap();
    assert_eq!(flow.lower.to_string(), "(inet3, eth1) <-> eth1");
    assert_eq!(maps.find(&Key::Nic("eth1".parse().unwrap())).unwrap().as_str(), "d");
    let refused = maps.add(card("e")).unwrap_err().to_string();
    assert_eq!(refused, r#"device: "eth1" refused: taken by tenant d"#);
}
