//! Access server and server on two machines: the trunk is a cable between a card of each, and all they share is that
//! cable and the access server's API. The cable is a veth pair between two namespaces; one end moves on into the patch
//! room, as a card does.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use system_tests::plan::{Kind, Options, SERVER_INNER_V4, SERVER_INNER_V6, Site};
use system_tests::tenants;
use system_tests::traffic::{Pinging, page, reachable, url};
use system_tests::world::{Running, World, eventually};

use crate::daemons::{ACCESS, Daemon, shell};
use crate::floor::{TENANTS, explain, trial, world};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("two_boxes::a_cable_is_the_trunk", TENANTS, || {
        let kinds = vec![Kind::Ipip, Kind::Vxlan];
        let world = world("boxes", Options { sites: 2, kinds, server: false, ..Options::default() })?;
        let boxes = Boxes::start(&world)?;
        explain(&world, check(&world, boxes))
    })]
}

/// The second machine: the world's node `server` is the first one, with the access server.
const BOX: &str = "/run/netns/box";
/// The access server's end of the cable.
const NEAR: &str = "cable0";
/// The server's card.
const CARD: &str = "card0";
/// Pings of which none may be lost.
const PINGS: u32 = 300;

struct Boxes {
    access: (Daemon, Running),
    tenantd: (Daemon, Running),
}

impl Boxes {
    fn start(world: &World) -> Result<Self> {
        shell(
            world,
            "server",
            &format!(
                "ip netns add box
ip -n box link set lo up
ip link add {NEAR} type veth peer name {CARD} netns box
ip link set {NEAR} addrgenmode none up
ip -n box link set {CARD} addrgenmode none up"
            ),
        )?;
        // Either may come first: the access server has its card, tenantd asks again until it is there.
        let start = |daemon: Daemon| daemon.start(world).map(|running| (daemon, running));
        let tenantd = start(Daemon::tenantd(CARD, ACCESS).within(BOX))?;
        let access = start(Daemon::access_server(NEAR))?;
        Ok(Self { access, tenantd })
    }
}

fn check(world: &World, boxes: Boxes) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    shell(world, "server", &format!("! ip -n box link show {CARD} 2>/dev/null"))
        .context("the card is still outside the patch room")?;
    for site in &sites {
        tenants::add(world, site)?;
    }
    pages(world, &sites)?;
    modes(world, &sites)?;
    let rows = rows(world)?;
    // What runs is held to the end: the other daemon needs it.
    let mut running = Vec::new();
    for boxed in [boxes.tenantd, boxes.access] {
        running.push(killed(world, &sites, boxed)?);
        let same = eventually("the same rows again", Duration::from_secs(30), || {
            self::rows(world).ok().filter(|now| *now == rows)
        });
        same.with_context(|| format!("before: {rows:#}"))?;
    }
    pages(world, &sites)
}

fn pages(world: &World, sites: &[Site]) -> Result<()> {
    for site in sites {
        for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
            reachable(world, &site.host(), server, Duration::from_secs(30))?;
            let got = page(world, &site.host(), &url("http", server), &["--retry", "5", "--retry-connrefused"])?;
            ensure!(got.trim() == tenants::page(site), "{} was served {got:?}", site.host());
        }
    }
    Ok(())
}

fn pings(world: &World, sites: &[Site]) -> Result<Vec<Pinging>> {
    let targets = [SERVER_INNER_V4, SERVER_INNER_V6];
    let each = |site: &Site| targets.map(|server| Pinging::start(world, &site.host(), server, PINGS));
    sites.iter().flat_map(each).collect()
}

/// How each side gets onto the trunk. The access server finds a veth whose other end is elsewhere and hops straight to
/// that end: its own device counts nothing. tenantd was given a card and sends through it as through any card.
fn modes(world: &World, sites: &[Site]) -> Result<()> {
    let sent = |device: &str, netns: &str| -> Result<u64> {
        let said =
            world.ok("server", &["nsenter", &format!("--net={netns}"), "ip", "-j", "-s", "link", "show", device])?;
        let links: Value = serde_json::from_str(&said)?;
        links[0]["stats64"]["tx"]["packets"].as_u64().with_context(|| said)
    };
    let counters =
        || Ok::<_, anyhow::Error>((sent(NEAR, "/run/netns/server")?, sent(CARD, "/run/tenantd/main/patchroom")?));
    let before = counters()?;
    for ping in pings(world, sites)? {
        ping.all_answered()?;
    }
    let after = counters()?;
    let all = u64::from(PINGS) * 2 * sites.len() as u64;
    let (near, card) = (after.0 - before.0, after.1 - before.1);
    ensure!(near < all / 10, "{near} packets went through the access server's end of a veth, {all} requests");
    ensure!(card >= all, "{card} packets went through the server's card, {all} answers");
    Ok(())
}

/// A daemon that is killed during traffic and started again loses none of it.
fn killed(world: &World, sites: &[Site], (daemon, running): (Daemon, Running)) -> Result<Running> {
    let pings = pings(world, sites)?;
    std::thread::sleep(Duration::from_millis(500));
    daemon.kill(world, running)?;
    std::thread::sleep(Duration::from_millis(300));
    let running = daemon.start(world)?;
    for ping in pings {
        ping.all_answered()?;
    }
    Ok(running)
}

/// The tables as both daemons tell them.
fn rows(world: &World) -> Result<Value> {
    let map: Value = serde_json::from_str(&world.ok("server", &["tenantd", "map", "--json"])?)?;
    let access: Value = serde_json::from_str(&world.ok("server", &["access-server", "list", "--json"])?)?;
    Ok(serde_json::json!({ "map": map, "access": access }))
}
