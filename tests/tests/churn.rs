//! Tenants that come and go leave nothing: after thousands of them the machine is as it was.
//!
//! The short form has 200, the full one (`FULL=1`) 10,000. They come and go at the same time as they would at a busy
//! operator's: some are added before the last ones are gone.

use std::collections::VecDeque;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use system_tests::api::Api;
use system_tests::plan::{Kind, Options, SERVER_INNER_V4};
use system_tests::tenants;
use system_tests::traffic::{Pinging, reachable};
use system_tests::world::{World, eventually};

use crate::floor::{TENANTS, explain, trial, world};
use crate::many::traces;
use crate::scale::{Process, median, name, request};

/// Tenants that stand at the same time.
const AT_ONCE: usize = 8;
/// Kernel memory that may be more than before, KiB: the kernel keeps some for the next ones.
const KEPT: i64 = 32 * 1024;
/// Memory of the daemon that may be more than before, KiB: what its allocator keeps.
const DAEMON_KEPT: i64 = 8 * 1024;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("churn::nothing_is_left", TENANTS, || {
        let world = world("churn", Options { sites: 1, kinds: vec![Kind::Ipip], ..Options::default() })?;
        explain(&world, check(&world))
    })]
}

/// Rows of all pinned maps of the instance that have rows of their own, counted by bpftool.
fn rows(world: &World) -> Result<String> {
    let count = "find /sys/fs/bpf -type f | sort | while read -r pin; do \
                 kind=$(bpftool -j map show pinned $pin 2>/dev/null | sed 's/.*\"type\":\"\\([a-z_]*\\)\".*/\\1/'); \
                 case $kind in *hash|lpm_trie) echo $pin $(bpftool -j map dump pinned $pin | grep -o '\"key\"' | wc -l);; esac; done";
    world.ok("server", &["sh", "-c", count])
}

/// Kernel memory in KiB: what is not given back at once.
fn kernel_memory() -> Result<i64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let of = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).with_context(|| format!("no {key}"))?;
        Ok::<i64, anyhow::Error>(line.split_whitespace().nth(1).context("no value")?.parse()?)
    };
    Ok(of("SUnreclaim:")? + of("Percpu:")? + of("KernelStack:")? + of("PageTables:")?)
}

fn check(world: &World) -> Result<()> {
    let many = if std::env::var_os("FULL").is_some() { 10_000 } else { 200 };
    let site = world.options().sites().next().context("no site")?;
    tenants::add(world, &site)?;
    reachable(world, &site.host(), SERVER_INNER_V4, Duration::from_secs(30))?;
    let (mut api, daemon) = (Api::of(world), Process::tenantd(world)?);
    let mut standing = VecDeque::new();
    let mut times = Vec::new();
    let mut round = |api: &mut Api, n| -> Result<()> {
        times.push(api.timed("POST", "/v1/tenants", Some(&request(n)))?.1);
        standing.push_back(n);
        if standing.len() >= AT_ONCE {
            let first: usize = standing.pop_front().context("none stands")?;
            api.ask("DELETE", &format!("/v1/tenants/{}?force=true", name(first)), None)?;
        }
        Ok(())
    };
    // What grows with the first ones and never again.
    let warm = 50;
    for n in 0..warm {
        round(&mut api, n)?;
    }
    let (before, memory, resident) = (Before::settled(world, &daemon)?, kernel_memory()?, daemon.resident()?);
    let ping = Pinging::start(world, &site.host(), SERVER_INNER_V4, 1000)?;
    let (started, mut most) = (Instant::now(), memory);
    for n in warm..warm + many {
        round(&mut api, n)?;
        if n % 50 == 0 {
            most = most.max(kernel_memory()?);
        }
    }
    let rate = many as f64 / started.elapsed().as_secs_f64();
    ping.all_answered()?;
    let as_before = eventually("all is as before", Duration::from_secs(60), || {
        Before::of(world, &daemon).ok().filter(|after| *after == before).map(drop)
    });
    if as_before.is_err() {
        ensure!(false, "before {before:#?}\nafter {:#?}", Before::of(world, &daemon)?);
    }
    let settled = eventually("the kernel has its memory back", Duration::from_secs(60), || {
        kernel_memory().ok().filter(|now| now - memory <= KEPT)
    });
    let now = kernel_memory()?;
    println!(
        "{many} came and went at {rate:.0} a second, add {:.2} ms; kernel memory {} KiB more than before, at most {} KiB \
         more meanwhile; {} KiB resident",
        median(&times),
        now - memory,
        most - memory,
        daemon.resident()?
    );
    let grown = daemon.resident()? - resident;
    ensure!(grown <= DAEMON_KEPT, "the daemon has {grown} KiB more than before");
    settled.map(drop)
}

/// What is counted, without numbers that are given anew.
#[derive(Debug, PartialEq)]
struct Before {
    descriptors: usize,
    rows: String,
    traces: usize,
    namespaces: Vec<String>,
}

impl Before {
    fn of(world: &World, daemon: &Process<'_>) -> Result<Self> {
        let traces = traces(world)?;
        let namespaces = traces.iter().filter(|line| line.contains("namespaces")).cloned().collect();
        Ok(Self { descriptors: daemon.descriptors()?, rows: rows(world)?, traces: traces.len(), namespaces })
    }

    /// Once nothing is on its way any more: files are removed and stacks made ready after an answer.
    fn settled(world: &World, daemon: &Process<'_>) -> Result<Self> {
        let mut last = Self::of(world, daemon)?;
        eventually("what came and went has settled", Duration::from_secs(60), || {
            std::thread::sleep(Duration::from_millis(500));
            let next = Self::of(world, daemon).ok()?;
            let before = std::mem::replace(&mut last, next);
            (before == last).then_some(before)
        })
    }
}
