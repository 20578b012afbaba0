//! `tenantd verify` proves the mapping: it agrees while tenants work, and each kind of drift, made on purpose by root of
//! the host, is found and named with both sides. Refusals of the guard are events.
//!
//! What makes the drift is not ours: ip, bpftool, nsenter, python and the access server's own command line. Every change
//! is to things of the world's own and is taken back, or mended by the daemon.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use system_tests::plan::{Kind, Options, SERVER_INNER_V4, Site};
use system_tests::traffic::{Pinging, reachable};
use system_tests::world::{Running, World, eventually};

use crate::floor::{Need, TENANTS, explain, trial, with_tenants};

const DRIFT: &[Need] = &[
    Need::Root,
    Need::Daemons,
    Need::Program("ip", "iproute2"),
    Need::Program("ping", "iputils-ping"),
    Need::Program("nginx", "nginx-light"),
    Need::Program("python3", "python3"),
    Need::Program("curl", "curl"),
    Need::Program("bpftool", "bpftool"),
    Need::Program("setpriv", "util-linux"),
    Need::Program("nsenter", "util-linux"),
];

const PINS: &str = "/sys/fs/bpf/tenantd/main";
const ROOM: &str = "--net=/run/tenantd/main/patchroom";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("verify::agrees_under_traffic", TENANTS, || in_world(agrees)),
        trial("verify::drift_is_named", DRIFT, || in_world(drifts)),
        trial("verify::refusals_are_events", DRIFT, || in_world(refusals)),
    ]
}

fn in_world(check: fn(&World) -> Result<()>) -> Result<()> {
    let kinds = vec![Kind::Ipip, Kind::Gre, Kind::Vxlan];
    let world = with_tenants("verify", Options { kinds, ..Options::default() })?;
    explain(&world, check(&world))
}

/// Exit code and answer of `tenantd verify`.
fn verify(world: &World, name: &[&str]) -> Result<(Option<i32>, Value)> {
    let argv: Vec<&str> = ["tenantd", "--json", "verify"].iter().chain(name).copied().collect();
    let output = world.exec("server", &argv)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let answer = serde_json::from_slice(&output.stdout).with_context(|| format!("no answer: {said}"))?;
    Ok((output.status.code(), answer))
}

