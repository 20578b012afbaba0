//! Taking all there is of something: the limit is the tenant's own, and another tenant and the host still get theirs.
//!
//! Bounded in every case: the limits of the attacker's cgroup are read back from the kernel before anything is taken,
//! what has no limit of the tenant's is taken up to a number that harms nobody, and everything is given back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use system_tests::world::{Running, World, eventually};

use super::{NETWORK, OTHER, PLAIN, argv, holding, holding_outside, inside, status, undisturbed};

/// Processes, and the other limits, of the attackers.
const PROCESSES: u64 = 200;
const LIMITS: [&str; 6] = ["--limit", "processes=200", "--limit", "memory=512M", "--limit", "disk=64M"];

/// What is taken, the most that may be got (MiB for files), and how it ends.
const OWN: [(&str, u64, &str); 8] = [
    ("processes", PROCESSES, "EAGAIN"),
    ("shm", 256, "ENOSPC"),
    ("tmp", 256, "ENOSPC"),
    ("run", 256, "ENOSPC"),
    ("shm_inodes", 65_536, "ENOSPC"),
    ("terminals", 256, "ENOSPC"),
    ("disk", 64, "ENOSPC"),
    ("inodes", 65_536, "ENOSPC"),
];

/// What the kernel counts for each of its users: the most, the errors it may end in, and how many another gets at least
/// at the same time.
const COUNTED: [(&str, &[&str], u64); 3] =
    [("inotify", &["EMFILE"], 60), ("queues", &["EMFILE", "ENOSPC"], 5), ("timers", &["EAGAIN", "none"], 1000)];

/// Settings under /proc/sys/net that are one for the whole machine.
const OF_THE_MACHINE: [&str; 12] = [
    "/proc/sys/net/core/bpf_jit_enable",
    "/proc/sys/net/core/netdev_max_backlog",
    "/proc/sys/net/core/rmem_max",
    "/proc/sys/net/core/wmem_max",
    "/proc/sys/net/ipv4/inet_peer_threshold",
    "/proc/sys/net/ipv4/neigh/default/gc_thresh3",
    "/proc/sys/net/ipv4/tcp_allowed_congestion_control",
    "/proc/sys/net/ipv4/tcp_max_orphans",
    "/proc/sys/net/ipv4/tcp_mem",
    "/proc/sys/net/ipv4/udp_mem",
    "/proc/sys/net/ipv6/neigh/default/gc_thresh3",
    "/proc/sys/net/netfilter/nf_conntrack_max",
];

pub(super) fn check(world: &World) -> Result<()> {
    for (name, address, privileges) in
        [("plain", "192.168.8.1/24", &[] as &[&str]), ("admin", "192.168.9.1/24", &["--privileges", "network"])]
    {
        let argv = [&["tenantd", "add-tenant", name, "--address", address], &LIMITS as &[_], privileges].concat();
        world.ok("server", &argv)?;
        limits_hold(world, name)?;
        let alone = processes(world, name)?;
        for (what, most, how) in OWN {
            undisturbed(world, what, || take(world, name, what, most, &[how]))?;
            given_back(world, name, alone).context(what)?;
        }
        for (what, errors, least) in COUNTED {
            undisturbed(world, what, || counted(world, name, what, errors, least))?;
            given_back(world, name, alone).context(what)?;
        }
    }
    settings(world)?;
    undisturbed(world, "neighbours", || neighbours(world))?;
    conntrack(world)
}

/// The kernel's own word, before a bomb goes off.
fn limits_hold(world: &World, name: &str) -> Result<()> {
    let status = status(world, name)?;
    let pid = status["init_pid"].as_i64().context("no init")?;
    let script = format!(
        "while IFS=: read -r id controllers path; do case $controllers in \
           pids) cat /sys/fs/cgroup/pids$path/pids.max;; '') cat /sys/fs/cgroup$path/pids.max /sys/fs/cgroup/unified$path/pids.max 2>/dev/null;; \
         esac; done </proc/{pid}/cgroup; true"
    );
    let said = world.ok("server", &["sh", "-c", &script])?;
    ensure!(
        said.lines().any(|line| line == PROCESSES.to_string()),
        "the limit of processes is not in the kernel: {said:?}"
    );
    Ok(())
}

fn take(world: &World, tenant: &str, what: &str, most: u64, errors: &[&str]) -> Result<(Running, u64)> {
    let (running, said) = holding(world, tenant, &["take-all", what])?;
    Ok((running, amount(tenant, what, &said, most, errors)?))
}

/// How many processes are in a tenant, with those that count them.
fn processes(world: &World, tenant: &str) -> Result<usize> {
    let list = ["tenantd", "exec", tenant, "--", "sh", "-c", "ls /proc"];
    let said = world.ok("server", &list)?;
    Ok(said.lines().filter(|name| name.bytes().all(|b| b.is_ascii_digit())).count())
}

/// The attacker ends when its input does, a moment after it was told to, and only then what it took is there for the
/// next.
fn given_back(world: &World, tenant: &str, alone: usize) -> Result<()> {
    let ended = eventually("the attacker has ended", Duration::from_secs(60), || {
        processes(world, tenant).ok().filter(|now| *now <= alone).map(drop)
    });
    ended.with_context(|| {
        let list = "cd /proc; for p in [0-9]*; do echo $p $(tr '\\0' ' ' <$p/cmdline | cut -c1-60) $(cat $p/wchan $p/syscall); done";
        let seen = world.exec("server", &["tenantd", "exec", tenant, "--", "sh", "-c", list]);
        format!("{alone} processes before, now {seen:?}")
    })
}

