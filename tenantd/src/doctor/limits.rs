//! The kernel's limits beside what a number of tenants needs of them.
//!
//! A need is a base and a number a tenant. The numbers are what the programs use (namespaces, descriptors), or a rule of
//! thumb where tenants decide (processes); which it is, is said.

use super::{Change, Facts, Finding, Severity};

/// Descriptors that the daemon holds for each tenant: its init, its API's socket, and one to spare.
pub const FILES_A_TENANT: u64 = 3;

/// A sysctl that must be at least so great.
struct Need {
    /// Name of the check.
    name: &'static str,
    /// Path below `/proc/sys`.
    key: &'static str,
    /// Whatever the number of tenants.
    base: u64,
    /// For each tenant.
    each: u64,
    /// Why.
    why: &'static str,
}

const NAMESPACES: &str =
    "each tenant is a set of namespaces, made by the host's root; the kernel counts them for each user";

const NEEDS: &[Need] = &[
    Need {
        name: "file-max",
        key: "fs/file-max",
        base: 8192,
        each: 64,
        why: "open files of the whole machine: descriptors of the daemon, of each init and of what it runs (64 a tenant, a rule of thumb)",
    },
    Need {
        name: "pid-max",
        key: "kernel/pid_max",
        base: 1024,
        each: 8,
        why: "process ids of the whole machine: init and services with their threads (8 a tenant, a rule of thumb)",
    },
    Need {
        name: "threads-max",
        key: "kernel/threads-max",
        base: 1024,
        each: 8,
        why: "threads of the whole machine: init and services (8 a tenant, a rule of thumb)",
    },
    Need { name: "net-namespaces", key: "user/max_net_namespaces", base: 64, each: 1, why: NAMESPACES },
    Need { name: "mnt-namespaces", key: "user/max_mnt_namespaces", base: 64, each: 2, why: NAMESPACES },
    Need { name: "pid-namespaces", key: "user/max_pid_namespaces", base: 64, each: 1, why: NAMESPACES },
    Need { name: "cgroup-namespaces", key: "user/max_cgroup_namespaces", base: 64, each: 1, why: NAMESPACES },
    Need {
        name: "user-namespaces",
        key: "user/max_user_namespaces",
        base: 64,
        each: 0,
        why: "each tenant has one, counted for an id of its own",
    },
    Need {
        name: "ipc-namespaces",
        key: "user/max_ipc_namespaces",
        base: 64,
        each: 0,
        why: "each tenant has one, counted for an id of its own",
    },
    Need {
        name: "uts-namespaces",
        key: "user/max_uts_namespaces",
        base: 64,
        each: 0,
        why: "each tenant has one, counted for an id of its own",
    },
    Need {
        name: "inotify-instances",
        key: "fs/inotify/max_user_instances",
        base: 128,
        each: 0,
        why: "what a tenant's services watch files with; each tenant has this number for itself",
    },
    Need {
        name: "inotify-watches",
        key: "fs/inotify/max_user_watches",
        base: 8192,
        each: 0,
        why: "what a tenant's services watch files with; each tenant has this number for itself",
    },
    Need {
        name: "neighbours-v4",
        key: "net/ipv4/neigh/default/gc_thresh3",
        base: 1024,
        each: 2,
        why: "the kernel has one neighbour table for all stacks: when it is full no tenant reaches a new neighbour",
    },
    Need {
        name: "neighbours-v6",
        key: "net/ipv6/neigh/default/gc_thresh3",
        base: 1024,
        each: 2,
        why: "the kernel has one neighbour table for all stacks: when it is full no tenant reaches a new neighbour",
    },
    Need {
        name: "backlog",
        key: "net/core/netdev_max_backlog",
        base: 1000,
        each: 2,
        why: "packets that wait for one processor on their way into all stacks: what is beyond is dropped (2 a tenant, a rule of thumb)",
    },
];

/// Sysctls that are read for these checks.
pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    const LESSER: [&str; 5] = [
        "fs/nr_open",
        "net/ipv4/neigh/default/gc_thresh1",
        "net/ipv4/neigh/default/gc_thresh2",
        "net/ipv6/neigh/default/gc_thresh1",
        "net/ipv6/neigh/default/gc_thresh2",
    ];
    NEEDS.iter().map(|need| need.key).chain(LESSER)
}

