//! One tenant that stands: the start of a process in it, its web server against one behind a raw veth pair, and what the
//! guard costs its sockets.
//!
//! The measurements run inside a world (`bench __one`, started by `lab exec`), in rounds that take turns.

mod process;
mod sockets;
mod web;

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::floors::{Bound, Floor};
use crate::report::Section;
use crate::whole::site::{Ours, SERVER};
use crate::{rows, sample};
pub(crate) use process::alone;
pub(crate) use sockets::child as sockets;

/// What was measured, round by round; ours and what it is held against.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct One {
    /// Microseconds from the request to init until the program is executed.
    start: [Vec<f64>; 2],
    /// Microseconds of a request on a connection that stays.
    latency: [Vec<f64>; 2],
    /// Requests a second over connections that stay.
    kept: [Vec<f64>; 2],
    /// Requests a second, each over a connection of its own.
    fresh: [Vec<f64>; 2],
    /// Nanoseconds of each job of [`sockets::JOBS`], with and without the guard.
    sockets: Vec<[Vec<f64>; 2]>,
}

/// Runs all of it.
pub(crate) fn measure(smoke: bool) -> Result<Section> {
    let world = rows::wired("benchone")?;
    let own = std::env::current_exe().context("cannot find the own program")?;
    let rounds = if smoke { "1" } else { "9" };
    let said = world.ok("server", &[&own.to_string_lossy(), "__one", rounds])?;
    let mut one: One = serde_json::from_str(said.trim()).with_context(|| format!("bench __one said {said:?}"))?;
    // From outside the world: all of it is within the guard's reach.
    let guarded = sockets::Guarded::find(&world, "whole-0")?;
    one.sockets = vec![Default::default(); sockets::JOBS.len()];
    for round in 0..if smoke { 1 } else { 9 } {
        for (number, times) in one.sockets.iter_mut().enumerate() {
            for side in [round % 2, (round + 1) % 2] {
                times[side].push(guarded.measure(number, side == 0)?);
            }
        }
    }
    Ok(one.section())
}

/// Inside the world: prints [`One`] as JSON.
pub(crate) fn inside(rounds: usize) -> Result<()> {
    let duration = Duration::from_millis(if rounds == 1 { 60 } else { 300 });
    let mut alone = process::Alone::start()?;
    let raw = web::Raw::start()?;
    let mut ours = Ours::new()?;
    ours.tenant(0)?;
    let init = process::Init::connect("whole-0")?;
    let site = web::Place::here(SERVER)?;
    let mut one = One::default();
    for round in 0..rounds {
        for side in [round % 2, (round + 1) % 2] {
            let at = if side == 0 { &site } else { &raw.place };
            one.latency[side].push(at.latency(duration)?);
            one.kept[side].push(at.kept(duration)?);
            one.fresh[side].push(at.fresh(duration)?);
            for _ in 0..if rounds == 1 { 3 } else { 20 } {
                let took = if side == 0 { init.start()? } else { alone.process()? };
                one.start[side].push(took);
            }
        }
    }
    println!("{}", serde_json::to_string(&one)?);
    Ok(())
}

impl One {
    fn section(self) -> Section {
        let mut lines = vec![format!("{:56} {:>10} {:>10} {:>7}", "One tenant, medians", "ours", "held to", "ratio")];
        let mut line = |what: &str, [ours, to]: &[Vec<f64>; 2], ratio: f64| {
            lines.push(format!("{what:56} {:>10.1} {:>10.1} {ratio:>7.2}", sample::median(ours), sample::median(to)));
        };
        let medians = |[ours, to]: &[Vec<f64>; 2]| sample::median(ours) / sample::median(to);
        let rounds = |[ours, to]: &[Vec<f64>; 2]| sample::ratio(ours, to);
        line("request to init until exec, against fork and exec, us", &self.start, medians(&self.start));
        line("nginx, a request, against a raw veth pair, us", &self.latency, rounds(&self.latency));
        line("nginx, requests/s, kept connections", &self.kept, rounds(&self.kept));
        line("nginx, requests/s, new connections", &self.fresh, rounds(&self.fresh));
        // What else the machine does only ever adds: the least of the rounds is the cost.
        let least = |times: &[f64]| sample::percentile(times, 0.0);
        for (job, times) in sockets::JOBS.iter().zip(&self.sockets) {
            let best = [vec![least(&times[0])], vec![least(&times[1])]];
            line(&format!("{job}, with and without the guard, ns (least)"), &best, medians(&best));
        }
        let floor = |what: &str, value, bound| Floor { what: what.into(), value, bound };
        let mut floors = vec![
            floor("start of a process, of fork and exec", medians(&self.start), Bound::AtMost(2.0)),
            floor("nginx, latency, raw / tenant", 1.0 / rounds(&self.latency), Bound::AtLeast(0.9)),
            floor("nginx, requests/s kept, tenant / raw", rounds(&self.kept), Bound::AtLeast(0.9)),
            floor("nginx, requests/s new, tenant / raw", rounds(&self.fresh), Bound::AtLeast(0.9)),
        ];
        for (job, [with, without]) in sockets::JOBS.iter().zip(&self.sockets) {
            let (with, without) = (least(with), least(without));
            let allowed = if job.contains("socket") { (without * 0.1).max(500.0) } else { without * 0.05 };
            let what = format!("guard, {job}, more ns");
            floors.push(Floor { what, value: with - without, bound: Bound::AtMost(allowed) });
        }
        Section { lines, json: ("one_tenant", json!(self)), floors }
    }
}
