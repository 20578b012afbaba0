//! Somebody deletes or changes what belongs to a tenant: the daemon puts it back, says so, and nobody else notices.
//!
//! What tampers is not ours: ip, tc, bpftool, nft and a shell, by root of the host, in things of the world's own.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use system_tests::api::Api;
use system_tests::plan::{Kind, Options, SERVER_INNER_V4, Site};
use system_tests::tenants::init_pid;
use system_tests::traffic::{Pinging, reachable};
use system_tests::world::{Running, World, eventually};

use crate::floor::{Need, TENANTS, explain, trial, with_tenants};

const TAMPER: &[Need] = &[
    Need::Root,
    Need::Daemons,
    Need::Program("ip", "iproute2"),
    Need::Program("tc", "iproute2"),
    Need::Program("ping", "iputils-ping"),
    Need::Program("nginx", "nginx-light"),
    Need::Program("curl", "curl"),
    Need::Program("bpftool", "bpftool"),
    Need::Program("nft", "nftables"),
    Need::Program("nsenter", "util-linux"),
];

const ROOM: &str = "nsenter --net=/run/tenantd/main/patchroom";
const PINS: &str = "/sys/fs/bpf/tenantd/main";
/// What is promised for what the kernel tells.
const SOON: Duration = Duration::from_secs(1);
/// The timed pass, and its time: less than until the second one after it.
const TIMED: Duration = Duration::from_secs(55);
/// How often a promise about time is looked at: a machine that stands still for a moment breaks it now and then, a
/// daemon that is slow always does.
const LOOKS: usize = 5;
/// Until something comes that no time was promised for.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("repair::what_the_kernel_tells_within_a_second", TAMPER, || in_world("rep-soon", soon)),
        trial("repair::what_the_kernel_does_not_tell", TAMPER, || in_world("rep-timed", timed)),
        trial("repair::a_name_that_is_taken", TAMPER, || in_world("rep-taken", taken)),
        trial("repair::events_that_are_lost", TAMPER, || in_world("rep-lost", lost)),
        trial("repair::an_init_that_hangs", TAMPER, || in_world("rep-hang", hangs)),
        trial("repair::the_trunk", TENANTS, || in_world("rep-trunk", trunk)),
        trial("repair::a_tenant_that_fights", TAMPER, || in_world("rep-fight", fights)),
        trial("repair::an_idle_daemon_rests", TENANTS, || in_world("rep-idle", idle)),
    ]
}

fn in_world(stem: &str, check: fn(&World) -> Result<()>) -> Result<()> {
    let kinds = vec![Kind::Ipip, Kind::Vxlan];
    let world = with_tenants(stem, Options { sites: 2, kinds, ..Options::default() })?;
    explain(&world, check(&world))
}

/// One tenant: its names in this world.
struct Subject {
    tenant: String,
    port: String,
    device: String,
}

impl Subject {
    fn of(world: &World, site: &Site) -> Result<Self> {
        let shown = world.ok("server", &["tenantd", "--json", "show", &site.tenant()])?;
        let shown: Value = serde_json::from_str(&shown)?;
        let device = shown["device"].as_str().context("no device")?.to_owned();
        Ok(Self { tenant: site.tenant(), port: format!("p{}", site.vlan()), device })
    }

    /// `line` with the names filled in, run by a shell on the server; `@STACK` enters the tenant's stack, `@ROOM` the room.
    fn run(&self, world: &World, line: &str) -> Result<String> {
        world.ok("server", &["sh", "-ec", &self.filled(world, line)?])
    }

    fn filled(&self, world: &World, line: &str) -> Result<String> {
        let stack = format!("nsenter -t {} -n", init_pid(world, &self.tenant)?);
        let line = line.replace("@STACK", &stack).replace("@ROOM", ROOM);
        Ok(line.replace("@PORT", &self.port).replace("@DEV", &self.device))
    }

    /// What a pass would do.
    fn plan(&self, world: &World) -> Result<Value> {
        Ok(serde_json::from_str(&world.ok("server", &["tenantd", "--json", "plan", &self.tenant])?)?)
    }

