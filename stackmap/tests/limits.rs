//! How many closed networks fit, what is said when no more do, and that a full instance is no
//! slower: with work that grows with the number of tenants these tests would run for minutes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use stackmap::{
    Conflict, FlowRequest, Generation, GidRange, LinkRequest, Maps, Meta, Pool, Site, TrunkIndex, TunnelId, TunnelKind,
    Vlan,
};

fn request(n: u32, trunk: u16) -> FlowRequest {
    let meta = Meta::operator("tenantd/main".parse().unwrap(), Generation(1));
    let mut request = FlowRequest::new(format!("t{n}").parse().unwrap(), meta);
    request.link = LinkRequest::Port { trunk: TrunkIndex(trunk), vlan: None };
    let remote = std::net::Ipv4Addr::from(0xc612_0000 + n).into();
    let tunnel = TunnelId::new(TunnelKind::Ipip, remote, "203.0.113.1".parse().unwrap(), None).unwrap();
    request.sites = vec![Site::new(tunnel, vec![]).unwrap()];
    request
}

#[test]
fn a_trunk_takes_4094_tenants_vlan_1_last() {
    let mut maps = Maps::new();
    for n in 0..4094 {
        let flow = maps.add(request(n, 0)).unwrap();
        let vlan = flow.lower.link.segment().unwrap().vlan.get();
        assert_eq!(u32::from(vlan), if n == 4093 { 1 } else { n + 2 });
        assert_eq!(flow.upper.stack.get(), n);
        assert_eq!(flow.upper.gid.get(), 524_288 + 65_536 * n);
    }
    let full = maps.add(request(4094, 0)).unwrap_err();
    assert_eq!(full, Conflict::Exhausted(Pool::Vlan(TrunkIndex(0))));
    assert_eq!(full.to_string(), r#"vlan: "" refused: all 4094 of trunk 0 are taken"#);
    maps.add(request(4094, 1)).expect("another trunk has room");

    // The lowest of what was given back comes first.
    for n in [4000, 7, 100] {
        maps.remove(&format!("t{n}").parse().unwrap()).unwrap();
    }
    let flow = maps.add(request(5000, 0)).unwrap();
    assert_eq!(flow.lower.link.segment().unwrap().vlan, Vlan::new(9).unwrap());
    assert_eq!((flow.upper.stack.get(), flow.upper.gid.get()), (7, 524_288 + 65_536 * 7));
}

#[test]
fn an_instance_takes_28664_tenants() {
    let mut maps = Maps::new();
    for n in 0..GidRange::COUNT {
        maps.add(request(n, u16::try_from(n / 4094).unwrap())).unwrap();
    }
    assert_eq!(maps.len(), 28_664);
    assert_eq!(maps.upper().rows().last().unwrap().gid, GidRange::LAST);
    let full = maps.add(request(GidRange::COUNT, 100)).unwrap_err();
    assert_eq!(full.to_string(), r#"gid: "" refused: all 28664 ranges are taken"#);

    // Forty thousand changes of one tenant among all the others.
    for _ in 0..20_000 {
        maps.remove(&"t20000".parse().unwrap()).unwrap();
        let flow = maps.add(request(20_000, 4)).unwrap();
        assert_eq!(flow.upper.stack.get(), 20_000);
    }
}
