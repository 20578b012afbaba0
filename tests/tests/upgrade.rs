//! Versions come and go under live traffic: pings, a TCP connection with a sum over its bytes, and a service that logs
//! a numbered line every 10 ms. Nothing of a tenant may be lost, whichever way the daemons are exchanged.
//!
//! The version before is a real one, built from its commit by `scripts/previous.sh`; without it that test is shown as
//! ignored, and the same exchange is done between two copies of this version.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::{Completion, Failed, Trial};
use serde_json::Value;
use system_tests::daemons::{DIR, STATE_DIR};
use system_tests::plan::{Kind, Options, SERVER_INNER_V4, SERVER_INNER_V6, Site};
use system_tests::tenants::{self, init_pid};
use system_tests::traffic::{Pinging, reachable};
use system_tests::world::{Running, World, bin_dir, eventually};

use crate::daemons::Daemon;
use crate::floor::{TENANTS, explain, trial, with_tenants, world};
use crate::kill9::pid;

const STREAM: &str = include_str!("../peers/stream.py");
const PROGRAMS: [&str; 3] = ["tenantd", "access-server", "tenant-init"];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("upgrade::copies_are_exchanged", TENANTS, copies),
        Trial::ignorable_test("upgrade::the_version_before_and_back", || {
            if let Some(reason) = TENANTS.iter().find_map(|need| need.missing()) {
                return Ok(Completion::ignored_with(reason));
            }
            match previous() {
                Some(dir) => {
                    from_before(&dir).map(|()| Completion::Completed).map_err(|e| Failed::from(format!("{e:#}")))
                }
                None => Ok(Completion::ignored_with("the version before is not built (scripts/previous.sh)")),
            }
        }),
        trial("upgrade::commands_in_flight", TENANTS, commands_in_flight),
    ]
}

/// The programs of the version before.
fn previous() -> Option<PathBuf> {
    let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/previous-release/bin"));
    PROGRAMS.iter().all(|program| dir.join(program).exists()).then(|| dir.to_path_buf())
}

fn options() -> Options {
    Options { sites: 2, kinds: vec![Kind::Ipip, Kind::Vxlan], server: false, ..Options::default() }
}

/// How a daemon ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Term,
    Kill,
}

/// Both daemons of the server, started and ended by the test.
struct Server<'a> {
    world: &'a World,
    running: Vec<(Daemon, &'static str, Running)>,
}

impl<'a> Server<'a> {
    fn start(world: &'a World) -> Result<Self> {
        let state = format!("tenantd run --state-dir {STATE_DIR}");
        let access = "access-server run --wan wan0 --local 203.0.113.1 --local 2001:db8:ffff::1";
        let daemons = [
            ("tenantd", Daemon::new("tenantd", "server", &state, "/run/tenantd/main/api.sock")),
            ("access-server", Daemon::new("access-server", "server", access, "/run/access-server/main/api.sock")),
        ];
        let mut running = Vec::new();
        for (name, daemon) in daemons {
            let started = daemon.start(world)?;
            running.push((daemon, name, started));
        }
        Ok(Self { world, running })
    }

    /// Ends both, one after the other, and starts what lies under their names now.
    fn exchange(&mut self, end: End) -> Result<()> {
        for at in 0..self.running.len() {
            self.exchange_one(at, end)?;
        }
        Ok(())
    }

    fn exchange_one(&mut self, at: usize, end: End) -> Result<()> {
        let (daemon, name, running) = self.running.remove(at);
        let old = pid(self.world, name)?.with_context(|| format!("no {name}"))?;
        let signal = match end {
            End::Term => "-TERM",
            End::Kill => "-KILL",
        };
        self.world.ok("server", &["kill", signal, &old.to_string()])?;
        running.wait(Duration::from_secs(60))?;
        let running = daemon.start(self.world)?;
        self.running.insert(at, (daemon, name, running));
        Ok(())
    }
}

/// What goes on all the time, and is counted at the end.
struct Live<'a> {
    world: &'a World,
    sites: Vec<Site>,
    inits: Vec<i64>,
    pings: Vec<Pinging>,
    streams: Vec<Running>,
}

