//! A tenant that routes between its sites: what comes out of one tunnel goes into another. The kernel's mark of the
//! first encapsulation is still on the packet then, so this works per pair of kinds or not at all.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use system_tests::plan::{Gateway, Kind, Options, Outer, SERVER_INNER_V4, SERVER_INNER_V6, Site};
use system_tests::traffic::{Pinging, page, reachable, url};
use system_tests::world::{Running, World, eventually};

use crate::daemons::{Daemon, shell, vxlan_gateway, web};
use crate::floor::{TENANTS, explain, trial, world};

pub(crate) fn trials() -> Vec<Trial> {
    let pairs = [
        ("ipip_to_ipip", Kind::Ipip, Kind::Ipip),
        ("gre_to_gre", Kind::Gre, Kind::Gre),
        ("vxlan_to_vxlan", Kind::Vxlan, Kind::Vxlan),
        ("ipip_to_gre", Kind::Ipip, Kind::Gre),
        ("ipip_to_vxlan", Kind::Ipip, Kind::Vxlan),
        ("gre_to_vxlan", Kind::Gre, Kind::Vxlan),
    ];
    pairs
        .into_iter()
        .map(|(name, a, b)| trial(&format!("between_sites::{name}"), TENANTS, move || between(vec![a, b])))
        .collect()
}

/// Answers datagrams with its mark and what it was sent.
const ECHO: &str = include_str!("../peers/echo.py");
/// Sends datagrams of several sizes and prints each answer's mark, or that there was none.
const DATAGRAMS: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(2)
for size in 1, 500, 1300:
    sent = bytes([size % 256]) * size
    s.sendto(sent, (sys.argv[1], 7001))
    try:
        mark, got = s.recv(65535).split(b" ", 1)
        print(mark.decode() if got == sent else "other bytes")
    except TimeoutError:
        print("no answer")
"#;
/// Bytes of a long transfer: many super-packets.
const LONG: usize = 2_000_000;
/// Of each site: its prefixes and its host's addresses.
const PREFIXES: [[&str; 2]; 2] =
    [["192.168.1.0/25", "fd00:192:168:1::/96"], ["192.168.1.128/25", "fd00:192:168:1:1::/80"]];
const HOSTS: [[&str; 2]; 2] = [["192.168.1.10", "fd00:192:168:1::10"], ["192.168.1.130", "fd00:192:168:1:1::130"]];

fn between(kinds: Vec<Kind>) -> Result<()> {
    let world = world("between", Options { sites: 2, kinds, gateway: Gateway::None, ..Options::default() })?;
    let sites: Vec<Site> = world.options().sites().collect();
    let mut gateways = Vec::new();
    let mut argv: Vec<String> = ["tenantd", "add-tenant", "acme", "--vlan", "600"].map(String::from).to_vec();
    argv.extend([
        "--address".into(),
        format!("{SERVER_INNER_V4}/24"),
        "--address".into(),
        format!("{SERVER_INNER_V6}/64"),
    ]);
    for (number, site) in sites.iter().enumerate() {
        gateways.extend(gateway(&world, site, HOSTS[1 - number])?);
        host(&world, site, HOSTS[number], HOSTS[1 - number])?;
        let [v4, v6] = PREFIXES[number];
        argv.extend(["--tunnel".into(), format!("{},prefix={v4},prefix={v6}", site.server_tunnel(Outer::V4))]);
    }
    let check = || -> Result<()> {
        world.ok("server", &argv.iter().map(String::as_str).collect::<Vec<_>>())?;
        forward(&world)?;
        traffic(&world, &sites)?;
        on_the_link(&world, &sites)
    };
    explain(&world, check())
}

/// The site's gateway: ours for layer 3, which answers on the LAN for the server and the other site's host.
fn gateway(world: &World, site: &Site, other: [&str; 2]) -> Result<Option<Running>> {
    if site.kind == Kind::Vxlan {
        vxlan_gateway(world, &site.gw(), &[("lan0", site.key.unwrap_or_default())], &site.outer(Outer::V4))?;
        return Ok(None);
    }
    let [v4, v6] = other;
    Daemon::site(site, &[SERVER_INNER_V4, SERVER_INNER_V6, v4, v6]).start(world).map(Some)
}

