//! Tunnels: their text and JSON forms, every refusal in its words, how a local end is found.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod generate;

use std::fmt::{Debug, Display};
use std::str::FromStr;

use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stackmap::{TunnelId, TunnelKind, TunnelSpec, check_prefixes};

/// The refusal of `s` as `T`, as a user reads it.
fn refusal<T: FromStr<Err = stackmap::Invalid> + Debug>(s: &str) -> String {
    s.parse::<T>().unwrap_err().to_string()
}

fn survives_text<T: FromStr<Err: Debug> + Display + PartialEq + Debug>(value: &T) {
    assert_eq!(&value.to_string().parse::<T>().unwrap(), value);
}

fn survives_json<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let json = serde_json::to_string(value).unwrap();
    assert_eq!(&serde_json::from_str::<T>(&json).unwrap(), value, "{json}");
}

#[test]
fn tunnel_specs_as_people_write_them() {
    for (s, shown) in [
        ("ipip:129.60.2.1", "ipip:129.60.2.1"),
        ("gre:2001:db8::2,key=7", "gre:2001:db8::2,key=7"),
        ("gre:[2001:db8::2],local=[2001:db8::1]", "gre:2001:db8::2,local=2001:db8::1"),
        (
            "vxlan:198.51.100.2,prefix=10.0.0.0/8,key=16777215,local=203.0.113.1",
            "vxlan:198.51.100.2,local=203.0.113.1,key=16777215,prefix=10.0.0.0/8",
        ),
        (
            "ipip:198.51.100.2,prefix=192.168.2.0/24,prefix=10.0.0.0/8",
            "ipip:198.51.100.2,prefix=10.0.0.0/8,prefix=192.168.2.0/24",
        ),
    ] {
        assert_eq!(s.parse::<TunnelSpec>().unwrap().to_string(), shown);
    }
}

