//! Everything of a world that an operation could leave behind, one line a thing: what must be the same whether an
//! operation was killed and finished by the next start, or never disturbed.
//!
//! Numbers that differ from run to run (process ids, device indices, generations) are left out; those of tenants that
//! nobody touches are kept.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;
use system_tests::world::World;

use super::ask::{access_socket, ask, tenantd_socket};

/// Lines and how often each is there.
pub(crate) type Traces = BTreeMap<String, usize>;

/// What only programs of the machine can tell. `$@`: inits of tenants whose stacks are looked into.
const SCRIPT: &str = r#"
room() { nsenter --net=/run/tenantd/main/patchroom "$@"; }
room ip -o link | sed -E 's/^[0-9]+: ([^@:]+).* mtu ([0-9]+).*/room device \1 mtu \2/'
room tc qdisc show | sed -E 's/ [0-9a-f]+: / /; s/^/room /' | grep -vE 'noqueue|clsact'
room tc class show dev trunk | grep 'class htb' | sed -E 's/ leaf [0-9a-f]+:.*//; s/^/room /'
room tc filter show dev trunk ingress | grep -c ' handle ' | sed 's/^/trunk programs /'
ip -o link | sed -E 's/^[0-9]+: ([^@:]+).*/server device \1/'
for pid in "$@"; do
  s() { nsenter -t "$pid" -n "$@"; }
  s ip -o addr | sed -E 's/^[0-9]+: //; s/ +/ /g; s/^/stack address /'
  s ip route show table main | sed 's/^/stack route /'
  s ip -6 route show table main | grep -v '^fe80' | sed 's/^/stack route /'
  s ip neigh show nud permanent | sed 's/^/stack neighbour /'
  s nft list ruleset 2>/dev/null | sed -E 's/packets [0-9]+ bytes [0-9]+//; s/^/stack filter /'
done
find /sys/fs/bpf -type f | sort > /run/lab/pins
sed -E 's/limit_[0-9]+/limit_N/; s/^/pin /' /run/lab/pins
"#;

/// Tables of which every row belongs to something: their rows are counted.
const TABLES: [&str; 12] = [
    "ports_by_ifindex",
    "ports_by_tag",
    "answers",
    "trunks",
    "stacks",
    "owners_by_cgroup",
    "owners_by_gids",
    "connections",
    "tunnels",
    "prefixes",
    "paths",
    "devices",
];

/// Takes them. The stacks of `looked` are looked into.
pub(crate) fn traces(world: &World, looked: &[&str]) -> Result<Traces> {
    let mut lines = Vec::new();
    let mut inits = Vec::new();
    desired(world, looked, &mut lines, &mut inits)?;
    let mut argv = vec!["sh", "-c", SCRIPT, "sh"];
    argv.extend(inits.iter().map(String::as_str));
    lines.extend(world.ok("server", &argv)?.lines().map(|line| line.trim_end().to_owned()));
    rows(world, &mut lines)?;
    processes(world, &mut lines)?;
    let mounts = fs::read_to_string(world.path("/proc/1/mounts"))?;
    // A size may be said or not.
    let plain = |line: &str| line.split(',').filter(|word| !word.starts_with("size=")).collect::<Vec<_>>().join(",");
    lines.extend(mounts.lines().map(|line| format!("mount {}", plain(line))));
    directories(&world.path("/sys/fs/cgroup"), "/sys/fs/cgroup", 3, &mut lines)?;
    for (root, depth) in [("/run/tenantd", 9), ("/run/access-server", 9), ("/run/lab/state", 4)] {
        files(&world.path(root), root, depth, &mut lines)?;
    }
    let mut traces = Traces::new();
    for line in lines.into_iter().filter(|line| !line.is_empty()) {
        *traces.entry(line).or_default() += 1;
    }
    Ok(traces)
}

/// What both daemons say there should be.
fn desired(world: &World, looked: &[&str], lines: &mut Vec<String>, inits: &mut Vec<String>) -> Result<()> {
    let socket = tenantd_socket(world);
    let all = ask("GET", "/v1/tenants").granted(&socket)?;
    for tenant in all.as_array().context("no list")? {
        let name = tenant["name"].as_str().context("no name")?;
        lines.push(format!("tenant {}", without(tenant, &["generation", "revision"])));
        let status = ask("GET", format!("/v1/tenants/{name}/status")).granted(&socket)?;
        lines.push(format!("tenant {name} is {} {} {}", status["state"], status["step"], status["cause"]));
        for service in status["services"].as_array().into_iter().flatten() {
            lines.push(format!("service of {name}: {} {}", service["name"], service["state"]));
        }
        match looked.contains(&name) {
            true => inits.extend(status["init_pid"].as_i64().map(|pid| pid.to_string())),
            false => lines.push(format!("tenant {name} has init {} {}", status["init_pid"], status["netns"])),
        }
    }
    lines.push(format!("shares {}", ask("GET", "/v1/shares").granted(&socket)?));
    let status = ask("GET", "/v1/status").granted(&socket)?;
    lines.push(format!("half done {} access {}", status["half_done"], status["access"]));
    for row in ask("GET", "/v1/vlans").granted(&access_socket(world))?.as_array().context("no rows")? {
        lines.push(format!("access row {}", without(row, &["generation"])));
    }
    Ok(())
}

