//! What the daemon tells Prometheus: every metric is one entry of `ENTRIES`, from which both the answer and
//! docs/metrics.md are made. Everything is read from the maps when it is asked for. Text format: OpenMetrics 1.0
//! (docs/decisions/0017).

use std::fmt::{self, Write as _};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use crate::table::{Attached, Fill, VlanCounters};

/// Media type of [`text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is told.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Counters by VLAN; 0 is what belongs to none.
    pub counters: Vec<VlanCounters>,
    /// Each VLAN with the number of its tunnels.
    pub tunnels: Vec<(u16, u64)>,
    /// How full the tables are.
    pub fill: Vec<Fill>,
    /// Programs and devices they belong on, by name of the device.
    pub attached: Vec<(String, Attached)>,
}

type Sink<'a> = dyn FnMut(&[&str], u64) + 'a;

struct Entry {
    /// Without `_total`.
    name: &'static str,
    counter: bool,
    labels: &'static [&'static str],
    series: &'static str,
    help: &'static str,
    read: fn(&Snapshot, &mut Sink<'_>),
}

/// All metrics, in the order of the answer. V: VLANs with a row.
const ENTRIES: &[Entry] = &[
    Entry {
        name: "access_server_vlan_bytes",
        counter: true,
        labels: &["vlan", "direction"],
        series: "2 V",
        help: "Bytes of inner packets; in: out of the VLAN's tunnels onto the trunk, out: from the trunk into them",
        read: |s, sink| {
            for row in s.counters.iter().filter(|row| row.vlan != 0) {
                sink(&[&row.vlan.to_string(), "in"], row.rx_bytes);
                sink(&[&row.vlan.to_string(), "out"], row.tx_bytes);
            }
        },
    },
    Entry {
        name: "access_server_vlan_packets",
        counter: true,
        labels: &["vlan", "direction"],
        series: "2 V",
        help: "Inner packets; a super-packet counts as its segments",
        read: |s, sink| {
            for row in s.counters.iter().filter(|row| row.vlan != 0) {
                sink(&[&row.vlan.to_string(), "in"], row.rx_packets);
                sink(&[&row.vlan.to_string(), "out"], row.tx_packets);
            }
        },
    },
    Entry {
        name: "access_server_vlan_drops",
        counter: true,
        labels: &["vlan", "reason"],
        series: "only reasons that happened; at most 41 (V + 1)",
        help: "Packets dropped, by reason (docs/drops.md, without access_); VLAN 0: could be blamed on none",
        read: |s, sink| {
            for row in &s.counters {
                row.drops.iter().for_each(|(reason, count)| sink(&[&row.vlan.to_string(), reason], *count));
            }
        },
    },
    Entry {
        name: "access_server_vlan_tunnels",
        counter: false,
        labels: &["vlan"],
        series: "V",
        help: "Tunnels of the VLAN: sites of the closed network",
        read: |s, sink| s.tunnels.iter().for_each(|(vlan, tunnels)| sink(&[&vlan.to_string()], *tunnels)),
    },
    Entry {
        name: "access_server_table_rows",
        counter: false,
        labels: &["table"],
        series: "5",
        help: "Entries in the tables: vlans, tunnels, prefixes, paths, drops",
        read: |s, sink| s.fill.iter().for_each(|fill| sink(&[fill.table], fill.used)),
    },
    Entry {
        name: "access_server_table_capacity_rows",
        counter: false,
        labels: &["table"],
        series: "5",
        help: "Entries for which the tables have place",
        read: |s, sink| s.fill.iter().for_each(|fill| sink(&[fill.table], fill.capacity)),
    },
    Entry {
        name: "access_server_program_attached",
        counter: false,
        labels: &["device", "program"],
        series: "WAN devices + 2",
        help: "1 where the program is on its device; 0: packets pass by it",
        read: |s, sink| {
            for (device, there) in &s.attached {
                sink(&[device, there.program], u64::from(there.attached));
            }
        },
    },
    Entry {
        name: "access_server_build_info",
        counter: false,
        labels: &["version"],
        series: "1",
        help: "1; the version that runs",
        read: |_, sink| sink(&[env!("CARGO_PKG_VERSION")], 1),
    },
];

