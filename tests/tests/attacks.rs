//! Root inside a tenant tries to get out, to see others and to disturb them; every attempt fails as it should, and the
//! other tenants' servers answer before, during and after.
//!
//! The attacks are in `peers/attack.py` and run by `tenantd exec` as the tenant's root, in a tenant as it is by default
//! and in one that administers its own network. An attack passes only when it ends as the table says, and most are
//! also run where they must succeed, on the server by its real root: a broken attack would look like a wall that holds.

mod calls;
mod exhaust;
mod frames;
mod planted;
mod sockets;
mod walk;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use system_tests::plan::{Kind, Options, SERVER_INNER_V4, SERVER_INNER_V6, Site};
use system_tests::tenants;
use system_tests::traffic::{page, reachable, url};
use system_tests::world::{Running, World, eventually};

use crate::floor::{TENANTS, explain, trial, world};

pub(crate) const ATTACK: &str = include_str!("../peers/attack.py");
/// As the machine is by default: its network is the host's.
const PLAIN: &str = "tenant-a";
/// Administers its own network, which is of layer 2.
const NETWORK: &str = "tenant-b";
/// Disturbed by nobody.
const OTHER: &str = "tenant-c";

type Check = fn(&World) -> Result<()>;

pub(crate) fn trials() -> Vec<Trial> {
    let cases: [(&str, Check); 6] = [
        ("calls", calls::check),
        ("walk", walk::check),
        ("sockets", sockets::check),
        ("frames", frames::check),
        ("exhaust", exhaust::check),
        ("planted", planted::check),
    ];
    let one = |(name, check): (&'static str, Check)| {
        trial(&format!("attacks::{name}"), TENANTS, move || {
            let world = attacked(name)?;
            explain(&world, check(&world))
        })
    };
    cases.into_iter().map(one).collect()
}

/// A world with the three tenants.
fn attacked(name: &str) -> Result<World> {
    let kinds = vec![Kind::Ipip, Kind::Vxlan, Kind::Gre];
    let world = world(&format!("att-{name}"), Options { sites: 3, kinds, ..Options::default() })?;
    if name == "walk" {
        walk::plant(&world)?;
    }
    for site in world.options().clone().sites() {
        let mut argv = tenants::add_tenant(world.options(), &site);
        if site.tenant() == NETWORK {
            argv.extend(["--privileges".to_owned(), "network".to_owned()]);
        }
        for argv in [argv, tenants::add_web(&site)] {
            world.ok("server", &argv.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
            reachable(&world, &site.host(), server, Duration::from_secs(30))?;
        }
    }
    Ok(world)
}

/// Command line that runs the attacker in a tenant.
fn argv<'a>(tenant: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    [&["tenantd", "exec", tenant, "--", "python3", "-c", ATTACK], arguments].concat()
}

/// What the attacker says in a tenant.
fn inside(world: &World, tenant: &str, arguments: &[&str]) -> Result<String> {
    world.ok("server", &argv(tenant, arguments))
}

/// The attacker in a tenant, running until the value is dropped or waited for, once it has said its first line.
fn holding(world: &World, tenant: &str, arguments: &[&str]) -> Result<(Running, String)> {
    first_line(world.spawn("server", &argv(tenant, arguments))?)
}

/// The same on the server, as its real root.
fn holding_outside(world: &World, arguments: &[&str]) -> Result<(Running, String)> {
    first_line(world.spawn("server", &[&["python3", "-c", ATTACK], arguments].concat())?)
}

fn first_line(mut running: Running) -> Result<(Running, String)> {
    use std::io::BufRead as _;
    let mut line = String::new();
    std::io::BufReader::new(running.stdout().context("no output")?).read_line(&mut line)?;
    ensure!(!line.is_empty(), "it ended: {running:?}", running = running.wait(Duration::from_secs(30))?);
    Ok((running, line.trim().to_owned()))
}

/// What the attacker says on the server.
fn outside(world: &World, arguments: &[&str]) -> Result<String> {
    world.ok("server", &[&["python3", "-c", ATTACK], arguments].concat())
}

fn status(world: &World, tenant: &str) -> Result<Value> {
    Ok(serde_json::from_str(&world.ok("server", &["tenantd", "status", tenant, "--json"])?)?)
}

fn site(world: &World, tenant: &str) -> Result<Site> {
    world.options().sites().find(|site| site.tenant() == tenant).context("no such tenant")
}

/// Runs an attack while the other tenant's page is fetched again and again: each must come, none late. The daemon is
/// the same before and after, did not panic, and answers.
fn undisturbed<T>(world: &World, what: &str, attack: impl FnOnce() -> Result<T>) -> Result<T> {
    let other = site(world, OTHER)?;
    let daemon = daemon(world)?;
    let over = AtomicBool::new(false);
    let (first, begin) = std::sync::mpsc::channel();
    let fetch_all = || -> Result<u32> {
        let mut fetched = 0;
        loop {
            let last = over.load(Ordering::Relaxed);
            for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
                in_time(world, &other, server)?;
                fetched += 1;
            }
            // One round before, so that no attack is over before the first page was asked for.
            let _ = first.send(());
            if last {
                return Ok(fetched);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let result = std::thread::scope(|scope| {
        let fetching = scope.spawn(fetch_all);
        // Nobody sends when a fetch failed: then it is told below.
        let _ = begin.recv_timeout(Duration::from_secs(60));
        let result = attack();
        over.store(true, Ordering::Relaxed);
        let fetched = fetching.join().ok().context("a fetch panicked")?.with_context(|| format!("during {what}"))?;
        ensure!(fetched >= 4, "during {what} only {fetched} pages were fetched");
        result
    })?;
    ensure!(self::daemon(world)? == daemon, "{what}: the daemon is another one: {}", world.log("tenantd"));
    ensure!(!world.log("tenantd").contains("panicked"), "{what}: {}", world.log("tenantd"));
    world.ok("server", &["tenantd", "list"])?;
    Ok(result)
}

/// The right page, within 3 s. The programs that ask are started for each page, on the machine that is attacked and that
/// may stand still for other reasons: a page that is late is asked for again, and none of three in time is a disturbance.
fn in_time(world: &World, site: &Site, server: &str) -> Result<()> {
    let mut took = Vec::new();
    for _ in 0..3 {
        let begun = Instant::now();
        let got = page(world, &site.host(), &url("http", server), &[])?;
        ensure!(got.trim() == tenants::page(site), "{} served {got:?}", site.tenant());
        took.push(begun.elapsed());
        if begun.elapsed() < Duration::from_secs(3) {
            return Ok(());
        }
    }
    anyhow::bail!("{} took {took:?}", site.tenant())
}

/// Process id of the daemon. Its children look like it for a moment, before they become what they are to be: what two
/// looks see.
fn daemon(world: &World) -> Result<String> {
    let find = "for d in /proc/[0-9]*; do c=$(tr '\\0' ' ' <$d/cmdline 2>/dev/null) && \
                case \"$c\" in 'tenantd run '*) echo ${d#/proc/};; esac; done; true";
    let look = || world.ok("server", &["sh", "-c", find]).ok().filter(|found| !found.is_empty());
    eventually("a daemon", Duration::from_secs(30), || look().filter(|found| look().as_ref() == Some(found)))
}
