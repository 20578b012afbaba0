//! A hostile customer sends what it likes through its tunnel, or as root inside its stack: every packet that is not
//! fine is counted under a named reason, nothing reaches another tenant, daemons and other tenants live on.
//!
//! The packets and what must become of them are in `peers/hostile.py`. They are put on the server's own link, so that no
//! router in between tidies them up.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use system_tests::plan::{Kind, Options, Outer, SERVER_INNER_V4, SERVER_INNER_V6, Site, server_outer};
use system_tests::tenants;
use system_tests::traffic::{Capture, Packet, Pinging, Place, page, reachable, url};
use system_tests::world::{Running, World, eventually};

use crate::floor::{TENANTS, explain, trial, world};

const HOSTILE: &str = include_str!("../peers/hostile.py");
/// Where it lies inside the world.
const PROGRAM: &str = "/run/lab/hostile.py";
/// Mutations from the sites and from inside a tenant; with `FULL` in the environment fifty times as many. The seed is
/// fixed: a failure can be run again.
const FUZZ: (u32, u32) = (20_000, 5_000);
/// Super-packets from inside a tenant with sizes that make no sense.
const SUPER: u32 = 2_000;
const SEED: u32 = 2003_167805;
pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("hostile::over_v4", TENANTS, || hostile(Outer::V4)),
        trial("hostile::over_v6", TENANTS, || hostile(Outer::V6)),
    ]
}

fn hostile(outer: Outer) -> Result<()> {
    let kinds = vec![Kind::Ipip, Kind::Vxlan, Kind::Gre, Kind::Vxlan];
    let world = world("hostile", Options { sites: 4, kinds, keyed: true, outer, ..Options::default() })?;
    explain(&world, check(&world))
}

fn check(world: &World) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    for site in &sites {
        add(world, site)?;
    }
    for site in &sites {
        for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
            reachable(world, &site.host(), server, Duration::from_secs(30))?;
        }
    }
    let daemons = daemons(world)?;
    let who = who(world, &sites)?;
    std::fs::write(world.path(PROGRAM), HOSTILE)?;
    let captures = capture(world, &sites)?;
    let stack = stack(world, &sites[0])?;
    let link = Attacker { world, node: "internet", enter: &[], device: "server", who: &who };
    let tenant = Attacker { world, node: "server", enter: &["nsenter", &stack], device: "dev0", who: &who };
    for (attacker, verb, least) in [(&link, "outside", 85), (&tenant, "inside", 15)] {
        let said = attacker.run(verb, &[])?;
        ensure!(said.lines().count() == 1, "wrongly counted:\n{said}");
        ensure!(said.trim().parse::<u32>()? >= least, "only {said} cases were judged");
    }
    nothing_foreign(world, &sites, captures)?;

    congestion(&link)?;
    outer_follows_inner(world, &sites)?;
    jumbo(&link)?;
    floods(&sites, &link, &tenant)?;
    fuzz(&sites, &link, &tenant)?;

    ensure!(self::daemons(world)? == daemons, "a daemon died: before {daemons}, after {}", self::daemons(world)?);
    for daemon in ["tenantd", "access-server"] {
        ensure!(!world.log(daemon).contains("panicked"), "{daemon} panicked: {}", world.log(daemon));
    }
    alive(world, &sites)
}