impl<'a> Live<'a> {
    /// Gives every tenant its services and starts the traffic, for this many seconds.
    fn start(world: &'a World, seconds: u32) -> Result<Self> {
        let sites: Vec<Site> = world.options().sites().collect();
        let (mut pings, mut streams, mut inits) = (Vec::new(), Vec::new(), Vec::new());
        for site in &sites {
            let tenant = site.tenant();
            let beat = "n=0; while :; do n=$((n+1)); echo \"beat $n\"; sleep 0.01; done";
            world.ok("server", &["tenantd", "add-service", &tenant, "beat", "--", "/bin/sh", "-c", beat])?;
            let stream = ["tenantd", "add-service", &tenant, "stream", "--ready", "tcp:7077", "--", "/usr/bin/python3"];
            world.ok("server", &[&stream[..], &["-c", STREAM, "serve"]].concat())?;
            inits.push(init_pid(world, &tenant)?);
            for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
                reachable(world, &site.host(), server, Duration::from_secs(30))?;
                pings.push(Pinging::start(world, &site.host(), server, seconds * 100)?);
            }
            let seconds = seconds.to_string();
            streams.push(world.spawn(&site.host(), &["python3", "-c", STREAM, "send", SERVER_INNER_V4, &seconds])?);
        }
        Ok(Self { world, sites, inits, pings, streams })
    }

    /// Nothing was lost: no ping, no byte, no line, no process.
    ///
    /// Returns the longest time in ms that a connection stood still.
    fn judge(self) -> Result<u64> {
        let mut longest = 0;
        for ping in self.pings {
            ping.all_answered()?;
        }
        for stream in self.streams {
            let output = stream.wait(Duration::from_secs(120))?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let words: Vec<&str> = said.split_whitespace().collect();
            ensure!(words.first() == Some(&"same"), "{said}{}", String::from_utf8_lossy(&output.stderr));
            longest = longest.max(words.get(2).context("no gap")?.parse::<u64>()?);
        }
        for (site, init) in self.sites.iter().zip(self.inits) {
            let tenant = site.tenant();
            ensure!(init_pid(self.world, &tenant)? == init, "{tenant} has another init");
            let log = self.world.ok("server", &["tenantd", "logs", &tenant, "beat", "--lines", "100000"])?;
            let beats: Vec<u64> =
                log.lines().filter_map(|line| line.rsplit_once("beat ")?.1.trim().parse().ok()).collect();
            ensure!(beats.len() > 200, "{tenant}: {} lines", beats.len());
            ensure!(beats.windows(2).all(|two| two[1] == two[0] + 1), "{tenant}: a line is missing or twice");
        }
        Ok(longest)
    }
}

/// An exchange in a new world, of which the test says how long a connection stood still. One lost packet of a connection
/// that is answered piece by piece costs 200 ms at least, and an exchange that loses one does so always; a machine that
/// does not let a process run for as long does so now and then. All else is demanded of each.
fn without_a_pause(exchange: impl Fn() -> Result<u64>) -> Result<()> {
    let mut gaps: Vec<u64> = Vec::new();
    while gaps.len() < 5 && gaps.last().is_none_or(|gap| *gap >= 200) {
        gaps.push(exchange()?);
    }
    ensure!(gaps.last().is_some_and(|gap| *gap < 200), "a connection stood still for {gaps:?} ms");
    Ok(())
}

/// As [`explain`].
fn explained(world: &World, judged: Result<u64>) -> Result<u64> {
    let mut gap = 0;
    explain(world, judged.map(|found| gap = found))?;
    Ok(gap)
}

/// The tables as both daemons tell them, without what counts or ticks.
fn rows(world: &World) -> Result<Value> {
    let map: Value = serde_json::from_str(&world.ok("server", &["tenantd", "map", "--json"])?)?;
    let access: Value = serde_json::from_str(&world.ok("server", &["access-server", "list", "--json"])?)?;
    Ok(serde_json::json!({ "map": map, "access": access }))
}