fn without(value: &Value, keys: &[&str]) -> Value {
    let mut value = value.clone();
    if let Some(object) = value.as_object_mut() {
        for key in keys {
            object.remove(*key);
        }
    }
    value
}

/// Rows of the pinned tables, as bpftool counts them.
fn rows(world: &World, lines: &mut Vec<String>) -> Result<()> {
    let pins = fs::read_to_string(world.path("/run/lab/pins"))?;
    let tables = pins.lines().filter(|pin| TABLES.contains(&pin.rsplit('/').next().unwrap_or_default()));
    let batch: String = tables.map(|pin| format!("map dump pinned {pin}\n")).collect();
    fs::write(world.path("/run/lab/batch"), batch)?;
    let told = world.ok("server", &["bpftool", "-j", "batch", "file", "/run/lab/batch"])?;
    let told: Value = serde_json::from_str(&told).with_context(|| format!("bpftool said {told}"))?;
    for dump in told.as_array().context("bpftool said no list")? {
        let words = dump["command"].as_array().context("no command")?;
        let pin = words.last().and_then(Value::as_str).unwrap_or_default();
        lines.push(format!("table {pin} has {} rows", dump["output"].as_array().map_or(0, Vec::len)));
    }
    Ok(())
}

/// Processes of the world by what they are, and how many namespaces of each kind they are in.
fn processes(world: &World, lines: &mut Vec<String>) -> Result<()> {
    let proc = world.path("/proc");
    let mut namespaces = BTreeMap::<&str, std::collections::BTreeSet<String>>::new();
    for entry in fs::read_dir(&proc)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let Ok(words) = fs::read(entry.path().join("cmdline")) else { continue };
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        let words: String = words.chars().take(60).collect();
        lines.push(format!("process {}", words.trim_end()));
        for kind in ["net", "mnt", "pid", "uts", "ipc", "user", "cgroup"] {
            if let Ok(link) = fs::read_link(entry.path().join("ns").join(kind)) {
                namespaces.entry(kind).or_default().insert(link.to_string_lossy().into_owned());
            }
        }
    }
    lines.extend(namespaces.iter().map(|(kind, found)| format!("{} {kind} namespaces", found.len())));
    Ok(())
}

fn directories(path: &Path, shown: &str, depth: usize, lines: &mut Vec<String>) -> Result<()> {
    if depth == 0 {
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| format!("cannot list {shown}"))?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let shown = format!("{shown}/{}", entry.file_name().to_string_lossy());
            lines.push(format!("cgroup {shown}"));
            directories(&entry.path(), &shown, depth - 1, lines)?;
        }
    }
    Ok(())
}

/// Files that change by themselves: the store's, and logs.
const MOVING: [&str; 3] = ["tenantd.db", ".log", "/images/"];

fn files(path: &Path, root: &str, depth: usize, lines: &mut Vec<String>) -> Result<()> {
    if depth == 0 {
        return Ok(());
    }
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("cannot list {root}"))?,
    };
    for entry in entries.flatten() {
        let shown = format!("{root}/{}", entry.file_name().to_string_lossy());
        if MOVING.iter().any(|word| shown.contains(word)) {
            continue;
        }
        lines.push(format!("file {shown}"));
        if shown.contains("/etc/") {
            lines.push(format!("{shown} says {:?}", fs::read_to_string(entry.path()).unwrap_or_default()));
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(&entry.path(), &shown, depth - 1, lines)?;
        }
    }
    Ok(())
}

/// What differs, for people.
pub(crate) fn difference(wanted: &Traces, found: &Traces) -> String {
    let words = |a: &Traces, b: &Traces, sign: char| -> String {
        let differs = |(line, n): (&String, &usize)| {
            let other = b.get(line).copied().unwrap_or(0);
            (*n > other).then(|| {
                format!("{sign} {line}{}\n", if *n > 1 { format!(" ({other} -> {n})") } else { String::new() })
            })
        };
        a.iter().filter_map(differs).collect()
    };
    words(wanted, found, '-') + &words(found, wanted, '+')
}
