//! Where what the kernel holds is not what is desired, in words: for plans, events and status. Empty when it is.

use vlan_rs::PortConfig;

use crate::limits::Limits;

/// Of limits.
pub(super) fn limits(found: &Limits, wanted: &Limits) -> Vec<String> {
    if found == wanted {
        return Vec::new();
    }
    let (found, wanted) = (found.pairs(), wanted.pairs());
    let of = |pairs: &[(&'static str, String)], name: &str| {
        pairs.iter().find(|(there, _)| *there == name).map_or_else(|| "none".to_owned(), |(_, value)| value.clone())
    };
    let mut names: Vec<_> = found.iter().chain(&wanted).map(|(name, _)| *name).collect();
    names.sort_unstable();
    names.dedup();
    let words = |name: &str| format!("limit {name} is {}, not {}", of(&found, name), of(&wanted, name));
    let differ: Vec<_> = names.into_iter().filter(|name| of(&found, name) != of(&wanted, name)).map(words).collect();
    if differ.is_empty() { vec!["the limits differ".to_owned()] } else { differ }
}

/// Of a port's row.
pub(super) fn port(found: &PortConfig, wanted: &PortConfig) -> Vec<String> {
    let parts = [
        ("device", found.ifindex == wanted.ifindex),
        ("tag", (found.trunk, found.vid) == (wanted.trunk, wanted.vid)),
        ("Ethernet addresses", (found.mac, found.gateway_mac) == (wanted.mac, wanted.gateway_mac)),
        ("layer", found.layer == wanted.layer),
        ("MTU", found.mtu == wanted.mtu),
        ("answered prefixes", found.answer == wanted.answer),
        ("limits", (found.neighbour_rate, found.packet_rate) == (wanted.neighbour_rate, wanted.packet_rate)),
        ("class", found.class == wanted.class),
    ];
    let mut differ: Vec<_> = parts.iter().filter(|(_, same)| !same).map(|(part, _)| differs(part)).collect();
    if differ.is_empty() && found != wanted {
        differ.push(differs("content"));
    }
    differ
}

fn differs(part: &str) -> String {
    format!("the {part} of the port's row differs")
}