    fn is_as_desired(&self, world: &World) -> Option<()> {
        let plan = self.plan(world).ok()?;
        (plan["steps"].as_array()?.is_empty() && plan["cannot_read"].is_null()).then_some(())
    }
}

/// The daemon's events as they come, in a file of the world.
struct Events {
    file: String,
    _curl: Running,
}

impl Events {
    fn follow(world: &World, name: &str) -> Result<Self> {
        let file = format!("/run/lab/{name}");
        // The head of the answer goes into the file too: it is sent when the daemon has subscribed us.
        let line = format!("exec curl -siN --unix-socket /run/tenantd/main/api.sock http://t/v1/events >{file}");
        let curl = world.spawn("server", &["sh", "-c", &line])?;
        eventually("the daemon's events are followed", PATIENCE, || {
            std::fs::read_to_string(world.path(&file)).ok().filter(|text| text.contains("\r\n\r\n")).map(drop)
        })?;
        Ok(Self { file, _curl: curl })
    }

    fn all(&self, world: &World) -> Vec<Value> {
        let text = std::fs::read_to_string(world.path(&self.file)).unwrap_or_default();
        let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
        data.filter_map(|data| serde_json::from_str(data).ok()).collect()
    }

    /// The first event of a kind after the first `after` with all words.
    fn told(&self, world: &World, after: usize, kind: &str, words: &[&str]) -> Result<Value> {
        eventually(&format!("event {kind} with {words:?}"), PATIENCE, || {
            let mut new = self.all(world).into_iter().skip(after);
            new.find(|event| event["kind"] == kind && words.iter().all(|word| event.to_string().contains(word)))
        })
        .with_context(|| format!("{:#?}", self.all(world).split_off(after.min(self.all(world).len()))))
    }
}

/// State and addresses; not the number of the other end, which is another one after the pair was made again.
const ADDRESSES: &str = "@STACK ip -br address show dev @DEV | sed 's/@if[0-9]*//'";

/// Tampering that the kernel tells of: what is run, a command whose output must be as before, words of the event.
const TOLD: [(&str, &str, &str); 11] = [
    ("@STACK ip address del 192.168.1.1/24 dev @DEV", ADDRESSES, "address 192.168.1.1/24 is missing"),
    ("@STACK ip address add 10.99.0.1/24 dev @DEV", ADDRESSES, "address 10.99.0.1/24 is not desired"),
    ("@STACK ip -4 route flush proto 116", "@STACK ip -4 route show", "is missing"),
    (
        "@STACK ip -6 neigh del fe80::1 dev @DEV",
        "@STACK ip -6 neigh show nud permanent",
        "neighbour fe80::1 is missing",
    ),
    (
        "@STACK ip -6 neigh replace fe80::1 lladdr 02:00:00:00:00:99 dev @DEV nud permanent",
        "@STACK ip -6 neigh show nud permanent",
        "neighbour fe80::1 has another address",
    ),
    ("@STACK ip link set @DEV down", ADDRESSES, "is down"),
    ("@STACK ip link set @DEV mtu 1300", "@STACK ip link show dev @DEV", "has MTU 1300"),
    (
        "@ROOM tc filter del dev @PORT ingress",
        "@ROOM tc filter show dev @PORT ingress | wc -l",
        "the program of port @PORT is missing",
    ),
    (
        "@ROOM tc qdisc del dev @PORT clsact",
        "@ROOM tc filter show dev @PORT ingress | wc -l",
        "the program of port @PORT is missing",
    ),
    ("@ROOM ip link set @PORT name stray", "@ROOM ip -br link show dev @PORT | cut -d@ -f1", "port @PORT is missing"),
    ("@ROOM ip link del @PORT", ADDRESSES, "port @PORT is missing"),
];

