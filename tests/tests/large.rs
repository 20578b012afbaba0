//! Large transfers arrive byte-identical, with segmentation offload (64 KiB packets pass the tunnel whole) and
//! without it, in both directions, over both IP versions.

use std::time::Duration;

use anyhow::Result;
use libtest_mimic::Trial;
use system_tests::plan::{Kind, Options, Outer, SERVER_INNER_V4, SERVER_INNER_V6, Site};
use system_tests::traffic::reachable;
use system_tests::world::World;

use crate::floor::{Need, explain, trial, with_tenants};
use crate::transfer::{from_host, in_stack, serve_at_tenant};

const BYTES: u64 = 20_000_000;

const NEEDS: &[Need] = &[
    Need::Root,
    Need::Daemons,
    Need::Program("ip", "iproute2"),
    Need::Program("nginx", "nginx-light"),
    Need::Program("python3", "python3"),
    Need::Program("ethtool", "ethtool"),
    Need::Program("nsenter", "util-linux"),
];

pub(crate) fn trials() -> Vec<Trial> {
    let kinds = [
        ("ipip", Kind::Ipip, Outer::V4),
        ("ipip_over_v6", Kind::Ipip, Outer::V6),
        ("gre", Kind::Gre, Outer::V4),
        ("gre_over_v6", Kind::Gre, Outer::V6),
        ("vxlan", Kind::Vxlan, Outer::V4),
        ("vxlan_over_v6", Kind::Vxlan, Outer::V6),
    ];
    kinds
        .into_iter()
        .map(|(name, kind, outer)| trial(&format!("large::{name}"), NEEDS, move || large(kind, outer)))
        .collect()
}

fn large(kind: Kind, outer: Outer) -> Result<()> {
    let world = with_tenants("large", Options { sites: 1, kinds: vec![kind], outer, ..Options::default() })?;
    explain(&world, check(&world))
}

fn check(world: &World) -> Result<()> {
    let site = world.options().site(0);
    serve_at_tenant(world, &site)?;
    let both_ways = || -> Result<()> {
        for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
            reachable(world, &site.host(), server, Duration::from_secs(5))?;
            for verb in ["up", "down"] {
                from_host(world, &site, verb, server, BYTES)?;
            }
        }
        Ok(())
    };
    both_ways().map_err(|e| e.context("with offloads"))?;
    offloads_off(world, &site)?;
    both_ways().map_err(|e| e.context("without offloads"))
}

/// No segmentation or checksum offload anywhere on the way: every packet is as long as it says.
fn offloads_off(world: &World, site: &Site) -> Result<()> {
    let off = ["tso", "off", "gso", "off", "gro", "off", "tx", "off"];
    let ethtool = |device: &str| -> Vec<String> {
        ["ethtool", "-K", device].iter().chain(&off).map(|w| (*w).to_owned()).collect()
    };
    let (host, gw) = (site.host(), site.gw());
    for (node, device) in [
        (host.as_str(), "eth0"),
        (gw.as_str(), "lan0"),
        (gw.as_str(), "wan0"),
        ("internet", gw.as_str()),
        ("internet", "server"),
        ("server", "wan0"),
        ("server", "trunk-main"),
    ] {
        let argv = ethtool(device);
        world.ok(node, &argv.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    let argv = ethtool("dev0");
    in_stack(world, site, &argv.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
}
