//! Many tenants on one trunk: what is done for one costs the same whether there are ten or thousands, the daemon holds
//! little for each, and a daemon that was killed finds them all again without touching one.
//!
//! The short form has 400 tenants, the full one (`FULL=1`) as many as a trunk takes. All of them have a tunnel, as customers do.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use system_tests::api::Api;
use system_tests::plan::{Kind, Options, SERVER_INNER_V4};
use system_tests::tenants;
use system_tests::traffic::{Pinging, reachable};
use system_tests::world::{World, eventually};

use crate::floor::{TENANTS, explain, trial, world};
use crate::kill9;

/// VLANs of a trunk (IEEE 802.1Q: 12 bits, without 0 and 4095).
const VLANS: usize = 4094;
/// Times are compared over this many.
const SAMPLE: usize = 50;
/// What something may cost among all of them, of what it costs among a few.
const GROWTH: f64 = 1.5;
/// Descriptors the daemon may hold for a tenant.
const DESCRIPTORS: f64 = 3.0;
/// Bytes of metrics a tenant may have.
const SCRAPED: usize = 2500;
/// Processor time in which the daemon may find a tenant again, milliseconds.
const ADOPTION: f64 = 0.75;
/// And of all of them, ms.
const ADOPTION_AT_MOST: f64 = 3000.0;
/// Private memory and kernel memory of a tenant without a service, all in all, KiB.
const MEMORY: i64 = 1024;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("scale::the_last_tenant_costs_what_the_first_did", TENANTS, || {
        let world = world("scale", Options { sites: 2, kinds: vec![Kind::Ipip], ..Options::default() })?;
        explain(&world, check(&world))
    })]
}

fn full() -> bool {
    std::env::var_os("FULL").is_some_and(|full| full == "1")
}

/// How many tenants beside those of the two sites.
fn many() -> usize {
    if full() { VLANS - 2 } else { 400 }
}

/// A tenant of a customer: an address all of them have, a tunnel nobody else has.
pub(crate) fn request(n: usize) -> Value {
    let tunnel = format!("ipip:100.64.{}.{}", n >> 8, n & 255);
    json!({ "name": name(n), "addresses": ["192.168.1.1/24"], "tunnels": [tunnel] })
}

pub(crate) fn name(n: usize) -> String {
    format!("many-{n}")
}

/// The daemon's process as the kernel tells it.
pub(crate) struct Process<'a> {
    world: &'a World,
    pub(crate) pid: u32,
}

impl<'a> Process<'a> {
    pub(crate) fn tenantd(world: &'a World) -> Result<Self> {
        let pid = eventually("tenantd runs", Duration::from_secs(10), || kill9::pid(world, "tenantd").ok().flatten())?;
        Ok(Self { world, pid })
    }

    fn entries(&self, directory: &str) -> Result<usize> {
        Ok(fs::read_dir(self.world.path(&format!("/proc/{}/{directory}", self.pid)))?.count())
    }

    pub(crate) fn descriptors(&self) -> Result<usize> {
        self.entries("fd")
    }

    pub(crate) fn threads(&self) -> Result<usize> {
        self.entries("task")
    }

    /// Resident memory in KiB.
    pub(crate) fn resident(&self) -> Result<i64> {
        let text = fs::read_to_string(self.world.path(&format!("/proc/{}/status", self.pid)))?;
        number(&text, "VmRSS:")
    }

    /// Processor time in milliseconds, of the kernel and its own.
    pub(crate) fn processor(&self) -> Result<f64> {
        let text = fs::read_to_string(self.world.path(&format!("/proc/{}/stat", self.pid)))?;
        let fields = text.rsplit(") ").next().context("no stat")?;
        let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
        // USER_HZ is 100 on every architecture that Debian has.
        Ok(ticks * 10.0)
    }
}

/// A line `KEY VALUE kB`.
fn number(text: &str, key: &str) -> Result<i64> {
    let line = text.lines().find(|line| line.starts_with(key)).with_context(|| format!("no {key}"))?;
    Ok(line.split_whitespace().nth(1).context("no value")?.parse()?)
}

/// Memory of the machine that could be used, KiB.
fn available() -> Result<i64> {
    number(&fs::read_to_string("/proc/meminfo")?, "MemAvailable:")
}

pub(crate) fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What the machine does beside only ever adds: of what is held against each other the quick fifth is taken.
fn undisturbed(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 5).copied().unwrap_or(f64::NAN)
}

/// A machine that others use too is slow for a while: what costs too much is measured again this often.
const LOOKS: usize = 4;

/// What it costs to show, ask for, change, and change back each of these, milliseconds.
#[derive(Debug)]
struct Cost {
    show: f64,
    status: f64,
    change: f64,
    trace: f64,
}