/// What this kernel holds of what `tenants` need.
pub(super) fn check(facts: &Facts, tenants: u64) -> Vec<Finding> {
    let mut findings = vec![open_files(facts, tenants)];
    findings.extend(NEEDS.iter().map(|need| limit(facts, need, tenants)));
    findings.push(memory(facts, tenants));
    findings
}

fn limit(facts: &Facts, need: &Need, tenants: u64) -> Finding {
    let needed = need.base.saturating_add(need.each.saturating_mul(tenants));
    let words = match need.each {
        0 => format!("{needed}"),
        each => format!("{needed} for {tenants} tenants ({} and {each} a tenant)", need.base),
    };
    let Some(found) = facts.sysctl(need.key) else {
        // Sysctls of the whole machine below net/ are shown in its first network namespace only.
        let why = if need.key.starts_with("net/") { ": look from the machine's first network namespace" } else { "" };
        let none = format!("{} is not there{why}", need.key.replace('/', "."));
        return Finding::new(need.name, none, words, need.why).is(Severity::Note);
    };
    let finding = Finding::new(need.name, format!("{} is {found}", need.key.replace('/', ".")), words, need.why);
    if found >= needed {
        return finding;
    }
    // With none there is no tenant at all; with too few there are fewer.
    let severity = if found == 0 { Severity::Error } else { Severity::Warning };
    let changes = changes(facts, need.key, found, needed);
    let commands: Vec<String> = changes.iter().filter_map(Change::command).collect();
    finding.is(severity).mend(commands.join("; ")).fix(changes)
}

/// A greater neighbour table is swept later, too: the kernel's three thresholds keep their distances.
fn changes(facts: &Facts, key: &str, found: u64, needed: u64) -> Vec<Change> {
    let set = |key: &str, from: u64, to: u64| Change::Sysctl { key: key.to_owned(), from, to };
    let mut changes = Vec::new();
    if let Some(front) = key.strip_suffix("gc_thresh3") {
        for (lesser, share) in [("gc_thresh2", 2), ("gc_thresh1", 8)] {
            let lesser = format!("{front}{lesser}");
            let now = facts.sysctl(&lesser).unwrap_or(0);
            if now < needed / share {
                changes.push(set(&lesser, now, needed / share));
            }
        }
        // From the greatest down, or for a moment there would be no room between two.
        changes.insert(0, set(key, found, needed));
    } else {
        changes.push(set(key, found, needed));
    }
    changes
}

fn open_files(facts: &Facts, tenants: u64) -> Finding {
    let needed = 256 + FILES_A_TENANT * tenants;
    let whose = if facts.daemon.is_some() { "the daemon's" } else { "this shell's" };
    let why = "the daemon holds descriptors of each tenant's init and sockets";
    let words = format!("{needed} for {tenants} tenants (256 and {FILES_A_TENANT} a tenant)");
    let Some(found) = facts.files else {
        return Finding::new("open-files", "not known", words, why).is(Severity::Note);
    };
    let finding = Finding::new("open-files", format!("{whose} hard limit is {found}"), words, why);
    if found >= needed {
        return finding;
    }
    let system = facts.sysctl("fs/nr_open").filter(|most| *most < needed);
    let first = system.map(|_| format!("sysctl -w fs.nr_open={needed}; ")).unwrap_or_default();
    finding.is(Severity::Warning).mend(format!(
        "{first}LimitNOFILE={needed} in the daemon's unit (systemctl edit tenantd), or ulimit -Hn {needed} before it is started by hand"
    ))
}

/// Kernel memory of a bare stack and of an init without services, as measured; what services take is theirs.
const MEMORY_A_TENANT: u64 = 1024 * 1024;

fn memory(facts: &Facts, tenants: u64) -> Finding {
    let living = facts.traces.iter().filter(|(_, trace)| matches!(trace, super::facts::Trace::Socket(_, true))).count();
    let more = tenants.saturating_sub(living as u64);
    let needed = more * MEMORY_A_TENANT;
    let mib = |bytes: u64| format!("{} MiB", bytes / 1024 / 1024);
    let words = format!("{} for {more} more tenants without services (1 MiB each)", mib(needed));
    let why = "a stack, its init and its cgroups take memory before any service does";
    let Some(found) = facts.memory else {
        return Finding::new("memory", "not known", words, why).is(Severity::Note);
    };
    let finding = Finding::new("memory", format!("{} can be had", mib(found)), words, why);
    if found >= needed {
        return finding;
    }
    finding.is(Severity::Warning).mend("more memory, or fewer tenants on this machine")
}
