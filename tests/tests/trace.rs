//! `tenantd trace` names the place where a real packet ends. One thing is broken at a time, by hands that are not ours (ip,
//! bpftool, the operator's verbs), a foreign client sends, and the counter that the trace named has grown by what was sent.
//!
//! What the daemon would mend by itself is broken again until trace and packet have met it broken.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use system_tests::plan::{HOST_INNER_V4, HOST_INNER_V6, Kind, Options, SERVER_INNER_V4, SERVER_INNER_V6, Site};
use system_tests::tenants::init_pid;
use system_tests::traffic::{reachable, url};
use system_tests::world::{World, eventually};

use crate::daemons::shell;
use crate::floor::{Need, TENANTS, explain, trial, with_tenants};

const BROKEN: &[Need] = &[
    Need::Root,
    Need::Daemons,
    Need::Program("ip", "iproute2"),
    Need::Program("ping", "iputils-ping"),
    Need::Program("curl", "curl"),
    Need::Program("nginx", "nginx-light"),
    Need::Program("python3", "python3"),
    Need::Program("bpftool", "bpftool"),
    Need::Program("nsenter", "util-linux"),
    Need::Program("nft", "nftables"),
];

const PINS: &str = "/sys/fs/bpf/tenantd/main";
const ROOM: &str = "--net=/run/tenantd/main/patchroom";
/// Requests of one ping.
const SENT: u64 = 3;
/// How long something that is mended may take to be met broken.
const TRIES: Duration = Duration::from_secs(90);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("trace::what_works_arrives", TENANTS, || in_world(vec![Kind::Ipip, Kind::Gre, Kind::Vxlan], works)),
        trial("trace::names_where_the_packet_ends", BROKEN, || in_world(vec![Kind::Ipip, Kind::Gre], broken)),
        trial("trace::what_is_taken_away_by_hand", BROKEN, || in_world(vec![Kind::Ipip], by_hand)),
        trial("trace::from_inside_tells_nothing_of_the_host", TENANTS, || in_world(vec![Kind::Ipip], inside)),
    ]
}

fn in_world(kinds: Vec<Kind>, check: impl FnOnce(&World) -> Result<()>) -> Result<()> {
    let sites = u16::try_from(kinds.len().max(2))?;
    let world = with_tenants("trace", Options { sites, kinds, ..Options::default() })?;
    for site in world.options().sites() {
        for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
            reachable(&world, &site.host(), server, Duration::from_secs(30))?;
        }
    }
    explain(&world, check(&world))
}

/// Exit code and answer.
fn trace(world: &World, tenant: &str, from: &str, to: &str, more: &[&str]) -> Result<(Option<i32>, Value)> {
    let mut argv = vec!["tenantd", "--json", "trace", tenant, "--from", from, "--to", to];
    argv.extend(more);
    let output = world.exec("server", &argv)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let answer = serde_json::from_slice(&output.stdout).with_context(|| format!("no answer: {said}"))?;
    Ok((output.status.code(), answer))
}

/// Way, place and counter of the hop where it ends.
fn end(trace: &Value) -> (String, String, String) {
    let hop = trace["hops"].as_array().into_iter().flatten().find(|hop| hop["state"] == "ends");
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    (text(hop.map(|h| &h["way"])), text(hop.map(|h| &h["place"])), text(hop.map(|h| &h["counter"]["name"])))
}

/// The value of a counter as those who keep it say, not the trace: names as in docs/drops.md.
fn counter(world: &World, site: &Site, name: &str) -> Result<u64> {
    let json = |argv: &[&str]| -> Result<Value> { Ok(serde_json::from_str(&world.ok("server", argv)?)?) };
    if let Some(reason) = name.strip_prefix("access_") {
        let rows = json(&["access-server", "counters", "--json"])?;
        let of = |vlan: u16| {
            let row = rows.as_array().into_iter().flatten().find(|row| row["vlan"] == vlan);
            row.and_then(|row| row["drops"][reason].as_u64()).unwrap_or(0)
        };
        return Ok(of(0) + of(site.vlan()));
    }
    if ["port_unknown_vlan", "port_no_port"].contains(&name) {
        let text = metrics(world)?;
        let line = format!("tenantd_trunk_drops_total{{reason=\"{}\"}} ", name.trim_start_matches("port_"));
        let value = text.lines().find_map(|text| text.strip_prefix(&line)).and_then(|n| n.parse::<f64>().ok());
        return Ok(value.unwrap_or(0.0) as u64);
    }
    Ok(json(&["tenantd", "--json", "status", &site.tenant()])?["counters"]["drops"][name].as_u64().unwrap_or(0))
}