/// Adds the site's tenant with its web server. All but the last say what lies behind their tunnel, so that a false
/// source is known as such.
fn add(world: &World, site: &Site) -> Result<()> {
    let mut argv = tenants::add_tenant(world.options(), site);
    if site.index < 3 {
        let tunnel = argv.last_mut().context("no tunnel")?;
        *tunnel += ",prefix=192.168.1.0/24,prefix=fd00:192:168:1::/64";
    }
    for argv in [argv, tenants::add_web(site)] {
        world.ok("server", &argv.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Who is who, for `hostile.py`.
fn who(world: &World, sites: &[Site]) -> Result<String> {
    let outer = world.options().outer;
    let rows: Vec<Value> = serde_json::from_str(&world.ok("server", &["access-server", "list", "--json"])?)?;
    let mut tenants = serde_json::Map::new();
    for site in sites {
        let row = rows.iter().find(|r| r["vlan"] == site.vlan()).context("no row for a site")?;
        let facts = json!({
            "kind": site.kind.word(), "key": site.key.unwrap_or_default(), "vlan": site.vlan(),
            "remote": site.outer(outer), "local": server_outer(outer),
            "mac": row["server_mac"], "gateway_mac": row["gateway_mac"],
        });
        tenants.insert(site.letters(), facts);
    }
    let (server_mac, peer_mac) = (mac(world, "server", "wan0")?, mac(world, "internet", "server")?);
    Ok(json!({ "server_mac": server_mac, "peer_mac": peer_mac, "tenants": tenants }).to_string())
}

fn mac(world: &World, node: &str, device: &str) -> Result<String> {
    let links: Value = serde_json::from_str(&world.ok(node, &["ip", "-j", "link", "show", device])?)?;
    links[0]["address"].as_str().map(str::to_owned).context("a device without address")
}

/// `--net=PATH` of a tenant's stack, for nsenter.
fn stack(world: &World, site: &Site) -> Result<String> {
    let status: Value = serde_json::from_str(&world.ok("server", &["tenantd", "status", &site.tenant(), "--json"])?)?;
    let pid = status["init_pid"].as_i64().with_context(|| format!("no init_pid in {status}"))?;
    Ok(format!("--net=/proc/{pid}/ns/net"))
}

/// Where `hostile.py` sends from.
struct Attacker<'a> {
    world: &'a World,
    node: &'a str,
    /// The way into a stack of the node.
    enter: &'a [&'a str],
    device: &'a str,
    who: &'a str,
}

impl Attacker<'_> {
    fn argv<'a>(&'a self, verb: &'a str, arguments: &'a [&'a str]) -> Vec<&'a str> {
        [self.enter, &["python3", PROGRAM, verb, self.device, self.who], arguments].concat()
    }

    fn run(&self, verb: &str, arguments: &[&str]) -> Result<String> {
        self.world.ok(self.node, &self.argv(verb, arguments))
    }

    fn start(&self, verb: &str, arguments: &[&str]) -> Result<Running> {
        self.world.spawn(self.node, &self.argv(verb, arguments))
    }
}

/// Named counters, added up over what they are kept for.
type Counters = BTreeMap<String, u64>;

/// The access server's: `VLAN/REASON`, and `VLAN/rx` for what was received.
fn outside(world: &World) -> Result<Counters> {
    let rows: Vec<Value> = serde_json::from_str(&world.ok("server", &["access-server", "counters", "--json"])?)?;
    let mut counters = Counters::new();
    for row in rows {
        let vlan = row["vlan"].as_u64().context("no VLAN")?;
        counters.insert(format!("{vlan}/rx"), row["rx_packets"].as_u64().context("no rx_packets")?);
        for (reason, count) in row["drops"].as_object().context("no drops")? {
            counters.insert(format!("{vlan}/{reason}"), count.as_u64().unwrap_or_default());
        }
    }
    Ok(counters)
}

/// Those of tenant a, of its port and at the access server.
fn inside(world: &World) -> Result<Counters> {
    let status: Value = serde_json::from_str(&world.ok("server", &["tenantd", "status", "tenant-a", "--json"])?)?;
    let drops = status["counters"]["drops"].as_object().context("no drops")?;
    Ok(drops.iter().map(|(reason, n)| (reason.clone(), n.as_u64().unwrap_or_default())).collect())
}

/// What was counted in between.
fn counted(before: &Counters, after: &Counters) -> Counters {
    let grown = after.iter().map(|(name, n)| (name.clone(), n - before.get(name).copied().unwrap_or_default()));
    grown.filter(|(_, n)| *n > 0).collect()
}

/// Captures at the ports of all tenants and at all hosts.
fn capture<'a>(world: &World, sites: &'a [Site]) -> Result<Vec<(&'a Site, &'static str, Capture)>> {
    let mut captures = Vec::new();
    for site in sites {
        captures.push((site, "port", Capture::start(world, Place::Room(&format!("p{}", site.vlan())))?));
        captures.push((site, "host", Capture::start(world, Place::Node(&site.host(), "eth0"))?));
    }
    Ok(captures)
}

