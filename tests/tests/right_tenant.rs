//! Path MTU, whom it concerns and nobody else: a router in the internet tells the tunnel's end of a narrow link, the end
//! tells tenant and host of that tunnel, the other tenant with the same addresses hears nothing. What may be cut is
//! cut, also what is a fragment already. The outer header never allows cutting. A lie from the internet harms little.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use system_tests::plan::{
    HOST_INNER_V4, HOST_INNER_V6, Kind, Options, Outer, SERVER_INNER_V4, SERVER_INNER_V6, SERVER_OUTER_V4, Site,
};
use system_tests::traffic::{Capture, Place, reachable};
use system_tests::world::{World, eventually};

use crate::floor::{TENANTS, explain, trial, with_tenants};
use crate::transfer::{from_host, in_stack, serve_at_tenant};

/// MTU of the narrow link.
const NARROW: u32 = 1400;

pub(crate) fn trials() -> Vec<Trial> {
    // The inner MTU behind the narrow link: less the outer headers.
    let cases = [
        ("ipip", Kind::Ipip, false, Outer::V4, NARROW - 20),
        ("ipip_over_v6", Kind::Ipip, false, Outer::V6, NARROW - 40),
        ("gre_keyed", Kind::Gre, true, Outer::V4, NARROW - 28),
        ("vxlan", Kind::Vxlan, false, Outer::V4, NARROW - 50),
        ("vxlan_over_v6", Kind::Vxlan, false, Outer::V6, NARROW - 70),
    ];
    let mut trials: Vec<Trial> = cases
        .into_iter()
        .map(|(name, kind, keyed, outer, mtu)| {
            let options = Options { sites: 2, kinds: vec![kind], keyed, outer, ..Options::default() };
            trial(&format!("right_tenant::{name}"), TENANTS, move || {
                let world = with_tenants("right", options)?;
                explain(&world, right_tenant(&world, mtu))
            })
        })
        .collect();
    trials.push(trial("right_tenant::a_forged_answer_stops_nothing", TENANTS, || {
        let world = with_tenants("forged", Options { sites: 1, ..Options::default() })?;
        explain(&world, forged(&world))
    }));
    trials
}

fn right_tenant(world: &World, mtu: u32) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    let [site, other] = sites.as_slice() else { anyhow::bail!("two sites") };
    for host in [site.host(), other.host()] {
        for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
            reachable(world, &host, server, Duration::from_secs(30))?;
        }
    }
    world.ok("internet", &["ip", "link", "set", &site.gw(), "mtu", &NARROW.to_string()])?;
    world.ok("internet", &["ip", "link", "set", "server", "mtu", &NARROW.to_string()])?;
    let wan = Capture::start(world, Place::Node("server", "wan0"))?;
    let others = [Place::Room(&format!("p{}", other.vlan())), Place::Node(&other.host(), "eth0")]
        .map(|place| Capture::start(world, place));

    for host in [HOST_INNER_V4, HOST_INNER_V6] {
        told(mtu, |argv| in_stack(world, site, argv), host)?;
    }
    if site.kind == Kind::Vxlan {
        // On layer 2 the LAN's bridge stands between: it answers nothing, so the customer sets the LAN's MTU.
        world.ok(&site.host(), &["ip", "link", "set", "eth0", "mtu", &mtu.to_string()])?;
    } else {
        for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
            told(mtu, |argv| world.ok(&site.host(), argv), server)?;
        }
    }
    let row: Value = serde_json::from_str(&world.ok("server", &["access-server", "list", "--json"])?)?;
    let learned = |vlan: u16| {
        let rows = row.as_array().into_iter().flatten();
        rows.filter(|r| r["vlan"] == vlan).map(|r| r["tunnels"][0]["path_mtu"].clone()).next().unwrap_or_default()
    };
    ensure!(learned(site.vlan()) == NARROW, "learned of the narrow path: {}", learned(site.vlan()));
    ensure!(learned(other.vlan()).is_null(), "learned of the other path, where nothing was sent");
    may_be_cut(world, site)?;

    for capture in others {
        let captured = capture?.stop(world)?;
        let errors = captured.packets(world, &["icmp.type", "icmpv6.type", "frame.len"])?;
        let errors: Vec<_> =
            errors.iter().filter(|p| p.outer("icmp.type") == "3" || p.outer("icmpv6.type") == "2").collect();
        ensure!(errors.is_empty(), "{} was told of the path of {}: {errors:?}", other.tenant(), site.tenant());
    }
    never_cut_outside(world, wan)
}

