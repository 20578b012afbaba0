//! The kernel holds what was made: `kill -9` of either daemon during traffic loses no packet, and the daemon comes up
//! again with the same rows.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use system_tests::plan::{Kind, Options, SERVER_INNER_V4, SERVER_INNER_V6, Site};
use system_tests::tenants;
use system_tests::traffic::{Pinging, page, reachable, url};
use system_tests::world::{World, eventually};

use crate::floor::{TENANTS, explain, trial, with_tenants};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("kill9::tenantd", TENANTS, || killed("tenantd")),
        trial("kill9::access_server", TENANTS, || killed("access-server")),
    ]
}

fn killed(daemon: &str) -> Result<()> {
    let kinds = vec![Kind::Ipip, Kind::Gre, Kind::Vxlan];
    let world = with_tenants("kill9", Options { kinds, ..Options::default() })?;
    explain(&world, check(&world, daemon))
}

fn check(world: &World, daemon: &str) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    let targets = [SERVER_INNER_V4, SERVER_INNER_V6];
    let mut pings = Vec::new();
    for site in &sites {
        for server in targets {
            reachable(world, &site.host(), server, Duration::from_secs(5))?;
            pings.push(Pinging::start(world, &site.host(), server, 400)?);
        }
    }
    let rows = rows(world)?;
    // Three times in four seconds of traffic: also while it is adopting what it finds.
    for pause in [500, 700, 300] {
        std::thread::sleep(Duration::from_millis(pause));
        kill(world, daemon)?;
    }
    for ping in pings {
        ping.all_answered()?;
    }
    let after = eventually(&format!("{daemon} has the same rows again"), Duration::from_secs(10), || {
        self::rows(world).ok().filter(|after| *after == rows)
    });
    if after.is_err() {
        ensure!(false, "before: {rows:#}\nafter: {:#}", self::rows(world)?);
    }
    // It does not only answer: it still works.
    let site = sites.first().context("no site")?;
    world.ok("server", &["tenantd", "restart-service", &site.tenant(), "web"])?;
    eventually("the page is served again", Duration::from_secs(5), || {
        let got = page(world, &site.host(), &url("http", SERVER_INNER_V4), &[]).ok()?;
        (got.trim() == tenants::page(site)).then_some(())
    })
}

/// Kills the daemon of the server by its pid and waits until another one runs.
fn kill(world: &World, daemon: &str) -> Result<()> {
    let pid = || pid(world, daemon);
    let old = eventually(&format!("{daemon} runs"), Duration::from_secs(10), || pid().ok().flatten())?;
    world.ok("server", &["kill", "-9", &old.to_string()])?;
    eventually(&format!("{daemon} is started again"), Duration::from_secs(10), || {
        pid().ok().flatten().filter(|new| *new != old)
    })
    .map(drop)
}

/// Pid, as the world sees it, of the daemon on the server.
fn pid(world: &World, daemon: &str) -> Result<Option<u32>> {
    let find = format!(
        "for d in /proc/[0-9]*; do tr '\\0' ' ' <$d/cmdline 2>/dev/null | grep -q '^{daemon} run ' && echo ${{d#/proc/}}; done; true"
    );
    Ok(world.ok("server", &["sh", "-c", &find])?.lines().next().and_then(|pid| pid.parse().ok()))
}

/// The tables as both daemons tell them, without what counts or ticks.
fn rows(world: &World) -> Result<Value> {
    let map: Value = serde_json::from_str(&world.ok("server", &["tenantd", "map", "--json"])?)?;
    let access: Value = serde_json::from_str(&world.ok("server", &["access-server", "list", "--json"])?)?;
    Ok(serde_json::json!({ "map": map, "access": access }))
}
