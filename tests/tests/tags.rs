//! Rows 6, 8, 9: tshark, which knows nothing of us, sees the right 802.1Q tag on the trunk in both directions,
//! no untagged frame, and the right outer header on the WAN.

use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use system_tests::daemons::INSTANCE;
use system_tests::plan::{Kind, Options, Outer, SERVER_INNER_V4, SERVER_INNER_V6, Site, server_outer};
use system_tests::traffic::{Capture, Captured, Packet, Pinging, Place, reachable};
use system_tests::world::World;

use crate::floor::{TENANTS, explain, trial, with_tenants};

/// Pings of each host to each address.
const PINGS: u32 = 20;

pub(crate) fn trials() -> Vec<Trial> {
    let cases = [
        ("ipip", Kind::Ipip, false, Outer::V4),
        ("ipip_over_v6", Kind::Ipip, false, Outer::V6),
        ("gre", Kind::Gre, false, Outer::V4),
        ("gre_keyed", Kind::Gre, true, Outer::V4),
        ("gre_over_v6", Kind::Gre, false, Outer::V6),
        ("vxlan", Kind::Vxlan, false, Outer::V4),
        ("vxlan_over_v6", Kind::Vxlan, false, Outer::V6),
    ];
    cases
        .into_iter()
        .map(|(name, kind, keyed, outer)| {
            let options = Options { kinds: vec![kind], keyed, outer, ..Options::default() };
            trial(&format!("tags::{name}"), TENANTS, move || tags(options))
        })
        .collect()
}

fn tags(options: Options) -> Result<()> {
    let world = with_tenants("tags", options)?;
    explain(&world, check(&world))
}

fn check(world: &World) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    for site in &sites {
        for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
            reachable(world, &site.host(), server, Duration::from_secs(30))?;
        }
    }
    let near = format!("trunk-{INSTANCE}");
    // Packets jump from end to end of the trunk: each end shows one direction.
    let places = [Place::Room("trunk"), Place::Node("server", &near), Place::Node("server", "wan0")];
    let captures = places.into_iter().map(|place| Capture::start(world, place)).collect::<Result<Vec<_>>>()?;
    for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
        let pings =
            sites.iter().map(|site| Pinging::start(world, &site.host(), server, PINGS)).collect::<Result<Vec<_>>>()?;
        for ping in pings {
            ping.all_answered()?;
        }
    }
    let captured = captures.into_iter().map(|c| c.stop(world)).collect::<Result<Vec<_>>>()?;
    let [to_tenants, to_sites, wan] = captured.as_slice() else { anyhow::bail!("three captures") };
    trunk(world, &sites, to_tenants, "192.168.1.10", "fd00:192:168:1::10")?;
    trunk(world, &sites, to_sites, SERVER_INNER_V4, SERVER_INNER_V6)?;
    outer(world, &sites, wan)
}

/// Every frame is tagged, with the VLAN of some site, and each VLAN carries its pings from `v4` and `v6`.
fn trunk(world: &World, sites: &[Site], captured: &Captured, v4: &str, v6: &str) -> Result<()> {
    let frames = captured.packets(world, &["vlan.id", "ip.src", "ipv6.src", "icmp.type", "icmpv6.type"])?;
    for frame in &frames {
        let tagged = sites.iter().any(|site| frame.all("vlan.id") == [site.vlan().to_string()]);
        ensure!(tagged, "a frame on the trunk without exactly one tag of ours: {frame:?}");
    }
    for site in sites {
        let pings = |address: &str, source: &str, kind: &str| {
            let of_site = |f: &&Packet| f.outer("vlan.id") == site.vlan().to_string();
            frames.iter().filter(of_site).filter(|f| f.outer(source) == address && f.has(kind)).count()
        };
        for (address, count) in [(v4, pings(v4, "ip.src", "icmp.type")), (v6, pings(v6, "ipv6.src", "icmpv6.type"))] {
            let vlan = site.vlan();
            ensure!(count >= PINGS as usize, "VLAN {vlan}: {count} pings of {address} on the trunk, sent {PINGS}");
        }
    }
    Ok(())
}

/// On the WAN the sites' pings travel both ways between the tunnel's two addresses in the right wrapping.
fn outer(world: &World, sites: &[Site], captured: &Captured) -> Result<()> {
    let version = world.options().outer;
    let (source, destination, protocol) = match version {
        Outer::V4 => ("ip.src", "ip.dst", "ip.proto"),
        Outer::V6 => ("ipv6.src", "ipv6.dst", "ipv6.nxt"),
    };
    let fields = [
        source,
        destination,
        protocol,
        "ip.flags.df",
        "gre.proto",
        "gre.key",
        "udp.dstport",
        "vxlan.vni",
        "icmp.type",
        "icmpv6.type",
    ];
    let packets = captured.packets(world, &fields)?;
    for site in sites {
        let (gateway, server) = (site.outer(version), server_outer(version));
        let wrapped = |packet: &Packet| match (site.kind, site.key) {
            (Kind::Ipip, _) => ["4", "41"].contains(&packet.outer(protocol)),
            (Kind::Gre, None) => packet.has("gre.proto") && !packet.has("gre.key"),
            (Kind::Gre, Some(key)) => packet.outer("gre.key") == format!("0x{key:08x}"),
            (Kind::Vxlan, key) => {
                packet.outer("udp.dstport") == "4789"
                    && packet.outer("vxlan.vni") == key.unwrap_or_default().to_string()
            }
        };
        for (from, to) in [(&gateway, &server), (&server, &gateway)] {
            let ours = packets.iter().filter(|p| p.outer(source) == from && p.outer(destination) == to);
            let pings: Vec<_> = ours.filter(|p| p.has("icmp.type") || p.has("icmpv6.type")).collect();
            let right = pings.iter().filter(|p| wrapped(p)).count();
            let expected = 2 * PINGS as usize;
            ensure!(right >= expected, "{right} of {} packets {from} -> {to} are wrapped right", pings.len());
            ensure!(right == pings.len(), "{} packets {from} -> {to} are wrapped wrong", pings.len() - right);
            // RFC 2003 leaves it open, we promise it: our outer header forbids fragmentation.
            let fragmentable =
                pings.iter().filter(|p| p.outer("ip.flags.df") == "0" || p.outer("ip.flags.df") == "False");
            ensure!(version == Outer::V6 || from == &gateway || fragmentable.count() == 0, "outer packets without DF");
        }
    }
    Ok(())
}
