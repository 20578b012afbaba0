//! Rows 6, 8, 9: tshark, which knows nothing of us, sees the right 802.1Q tag on the trunk in both directions,
//! no untagged frame, and the right outer header on the WAN.

use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use system_tests::daemons::INSTANCE;
use system_tests::plan::{Kind, Options, Outer, SERVER_INNER_V4, SERVER_INNER_V6, Site, server_outer};
use system_tests::traffic::{Capture, Captured, Pinging, Place, reachable};
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
            reachable(world, &site.host(), server, Duration::from_secs(5))?;
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
    for site in &sites {
        outer(world, site, wan)?;
    }
    Ok(())
}

/// Every frame is tagged with the VLAN of some site, and each VLAN carries its pings from `v4` and `v6`.
fn trunk(world: &World, sites: &[Site], captured: &Captured, v4: &str, v6: &str) -> Result<()> {
    let untagged = captured.fields(world, "not vlan", &["frame.number", "frame.protocols"])?;
    ensure!(untagged.is_empty(), "untagged frames on the trunk: {untagged:?}");
    let strangers: String = sites.iter().map(|s| format!(" and vlan.id != {}", s.vlan())).collect();
    let strange = captured.fields(world, &format!("vlan{strangers}"), &["vlan.id"])?;
    ensure!(strange.is_empty(), "frames with tags of nobody: {strange:?}");
    for site in sites {
        for (address, filter) in
            [(v4, format!("ip.src == {v4} and icmp")), (v6, format!("ipv6.src == {v6} and icmpv6"))]
        {
            let filter = format!("vlan.id == {} and {filter}", site.vlan());
            let frames = captured.fields(world, &filter, &["frame.number"])?;
            let expected = PINGS as usize;
            ensure!(
                frames.len() >= expected,
                "VLAN {}: {} pings of {address} on the trunk, sent {expected}",
                site.vlan(),
                frames.len()
            );
        }
    }
    Ok(())
}

/// On the WAN the site's pings travel both ways between the tunnel's two addresses in the right wrapping.
fn outer(world: &World, site: &Site, wan: &Captured) -> Result<()> {
    let version = world.options().outer;
    let (ip, gateway, server) = match version {
        Outer::V4 => ("ip", site.outer(version), server_outer(version)),
        Outer::V6 => ("ipv6", site.outer(version), server_outer(version)),
    };
    let wrapping = match (site.kind, site.key) {
        (Kind::Ipip, _) => format!("{ip}.{} in {{4, 41}}", if ip == "ip" { "proto" } else { "nxt" }),
        (Kind::Gre, None) => "gre and not gre.key".to_owned(),
        (Kind::Gre, Some(key)) => format!("gre.key == {key}"),
        (Kind::Vxlan, key) => format!("udp.dstport == 4789 and vxlan.vni == {}", key.unwrap_or_default()),
    };
    for (from, to) in [(&gateway, &server), (&server, &gateway)] {
        let filter = format!("{ip}.src == {from} and {ip}.dst == {to} and {wrapping} and (icmp or icmpv6)");
        let frames = wan.fields(world, &filter, &["frame.number"])?;
        let expected = 2 * PINGS as usize;
        ensure!(frames.len() >= expected, "{} of at least {expected} frames match {filter}", frames.len());
    }
    if version == Outer::V4 {
        // RFC 2003 leaves it open, we promise it: the outer header forbids fragmentation.
        let fragmentable = wan.fields(
            world,
            &format!("ip.src == {server} and ip.dst == {gateway} and ip.flags.df == 0"),
            &["frame.number"],
        )?;
        ensure!(fragmentable.is_empty(), "{} outer packets without DF", fragmentable.len());
    }
    Ok(())
}
