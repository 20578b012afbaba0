//! The kernel holds what was made: `kill -9` of either daemon during traffic loses no packet, and the daemon comes up
//! again with the same rows.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use system_tests::daemons;
use system_tests::plan::{Kind, Options, SERVER_INNER_V4, SERVER_INNER_V6, Site};
use system_tests::tenants::{self, init_pid, sh};
use system_tests::traffic::{Pinging, page, reachable, url};
use system_tests::world::{World, eventually};

use crate::floor::{TENANTS, explain, trial, with_tenants};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("kill9::tenantd", TENANTS, || killed("tenantd")),
        trial("kill9::access_server", TENANTS, || killed("access-server")),
        trial("kill9::tenantd_during_service_restarts", TENANTS, during_restarts),
        trial("kill9::an_init", TENANTS, an_init),
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
            reachable(world, &site.host(), server, Duration::from_secs(30))?;
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
    let after = eventually(&format!("{daemon} has the same rows again"), Duration::from_secs(30), || {
        self::rows(world).ok().filter(|after| *after == rows)
    });
    if after.is_err() {
        ensure!(false, "before: {rows:#}\nafter: {:#}", self::rows(world)?);
    }
    // It does not only answer: it still works.
    let site = sites.first().context("no site")?;
    world.ok("server", &["tenantd", "restart-service", &site.tenant(), "web"])?;
    eventually("the page is served again", Duration::from_secs(30), || {
        let got = page(world, &site.host(), &url("http", SERVER_INNER_V4), &[]).ok()?;
        (got.trim() == tenants::page(site)).then_some(())
    })
}

/// tenantd dies at any moment of a restart of a service: afterwards the service runs once, and the others never stopped.
fn during_restarts() -> Result<()> {
    let world = with_tenants("k9restart", Options { sites: 2, ..Options::default() })?;
    explain(&world, restarts(&world))
}

fn restarts(world: &World) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    let (busy, quiet) = (sites[0].tenant(), sites[1].tenant());
    let masters = |tenant: &str| sh(world, tenant, "pgrep -o -x nginx; pgrep -c -f '^nginx: master'");
    // nginx listens a moment before it calls itself a master.
    let before = eventually("the quiet nginx is a master", Duration::from_secs(30), || masters(&quiet).ok())?;
    let inits = (init_pid(world, &busy)?, init_pid(world, &quiet)?);
    let ping = Pinging::start(world, &sites[1].host(), SERVER_INNER_V4, 600)?;
    for round in 0..6 {
        let asked = world.spawn("server", &["tenantd", "restart-service", &busy, "web"])?;
        std::thread::sleep(Duration::from_millis(15 * round));
        kill(world, "tenantd")?;
        // Done or not: only that it ends is asked.
        asked.wait(Duration::from_secs(60))?;
    }
    // While there is no tenantd a service that dies is started again by init.
    let old = eventually("the service runs", Duration::from_secs(30), || sh(world, &busy, "pgrep -o -x nginx").ok())?;
    world.ok("server", &["touch", "/run/lab/hold/tenantd"])?;
    let stopped = pid(world, "tenantd")?.context("no tenantd")?;
    world.ok("server", &["sh", "-c", &format!("kill -9 {stopped}")])?;
    let host_pid = |old: &str| {
        let find = format!(
            "for p in /proc/[0-9]*; do grep -qs '^NSpid:.*[[:space:]]{}$' $p/status && grep -qsx nginx $p/comm && echo ${{p#/proc/}}; done; true",
            old.trim()
        );
        world.ok("server", &["sh", "-c", &find])
    };
    let killed = host_pid(&old)?;
    // Of both tenants' nginx: the pid inside may be the same in both.
    let ours = killed.split_whitespace().find(|pid| in_tenant(world, pid, inits.0));
    world.ok("server", &["kill", "-9", ours.context("the nginx of the busy tenant is not seen")?])?;
    eventually("init starts it again", Duration::from_secs(30), || {
        let got = page(world, &sites[0].host(), &url("http", SERVER_INNER_V4), &[]).ok()?;
        (got.trim() == tenants::page(&sites[0])).then_some(())
    })?;
    world.ok("server", &["rm", "/run/lab/hold/tenantd"])?;
    eventually("tenantd is back", Duration::from_secs(30), || masters(&busy).ok().filter(|now| now.ends_with("\n1\n")))
        .with_context(|| format!("masters of the busy tenant: {:?}", masters(&busy)))?;
    ensure!(masters(&quiet)? == before, "the service of the other tenant was started again");
    ensure!((init_pid(world, &busy)?, init_pid(world, &quiet)?) == inits, "an init was started again");
    ping.all_answered().map(drop)
}