/// No capture shows a mark of another tenant; the ports of the attacked ones show their own.
fn nothing_foreign(world: &World, sites: &[Site], captures: Vec<(&Site, &str, Capture)>) -> Result<()> {
    for (site, place, capture) in captures {
        let captured = capture.stop(world)?;
        let own = captured.count(&mark(site));
        ensure!(place != "port" || site.index == 3 || own > 0, "the port of {} is deaf", site.tenant());
        for other in sites.iter().filter(|other| other.index != site.index) {
            let foreign = captured.count(&mark(other));
            ensure!(foreign == 0, "the {place} of {} shows {foreign} marks of {}", site.tenant(), other.tenant());
        }
    }
    Ok(())
}

fn mark(site: &Site) -> String {
    format!("<<{}>>", site.letters().repeat(8))
}

/// What the inner mark must be after decapsulation (RFC 6040 section 4.2, figure 4); none: dropped.
fn decapsulated(outer: u16, inner: u16) -> Option<u16> {
    const NOT_ECT: u16 = 0;
    const ECT_1: u16 = 1;
    const ECT_0: u16 = 2;
    const CE: u16 = 3;
    match (outer, inner) {
        (CE, NOT_ECT) => None,
        (CE, _) => Some(CE),
        (ECT_1, ECT_0) => Some(ECT_1),
        (_, inner) => Some(inner),
    }
}

/// All pairs of marks; the inner DSCP stays what it was (pipe model of RFC 2983).
fn congestion(link: &Attacker) -> Result<()> {
    let world = link.world;
    for (tenant, port) in [("a", "p600"), ("b", "p601"), ("c", "p602")] {
        let capture = Capture::start(world, Place::Room(port))?;
        link.run("congestion", &[tenant])?;
        let captured = capture.stop(world)?;
        let fields = ["ip.dst", "ipv6.dst", "ip.dsfield", "ipv6.tclass", "udp.dstport", "icmp.type", "icmpv6.type"];
        let packets = captured.packets(world, &fields)?;
        for (to, server, mark) in
            [("ip.dst", SERVER_INNER_V4, "ip.dsfield"), ("ipv6.dst", SERVER_INNER_V6, "ipv6.tclass")]
        {
            // Errors of the stack quote what they answer.
            let error = |p: &Packet| !p.all("icmp.type").is_empty() || !p.all("icmpv6.type").is_empty();
            let seen: BTreeMap<u16, u16> = packets
                .iter()
                .filter(|p| p.outer(to) == server && !error(p))
                .filter_map(|p| Some((p.outer("udp.dstport").parse().ok()?, number(p.outer(mark))?)))
                .collect();
            for outer in 0..4 {
                for inner in 0..4 {
                    let found = seen.get(&(10000 + outer * 4 + inner)).copied();
                    let expected = decapsulated(outer, inner).map(|ecn| 0xb8 | ecn);
                    ensure!(
                        found == expected,
                        "{port}, to {server}: outer mark {outer} over {inner} became {found:x?}, not {expected:x?}; of {} packets: {seen:x?}",
                        packets.len()
                    );
                }
            }
        }
    }
    Ok(())
}

fn number(text: &str) -> Option<u16> {
    let text = text.trim();
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u16::from_str_radix(hex, 16).ok())
}

