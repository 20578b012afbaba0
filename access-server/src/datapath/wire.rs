//! Rows as the maps hold them, and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use stackmap::{Generation, Layer, MacAddr, Origin, TunnelId, TunnelKind, Vlan};

use super::skel::types;
use crate::mtu;
use crate::row::{NextHop, TunnelRow, VlanRow};

/// No tunnel: `TUNNEL_NONE` in `tunnels.h`.
pub(super) const TUNNEL_NONE: u32 = u32::MAX;
/// `TUNNEL_CHECK_SOURCE` in `tunnels.h`.
pub(super) const TUNNEL_CHECK_SOURCE: u16 = 1;
/// `VLAN_PRESENT` in `vlans.h`.
pub(super) const VLAN_PRESENT: u32 = 1;
/// `VLAN_SINGLE` in `vlans.h`.
pub(super) const VLAN_SINGLE: u32 = 2;
/// `VLAN_FLOOD` in `vlans.h`.
const VLAN_FLOOD: u32 = 4;
/// `PREFIX_FIXED_BITS` in `prefixes.h`.
const PREFIX_FIXED_BITS: u32 = 32;

/// The words of an address in network byte order; IPv4 fills the first.
pub(super) fn words(addr: IpAddr) -> [u32; 4] {
    match addr {
        IpAddr::V4(a) => [u32::from_ne_bytes(a.octets()), 0, 0, 0],
        IpAddr::V6(a) => {
            let octets = a.octets();
            let word = |i: usize| u32::from_ne_bytes([octets[i], octets[i + 1], octets[i + 2], octets[i + 3]]);
            [word(0), word(4), word(8), word(12)]
        }
    }
}

pub(super) fn family(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 4 } else { 6 }
}

pub(super) fn addr(family: u8, words: [u32; 4]) -> IpAddr {
    match family {
        4 => Ipv4Addr::from(words[0].to_ne_bytes()).into(),
        _ => {
            let mut octets = [0; 16];
            for (four, word) in octets.chunks_exact_mut(4).zip(words) {
                four.copy_from_slice(&word.to_ne_bytes());
            }
            Ipv6Addr::from(octets).into()
        }
    }
}

pub(super) fn address(addr: IpAddr) -> types::address {
    types::address { addr: words(addr), family: u32::from(family(addr)) }
}

pub(super) fn tunnel_key(id: &TunnelId) -> types::tunnel_key {
    types::tunnel_key {
        remote: words(id.remote()),
        local: words(id.local()),
        key: id.key().unwrap_or(0),
        kind: match id.kind() {
            TunnelKind::Ipip => 1,
            TunnelKind::Gre => 2,
            TunnelKind::Vxlan => 3,
        },
        family: family(id.remote()),
        keyed: u8::from(id.key().is_some()),
        zero: 0,
    }
}

pub(super) fn tunnel_id(key: &types::tunnel_key) -> Option<TunnelId> {
    let kind = match key.kind {
        1 => TunnelKind::Ipip,
        2 => TunnelKind::Gre,
        3 => TunnelKind::Vxlan,
        _ => return None,
    };
    let number = (key.keyed != 0).then_some(key.key);
    TunnelId::new(kind, addr(key.family, key.remote), addr(key.family, key.local), number).ok()
}

pub(super) fn path_key(id: &TunnelId) -> types::path_key {
    types::path_key { remote: words(id.remote()), local: words(id.local()), family: u32::from(family(id.remote())) }
}

pub(super) fn tunnel_out(vlan: Vlan, tunnel: &TunnelRow, path: u32, next_l2: u32) -> types::tunnel_out {
    let via = tunnel.next_hop.map(|hop| hop.via);
    types::tunnel_out {
        id: tunnel_key(&tunnel.id),
        nh: via.map_or([0; 4], words),
        ifindex: tunnel.next_hop.map_or(0, |hop| hop.ifindex),
        mtu: tunnel.mtu,
        path,
        next_l2,
        vlan: vlan.get(),
        // At most 70: the outer headers of VXLAN over IPv6.
        overhead: mtu::overhead(&tunnel.id) as u16,
        nh_family: via.map_or(0, family),
        zero: [0; 3],
    }
}

pub(super) fn tunnel_row(out: &types::tunnel_out) -> Option<TunnelRow> {
    let next_hop = NextHop { ifindex: out.ifindex, via: addr(out.nh_family, out.nh) };
    Some(TunnelRow {
        id: tunnel_id(&out.id)?,
        prefixes: Vec::new(),
        mtu: out.mtu,
        next_hop: (out.ifindex != 0).then_some(next_hop),
    })
}

pub(super) fn tunnel_in(row: &VlanRow, index: u32) -> types::tunnel_in {
    types::tunnel_in {
        index,
        vlan: row.vlan.get(),
        flags: if is_single(row) { 0 } else { TUNNEL_CHECK_SOURCE },
        server_mac: row.server_mac.octets(),
        gateway_mac: row.gateway_mac.octets(),
    }
}

/// One tunnel with everything behind it: no prefix has to be looked up.
fn is_single(row: &VlanRow) -> bool {
    let [tunnel] = &row.tunnels[..] else {
        return false;
    };
    let everything = |v4: bool| tunnel.prefixes.iter().any(|p| p.prefix_len() == 0 && p.addr().is_ipv4() == v4);
    everything(true) && everything(false)
}

