//! Interface addresses and prefixes: what a stack may have and what may lie behind a site.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use crate::Invalid;

/// The gateway every stack has on its port; a tenant cannot have it as its own address.
const PORT_GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Reads an interface address in CIDR notation, host part kept: `192.168.1.1/24`.
///
/// # Errors
/// [`Invalid`] (field `address`) when the text is not a CIDR, or the address is not one a host can
/// have: network address, IPv6 subnet-router anycast (RFC 4291 section 2.6.1; not with /127, RFC 6164),
/// broadcast, multicast, unspecified, loopback, IPv4-mapped IPv6, or `fe80::1`, which is the port's.
pub fn parse_address(s: &str) -> Result<IpNet, Invalid> {
    let net = cidr("address", s, "192.168.1.1/24")?;
    check_address(&net)?;
    Ok(net)
}

/// Reads a prefix in CIDR notation: `192.168.1.0/24`.
///
/// # Errors
/// [`Invalid`] (field `prefix`) when the text is not a CIDR, is IPv4-mapped, or has host bits set;
/// the rule then names the prefix that was probably meant.
pub fn parse_prefix(s: &str) -> Result<IpNet, Invalid> {
    let net = cidr("prefix", s, "192.168.1.0/24")?;
    check_prefix(&net)?;
    Ok(net)
}

/// Checks the addresses of one tenant: each as [`parse_address`] does, and none twice, whatever
/// the prefix lengths. Addresses of different tenants may be the same.
///
/// # Errors
/// [`Invalid`] (field `address`) for the first address that breaks a rule.
pub fn check_addresses(addresses: &[IpNet]) -> Result<(), Invalid> {
    let mut seen = BTreeSet::new();
    for net in addresses {
        check_address(net)?;
        if !seen.insert(net.addr()) {
            return Err(Invalid::new("address", net, "is given twice to this tenant"));
        }
    }
    Ok(())
}

fn cidr(field: &'static str, s: &str, example: &str) -> Result<IpNet, Invalid> {
    s.parse().map_err(|_| Invalid::new(field, s, format!("must be a CIDR such as {example}")))
}

pub(crate) fn check_prefix(net: &IpNet) -> Result<(), Invalid> {
    if is_mapped(net.addr()) {
        return Err(Invalid::new("prefix", net, "must not be IPv4-mapped: write it as IPv4"));
    }
    if net.trunc() != *net {
        let rule = format!("has host bits set, {} was probably meant", net.trunc());
        return Err(Invalid::new("prefix", net, rule));
    }
    Ok(())
}

fn check_address(net: &IpNet) -> Result<(), Invalid> {
    let refuse = |rule: &'static str| Err(Invalid::new("address", net, rule));
    let addr = net.addr();
    if let Some(rule) = not_unicast(addr) {
        return refuse(rule);
    }
    if addr == IpAddr::V6(PORT_GATEWAY) {
        return refuse("must not be fe80::1: it is the port's own");
    }
    match net {
        IpNet::V4(n) if n.prefix_len() < 31 && n.addr() == n.network() => refuse("must not be the network address"),
        IpNet::V4(n) if n.prefix_len() < 31 && n.addr() == n.broadcast() => refuse("must not be the broadcast address"),
        IpNet::V6(n) if n.prefix_len() < 127 && n.addr() == n.network() => {
            refuse("must not be the network address (subnet-router anycast)")
        }
        _ => Ok(()),
    }
}

/// The rule an address breaks that no host can have, whatever its prefix.
pub(crate) fn not_unicast(addr: IpAddr) -> Option<&'static str> {
    if addr.is_unspecified() {
        Some("must not be the unspecified address")
    } else if addr.is_loopback() {
        Some("must not be a loopback address")
    } else if addr.is_multicast() {
        Some("must not be a multicast address")
    } else if matches!(addr, IpAddr::V4(a) if a.is_broadcast()) {
        Some("must not be the broadcast address")
    } else if is_mapped(addr) {
        Some("must not be IPv4-mapped: write it as IPv4")
    } else {
        None
    }
}

fn is_mapped(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(a) if a.to_ipv4_mapped().is_some())
}