fn soon(world: &World) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    let [victim, other] = sites.as_slice() else { anyhow::bail!("two sites") };
    let subject = Subject::of(world, victim)?;
    let events = Events::follow(world, "events")?;
    for site in &sites {
        reachable(world, &site.host(), SERVER_INNER_V4, Duration::from_secs(30))?;
    }
    let ping = Pinging::start(world, &other.host(), SERVER_INNER_V4, 2500)?;
    let mut figures = Vec::new();
    for (tampering, look, found) in TOLD {
        let found = found.replace("@PORT", &subject.port);
        let mut times = Vec::new();
        for look_number in 0..LOOKS {
            // One that is tampered with all the time is looked at less often (`owner/heed.rs`): not what is measured.
            if look_number > 0 {
                std::thread::sleep(Duration::from_secs(10));
            }
            let (before, heard) = (subject.run(world, look)?, events.all(world).len());
            subject.run(world, tampering)?;
            let started = Instant::now();
            let same = eventually(&format!("{tampering}: put back"), PATIENCE, || {
                subject.run(world, look).ok().filter(|now| *now == before).map(drop)
            });
            same.with_context(|| format!("before: {before}\nnow: {:?}", subject.run(world, look)))?;
            times.push(started.elapsed());
            let event = events.told(world, heard, "repaired", &[&found, &subject.tenant])?;
            ensure!(event["repair"]["steps"].as_array().is_some_and(|steps| !steps.is_empty()), "{event:#}");
            eventually("as desired", PATIENCE, || subject.is_as_desired(world))?;
            if times.last().is_some_and(|took| *took <= SOON) {
                break;
            }
        }
        ensure!(times.iter().any(|took| *took <= SOON), "{tampering}: put back after {times:?}");
        figures.extend(times);
        reachable(world, &victim.host(), SERVER_INNER_V4, Duration::from_secs(30)).context(tampering)?;
    }
    ping.all_answered()?;
    // What changed the machine although nobody asked is in the audit.
    let audit = world.ok("server", &["tenantd", "--json", "audit", &subject.tenant])?;
    let audit: Value = serde_json::from_str(&audit)?;
    let repairs = audit.as_array().context("no list")?.iter().filter(|row| row["verb"] == "repair");
    let whole = repairs.filter(|row| row["origin"] == "daemon" && row["after"]["found"][0].is_string()).count();
    ensure!(whole >= TOLD.len(), "{whole} repairs of {} in the audit: {audit:#}", TOLD.len());
    println!("put back after {figures:?} (with the time of the commands that look)");
    Ok(())
}

fn timed(world: &World) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    let [victim, other] = sites.as_slice() else { anyhow::bail!("two sites") };
    let subject = Subject::of(world, victim)?;
    world.ok("server", &["tenantd", "set-limits", &subject.tenant, "processes=300"])?;
    world.ok("server", &["tenantd", "set-filter", &subject.tenant, "--default", "drop", "--rule", "accept,icmp"])?;
    let filter = "@STACK nft -s list table inet tenantd";
    let filtered = subject.run(world, filter)?;
    let events = Events::follow(world, "events")?;
    let ping = Pinging::start(world, &other.host(), SERVER_INNER_V4, 3000)?;
    // The tag's row: frames from the site go nowhere.
    let dump = world.ok("server", &["bpftool", "-j", "map", "dump", "pinned", &format!("{PINS}/ports_by_tag")])?;
    let rows: Value = serde_json::from_str(&dump)?;
    let vid = victim.vlan().to_ne_bytes().map(|byte| format!("0x{byte:02x}"));
    let keys = rows.as_array().context("rows")?.iter().map(|row| &row["key"]);
    let key = keys.filter_map(Value::as_array).find(|key| key[4] == vid[0] && key[5] == vid[1]).context("the row")?;
    let hex: Vec<&str> = key.iter().filter_map(Value::as_str).collect();
    let row = format!("bpftool map delete pinned {PINS}/ports_by_tag key hex {}", hex.join(" ").replace("0x", ""));
    // A limit, written by hand.
    let file = "find /sys/fs/cgroup -path '*tenant-NAME/pids.max'".replace("NAME", &subject.tenant);
    let unfilter = "@STACK nft delete table inet tenantd";
    let (mut heard, mut plan) = (0, Value::Null);
    for _ in 0..3 {
        heard = events.all(world).len();
        subject.run(world, &format!("{row}; for f in $({file}); do echo 77 >$f; done; {unfilter}"))?;
        plan = subject.plan(world)?;
        // Otherwise the timed pass came just between; the next one is half a minute away.
        if plan.to_string().contains("bind") {
            break;
        }
        eventually("all is put back", TIMED, || subject.is_as_desired(world))?;
    }
    ensure!(plan.to_string().contains("bind"), "{plan:#}");
    let started = Instant::now();
    eventually("all is put back", TIMED, || subject.is_as_desired(world))?;
    let took = started.elapsed();
    let event = events.told(world, heard, "repaired", &[&subject.tenant, "limit processes is 77, not 300"])?;
    ensure!(event.to_string().contains("bind") && event.to_string().contains("packet filter"), "{event:#}");
    ensure!(subject.run(world, filter)? == filtered, "the filter: {}", subject.run(world, filter)?);
    let limits = subject.run(world, &format!("cat $({file})"))?;
    ensure!(limits.contains("300") && !limits.contains("77"), "{limits}");
    reachable(world, &victim.host(), SERVER_INNER_V4, Duration::from_secs(30))?;
    ping.all_answered()?;
    println!("put back by the timed pass after {took:?}");
    Ok(())
}