/// The part of docs/metrics.md about this daemon: a table.
#[must_use]
pub fn document() -> String {
    let mut text = String::from("| metric | type | labels | series | what |\n|---|---|---|---|---|\n");
    for entry in ENTRIES {
        let (ending, kind) = if entry.counter { ("_total", "counter") } else { ("", "gauge") };
        let labels: Vec<String> = entry.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, labels) = (entry.name, labels.join(", "));
        let _ = writeln!(text, "| `{name}{ending}` | {kind} | {labels} | {} | {} |", entry.series, entry.help);
    }
    text
}

/// The whole answer.
///
/// # Errors
/// None that could happen: a text takes everything.
pub fn text(mut snapshot: Snapshot) -> Result<String, fmt::Error> {
    // Every reason of a VLAN is one entry of the map of drops.
    let drops = snapshot.counters.iter().map(|row| row.drops.len() as u64).sum();
    snapshot.fill.push(Fill { table: "drops", used: drops, capacity: crate::datapath::DROPS_MAX });
    let mut registry = Registry::default();
    let mut text = String::with_capacity(16 * 1024 + snapshot.counters.len() * 1_000);
    registry.register_collector(Box::new(snapshot));
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for entry in ENTRIES {
            let kind = if entry.counter { MetricType::Counter } else { MetricType::Gauge };
            let mut out = encoder.encode_descriptor(entry.name, entry.help, None, kind)?;
            let mut done = Ok(());
            (entry.read)(self, &mut |values, value| {
                done = done.and_then(|()| sample(&mut out, entry, values, value));
            });
            done?;
        }
        Ok(())
    }
}

fn sample(out: &mut MetricEncoder<'_>, entry: &Entry, values: &[&str], value: u64) -> Result<(), fmt::Error> {
    let labels: Vec<(&str, &str)> = entry.labels.iter().copied().zip(values.iter().copied()).collect();
    let mut out = out.encode_family(&labels)?;
    match entry.counter {
        true => out.encode_counter(&value, None::<&Exemplar<[(&str, &str); 0], f64>>),
        false => out.encode_gauge(&value),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::{Duration, Instant};

    use super::*;

    fn full() -> Snapshot {
        let counters = |vlan| VlanCounters {
            vlan,
            rx_packets: 1 << 40,
            rx_bytes: 1 << 50,
            drops: [("no_site", 1), ("inner_source", 2)].map(|(reason, n)| (reason.to_owned(), n)).into(),
            ..VlanCounters::default()
        };
        Snapshot {
            counters: (0..=4094).map(counters).collect(),
            tunnels: (1..=4094).map(|vlan| (vlan, 2)).collect(),
            fill: vec![Fill { table: "tunnels", used: 8188, capacity: 16_384 }],
            attached: vec![("wan0".into(), Attached { ifindex: 2, program: "wan_ingress", attached: true })],
        }
    }

    #[test]
    fn every_metric_is_told_and_4094_vlans_take_no_time() {
        // The best of a few: the machine may stand still in one.
        let tries = (0..5).map(|_| {
            let (full, started) = (full(), Instant::now());
            let text = text(full).unwrap();
            (started.elapsed(), text)
        });
        let (took, text) = tries.min_by_key(|(took, _)| *took).unwrap();
        for entry in ENTRIES {
            let ending = if entry.counter { "_total{" } else { "{" };
            assert!(text.contains(&format!("\n{}{ending}", entry.name)), "{} is missing", entry.name);
        }
        assert!(
            text.contains("access_server_vlan_drops_total{vlan=\"600\",reason=\"no_site\"} 1\n"),
            "{}",
            &text[..2000]
        );
        assert!(text.contains("access_server_table_rows{table=\"drops\"} 8190\n"));
        assert!(took < Duration::from_millis(500), "{took:?}");
    }
}