pub(super) fn vlan_row(row: &VlanRow, indices: &[u32], first_l2: u32) -> types::vlan_row {
    let single = if let [one] = indices { *one } else { TUNNEL_NONE };
    let bridged = row.tunnels.iter().filter(|tunnel| tunnel.id.kind().layer() == Layer::Two).count();
    let flag = |flag: u32, set: bool| if set { flag } else { 0 };
    types::vlan_row {
        flags: VLAN_PRESENT | flag(VLAN_SINGLE, is_single(row)) | flag(VLAN_FLOOD, bridged > 1),
        single,
        first_l2,
        server_mac: row.server_mac.octets(),
        gateway_mac: row.gateway_mac.octets(),
    }
}

pub(super) fn vlan_meta(row: &VlanRow) -> types::vlan_meta {
    let mut owner = [0; 64];
    let text = row.owner.as_str().as_bytes();
    let len = text.len().min(owner.len());
    owner[..len].copy_from_slice(&text[..len]);
    types::vlan_meta {
        generation: row.generation.get(),
        expires_at: row.expires_at.unwrap_or(0),
        origin: match row.origin {
            Origin::Operator => 1,
            Origin::Registered => 2,
        },
        owner_len: len as u8, // at most 64
        zero: [0; 6],
        owner,
    }
}

/// The row without its tunnels; `None` where the maps hold nothing that can be a row.
pub(super) fn row(vlan: u16, row: &types::vlan_row, meta: &types::vlan_meta) -> Option<VlanRow> {
    let owner = meta.owner.get(..usize::from(meta.owner_len))?;
    Some(VlanRow {
        vlan: Vlan::new(vlan).ok()?,
        owner: std::str::from_utf8(owner).ok()?.parse().ok()?,
        generation: Generation(meta.generation),
        origin: match meta.origin {
            1 => Origin::Operator,
            2 => Origin::Registered,
            _ => return None,
        },
        expires_at: (meta.expires_at != 0).then_some(meta.expires_at),
        server_mac: MacAddr::new(row.server_mac).ok()?,
        gateway_mac: MacAddr::new(row.gateway_mac).ok()?,
        tunnels: Vec::new(),
    })
}

pub(super) fn prefix_key(vlan: Vlan, prefix: &IpNet) -> types::prefix_key {
    let network = prefix.network();
    types::prefix_key {
        bits: PREFIX_FIXED_BITS + u32::from(prefix.prefix_len()),
        vlan: vlan.get(),
        family: family(network),
        zero: 0,
        addr: words(network),
    }
}

pub(super) fn prefix(key: &types::prefix_key) -> Option<IpNet> {
    let len = u8::try_from(key.bits.checked_sub(PREFIX_FIXED_BITS)?).ok()?;
    IpNet::new(addr(key.family, key.addr), len).ok()
}

/// The row in the order in which it is read back: tunnels by identity, prefixes by network.
pub(super) fn ordered(row: &VlanRow) -> VlanRow {
    let mut row = row.clone();
    for tunnel in &mut row.tunnels {
        for prefix in &mut tunnel.prefixes {
            *prefix = prefix.trunc();
        }
        tunnel.prefixes.sort();
    }
    row.tunnels.sort_by_key(|tunnel| tunnel.id);
    row
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample(tunnels: &[(&str, &[&str])]) -> VlanRow {
        VlanRow {
            vlan: Vlan::new(600).unwrap(),
            owner: "tenantd/main".parse().unwrap(),
            generation: Generation(7),
            origin: Origin::Registered,
            expires_at: Some(5),
            server_mac: "02:00:00:00:06:00".parse().unwrap(),
            gateway_mac: "02:00:00:00:06:01".parse().unwrap(),
            tunnels: tunnels
                .iter()
                .map(|(remote, prefixes)| TunnelRow {
                    id: TunnelId::new(
                        TunnelKind::Gre,
                        remote.parse().unwrap(),
                        if remote.contains(':') { "2001:db8::1" } else { "203.0.113.1" }.parse().unwrap(),
                        Some(0),
                    )
                    .unwrap(),
                    prefixes: prefixes.iter().map(|p| p.parse().unwrap()).collect(),
                    mtu: 1400,
                    next_hop: Some(NextHop { ifindex: 3, via: "fe80::1".parse().unwrap() }),
                })
                .collect(),
        }
    }

    #[test]
    fn a_row_survives_the_maps() {
        let row = sample(&[("198.51.100.2", &["0.0.0.0/0"]), ("2001:db8::2", &["2001:db8:1::/48"])]);
        let mut back = super::row(600, &vlan_row(&row, &[1, 2], TUNNEL_NONE), &vlan_meta(&row)).unwrap();
        for tunnel in &row.tunnels {
            let mut read = tunnel_row(&tunnel_out(row.vlan, tunnel, 0, TUNNEL_NONE)).unwrap();
            read.prefixes = tunnel.prefixes.iter().map(|p| prefix(&prefix_key(row.vlan, p)).unwrap()).collect();
            back.tunnels.push(read);
        }
        assert_eq!(back, row);
    }

    #[test]
    fn only_one_tunnel_with_everything_behind_it_is_single() {
        assert!(is_single(&sample(&[("198.51.100.2", &["0.0.0.0/0", "::/0"])])));
        assert!(!is_single(&sample(&[("198.51.100.2", &["0.0.0.0/0"])])));
        assert!(!is_single(&sample(&[("198.51.100.2", &["0.0.0.0/0", "::/0"]), ("2001:db8::2", &[])])));
    }

    #[test]
    fn order_does_not_depend_on_the_question() {
        let a = sample(&[("198.51.100.3", &["10.0.0.0/8", "0.0.0.0/0"]), ("198.51.100.2", &[])]);
        let b = sample(&[("198.51.100.2", &[]), ("198.51.100.3", &["0.0.0.0/0", "10.0.0.0/8"])]);
        assert_eq!(ordered(&a), ordered(&b));
    }
}