fn taken(world: &World) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    let [victim, other] = sites.as_slice() else { anyhow::bail!("two sites") };
    let subject = Subject::of(world, victim)?;
    let ping = Pinging::start(world, &other.host(), SERVER_INNER_V4, 1200)?;
    let daemon = crate::kill9::pid(world, "tenantd")?.context("no tenantd")?;
    let status = || -> Result<Value> {
        Ok(serde_json::from_str(&world.ok("server", &["tenantd", "--json", "status", &subject.tenant])?)?)
    };
    for (place, enter, device) in
        [("the patch room", "@ROOM", &subject.port), ("the tenant's stack", "@STACK", &subject.device)]
    {
        // Faster than the daemon, which stands still meanwhile: both ends go with the port.
        let line =
            "kill -STOP DAEMON; @ROOM ip link del @PORT && ENTER ip link add NAME type bridge; kill -CONT DAEMON";
        let line = line.replace("DAEMON", &daemon.to_string()).replace("ENTER", enter).replace("NAME", device);
        subject.run(world, &line)?;
        let told = eventually("it is told what is in the way", PATIENCE, || {
            let status = status().ok()?;
            let words = format!("device {device} in {place} is not ours");
            (status["state"] == "half-done" && status["cause"].as_str()?.contains(&words)).then_some(status)
        });
        let told = told.with_context(|| format!("{:#}", status().unwrap_or_default()))?;
        ensure!(told["tries"].as_u64() >= Some(1), "{told:#}");
        ensure!(told["since_ms"].is_u64() && told["next_try_ms"].is_u64(), "{told:#}");
        // It stays, also after the next try.
        std::thread::sleep(Duration::from_secs(3));
        subject.run(world, &format!("{enter} ip link show dev {device} type bridge | grep -q {device}"))?;
        subject.run(world, &format!("{enter} ip link del {device}"))?;
        eventually("it is mended when the name is free", PATIENCE, || subject.is_as_desired(world))?;
    }
    reachable(world, &victim.host(), SERVER_INNER_V4, Duration::from_secs(30))?;
    ping.all_answered().map(drop)
}

/// More is told than the daemon's buffer holds, while it does not read: everything is looked at, at once and not on the
/// timer.
fn lost(world: &World) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    let subject = Subject::of(world, sites.first().context("a site")?)?;
    let events = Events::follow(world, "events")?;
    let daemon = crate::kill9::pid(world, "tenantd")?.context("no tenantd")?;
    let daemon = |signal: &str| world.ok("server", &["kill", signal, &daemon.to_string()]).map(drop);
    let mut times = Vec::new();
    subject.run(world, "@ROOM ip link add stray type bridge")?;
    // All in one line that is ready before: a daemon that is stopped answers nobody. The last is what nobody hears.
    let line = "seq 20000 | sed 's/.*/link set dev stray mtu 1400\\nlink set dev stray mtu 1401/' | @ROOM ip -batch -; \
                @STACK ip address del 192.168.1.1/24 dev @DEV";
    let line = subject.filled(world, line)?;
    // 3 s are promised; the timed pass, which is not what is meant, is up to 30 s away.
    let promised = Duration::from_secs(3);
    for look in 0..3 {
        if look > 0 {
            // Everybody is looked at no more often than every 10 s (`owner/told.rs`).
            std::thread::sleep(Duration::from_secs(12));
        }
        let heard = events.all(world).len();
        daemon("-STOP")?;
        let flooded = world.ok("server", &["sh", "-ec", &line]);
        daemon("-CONT")?;
        flooded?;
        events.told(world, heard, "overrun", &["events of the kernel were lost"])?;
        let started = Instant::now();
        let words = ["address 192.168.1.1/24 is missing", &subject.tenant];
        events.told(world, heard, "repaired", &words).context("not found by the look at everybody")?;
        times.push(started.elapsed());
        eventually("as desired", PATIENCE, || subject.is_as_desired(world))?;
        if times.last().is_some_and(|took| *took <= promised) {
            break;
        }
    }
    println!("put back {times:?} after it was told");
    ensure!(times.iter().any(|took| *took <= promised), "put back {times:?} after it was told");
    subject.run(world, "@ROOM ip link del stray").map(drop)
}