/// Whether a process of the world is in the pid namespace of that init.
fn in_tenant(world: &World, pid: &str, init: i64) -> bool {
    world
        .ok("server", &["sh", "-c", &format!("test $(readlink /proc/{pid}/ns/pid) = $(readlink /proc/{init}/ns/pid)")])
        .is_ok()
}

/// A tenant's init dies: all its processes do, it is started again with its services, and nobody else notices.
fn an_init() -> Result<()> {
    let world =
        with_tenants("k9init", Options { kinds: vec![Kind::Ipip, Kind::Gre, Kind::Vxlan], ..Options::default() })?;
    explain(&world, init_dies(&world))
}

fn init_dies(world: &World) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    let (victim, others) = sites.split_first().context("no site")?;
    let tenant = victim.tenant();
    sh(world, &tenant, "echo kept >/root/file")?;
    world.ok("server", &["tenantd", "add-service", &tenant, "sleeper", "--", "/bin/sleep", "4711"])?;
    let inits = others.iter().map(|site| init_pid(world, &site.tenant())).collect::<Result<Vec<_>>>()?;
    let show: Value = serde_json::from_str(&world.ok("server", &["tenantd", "show", &tenant, "--json"])?)?;
    let first = show["gid"].as_u64().context("no gid")?;
    // With their start times: a number alone may be given again.
    let own = || -> Result<Vec<String>> {
        let last = first + 65_535;
        let list = format!(
            "for p in /proc/[0-9]*; do u=$(awk '/^Uid:/{{print $2}}' $p/status 2>/dev/null); [ \"${{u:-0}}\" -ge {first} ] && [ $u -le {last} ] && echo ${{p#/proc/}} $(sed 's/.*) //' $p/stat | cut -d' ' -f20); done; true"
        );
        Ok(world.ok("server", &["sh", "-c", &list])?.lines().map(str::to_owned).collect())
    };
    // A service is ready when it listens; its workers are made a moment later.
    let before = eventually("init, nginx, its workers and a sleeper", Duration::from_secs(30), || {
        own().ok().filter(|found| found.len() >= 4)
    });
    let before = before.with_context(|| format!("{:?}", own()))?;
    let mut pings = Vec::new();
    for site in others {
        reachable(world, &site.host(), SERVER_INNER_V4, Duration::from_secs(30))?;
        pings.push(Pinging::start(world, &site.host(), SERVER_INNER_V4, 400)?);
    }
    let old = init_pid(world, &tenant)?;
    world.ok("server", &["kill", "-9", &old.to_string()])?;
    eventually("all its processes are dead", Duration::from_secs(30), || {
        own().ok().filter(|now| !now.iter().any(|process| before.contains(process)))
    })?;
    eventually("it is started again", Duration::from_secs(30), || {
        init_pid(world, &tenant).ok().filter(|new| *new != old)
    })?;
    eventually("its page is served again", Duration::from_secs(30), || {
        let got = page(world, &victim.host(), &url("http", SERVER_INNER_V4), &[]).ok()?;
        (got.trim() == tenants::page(victim)).then_some(())
    })?;
    eventually("its sleeper runs again", Duration::from_secs(30), || sh(world, &tenant, "pgrep -x sleep").ok())?;
    sh(world, &tenant, "test \"$(cat /root/file)\" = kept")?;
    for ping in pings {
        ping.all_answered()?;
    }
    let now = others.iter().map(|site| init_pid(world, &site.tenant())).collect::<Result<Vec<_>>>()?;
    ensure!(now == inits, "another tenant's init was started again");
    Ok(())
}

/// Kills the daemon of the server by its pid and waits until another one runs.
fn kill(world: &World, daemon: &str) -> Result<()> {
    let pid = || pid(world, daemon);
    let old = eventually(&format!("{daemon} runs"), Duration::from_secs(30), || pid().ok().flatten())?;
    world.ok("server", &["kill", "-9", &old.to_string()])?;
    eventually(&format!("{daemon} is started again"), Duration::from_secs(30), || {
        pid().ok().flatten().filter(|new| *new != old)
    })
    .map(drop)
}

/// Pid, as the world sees it, of the daemon on the server.
pub(crate) fn pid(world: &World, daemon: &str) -> Result<Option<u32>> {
    daemons::pid(world, daemon)
}

/// The tables as both daemons tell them, without what counts or ticks.
fn rows(world: &World) -> Result<Value> {
    let map: Value = serde_json::from_str(&world.ok("server", &["tenantd", "map", "--json"])?)?;
    let access: Value = serde_json::from_str(&world.ok("server", &["access-server", "list", "--json"])?)?;
    Ok(serde_json::json!({ "map": map, "access": access }))
}
