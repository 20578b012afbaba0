//! What one tenant does, the others hardly notice: out of memory, a fork bomb, a full disk, a flood of packets. And what
//! it may use is held: memory, processes, files, bandwidth.
//!
//! Every bomb is bounded by itself, in size and time (`peers/bombs.py`), and its limit is read back from the kernel before
//! it goes off.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::{Completion, Failed, Trial};
use serde_json::Value;
use system_tests::plan::{HOST_INNER_V4, Kind, Options, SERVER_INNER_V4, Site};
use system_tests::tenants::{self, init_pid, sh};
use system_tests::traffic::{page, reachable, url};
use system_tests::world::{Running, World, eventually};

use crate::floor::{Need, TENANTS, explain, trial, world};

const ASK: &str = include_str!("../peers/ask.py");
const BOMBS: &str = include_str!("../peers/bombs.py");

/// What others may suffer, as shares of before.
const P50: f64 = 1.5;
const P99: f64 = 5.0;
/// A machine with other work measures badly; a bomb that gets through is bad every time.
const TRIES: usize = 6;
/// How long a bomb goes on, in seconds; it is measured for the time in its middle.
const BOMB: &str = "3.5";
const MEASURE: &str = "2";

const IPERF: &[Need] = &[
    Need::Root,
    Need::Daemons,
    Need::Program("ip", "iproute2"),
    Need::Program("ping", "iputils-ping"),
    Need::Program("iperf3", "iperf3"),
];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        may_miss_its_floor("limits::out_of_memory_kills_inside_only", || {
            others_answer("memory", &["memory=64M", "cpu=1"], out_of_memory)
        }),
        may_miss_its_floor("limits::a_fork_bomb_disturbs_nobody", || {
            others_answer("forks", &["processes=100", "memory=256M", "cpu=1"], fork_bomb)
        }),
        may_miss_its_floor("limits::a_disk_filler_disturbs_nobody", || {
            others_answer("disk", &["disk=48M", "memory=256M", "cpu=1"], disk_filler)
        }),
        may_miss_its_floor("limits::a_packet_flood_disturbs_nobody", || {
            others_answer("flood", &["cpu=1", "memory=256M"], packet_flood)
        }),
        trial("limits::bandwidth_is_held", IPERF, bandwidth),
    ]
}

/// Three tenants; the first is limited and misbehaves while the two others are asked.
fn others_answer(stem: &str, limits: &[&str], check: fn(&World, &Site) -> Result<Pace>) -> Result<()> {
    let kinds = vec![Kind::Ipip, Kind::Gre, Kind::Ipip];
    let world = world(stem, Options { kinds, ..Options::default() })?;
    let set = || {
        for site in world.options().sites() {
            let mut argv = tenants::add_tenant(world.options(), &site);
            if site.index == 0 {
                argv.extend(limits.iter().map(|limit| format!("--limit={limit}")));
            }
            world.ok("server", &argv.iter().map(String::as_str).collect::<Vec<_>>())?;
            tenants::add_services(&world, &site)?;
            reachable(&world, &site.host(), SERVER_INNER_V4, Duration::from_secs(30))?;
        }
        let first = world.options().site(0);
        let pace = check(&world, &first)?;
        // It lives on, too.
        let served = eventually("the tenant itself serves again", Duration::from_secs(30), || {
            page(&world, &first.host(), &url("http", SERVER_INNER_V4), &[]).ok()
        })?;
        ensure!(served.trim() == tenants::page(&first), "{served}");
        // Last: a floor that is missed must not hide what else is wrong.
        Ok(pace?)
    };
    explain(&world, set())
}

/// What was measured of one customer.
#[derive(Debug)]
struct Asked {
    n: u64,
    errors: u64,
    p50: f64,
    p99: f64,
    /// The first error, to be read in a failure.
    first: Option<String>,
}

/// Asks both others at once for a while.
fn ask(world: &World) -> Result<Vec<Asked>> {
    let asking: Vec<Running> = (1..3)
        .map(|n| world.spawn(&world.options().site(n).host(), &["python3", "-c", ASK, SERVER_INNER_V4, "80", MEASURE]))
        .collect::<Result<_>>()?;
    asking
        .into_iter()
        .map(|running| {
            let output = running.wait(Duration::from_secs(90))?;
            let said = String::from_utf8_lossy(&output.stdout);
            let said: Value = serde_json::from_str(&said)
                .with_context(|| format!("{said}{}", String::from_utf8_lossy(&output.stderr)))?;
            Ok(Asked {
                n: said["n"].as_u64().context("n")?,
                errors: said["errors"].as_u64().context("errors")?,
                p50: said["p50"].as_f64().context("p50")?,
                p99: said["p99"].as_f64().context("p99")?,
                first: said["first"].as_str().map(str::to_owned),
            })
        })
        .collect()
}

/// Neighbours answered without errors, but later than the floor allows.
#[derive(Debug, thiserror::Error)]
#[error(
    "the answers of neighbours are later than {P50} (p50) or {P99} (p99) times of before; see docs/spec.md P19: {0}"
)]
struct Slow(String);

