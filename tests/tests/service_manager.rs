//! What both daemons tell a service manager and take from it. The manager is a stand-in of a page of Python
//! (`peers/manager.py`) that knows the two protocols from their manual pages, and systemd's own tools where it is there.

use std::io::{BufRead as _, BufReader};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use system_tests::plan::{Gateway, Options};
use system_tests::world::{Running, World, eventually};

use crate::floor::{Need, explain, trial, world};

const MANAGER: &str = include_str!("../peers/manager.py");

const NEEDS: &[Need] =
    &[Need::Root, Need::Daemons, Need::Program("ip", "iproute2"), Need::Program("python3", "python3")];

const SYSTEMD: &[Need] = &[
    Need::Root,
    Need::Daemons,
    Need::Program("ip", "iproute2"),
    Need::Program("systemd-socket-activate", "systemd"),
    Need::Program("systemd-analyze", "systemd"),
];

const TENANTD: &str = "tenantd run --state-dir /run/lab/state";
const ACCESS: &str = "access-server run --wan wan0 --local 203.0.113.1 --local 2001:db8:ffff::1";
const SOCKET: &str = "/run/tenantd/main/api.sock";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("service_manager::both_daemons_are_ready_alive_and_end", NEEDS, || bare("notify", ready_alive_end)),
        trial("service_manager::callers_wait_in_its_socket", NEEDS, || bare("activate", callers_wait)),
        trial("service_manager::another_socket_is_refused", NEEDS, || bare("refuse", another_socket)),
        trial("service_manager::systemd_starts_it_and_knows_the_units", SYSTEMD, || bare("systemd", systemd)),
    ]
}

/// In a world whose server runs nothing yet.
fn bare(stem: &str, test: fn(&World) -> Result<()>) -> Result<()> {
    let world = world(stem, Options { sites: 1, server: false, gateway: Gateway::None, ..Options::default() })?;
    explain(&world, test(&world))
}

/// A daemon under the stand-in, and what it has said so far.
struct Managed {
    _running: Running,
    lines: Receiver<(f64, String)>,
}

impl Managed {
    fn start(world: &World, options: &str, daemon: &str) -> Result<Self> {
        let mut argv = vec!["python3", "-c", MANAGER];
        argv.extend(options.split_whitespace());
        argv.push("--");
        argv.extend(daemon.split(' '));
        let mut running = world.spawn("server", &argv)?;
        let out = running.stdout().context("no output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let Some((time, text)) = line.split_once(' ') else { continue };
                if sender.send((time.parse().unwrap_or(0.0), text.to_owned())).is_err() {
                    return;
                }
            }
        });
        Ok(Self { _running: running, lines })
    }

    /// The next message that begins with `start`; those before it are left out.
    fn next(&self, start: &str, limit: Duration) -> Result<(f64, String)> {
        let until = Instant::now() + limit;
        let mut others = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok((time, text)) if text.starts_with(start) => return Ok((time, text)),
                Ok((_, text)) => others.push(text),
                Err(_) => bail!("nobody said {start:?} within {limit:?}, but: {others:?}"),
            }
        }
    }

    /// Everything that is said within this time.
    fn all(&self, time: Duration) -> Vec<String> {
        let until = Instant::now() + time;
        let mut said = Vec::new();
        while let Ok((_, text)) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            said.push(text);
        }
        said
    }

    /// Its process id, once it has started.
    fn pid(&self) -> Result<String> {
        Ok(self.next("pid ", Duration::from_secs(60))?.1.trim_start_matches("pid ").to_owned())
    }
}

fn signal(world: &World, pid: &str, signal: &str) -> Result<()> {
    world.ok("server", &["kill", signal, pid]).map(drop)
}

const SECOND: Duration = Duration::from_secs(1);

fn ready_alive_end(world: &World) -> Result<()> {
    // The interval of a watchdog of one second; the socket in both its forms.
    let tenantd = Managed::start(world, "--watchdog 1000000", TENANTD)?;
    let tenantd_pid = tenantd.pid()?;
    let (_, said) = tenantd.next("READY=1", 60 * SECOND)?;
    ensure!(said.contains("STATUS=0 tenants"), "{said}");
    let access = Managed::start(world, "--abstract --watchdog 1000000", ACCESS)?;
    let access_pid = access.pid()?;
    access.next("READY=1", 60 * SECOND)?;
    for (name, daemon, pid) in [("tenantd", &tenantd, &tenantd_pid), ("access-server", &access, &access_pid)] {
        let fed = |time| daemon.all(time).iter().filter(|said| *said == "WATCHDOG=1").count();
        daemon.next("WATCHDOG=1", 30 * SECOND)?;
        // Four times a second is what is meant; half of it what is demanded of a busy machine, which may stand still for
        // some of the looks.
        let mut alive: Vec<usize> = Vec::new();
        while alive.len() < 5 && alive.last().is_none_or(|times| *times < 4) {
            alive.push(fed(2 * SECOND));
        }
        ensure!(alive.last().is_some_and(|times| *times >= 4), "{name}: {alive:?} in 2 s each");
        signal(world, pid, "-STOP")?;
        // What was under way comes first, however late its reader is. After that nothing comes at all.
        let mut stopped: Vec<usize> = Vec::new();
        while stopped.len() < 5 && stopped.last() != Some(&0) {
            stopped.push(fed(2 * SECOND));
        }
        ensure!(stopped.last() == Some(&0), "{name}: {stopped:?} in 2 s each while it was stopped");
        signal(world, pid, "-CONT")?;
        daemon.next("WATCHDOG=1", 30 * SECOND)?;
    }
    // The number of tenants is told, without being asked for.
    world.ok("server", &["tenantd", "add-tenant", "a", "--address", "192.168.1.1/24"])?;
    tenantd.next("STATUS=1 tenants", 30 * SECOND)?;
    // A start that finds a tenant is ready when it has looked at it.
    signal(world, &tenantd_pid, "-TERM")?;
    tenantd.next("STOPPING=1", 30 * SECOND)?;
    let (_, ended) = tenantd.next("ended ", 60 * SECOND)?;
    ensure!(ended == "ended 0", "{ended}");
    let again = Managed::start(world, "", TENANTD)?;
    let (_, said) = again.next("READY=1", 60 * SECOND)?;
    ensure!(said.contains("STATUS=1 tenants"), "{said}");
    // Without a watchdog nothing is fed.
    ensure!(!again.all(2 * SECOND).iter().any(|said| said == "WATCHDOG=1"), "fed without being asked");
    signal(world, &access_pid, "-TERM")?;
    access.next("STOPPING=1", 30 * SECOND)?;
    let (_, ended) = access.next("ended ", 60 * SECOND)?;
    ensure!(ended == "ended 0", "{ended}");
    Ok(())
}

