//! What lies about and belongs to no tenant. Rows, ports, tags, tunnels and guard rows are `verify`'s to find: its answer
//! is used, nothing is walked a second time. Sockets, cgroups and files are compared by name.

use std::collections::BTreeSet;

use super::facts::Trace;
use super::{Change, Facts, Finding, Severity};
use crate::model::DaemonStatus;
use crate::verify::Verification;

/// What the running daemon says.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its tenants, asked for after the facts were read: a tenant made in between is known.
    pub tenants: BTreeSet<String>,
    /// Its status.
    pub status: DaemonStatus,
    /// What `verify` found.
    pub verified: Verification,
}

const WHY: &str = "what belongs to nobody takes memory and numbers, and may carry a name that the next tenant gets";
const AWAY: &str = "not known: the daemon does not answer, and only it knows its tenants";

pub(super) fn check(facts: &Facts, known: Option<&Known>) -> Vec<Finding> {
    let Some(known) = known else {
        let daemon = match facts.daemon {
            Some(pid) => format!("process {pid} runs, but does not answer"),
            None => "does not run".to_owned(),
        };
        let severity = if facts.daemon.is_some() { Severity::Warning } else { Severity::Note };
        let daemon = Finding::new("daemon", daemon, "answers", "some checks need it; tenants live on without it");
        let unknown = |name: &str| Finding::new(name, AWAY, "none", WHY).is(Severity::Note);
        return vec![
            daemon.is(severity).mend(format!("tenantd run --instance {}", facts.place.instance)),
            unknown("half-done"),
            unknown("access-server"),
            unknown("leftovers"),
            unknown("disagreements"),
        ];
    };
    let why = "some checks need it; tenants live on without it";
    let mut findings = vec![Finding::new("daemon", format!("version {}", known.status.version), "answers", why)];
    findings.push(half_done(known));
    findings.push(access(known));
    findings.push(leftovers(facts, known));
    findings.push(disagreements(known));
    findings
}

fn half_done(known: &Known) -> Finding {
    let names = known.status.half_done.join(", ");
    let found = if names.is_empty() { "none".to_owned() } else { names };
    let finding = Finding::new("half-done", found, "none", "these tenants are not as asked for; each says why");
    if known.status.half_done.is_empty() { finding } else { finding.is(Severity::Warning).mend("tenantd status NAME") }
}

fn access(known: &Known) -> Finding {
    let why = "without it no tunnel is added, changed or taken away; those there are go on";
    let away = known.status.trunks.iter().filter(|trunk| trunk.access != "connected");
    let away: Vec<String> = away.map(|trunk| format!("of trunk {}: {}", trunk.name, trunk.access)).collect();
    let found = if away.is_empty() { known.status.access.clone() } else { away.join("; ") };
    let finding = Finding::new("access-server", found.clone(), "connected", why);
    if found == "connected" {
        return finding;
    }
    finding
        .is(Severity::Warning)
        .mend("access-server run --wan DEV --local ADDR, or --access unix:///PATH of tenantd run")
}

fn leftovers(facts: &Facts, known: &Known) -> Finding {
    let (mut found, mut changes, mut told) = (Vec::new(), Vec::new(), false);
    for (name, trace) in facts.traces.iter().filter(|(name, _)| !known.tenants.contains(name)) {
        let (Trace::Files(path) | Trace::Socket(path, _) | Trace::Cgroup(path, _)) = trace;
        // A tenant that was just removed took it along.
        if !path.exists() {
            continue;
        }
        found.push(format!("{} of {name}", path.display()));
        match trace {
            // Where nobody listens and nobody runs there is nothing that anybody could miss.
            Trace::Socket(path, false) => changes.push(Change::RemoveSocket { path: path.clone() }),
            Trace::Cgroup(path, false) => changes.push(Change::RemoveCgroup { path: path.clone() }),
            Trace::Files(_) | Trace::Socket(..) | Trace::Cgroup(..) => told = true,
        }
    }
    for one in known.verified.checks.iter().flat_map(|check| &check.disagree).filter(|one| one.tenants.is_empty()) {
        found.push(one.to_string());
        told = true;
    }
    let words = if found.is_empty() { "none".to_owned() } else { found.join("; ") };
    let finding = Finding::new("leftovers", words, "none", WHY);
    if found.is_empty() {
        return finding;
    }
    let by_hand = "what may be somebody's data or processes is left to you: look, then remove; rows of nobody go when the daemon starts";
    let mend = match (changes.is_empty(), told) {
        (false, false) => "tenantd doctor --fix".to_owned(),
        (false, true) => format!("tenantd doctor --fix for what is empty; {by_hand}"),
        (true, _) => by_hand.to_owned(),
    };
    finding.is(Severity::Warning).mend(mend).fix(changes)
}

fn disagreements(known: &Known) -> Finding {
    let all = known.verified.checks.iter().flat_map(|check| &check.disagree);
    let words: Vec<String> = all.filter(|one| !one.tenants.is_empty()).map(ToString::to_string).collect();
    let found = if words.is_empty() { "none".to_owned() } else { words.join("; ") };
    let why = "tables and kernel must say the same of every process, socket, port, tag, tunnel and guard row";
    let finding = Finding::new("disagreements", found, "none", why);
    if words.is_empty() { finding } else { finding.is(Severity::Warning).mend("tenantd verify shows each side") }
}