fn metrics(world: &World) -> Result<String> {
    world.ok("server", &["curl", "-sS", "--fail", "--unix-socket", "/run/tenantd/main/api.sock", "http://t/metrics"])
}

/// Requests from a host that are not answered.
fn unanswered(world: &World, node: &str, from: &str, to: &str) -> Result<()> {
    let argv = ["ping", "-q", "-c", "3", "-i", "0.05", "-W", "1", "-I", from, to];
    let output = world.exec(node, &argv)?;
    ensure!(!output.status.success(), "{from} -> {to} was answered: {}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

/// Both families: host, server.
const FAMILIES: [(&str, &str); 2] = [(HOST_INNER_V4, SERVER_INNER_V4), (HOST_INNER_V6, SERVER_INNER_V6)];

fn with_port(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn works(world: &World) -> Result<()> {
    for site in world.options().sites() {
        let tenant = site.tenant();
        for (host, server) in FAMILIES {
            world.ok(&site.host(), &["curl", "-sS", "-g", "--fail", "--max-time", "5", &url("http", server)])?;
            let flows = [
                (host, with_port(server, 80), "in"),
                (host, server.to_owned(), "in"),
                (server, host.to_owned(), "out"),
                (server, with_port(host, 9), "out"),
            ];
            for (from, to, direction) in flows {
                let (code, found) = trace(world, &tenant, from, &to, &[])?;
                ensure!(code == Some(0) && found["arrives"] == true && found["ends"].is_null(), "{tenant}: {found:#}");
                ensure!(found["direction"] == direction, "{tenant} {from} -> {to}: {found:#}");
                let differs = found["hops"].as_array().into_iter().flatten().any(|hop| !hop["differs"].is_null());
                ensure!(!differs, "{tenant}: {found:#}");
            }
        }
        let words = world.ok(
            "server",
            &["tenantd", "trace", &tenant, "--from", HOST_INNER_V4, "--to", &with_port(SERVER_INNER_V4, 80)],
        )?;
        ensure!(words.contains("service web, process") && words.contains("arrives and is answered"), "{words}");
        ensure!(words.contains(&site.server_tunnel(world.options().outer)), "the tunnel is not named: {words}");
    }
    // While a host sends, the counters of the way grow, and only those of traffic.
    let site = world.options().site(0);
    // Until it is looked at, whenever that is.
    let ping = world.spawn(&site.host(), &["ping", "-q", "-i", "0.05", SERVER_INNER_V4])?;
    let tenant = site.tenant();
    let argv = ["tenantd", "trace", &tenant, "--from", HOST_INNER_V4, "--to", SERVER_INNER_V4, "--watch", "2"];
    let words = world.ok("server", &argv)?;
    ensure!(words.contains("port_in_packets") && words.contains("access_out_packets"), "{words}");
    ping.interrupt()?;
    let unknown = world.exec("server", &["tenantd", "trace", "nobody", "--from", "10.0.0.1", "--to", "10.0.0.2"])?;
    ensure!(unknown.status.code() == Some(1), "{unknown:?}");
    let usage = world.exec("server", &["tenantd", "trace", "nobody", "--from", "10.0.0.1", "--to", "fd00::1"])?;
    ensure!(usage.status.code() == Some(2), "{usage:?}");
    Ok(())
}

/// The trace ends at a place, with the code of a flow that does not arrive.
fn ends_at(found: &(Option<i32>, Value), way: &str, place: &str, counter: &str) -> Result<()> {
    let wanted = (way.to_owned(), place.to_owned(), counter.to_owned());
    ensure!(end(&found.1) == wanted && found.0 == Some(1) && found.1["ends"] == place, "{wanted:?}: {:#}", found.1);
    Ok(())
}

/// Sends, and demands that the counter has grown by what was sent.
fn counted(world: &World, site: &Site, name: &str, send: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = counter(world, site, name)?;
    send()?;
    let grown = counter(world, site, name)? - before;
    ensure!(grown == SENT, "{name}: {SENT} sent, {grown} counted");
    Ok(())
}

/// Broken through verbs: what is desired is broken too, so that nothing mends it.
fn broken(world: &World) -> Result<()> {
    let (site, other) = (world.options().site(0), world.options().site(1));
    let tenant = site.tenant();
    let tenantd = |argv: &[&str]| {
        let argv: Vec<&str> = ["tenantd"].iter().chain(argv).copied().collect();
        world.ok("server", &argv).map(drop)
    };
    // A service that is stopped: refused by the stack itself.
    tenantd(&["stop-service", &tenant, "web"])?;
    for (host, server) in FAMILIES {
        ends_at(&trace(world, &tenant, host, &with_port(server, 80), &[])?, "there", "socket", "")?;
        let output = world.exec(&site.host(), &["curl", "-sS", "-g", "--max-time", "5", &url("http", server)])?;
        ensure!(output.status.code() == Some(7), "7 is a refused connection: {output:?}");
        ends_at(
            &trace(world, &tenant, host, &with_port(server, 5353), &["--protocol", "udp"])?,
            "there",
            "socket",
            "",
        )?;
    }
    tenantd(&["start-service", &tenant, "web"])?;

    // A filter that is closed, and one that another's hand put beside it.
    tenantd(&["set-filter", &tenant, "--default", "drop", "--rule", "accept,tcp/80"])?;
    for (host, server) in FAMILIES {
        let found = trace(world, &tenant, host, server, &[])?;
        ends_at(&found, "there", "filter", "filter_default")?;
        counted(world, &site, "filter_default", || unanswered(world, &site.host(), host, server))?;
        let (code, _) = trace(world, &tenant, host, &with_port(server, 80), &[])?;
        ensure!(code == Some(0), "the rule lets port 80 in");
        world.ok(&site.host(), &["curl", "-sS", "-g", "--fail", "--max-time", "5", &url("http", server)])?;
    }
    let init = init_pid(world, &tenant)?.to_string();
    let nft = |words: &str| world.ok("server", &["nsenter", "-t", &init, "-n", "nft", words]).map(drop);
    nft("add table inet house")?;
    let (_, found) = trace(world, &tenant, HOST_INNER_V4, &with_port(SERVER_INNER_V4, 80), &[])?;
    ensure!(found.to_string().contains("not evaluated: nft table house"), "{found:#}");
    nft("delete table inet house")?;
    tenantd(&["set-filter", &tenant, "--default", "accept"])?;

    // An address that was given up, and one of another tenant.
    for (host, address, theirs) in
        [(HOST_INNER_V4, "192.168.1.77/24", "10.77.0.1/32"), (HOST_INNER_V6, "fd00:192:168:1::77/64", "fd77::1/128")]
    {
        let bare = |net: &str| net.split('/').next().unwrap_or_default().to_owned();
        tenantd(&["add-address", &tenant, address])?;
        ensure!(trace(world, &tenant, host, &bare(address), &[])?.0 == Some(0), "{address} is there");
        tenantd(&["remove-address", &tenant, address])?;
        ends_at(&trace(world, &tenant, host, &bare(address), &[])?, "there", "address", "")?;
        tenantd(&["add-address", &other.tenant(), theirs])?;
        ends_at(&trace(world, &tenant, host, &bare(theirs), &[])?, "there", "address", "")?;
        ensure!(trace(world, &other.tenant(), host, &bare(theirs), &[])?.0 == Some(0), "{theirs} is the other's");
    }

    // A source that lies not behind the site.
    world.ok(
        "server",
        &[
            "tenantd",
            "add-tunnel",
            &tenant,
            &format!("{},prefix=192.168.1.0/24,prefix=fd00:192:168:1::/64", site.server_tunnel(world.options().outer)),
        ],
    )?;
    for (foreign, server) in [("10.9.9.9", SERVER_INNER_V4), ("fd99::9", SERVER_INNER_V6)] {
        let (family, length) = if foreign.contains(':') { ("-6", "128 nodad") } else { ("-4", "32") };
        let address = format!("{foreign}/{}", length.split(' ').next().unwrap_or_default());
        shell(
            world,
            &site.host(),
            &format!("ip {family} address add {address} dev eth0{}", if family == "-6" { " nodad" } else { "" }),
        )?;
        ends_at(&trace(world, &tenant, foreign, server, &[])?, "there", "tunnel", "access_inner_source")?;
        counted(world, &site, "access_inner_source", || unanswered(world, &site.host(), foreign, server))?;
        // The other way: nothing there leads to it.
        let (_, found) = trace(world, &tenant, server, foreign, &[])?;
        ensure!(["route", "tunnel"].contains(&found["ends"].as_str().unwrap_or_default()), "{found:#}");
    }

    // Too long for the path.
    let status: Value = serde_json::from_str(&world.ok("server", &["tenantd", "--json", "status", &tenant])?)?;
    let mtu = status["mtu"].as_u64().context("an MTU")?;
    for (host, server) in FAMILIES {
        let fits = trace(world, &tenant, host, server, &["--size", &mtu.to_string()])?;
        ensure!(fits.0 == Some(0), "{mtu} bytes fit: {:#}", fits.1);
        let long = trace(world, &tenant, host, server, &["--size", &(mtu + 1).to_string()])?;
        ends_at(&long, "there", "port", "port_too_long")?;
    }
    Ok(())
}

/// Broken behind the daemon's back: until trace and packet have met it.
fn by_hand(world: &World) -> Result<()> {
    let site = world.options().site(0);
    let (tenant, vlan) = (site.tenant(), site.vlan());
    let port = format!("p{vlan}");
    let init = init_pid(world, &tenant)?.to_string();
    let device = {
        let shown: Value = serde_json::from_str(&world.ok("server", &["tenantd", "--json", "show", &tenant])?)?;
        shown["device"].as_str().context("a device")?.to_owned()
    };
    let stack = |words: &str| format!("nsenter -t {init} -n ip {words}");
    let room = |words: &str| format!("nsenter {ROOM} ip {words}");
    let map = |table: &str, key: Vec<u8>| {
        let hex: Vec<String> = key.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("bpftool map delete pinned {PINS}/{table} key hex {}", hex.join(" "))
    };
    let trunk: Value =
        serde_json::from_str(&world.ok("server", &["nsenter", ROOM, "ip", "-j", "link", "show", "trunk"])?)?;
    let trunk = u32::try_from(trunk[0]["ifindex"].as_u64().context("the trunk's number")?)?;
    let near: Value =
        serde_json::from_str(&world.ok("server", &["nsenter", ROOM, "ip", "-j", "link", "show", &port])?)?;
    let near = u32::try_from(near[0]["ifindex"].as_u64().context("the port's number")?)?;
    let tag = [&trunk.to_ne_bytes()[..], &vlan.to_ne_bytes(), &[0, 0]].concat();
    let spec = site.server_tunnel(world.options().outer);
    let tunnel = format!("access-server delete-tunnel --owner tenantd/main --vlan {vlan} {spec}");
    for (host, server) in FAMILIES {
        let (family, length) = if server.contains(':') { ("-6", 64) } else { ("-4", 24) };
        let default = if family == "-6" { "::/0" } else { "0.0.0.0/0" };
        let net = if family == "-6" { "fd00:192:168:1::/64" } else { "192.168.1.0/24" };
        let routes = format!(
            "{}; {}",
            stack(&format!("{family} route del {net}")),
            stack(&format!("{family} route del {default}"))
        );
        let cases = [
            (stack(&format!("{family} address del {server}/{length} dev {device}")), "there", "address", ""),
            (routes, "back", "route", ""),
            (stack(&format!("link set {device} mtu 1300")), "there", "device", ""),
            (stack(&format!("link set {device} down")), "there", "device", ""),
            (room(&format!("link set {port} down")), "there", "port", ""),
            (map("ports_by_tag", tag.clone()), "there", "port", "port_unknown_vlan"),
            (map("ports_by_ifindex", near.to_ne_bytes().to_vec()), "back", "port", "port_no_port"),
            (tunnel.clone(), "there", "tunnel", "access_unknown_tunnel"),
        ];
        for (breaking, way, place, name) in cases {
            let size = if breaking.contains("mtu 1300") { "1400" } else { "0" };
            let case = Case { breaking: &breaking, host, server, size, wanted: (way, place, name) };
            met(world, &site, &case).with_context(|| breaking.clone())?;
            mend(world, &site)?;
            // The device came back under another number? Then what is known of it is old.
            let again: Value =
                serde_json::from_str(&world.ok("server", &["nsenter", ROOM, "ip", "-j", "link", "show", &port])?)?;
            ensure!(again[0]["ifindex"].as_u64() == Some(near.into()), "the port was made anew after {breaking}");
        }
    }
    Ok(())
}

struct Case<'a> {
    breaking: &'a str,
    host: &'a str,
    server: &'a str,
    size: &'a str,
    wanted: (&'a str, &'a str, &'a str),
}

/// Breaks until a trace before the packets and one after them have both met it broken.
fn met(world: &World, site: &Site, case: &Case<'_>) -> Result<()> {
    let until = Instant::now() + TRIES;
    let (way, place, name) = case.wanted;
    let wanted = (way.to_owned(), place.to_owned(), name.to_owned());
    let size: usize = case.size.parse()?;
    // The length of an IP packet, in ping's words: less IP and ICMP header.
    let payload = size.saturating_sub(if case.server.contains(':') { 48 } else { 28 }).max(8).to_string();
    let mut last = Value::Null;
    loop {
        ensure!(Instant::now() < until, "never met broken as {wanted:?}: {last:#}");
        // One that is broken already refuses.
        let _ = world.exec("server", &["sh", "-c", case.breaking])?;
        let before = if name.is_empty() { 0 } else { counter(world, site, name)? };
        let (code, found) = trace(world, &site.tenant(), case.host, case.server, &["--size", case.size])?;
        let ping = ["ping", "-q", "-c", "3", "-i", "0.05", "-W", "1", "-s", &payload, "-I", case.host, case.server];
        let answered = world.exec(&site.host(), &ping)?.status.success();
        let (_, after) = trace(world, &site.tenant(), case.host, case.server, &["--size", case.size])?;
        last = found.clone();
        if end(&found) != wanted || end(&after) != wanted {
            continue;
        }
        ensure!(!answered && code == Some(1), "{wanted:?} was told, and the packets were answered: {found:#}");
        let grown = if name.is_empty() { SENT } else { counter(world, site, name)? - before };
        // What the stack itself says meanwhile (neighbours, router solicitations) may be counted with it.
        ensure!(grown >= SENT, "{name}: {SENT} sent, {grown} counted: {found:#}");
        let differs = after["hops"].as_array().into_iter().flatten().any(|hop| !hop["differs"].is_null());
        ensure!(
            differs || ["route", "device"].contains(&place) || place == "port",
            "desired and real differ: {after:#}"
        );
        return Ok(());
    }
}

/// Has the daemon mend it, by a change that comes and goes, and waits until pings are answered again.
fn mend(world: &World, site: &Site) -> Result<()> {
    let tenant = site.tenant();
    let room_up = format!("nsenter {ROOM} ip link set p{} up", site.vlan());
    eventually("all is as before", Duration::from_secs(90), || {
        // Whether a port that is down is mended is another test's: here it is set up again.
        world.exec("server", &["sh", "-c", &room_up]).ok()?;
        for verb in ["add-address", "remove-address"] {
            world.exec("server", &["tenantd", verb, &tenant, "10.66.0.1/32"]).ok()?;
        }
        for (host, server) in FAMILIES {
            let (code, _) = trace(world, &tenant, host, server, &[]).ok()?;
            (code == Some(0)).then_some(())?;
            let ping = ["ping", "-q", "-c", "1", "-W", "5", "-I", host, server];
            world.ok(&site.host(), &ping).ok()?;
        }
        Some(())
    })
}

fn inside(world: &World) -> Result<()> {
    let site = world.options().site(0);
    let (tenant, other) = (site.tenant(), world.options().site(1).tenant());
    let ask = |name: &str| {
        let path = format!("http://t/v1/tenants/{name}/trace?from={HOST_INNER_V4}&to={SERVER_INNER_V4}:80");
        let argv = ["tenantd", "exec", &tenant, "--", "curl", "-sS", "--unix-socket", "/run/tenantd/api.sock", &path];
        world.ok("server", &argv)
    };
    let own = ask(&tenant)?;
    let found: Value = serde_json::from_str(&own)?;
    ensure!(found["arrives"] == true, "{own}");
    for secret in ["wan0", "trunk-main", "203.0.113.1", "198.51.100.", "wan_ingress", &format!("p{}", site.vlan())] {
        ensure!(!own.contains(secret), "a tenant learns {secret}: {own}");
    }
    ensure!(ask(&other)?.contains("not-yours"), "a tenant traces in another one");
    Ok(())
}