/// A ping that is too long and must not be cut is answered with the right MTU, of whatever the sender believed before.
fn told(mtu: u32, run: impl Fn(&[&str]) -> Result<String>, target: &str) -> Result<()> {
    let headers = if target.contains(':') { 48 } else { 28 };
    let long = (mtu + 1 - headers).to_string();
    // Run by a shell that never fails: what ping says is on both outputs, and its failure is what is wanted.
    let ping = format!("ping -c 1 -W 1 -M do -s {long} {target} 2>&1; true");
    let mut last = String::new();
    let heard = eventually("the sender is told", Duration::from_secs(30), || {
        last = run(&["sh", "-c", &ping]).unwrap_or_default();
        last.replace(' ', "").contains(&format!("mtu={mtu}")).then_some(())
    });
    heard.with_context(|| format!("{target}: {} bytes, expected MTU {mtu}: {last}", mtu + 1))?;
    let fits = (mtu - headers).to_string();
    let mut last = String::new();
    let fitted = eventually("a packet that fits is answered", Duration::from_secs(30), || {
        let answer = run(&["ping", "-q", "-c", "1", "-W", "2", "-M", "do", "-s", &fits, target]);
        last = answer.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
        answer.ok().map(drop)
    });
    fitted.with_context(|| format!("{target}: {mtu} bytes fit: {last}"))
}

/// IPv4 without DF, far too long: the sender's stack cuts by what its own link takes (what it was told is forgotten), the
/// tunnel's end cuts the pieces again. Both ends count it.
fn may_be_cut(world: &World, site: &Site) -> Result<()> {
    let gateway = site.gw();
    let cut = |instance: &str, node: &str| -> Result<u64> {
        let text = world.ok(node, &["access-server", "counters", "--json", "--instance", instance])?;
        let rows: Vec<Value> = serde_json::from_str(&text)?;
        Ok(rows.iter().filter_map(|row| row["drops"]["frag_slow_path"].as_u64()).sum())
    };
    let long = ["ping", "-q", "-c", "3", "-i", "0.2", "-W", "10", "-M", "dont", "-s", "4000"];
    let forget = ["ip", "route", "flush", "cache"];

    let before = cut("main", "server")?;
    in_stack(world, site, &forget)?;
    in_stack(world, site, &[&long[..], &[HOST_INNER_V4]].concat()).context("4,000 bytes from the tenant")?;
    let counted = cut("main", "server")? - before;
    ensure!(counted >= 3, "the server cut {counted} packets for the tenant");
    if site.kind == Kind::Vxlan {
        return Ok(());
    }
    let before = cut(&gateway, &gateway)?;
    world.ok(&site.host(), &forget)?;
    world.ok(&site.host(), &[&long[..], &[SERVER_INNER_V4]].concat()).context("4,000 bytes from the host")?;
    let counted = cut(&gateway, &gateway)? - before;
    ensure!(counted >= 3, "the gateway cut {counted} packets for the host");
    Ok(())
}

/// Outer IPv4 always says "do not fragment", and nothing outside is a fragment.
fn never_cut_outside(world: &World, wan: Capture) -> Result<()> {
    let fields =
        ["ip.src", "ip.flags.df", "ip.flags.mf", "ip.frag_offset", "ipv6.src", "ipv6.fraghdr.nxt", "icmp.type"];
    let server = system_tests::plan::server_outer(world.options().outer);
    let mut ours = 0;
    for packet in wan.stop(world)?.packets(world, &fields)? {
        if packet.outer("ip.src") == SERVER_OUTER_V4.to_string() {
            let set = |field: &str| matches!(packet.outer(field), "1" | "True");
            ensure!(set("ip.flags.df") && !set("ip.flags.mf"), "an outer packet that may be cut: {packet:?}");
            ensure!(packet.outer("ip.frag_offset") == "0", "an outer fragment: {packet:?}");
            ours += 1;
        } else if packet.outer("ipv6.src") == server {
            ensure!(!packet.has("ipv6.fraghdr.nxt"), "an outer fragment: {packet:?}");
            ours += 1;
        }
    }
    ensure!(ours > 10, "only {ours} packets of ours outside: a deaf capture");
    Ok(())
}