/// A tenant's init stops answering: its status says so, nobody else waits for it, and it is ready when it answers again.
fn hangs(world: &World) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    let [victim, other] = sites.as_slice() else { anyhow::bail!("two sites") };
    let subject = Subject::of(world, victim)?;
    let status = || -> Result<Value> {
        Ok(serde_json::from_str(&world.ok("server", &["tenantd", "--json", "status", &subject.tenant])?)?)
    };
    let init = init_pid(world, &subject.tenant)?.to_string();
    let ask = || -> Result<Vec<f64>> {
        // A look at the tenant: the first one finds out.
        subject.run(world, "@STACK ip address del 192.168.1.1/24 dev @DEV")?;
        eventually("its status says so", PATIENCE, || {
            let status = status().ok()?;
            (status["state"] == "half-done" && status["step"] == "services").then_some(())
        })?;
        let mut api = Api::of(world);
        let mut took = Vec::new();
        let until = Instant::now() + Duration::from_secs(8);
        while Instant::now() < until {
            let path = format!("/v1/tenants/{}/dns", other.tenant());
            took.push(api.timed("GET", &path, None)?.1);
            std::thread::sleep(Duration::from_millis(10));
        }
        took.sort_by(f64::total_cmp);
        Ok(took)
    };
    let mut looks = Vec::new();
    for _ in 0..LOOKS {
        world.ok("server", &["kill", "-STOP", &init])?;
        let asked = ask();
        world.ok("server", &["kill", "-CONT", &init])?;
        let answers = Instant::now();
        let took = asked?;
        eventually("it is ready again", PATIENCE, || (status().ok()?["state"] == "ready").then_some(()))?;
        let ready = answers.elapsed();
        let late = took.iter().filter(|ms| **ms > 50.0).count();
        println!(
            "of {} questions about another tenant {late} took over 50 ms, the slowest {:.1?} ms; ready after {ready:?}",
            took.len(),
            took.last()
        );
        // Passes of the one that hangs come every 2 s: more would be its doing.
        if late <= took.len() / 100 && ready <= Duration::from_secs(3) {
            return Ok(());
        }
        looks.push((late, took.len(), ready));
        // Before the next one all is as it was.
        eventually("as desired", PATIENCE, || subject.is_as_desired(world))?;
    }
    anyhow::bail!("late of how many questions, and until it was ready: {looks:?}")
}

