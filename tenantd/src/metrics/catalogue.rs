//! Every metric: its name, kind, labels, words, number of series, and where its values are in a `Snapshot`. The
//! document docs/metrics.md is made from this list ([`document`]).

use std::fmt::Write as _;

use super::roster::{Measured, Snapshot};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Goes up, and begins again at 0 with what it counts. Its samples end in `_total`.
    Counter,
    /// Times in seconds by class. Its samples end in `_bucket`, `_sum`, `_count`.
    Histogram,
}

impl Kind {
    /// As the text format names it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Name without the endings of its kind; the unit is its last word.
    pub name: &'static str,
    /// Kind.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
    /// How many series it has: N tenants.
    pub series: &'static str,
}

/// A sample's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    Whole(u64),
    Real(f64),
}

/// Takes the values of the labels and the sample.
pub(crate) type Sink<'a> = dyn FnMut(&[&str], Value) + 'a;

/// Where the samples of a metric come from.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    /// Each tenant; the first label is its name, which the encoder writes.
    Tenant(fn(&Measured, &mut Sink<'_>)),
    /// The daemon.
    Daemon(fn(&Snapshot, &mut Sink<'_>)),
    /// Counted as it happens ([`super::Live`]).
    Live,
}

/// A metric with its source.
pub(crate) struct Entry {
    pub(crate) metric: Metric,
    pub(crate) source: Source,
}

const fn tenant(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    texts: (&'static str, &'static str),
    read: fn(&Measured, &mut Sink<'_>),
) -> Entry {
    let (series, help) = texts;
    Entry { metric: Metric { name, kind, labels, help, series }, source: Source::Tenant(read) }
}

const fn daemon(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    texts: (&'static str, &'static str),
    read: fn(&Snapshot, &mut Sink<'_>),
) -> Entry {
    let (series, help) = texts;
    Entry { metric: Metric { name, kind, labels, help, series }, source: Source::Daemon(read) }
}

const fn live(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    texts: (&'static str, &'static str),
) -> Entry {
    let (series, help) = texts;
    Entry { metric: Metric { name, kind, labels, help, series }, source: Source::Live }
}

use Kind::{Counter, Gauge, Histogram};
use Value::{Real, Whole};

fn flag(value: bool) -> Value {
    Whole(u64::from(value))
}

/// Nothing where nobody counts it.
fn some(value: Option<u64>, sink: &mut Sink<'_>) {
    if let Some(value) = value {
        sink(&[], Whole(value));
    }
}

const OF_TENANT: &[&str] = &["tenant"];

/// All metrics, in the order of the answer.
pub(crate) const ENTRIES: &[Entry] = &[
    tenant(
        "tenantd_tenant_info",
        Gauge,
        &["tenant", "vlan", "stack", "gid", "trunk"],
        (
            "N",
            "1; ties a tenant to its VLAN (as at the access server), stack, first group id, and trunk (empty: the first one)",
        ),
        |t, sink| {
            let vlan = t.enlisted.at.map(|at| at.vlan.to_string()).unwrap_or_default();
            let trunk = t.enlisted.trunk.as_deref().unwrap_or_default();
            sink(&[&vlan, &t.enlisted.stack, &t.enlisted.gid.to_string(), trunk], Whole(1));
        },
    ),
    tenant(
        "tenantd_tenant_up",
        Gauge,
        OF_TENANT,
        ("N", "1 while the tenant has an init that holds its stack"),
        |t, sink| {
            sink(&[], flag(t.enlisted.seat.is_some()));
        },
    ),
    tenant(
        "tenantd_tenant_half_done",
        Gauge,
        OF_TENANT,
        ("N", "1 while a step of the tenant fails; tenantd status NAME says which and why"),
        |t, sink| sink(&[], flag(t.enlisted.half_done)),
    ),
    tenant(
        "tenantd_tenant_bytes",
        Counter,
        &["tenant", "direction"],
        ("2 N", "Bytes through the tenant's port, Ethernet header counted, tag not; in: to the tenant, out: from it"),
        |t, sink| {
            if let Some(port) = &t.port {
                sink(&["in"], Whole(port.rx_bytes));
                sink(&["out"], Whole(port.tx_bytes));
            }
        },
    ),
    tenant(
        "tenantd_tenant_packets",
        Counter,
        &["tenant", "direction"],
        ("2 N", "Frames through the tenant's port; a super-packet that is not cut yet counts as one"),
        |t, sink| {
            if let Some(port) = &t.port {
                sink(&["in"], Whole(port.rx_packets));
                sink(&["out"], Whole(port.tx_packets));
            }
        },
    ),
    tenant(
        "tenantd_tenant_drops",
        Counter,
        &["tenant", "reason"],
        (
            "only reasons that happened; at most 29 N",
            "Frames dropped at the tenant's port, by reason (docs/drops.md, without port_); those of its tunnels are at \
             the access server",
        ),
        |t, sink| {
            for (reason, count) in t.port.iter().flat_map(|port| &port.drops) {
                sink(&[reason.name()], Whole(*count));
            }
        },
    ),
    tenant(
        "tenantd_tenant_listening_ports",
        Gauge,
        &["tenant", "protocol"],
        (
            "2 N",
            "Ports of the stack on which TCP listens, or to which a UDP socket is bound; as old as \
             tenantd_ports_age_seconds",
        ),
        |t, sink| {
            if let Some(ports) = t.ports {
                sink(&["tcp"], Whole(ports.tcp));
                sink(&["udp"], Whole(ports.udp));
            }
        },
    ),
    tenant("tenantd_tenant_processes", Gauge, OF_TENANT, ("N", "Processes and threads of the tenant"), |t, sink| {
        some(t.spent.processes, sink)
    }),
    tenant(
        "tenantd_tenant_memory_bytes",
        Gauge,
        OF_TENANT,
        (
            "N",
            "Memory of the tenant: processes, page cache, kernel memory; what its limit is compared with. Without a limit, on cgroup version 1, what its processes hold alone",
        ),
        |t, sink| some(t.spent.memory, sink),
    ),
    tenant(
        "tenantd_tenant_cpu_seconds",
        Counter,
        OF_TENANT,
        ("N", "Processor time of the tenant's processes"),
        |t, sink| {
            if let Some(us) = t.spent.cpu_us {
                sink(&[], Real(us as f64 / 1e6));
            }
        },
    ),
    tenant(
        "tenantd_tenant_oom_kills",
        Counter,
        OF_TENANT,
        ("N", "Processes of the tenant that were killed because its memory was used up"),
        |t, sink| some(t.spent.oom_kills, sink),
    ),
    tenant(
        "tenantd_tenant_init_restarts",
        Counter,
        OF_TENANT,
        ("N", "How often this daemon started the tenant's init again"),
        |t, sink| sink(&[], Whole(t.enlisted.init_restarts)),
    ),
    tenant(
        "tenantd_tenant_service_restarts",
        Counter,
        &["tenant", "service"],
        (
            "services of all tenants",
            "How often init started the service again, as it said at the last pass (every 30 s)",
        ),
        |t, sink| {
            for (service, restarts) in &t.enlisted.service_restarts {
                sink(&[service], Whole(*restarts));
            }
        },
    ),
    tenant(
        "tenantd_tenant_connections",
        Gauge,
        OF_TENANT,
        ("N", "TCP connections of the stack, as the guard counts them"),
        |t, sink| some(t.guard.as_ref().map(|guard| guard.connections), sink),
    ),
    tenant(
        "tenantd_tenant_guard_refusals",
        Counter,
        &["tenant", "reason"],
        (
            "only reasons that happened; at most 7 N",
            "What the guard refused the tenant's processes, and strangers that wanted its stack (stack-guard's README)",
        ),
        |t, sink| {
            for (refusal, count) in t.guard.iter().flat_map(|guard| &guard.refusals) {
                sink(&[refusal.name()], Whole(*count));
            }
        },
    ),
    daemon("tenantd_tenants", Gauge, &["state"], ("3", "Tenants by state: ready, half_done, removing"), |s, sink| {
        let count = |is: fn(&Measured) -> bool| Whole(s.tenants.iter().filter(|t| is(t)).count() as u64);
        sink(&["ready"], count(|t| !t.enlisted.removing && !t.enlisted.half_done));
        sink(&["half_done"], count(|t| !t.enlisted.removing && t.enlisted.half_done));
        sink(&["removing"], count(|t| t.enlisted.removing));
    }),
    daemon(
        "tenantd_queue_length",
        Gauge,
        &["queue"],
        ("3", "Commands that wait for the owner (operators, tenants) and tenants that wait for a pass (passes)"),
        |s, sink| {
            sink(&["operators"], Whole(s.operators as u64));
            sink(&["tenants"], Whole(s.asked_by_tenants as u64));
            sink(&["passes"], Whole(s.turns as u64));
        },
    ),
    live(
        "tenantd_pass_seconds",
        Histogram,
        &["result"],
        ("2 x 14", "Passes: one tenant read, compared and brought to what is desired; result ok or failed"),
    ),
    live(
        "tenantd_repairs",
        Counter,
        &["step"],
        ("at most 25", "Steps taken in passes that nobody had asked for: something was not as desired"),
    ),
    live(
        "tenantd_failures",
        Counter,
        &["step"],
        ("at most 25", "Passes that failed, by the step that did; each tenant that is half done tries again"),
    ),
    live("tenantd_store_seconds", Histogram, &["operation"], ("2 x 13", "Durable writes to the store: put, remove")),
    daemon(
        "tenantd_table_rows",
        Gauge,
        &["table"],
        ("5", "Rows in the tables of data path and guard: ports, answers, trunks, stacks, cgroups"),
        |s, sink| s.tables.iter().for_each(|(table, (rows, _))| sink(&[table], Whole(*rows))),
    ),
    daemon(
        "tenantd_table_capacity_rows",
        Gauge,
        &["table"],
        ("5", "Rows for which the tables have place"),
        |s, sink| s.tables.iter().for_each(|(table, (_, places))| sink(&[table], Whole(*places))),
    ),
    daemon(
        "tenantd_trunk_drops",
        Counter,
        &["reason"],
        (
            "only reasons that happened; at most 29",
            "Frames on the trunk that were of no port, by reason (docs/drops.md)",
        ),
        |s, sink| s.trunk_drops.iter().for_each(|(reason, count)| sink(&[reason], Whole(*count))),
    ),
    daemon(
        "tenantd_access_connected",
        Gauge,
        &[],
        ("1", "1 while the access server of every trunk answers"),
        |s, sink| sink(&[], flag(s.access_connected)),
    ),
    daemon("tenantd_build_info", Gauge, &["version"], ("1", "1; the version that runs"), |_, sink| {
        sink(&[env!("CARGO_PKG_VERSION")], Whole(1));
    }),
    daemon(
        "tenantd_roster_age_seconds",
        Gauge,
        &[],
        ("1", "How old names and states are: 0 but while the owner is busy for longer than a scrape waits"),
        |s, sink| sink(&[], Real(s.roster_age)),
    ),
    daemon(
        "tenantd_ports_age_seconds",
        Gauge,
        &[],
        ("1", "How old the oldest number of listening ports is; absent before the first look is over"),
        |s, sink| {
            if let Some(age) = s.ports_age {
                sink(&[], Real(age));
            }
        },
    ),
    daemon(
        "tenantd_scrape_seconds",
        Gauge,
        &[],
        ("1", "How long reading the kernel for this answer took"),
        |s, sink| sink(&[], Real(s.took)),
    ),
    daemon(
        "tenantd_scrape_failed",
        Gauge,
        &["part"],
        ("3", "1 where a part of this answer is missing because it could not be read: ports, guard, owner"),
        |s, sink| ["ports", "guard", "owner"].iter().for_each(|part| sink(&[part], flag(s.failed.contains(part)))),
    ),
    daemon("process_cpu_seconds", Counter, &[], ("1", "Processor time of the daemon"), |s, sink| {
        sink(&[], Real(s.process.cpu_seconds));
    }),
    daemon("process_resident_memory_bytes", Gauge, &[], ("1", "Resident memory of the daemon"), |s, sink| {
        sink(&[], Whole(s.process.resident_bytes));
    }),
    daemon("process_open_fds", Gauge, &[], ("1", "Descriptors that the daemon has open"), |s, sink| {
        sink(&[], Whole(s.process.open_fds));
    }),
    daemon("process_threads", Gauge, &[], ("1", "Threads of the daemon"), |s, sink| {
        sink(&[], Whole(s.process.threads));
    }),
];

/// The part of docs/metrics.md about this daemon: a table.
#[must_use]
pub fn document() -> String {
    let mut text = String::from("| metric | type | labels | series | what |\n|---|---|---|---|---|\n");
    for Entry { metric: m, .. } in ENTRIES {
        let ending = if m.kind == Counter { "_total" } else { "" };
        let labels: Vec<String> = m.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(
            text,
            "| `{}{ending}` | {} | {} | {} | {} |",
            m.name,
            m.kind.word(),
            labels.join(", "),
            m.series,
            m.help
        );
    }
    text
}
