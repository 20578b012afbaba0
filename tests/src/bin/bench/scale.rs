//! How costs grow with the number of tenants: the same few questions among 1, 3, 10, ... of them, and the curves as a
//! plot. Also stacks without an init, against the same by hand (`tenantd/examples/bare_stacks.rs`).
//!
//! Every tenant has an address all of them have and tunnels nobody else has; 4,000 have 10,000. What is asked among many is
//! asked of tenants of all ages, one after the other on one connection.

mod bare;
mod plot;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use system_tests::api::Api;
use system_tests::daemons;
use system_tests::world::{World, eventually};

use crate::floors::{Bound, Floor};
use crate::report::Section;
use crate::rows::{self, Row};
use crate::{programs, sample};

/// Numbers of tenants.
const STEPS: [usize; 6] = [1, 3, 10, 100, 1000, 4000];
/// Questions of a sort at each.
const SAMPLE: usize = 50;
/// Until the kernel has taken down what was removed.
const SETTLE: Duration = Duration::from_millis(50);
/// What is measured only once, of the product's programs: those of the gateway are the bench's own.
const GATEWAYS: usize = 1;

/// What was found among so many.
#[derive(Debug, Clone, Default)]
pub(crate) struct Point {
    tenants: usize,
    /// Milliseconds, medians.
    add: f64,
    remove: f64,
    change: f64,
    show: f64,
    status: f64,
    /// Seconds until a daemon that was killed has found all again.
    restart: f64,
    /// Milliseconds of processor time of that.
    processor: f64,
    /// KiB of the machine each; none for few.
    memory: f64,
    /// Nanoseconds that the product's four programs take for a packet and its answer.
    packet: f64,
}

