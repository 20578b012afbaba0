//! Kernel, preemption, capabilities, cgroups, BPF, clock.

use std::time::SystemTime;

use super::facts::WRITTEN;
use super::{Change, Facts, Finding, Severity};
use crate::cgroups::Version;

/// Sysctls that are read for these checks.
pub(super) const KEYS: &[&str] = &["net/core/bpf_jit_enable", "net/core/bpf_jit_harden"];

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings =
        vec![kernel(facts), preemption(facts), capabilities(facts), cgroups(facts), bpffs(facts), jit(facts)];
    findings.push(features(facts));
    findings.push(clock(facts));
    findings
}

fn kernel(facts: &Facts) -> Finding {
    let finding = Finding::new(
        "kernel",
        format!("Linux {}", facts.release),
        "6.1 or newer; 6.3 where the address families inside and outside a tunnel differ",
        "the data path is eBPF, and tenants are made of namespaces and mounts of newer kinds",
    );
    let mut numbers = facts.release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) {
        version if version < (6, 1) => finding.is(Severity::Error).mend("install a newer kernel (Debian 12 has 6.1)"),
        version if version < (6, 3) => finding.is(Severity::Note),
        _ => finding,
    }
}

/// The model in force: what debugfs marks, what the command line asks for, or what the kernel was built with.
fn model(facts: &Facts) -> Option<String> {
    let marked = facts.preempt.as_ref().and_then(|line| Some(line.split_once('(')?.1.split_once(')')?.0.to_owned()));
    let asked = || facts.command_line.split(' ').find_map(|word| word.strip_prefix("preempt=")).map(str::to_owned);
    let built = || {
        let config = facts.config.as_ref()?;
        let models = [
            ("CONFIG_PREEMPT_NONE=y", "none"),
            ("CONFIG_PREEMPT_VOLUNTARY=y", "voluntary"),
            ("CONFIG_PREEMPT_LAZY=y", "lazy"),
            ("CONFIG_PREEMPT=y", "full"),
            ("CONFIG_PREEMPT_RT=y", "full"),
        ];
        models.iter().find(|(line, _)| config.lines().any(|found| found == *line)).map(|(_, name)| (*name).to_owned())
    };
    marked.or_else(asked).or_else(built)
}

fn preemption(facts: &Facts) -> Finding {
    let finding = |found: String| {
        Finding::new(
            "preemption",
            found,
            "voluntary, lazy or full",
            "a kernel that does not preempt finishes one tenant's fork, exit or write before others run: up to a tick (4 ms at 250 Hz), whatever their share",
        )
    };
    match model(facts) {
        Some(model) if model == "none" => {
            let mend = if facts.version.contains("PREEMPT_DYNAMIC") {
                "preempt=voluntary (or full) on the kernel's command line; at once: echo voluntary >/sys/kernel/debug/sched/preempt"
            } else {
                "a kernel built with PREEMPT_VOLUNTARY, PREEMPT_LAZY or PREEMPT"
            };
            finding("none".into()).is(Severity::Warning).mend(mend)
        }
        Some(model) => finding(model),
        None => finding("not known: neither debugfs nor the kernel's configuration tell".into()).is(Severity::Note),
    }
}

/// The bits of `linux/capability.h`.
const CAPABILITIES: [(&str, u32); 4] =
    [("CAP_CHOWN", 0), ("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_SYS_ADMIN", 21)];

fn capabilities(facts: &Facts) -> Finding {
    let missing: Vec<&str> =
        CAPABILITIES.iter().filter(|(_, bit)| facts.capabilities & (1 << bit) == 0).map(|(name, _)| *name).collect();
    let found = if missing.is_empty() { "all".to_owned() } else { format!("{} missing", missing.join(", ")) };
    let names: Vec<&str> = CAPABILITIES.iter().map(|(name, _)| *name).collect();
    let why = "the daemon makes namespaces, mounts and devices, loads BPF programs and gives files away";
    let finding = Finding::new("capabilities", found, names.join(", "), why);
    if missing.is_empty() {
        return finding;
    }
    finding.is(Severity::Error).mend("run it as root, outside of a container that takes these away")
}