/// DSCP and mark of what the tenants send are the outer ones too.
fn outer_follows_inner(world: &World, sites: &[Site]) -> Result<()> {
    let capture = Capture::start(world, Place::Node("server", "wan0"))?;
    let values = [0x00, 0x02, 0x28, 0x49, 0xb9, 0xba, 0xe0];
    for site in &sites[..3] {
        for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
            for value in values {
                let value = value.to_string();
                // The stack answers with the request's value.
                world.ok(&site.host(), &["ping", "-q", "-c", "1", "-W", "10", "-Q", &value, server])?;
            }
        }
    }
    let captured = capture.stop(world)?;
    let version = world.options().outer;
    let (from, outer) = match version {
        Outer::V4 => ("ip.src", "ip.dsfield"),
        Outer::V6 => ("ipv6.src", "ipv6.tclass"),
    };
    let mut compared = 0;
    let fields = ["ip.src", "ipv6.src", "ip.dsfield", "ipv6.tclass", "icmp.type", "icmpv6.type"];
    for packet in captured.packets(world, &fields)? {
        let inner = match (packet.outer("icmp.type"), packet.outer("icmpv6.type")) {
            ("0", _) => "ip.dsfield",
            (_, "129") => "ipv6.tclass",
            _ => continue,
        };
        if packet.outer(from) == server_outer(version) {
            let (first, last) = (number(packet.outer(outer)), packet.all(inner).last().and_then(|v| number(v)));
            ensure!(first.is_some() && first == last, "outer {first:x?} around inner {last:x?}: {packet:?}");
            compared += 1;
        }
    }
    let expected = 3 * 2 * values.len();
    ensure!(compared >= expected, "only {compared} answers of {expected} were seen");
    Ok(())
}

/// Longer than a port takes, from a link that takes more: dropped by name, whoever sent it.
fn jumbo(link: &Attacker) -> Result<()> {
    let world = link.world;
    for (node, device) in [("internet", "server"), ("server", "wan0")] {
        world.ok(node, &["ip", "link", "set", device, "mtu", "9000"])?;
    }
    let before = inside(world)?;
    link.run("jumbo", &[])?;
    let judged = eventually("two jumbo packets are counted", Duration::from_secs(20), || {
        let counted = counted(&before, &inside(world).ok()?);
        (counted.get("port_too_long") == Some(&2)).then_some(())
    });
    judged.with_context(|| format!("counted {:?}", inside(world).map(|after| counted(&before, &after))))?;
    for (node, device) in [("internet", "server"), ("server", "wan0")] {
        world.ok(node, &["ip", "link", "set", device, "mtu", "1500"])?;
    }
    Ok(())
}

/// Neighbour questions as fast as they can be sent, from ever new addresses. The table of neighbours is one for the whole
/// machine: the others still find theirs.
fn floods(sites: &[Site], link: &Attacker, tenant: &Attacker) -> Result<()> {
    let world = link.world;
    let other = stack(world, &sites[1])?;
    for (what, attacker, flooded, reason) in [
        ("tunnel-arp", link, &sites[3], "port_arp_policed"),
        ("tunnel-nd", link, &sites[3], "port_nd_policed"),
        ("tenant-arp", tenant, &sites[0], "port_arp_rate"),
        ("tenant-nd", tenant, &sites[0], "port_nd_rate"),
    ] {
        let (before, overrun) = (drops(world, flooded, reason)?, backlog_drops()?);
        let flooding = attacker.start("flood", &[what, "1.5"])?;
        // Meanwhile another tenant forgets its neighbour and finds it again, and a third one just works.
        for _ in 0..3 {
            world.ok("server", &["nsenter", &other, "ip", "neigh", "flush", "all"])?;
            for (site, server) in
                [(&sites[1], SERVER_INNER_V4), (&sites[1], SERVER_INNER_V6), (&sites[2], SERVER_INNER_V4)]
            {
                // Any of three: what a processor cannot take in any more during a flood is lost before it comes to us.
                let pinged = world.ok(&site.host(), &["ping", "-q", "-c", "3", "-i", "0.1", "-W", "2", server]);
                pinged.with_context(|| format!("{} during {what}", site.host()))?;
            }
        }
        let output = flooding.wait(Duration::from_secs(120))?;
        let sent: u64 = String::from_utf8_lossy(&output.stdout)
            .trim()
            .parse()
            .with_context(|| format!("{what}: {}", String::from_utf8_lossy(&output.stderr)))?;
        ensure!(sent > 2000, "{what}: only {sent} questions were sent, no flood");
        // What came no further than a processor's queue of packets never was at the port.
        let lost = backlog_drops()? - overrun;
        let mut dropped = 0;
        let most = eventually("most are dropped", Duration::from_secs(10), || {
            dropped = drops(world, flooded, reason).ok()? - before;
            (dropped > sent.saturating_sub(lost) / 2).then_some(())
        });
        ensure!(
            most.is_ok() && dropped > 0,
            "{what}: of {sent} questions {dropped} were dropped as {reason}, {lost} before that"
        );
    }
    Ok(())
}

