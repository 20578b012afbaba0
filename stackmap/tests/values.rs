//! The values: what is refused and in which words, and that text and JSON lead back to the value.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod generate;

use std::fmt::{Debug, Display};
use std::str::FromStr;

use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stackmap::{
    GidRange, IpNet, MacAddr, MacRole, Meta, NicName, Owner, Segment, StackIndex, TenantName, TrunkIndex, TunnelSpec,
    Vlan, check_addresses, parse_address, parse_prefix,
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
    assert_eq!(refusal::<Vlan>("4095"), r#"vlan: "4095" refused: must be 1..=4094"#);
    for s in ["0", "4095", "65536", "-1", "+5", "007", "", "six", "600 ", "0x10", "1e3", "99999999999999999999"] {
        assert_eq!(s.parse::<Vlan>().unwrap_err().value, s);
    }
    assert_eq!((Vlan::new(1).unwrap().get(), Vlan::new(4094).unwrap().get()), (1, 4094));
    assert_eq!(serde_json::to_string(&Vlan::new(600).unwrap()).unwrap(), "600");
    for json in ["0", "4095", "-1", "6.5", "\"x\"", "null"] {
        assert!(serde_json::from_str::<Vlan>(json).is_err(), "{json}");
    }
    let said = serde_json::from_str::<Vlan>("4095").unwrap_err().to_string();
    assert!(said.contains(r#"vlan: "4095" refused: must be 1..=4094"#), "{said}");
    let map = std::collections::BTreeMap::from([(Vlan::new(600).unwrap(), 1)]);
    survives_json(&map);
}

#[test]
fn names() {
    for s in ["a", "acme", "9", "a-b", "x1--2y", &"n".repeat(48)] {
        survives_text(&s.parse::<TenantName>().unwrap());
        survives_json(&s.parse::<TenantName>().unwrap());
    }
    for s in ["", "-a", "a-", "A", "a.b", "a_b", "a b", "ä", "a/b", "..", "a\n", &"n".repeat(49)] {
        let invalid = s.parse::<TenantName>().unwrap_err();
        assert_eq!((invalid.field.as_ref(), invalid.value.as_str()), ("name", s));
    }
    let long = "n".repeat(49);
    assert_eq!(refusal::<TenantName>(&long), format!("name: \"{long}\" refused: must be at most 48 characters"));
    for s in ["", ".", "..", "eth0/1", "a:b", "e t", "sixteen-letters-"] {
        assert_eq!(s.parse::<NicName>().unwrap_err().field, "device", "{s}");
    }
    for s in ["", "a b", "ten\nantd", &"o".repeat(65)] {
        assert_eq!(s.parse::<Owner>().unwrap_err().field, "owner");
    }
}

#[test]
fn gid_ranges() {
    for (s, start) in [("524288", 524_288), ("gid 589824", 589_824), ("1878982656", 1_878_982_656)] {
        assert_eq!(s.parse::<GidRange>().unwrap().get(), start);
    }
    for s in ["0", "1000", "458752", "524289", "524287", "1879048192", "4294967295", "4294967296", "gid", "gid 1"] {
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
    assert_eq!(said("192.168.1.0/24"), r#"address: "192.168.1.0/24" refused: must not be the network address"#);
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
        ("::ffff:192.168.1.1/120", "must not be IPv4-mapped: write it as IPv4"),
        ("2001:db8::/64", "must not be the network address (subnet-router anycast)"),
        ("2001:db8::/126", "must not be the network address (subnet-router anycast)"),
        ("fe80::1/64", "must not be fe80::1: it is the port's own"),
    ] {
        let invalid = parse_address(s).unwrap_err();
        assert_eq!((invalid.field.as_ref(), invalid.rule.as_ref()), ("address", rule), "{s}");
    }
}

#[test]
fn addresses_of_one_tenant() {
    let nets = |list: &[&str]| list.iter().map(|s| s.parse().unwrap()).collect::<Vec<IpNet>>();
    check_addresses(&nets(&["192.168.1.1/24", "192.168.1.2/24", "2001:db8::1/64"])).unwrap();
    let twice = check_addresses(&nets(&["192.168.1.1/24", "10.0.0.1/8", "192.168.1.1/16"])).unwrap_err();
    assert_eq!(twice.to_string(), r#"address: "192.168.1.1/16" refused: is given twice to this tenant"#);
    assert!(check_addresses(&nets(&["192.168.1.0/24"])).is_err());
}

#[test]
fn prefixes() {
    assert_eq!(parse_prefix("0.0.0.0/0").unwrap().to_string(), "0.0.0.0/0");
    let meant = parse_prefix("192.168.1.1/24").unwrap_err().to_string();
    assert_eq!(meant, r#"prefix: "192.168.1.1/24" refused: has host bits set, 192.168.1.0/24 was probably meant"#);
    assert_eq!(parse_prefix("192.168.1.0").unwrap_err().rule, "must be a CIDR such as 192.168.1.0/24");
    assert!(parse_prefix("::ffff:10.0.0.0/104").is_err());
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
    let card = json.replace("dev0", "eth1").replace("\"trunk\":0,\"vlan\":600", "\"trunk\":null,\"vlan\":null");
    let row: stackmap::LowerRow = serde_json::from_str(&card).unwrap();
    assert_eq!(row.to_string(), "(inet0, eth1) <-> eth1");
    assert_eq!(serde_json::to_string(&row).unwrap(), card);
    for (from, to) in
        [("dev0", "dev1"), ("\"vlan\":600", "\"vlan\":null"), ("600", "0"), ("acme", "Acme"), ("\"meta\"", "\"mate\"")]
    {
        assert!(serde_json::from_str::<stackmap::LowerRow>(&json.replace(from, to)).is_err(), "{to}");
    }
}

#[test]
fn a_lifetime_ends_at_its_second() {
    let json = r#"{"owner":"x","generation":1,"lifetime":{"granted_s":60,"since_s":1000}}"#;
    let meta: Meta = serde_json::from_str(json).unwrap();
    assert_eq!([1059, 1060, 1061].map(|now| meta.is_expired(now)), [false, true, true]);
}

proptest! {
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
