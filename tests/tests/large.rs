//! Large transfers arrive byte-identical, with segmentation offload (64 KiB packets pass the tunnel whole) and
//! without it, in both directions, over both IP versions. With `FULL=1` in the environment (`make soak`) they are ten times
//! as long, and every device on the way is without offloads once while the others have theirs.

use std::time::Duration;

use anyhow::{Context as _, Result};
use libtest_mimic::Trial;
use system_tests::plan::{Kind, Options, Outer, SERVER_INNER_V4, SERVER_INNER_V6, Site};
use system_tests::traffic::reachable;
use system_tests::world::World;

use crate::floor::{Need, explain, trial, with_tenants};
use crate::transfer::{from_host, in_stack, serve_at_tenant};

const BYTES: u64 = 20_000_000;

/// Whether the long form was asked for.
fn full() -> bool {
    std::env::var_os("FULL").is_some()
}

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
        ("ipip", Kind::Ipip, false, Outer::V4),
        ("ipip_over_v6", Kind::Ipip, false, Outer::V6),
        ("gre", Kind::Gre, false, Outer::V4),
        ("gre_over_v6", Kind::Gre, false, Outer::V6),
        ("gre_keyed", Kind::Gre, true, Outer::V4),
        ("gre_keyed_over_v6", Kind::Gre, true, Outer::V6),
        ("vxlan", Kind::Vxlan, false, Outer::V4),
        ("vxlan_over_v6", Kind::Vxlan, false, Outer::V6),
    ];
    kinds
        .into_iter()
        .map(|(name, kind, keyed, outer)| {
            let options = Options { sites: 1, kinds: vec![kind], keyed, outer, ..Options::default() };
            trial(&format!("large::{name}"), NEEDS, move || {
                let world = with_tenants("large", options)?;
                explain(&world, check(&world))
            })
        })
        .collect()
}

fn check(world: &World) -> Result<()> {
    let site = world.options().site(0);
    serve_at_tenant(world, &site)?;
    let bytes = if full() { 10 * BYTES } else { BYTES };
    let both_ways = |how: &str| -> Result<()> {
        for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
            reachable(world, &site.host(), server, Duration::from_secs(30))?;
            for verb in ["up", "down"] {
                from_host(world, &site, verb, server, bytes).with_context(|| how.to_owned())?;
            }
        }
        Ok(())
    };
    both_ways("with offloads")?;
    let places = places(&site);
    if full() {
        for place in &places {
            offloads(world, &site, place, "off")?;
            both_ways(&format!("without offloads at {place:?}"))?;
            offloads(world, &site, place, "on")?;
        }
    }
    for place in &places {
        offloads(world, &site, place, "off")?;
    }
    both_ways("without offloads")
}

/// A device of a node, or of the tenant's stack.
#[derive(Debug)]
struct Device {
    node: Option<String>,
    name: String,
}

/// Every device on the way.
fn places(site: &Site) -> Vec<Device> {
    let (host, gw) = (site.host(), site.gw());
    let of = |node: &str, name: &str| Device { node: Some(node.to_owned()), name: name.to_owned() };
    vec![
        of(&host, "eth0"),
        of(&gw, "lan0"),
        of(&gw, "wan0"),
        of("internet", &gw),
        of("internet", "server"),
        of("server", "wan0"),
        of("server", "trunk-main"),
        Device { node: None, name: "dev0".to_owned() },
    ]
}

/// Segmentation and checksum offload of one device. Without them every packet is as long as it says.
fn offloads(world: &World, site: &Site, device: &Device, state: &str) -> Result<()> {
    let argv = ["ethtool", "-K", &device.name, "tso", state, "gso", state, "gro", state, "tx", state];
    match &device.node {
        Some(node) => world.ok(node, &argv),
        None => in_stack(world, site, &argv),
    }
    .map(drop)
}