fn trunk(world: &World) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    let events = Events::follow(world, "events")?;
    let server = |line: &str| world.ok("server", &["sh", "-ec", &line.replace("@ROOM", ROOM)]);
    // Made again and told: not by the timed pass.
    let promptly = |tampering: &str, words: &[&str]| -> Result<()> {
        let mut all = Vec::new();
        for _ in 0..LOOKS {
            let heard = events.all(world).len();
            server(tampering)?;
            let started = Instant::now();
            events.told(world, heard, "repaired", words).with_context(|| tampering.to_owned())?;
            all.push(started.elapsed());
            if all.last().is_some_and(|took| *took <= SOON) {
                return Ok(());
            }
        }
        anyhow::bail!("{tampering}: told after {all:?}")
    };
    for (tampering, found) in [
        ("@ROOM ip link set trunk down", "is down"),
        ("ip link set trunk-main down", "is down"),
        ("@ROOM tc filter del dev trunk ingress", "program of the trunk"),
    ] {
        promptly(tampering, &[found, "\"trunk\""])?;
        for site in &sites {
            reachable(world, &site.host(), SERVER_INNER_V4, Duration::from_secs(30)).context(tampering)?;
        }
    }
    // Away with both ends: it is made again, and every port bound to the new one.
    promptly("ip link del trunk-main", &["is missing", "\"trunk\""])?;
    server("ip -br link show dev trunk-main | grep -q UP && @ROOM ip -br link show dev trunk | grep -q UP")?;
    for site in &sites {
        let subject = Subject::of(world, site)?;
        eventually("bound to the new trunk", PATIENCE, || subject.is_as_desired(world))?;
        // The access server follows its devices by itself.
        reachable(world, &site.host(), SERVER_INNER_V4, Duration::from_secs(30)).context("over the new trunk")?;
    }
    Ok(())
}

fn fights(world: &World) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    let [victim, other] = sites.as_slice() else { anyhow::bail!("two sites") };
    let subject = Subject::of(world, victim)?;
    let events = Events::follow(world, "events")?;
    let ping = Pinging::start(world, &other.host(), SERVER_INNER_V4, 1200)?;
    let line = "@STACK sh -c 'i=0; while [ $i -lt 3000 ]; do ip address add 10.9.9.9/32 dev @DEV 2>/dev/null; \
                ip address del 192.168.1.1/24 dev @DEV 2>/dev/null; i=$((i+1)); done'";
    let stack = format!("nsenter -t {} -n", init_pid(world, &subject.tenant)?);
    let line = line.replace("@STACK", &stack).replace("@DEV", &subject.device);
    let fight = world.spawn("server", &["sh", "-c", &line])?;
    // Operators are served as if nothing were.
    let mut waits = Vec::new();
    for _ in 0..20 {
        let started = Instant::now();
        world.ok("server", &["tenantd", "list"])?;
        waits.push(started.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    events.told(world, 0, "repairs-paced", &[&subject.tenant])?;
    let repairs = events.all(world).iter().filter(|event| event["kind"] == "repaired").count();
    drop(fight);
    eventually("it ends as desired", Duration::from_secs(60), || subject.is_as_desired(world))?;
    ensure!(repairs <= 40, "{repairs} repairs");
    // A machine that stands still lets one or two of them wait; a daemon that is kept busy lets all.
    waits.sort();
    let (slowest, usual) = (waits[waits.len() - 1], waits[waits.len() - 4]);
    ensure!(usual < Duration::from_millis(1500) && slowest < Duration::from_secs(15), "operators waited {waits:?}");
    ping.all_answered()?;
    println!("{repairs} repairs, the slowest of 20 commands took {slowest:?}");
    Ok(())
}

/// Our own work must not wake us for ever: between two timed passes the daemon does nothing.
fn idle(world: &World) -> Result<()> {
    std::thread::sleep(Duration::from_secs(3));
    let pid = crate::kill9::pid(world, "tenantd")?.context("no tenantd")?;
    let ticks = || -> Result<u64> {
        let stat = world.ok("server", &["cat", &format!("/proc/{pid}/stat")])?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let number = |i: usize| fields.get(i).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        Ok(number(11) + number(12))
    };
    let events = Events::follow(world, "events")?;
    let mut all = Vec::new();
    // Time that a machine takes away from its guests counts as used by whoever was about to run: a daemon that is not
    // idle uses it every time.
    for _ in 0..LOOKS {
        let before = ticks()?;
        std::thread::sleep(Duration::from_secs(20));
        let used = ticks()? - before;
        ensure!(events.all(world).is_empty(), "{:#?}", events.all(world));
        all.push(used);
        // In ticks of 10 ms: one timed pass and ten questions to the access server.
        if used <= 10 {
            break;
        }
    }
    ensure!(all.iter().any(|used| *used <= 10), "an idle daemon used {all:?} ticks, each in 20 s");
    println!("an idle daemon with two tenants used {all:?} ticks of 10 ms, each in 20 s");
    Ok(())
}
