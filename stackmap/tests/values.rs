//! The values: what is refused and in which words, and that text and JSON lead back to the value.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod generate;

use std::fmt::{Debug, Display};
use std::str::FromStr;

use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stackmap::{
    GidRange, IpNet, MacAddr, MacRole, Meta, NicName, Owner, Segment, StackIndex, TenantName,
    TrunkIndex, TunnelId, TunnelKind, TunnelSpec, Vlan, check_addresses, check_prefixes,
    parse_address, parse_prefix,
};

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
fn vlans() {
    assert_eq!(
        refusal::<Vlan>("4095"),
        r#"vlan: "4095" refused: must be 1..=4094"#
    );
    for s in [
        "0",
        "4095",
        "65536",
        "-1",
        "+5",
        "007",
        "",
        "six",
        "600 ",
        "0x10",
        "1e3",
        "99999999999999999999",
    ] {
        assert_eq!(s.parse::<Vlan>().unwrap_err().value, s);
    }
    assert_eq!(
        (Vlan::new(1).unwrap().get(), Vlan::new(4094).unwrap().get()),
        (1, 4094)
    );
    assert_eq!(
        serde_json::to_string(&Vlan::new(600).unwrap()).unwrap(),
        "600"
    );
    for json in ["0", "4095", "-1", "6.5", "\"x\"", "null"] {
        assert!(serde_json::from_str::<Vlan>(json).is_err(), "{json}");
    }
    let said = serde_json::from_str::<Vlan>("4095")
        .unwrap_err()
        .to_string();
    assert!(
        said.contains(r#"vlan: "4095" refused: must be 1..=4094"#),
        "{said}"
    );
    let map = std::collections::BTreeMap::from([(Vlan::new(600).unwrap(), 1)]);
    survives_json(&map);
}

#[test]
fn names() {
    for s in ["a", "acme", "9", "a-b", "x1--2y", &"n".repeat(48)] {
        survives_text(&s.parse::<TenantName>().unwrap());
        survives_json(&s.parse::<TenantName>().unwrap());
    }
    for s in [
        "",
        "-a",
        "a-",
        "A",
        "a.b",
        "a_b",
        "a b",
        "ä",
        "a/b",
        "..",
        "a\n",
        &"n".repeat(49),
    ] {
        let invalid = s.parse::<TenantName>().unwrap_err();
        assert_eq!(
            (invalid.field.as_ref(), invalid.value.as_str()),
            ("name", s)
        );
    }
    let long = "n".repeat(49);
    assert_eq!(
        refusal::<TenantName>(&long),
        format!("name: \"{long}\" refused: must be at most 48 characters")
    );
    for s in ["", ".", "..", "eth0/1", "a:b", "e t", "sixteen-letters-"] {
        assert_eq!(s.parse::<NicName>().unwrap_err().field, "device", "{s}");
    }
    for s in ["", "a b", "ten\nantd", &"o".repeat(65)] {
        assert_eq!(s.parse::<Owner>().unwrap_err().field, "owner");
    }
}

#[test]
fn gid_ranges() {
    for (s, start) in [
        ("524288", 524_288),
        ("gid 589824", 589_824),
        ("1878982656", 1_878_982_656),
    ] {
        assert_eq!(s.parse::<GidRange>().unwrap().get(), start);
    }
    for s in [
        "0",
        "1000",
        "458752",
        "524289",
        "524287",
        "1879048192",
        "4294967295",
        "4294967296",
        "gid",
        "gid 1",
    ] {
        assert_eq!(s.parse::<GidRange>().unwrap_err().field, "gid", "{s}");
    }
    assert_eq!(GidRange::LAST.last(), 1_879_048_191);
    assert_eq!(GidRange::containing(524_287), None);
    assert_eq!(GidRange::containing(589_823), Some(GidRange::FIRST));
    assert_eq!(GidRange::containing(1_879_048_191), Some(GidRange::LAST));
    assert_eq!(GidRange::containing(u32::MAX), None);
    assert!(GidRange::FIRST.contains(524_288) && !GidRange::FIRST.contains(589_824));
}

#[test]
fn interface_addresses() {
    for s in [
        "192.168.1.1/24",
        "10.0.0.0/31",
        "10.0.0.1/31",
        "10.0.0.0/32",
        "10.0.0.255/16",
        "2001:db8::1/64",
        "2001:db8::/127",
        "2001:db8::/128",
        "fd00::ffff/112",
        "169.254.1.1/16",
    ] {
        assert_eq!(parse_address(s).unwrap().to_string(), s);
    }
    let said = |s| parse_address(s).unwrap_err().to_string();
    assert_eq!(
        said("192.168.1.0/24"),
        r#"address: "192.168.1.0/24" refused: must not be the network address"#
    );
    for (s, rule) in [
        ("192.168.1.1", "must be a CIDR such as 192.168.1.1/24"),
        ("192.168.1.1/33", "must be a CIDR such as 192.168.1.1/24"),
        ("192.168.1.256/24", "must be a CIDR such as 192.168.1.1/24"),
        ("", "must be a CIDR such as 192.168.1.1/24"),
        ("192.168.1.255/24", "must not be the broadcast address"),
        ("255.255.255.255/32", "must not be the broadcast address"),
        ("224.0.0.1/24", "must not be a multicast address"),
        ("ff02::1/64", "must not be a multicast address"),
        ("0.0.0.0/0", "must not be the unspecified address"),
        ("::/0", "must not be the unspecified address"),
        ("127.0.0.1/8", "must not be a loopback address"),
        ("::1/128", "must not be a loopback address"),
        (
            "::ffff:192.168.1.1/120",
            "must not be IPv4-mapped: write it as IPv4",
        ),
        (
            "2001:db8::/64",
            "must not be the network address (subnet-router anycast)",
        ),
        (
            "2001:db8::/126",
            "must not be the network address (subnet-router anycast)",
        ),
        ("fe80::1/64", "must not be fe80::1: it is the port's own"),
    ] {
        let invalid = parse_address(s).unwrap_err();
        assert_eq!(
            (invalid.field.as_ref(), invalid.rule.as_ref()),
            ("address", rule),
            "{s}"
        );
    }
}

#[test]
fn addresses_of_one_tenant() {
    let nets = |list: &[&str]| {
        list.iter()
            .map(|s| s.parse().unwrap())
            .collect::<Vec<IpNet>>()
    };
    check_addresses(&nets(&[
        "192.168.1.1/24",
        "192.168.1.2/24",
        "2001:db8::1/64",
    ]))
    .unwrap();
    let twice =
        check_addresses(&nets(&["192.168.1.1/24", "10.0.0.1/8", "192.168.1.1/16"])).unwrap_err();
    assert_eq!(
        twice.to_string(),
        r#"address: "192.168.1.1/16" refused: is given twice to this tenant"#
    );
    assert!(check_addresses(&nets(&["192.168.1.0/24"])).is_err());
}

#[test]
fn prefixes() {
    assert_eq!(parse_prefix("0.0.0.0/0").unwrap().to_string(), "0.0.0.0/0");
    let meant = parse_prefix("192.168.1.1/24").unwrap_err().to_string();
    assert_eq!(
        meant,
        r#"prefix: "192.168.1.1/24" refused: has host bits set, 192.168.1.0/24 was probably meant"#
    );
    assert_eq!(
        parse_prefix("192.168.1.0").unwrap_err().rule,
        "must be a CIDR such as 192.168.1.0/24"
    );
    assert!(parse_prefix("::ffff:10.0.0.0/104").is_err());
}

#[test]
fn tunnel_specs_as_people_write_them() {
    for (s, shown) in [
        ("ipip:129.60.2.1", "ipip:129.60.2.1"),
        ("gre:2001:db8::2,key=7", "gre:2001:db8::2,key=7"),
        (
            "gre:[2001:db8::2],local=[2001:db8::1]",
            "gre:2001:db8::2,local=2001:db8::1",
        ),
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
        (
            "ipip",
            r#"tunnel: "ipip" refused: must be KIND:REMOTE[,local=ADDR][,key=N][,prefix=CIDR]..."#,
        ),
        (
            "geneve:198.51.100.2",
            r#"kind: "geneve" refused: must be ipip, gre or vxlan"#,
        ),
        (
            "IPIP:198.51.100.2",
            r#"kind: "IPIP" refused: must be ipip, gre or vxlan"#,
        ),
        (
            "ipip:",
            r#"remote: "" refused: must be an IPv4 or IPv6 address"#,
        ),
        (
            "ipip:gw.example",
            r#"remote: "gw.example" refused: must be an IPv4 or IPv6 address"#,
        ),
        (
            "ipip:[198.51.100.2]",
            r#"remote: "[198.51.100.2]" refused: must be an IPv4 or IPv6 address"#,
        ),
        (
            "ipip:[2001:db8::2",
            r#"remote: "[2001:db8::2" refused: must be an IPv4 or IPv6 address"#,
        ),
        (
            "ipip:224.0.0.1",
            r#"remote: "224.0.0.1" refused: must not be a multicast address"#,
        ),
        (
            "ipip:0.0.0.0",
            r#"remote: "0.0.0.0" refused: must not be the unspecified address"#,
        ),
        (
            "ipip:127.0.0.1",
            r#"remote: "127.0.0.1" refused: must not be a loopback address"#,
        ),
        (
            "ipip:255.255.255.255",
            r#"remote: "255.255.255.255" refused: must not be the broadcast address"#,
        ),
        (
            "ipip:fe80::2",
            r#"remote: "fe80::2" refused: must not be a link-local address"#,
        ),
        (
            "ipip:::ffff:198.51.100.2",
            r#"remote: "::ffff:198.51.100.2" refused: must not be IPv4-mapped: write it as IPv4"#,
        ),
        (
            "ipip:198.51.100.2,local=198.51.100.2",
            r#"remote: "198.51.100.2" refused: must not be the local address"#,
        ),
        (
            "ipip:198.51.100.2,local=2001:db8::1",
            r#"local: "2001:db8::1" refused: must be of the same family as the remote 198.51.100.2"#,
        ),
        (
            "ipip:198.51.100.2,key=7",
            r#"key: "7" refused: ipip has no key"#,
        ),
        (
            "ipip:198.51.100.2,key=x",
            r#"key: "x" refused: ipip has no key"#,
        ),
        (
            "gre:198.51.100.2,key=4294967296",
            r#"key: "4294967296" refused: a GRE key must be 0..=4294967295 (32 bits)"#,
        ),
        (
            "gre:198.51.100.2,key=-1",
            r#"key: "-1" refused: a GRE key must be 0..=4294967295 (32 bits)"#,
        ),
        (
            "vxlan:198.51.100.2",
            r#"key: "" refused: vxlan needs a key (its VNI)"#,
        ),
        (
            "vxlan:198.51.100.2,key=16777216",
            r#"key: "16777216" refused: a VNI must be 0..=16777215 (24 bits)"#,
        ),
        (
            "ipip:198.51.100.2,prefix=10.0.0.1/8",
            r#"prefix: "10.0.0.1/8" refused: has host bits set, 10.0.0.0/8 was probably meant"#,
        ),
        (
            "ipip:198.51.100.2,prefix=10.0.0.0/8,prefix=10.0.0.0/8",
            r#"prefix: "10.0.0.0/8" refused: is given twice"#,
        ),
        (
            "gre:198.51.100.2,key=1,key=1",
            r#"tunnel: "key=1" refused: key is given twice"#,
        ),
        (
            "ipip:198.51.100.2,ttl=3",
            r#"tunnel: "ttl=3" refused: unknown option: must be local, key or prefix"#,
        ),
        (
            "ipip:198.51.100.2,",
            r#"tunnel: "" refused: must be KIND:REMOTE[,local=ADDR][,key=N][,prefix=CIDR]..."#,
        ),
    ] {
        assert_eq!(refusal::<TunnelSpec>(s), said);
    }
}

#[test]
fn tunnels_in_json() {
    let spec: TunnelSpec = "gre:198.51.100.2,key=7,prefix=10.0.0.0/8".parse().unwrap();
    let json =
        r#"{"kind":"gre","remote":"198.51.100.2","local":null,"key":7,"prefixes":["10.0.0.0/8"]}"#;
    assert_eq!(serde_json::to_string(&spec).unwrap(), json);
    for json in [
        json,
        r#""gre:198.51.100.2,key=7,prefix=10.0.0.0/8""#,
        r#"{"kind":"gre","remote":"198.51.100.2","key":7,"prefixes":["10.0.0.0/8"]}"#,
    ] {
        assert_eq!(serde_json::from_str::<TunnelSpec>(json).unwrap(), spec);
    }
    for (json, said) in [
        (
            r#"{"kind":"ipip","remote":"198.51.100.2","key":7}"#,
            r#"key: "7" refused: ipip has no key"#,
        ),
        (
            r#"{"kind":"ipip","remote":"198.51.100.2","ttl":7}"#,
            "unknown field `ttl`",
        ),
        (r#""geneve:198.51.100.2""#, "must be ipip, gre or vxlan"),
        ("7", "a tunnel as object"),
    ] {
        let e = serde_json::from_str::<TunnelSpec>(json)
            .unwrap_err()
            .to_string();
        assert!(e.contains(said), "{e}");
    }
    let same = r#"{"kind":"ipip","remote":"198.51.100.2","local":"198.51.100.2"}"#;
    let e = serde_json::from_str::<TunnelId>(same)
        .unwrap_err()
        .to_string();
    assert!(e.contains("must not be the local address"), "{e}");
}

#[test]
fn a_spec_finds_its_local_end() {
    let local = |s: &str, locals: &[&str]| {
        let locals: Vec<_> = locals.iter().map(|l| l.parse().unwrap()).collect();
        let id = s.parse::<TunnelSpec>().unwrap().resolve_among(&locals);
        id.map(|id| id.local().to_string())
            .map_err(|e| e.to_string())
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
        Err(r#"local: "203.0.113.9" refused: must be a local address of the access server: 203.0.113.1, 2001:db8::1"#.into())
    );
    let open: TunnelSpec = "ipip:198.51.100.2".parse().unwrap();
    assert!(open.resolve("198.51.100.2".parse().unwrap()).is_err());
    assert!(open.resolve("2001:db8::1".parse().unwrap()).is_err());
}

#[test]
fn one_prefix_behind_two_layer_3_tunnels() {
    let specs = |list: &[&str]| {
        list.iter()
            .map(|s| s.parse().unwrap())
            .collect::<Vec<TunnelSpec>>()
    };
    check_prefixes(&specs(&[
        "ipip:198.51.100.2,prefix=10.0.0.0/8",
        "ipip:198.51.100.3,prefix=10.1.0.0/16",
    ]))
    .unwrap();
    check_prefixes(&specs(&[
        "vxlan:198.51.100.2,key=1",
        "vxlan:198.51.100.3,key=1",
    ]))
    .unwrap();
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
        (
            "gre:198.51.100.2,key=7",
            "gre (198.51.100.2, 203.0.113.1, key 7)",
        ),
        (
            "vxlan:198.51.100.2,key=7",
            "vxlan (198.51.100.2, 203.0.113.1, vni 7)",
        ),
    ] {
        let spec: TunnelSpec = s.parse().unwrap();
        assert_eq!(
            spec.resolve("203.0.113.1".parse().unwrap())
                .unwrap()
                .to_string(),
            shown
        );
    }
}

#[test]
fn meta_in_json() {
    let least: Meta = serde_json::from_str(r#"{"owner":"tenantd/main","generation":3}"#).unwrap();
    assert_eq!(
        serde_json::to_string(&least).unwrap(),
        r#"{"owner":"tenantd/main","generation":3,"origin":"operator","lifetime":null}"#
    );
    for json in [
        r#"{"owner":"","generation":3}"#,
        r#"{"owner":"x"}"#,
        r#"{"owner":"x","generation":-3}"#,
        r#"{"owner":"x","generation":3,"origin":"god"}"#,
        r#"{"owner":"x","generation":3,"colour":"red"}"#,
    ] {
        assert!(serde_json::from_str::<Meta>(json).is_err(), "{json}");
    }
}

#[test]
fn rows_in_json_are_flat_and_checked() {
    let json = r#"{"tenant":"acme","stack":"inet0","device":"dev0","trunk":0,"vlan":600,"meta":{"owner":"x","generation":1,"origin":"operator","lifetime":null}}"#;
    let row: stackmap::LowerRow = serde_json::from_str(json).unwrap();
    assert_eq!(row.to_string(), "(inet0, dev0) <-> vlan600");
    assert_eq!(serde_json::to_string(&row).unwrap(), json);
    let card = json
        .replace("dev0", "eth1")
        .replace("\"trunk\":0,\"vlan\":600", "\"trunk\":null,\"vlan\":null");
    let row: stackmap::LowerRow = serde_json::from_str(&card).unwrap();
    assert_eq!(row.to_string(), "(inet0, eth1) <-> eth1");
    assert_eq!(serde_json::to_string(&row).unwrap(), card);
    for (from, to) in [
        ("dev0", "dev1"),
        ("\"vlan\":600", "\"vlan\":null"),
        ("600", "0"),
        ("acme", "Acme"),
        ("\"meta\"", "\"mate\""),
    ] {
        assert!(
            serde_json::from_str::<stackmap::LowerRow>(&json.replace(from, to)).is_err(),
            "{to}"
        );
    }
}

#[test]
fn a_lifetime_ends_at_its_second() {
    let json = r#"{"owner":"x","generation":1,"lifetime":{"granted_s":60,"since_s":1000}}"#;
    let meta: Meta = serde_json::from_str(json).unwrap();
    assert_eq!(
        [1059, 1060, 1061].map(|now| meta.is_expired(now)),
        [false, true, true]
    );
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

    #[test]
    fn prefixes_survive(prefix in generate::prefix()) {
        if let Ok(parsed) = parse_prefix(&prefix.to_string()) {
            prop_assert_eq!(parsed, prefix);
        } else {
            prop_assert!(prefix.to_string().starts_with("::ffff:"), "{}", prefix);
        }
    }

    #[test]
    fn numbers_and_names_survive(
        vlan in 1u16..=4094, trunk: u16, stack: u32, gid in 0..GidRange::COUNT, mac: [u8; 6],
        name in "[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?", nic in "[a-z][a-z0-9.@-]{0,14}",
    ) {
        let vlan = Vlan::new(vlan).unwrap();
        let trunk = TrunkIndex(trunk);
        survives_text(&vlan);
        survives_json(&vlan);
        survives_text(&trunk);
        survives_json(&trunk);
        survives_text(&Segment { trunk, vlan });
        survives_json(&Segment { trunk, vlan });
        survives_text(&StackIndex(stack));
        survives_json(&StackIndex(stack));
        let gid = GidRange::new(524_288 + 65_536 * gid).unwrap();
        survives_text(&gid);
        survives_json(&gid);
        survives_text(&name.parse::<TenantName>().unwrap());
        survives_json(&nic.parse::<NicName>().unwrap());
        for mac in [MacAddr::new(mac).ok(), Some(MacAddr::derive(&name, trunk, vlan, MacRole::Gateway))].into_iter().flatten() {
            survives_text(&mac);
            survives_json(&mac);
        }
    }

    /// Whatever is typed: no panic, and what is taken shows as itself when read again.
    #[test]
    fn anything_typed(s in "\\PC{0,20}|(ipip|gre|vxlan):[0-9a-f:.\\[\\]]{0,16}(,(key|local|prefix)=[0-9a-f:./]{0,12}){0,3}") {
        if let Ok(v) = s.parse::<TunnelSpec>() { survives_text(&v); }
        if let Ok(v) = s.parse::<Segment>() { survives_text(&v); }
        if let Ok(v) = s.parse::<MacAddr>() { survives_text(&v); }
        if let Ok(v) = parse_address(&s) { prop_assert_eq!(parse_address(&v.to_string()).unwrap(), v); }
        if let Ok(v) = parse_prefix(&s) { prop_assert_eq!(parse_prefix(&v.to_string()).unwrap(), v); }
    }
}

#[test]
fn kinds_know_what_they_carry() {
    use stackmap::Layer;
    let told = TunnelKind::ALL.map(|k| (k.as_str(), k.layer(), k.has_key()));
    assert_eq!(
        told,
        [
            ("ipip", Layer::Three, false),
            ("gre", Layer::Three, true),
            ("vxlan", Layer::Two, true)
        ]
    );
}