/// The socket is the manager's: while the daemon is exchanged, callers wait in it and all get their answers.
fn callers_wait(world: &World) -> Result<()> {
    world.ok("server", &["touch", "/run/lab/manager-again"])?;
    let daemon =
        Managed::start(world, &format!("--listen {SOCKET} --listen /run/lab/other.sock --names api:other"), TENANTD)?;
    let mut pid = daemon.pid()?;
    // Asked before anybody is ready.
    world.ok("server", &["tenantd", "list"])?;
    for signal_of_end in ["-TERM", "-KILL", "-TERM"] {
        let mut asked = Vec::new();
        for _ in 0..5 {
            asked.push(world.spawn("server", &["tenantd", "list", "--json"])?);
        }
        signal(world, &pid, signal_of_end)?;
        // Some of these may still be taken by the one that ends.
        for _ in 0..5 {
            asked.push(world.spawn("server", &["tenantd", "list", "--json"])?);
        }
        daemon.next("ended ", 60 * SECOND)?;
        // These find nobody, or the next one.
        let waiting: Vec<Running> =
            (0..10).map(|_| world.spawn("server", &["tenantd", "list", "--json"])).collect::<Result<_>>()?;
        pid = daemon.pid()?;
        for one in asked {
            let output = one.wait(60 * SECOND)?;
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            // Those whose request a daemon that ended had taken, and nobody else.
            let clear = output.status.success() || words.contains("broke off") || words.contains("shutting down");
            ensure!(clear, "{signal_of_end}: {words}");
        }
        for one in waiting {
            let output = one.wait(60 * SECOND)?;
            let words = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{signal_of_end}, asked when it had ended: {words}");
        }
    }
    world.ok("server", &["rm", "/run/lab/manager-again"])?;
    signal(world, &pid, "-TERM")?;
    daemon.next("ended 0", 60 * SECOND)?;
    // The daemon's end is not the socket's.
    world.ok("server", &["test", "-S", SOCKET]).map(drop)
}

fn another_socket(world: &World) -> Result<()> {
    let daemon = Managed::start(world, "--listen /run/lab/elsewhere.sock", TENANTD)?;
    let (_, ended) = daemon.next("ended ", 60 * SECOND)?;
    ensure!(ended == "ended 1", "{ended}");
    let script = format!("python3 -c \"$0\" --listen /run/lab/elsewhere.sock -- {TENANTD} 2>&1 >/dev/null | tail -n 1");
    let said = world.ok("server", &["sh", "-c", &script, MANAGER])?;
    ensure!(
        said.contains("/run/lab/elsewhere.sock") && said.contains(SOCKET) && said.contains("ListenStream"),
        "{said}"
    );
    Ok(())
}

/// systemd's own idea of a socket unit, and of our unit files.
fn systemd(world: &World) -> Result<()> {
    world.ok("server", &["mkdir", "-p", "/run/tenantd/main"])?;
    let mut argv = vec!["systemd-socket-activate", "-l", SOCKET, "--fdname=api"];
    argv.extend(TENANTD.split(' '));
    let daemon = world.spawn("server", &argv)?;
    eventually("systemd listens", 30 * SECOND, || world.ok("server", &["test", "-S", SOCKET]).ok())?;
    // The first caller starts the daemon and is answered by it.
    world.ok("server", &["tenantd", "status"])?;
    drop(daemon);
    let units = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging");
    // As installed: the programs and pages that the units name are there.
    let script = format!(
        "mkdir -p /run/lab/units && cp {units}/*.service {units}/*.socket /run/lab/units && cd /run/lab/units && \
         sed -i 's,/usr/sbin/,{}/,; /^Documentation=/d' *.service *.socket && systemd-analyze verify ./*.service ./*.socket 2>&1",
        system_tests::world::bin_dir()?.display()
    );
    let said = world.ok("server", &["sh", "-ec", &script])?;
    ensure!(said.trim().is_empty(), "systemd-analyze verify: {said}");
    Ok(())
}