impl Cost {
    /// The least of both, each.
    fn least(&self, other: &Self) -> Self {
        Self {
            show: self.show.min(other.show),
            status: self.status.min(other.status),
            change: self.change.min(other.change),
            trace: self.trace.min(other.trace),
        }
    }
}

/// What costs more among all than it may.
fn grown(first: f64, few: &Cost, last: f64, all: &Cost) -> Vec<String> {
    let mut grown = Vec::new();
    if last > GROWTH * first {
        grown.push(format!("add-tenant grows: {first:.2} ms, then {last:.2} ms"));
    }
    for (verb, few, all) in [
        ("show", few.show, all.show),
        ("status", few.status, all.status),
        ("change", few.change, all.change),
        ("trace", few.trace, all.trace),
    ] {
        // What takes a tenth of a millisecond is the machine's noise.
        if all > GROWTH * few.max(0.3) {
            grown.push(format!("{verb} grows: {few:.2} ms, then {all:.2} ms"));
        }
    }
    grown
}

fn cost(api: &mut Api, tenants: impl Iterator<Item = usize> + Clone) -> Result<Cost> {
    let mut times: [Vec<f64>; 4] = Default::default();
    for n in tenants {
        let path = format!("/v1/tenants/{}", name(n));
        times[0].push(api.timed("GET", &path, None)?.1);
        times[1].push(api.timed("GET", &format!("{path}/status"), None)?.1);
        for address in ["192.168.1.2/24", "192.168.1.1/24"] {
            let body = json!([address]);
            times[2].push(api.timed("PUT", &format!("{path}/addresses"), Some(&body))?.1);
        }
        times[3].push(api.timed("GET", &format!("{path}/trace?from=192.168.1.9&to=192.168.1.1:80"), None)?.1);
    }
    let [show, status, change, trace] = times.map(|times| undisturbed(&times));
    Ok(Cost { show, status, change, trace })
}

/// Removes and adds again each of these.
fn again(api: &mut Api, tenants: impl Iterator<Item = usize>) -> Result<(f64, f64)> {
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    for n in tenants {
        removed.push(api.timed("DELETE", &format!("/v1/tenants/{}?force=true", name(n)), None)?.1);
        added.push(api.timed("POST", "/v1/tenants", Some(&request(n)))?.1);
    }
    Ok((undisturbed(&removed), undisturbed(&added)))
}

/// What must be the same before and after a restart of the daemon.
fn identities(api: &mut Api, tenants: impl Iterator<Item = usize>) -> Result<Vec<Value>> {
    let identity = |n| {
        let status = api.ask("GET", &format!("/v1/tenants/{}/status", name(n)), None)?;
        ensure!(status["state"] == "ready" && status["init_pid"].is_u64(), "{status}");
        Ok(json!([status["init_pid"], status["netns"], status["mtu"]]))
    };
    tenants.map(identity).collect()
}