/// Packets that found a processor's queue full, all over the machine: the second number of each line.
fn backlog_drops() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/net/softnet_stat")?;
    let dropped = |line: &str| Some(u64::from(u32::from_str_radix(line.split_whitespace().nth(1)?, 16).ok()?));
    Ok(text.lines().filter_map(dropped).sum())
}

fn drops(world: &World, site: &Site, reason: &str) -> Result<u64> {
    let status: Value = serde_json::from_str(&world.ok("server", &["tenantd", "status", &site.tenant(), "--json"])?)?;
    Ok(status["counters"]["drops"][reason].as_u64().unwrap_or_default())
}

/// Random mutations of packets that are fine, from three sites and from root inside a tenant.
fn fuzz(sites: &[Site], link: &Attacker, tenant: &Attacker) -> Result<()> {
    let world = link.world;
    let captures = capture(world, sites)?;
    let before = (outside(world)?, inside(world)?);
    let times = if std::env::var_os("FULL").is_some() { 50 } else { 1 };
    for (attacker, verb, count) in [(link, "fuzz", times * FUZZ.0), (tenant, "fuzz-tenant", times * FUZZ.1)] {
        attacker.run(verb, &[&SEED.to_string(), &count.to_string()])?;
    }
    let taken: u32 = tenant.run("fuzz-super", &[&SEED.to_string(), &(times * SUPER).to_string()])?.trim().parse()?;
    ensure!(taken > SUPER / 20, "the kernel took only {taken} super-packets");
    nothing_foreign(world, sites, captures)?;
    // Most went as deep as they should: not a fuzz of the first check alone.
    let counted = (counted(&before.0, &outside(world)?), counted(&before.1, &inside(world)?));
    let sum: u64 = counted.0.values().sum();
    ensure!(sum > u64::from(FUZZ.0) / 2, "only {sum} of {} mutations were ours: {:?}", FUZZ.0, counted.0);
    ensure!(counted.0.len() >= 25, "few ways were met: {:?}", counted.0);
    ensure!(counted.1.len() >= 6, "few ways were met from inside: {:?}", counted.1);
    Ok(())
}

/// The daemons' processes. Their children look like them for a moment, before they become what they are to be: what two
/// looks see.
fn daemons(world: &World) -> Result<String> {
    let find = "for d in /proc/[0-9]*; do c=$(tr '\\0' ' ' <$d/cmdline 2>/dev/null) && \
                case \"$c\" in 'tenantd run '*|'access-server '*) echo ${d#/proc/} $c;; esac; done; true";
    let look = || world.ok("server", &["sh", "-c", find]).ok();
    eventually("the same daemons twice", Duration::from_secs(30), || {
        look().filter(|found| look().as_ref() == Some(found))
    })
}

/// Every host is served its own tenant's page, no ping is lost.
fn alive(world: &World, sites: &[Site]) -> Result<()> {
    for site in sites {
        for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
            // A layer 2 site that lied about its neighbours believes itself for up to 10 s: the others must answer
            // before.
            let limit = if site.kind == Kind::Vxlan { 40 } else { 8 };
            reachable(world, &site.host(), server, Duration::from_secs(limit))?;
            Pinging::start(world, &site.host(), server, 20)?.all_answered()?;
            let got = page(world, &site.host(), &url("http", server), &[])?;
            ensure!(got.trim() == tenants::page(site), "{} was served {got:?} by {server}", site.host());
        }
    }
    Ok(())
}
