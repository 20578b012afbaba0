//! One closed network with several sites: each has a tunnel and the prefixes behind it. Longest prefix wins, a source
//! must lie behind its own site, a site comes and goes without the others noticing.
//!
//! Every host has an address of every site, so a packet that takes a wrong way is answered, by the wrong host.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use system_tests::plan::{Gateway, Kind, Options, Outer, SERVER_INNER_V4, SERVER_INNER_V6, Site};
use system_tests::traffic::{Capture, Pinging, Place, reachable, url};
use system_tests::world::{Running, World, eventually};

use crate::daemons::{Daemon, shell, web};
use crate::floor::{TENANTS, explain, trial, world};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("sites::longest_prefix_wins", TENANTS, || with_sites(longest_prefix_wins)),
        trial("sites::a_source_lies_behind_its_own_site", TENANTS, || with_sites(own_sources)),
        trial("sites::replies_leave_by_the_right_site", TENANTS, || with_sites(replies)),
        trial("sites::one_comes_and_goes_while_others_ping", TENANTS, || with_sites(come_and_go)),
    ]
}

/// The tenant and its VLAN.
const TENANT: &str = "acme";
const VLAN: &str = "600";

/// Prefixes behind the sites a, b, c: each lies in the one before.
const PREFIXES: [[&str; 2]; 3] =
    [["10.0.0.0/8", "fd10::/16"], ["10.2.0.0/16", "fd10:2::/32"], ["10.2.3.0/24", "fd10:2:3::/48"]];
/// The address each site's host speaks from.
const OWN: [[&str; 2]; 3] = [["10.1.0.10", "fd10:1::10"], ["10.2.0.10", "fd10:2::10"], ["10.2.3.10", "fd10:2:3::10"]];
/// More addresses, with the number of the site they belong to: the edges of the prefixes.
const EDGES: [(&str, usize); 9] = [
    ("10.255.255.254", 0),
    ("10.3.0.0", 0),
    ("10.1.255.255", 0),
    ("10.2.2.255", 1),
    ("10.2.4.0", 1),
    ("10.2.3.1", 2),
    ("10.2.3.255", 2),
    ("fd10:3::1", 0),
    ("fd10:2:4::1", 1),
];

/// A closed network with the sites a, b, c; each has a gateway of ours.
fn with_sites(check: impl FnOnce(&World, &[Site]) -> Result<()>) -> Result<()> {
    let kinds = vec![Kind::Ipip, Kind::Gre, Kind::Ipip];
    let world = world("sites", Options { kinds, gateway: Gateway::None, ..Options::default() })?;
    let sites: Vec<Site> = world.options().sites().collect();
    let _gateways = sites
        .iter()
        .map(|site| Daemon::site(site, &[SERVER_INNER_V4, SERVER_INNER_V6]).start(&world))
        .collect::<Result<Vec<Running>>>()?;
    for site in &sites {
        hosts_addresses(&world, site)?;
    }
    let made = || -> Result<()> {
        let mut argv: Vec<String> = ["tenantd", "add-tenant", TENANT, "--vlan", VLAN].map(String::from).to_vec();
        argv.extend(["--address".into(), format!("{SERVER_INNER_V4}/24")]);
        argv.extend(["--address".into(), format!("{SERVER_INNER_V6}/64")]);
        for (number, site) in sites.iter().enumerate() {
            argv.extend(["--tunnel".into(), tunnel(site, &PREFIXES[number])]);
        }
        world.ok("server", &argv.iter().map(String::as_str).collect::<Vec<_>>())?;
        check(&world, &sites)
    };
    explain(&world, made())
}

/// All addresses of all sites on the site's host, and the server as a neighbour.
fn hosts_addresses(world: &World, site: &Site) -> Result<()> {
    let mut script = format!(
        "ip address flush dev eth0 scope global
ip route add {SERVER_INNER_V4} dev eth0
ip -6 route add {SERVER_INNER_V6} dev eth0
"
    );
    for address in OWN.iter().flatten().copied().chain(EDGES.map(|(address, _)| address)) {
        let (version, length) = if address.contains(':') { ("-6", "128 nodad") } else { ("-4", "32") };
        script += &format!("ip {version} address add {address}/{length} dev eth0\n");
    }
    shell(world, &site.host(), &script.replace("/128 nodad dev eth0", "/128 dev eth0 nodad")).map(drop)
}

fn tunnel(site: &Site, prefixes: &[&str]) -> String {
    let prefixes: String = prefixes.iter().map(|prefix| format!(",prefix={prefix}")).collect();
    format!("{}{prefixes}", site.server_tunnel(Outer::V4))
}

/// What the access server dropped of the tenant, by reason.
fn drops(world: &World, reason: &str) -> Result<u64> {
    let rows: Value = serde_json::from_str(&world.ok("server", &["access-server", "counters", "--json"])?)?;
    let row = rows
        .as_array()
        .into_iter()
        .flatten()
        .find(|row| row["vlan"].as_u64().map(|v| v.to_string()).as_deref() == Some(VLAN));
    Ok(row.context("no counters of the VLAN")?["drops"][reason].as_u64().unwrap_or(0))
}