fn amount(who: &str, what: &str, said: &str, most: u64, errors: &[&str]) -> Result<u64> {
    let said: Value = serde_json::from_str(said).with_context(|| format!("{who} said of {what}: {said}"))?;
    let taken = said["taken"].as_u64().context("no number")?;
    let ended = said["ended"].as_str().unwrap_or_default();
    ensure!(errors.contains(&ended), "{who} took {taken} {what} and it ended with {ended}");
    ensure!(taken <= most && taken > 0, "{who} took {taken} {what}, the limit is {most}");
    Ok(taken)
}

/// Another tenant and the host take the same while all of it is taken here.
fn counted(world: &World, tenant: &str, what: &str, errors: &[&str], least: u64) -> Result<()> {
    let (held, taken) = take(world, tenant, what, 300_000, errors)?;
    let (second, others) = take(world, OTHER, what, 300_000, errors)?;
    drop(second);
    let (third, said) = holding_outside(world, &["take-all", what])?;
    let hosts = amount("the host", what, &said, 300_000, &[errors, &["none"]].concat())?;
    drop((third, held));
    ensure!(
        others >= least && hosts >= least,
        "{tenant} took {taken} {what}: {others} were left for {OTHER}, {hosts} for the host"
    );
    Ok(())
}

/// A tenant writes no setting; one that administers its network writes those of its own stack, and none of the machine.
fn settings(world: &World) -> Result<()> {
    let list =
        |tenant: &str| -> Result<Vec<String>> { Ok(serde_json::from_str(&inside(world, tenant, &["settings"])?)?) };
    let plain = list(PLAIN)?;
    ensure!(plain.is_empty(), "{PLAIN} can write {plain:?}");
    let own = list(NETWORK)?;
    ensure!(own.iter().any(|path| path == "/proc/sys/net/ipv4/ip_forward"), "{NETWORK} cannot write its own: {own:?}");
    let wrong: Vec<_> = own
        .iter()
        .filter(|path| !path.starts_with("/proc/sys/net/") || OF_THE_MACHINE.contains(&path.as_str()))
        .collect();
    ensure!(wrong.is_empty(), "{NETWORK} can write {wrong:?}");
    Ok(())
}

/// The kernel's table of neighbours is one for all namespaces. A tenant behind tunnels of layer 3 makes no entry, whatever
/// it sends to. In a network of layer 2 its own neighbours are real, and each is an entry: a limit that docs/threat.md
/// names. Only so many are asked for here as leave the machine's table far from full.
fn neighbours(world: &World) -> Result<()> {
    let ask = "for i in $(seq 2 150); do echo x >/dev/udp/192.168.1.$i/9; done 2>/dev/null; ip neigh show | wc -l";
    let count = |tenant: &str| -> Result<u32> {
        Ok(world.ok("server", &["tenantd", "exec", tenant, "--", "bash", "-c", ask])?.trim().parse()?)
    };
    let plain = count(PLAIN)?;
    ensure!(plain <= 4, "{PLAIN}, behind a tunnel of layer 3, made {plain} neighbour entries");
    let network = count(NETWORK)?;
    ensure!((50..200).contains(&network), "{NETWORK}, of layer 2, has {network} neighbour entries: not as documented");
    Ok(())
}

/// Connections are tracked where the tenant's own rules ask for it, in its own table.
fn conntrack(world: &World) -> Result<()> {
    let fill = "nft add table ip t && nft 'add chain ip t c { type filter hook output priority 0; }' && \
                nft add rule ip t c ct state new accept && \
                python3 -c 'import socket\ns = socket.socket(type=socket.SOCK_DGRAM)\nfor n in range(2000): s.sendto(b\"x\", (\"127.0.%d.%d\" % (n // 250, n % 250 + 1), 9))'; \
                cat /proc/sys/net/netfilter/nf_conntrack_count; nft delete table ip t";
    let run = |tenant: &str, script: &str| world.ok("server", &["tenantd", "exec", tenant, "--", "bash", "-c", script]);
    if world
        .exec("server", &["sh", "-c", "command -v nft && test -e /proc/sys/net/netfilter/nf_conntrack_max"])?
        .status
        .success()
    {
        let refused = world.exec("server", &["tenantd", "exec", PLAIN, "--", "nft", "add", "table", "ip", "t"])?;
        ensure!(!refused.status.success(), "{PLAIN} made a table of rules");
        let tracked: u32 = undisturbed(world, "conntrack", || run(NETWORK, fill))?.trim().parse()?;
        ensure!(tracked > 1000, "only {tracked} connections were tracked: no attack");
        let others: u32 = run(OTHER, "cat /proc/sys/net/netfilter/nf_conntrack_count")?.trim().parse()?;
        ensure!(others < 100, "{others} tracked connections in {OTHER}");
    }
    // Whoever is here again starts with what was given back.
    ensure!(
        world.exec("server", &argv(PLAIN, &["calls", "timens"]))?.status.success(),
        "{PLAIN} does not run programs"
    );
    Ok(())
}