#[test]
fn refused_tunnel_specs() {
    for (s, said) in [
        ("ipip", r#"tunnel: "ipip" refused: must be KIND:REMOTE[,local=ADDR][,key=N][,prefix=CIDR]..."#),
        ("geneve:198.51.100.2", r#"kind: "geneve" refused: must be ipip, gre or vxlan"#),
        ("IPIP:198.51.100.2", r#"kind: "IPIP" refused: must be ipip, gre or vxlan"#),
        ("ipip:", r#"remote: "" refused: must be an IPv4 or IPv6 address"#),
        ("ipip:gw.example", r#"remote: "gw.example" refused: must be an IPv4 or IPv6 address"#),
        ("ipip:[198.51.100.2]", r#"remote: "[198.51.100.2]" refused: must be an IPv4 or IPv6 address"#),
        ("ipip:[2001:db8::2", r#"remote: "[2001:db8::2" refused: must be an IPv4 or IPv6 address"#),
        ("ipip:224.0.0.1", r#"remote: "224.0.0.1" refused: must not be a multicast address"#),
        ("ipip:0.0.0.0", r#"remote: "0.0.0.0" refused: must not be the unspecified address"#),
        ("ipip:127.0.0.1", r#"remote: "127.0.0.1" refused: must not be a loopback address"#),
        ("ipip:255.255.255.255", r#"remote: "255.255.255.255" refused: must not be the broadcast address"#),
        ("ipip:fe80::2", r#"remote: "fe80::2" refused: must not be a link-local address"#),
        (
            "ipip:::ffff:198.51.100.2",
            r#"remote: "::ffff:198.51.100.2" refused: must not be IPv4-mapped: write it as IPv4"#,
        ),
        ("ipip:198.51.100.2,local=198.51.100.2", r#"remote: "198.51.100.2" refused: must not be the local address"#),
        (
            "ipip:198.51.100.2,local=2001:db8::1",
            r#"local: "2001:db8::1" refused: must be of the same family as the remote 198.51.100.2"#,
        ),
        ("ipip:198.51.100.2,key=7", r#"key: "7" refused: ipip has no key"#),
        ("ipip:198.51.100.2,key=x", r#"key: "x" refused: ipip has no key"#),
        ("gre:198.51.100.2,key=4294967296", r#"key: "4294967296" refused: a GRE key must be 0..=4294967295 (32 bits)"#),
        ("gre:198.51.100.2,key=-1", r#"key: "-1" refused: a GRE key must be 0..=4294967295 (32 bits)"#),
        ("vxlan:198.51.100.2", r#"key: "" refused: vxlan needs a key (its VNI)"#),
        ("vxlan:198.51.100.2,key=16777216", r#"key: "16777216" refused: a VNI must be 0..=16777215 (24 bits)"#),
        (
            "ipip:198.51.100.2,prefix=10.0.0.1/8",
            r#"prefix: "10.0.0.1/8" refused: has host bits set, 10.0.0.0/8 was probably meant"#,
        ),
        ("ipip:198.51.100.2,prefix=10.0.0.0/8,prefix=10.0.0.0/8", r#"prefix: "10.0.0.0/8" refused: is given twice"#),
        ("gre:198.51.100.2,key=1,key=1", r#"tunnel: "key=1" refused: key is given twice"#),
        ("ipip:198.51.100.2,ttl=3", r#"tunnel: "ttl=3" refused: unknown option: must be local, key or prefix"#),
        ("ipip:198.51.100.2,", r#"tunnel: "" refused: must be KIND:REMOTE[,local=ADDR][,key=N][,prefix=CIDR]..."#),
    ] {
        assert_eq!(refusal::<TunnelSpec>(s), said);
    }
}

#[test]
fn tunnels_in_json() {
    let spec: TunnelSpec = "gre:198.51.100.2,key=7,prefix=10.0.0.0/8".parse().unwrap();
    let json = r#"{"kind":"gre","remote":"198.51.100.2","local":null,"key":7,"prefixes":["10.0.0.0/8"]}"#;
    assert_eq!(serde_json::to_string(&spec).unwrap(), json);
    for json in [
        json,
        r#""gre:198.51.100.2,key=7,prefix=10.0.0.0/8""#,
        r#"{"kind":"gre","remote":"198.51.100.2","key":7,"prefixes":["10.0.0.0/8"]}"#,
    ] {
        assert_eq!(serde_json::from_str::<TunnelSpec>(json).unwrap(), spec);
    }
    for (json, said) in [
        (r#"{"kind":"ipip","remote":"198.51.100.2","key":7}"#, r#"key: "7" refused: ipip has no key"#),
        (r#"{"kind":"ipip","remote":"198.51.100.2","ttl":7}"#, "unknown field `ttl`"),
        (r#""geneve:198.51.100.2""#, "must be ipip, gre or vxlan"),
        ("7", "a tunnel as object"),
    ] {
        let e = serde_json::from_str::<TunnelSpec>(json).unwrap_err().to_string();
        assert!(e.contains(said), "{e}");
    }
    let same = r#"{"kind":"ipip","remote":"198.51.100.2","local":"198.51.100.2"}"#;
    let e = serde_json::from_str::<TunnelId>(same).unwrap_err().to_string();
    assert!(e.contains("must not be the local address"), "{e}");
}

#[test]
fn a_spec_finds_its_local_end() {
    let local = |s: &str, locals: &[&str]| {
        let locals: Vec<_> = locals.iter().map(|l| l.parse().unwrap()).collect();
        let id = s.parse::<TunnelSpec>().unwrap().resolve_among(&locals);
        id.map(|id| id.local().to_string()).map_err(|e| e.to_string())
    };
    let both = ["203.0.113.1", "2001:db8::1"];
    assert_eq!(local("ipip:198.51.100.2", &both), Ok("203.0.113.1".into()));
    assert_eq!(local("ipip:2001:db8::2", &both), Ok("2001:db8::1".into()));
    assert_eq!(
        local("ipip:2001:db8::2", &both[..1]),
        Err(r#"remote: "2001:db8::2" refused: no local address of its family: 203.0.113.1"#.into())
    );
    assert_eq!(
        local("ipip:198.51.100.2,local=203.0.113.9", &both),
        Err(r#"local: "203.0.113.9" refused: must be a local address of the access server: 203.0.113.1, 2001:db8::1"#
            .into())
    );
    let open: TunnelSpec = "ipip:198.51.100.2".parse().unwrap();
    assert!(open.resolve("198.51.100.2".parse().unwrap()).is_err());
    assert!(open.resolve("2001:db8::1".parse().unwrap()).is_err());
}

#[test]
fn one_prefix_behind_two_layer_3_tunnels() {
    let specs = |list: &[&str]| list.iter().map(|s| s.parse().unwrap()).collect::<Vec<TunnelSpec>>();
    check_prefixes(&specs(&["ipip:198.51.100.2,prefix=10.0.0.0/8", "ipip:198.51.100.3,prefix=10.1.0.0/16"])).unwrap();
    check_prefixes(&specs(&["vxlan:198.51.100.2,key=1", "vxlan:198.51.100.3,key=1"])).unwrap();
    let e = check_prefixes(&specs(&["ipip:198.51.100.2", "gre:198.51.100.3"])).unwrap_err();
    assert_eq!(
        e.to_string(),
        r#"prefix: "0.0.0.0/0" refused: lies already behind tunnel ipip:198.51.100.2 of this tenant"#
    );
}

#[test]
fn tunnel_identities_in_rows() {
    for (s, shown) in [
        ("ipip:198.51.100.2", "ipip (198.51.100.2, 203.0.113.1)"),
        ("gre:198.51.100.2", "gre (198.51.100.2, 203.0.113.1)"),
        ("gre:198.51.100.2,key=7", "gre (198.51.100.2, 203.0.113.1, key 7)"),
        ("vxlan:198.51.100.2,key=7", "vxlan (198.51.100.2, 203.0.113.1, vni 7)"),
    ] {
        let spec: TunnelSpec = s.parse().unwrap();
        assert_eq!(spec.resolve("203.0.113.1".parse().unwrap()).unwrap().to_string(), shown);
    }
}

#[test]
fn kinds_know_what_they_carry() {
    use stackmap::Layer;
    let told = TunnelKind::ALL.map(|k| (k.as_str(), k.layer(), k.has_key()));
    assert_eq!(told, [("ipip", Layer::Three, false), ("gre", Layer::Three, true), ("vxlan", Layer::Two, true)]);
}

proptest! {
    #[test]
    fn tunnel_specs_survive(spec in generate::tunnel_spec()) {
        survives_text(&spec);
        survives_json(&spec);
        let local = spec.local().unwrap_or_else(|| if spec.remote().is_ipv4() { "203.0.113.0".parse().unwrap() } else { "2001:db9::1".parse().unwrap() });
        let id = spec.resolve(local).unwrap();
        prop_assert_eq!((id.kind(), id.remote(), id.local(), id.key()), (spec.kind(), spec.remote(), local, spec.key()));
    }

    #[test]
    fn tunnel_identities_survive(id in generate::tunnel_id()) {
        survives_json(&id);
    }
}
