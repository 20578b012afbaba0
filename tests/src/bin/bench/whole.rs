//! A whole new tenant with a web server: from the request to the first answered GET from its site, against the least
//! that can be done (`floor`), a script by hand and `systemd-nspawn`, one after the other in one world.
//!
//! The loop runs inside the world (`bench __whole`, started by `lab exec`). Our tenants stay until the end, so that the
//! last are made beside all the others, and their memory is measured then; those of the others go at once.

mod floor;
mod memory;
mod netlink;
mod scripts;
pub(crate) mod site;

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use system_tests::world::World;

use crate::floors::{Bound, Floor};
use crate::report::{self, Section};
use crate::{rows, sample};
pub(crate) use floor::serve as floor;
use memory::Memory;

/// Pause after a tenant of the others was removed: the kernel takes its namespaces down in the background.
const SETTLE: Duration = Duration::from_millis(20);

/// Times in milliseconds.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Whole {
    /// `add-tenant` and `add-service` at the API.
    pub(crate) ours: Vec<f64>,
    /// Of these, until `add-tenant` was answered, and then `add-service`.
    pub(crate) answered: (Vec<f64>, Vec<f64>),
    /// Namespaces, veth pair, nginx.
    pub(crate) floor: Vec<f64>,
    /// A shell script.
    pub(crate) by_hand: Vec<f64>,
    /// `systemd-nspawn`; empty where it cannot run.
    pub(crate) nspawn: Vec<f64>,
    /// Milliseconds of each step as the answers of `add-tenant` tell them, median.
    pub(crate) steps: Vec<(String, f64)>,
    /// Why a way was left out.
    pub(crate) left_out: Option<String>,
    /// With all of ours standing.
    pub(crate) memory: Memory,
}

/// Runs `count` of each.
pub(crate) fn measure(count: usize) -> Result<Whole> {
    let world = rows::wired("benchwhole")?;
    let own = std::env::current_exe().context("cannot find the own program")?;
    let said = world.ok("server", &[&own.to_string_lossy(), "__whole", &count.to_string()]);
    let said = said.with_context(|| last_words(&world))?;
    serde_json::from_str(said.trim()).with_context(|| format!("bench __whole said {said:?}"))
}

impl Whole {
    /// Table, values and floors.
    pub(crate) fn section(self) -> Section {
        let line = report::times_line;
        let mut lines = vec![
            format!(
                "{:56} {:>8} {:>8} {:>8} {:>4}",
                "A whole tenant with nginx, to its first answered GET, ms", "p50", "p99", "max", "n"
            ),
            line("floor: clone3, netlink, nginx", &self.floor),
            line("ours: API, stack, port, init, house, guard, nginx", &self.ours),
            line("  until add-tenant is answered", &self.answered.0),
            line("  from then until add-service is answered", &self.answered.1),
            line("script, ip -batch, unshare, nginx", &self.by_hand),
            line("script, ip -batch, systemd-nspawn, nginx", &self.nspawn),
        ];
        lines.extend(self.left_out.clone());
        let steps: Vec<String> = self.steps.iter().map(|(name, ms)| format!("{name} {ms:.2}")).collect();
        lines.push(format!("  add-tenant: {}", steps.join(", ")));
        let Memory { tenants, init_kib, tenant_mib } = self.memory;
        lines.push(format!(
            "Memory (PSS) of {tenants} tenants: {init_kib:.0} KiB an init, {tenant_mib:.2} MiB a tenant with nginx"
        ));
        let (ours, p50) = (&self.ours, sample::median(&self.ours));
        let floor = |what: &str, value, bound| Floor { what: what.into(), value, bound };
        let mut floors = vec![
            floor("whole tenant p50, of the floor program", p50 / sample::median(&self.floor), Bound::AtMost(1.5)),
            floor("whole tenant p50, of the script by hand", p50 / sample::median(&self.by_hand), Bound::AtMost(0.5)),
            floor("whole tenant p99, of its p50", sample::percentile(ours, 99.0) / p50, Bound::AtMost(3.0)),
            floor("whole tenant, longest, ms", sample::percentile(ours, 100.0), Bound::AtMost(500.0)),
            floor("memory of an init, KiB", init_kib, Bound::AtMost(400.0)),
        ];
        if self.left_out.is_none() {
            let value = p50 / sample::median(&self.nspawn);
            floors.insert(2, floor("whole tenant p50, of systemd-nspawn", value, Bound::AtMost(0.125)));
        }
        let json = json!({
            "floor_ms": report::times(&self.floor),
            "ours_ms": report::times(&self.ours),
            "by_hand_ms": report::times(&self.by_hand),
            "nspawn_ms": report::times(&self.nspawn),
            "steps_ms": self.steps,
            "memory": self.memory,
        });
        Section { lines, json: ("whole_tenant", json), floors }
    }
}

fn last_words(world: &World) -> String {
    let log = world.log("tenantd");
    let lines: Vec<&str> = log.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(12)).map(|line| format!("{line}\n")).collect()
}

/// Inside the world: prints [`Whole`] as JSON.
pub(crate) fn inside(count: usize) -> Result<()> {
    let mut whole = Whole::default();
    // First, while there is but one thread.
    let mut least = floor::Floor::start()?;
    let mut scripts = scripts::Scripts::new()?;
    let mut ours = site::Ours::new()?;
    let mut steps: Vec<Vec<(String, f64)>> = Vec::new();
    for n in 0..count {
        // Each way follows each other as often.
        for way in 0..4 {
            match (n + way) % 4 {
                0 => {
                    let made = ours.tenant(n).with_context(|| format!("tenant {n}"))?;
                    whole.ours.push(made.total);
                    whole.answered.0.push(made.tenant);
                    whole.answered.1.push(made.service);
                    steps.push(made.steps);
                }
                1 => whole.floor.push(least.tenant().context("the floor")?),
                2 => whole.by_hand.push(scripts.by_hand(n).context("the script by hand")?),
                _ if whole.left_out.is_some() => {}
                _ => match scripts.nspawn(n) {
                    Ok(took) => whole.nspawn.push(took),
                    Err(why) if n == 0 => whole.left_out = Some(format!("systemd-nspawn: {why:#}")),
                    Err(why) => return Err(why.context("systemd-nspawn")),
                },
            }
            std::thread::sleep(SETTLE);
        }
    }
    let names: Vec<String> = steps.first().into_iter().flatten().map(|(name, _)| name.clone()).collect();
    whole.steps = names.into_iter().map(|name| (name.clone(), middle(&steps, &name))).collect();
    whole.memory = memory::measure(count)?;
    println!("{}", serde_json::to_string(&whole)?);
    Ok(())
}

fn middle(steps: &[Vec<(String, f64)>], name: &str) -> f64 {
    let of = |one: &Vec<(String, f64)>| one.iter().find(|(step, _)| step == name).map(|(_, ms)| *ms);
    sample::median(&steps.iter().filter_map(of).collect::<Vec<f64>>())
}
