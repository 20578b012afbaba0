//! Rows 1 to 3, 9 to 11: every tenant has 192.168.1.1 and a host at 192.168.1.10 with one hardware address; all talk
//! with identical 5-tuples at once; each is answered by its own server and no packet of one is seen in another.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use system_tests::plan::{Inner, Kind, Options, Outer, SERVER_INNER_V4, SERVER_INNER_V6, Site};
use system_tests::tenants;
use system_tests::traffic::{Capture, Place, page, reachable, url};
use system_tests::world::World;

use crate::floor::{TENANTS, explain, trial, with_tenants};

const ECHO: &str = include_str!("../peers/echo.py");
const TALK: &str = include_str!("../peers/talk.py");
/// Exchanges of each kind a host has.
const ROUNDS: usize = 25;

pub(crate) fn trials() -> Vec<Trial> {
    let cases = [
        ("ipip", Kind::Ipip, false, Outer::V4),
        ("ipip_over_v6", Kind::Ipip, false, Outer::V6),
        ("gre", Kind::Gre, false, Outer::V4),
        ("gre_keyed_over_v6", Kind::Gre, true, Outer::V6),
        ("vxlan", Kind::Vxlan, false, Outer::V4),
        ("vxlan_over_v6", Kind::Vxlan, false, Outer::V6),
    ];
    cases
        .into_iter()
        .map(|(name, kind, keyed, outer)| {
            let options = Options { kinds: vec![kind], keyed, outer, inner: Inner::Both, ..Options::default() };
            trial(&format!("isolation::{name}"), TENANTS, move || isolation(options))
        })
        .collect()
}

fn isolation(options: Options) -> Result<()> {
    let world = with_tenants("iso", options)?;
    explain(&world, check(&world))
}

fn check(world: &World) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    for site in &sites {
        let mark = mark(site);
        let service = ["tenantd", "add-service", &site.tenant(), "echo", "--", "/usr/bin/python3", "-c", ECHO, &mark];
        world.ok("server", &service)?;
        for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
            reachable(world, &site.host(), server, Duration::from_secs(30))?;
        }
    }
    let mut captures = Vec::new();
    for site in &sites {
        let port = format!("p{}", site.vlan());
        captures.push((site, "port", Capture::start(world, Place::Room(&port))?));
        captures.push((site, "host", Capture::start(world, Place::Node(&site.host(), "eth0"))?));
    }
    for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
        talk(world, &sites, server)?;
        pages(world, &sites, server)?;
        pings(world, &sites, server)?;
    }
    for (site, place, capture) in captures {
        let captured = capture.stop(world)?;
        let own = captured.count(&mark(site));
        ensure!(
            own >= 4 * ROUNDS,
            "the {place} of {} shows its own mark only {own} times: a deaf capture",
            site.tenant()
        );
        for other in sites.iter().filter(|other| other.index != site.index) {
            let foreign = captured.count(&mark(other));
            ensure!(foreign == 0, "the {place} of {} shows {foreign} packets of {}", site.tenant(), other.tenant());
        }
    }
    Ok(())
}

/// What every packet of the tenant carries.
fn mark(site: &Site) -> String {
    format!("<<{}>>", site.tenant())
}

/// TCP, UDP, broadcast and multicast from all hosts at once, with identical 5-tuples.
fn talk(world: &World, sites: &[Site], server: &str) -> Result<()> {
    let rounds = ROUNDS.to_string();
    let talks: Vec<_> = sites
        .iter()
        .map(|site| {
            let running = world.spawn(&site.host(), &["python3", "-c", TALK, &mark(site), server, &rounds])?;
            Ok((site, running))
        })
        .collect::<Result<_>>()?;
    for (site, running) in talks {
        let output = running.wait(Duration::from_secs(600))?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{} with {server}: {}", site.host(), String::from_utf8_lossy(&output.stderr));
        ensure!(
            said.lines().count() == 2 * ROUNDS,
            "{} with {server} had {} answers",
            site.host(),
            said.lines().count()
        );
        let mark = mark(site);
        for line in said.lines() {
            // "tcp MARK MARK tcp 7": the server's mark, then what was sent.
            ensure!(line.matches(&mark).count() == 2, "{} with {server} was answered: {line}", site.host());
        }
    }
    Ok(())
}

/// Pages from one source port, all hosts at once.
fn pages(world: &World, sites: &[Site], server: &str) -> Result<()> {
    // One port a family: the first connection's end still holds its port.
    let port = if server.contains(':') { "40004" } else { "40003" };
    std::thread::scope(|scope| {
        let fetches: Vec<_> = sites
            .iter()
            .map(|site| {
                let fetch = || page(world, &site.host(), &url("http", server), &["--local-port", port]);
                (site, scope.spawn(fetch))
            })
            .collect();
        for (site, fetch) in fetches {
            let got = fetch.join().ok().context("a fetch panicked")??;
            ensure!(got.trim() == tenants::page(site), "{} was served {got:?} by {server}", site.host());
        }
        Ok(())
    })
}

/// ICMP with the mark as its filling.
fn pings(world: &World, sites: &[Site], server: &str) -> Result<()> {
    let count = ROUNDS.to_string();
    let pings: Vec<_> = sites
        .iter()
        .map(|site| {
            let pattern: String = mark(site).bytes().map(|b| format!("{b:02x}")).collect();
            let argv = ["ping", "-q", "-i", "0.01", "-c", &count, "-W", "2", "-p", &pattern, server];
            Ok((site, world.spawn(&site.host(), &argv)?))
        })
        .collect::<Result<_>>()?;
    for (site, running) in pings {
        let output = running.wait(Duration::from_secs(120))?;
        ensure!(output.status.success(), "{} -> {server}: {}", site.host(), String::from_utf8_lossy(&output.stdout));
    }
    Ok(())
}