fn count(found: &Value, check: &str, what: &str) -> u64 {
    let checks = found["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
    checks.iter().find(|c| c["name"] == check).and_then(|c| c[what].as_u64()).unwrap_or(0)
}

/// All agree within the time the daemon needs to mend things.
fn agrees_again(world: &World) -> Result<()> {
    let mut last = Value::Null;
    let agreed = eventually("tables and kernel agree again", Duration::from_secs(90), || {
        let (code, found) = verify(world, &[]).ok()?;
        last = found;
        (code == Some(0)).then_some(())
    });
    agreed.with_context(|| format!("{last:#}"))
}

fn agrees(world: &World) -> Result<()> {
    // A service is ready when it listens; its workers are made a moment later.
    eventually("init and nginx with a worker each", Duration::from_secs(30), || {
        verify(world, &[]).ok().filter(|(_, found)| count(found, "processes", "belong") >= 9).map(drop)
    })?;
    let sites: Vec<Site> = world.options().sites().collect();
    let mut pings = Vec::new();
    for site in &sites {
        reachable(world, &site.host(), SERVER_INNER_V4, Duration::from_secs(30))?;
        pings.push(Pinging::start(world, &site.host(), SERVER_INNER_V4, 200)?);
    }
    let first = sites.first().context("no site")?.tenant();
    // Processes and sockets come and go all the time: this is no drift.
    let busy = format!(
        "i=0; while [ $i -lt 40 ]; do tenantd exec {first} -- sh -c 'for n in 1 2 3; do true & done; wait' & \
         curl -s -o /dev/null --unix-socket /run/tenantd/main/api.sock http://t/v1/status; i=$((i+1)); wait; done"
    );
    let busy = world.spawn("server", &["sh", "-c", &busy])?;
    for _ in 0..8 {
        let (code, found) = verify(world, &[])?;
        ensure!(code == Some(0) && found["agree"] == true, "{found:#}");
        ensure!(found["tenants"] == 3, "{found:#}");
        // Init and nginx with a worker each; nginx listens, init has its netlink and control sockets.
        ensure!(count(&found, "processes", "belong") >= 9, "{found:#}");
        ensure!(count(&found, "sockets", "belong") >= 3, "{found:#}");
        for check in ["ports", "tags", "tunnels", "guard", "stacks"] {
            ensure!(count(&found, check, "belong") == 3, "{check}: {found:#}");
        }
    }
    let (code, found) = verify(world, &[&first])?;
    ensure!(code == Some(0) && found["agree"] == true, "{found:#}");
    let done = busy.wait(Duration::from_secs(180))?;
    ensure!(done.status.success(), "{done:?}");
    for ping in pings {
        ping.all_answered()?;
    }
    let words = world.ok("server", &["tenantd", "verify"])?;
    ensure!(words.contains("guard") && words.contains("agree") && !words.contains("DISAGREE"), "{words}");
    let unknown = world.exec("server", &["tenantd", "verify", "nobody"])?;
    ensure!(unknown.status.code() == Some(1), "an error is not a disagreement: {unknown:?}");
    Ok(())
}

/// A tenant as the world has it.
struct Subject {
    name: String,
    vlan: String,
    init: String,
    ids: String,
}

fn subject(world: &World, site: &Site) -> Result<Subject> {
    let name = site.tenant();
    let tenant: Value = serde_json::from_str(&world.ok("server", &["tenantd", "--json", "show", &name])?)?;
    let status: Value = serde_json::from_str(&world.ok("server", &["tenantd", "--json", "status", &name])?)?;
    let text = |value: &Value| value.as_u64().map(|n| n.to_string()).context("a number");
    Ok(Subject { vlan: text(&tenant["vlan"])?, init: text(&status["init_pid"])?, ids: text(&tenant["gid"])?, name })
}

/// Drift is found by `check`, with the tenants and words; the exit code is its own.
fn named(world: &World, check: &str, tenants: &[&str], words: &[&str]) -> Result<()> {
    let (code, found) = verify(world, &[])?;
    ensure!(code == Some(3) && found["agree"] == false, "{code:?}: {check} {words:?} not found: {found:#}");
    let checks = found["checks"].as_array().context("no checks")?;
    let all = checks.iter().filter(|c| c["name"] == check).flat_map(|c| c["disagree"].as_array().into_iter().flatten());
    let hit = all.into_iter().any(|one| {
        let whose: Vec<&str> = one["tenants"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        tenants.iter().all(|tenant| whose.contains(tenant)) && words.iter().all(|word| one.to_string().contains(word))
    });
    ensure!(hit, "{check} {tenants:?} {words:?} not found: {found:#}");
    Ok(())
}

/// Makes a drift that the timed pass mends, until it is found: the pass may come between the two, every half a minute.
fn drifted(world: &World, check: &str, of: &str, words: &[&str], make: impl Fn() -> Result<()>) -> Result<()> {
    make()?;
    for _ in 0..2 {
        if named(world, check, &[of], words).is_ok() {
            return Ok(());
        }
        agrees_again(world)?;
        make()?;
    }
    named(world, check, &[of], words)
}

/// What is made by processes of their own, which begin in their own time, is found by `check` in the end.
fn soon_named(world: &World, check: &str, tenants: &[&str], words: &[&str]) -> Result<()> {
    let mut last = Ok(());
    let found = eventually("it is found", Duration::from_secs(30), || {
        last = named(world, check, tenants, words);
        last.is_ok().then_some(())
    });
    last.and(found)
}

/// Follows the daemon's events until the world ends; what came so far.
struct Follower {
    file: String,
    _curl: Running,
}

impl Follower {
    fn start(world: &World, name: &str) -> Result<Self> {
        let file = format!("/run/lab/{name}");
        // The head of the answer goes into the file too: it is sent when the daemon has subscribed us.
        let line = format!("exec curl -siN --unix-socket /run/tenantd/main/api.sock http://t/v1/events >{file}");
        let curl = world.spawn("server", &["sh", "-c", &line])?;
        eventually("the daemon's events are followed", Duration::from_secs(30), || {
            std::fs::read_to_string(world.path(&file)).ok().filter(|text| text.contains("\r\n\r\n")).map(drop)
        })?;
        Ok(Self { file, _curl: curl })
    }

    /// Waits for an event of this kind with all the words.
    fn told(&self, world: &World, kind: &str, words: &[&str]) -> Result<Value> {
        let path = world.path(&self.file);
        eventually(&format!("event {kind} with {words:?}"), Duration::from_secs(60), || {
            let text = std::fs::read_to_string(&path).ok()?;
            let events = text.lines().filter_map(|line| line.strip_prefix("data:"));
            let mut events = events.filter_map(|data| serde_json::from_str::<Value>(data).ok());
            events.find(|event| event["kind"] == kind && words.iter().all(|word| event.to_string().contains(word)))
        })
    }
}

fn drifts(world: &World) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    let [a, b, c] = sites.as_slice() else { anyhow::bail!("three sites") };
    let (a, b, c) = (subject(world, a)?, subject(world, b)?, subject(world, c)?);
    agrees_again(world)?;
    let follower = Follower::start(world, "drift-events")?;

    // A process of A in B's network namespace.
    let moved = world.spawn(
        "server",
        &[
            "nsenter",
            "-t",
            &b.init,
            "-n",
            "--",
            "nsenter",
            "-t",
            &a.init,
            "-p",
            "--",
            "setpriv",
            "--reuid",
            &a.ids,
            "--regid",
            &a.ids,
            "--clear-groups",
            "sleep",
            "120",
        ],
    )?;
    settle(world, "sleep 120")?;
    soon_named(world, "processes", &[&a.name, &b.name], &["(sleep", &format!("of {}", b.name), "with ids of"])?;
    follower.told(world, "drift", &["(sleep"])?;
    end(world, moved, "sleep 120")?;
    agrees_again(world)?;
    follower.told(world, "drift-gone", &["(sleep"])?;

    // A socket made in C's stack by a process that is in the host's.
    let spy = format!(
        "import ctypes, os, socket, time\n\
         libc = ctypes.CDLL(None, use_errno=True)\n\
         home = os.open('/proc/self/ns/net', os.O_RDONLY)\n\
         away = os.open('/proc/{}/ns/net', os.O_RDONLY)\n\
         assert libc.setns(away, 0) == 0\n\
         s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         s.bind(('0.0.0.0', 4711))\n\
         assert libc.setns(home, 0) == 0\n\
         time.sleep(121)\n",
        c.init
    );
    let spying = world.spawn("server", &["python3", "-c", &spy])?;
    settle(world, "time.sleep(121)")?;
    soon_named(world, "sockets", &[&c.name], &["(python3", "AF_INET socket in", "only sockets of its processes"])?;
    end(world, spying, "time.sleep(121)")?;
    agrees_again(world)?;

    // The guard forgets B.
    let guard = format!("{PINS}/guard/stacks");
    let (key, value) = row(world, &guard, |row| row_has(row, "key", None) && of_gids(row, &b.ids))?;
    let forget = || map(world, &guard, "delete", &key, None);
    drifted(world, "guard", &b.name, &["the guard has no such row"], forget)?;
    map(world, &guard, "update", &key, Some(&value))?;
    agrees_again(world)?;

    // B's row of the data path: its address changed, then its tag removed.
    let ports = format!("{PINS}/ports_by_ifindex");
    let vid = b.vlan.parse::<u16>()?;
    let (key, value) = row(world, &ports, |row| bytes(&row["value"]).get(24..26) == Some(&vid.to_ne_bytes()[..]))?;
    let mut other = value.clone();
    *other.get_mut(33).context("40 bytes")? ^= 0xff;
    let change = || map(world, &ports, "update", &key, Some(&other));
    drifted(world, "tags", &b.name, &[&format!("tag vlan{vid}"), "MAC"], change)?;
    map(world, &ports, "update", &key, Some(&value))?;
    agrees_again(world)?;
    let tags = format!("{PINS}/ports_by_tag");
    let (key, _) = row(world, &tags, |row| bytes(&row["key"]).get(4..6) == Some(&vid.to_ne_bytes()[..]))?;
    let remove = || map(world, &tags, "delete", &key, None);
    drifted(world, "tags", &b.name, &["frames with the tag go nowhere"], remove)?;
    mend(world, &b)?;

    // The access server's row of A, behind our back.
    let tenant: Value = serde_json::from_str(&world.ok("server", &["access-server", "list", "--json"])?)?;
    let rows = tenant.as_array().context("rows")?;
    let there = rows.iter().find(|row| row["vlan"].as_u64() == a.vlan.parse().ok()).context("A's row")?;
    let tunnel = there["tunnels"].get(0).context("a tunnel")?;
    let spec = format!("{}:{}", tunnel["kind"].as_str().context("kind")?, tunnel["remote"].as_str().context("remote")?);
    let spec = match tunnel["key"].as_u64() {
        Some(key) => format!("{spec},key={key}"),
        None => spec,
    };
    let argv = ["access-server", "delete-tunnel", "--owner", "tenantd/main", "--vlan", &a.vlan, &spec];
    let delete = || world.ok("server", &argv).map(drop);
    drifted(world, "tunnels", &a.name, &[&format!("tunnels of vlan{}", a.vlan), "tenantd/main"], delete)?;
    mend(world, &a)?;

    // C's port: a device of another kind in its place, which the daemon does not delete.
    let port = format!("p{}", c.vlan);
    // Faster than the daemon, which stands still meanwhile.
    let daemon = crate::kill9::pid(world, "tenantd")?.context("no tenantd")?;
    let line = format!(
        "kill -STOP {daemon}; nsenter {ROOM} sh -ec 'ip link del {port} && ip link add {port} type bridge'; \
         done=$?; kill -CONT {daemon}; exit $done"
    );
    world.ok("server", &["sh", "-c", &line])?;
    named(world, "ports", &[&c.name], &[&format!("port {port}")])?;
    world.ok("server", &["nsenter", ROOM, "ip", "link", "del", &port])?;
    agrees_again(world)?;
    for site in &sites {
        reachable(world, &site.host(), SERVER_INNER_V4, Duration::from_secs(30))?;
    }
    Ok(())
}

/// Has the daemon make a pass for a tenant now, which mends it.
fn mend(world: &World, subject: &Subject) -> Result<()> {
    let tenant: Value = serde_json::from_str(&world.ok("server", &["tenantd", "--json", "show", &subject.name])?)?;
    let addresses = tenant["addresses"].as_array().context("addresses")?;
    let mut argv = vec!["tenantd", "set-address", &subject.name];
    argv.extend(addresses.iter().filter_map(Value::as_str));
    world.ok("server", &argv)?;
    agrees_again(world)
}

/// Waits until a process with these words on its command line runs.
fn settle(world: &World, words: &str) -> Result<()> {
    eventually(&format!("{words} runs"), Duration::from_secs(30), || {
        let pids = pids_of(world, words).ok()?;
        (!pids.is_empty()).then_some(())
    })?;
    std::thread::sleep(Duration::from_millis(300));
    Ok(())
}

/// Pids, as the world sees them, of the program itself: not of the shells and enterers that name it.
fn pids_of(world: &World, words: &str) -> Result<Vec<String>> {
    let find = format!(
        "for d in /proc/[0-9]*; do read -r c <$d/comm 2>/dev/null; case $c in sleep|python3) \
         tr '\\0' ' ' <$d/cmdline 2>/dev/null | grep -qF '{words}' && echo ${{d#/proc/}};; esac; done; true"
    );
    Ok(world.ok("server", &["sh", "-c", &find])?.lines().map(str::to_owned).collect())
}

fn end(world: &World, running: Running, words: &str) -> Result<()> {
    for pid in pids_of(world, words)? {
        world.ok("server", &["kill", "-9", &pid])?;
    }
    running.wait(Duration::from_secs(60)).map(drop)
}

/// Bytes as `bpftool -j` prints them.
fn bytes(value: &Value) -> Vec<u8> {
    let byte = |value: &Value| u8::from_str_radix(value.as_str()?.trim_start_matches("0x"), 16).ok();
    value.as_array().into_iter().flatten().filter_map(byte).collect()
}

fn row_has(row: &Value, field: &str, value: Option<&[u8]>) -> bool {
    let there = bytes(&row[field]);
    value.map_or(!there.is_empty(), |value| there == value)
}

/// A row of the guard's stacks: id, range of gids, most connections.
fn of_gids(row: &Value, ids: &str) -> bool {
    let range = ids.parse::<u32>().unwrap_or(0) / 65_536;
    bytes(&row["value"]).get(8..12) == Some(&range.to_ne_bytes()[..])
}

/// Key and value of the row that `is` says so of.
fn row(world: &World, pin: &str, is: impl Fn(&Value) -> bool) -> Result<(Vec<u8>, Vec<u8>)> {
    let dump: Value = serde_json::from_str(&world.ok("server", &["bpftool", "-j", "map", "dump", "pinned", pin])?)?;
    let rows = dump.as_array().context("rows")?;
    let found = rows.iter().find(|row| is(row)).with_context(|| format!("no such row in {pin}: {dump:#}"))?;
    Ok((bytes(&found["key"]), bytes(&found["value"])))
}

fn map(world: &World, pin: &str, verb: &str, key: &[u8], value: Option<&[u8]>) -> Result<()> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>();
    let mut argv: Vec<String> = ["bpftool", "map", verb, "pinned", pin, "key", "hex"].map(str::to_owned).to_vec();
    argv.extend(hex(key));
    if let Some(value) = value {
        argv.extend(["value".to_owned(), "hex".to_owned()]);
        argv.extend(hex(value));
    }
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    world.ok("server", &argv).map(drop)
}

