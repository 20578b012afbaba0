//! Frames that are not a tenant's to send: another tag, two tags, another MAC address, lies of ARP, neighbour and
//! router advertisements. Without `--privileges network` there is no socket to send them with; with it, they die at the
//! port under their names.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use system_tests::traffic::{Capture, Place};
use system_tests::world::{World, eventually};

use super::{NETWORK, PLAIN, argv, inside, status, undisturbed};

/// How many of each kind.
const EACH: u64 = 60;
/// What a port counts each kind as.
const NAMES: [(&str, &str); 7] = [
    ("tag", "tagged_from_port"),
    ("two_tags", "tagged_from_port"),
    ("mac", "source_mac"),
    ("arp", "source_mac"),
    ("arp_mac", "source_mac"),
    ("nd", "source_mac"),
    ("ra", "source_mac"),
];

pub(super) fn check(world: &World) -> Result<()> {
    let own = mac(world, NETWORK)?;
    let others = format!("{},{},02:00:5e:00:53:0a", mac(world, PLAIN)?, mac(world, super::OTHER)?);
    let each = EACH.to_string();
    let device = device(world, NETWORK)?;
    let refused =
        world.exec("server", &argv(PLAIN, &["frames", &self::device(world, PLAIN)?, &own, &others, &each]))?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("PermissionError"), "{PLAIN} has a packet socket: {said}");

    let captures = [600, 602].map(|vlan| Capture::start(world, Place::Room(&format!("p{vlan}"))));
    let host = Capture::start(world, Place::Node("host-b", "eth0"))?;
    let before = drops(world)?;
    let sent =
        undisturbed(world, "forged frames", || inside(world, NETWORK, &["frames", &device, &own, &others, &each]))?;
    let sent: Value = serde_json::from_str(&sent)?;
    ensure!(sent.as_object().context("no table")?.len() == NAMES.len(), "{sent}");
    for reason in ["tagged_from_port", "source_mac"] {
        let count = |drops: &Value| {
            let all = drops.as_object().into_iter().flatten();
            all.filter(|(name, _)| name.ends_with(reason)).filter_map(|(_, n)| n.as_u64()).sum::<u64>()
        };
        let expected = EACH * NAMES.iter().filter(|(_, name)| *name == reason).count() as u64;
        // The last frames may still be on their way to the port when their sender has ended.
        let _ = eventually("all frames are counted", Duration::from_secs(20), || {
            drops(world).ok().filter(|now| count(now) - count(&before) >= expected).map(drop)
        });
        let after = drops(world)?;
        let counted = count(&after) - count(&before);
        ensure!(
            counted == expected,
            "{counted} frames were counted as {reason}, expected {expected}: {before} {after}"
        );
    }
    for capture in captures {
        ensure!(capture?.stop(world)?.count("<<forged>>") == 0, "a forged frame came to another tenant");
    }
    ensure!(host.stop(world)?.count("<<forged>>") == 0, "a forged frame came to the site");
    Ok(())
}

fn drops(world: &World) -> Result<Value> {
    Ok(status(world, NETWORK)?["counters"]["drops"].clone())
}

fn device(world: &World, tenant: &str) -> Result<String> {
    let list: Value = serde_json::from_str(&world.ok("server", &["tenantd", "show", tenant, "--json"])?)?;
    list["device"].as_str().map(str::to_owned).with_context(|| format!("no device in {list}"))
}

fn mac(world: &World, tenant: &str) -> Result<String> {
    let path = format!("/sys/class/net/{}/address", device(world, tenant)?);
    Ok(world.ok("server", &["tenantd", "exec", tenant, "--", "cat", &path])?.trim().to_owned())
}
