//! Two hundred tenants at one address, each with an nginx of its own: made, asked, measured, removed; nothing is left.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use system_tests::plan::{Kind, Options, SERVER_INNER_V4};
use system_tests::tenants;
use system_tests::traffic::{page, reachable, url};
use system_tests::world::{World, eventually};

use crate::floor::{TENANTS, explain, trial, world};

const MANY: usize = 200;
/// Private memory of an init, mean over all, in KiB.
const INIT: u64 = 400;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("many::two_hundred_with_nginx", TENANTS, || {
        let world = world("many", Options { sites: 2, kinds: vec![Kind::Ipip], ..Options::default() })?;
        explain(&world, check(&world))
    })]
}

/// What could be left of a tenant, one line a thing, without numbers.
const TRACES: &str = r#"
for ns in net mnt pid uts ipc user cgroup; do readlink /proc/[0-9]*/ns/$ns 2>/dev/null | sort -u | grep -c . | sed "s/^/$ns namespaces /"; done
nsenter --net=/run/tenantd/main/patchroom ip -o link | sed 's/^[0-9]*: /device /; s/[@:].*//'
for d in /proc/[0-9]*; do tr '\0' ' ' <$d/cmdline 2>/dev/null | grep -E '^(tenant-init|nginx)' | cut -c1-40; done
wc -l </proc/1/mounts | sed 's/^/mounts /'
find /sys/fs/cgroup -mindepth 2 -type d 2>/dev/null | sed 's/^/cgroup /'
find /sys/fs/bpf /run/tenantd | sed 's/^/path /'
ls /run/lab/state/tenants
"#;

pub(crate) fn traces(world: &World) -> Result<BTreeSet<String>> {
    Ok(world.ok("server", &["sh", "-c", TRACES])?.lines().map(str::to_owned).collect())
}

fn available(world: &World) -> Result<i64> {
    let text = world.ok("server", &["awk", "/^MemAvailable/ { print $2 }", "/proc/meminfo"])?;
    Ok(text.trim().parse()?)
}

fn check(world: &World) -> Result<()> {
    // Two with a site each; what stays for all (directories, maps, the snapshot) is there with them.
    for site in world.options().sites() {
        tenants::add(world, &site)?;
        reachable(world, &site.host(), SERVER_INNER_V4, Duration::from_secs(30))?;
    }
    // What listens may still be making its workers.
    let (mut before, mut same) = (traces(world)?, 0);
    eventually("the world stands still", Duration::from_secs(60), || {
        std::thread::sleep(Duration::from_millis(500));
        let now = traces(world).ok()?;
        same = if now == before { same + 1 } else { 0 };
        before = now;
        (same == 2).then_some(())
    })?;
    let memory = available(world)?;
    let started = Instant::now();
    let make = format!(
        "for n in $(seq {MANY}); do tenantd add-tenant many-$n --address 192.168.1.1/24; \
         tenantd add-service many-$n web --template nginx --set body=page-of-$n; done"
    );
    world.ok("server", &["sh", "-ec", &make])?;
    let made = started.elapsed();
    let used = memory - available(world)?;
    // Each answers in its own stack with its own page.
    let ask = format!(
        "for n in $(seq {MANY}); do \
         pid=$(tenantd status many-$n --json | sed 's/.*\"init_pid\":\\([0-9]*\\).*/\\1/'); \
         got=$(nsenter --net=/proc/$pid/ns/net curl -sS --max-time 20 http://192.168.1.1/); \
         [ \"$got\" = page-of-$n ] || {{ echo \"$n: $got\"; exit 1; }}; echo $pid; done"
    );
    let inits = world.ok("server", &["sh", "-ec", &ask])?;
    ensure!(inits.lines().collect::<BTreeSet<_>>().len() == MANY, "not {MANY} inits");
    for site in world.options().sites() {
        let got = page(world, &site.host(), &url("http", SERVER_INNER_V4), &[])?;
        ensure!(got.trim() == tenants::page(&site), "{} was served {got:?}", site.host());
    }
    let pids = inits.split_whitespace().map(|pid| format!("/proc/{pid}/smaps_rollup")).collect::<Vec<_>>().join(" ");
    let pss = world.ok("server", &["sh", "-c", &format!("awk '/^Pss:/ {{ s += $2 }} END {{ print s }}' {pids}")])?;
    let init = pss.trim().parse::<u64>().context(pss)? / MANY as u64;
    let started = Instant::now();
    world.ok(
        "server",
        &["sh", "-ec", &format!("for n in $(seq {MANY}); do tenantd remove-tenant many-$n --force; done")],
    )?;
    let removed = started.elapsed();
    let left = eventually("all is as before", Duration::from_secs(60), || {
        traces(world).ok().filter(|after| *after == before).map(drop)
    });
    if left.is_err() {
        let after = traces(world)?;
        let news: Vec<_> = after.difference(&before).take(20).collect();
        let gone: Vec<_> = before.difference(&after).take(20).collect();
        ensure!(false, "left: {news:#?}\ngone: {gone:#?}");
    }
    println!(
        "{MANY} tenants with nginx: made in {:.1} s, removed in {:.1} s, {} KiB of the machine each, {init} KiB each init (PSS)",
        made.as_secs_f64(),
        removed.as_secs_f64(),
        used / MANY as i64
    );
    ensure!(init < INIT, "an init takes {init} KiB (PSS), {INIT} at most");
    for site in world.options().sites() {
        let got = page(world, &site.host(), &url("http", SERVER_INNER_V4), &[])?;
        ensure!(got.trim() == tenants::page(&site), "{} was served {got:?}", site.host());
    }
    Ok(())
}