/// Runs python in the tenant's stack as nobody of it, and not as root. What enters the world comes from outside and is in
/// no cgroup of it, so it first goes to where the guard sees it.
fn as_stranger(world: &World, subject: &Subject, script: &str) -> Result<String> {
    let go = format!(
        "for d in /sys/fs/cgroup/unified /sys/fs/cgroup; do \
         if [ -e $d/lab/cgroup.procs ]; then echo 0 >$d/lab/cgroup.procs; break; fi; done; \
         exec nsenter -t {} -n -- setpriv --reuid 65533 --regid 65533 --clear-groups /usr/bin/python3 -c \"$0\"",
        subject.init
    );
    world.ok("server", &["sh", "-c", &go, script])
}

/// A stranger wants the tenant's stack.
fn stranger(world: &World, subject: &Subject) -> Result<()> {
    let script = "import socket\ntry:\n socket.socket(socket.AF_INET, socket.SOCK_STREAM)\n print('made')\n\
                  except PermissionError:\n print('refused')";
    let said = as_stranger(world, subject, script)?;
    ensure!(said.trim() == "refused", "a stranger made a socket in {}: {said}", subject.name);
    Ok(())
}

fn refusals(world: &World) -> Result<()> {
    let site = world.options().sites().next().context("no site")?;
    let subject = subject(world, &site)?;
    let counted = || -> Result<u64> {
        let status: Value =
            serde_json::from_str(&world.ok("server", &["tenantd", "--json", "status", &subject.name])?)?;
        let refused = status["guard"]["refused"].as_object().context("no counters of the guard")?;
        Ok(refused.values().filter_map(Value::as_u64).sum())
    };
    let before = counted()?;
    let follower = Follower::start(world, "guard-events")?;
    stranger(world, &subject)?;
    let told = follower.told(world, "guard-refused", &[&subject.name])?;
    let refusal = &told["refusal"];
    ensure!(refusal["wanted"] == subject.name.as_str() && refusal["owner"].is_null(), "{told:#}");
    ensure!(refusal["command"] == "python3" && refusal["uid"] == 65_533 && refusal["gid"] == 65_533, "{told:#}");
    ensure!(refusal["pid"].as_u64().is_some_and(|pid| pid > 0) && told["origin"] == "daemon", "{told:#}");
    ensure!(counted()? > before, "the counters do not count");
    eventually("the log has it", Duration::from_secs(30), || {
        world.log("tenantd").contains("guard-refused").then_some(())
    })?;

    // Many at once: each is counted, some are told, the rest is told as a number.
    let before = counted()?;
    let flood = "import socket\nfor n in range(2000):\n try:\n  socket.socket()\n except PermissionError:\n  pass";
    let lines = || world.log("tenantd").lines().filter(|line| line.contains("guard-refused")).count();
    let lines_before = lines();
    as_stranger(world, &subject, flood)?;
    ensure!(counted()? - before >= 2000, "{} counted", counted()? - before);
    std::thread::sleep(Duration::from_secs(3));
    ensure!(lines() - lines_before < 200, "{} lines of log for 2000 refusals", lines() - lines_before);

    // While no daemon runs the guard stands; what it refused is told by the next daemon.
    let hold = world.path("/run/lab/hold");
    std::fs::create_dir_all(&hold)?;
    std::fs::write(hold.join("tenantd"), "")?;
    let running = || world.exec("server", &["tenantd", "status"]).is_ok_and(|output| output.status.success());
    let find = "for d in /proc/[0-9]*; do tr '\\0' ' ' <$d/cmdline 2>/dev/null | grep -q '^tenantd run ' && \
                echo ${d#/proc/}; done; true";
    for pid in world.ok("server", &["sh", "-c", find])?.lines() {
        world.ok("server", &["kill", "-9", pid])?;
    }
    eventually("tenantd is down", Duration::from_secs(30), || (!running()).then_some(()))?;
    let lines_before = lines();
    stranger(world, &subject)?;
    std::fs::remove_file(hold.join("tenantd"))?;
    eventually("tenantd is up", Duration::from_secs(60), || running().then_some(()))?;
    eventually("the refusal is told", Duration::from_secs(60), || (lines() > lines_before).then_some(()))?;
    ensure!(world.log("tenantd").contains(&format!("wanted the stack of {}", subject.name)), "not by name");
    Ok(())
}