/// Puts the programs in `dir` under the names that everybody in the world calls.
fn lay(world: &World, dir: &Path) -> Result<()> {
    let bin = bin_dir()?;
    for program in PROGRAMS {
        let (from, to) = (dir.join(program), bin.join(program));
        world.ok("server", &["mount", "--bind", &from.display().to_string(), &to.display().to_string()])?;
    }
    Ok(())
}

/// Takes them away again: what lies below is this version.
fn lift(world: &World) -> Result<()> {
    let bin = bin_dir()?;
    for program in PROGRAMS {
        // Running processes keep theirs, as with the files a package manager replaces.
        world.ok("server", &["umount", "-l", &bin.join(program).display().to_string()])?;
    }
    Ok(())
}

/// The file a daemon runs, told by its inode.
fn program_of(world: &World, daemon: &str) -> Result<String> {
    let pid = pid(world, daemon)?.with_context(|| format!("no {daemon}"))?;
    world.ok("server", &["stat", "-L", "-c", "%d:%i", &format!("/proc/{pid}/exe")])
}

fn copies() -> Result<()> {
    without_a_pause(|| {
        let world = world("copies", options())?;
        explained(&world, exchange_copies(&world))
    })
}

fn exchange_copies(world: &World) -> Result<u64> {
    let copies = format!("{DIR}/copies");
    world.ok("server", &["mkdir", "-p", &copies])?;
    for program in PROGRAMS {
        world.ok("server", &["cp", &bin_dir()?.join(program).display().to_string(), &format!("{copies}/{program}")])?;
    }
    lay(world, Path::new(&copies))?;
    let mut server = Server::start(world)?;
    for site in world.options().sites() {
        tenants::add(world, &site)?;
    }
    let live = Live::start(world, 12)?;
    let before = rows(world)?;
    let copy = program_of(world, "tenantd")?;
    lift(world)?;
    server.exchange(End::Term)?;
    ensure!(program_of(world, "tenantd")? != copy, "not exchanged");
    server.exchange(End::Kill)?;
    lay(world, Path::new(&copies))?;
    server.exchange(End::Term)?;
    ensure!(program_of(world, "tenantd")? == copy, "not back");
    same_rows(world, &before)?;
    still_works(world)?;
    live.judge()
}

fn same_rows(world: &World, before: &Value) -> Result<()> {
    let same = eventually("the same rows", Duration::from_secs(30), || rows(world).ok().filter(|now| now == before));
    same.map(drop).with_context(|| format!("before {before:#}, now {:#}", rows(world).unwrap_or_default()))
}

/// Not only adopted: it can be changed.
fn still_works(world: &World) -> Result<()> {
    let tenant = world.options().site(0).tenant();
    world.ok("server", &["tenantd", "add-route", &tenant, "10.99.0.0/16"])?;
    world.ok("server", &["tenantd", "remove-route", &tenant, "10.99.0.0/16"])?;
    world.ok("server", &["tenantd", "restart-service", &tenant, "web"]).map(drop)
}

fn from_before(previous: &Path) -> Result<()> {
    without_a_pause(|| {
        let world = world("before", options())?;
        explained(&world, there_and_back(&world, previous))
    })
}

/// From the version before to this one, killed, and back, and here again.
fn there_and_back(world: &World, previous: &Path) -> Result<u64> {
    lay(world, previous)?;
    let mut server = Server::start(world)?;
    for site in world.options().sites() {
        tenants::add(world, &site)?;
    }
    let old = program_of(world, "tenantd")?;
    let live = Live::start(world, 20)?;
    let access = |world: &World| -> Result<Value> { Ok(rows(world)?["access"].clone()) };
    lift(world)?;
    server.exchange(End::Term)?;
    ensure!(program_of(world, "tenantd")? != old, "the new version does not run");
    // This version speaks with the inits of the version before: state, services, a new one, its end.
    still_works(world)?;
    let tenant = world.options().site(1).tenant();
    world.ok("server", &["tenantd", "add-service", &tenant, "late", "--", "/bin/sleep", "4711"])?;
    world.ok("server", &["tenantd", "exec", &tenant, "--", "true"])?;
    world.ok("server", &["tenantd", "remove-service", &tenant, "late"])?;
    let before = access(world)?;
    server.exchange(End::Kill)?;
    eventually("the same rows", Duration::from_secs(30), || access(world).ok().filter(|now| *now == before))?;
    lay(world, previous)?;
    go_back(world, &mut server)?;
    ensure!(program_of(world, "tenantd")? == old, "the version before does not run");
    still_works(world)?;
    lift(world)?;
    server.exchange(End::Term)?;
    still_works(world)?;
    live.judge()
}