/// Runs all of it; the plot goes to `plot`.
pub(crate) fn measure(smoke: bool, plot: Option<&Path>) -> Result<Section> {
    let bare = bare::measure(smoke)?;
    let world = rows::wired("benchscale")?;
    let row = [rows::ipip(&world)?];
    let (mut api, mut points, mut standing) = (Api::of(&world), Vec::new(), 0);
    let before = available()?;
    for tenants in STEPS.into_iter().filter(|n| !smoke || *n <= 10) {
        // One is the tenant that the packets go to.
        while standing + 1 < tenants {
            standing += 1;
            api.ask("POST", "/v1/tenants", Some(&request(standing)))?;
        }
        let mut point = Point { tenants, ..Point::default() };
        if tenants >= 100 {
            point.memory = (before - available()?) / tenants as f64;
        }
        point.packet = packet(&row, if smoke { 60 } else { 300 })?;
        match standing {
            // Beside the one that stands another comes and goes.
            0 => {
                api.ask("POST", "/v1/tenants", Some(&request(1)))?;
                questions(&mut api, 1, &mut point)?;
                api.ask("DELETE", &path(1), None)?;
            }
            _ => questions(&mut api, standing, &mut point)?,
        }
        restart(&world, &mut api, &mut point)?;
        eprintln!("bench: {point:.2?}");
        points.push(point);
    }
    for n in 1..=standing {
        api.ask("DELETE", &path(n), None)?;
    }
    if let Some(file) = plot {
        fs::write(file, plot::svg(&points)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(section(&points, &bare))
}

fn path(n: usize) -> String {
    format!("/v1/tenants/many-{n}?force=true")
}

fn request(n: usize) -> Value {
    let tunnel = |of: usize| format!("ipip:100.{}.{}.{}", 64 + of, n >> 8, n & 255);
    let tunnels: Vec<String> = (0..2 + n % 2).map(|of| tunnel(of) + &format!(",prefix=10.{of}.0.0/16")).collect();
    json!({ "name": format!("many-{n}"), "addresses": ["192.168.1.1/24"], "tunnels": tunnels })
}

/// Asks tenants of all ages.
fn questions(api: &mut Api, standing: usize, point: &mut Point) -> Result<()> {
    let mut times: [Vec<f64>; 5] = Default::default();
    let sample = || (0..SAMPLE).map(|k| 1 + k * standing / SAMPLE % standing);
    for n in sample() {
        let name = format!("/v1/tenants/many-{n}");
        times[0].push(api.timed("GET", &name, None)?.1);
        times[1].push(api.timed("GET", &format!("{name}/status"), None)?.1);
        for address in ["192.168.1.2/24", "192.168.1.1/24"] {
            times[2].push(api.timed("PUT", &format!("{name}/addresses"), Some(&json!([address])))?.1);
        }
    }
    for n in sample() {
        times[3].push(api.timed("DELETE", &path(n), None)?.1);
        // The kernel goes on taking it down, under the lock that everything about devices needs.
        std::thread::sleep(SETTLE);
        times[4].push(api.timed("POST", "/v1/tenants", Some(&request(n)))?.1);
    }
    let [show, status, change, remove, add] = times.map(|times| sample::median(&times));
    *point = Point { show, status, change, remove, add, ..point.clone() };
    Ok(())
}

/// Kills the daemon and waits until the next one has found everybody again.
fn restart(world: &World, api: &mut Api, point: &mut Point) -> Result<()> {
    let old = daemons::pid(world, "tenantd")?.context("no tenantd runs")?;
    world.ok("server", &["kill", "-9", &old.to_string()])?;
    let started = Instant::now();
    let new = eventually("another tenantd runs", Duration::from_secs(60), || {
        daemons::pid(world, "tenantd").ok().flatten().filter(|new| *new != old)
    })?;
    eventually("all are found", Duration::from_secs(120), || {
        let waiting = api.ask("GET", "/v1/status", None).ok()?["waiting"].as_u64();
        waiting.filter(|n| *n == 0)
    })?;
    point.restart = started.elapsed().as_secs_f64();
    let stat = fs::read_to_string(world.path(&format!("/proc/{new}/stat")))?;
    let fields = stat.rsplit(") ").next().context("no stat")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    // USER_HZ is 100 on every architecture that Debian has.
    point.processor = ticks * 10.0;
    Ok(())
}

fn packet(rows: &[Row], milliseconds: u64) -> Result<f64> {
    let costs = programs::measure(rows, 3, Duration::from_millis(milliseconds))?;
    let ours = costs.len().saturating_sub(GATEWAYS);
    Ok(costs.iter().take(ours).skip(GATEWAYS).map(|cost| cost.ns).sum())
}

/// Memory of the machine that could be used, KiB.
fn available() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:")).context("no MemAvailable")?;
    Ok(line.split_whitespace().nth(1).context("no value")?.parse()?)
}

fn section(points: &[Point], bare: &bare::Bare) -> Section {
    let mut lines = vec![format!(
        "{:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9} {:>8} {:>10}",
        "Tenants", "add ms", "remove", "change", "show", "status", "restart s", "its CPU s", "KiB each", "packet ns"
    )];
    lines.extend(points.iter().map(|p| {
        format!(
            "{:>8} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>9.2} {:>9.2} {:>8.0} {:>10.0}",
            p.tenants,
            p.add,
            p.remove,
            p.change,
            p.show,
            p.status,
            p.restart,
            p.processor / 1e3,
            p.memory,
            p.packet
        )
    }));
    lines.extend(bare.lines());
    let mut floors = bare.floors();
    let at = |tenants| points.iter().find(|p| p.tenants == tenants);
    if let (Some(three), Some(few), Some(all)) = (at(3), at(10), at(4000)) {
        let floor = |what: &str, value, most| Floor { what: what.into(), value, bound: Bound::AtMost(most) };
        floors.extend([
            floor("add-tenant among 4,000, of among 10", all.add / few.add, 1.5),
            floor("remove-tenant among 4,000, of among 10", all.remove / few.remove, 1.5),
            floor("change among 4,000, of among 10", all.change / few.change, 1.5),
            // What takes a tenth of a millisecond is the machine's noise.
            floor("show among 4,000, of among 10", all.show / few.show.max(0.2), 1.5),
            floor("status among 4,000, of among 10", all.status / few.status, 1.5),
            floor("restart among 4,000, processor time, s", all.processor / 1e3, 3.0),
            floor("memory of a tenant without services, KiB", all.memory, 1024.0),
            floor("packet, 4,000 tenants and 10,000 tunnels, of 3", all.packet / three.packet, 1.1),
        ]);
    }
    let json = points.iter().map(|p| {
        json!({
            "tenants": p.tenants, "add_ms": p.add, "remove_ms": p.remove, "change_ms": p.change, "show_ms": p.show,
            "status_ms": p.status, "restart_s": p.restart, "restart_cpu_ms": p.processor, "kib_each": p.memory,
            "packet_ns": p.packet,
        })
    });
    Section { lines, json: ("scale", json!({ "curves": json.collect::<Vec<_>>(), "bare": bare.json() })), floors }
}