fn check(world: &World) -> Result<()> {
    let (many, mut api) = (many(), Api::of(world));
    let sites: Vec<_> = world.options().sites().collect();
    for site in &sites {
        tenants::add(world, site)?;
        reachable(world, &site.host(), SERVER_INNER_V4, Duration::from_secs(30))?;
    }
    let daemon = Process::tenantd(world)?;
    // What comes with the first tenants only (threads, buffers) is there with them.
    let mut times = Vec::with_capacity(many);
    let mut add = |api: &mut Api, n| -> Result<()> {
        times.push(api.timed("POST", "/v1/tenants", Some(&request(n)))?.1);
        Ok(())
    };
    for n in 0..10 {
        add(&mut api, n)?;
    }
    let few = cost(&mut api, (0..10).cycle().take(SAMPLE))?;
    let (descriptors, threads, memory) = (daemon.descriptors()?, daemon.threads()?, available()?);
    let started = Instant::now();
    for n in 10..many {
        add(&mut api, n)?;
    }
    let rate = (many - 10) as f64 / started.elapsed().as_secs_f64();
    let each = (memory - available()?) / (many as i64 - 10);
    let held = (daemon.descriptors()? as f64 - descriptors as f64) / (many as f64 - 10.0);
    let (first, mut last) = (undisturbed(&times[10..10 + SAMPLE]), undisturbed(&times[many - SAMPLE..]));
    let mut all = cost(&mut api, (0..SAMPLE).map(|n| n * (many / SAMPLE)))?;
    println!(
        "{many} tenants: {rate:.0} a second; add {first:.2} ms among 10, {last:.2} ms among all; among 10 {few:.2?}, \
         among all {all:.2?} (ms); {each} KiB of the machine, {held:.2} descriptors each; {} KiB resident, {} threads",
        daemon.resident()?,
        daemon.threads()?
    );
    for _ in 0..LOOKS {
        let slow = grown(first, &few, last, &all);
        if slow.is_empty() {
            break;
        }
        println!("once more: {slow:?}");
        std::thread::sleep(Duration::from_secs(2));
        last = last.min(again(&mut api, (0..SAMPLE).map(|n| n * (many / SAMPLE)))?.1);
        all = all.least(&cost(&mut api, (0..SAMPLE).map(|n| n * (many / SAMPLE)))?);
    }
    let slow = !grown(first, &few, last, &all).is_empty();
    ensure!(held <= DESCRIPTORS, "{held:.2} descriptors a tenant");
    ensure!(daemon.threads()? <= threads + 4, "{threads} threads, then {}", daemon.threads()?);
    ensure!(each <= MEMORY, "a tenant takes {each} KiB of the machine");
    scraped(world, many)?;
    if full() {
        one_by_one(&mut api, many)?;
    }
    // The loading of programs and tables is there with one tenant too.
    let most = (ADOPTION * many as f64 + 500.0).min(ADOPTION_AT_MOST);
    let mut processor: Vec<f64> = Vec::new();
    // Time that a machine takes away from its guests counts as used by whoever was about to run.
    while processor.len() < LOOKS && processor.last().is_none_or(|used| *used > most) {
        processor.push(restart(world, &mut api, many)?);
    }
    let held = processor.last().is_some_and(|used| *used <= most);
    ensure!(held, "{processor:.0?} ms of processor time for {many} tenants");
    let (first_again, few_again) = remove(world, &mut api, many)?;
    if slow {
        // The machine itself may have become slower meanwhile: then so has what is done among few.
        let still = grown(first.max(first_again), &few, last, &all);
        let still_again = grown(first.max(first_again), &few_again, last, &all);
        ensure!(still.is_empty() || still_again.is_empty(), "{still:?}; against few measured last: {still_again:?}");
    }
    Ok(())
}

/// The metrics of all of them, as curl fetches them from the daemon that holds them.
fn scraped(world: &World, many: usize) -> Result<()> {
    let fetch = ["curl", "-sfo", "/dev/null", "-w", "%{time_total} %{size_download}", "--unix-socket"];
    let fetch = [&fetch[..], &["/run/tenantd/main/api.sock", "http://tenantd/metrics"]].concat();
    let mut seconds: Vec<f64> = Vec::new();
    while seconds.len() < LOOKS && seconds.last().is_none_or(|took| *took >= 1.0) {
        // An answer is given again for a second.
        std::thread::sleep(Duration::from_millis(1100));
        let said = world.ok("server", &fetch)?;
        let (took, bytes) = said.trim().split_once(' ').context("curl says nothing")?;
        let bytes: usize = bytes.parse()?;
        ensure!(bytes > 100 * many && bytes < SCRAPED * many + (64 << 10), "{bytes} bytes for {many} tenants");
        println!("metrics of {many} tenants: {took} s, {bytes} bytes");
        seconds.push(took.parse()?);
    }
    ensure!(seconds.last().is_some_and(|took| *took < 1.0), "a scrape takes {seconds:?} s");
    Ok(())
}

/// Every tenant is changed, and changed back; one more has no VLAN left.
fn one_by_one(api: &mut Api, many: usize) -> Result<()> {
    for n in 0..many {
        let path = format!("/v1/tenants/{}", name(n));
        for address in ["192.168.1.2/24", "192.168.1.1/24"] {
            api.ask("PUT", &format!("{path}/addresses"), Some(&json!([address])))?;
        }
        let status = api.ask("GET", &format!("{path}/status"), None)?;
        ensure!(status["state"] == "ready", "{status}");
    }
    let refused = api.ask("POST", "/v1/tenants", Some(&request(many))).err().context("one too many was added")?;
    ensure!(refused.to_string().contains("vlan") && refused.to_string().contains("are taken"), "{refused:#}");
    Ok(())
}