fn cgroups(facts: &Facts) -> Finding {
    let needed = "a mounted version 2; controllers cpu, memory, pids and io in it or in version 1";
    let why = "limits are kept by them, and version 2 is where the guard is attached";
    let layout = match &facts.cgroups {
        Ok(layout) => layout,
        Err(why_not) => {
            let finding = Finding::new("cgroups", format!("not known: {why_not}"), needed, why);
            return finding.is(Severity::Error).mend("mount -t cgroup2 none /sys/fs/cgroup");
        }
    };
    let has =
        |one: &str, two: &str| layout.with(Version::Two, two).is_some() || layout.with(Version::One, one).is_some();
    let controllers = [("cpu", "cpu"), ("memory", "memory"), ("pids", "pids"), ("blkio", "io")];
    let missing: Vec<&str> = controllers.iter().filter(|(one, two)| !has(one, two)).map(|(_, two)| *two).collect();
    let finding = Finding::new("cgroups", layout.describe(), needed, why);
    if layout.unified().is_none() {
        return finding
            .is(Severity::Error)
            .mend("mount -t cgroup2 none /sys/fs/cgroup/unified (make the directory first)");
    }
    if missing.is_empty() {
        return finding;
    }
    let words = format!("no {} controller: these limits are refused", missing.join(", "));
    finding.is(Severity::Warning).mend(format!("{words}; remove cgroup_disable= from the kernel's command line"))
}

fn bpffs(facts: &Facts) -> Finding {
    let path = facts.place.bpffs.display();
    let needed = format!("a BPF file system at {path}");
    let why = "programs and tables stay there while the daemons are away";
    if facts.bpffs {
        return Finding::new("bpffs", needed.clone(), needed, why);
    }
    let finding = Finding::new("bpffs", format!("none at {path}"), needed, why).is(Severity::Note);
    finding.mend(format!("the daemon mounts it when it starts; by hand: mount -t bpf bpf {path}"))
}

fn jit(facts: &Facts) -> Finding {
    let why = "every packet runs through BPF programs; interpreted they take several times as long, hardened they are slower too";
    let needed = "net.core.bpf_jit_enable 1, net.core.bpf_jit_harden 0 or 1";
    let (enable, harden) = (facts.sysctl("net/core/bpf_jit_enable"), facts.sysctl("net/core/bpf_jit_harden"));
    let word = |value: Option<u64>| value.map_or_else(|| "not there".into(), |value| value.to_string());
    let finding = Finding::new(
        "bpf-jit",
        format!("bpf_jit_enable {}, bpf_jit_harden {}", word(enable), word(harden)),
        needed,
        why,
    );
    match (enable, harden) {
        (Some(0), _) => finding
            .is(Severity::Warning)
            .mend("sysctl -w net.core.bpf_jit_enable=1")
            .fix([Change::Sysctl { key: "net/core/bpf_jit_enable".into(), from: 0, to: 1 }]),
        // A decision about security: told, never changed.
        (_, Some(2)) => finding
            .is(Severity::Note)
            .mend("sysctl -w net.core.bpf_jit_harden=1 hardens for users other than root only"),
        _ => finding,
    }
}

fn features(facts: &Facts) -> Finding {
    let needed =
        "user namespaces, idmapped mounts, overlay with its upper layer in the state directory, system call filters";
    let why = "without any of them a tenant's root would be the host's, or see its files";
    match &facts.features {
        Some(Ok(())) => Finding::new("features", "tried out: all there", needed, why),
        Some(Err(missing)) => Finding::new("features", missing.clone(), needed, why)
            .is(Severity::Error)
            .mend("another kernel, or another file system for --state-dir, as said"),
        None => Finding::new("features", "not tried out: needs root and the state directory", needed, why)
            .is(Severity::Note),
    }
}

fn clock(facts: &Facts) -> Finding {
    let why = "logs, audit and events carry its time, and certificates are judged by it";
    let needed = "not before this program was written, nor before the store was written last";
    let finding = Finding::new("clock", "as it should be", needed, why);
    let wrong = |found: &str| {
        let finding = Finding::new("clock", found, needed, why).is(Severity::Warning);
        finding.mend("timedatectl set-ntp true, or date -s by hand")
    };
    if facts.now < SystemTime::UNIX_EPOCH + WRITTEN {
        return wrong("before this program was written");
    }
    if facts.written.is_some_and(|written| written > facts.now + std::time::Duration::from_secs(60)) {
        return wrong("the store was written in its future");
    }
    finding
}
