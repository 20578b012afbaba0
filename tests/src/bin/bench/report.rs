//! The table on standard output and the JSON file.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::add_tenant::Times;
use crate::floors::Floor;
use crate::programs::Cost;
use crate::results::{Measure, Results};
use crate::rows::{Part, Row};
use crate::sample;

/// Everything a run found out.
pub(crate) struct Report<'a> {
    /// The rows.
    pub(crate) rows: &'a [Row],
    /// Their rounds.
    pub(crate) results: &'a Results,
    /// Nanoseconds of the programs.
    pub(crate) programs: &'a [Cost],
    /// `add-tenant`.
    pub(crate) times: &'a Times,
}

/// What a part besides the data path found out.
pub(crate) struct Section {
    /// Lines for people; the first is the headline.
    pub(crate) lines: Vec<String>,
    /// Its name and value in the JSON file.
    pub(crate) json: (&'static str, Value),
    /// Its floors.
    pub(crate) floors: Vec<Floor>,
}

impl Report<'_> {
    /// The limit a row is compared with.
    fn limit(row: &Row) -> &'static str {
        if row.part == Part::Lan { "lan-raw" } else { "raw" }
    }

    fn cell(&self, row: &Row, measure: Measure, digits: usize) -> String {
        let value = self.results.median(row.name, measure);
        if value.is_nan() {
            return "-".into();
        }
        format!("{value:.digits$} ({:.2})", self.results.ratio(row.name, Self::limit(row), measure))
    }

    fn part(&self, part: Part, title: &str) {
        println!("\n{title}");
        println!(
            "{:12} {:>14} {:>14} {:>14} {:>14} {:>14} {:>14} {:>13} {:>13} {:>11} {:>11}",
            "",
            "TCP1 up",
            "TCP1 down",
            "TCP4 up",
            "TCP4 down",
            "UDP64 up",
            "UDP64 down",
            "ping p50",
            "p99",
            "CPU/pkt",
            "lost"
        );
        // The limit belongs to the ladder too: it is what the rungs stand on.
        let wanted = |row: &&Row| row.part == part || (part == Part::Ladder && matches!(row.name, "raw" | "ipip"));
        for row in self.rows.iter().filter(wanted) {
            let cell = |measure, digits| self.cell(row, measure, digits);
            let of = |measure| self.results.median(row.name, measure);
            println!(
                "{:12} {:>14} {:>14} {:>14} {:>14} {:>14} {:>14} {:>13} {:>13} {:>11} {:>11}",
                row.name,
                cell(Measure::TcpUp, 1),
                cell(Measure::TcpDown, 1),
                cell(Measure::Tcp4Up, 1),
                cell(Measure::Tcp4Down, 1),
                cell(Measure::SmallUp, 0),
                cell(Measure::SmallDown, 0),
                cell(Measure::PingP50, 1),
                cell(Measure::PingP99, 1),
                format!("{:.1}/{:.1} us", of(Measure::CpuUp), of(Measure::CpuDown)),
                format!("{:.1}/{:.1} %", of(Measure::LostUp) * 100.0, of(Measure::LostDown) * 100.0),
            );
        }
    }

    /// What a rung costs more than another: microseconds a small packet up, down, and a round trip.
    fn step(&self, what: &str, row: &str, than: &str) {
        let each = |measure| 1e3 / self.results.median(row, measure) - 1e3 / self.results.median(than, measure);
        let trip = self.results.median(row, Measure::PingP50) - self.results.median(than, Measure::PingP50);
        println!("{what:56} {:+6.2} us {:+6.2} us {trip:+6.2} us", each(Measure::SmallUp), each(Measure::SmallDown));
    }

    /// The table.
    pub(crate) fn print(&self) {
        self.part(
            Part::Main,
            "Client in the gateway, gateway wired to the server; Gbit/s, kpps, us; in brackets: of the limit (raw)",
        );
        self.part(Part::Lan, "Host behind the gateway's LAN: one more veth in every row; in brackets: of lan-raw");
        self.part(Part::Ladder, "Ladder");
        println!("\n{:56} {:>9} {:>9} {:>9}", "What a hop costs", "pkt up", "pkt down", "ping-pong");
        self.step("tunnel put on and taken off (bare IPIP)", "encap", "raw");
        self.step("one more veth by redirect_peer (the trunk)", "peer-hop", "raw");
        self.step("one more veth by plain redirect (the port)", "plain-hop", "raw");
        self.step("all of the product's path, bare programs", "bare", "raw");
        self.step("tags, tables, checks, counters: ours over bare", "ipip", "bare");
        println!("\nBPF programs, ns a small packet");
        for cost in self.programs {
            println!("{:56} {:>6.0}", cost.place, cost.ns);
        }
        println!("\nadd-tenant, from the command to the answered probe, ms      p50      p99      max   n");
        for (what, times) in
            [("tenantd add-tenant", &self.times.ours), ("shell script, ip -batch", &self.times.by_hand)]
        {
            let at = |percent| sample::percentile(times, percent);
            println!("{what:56} {:>6.1} {:>8.1} {:>8.1} {:>3}", at(50.0), at(99.0), at(100.0), times.len());
        }
        println!("  {}", self.times.line);
        println!("\nRows");
        for row in self.rows {
            println!("{:12} {}", row.name, row.what);
        }
        println!(
            "\nThe product against the by-hand way, client in the gateway (not a floor: there the by-hand way has no LAN)"
        );
        for row in ["ipip", "gre", "vxlan"] {
            let of = |measure| self.results.ratio(row, "by-hand", measure);
            println!(
                "{row:12} TCP1 {:.2} {:.2}, UDP64 {:.2} {:.2}, ping-pong {:.2}",
                of(Measure::TcpUp),
                of(Measure::TcpDown),
                of(Measure::SmallUp),
                of(Measure::SmallDown),
                of(Measure::PingP50)
            );
        }
    }

    /// Its part of the JSON file.
    pub(crate) fn json(&self) -> Vec<(&'static str, Value)> {
        let rows: serde_json::Map<String, Value> =
            self.rows.iter().map(|row| (row.name.into(), self.row(row))).collect();
        let programs: serde_json::Map<String, Value> =
            self.programs.iter().map(|cost| (cost.place.clone(), json!(cost.ns))).collect();
        vec![
            ("rows", Value::Object(rows)),
            ("bpf_ns_a_packet", Value::Object(programs)),
            ("add_tenant_ms", json!({"ours": times(&self.times.ours), "by_hand": times(&self.times.by_hand)})),
        ]
    }

    fn row(&self, row: &Row) -> Value {
        let mut fields = serde_json::Map::new();
        fields.insert("what".into(), json!(row.what));
        for measure in Measure::ALL {
            let rounds = self.results.rounds(row.name, measure);
            if !rounds.is_empty() {
                fields.insert(
                    measure.name().into(),
                    json!({
                        "median": sample::median(rounds),
                        "of_limit": self.results.ratio(row.name, Self::limit(row), measure),
                        "spread": sample::spread(rounds),
                        "rounds": rounds,
                    }),
                );
            }
        }
        Value::Object(fields)
    }
}