/// Sends ICMP "fragmentation needed" in a router's name: device, target's MAC, own MAC, quoted source and destination,
/// MTU, quoted length.
const FORGE: &str = r#"
import socket, struct, sys
device, target, own, source, remote, mtu, length = sys.argv[1:]
def total(data):
    s = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while s >> 16: s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff
def ip(src, dst, protocol, payload, length):
    h = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, 0, 0x4000, 60, protocol, 0, socket.inet_aton(src), socket.inet_aton(dst))
    return h[:10] + struct.pack("!H", total(h)) + h[12:] + payload
quoted = ip(source, remote, 4, bytes(8), int(length))
icmp = struct.pack("!BBHI", 3, 4, 0, int(mtu)) + quoted
icmp = icmp[:2] + struct.pack("!H", total(icmp)) + icmp[4:]
packet = ip("192.0.2.99", source, 1, icmp, 20 + len(icmp))
s = socket.socket(17, 3); s.bind((device, 0))
s.send(bytes.fromhex((target + own).replace(":", "")) + b"\x08\0" + packet)
"#;

/// Who knows both ends' addresses may lie to the server: not below what every path takes, not upwards, not about paths
/// of nobody; what was sent before and after arrives.
fn forged(world: &World) -> Result<()> {
    let site = world.options().site(0);
    serve_at_tenant(world, &site)?;
    for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
        reachable(world, &site.host(), server, Duration::from_secs(30))?;
    }
    let mac = |node: &str, device: &str| -> Result<String> {
        let links: Value = serde_json::from_str(&world.ok(node, &["ip", "-j", "link", "show", device])?)?;
        links[0]["address"].as_str().map(str::to_owned).context("a device without address")
    };
    let (server_mac, own_mac) = (mac("server", "wan0")?, mac("internet", "server")?);
    let (source, remote) = (SERVER_OUTER_V4.to_string(), site.outer_v4().to_string());
    let learned = || -> Result<Value> {
        let row: Value = serde_json::from_str(&world.ok("server", &["access-server", "list", "--json"])?)?;
        Ok(row[0]["tunnels"][0]["path_mtu"].clone())
    };
    let forge = |remote: &str, mtu: &str, length: &str| {
        let argv = ["python3", "-c", FORGE, "server", &server_mac, &own_mac, &source, remote, mtu, length];
        world.ok("internet", &argv)
    };
    // Not of a packet that was too long at all; of a path nobody has.
    forge(&remote, "1400", "1300")?;
    forge("198.51.100.77", "600", "1500")?;
    ensure!(learned()?.is_null(), "a lie that contradicts itself was believed: {}", learned()?);
    forge(&remote, "68", "1500")?;
    eventually("the lie is taken for the least an IPv4 path takes", Duration::from_secs(30), || {
        learned().ok().filter(|mtu| *mtu == 576)
    })?;
    forge(&remote, "1400", "1500")?;
    ensure!(learned()? == 576, "a second lie raised what the first lowered: {}", learned()?);
    for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
        for verb in ["up", "down"] {
            // What is stopped by a lie is so every time; a machine that stands still for a moment is not.
            let mut all: Vec<Duration> = Vec::new();
            while all.len() < 4 && !all.iter().any(|took| *took < Duration::from_secs(2)) {
                all.push(from_host(world, &site, verb, server, 300_000)?);
            }
            ensure!(all.iter().any(|took| *took < Duration::from_secs(2)), "{verb} {server} took {all:?}");
        }
    }
    Ok(())
}
