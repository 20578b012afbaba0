//! Generated values for the tests: whole ranges where a value is checked by itself, small worlds
//! where values must meet each other.
#![allow(dead_code, reason = "every test file takes what it needs")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use stackmap::{
    FlowRequest, Generation, GidRange, IpNet, Lifetime, LinkRequest, Meta, NicName, Origin, Owner, Site, StackIndex,
    TenantName, TrunkIndex, TunnelId, TunnelKind, TunnelSpec, Vlan,
};

/// Any tunnel kind.
pub(crate) fn kind() -> impl Strategy<Value = TunnelKind> {
    prop::sample::select(&TunnelKind::ALL[..])
}

/// A key that fits the kind.
fn key_for(kind: TunnelKind) -> BoxedStrategy<Option<u32>> {
    match kind {
        TunnelKind::Ipip => Just(None).boxed(),
        TunnelKind::Gre => any::<Option<u32>>().boxed(),
        TunnelKind::Vxlan => (0u32..1 << 24).prop_map(Some).boxed(),
    }
}

/// Two different unicast addresses of one family.
fn ends() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    let v4 = (0xc633_6401u32..0xc633_64ff, 0xcb00_7101u32..0xcb00_71ff)
        .prop_map(|(r, l)| (Ipv4Addr::from(r).into(), Ipv4Addr::from(l).into()));
    let base = u128::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0));
    let v6 = (1u128..1 << 80, 1u128..1 << 80).prop_filter_map("equal", move |(r, l)| {
        (r != l).then(|| (Ipv6Addr::from(base + r).into(), Ipv6Addr::from(base + l).into()))
    });
    prop_oneof![v4, v6]
}

/// Any valid tunnel identity.
pub(crate) fn tunnel_id() -> impl Strategy<Value = TunnelId> {
    (kind(), ends()).prop_flat_map(|(kind, (remote, local))| {
        key_for(kind).prop_map(move |key| TunnelId::new(kind, remote, local, key).unwrap())
    })
}

/// Any prefix without host bits, not IPv4-mapped.
pub(crate) fn prefix() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<u32>(), 0u8..=32).prop_map(|(a, len)| IpNet::new(Ipv4Addr::from(a).into(), len).unwrap().trunc());
    let v6 = (any::<u128>(), 0u8..=128).prop_map(|(a, len)| IpNet::new(Ipv6Addr::from(a).into(), len).unwrap().trunc());
    prop_oneof![v4, v6]
}

fn prefixes() -> impl Strategy<Value = Vec<IpNet>> {
    prop::collection::btree_set(prefix(), 0..4).prop_map(|set| set.into_iter().rev().collect())
}

/// Any valid tunnel spec.
pub(crate) fn tunnel_spec() -> impl Strategy<Value = TunnelSpec> {
    (tunnel_id(), any::<bool>(), prefixes()).prop_map(|(id, with_local, prefixes)| {
        let local = with_local.then_some(id.local());
        TunnelSpec::new(id.kind(), id.remote(), local, id.key(), prefixes).unwrap()
    })
}

/// Any meta; lifetimes lie in the first 40 seconds so that histories meet their ends.
pub(crate) fn meta() -> impl Strategy<Value = Meta> {
    let lifetime = (0u64..20, 0u64..20).prop_map(|(granted_s, since_s)| Lifetime { granted_s, since_s });
    let origin = prop_oneof![Just(Origin::Operator), Just(Origin::Registered)];
    let owner = prop::sample::select(vec!["tenantd/main", "portal"]);
    (owner, 0u64..3, origin, prop::option::weighted(0.3, lifetime)).prop_map(|(owner, generation, origin, lifetime)| {
        Meta { owner: owner.parse::<Owner>().unwrap(), generation: Generation(generation), origin, lifetime }
    })
}

/// One of six tenants.
pub(crate) fn tenant() -> impl Strategy<Value = TenantName> {
    prop::sample::select(vec!["a", "b", "c", "d", "acme", "z-9"]).prop_map(|s| s.parse().unwrap())
}

/// One of eight tunnels; some differ in one part only.
pub(crate) fn some_tunnel() -> impl Strategy<Value = TunnelId> {
    let at = |kind, remote: &str, local: &str, key| {
        TunnelId::new(kind, remote.parse().unwrap(), local.parse().unwrap(), key).unwrap()
    };
    prop::sample::select(vec![
        at(TunnelKind::Ipip, "198.51.100.2", "203.0.113.1", None),
        at(TunnelKind::Ipip, "198.51.100.3", "203.0.113.1", None),
        at(TunnelKind::Ipip, "198.51.100.2", "203.0.113.2", None),
        at(TunnelKind::Gre, "198.51.100.2", "203.0.113.1", None),
        at(TunnelKind::Gre, "198.51.100.2", "203.0.113.1", Some(0)),
        at(TunnelKind::Gre, "198.51.100.2", "203.0.113.1", Some(7)),
        at(TunnelKind::Vxlan, "198.51.100.2", "203.0.113.1", Some(7)),
        at(TunnelKind::Ipip, "2001:db8::2", "2001:db8::1", None),
    ])
}

/// A site at one of the eight tunnels.
pub(crate) fn some_site() -> impl Strategy<Value = Site> {
    let prefixes = prop::sample::subsequence(vec!["192.168.1.0/24", "10.0.0.0/8", "2001:db8:1::/48"], 0..=2);
    (some_tunnel(), prefixes).prop_map(|(tunnel, prefixes)| {
        let prefixes = prefixes.iter().map(|p| p.parse().unwrap()).collect();
        Site::new(tunnel, prefixes).unwrap()
    })
}

/// A request whose parts often meet those of another one.
pub(crate) fn request() -> impl Strategy<Value = FlowRequest> {
    let vlan = prop::sample::select(vec![1u16, 2, 3, 5, 4094]).prop_map(|v| Vlan::new(v).unwrap());
    let trunk = prop_oneof![3 => Just(TrunkIndex(0)), 1 => Just(TrunkIndex(1))];
    let port = (trunk, prop::option::weighted(0.4, vlan)).prop_map(|(trunk, vlan)| LinkRequest::Port { trunk, vlan });
    let nic = prop::sample::select(vec!["eth1", "dev0"]).prop_map(|s| LinkRequest::Nic(s.parse::<NicName>().unwrap()));
    let stack = prop::sample::select(vec![0, 1, 2, 4, u32::MAX]).prop_map(StackIndex);
    let gid =
        prop::sample::select(vec![524_288u32, 589_824, 720_896, 1_878_982_656]).prop_map(|g| GidRange::new(g).unwrap());
    (
        tenant(),
        prop_oneof![5 => port, 1 => nic],
        prop::option::weighted(0.3, stack),
        prop::option::weighted(0.3, gid),
        prop::collection::vec(some_site(), 0..3),
        meta(),
    )
        .prop_map(|(tenant, link, stack, gid, sites, meta)| FlowRequest { tenant, link, stack, gid, sites, meta })
}