fn longest_prefix_wins(world: &World, sites: &[Site]) -> Result<()> {
    let _webs = sites.iter().map(|site| web(world, &site.host(), &site.host())).collect::<Result<Vec<_>>>()?;
    let own = OWN.iter().enumerate().flat_map(|(number, both)| both.map(|address| (address, number)));
    for (address, number) in own.chain(EDGES) {
        let url = url("http", address);
        let argv = ["tenantd", "exec", TENANT, "--", "curl", "-sS", "-g", "--max-time", "20", &url];
        let got = world.ok("server", &argv)?;
        ensure!(got == sites[number].host(), "{address} lies behind {}, {got:?} answered", sites[number].host());
    }
    for outside in ["172.16.0.1", "fd11::1"] {
        let url = url("http", outside);
        let argv = ["tenantd", "exec", TENANT, "--", "curl", "-sS", "-g", "--max-time", "20", &url];
        let output = world.exec("server", &argv)?;
        // 7: could not connect. A time-out (28) would mean that nobody told.
        ensure!(output.status.code() == Some(7), "{outside} lies behind no site: {output:?}");
    }
    Ok(())
}

fn own_sources(world: &World, sites: &[Site]) -> Result<()> {
    let port = format!("p{VLAN}");
    let capture = Capture::start(world, Place::Room(&port))?;
    let before = drops(world, "inner_source")?;
    let mut pings = Vec::new();
    for (number, site) in sites.iter().enumerate() {
        for (family, server) in [SERVER_INNER_V4, SERVER_INNER_V6].into_iter().enumerate() {
            for (source, both) in OWN.iter().enumerate() {
                let ping = ["ping", "-q", "-c", "3", "-i", "0.05", "-W", "5", "-I", both[family], server];
                pings.push((number, source, world.spawn(&site.host(), &ping)?));
            }
        }
    }
    let mut strangers = 0;
    for (number, source, ping) in pings {
        let output = ping.wait(Duration::from_secs(60))?;
        let words = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success() == (source == number), "site {number} as site {source}: {words}");
        strangers += if source == number { 0 } else { 3 };
    }
    let dropped = drops(world, "inner_source")? - before;
    ensure!(dropped == strangers, "{strangers} packets with a source of another site, {dropped} dropped by that name");
    // Six of the nine combinations of each family never reached the tenant, and the answers are its own.
    let captured = capture.stop(world)?;
    let requests = captured.packets(world, &["icmp.type", "icmpv6.type"])?;
    let seen = requests.iter().filter(|p| p.outer("icmp.type") == "8" || p.outer("icmpv6.type") == "128").count();
    ensure!(seen == 3 * 3 * 2, "{seen} requests reached the port");
    Ok(())
}

fn replies(world: &World, sites: &[Site]) -> Result<()> {
    for (number, site) in sites.iter().enumerate() {
        for (server, source) in [SERVER_INNER_V4, SERVER_INNER_V6].into_iter().zip(OWN[number]) {
            world.ok(&site.host(), &["ping", "-q", "-c", "1", "-W", "10", "-I", source, server])?;
        }
    }
    let capture = Capture::start(world, Place::Node("server", "wan0"))?;
    for (number, site) in sites.iter().enumerate() {
        for (server, source) in [SERVER_INNER_V4, SERVER_INNER_V6].into_iter().zip(OWN[number]) {
            world.ok(&site.host(), &["ping", "-q", "-c", "10", "-i", "0.02", "-W", "10", "-I", source, server])?;
        }
    }
    let captured = capture.stop(world)?;
    let packets = captured.packets(world, &["ip.src", "ip.dst", "ipv6.dst", "icmp.type", "icmpv6.type"])?;
    for (number, site) in sites.iter().enumerate() {
        let gateway = site.outer(Outer::V4);
        for (field, kind, answer) in [("ip.dst", "icmp.type", "0"), ("ipv6.dst", "icmpv6.type", "129")] {
            let source = OWN[number][usize::from(field == "ipv6.dst")];
            let replies: Vec<_> = packets
                .iter()
                .filter(|p| p.outer(kind) == answer && p.all(field).iter().any(|d| d == source))
                .collect();
            let right = replies.iter().filter(|p| p.outer("ip.dst") == gateway).count();
            ensure!(
                replies.len() == 10 && right == 10,
                "{right} of {} replies to {source} left to {gateway}",
                replies.len()
            );
        }
    }
    Ok(())
}

fn come_and_go(world: &World, sites: &[Site]) -> Result<()> {
    let mut pings = Vec::new();
    for (number, site) in sites.iter().take(2).enumerate() {
        for (server, source) in [SERVER_INNER_V4, SERVER_INNER_V6].into_iter().zip(OWN[number]) {
            shell(world, &site.host(), &format!("ip route replace {server} dev eth0 src {source}"))?;
            reachable(world, &site.host(), server, Duration::from_secs(30))?;
            pings.push(Pinging::start(world, &site.host(), server, 300)?);
        }
    }
    let c = &sites[2];
    let (whole, other) = (tunnel(c, &PREFIXES[2]), tunnel(c, &["10.2.8.0/24"]));
    let change = |verb: &str, tunnel: &str| world.ok("server", &["tenantd", verb, TENANT, tunnel]);
    let [v4, v6] = OWN[2];
    let answered = |source: &str, server: &str| -> Result<bool> {
        Ok(world.exec(&c.host(), &["ping", "-q", "-c", "1", "-W", "1", "-I", source, server])?.status.success())
    };
    for _ in 0..2 {
        // An answer may be late on a busy machine; where none may come, one is enough.
        eventually("site c is there and answered", Duration::from_secs(30), || {
            (answered(v4, SERVER_INNER_V4).ok()? && answered(v6, SERVER_INNER_V6).ok()?).then_some(())
        })?;
        change("remove-tunnel", &tunnel(c, &[]))?;
        ensure!(!answered(v4, SERVER_INNER_V4)?, "site c is removed and answered");
        change("add-tunnel", &other)?;
        ensure!(!answered(v4, SERVER_INNER_V4)?, "site c has other prefixes and its old address is answered");
        change("add-tunnel", &whole)?;
    }
    for ping in pings {
        ping.all_answered()?;
    }
    Ok(())
}