/// Whether the neighbours answered in time.
type Pace = Result<(), Slow>;

/// A test whose speed floor is missed on some machines, as docs/spec.md says: it is then shown as not held, with the
/// reason, and never as passed. Everything else it says (no error, nobody ended) fails it.
fn may_miss_its_floor(name: &str, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::ignorable_test(name, move || {
        if let Some(reason) = TENANTS.iter().find_map(|need| need.missing()) {
            return Ok(Completion::ignored_with(reason));
        }
        match test() {
            Ok(()) => Ok(Completion::Completed),
            Err(error) => match error.downcast_ref::<Slow>() {
                Some(slow) => Ok(Completion::ignored_with(format!("FLOOR MISSED: {slow}"))),
                None => Err(Failed::from(format!("{error:#}"))),
            },
        }
    })
}

/// Measures before and while `attack` goes on. An error of a neighbour fails at once, a slow answer in the end. With it
/// what the bombs of the last try said.
fn undisturbed(world: &World, attack: &dyn Fn() -> Result<Vec<Running>>) -> Result<(Vec<String>, Pace)> {
    let inits =
        |world: &World| (0..3).map(|n| init_pid(world, &world.options().site(n).tenant())).collect::<Result<Vec<_>>>();
    let (before_all, mut last, mut slow, mut measured) = (inits(world)?, Vec::new(), String::new(), false);
    for _ in 0..TRIES {
        let before = ask(world)?;
        let bombs = attack()?;
        std::thread::sleep(Duration::from_millis(700));
        let during = ask(world)?;
        let said = bombs
            .into_iter()
            .map(|bomb| {
                let output = bomb.wait(Duration::from_secs(90))?;
                ensure!(output.status.success(), "a bomb failed: {}", String::from_utf8_lossy(&output.stderr));
                Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
            })
            .collect::<Result<Vec<_>>>()?;
        ensure!(inits(world)? == before_all, "an init was started again");
        for asked in before.iter().chain(&during) {
            ensure!(asked.errors == 0, "{} errors: {:?}", asked.errors, asked.first);
        }
        // A machine that stood still while it was measured says nothing, unless it is so every time.
        let enough = before.iter().chain(&during).all(|asked| asked.n >= 20);
        measured |= enough;
        let held = before.iter().zip(&during).all(|(b, d)| d.p50 <= P50 * b.p50 && d.p99 <= P99 * b.p99);
        if held && enough {
            return Ok((said, Ok(())));
        }
        last = said;
        slow = format!("before {before:?}; during {during:?}");
    }
    ensure!(measured, "fewer than 20 answers in {MEASURE} s, {TRIES} times: {slow}");
    Ok((last, Err(Slow(slow))))
}

/// Starts a bomb in the tenant.
fn bomb(world: &World, site: &Site, arguments: &[&str]) -> Result<Running> {
    let tenant = site.tenant();
    let argv = [&["tenantd", "exec", &tenant, "--", "python3", "-c", BOMBS][..], arguments].concat();
    world.spawn("server", &argv)
}

/// The number after `word` in what a bomb said.
fn number(said: &str, word: &str) -> Result<u64> {
    let after = said.split_whitespace().skip_while(|w| *w != word).nth(1);
    after.and_then(|n| n.parse().ok()).with_context(|| format!("no {word} in {said:?}"))
}

/// A limit as the kernel holds it, in either version of cgroups: the file of the tenant's group with that name.
fn held(world: &World, site: &Site, files: &str) -> Result<u64> {
    let find = format!("find /sys/fs/cgroup -path '*tenant-{}*' \\( {files} \\) -exec cat {{}} +", site.tenant());
    let text = world.ok("server", &["sh", "-c", &find])?;
    let numbers = text.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    numbers.min().with_context(|| format!("no limit of {} in {text:?}", site.tenant()))
}

fn out_of_memory(world: &World, site: &Site) -> Result<Pace> {
    let limit = held(world, site, "-name memory.limit_in_bytes -o -name memory.max")?;
    ensure!(limit == 64 << 20, "the kernel holds {limit} bytes: no bomb");
    let (said, pace) = undisturbed(world, &|| Ok(vec![bomb(world, site, &["memory", BOMB])?]))?;
    let (kills, most) = (number(&said[0], "killed")?, number(&said[0], "most")?);
    ensure!(kills >= 1 && most < 64 << 10, "was never killed: {said:?}");
    Ok(pace)
}

fn fork_bomb(world: &World, site: &Site) -> Result<Pace> {
    let limit = held(world, site, "-name pids.max")?;
    ensure!(limit == 100, "the kernel holds {limit} processes: no bomb");
    let (said, pace) = undisturbed(world, &|| Ok(vec![bomb(world, site, &["processes", BOMB])?]))?;
    let (refused, most) = (number(&said[0], "refused")?, number(&said[0], "most")?);
    ensure!(refused >= 1 && (20..100).contains(&most), "{said:?}");
    Ok(pace)
}