/// How a list of times is written.
pub(crate) fn times(times: &[f64]) -> Value {
    let at = |percent| sample::percentile(times, percent);
    json!({"n": times.len(), "p50": at(50.0), "p99": at(99.0), "max": at(100.0), "all": times})
}

/// A line of a table of times.
pub(crate) fn times_line(what: &str, times: &[f64]) -> String {
    let at = |percent| sample::percentile(times, percent);
    format!("{what:56} {:>8.2} {:>8.2} {:>8.2} {:>4}", at(50.0), at(99.0), at(100.0), times.len())
}

/// Prints all floors; true when they hold.
pub(crate) fn floors(floors: &[Floor]) -> bool {
    println!("\nFloors");
    for floor in floors {
        println!("{}", floor.line());
    }
    floors.iter().all(Floor::holds)
}

/// Writes the file; returns where it is.
pub(crate) fn write(dir: &Path, found: Vec<(&'static str, Value)>, floors: &[Floor]) -> Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let floors: Vec<Value> =
        floors.iter().map(|f| json!({"what": f.what, "value": f.value, "holds": f.holds()})).collect();
    let mut all = json!({
        "seconds": seconds,
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "processors": crate::cpu::allowed().len(),
        "floors": floors,
    });
    for (name, value) in found {
        all[name] = value;
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join(format!("bench-{seconds}.json"));
    let text = serde_json::to_string_pretty(&all)?;
    fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