/// Killed and started again while a stream passes: everybody is found, nobody is touched.
///
/// Returns the milliseconds of processor time that the daemon used.
fn restart(world: &World, api: &mut Api, many: usize) -> Result<f64> {
    let site = world.options().sites().next().context("no site")?;
    let before = identities(api, 0..many)?;
    let old = Process::tenantd(world)?;
    // Whatever changes a device, an address or a route is heard here, in the room and in every stack that it leads to.
    let room = format!("--net=/run/tenantd/{}/patchroom", system_tests::daemons::INSTANCE);
    let monitor = ["nsenter", &room, "ip", "monitor", "link", "address", "route", "all-nsid"];
    // What was changed before is told up to a second late by the kernel (the state of a link).
    std::thread::sleep(Duration::from_secs(3));
    let heard = world.spawn("server", &monitor)?;
    let seconds = 8 + many as u32 / 250;
    let ping = Pinging::start(world, &site.host(), SERVER_INNER_V4, seconds * 100)?;
    std::thread::sleep(Duration::from_millis(500));
    world.ok("server", &["kill", "-9", &old.pid.to_string()])?;
    let started = Instant::now();
    let daemon = eventually("another tenantd runs", Duration::from_secs(30), || {
        Process::tenantd(world).ok().filter(|new| new.pid != old.pid)
    })?;
    let waiting = |api: &mut Api| api.ask("GET", "/v1/status", None).ok()?["waiting"].as_u64();
    let answers = eventually("it answers", Duration::from_secs(60), || waiting(api).map(|_| started.elapsed()))?;
    eventually("it has found them all", Duration::from_secs(60), || waiting(api).filter(|n| *n == 0).map(drop))?;
    let (took, processor) = (started.elapsed(), daemon.processor()?);
    let each = processor / many as f64;
    println!(
        "restart with {many}: answers after {:.2} s, has found all after {:.2} s, {processor:.0} ms of processor time \
         ({each:.2} ms each), {} KiB resident, {} descriptors, {} threads",
        answers.as_secs_f64(),
        took.as_secs_f64(),
        daemon.resident()?,
        daemon.descriptors()?,
        daemon.threads()?
    );
    ensure!(identities(api, 0..many)? == before, "an init or a stack is another one than before");
    ping.all_answered()?;
    let heard = heard.interrupt()?;
    ensure!(heard.stdout.is_empty(), "touched: {}", String::from_utf8_lossy(&heard.stdout));
    hears_a_stack(world, api, &monitor)?;
    let half = api.ask("GET", "/v1/status", None)?;
    ensure!(half["half_done"] == json!([]), "{half}");
    Ok(processor)
}

/// What listened would have heard it: a stack that is changed on purpose.
fn hears_a_stack(world: &World, api: &mut Api, monitor: &[&str]) -> Result<()> {
    let file = "/run/lab/heard-of-a-stack";
    let line = format!("exec {} >{file}", monitor.join(" "));
    let _heard = world.spawn("server", &["sh", "-c", &line])?;
    let path = format!("/v1/tenants/{}/addresses", name(0));
    let before = api.ask("GET", &format!("/v1/tenants/{}", name(0)), None)?["addresses"].clone();
    // Again until it is heard: who listens begins in its own time.
    let mut said = String::new();
    let heard = eventually("a change of an address in a stack is heard", Duration::from_secs(30), || {
        api.ask("PUT", &path, Some(&json!(["192.168.77.1/24"]))).ok()?;
        api.ask("PUT", &path, Some(&before)).ok()?;
        std::thread::sleep(Duration::from_millis(100));
        said = fs::read_to_string(world.path(file)).unwrap_or_default();
        said.contains("192.168.77.1").then_some(())
    });
    // As it was, however it ended.
    api.ask("PUT", &path, Some(&before))?;
    heard.context(said)
}

/// Returns what it costs to add, and all else, among few after that.
fn remove(world: &World, api: &mut Api, many: usize) -> Result<(f64, Cost)> {
    let daemon = Process::tenantd(world)?;
    let mut among_all = again(api, (0..SAMPLE).map(|n| n * (many / SAMPLE)))?;
    // There is no way back to all of them: a moment in which the machine is slow must not be the only one.
    for _ in 1..LOOKS {
        let next = again(api, (0..SAMPLE).map(|n| n * (many / SAMPLE)))?;
        among_all = (among_all.0.min(next.0), among_all.1.min(next.1));
    }
    let started = Instant::now();
    for n in 10..many {
        api.ask("DELETE", &format!("/v1/tenants/{}?force=true", name(n)), None)?;
    }
    let rate = (many - 10) as f64 / started.elapsed().as_secs_f64();
    let among_few = again(api, (0..10).cycle().take(SAMPLE))?;
    println!(
        "removed {rate:.0} a second; remove and add again: {:.2} and {:.2} ms among all, {:.2} and {:.2} ms among 10; {} \
         descriptors",
        among_all.0,
        among_all.1,
        among_few.0,
        among_few.1,
        daemon.descriptors()?
    );
    ensure!(among_all.0 <= GROWTH * among_few.0, "remove-tenant grows: {among_few:?}, then {among_all:?}");
    let few = cost(api, (0..10).cycle().take(SAMPLE))?;
    for n in 0..10 {
        api.ask("DELETE", &format!("/v1/tenants/{}?force=true", name(n)), None)?;
    }
    Ok((among_few.1, few))
}
