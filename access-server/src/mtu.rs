//! What fits: bytes a tunnel's headers take from the path, by kind and outer family.

use stackmap::{TunnelId, TunnelKind};

const IPV4_HEADER: u32 = 20;
const IPV6_HEADER: u32 = 40;
const GRE_HEADER: u32 = 4;
const GRE_KEY: u32 = 4;
const UDP_HEADER: u32 = 8;
const VXLAN_HEADER: u32 = 8;
const ETHERNET_HEADER: u32 = 14;

/// The smallest MTU a link may have that carries IPv6 (RFC 8200 section 5), which every closed network may use.
pub const IPV6_MIN: u32 = 1280;

/// Bytes in front of the inner IP packet on the wire, outer IP header included: RFC 2003, RFC 2473 (without the
/// optional encapsulation limit), RFC 2784 and RFC 2890 (no checksum, no sequence), RFC 7348 section 5.
pub fn overhead(id: &TunnelId) -> u32 {
    let outer = outer_header(id.remote().is_ipv6());
    outer
        + match id.kind() {
            TunnelKind::Ipip => 0,
            TunnelKind::Gre if id.key().is_some() => GRE_HEADER + GRE_KEY,
            TunnelKind::Gre => GRE_HEADER,
            TunnelKind::Vxlan => UDP_HEADER + VXLAN_HEADER + ETHERNET_HEADER,
        }
}

/// The longest inner packet (layer 3 length) of tunnel `id` on a path of `path_mtu` bytes.
pub fn inner(id: &TunnelId, path_mtu: u32) -> u32 {
    path_mtu.saturating_sub(overhead(id))
}

/// The smallest MTU of a WAN device on which any tunnel still carries IPv6 inside: the leanest kind, IPIP.
pub fn wan_min(any_local_is_v6: bool) -> u32 {
    IPV6_MIN + outer_header(any_local_is_v6)
}

fn outer_header(v6: bool) -> u32 {
    if v6 { IPV6_HEADER } else { IPV4_HEADER }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use stackmap::TunnelSpec;

    fn inner_of(spec: &str, path: u32) -> u32 {
        let spec: TunnelSpec = spec.parse().unwrap();
        let local = if spec.remote().is_ipv6() { "2001:db8::1" } else { "203.0.113.1" };
        inner(&spec.resolve(local.parse().unwrap()).unwrap(), path)
    }

    #[test]
    fn inner_mtu_is_path_minus_headers() {
        assert_eq!(inner_of("ipip:198.51.100.2", 1500), 1480);
        assert_eq!(inner_of("ipip:2001:db8::2", 1500), 1460);
        assert_eq!(inner_of("gre:198.51.100.2", 1500), 1476);
        assert_eq!(inner_of("gre:198.51.100.2,key=7", 1500), 1472);
        assert_eq!(inner_of("gre:2001:db8::2,key=0", 1500), 1452);
        assert_eq!(inner_of("vxlan:198.51.100.2,key=7", 1500), 1450);
        assert_eq!(inner_of("vxlan:2001:db8::2,key=7", 1500), 1430);
        assert_eq!(inner_of("ipip:2001:db8::2", 30), 0);
    }

    #[test]
    fn the_least_wan_mtu_carries_ipv6_inside() {
        assert_eq!(inner_of("ipip:198.51.100.2", wan_min(false)), IPV6_MIN);
        assert_eq!(inner_of("ipip:2001:db8::2", wan_min(true)), IPV6_MIN);
    }
}