fn disk_filler(world: &World, site: &Site) -> Result<Pace> {
    let size = sh(world, &site.tenant(), "df -k --output=size /root | tail -n 1")?;
    let size: u64 = size.trim().parse()?;
    ensure!(size <= 48 << 10, "the layer has {size} KiB: no filler");
    let (said, pace) = undisturbed(world, &|| Ok(vec![bomb(world, site, &["disk", BOMB])?]))?;
    ensure!(number(&said[0], "full")? >= 1 && number(&said[0], "most")? <= 48, "{said:?}");
    for other in (1..3).map(|n| world.options().site(n)) {
        sh(world, &other.tenant(), "head -c 20000000 /dev/zero >/root/room; sync /root/room; rm /root/room")?;
    }
    Ok(pace)
}

/// From inside, and towards the tenant from its own site.
fn packet_flood(world: &World, site: &Site) -> Result<Pace> {
    let host = site.host();
    let (said, inside) = undisturbed(world, &|| Ok(vec![bomb(world, site, &["packets", BOMB, HOST_INNER_V4])?]))?;
    ensure!(number(&said[0], "sent")? > 10_000, "no flood from inside: {said:?}");
    let outside = || Ok(vec![world.spawn(&host, &["python3", "-c", BOMBS, "packets", BOMB, SERVER_INNER_V4])?]);
    let (said, pace) = undisturbed(world, &outside)?;
    ensure!(number(&said[0], "sent")? > 10_000, "no flood from the site: {said:?}");
    Ok(inside.and(pace))
}

/// 40 Mbit/s towards the tenant, 25 from it, TCP and UDP, measured by iperf3 from the site through the tunnel; another
/// tenant has all there is.
fn bandwidth() -> Result<()> {
    let world = world("rates", Options { sites: 2, kinds: vec![Kind::Ipip, Kind::Gre], ..Options::default() })?;
    explain(&world, rates(&world))
}

fn rates(world: &World) -> Result<()> {
    for site in world.options().sites() {
        let mut argv = tenants::add_tenant(world.options(), &site);
        if site.index == 0 {
            argv.extend(["--limit=rate_in=40M", "--limit=rate_out=25M"].map(String::from));
        }
        world.ok("server", &argv.iter().map(String::as_str).collect::<Vec<_>>())?;
        let tenant = site.tenant();
        world.ok(
            "server",
            &["tenantd", "add-service", &tenant, "iperf", "--ready", "tcp:5201", "--", "/usr/bin/iperf3", "-s"],
        )?;
        reachable(world, &site.host(), SERVER_INNER_V4, Duration::from_secs(30))?;
    }
    let first = world.options().site(0);
    for (way, bound) in [("in", 40.0), ("out", 25.0)] {
        for kind in ["tcp", "udp"] {
            let mut tried = Vec::new();
            // Less than the bound may be the machine's fault. More is ours, but for once: what waited in a socket while
            // its reader was not let run is counted when it is read. What is not held is more every time.
            for _ in 0..5 {
                let got = iperf(world, &first, way, kind)?;
                tried.push(got);
                let more = tried.iter().filter(|got| **got > bound * 1.1).count();
                ensure!(more < 2, "{kind} {way}: {tried:.1?} Mbit/s of {bound}");
                if (bound * 0.9..=bound * 1.1).contains(&got) {
                    break;
                }
            }
            println!("{kind} {way}: {tried:.1?} Mbit/s of {bound}");
            let held = tried.last().is_some_and(|got| (bound * 0.9..=bound * 1.1).contains(got));
            ensure!(held, "{kind} {way}: {tried:.1?} Mbit/s of {bound}");
        }
    }
    let mut free = 0.0_f64;
    for _ in 0..3 {
        free = free.max(iperf(world, &world.options().site(1), "in", "tcp")?);
        if free > 200.0 {
            break;
        }
    }
    ensure!(free > 200.0, "the other tenant has {free:.1} Mbit/s only");
    Ok(())
}

/// Mbit/s of payload that arrived.
fn iperf(world: &World, site: &Site, way: &str, kind: &str) -> Result<f64> {
    let mut argv = vec!["timeout", "60", "iperf3", "-J", "-c", SERVER_INNER_V4, "-t", "3"];
    if way == "out" {
        argv.push("-R");
    }
    if kind == "udp" {
        argv.extend(["-u", "-b", "80M", "-l", "1400"]);
    } else {
        // What the bucket holds at first is no rate.
        argv.extend(["-O", "1"]);
    }
    let mut last = Ok(String::new());
    // The server takes one at a time, and may not have heard yet that the one before has ended.
    let _ = eventually("the server is free", Duration::from_secs(30), || {
        last = world.ok(&site.host(), &argv);
        let busy = last.as_ref().err().is_some_and(|error| format!("{error:#}").contains("busy running a test"));
        (!busy).then_some(())
    });
    let said: Value = serde_json::from_str(&last?)?;
    let bits = said["end"]["sum_received"]["bits_per_second"].as_f64().context("no sum_received")?;
    Ok(bits / 1e6)
}