/// As docs/upgrade.md says: stop, put back what the migration left beside the store, start.
fn go_back(world: &World, server: &mut Server<'_>) -> Result<()> {
    let put_back = format!(
        "cd {STATE_DIR}; b=$(ls -1 tenantd.db.schema-* 2>/dev/null | tail -n 1); \
         [ -z \"$b\" ] || {{ rm -f tenantd.db-wal tenantd.db-shm; cp \"$b\" tenantd.db; }}"
    );
    let (daemon, name, running) = server.running.remove(0);
    let old = pid(world, name)?.context("no tenantd")?;
    world.ok("server", &["kill", "-TERM", &old.to_string()])?;
    running.wait(Duration::from_secs(60))?;
    world.ok("server", &["sh", "-ec", &put_back])?;
    let running = daemon.start(world)?;
    server.running.insert(0, (daemon, name, running));
    server.exchange_one(1, End::Term)
}

/// Commands are under way while the daemon is told to end and comes again: what was answered is so afterwards, what was
/// not has an error that says what to do.
fn commands_in_flight() -> Result<()> {
    let world = with_tenants("inflight", Options { sites: 1, ..Options::default() })?;
    explain(&world, in_flight(&world))
}

fn in_flight(world: &World) -> Result<()> {
    let tenant = world.options().site(0).tenant();
    let mut answered = Vec::new();
    let mut unsure = 0;
    // Four rounds are enough, unless the machine stands still for longer than a client waits.
    for round in 0..10_u32 {
        if round >= 4 && answered.len() >= 32 {
            break;
        }
        let mut asked = Vec::new();
        let ask = |number: u32| -> Result<(String, Running)> {
            let route = format!("10.{round}.{number}.0/24");
            Ok((route.clone(), world.spawn("server", &["tenantd", "add-route", &tenant, &route])?))
        };
        for number in 0..8 {
            asked.push(ask(number)?);
        }
        let old = eventually("tenantd runs", Duration::from_secs(60), || pid(world, "tenantd").ok().flatten())?;
        let signal = if round % 2 == 0 { "-TERM" } else { "-KILL" };
        world.ok("server", &["kill", signal, &old.to_string()])?;
        // Those that come while it ends, whenever it does, and those that come when it has ended.
        for number in 8..12 {
            asked.push(ask(number)?);
        }
        eventually("it has ended", Duration::from_secs(60), || {
            pid(world, "tenantd").ok().filter(|now| *now != Some(old)).map(drop)
        })?;
        for number in 12..20 {
            asked.push(ask(number)?);
        }
        for (route, one) in asked {
            let output = one.wait(Duration::from_secs(90))?;
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() {
                answered.push(route);
            } else {
                unsure += 1;
                let known = ["broke off", "shutting down", "half done", "is not running"];
                let clear = known.iter().any(|known| words.contains(known));
                ensure!(clear, "{signal} {route}: {words}");
            }
        }
    }
    let show: Value = serde_json::from_str(&world.ok("server", &["tenantd", "show", &tenant, "--json"])?)?;
    let there = show["routes"].to_string();
    for route in &answered {
        ensure!(there.contains(route.as_str()), "{route} was answered and is not there: {there}");
    }
    ensure!(answered.len() >= 32, "{} answered, {unsure} not", answered.len());
    Ok(())
}