fn host(world: &World, site: &Site, own: [&str; 2], other: [&str; 2]) -> Result<()> {
    let ([v4, v6], [other4, other6]) = (own, other);
    let mut script = format!(
        "ip address flush dev eth0 scope global
ip address add {v4}/32 dev eth0
ip -6 address add {v6}/128 dev eth0 nodad
ip route add {SERVER_INNER_V4} dev eth0 src {v4}
ip -6 route add {SERVER_INNER_V6} dev eth0 src {v6}
echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_redirects
"
    );
    // The tenant's kernel tells hosts of layer 2 that the other one is on their link; nobody bridges the two sites.
    // On layer 2 the host sends to the router that the tenant is; on layer 3 the gateway looks like the other host.
    let via = |server: &str| if site.kind == Kind::Vxlan { format!("via {server}") } else { String::new() };
    script += &format!(
        "ip route add {other4} {} dev eth0 src {v4}
ip -6 route add {other6} {} dev eth0 src {v6}
",
        via(SERVER_INNER_V4),
        via(SERVER_INNER_V6)
    );
    shell(world, &site.host(), &script).map(drop)
}

/// The tenant forwards, as its root could switch on.
fn forward(world: &World) -> Result<()> {
    let status: Value = serde_json::from_str(&world.ok("server", &["tenantd", "status", "acme", "--json"])?)?;
    let net = format!("--net=/proc/{}/ns/net", status["init_pid"].as_i64().context("no init")?);
    let script = "cd /proc/sys/net
echo 1 >ipv4/ip_forward
echo 0 >ipv4/conf/all/send_redirects
echo 0 >ipv4/conf/dev0/send_redirects
echo 1 >ipv6/conf/all/forwarding";
    world.ok("server", &["nsenter", &net, "sh", "-ec", script]).map(drop)
}

/// Hosts of every layer 2 site reach the tenant by addresses that mean something on a link only.
fn on_the_link(world: &World, sites: &[Site]) -> Result<()> {
    let argv = ["tenantd", "exec", "acme", "--", "ip", "-o", "-6", "address", "show", "dev", "dev0", "scope", "link"];
    let said = world.ok("server", &argv)?;
    let own = said.split_whitespace().find_map(|word| word.strip_suffix("/64"));
    for site in sites.iter().filter(|site| site.kind == Kind::Vxlan) {
        let address = format!("{}%eth0", own.with_context(|| format!("no link-local address: {said}"))?);
        for size in ["8", "56"] {
            world
                .ok(&site.host(), &["ping", "-q", "-c", "3", "-i", "0.1", "-W", "2", "-s", size, &address])
                .context("the tenant's link-local address")?;
        }
    }
    Ok(())
}

fn traffic(world: &World, sites: &[Site]) -> Result<()> {
    let _webs = sites.iter().map(|site| web(world, &site.host(), &site.host())).collect::<Result<Vec<_>>>()?;
    let _echoes = sites
        .iter()
        .map(|site| world.spawn(&site.host(), &["python3", "-c", ECHO, &site.host()]))
        .collect::<Result<Vec<_>>>()?;
    for (number, site) in sites.iter().enumerate() {
        let other = &sites[1 - number];
        for address in HOSTS[1 - number] {
            reachable(world, &site.host(), address, Duration::from_secs(30))?;
            for size in ["56", "1200"] {
                world.ok(&site.host(), &["ping", "-q", "-c", "5", "-i", "0.02", "-W", "2", "-s", size, address])?;
            }
            Pinging::start(world, &site.host(), address, 50)?.all_answered()?;
            let answers = eventually("the echo is up", Duration::from_secs(60), || {
                let said = world.ok(&site.host(), &["python3", "-c", DATAGRAMS, address]).ok()?;
                (!said.contains("no answer")).then_some(said)
            })?;
            ensure!(answers.lines().all(|mark| mark == other.host()), "{address} answers {answers:?}");
            let got = page(world, &site.host(), &url("http", address), &[])?;
            ensure!(got == other.host(), "{} asked {address}, {got:?} answered", site.host());
            long_answer(world, &site.host(), address, &got)?;
        }
    }
    Ok(())
}

/// Fetches a long answer, the mark of the other host again and again, within 5 s: where super-packets are lost it takes
/// far longer each time. One of three must be in time, for the machine may stand still meanwhile.
fn long_answer(world: &World, host: &str, address: &str, mark: &str) -> Result<()> {
    let url = format!("{}{LONG}", url("http", address));
    let mut got = Vec::new();
    for _ in 0..3 {
        got = world.exec(host, &["curl", "-s", "-g", "--max-time", "5", &url])?.stdout;
        if got.len() == LONG {
            break;
        }
    }
    ensure!(got.len() == LONG, "{host} got {} of {LONG} bytes from {address}", got.len());
    ensure!(got.iter().zip(mark.bytes().cycle()).all(|(a, b)| *a == b), "{host} got other bytes from {address}");
    Ok(())
}
