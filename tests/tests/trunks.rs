//! One instance with several trunks: the same VLAN on two of them is two closed networks, of customers who both have
//! their server at 192.168.1.1. What is wrong with one trunk, or with its access server, is nothing to the others.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use system_tests::plan::{Gateway, HOST_INNER_V4, Kind, Options, SERVER_INNER_V4, SERVER_INNER_V6};
use system_tests::traffic::{Pinging, page, reachable, url};
use system_tests::world::{Running, World, eventually};

use crate::floor::{Need, TENANTS, WORLD, explain, trial, world};

const DAEMON: &[Need] = &[Need::Root, Need::Daemons, Need::Program("ip", "iproute2")];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("trunks::same_vlan_on_two", TENANTS, || {
            let options = Options { sites: 2, kinds: vec![Kind::Ipip], gateway: Gateway::None, ..Options::default() };
            let world = world("trunks", options)?;
            explain(&world, same_vlan(&world))
        }),
        trial("trunks::one_is_lost", WORLD, || {
            let options = Options { sites: 1, gateway: Gateway::None, server: true, ..Options::default() };
            let world = world("trunklost", options)?;
            explain(&world, one_is_lost(&world))
        }),
        trial("trunks::bad_input", DAEMON, || {
            let options = Options { sites: 1, gateway: Gateway::None, ..Options::default() };
            let world = world("trunkbad", options)?;
            explain(&world, bad_input(&world))
        }),
    ]
}

/// The instance of these tests, beside that of the world.
const DUO: &str = "duo";
/// Both trunks, in the order of their numbers.
const TRUNKS: [&str; 2] = ["east", "west"];
const ACCESS: [&str; 2] = ["duo", "duo-1"];
const LOCALS: [&str; 2] = ["203.0.113.2", "203.0.113.3"];
const NAMES: [&str; 2] = ["acme", "beta"];

fn duo(world: &World, words: &str) -> Result<String> {
    let argv: Vec<&str> = ["tenantd", "--instance", DUO].into_iter().chain(words.split_whitespace()).collect();
    world.ok("server", &argv)
}

fn json(world: &World, words: &str) -> Result<Value> {
    serde_json::from_str(&duo(world, &format!("--json {words}"))?).context("no JSON")
}

/// Runs it with these trunks, and says nothing of whether it stands.
fn start(world: &World, trunks: &[&str]) -> Result<Running> {
    let mut argv = vec!["tenantd", "run", "--instance", DUO, "--state-dir", "/run/lab/duo"];
    trunks.iter().for_each(|trunk| argv.extend(["--trunk", *trunk]));
    world.spawn("server", &argv)
}

fn stands(world: &World, daemon: Running) -> Result<Running> {
    let up = eventually("the daemon answers", Duration::from_secs(60), || duo(world, "status").ok());
    match up {
        Ok(_) => Ok(daemon),
        Err(error) => {
            let said = daemon.interrupt()?;
            bail!("{error:#}; it said {}", String::from_utf8_lossy(&said.stderr))
        }
    }
}

fn kill(world: &World, signal: &str) -> Result<()> {
    world.ok("server", &["sh", "-ec", &format!("kill -{signal} $(cat /run/tenantd/{DUO}/lock)")]).map(drop)
}

fn access(world: &World, number: usize) -> Result<Running> {
    let argv = ["access-server", "run", "--instance", ACCESS[number], "--wan", "wan0", "--local", LOCALS[number]];
    world.spawn("server", &argv)
}

/// What the daemon says of the access server of each trunk.
fn servers(world: &World) -> Result<Vec<String>> {
    let status = json(world, "status")?;
    let trunks = status["trunks"].as_array().context("no trunks in the status")?;
    Ok(trunks.iter().map(|trunk| trunk["access"].as_str().unwrap_or_default().to_owned()).collect())
}

fn all_connected(world: &World) -> Result<()> {
    eventually("both access servers are connected", Duration::from_secs(60), || {
        servers(world).ok().filter(|found| found.len() == 2 && found.iter().all(|access| access == "connected"))
    })
    .map(drop)
}

fn same_vlan(world: &World) -> Result<()> {
    for local in LOCALS {
        world.ok("server", &["ip", "address", "add", &format!("{local}/24"), "dev", "wan0"])?;
    }
    let daemon = stands(world, start(world, &["east=", "west="])?)?;
    let mut servers = vec![access(world, 0)?, access(world, 1)?];
    all_connected(world)?;
    let mut gateways = Vec::new();
    for number in 0..2 {
        add(world, number)?;
        gateways.push(gateway(world, number)?);
    }
    served(world)?;
    words(world)?;
    devices(world, &["p1-600", "p600", "trunk", "trunk-1"])?;
    apart(world)?;
    traced(world)?;
    duo(world, "verify")?;
    // Killed while both are asked, and back with the trunks in another order: the numbers are those of before.
    let pings = pings(world, 300)?;
    kill(world, "KILL")?;
    let _ = daemon.wait(Duration::from_secs(60))?;
    let daemon = stands(world, start(world, &["west=", "east="])?)?;
    pings.into_iter().try_for_each(|ping| ping.all_answered().map(drop))?;
    words(world)?;
    all_connected(world)?;
    duo(world, "verify")?;
    one_away(world, &mut servers)?;
    let daemon = left_out(world, daemon)?;
    removed(world)?;
    kill(world, "TERM")?;
    daemon.wait(Duration::from_secs(60)).map(drop)
}

/// Adds a tenant whose page has its name. Both are at the same address, behind the same VLAN, each on its trunk.
fn add(world: &World, number: usize) -> Result<()> {
    let (name, trunk, remote) = (NAMES[number], TRUNKS[number], world.options().site(number as u16).outer_v4());
    duo(
        world,
        &format!(
            "add-tenant {name} --trunk {trunk} --vlan 600 --address {SERVER_INNER_V4}/24 --address {SERVER_INNER_V6}/64 \
             --tunnel ipip:{remote} --limit rate_out=500M"
        ),
    )?;
    let body = format!("body=page-of-{name}");
    duo(world, &format!("add-service {name} web --template nginx --set {body}")).map(drop)
}

fn gateway(world: &World, number: usize) -> Result<Running> {
    let site = world.options().site(number as u16);
    let (gw, local, tunnel) = (site.gw(), site.outer_v4().to_string(), format!("ipip:{}", LOCALS[number]));
    let mut argv =
        vec!["access-server", "site", "--instance", &gw, "--lan", "lan0", "--wan", "wan0", "--local", &local];
    argv.extend(["--tunnel", &tunnel, "--server", SERVER_INNER_V4, "--server", SERVER_INNER_V6]);
    world.spawn(&gw, &argv)
}

fn served(world: &World) -> Result<()> {
    for (number, name) in NAMES.into_iter().enumerate() {
        let host = world.options().site(number as u16).host();
        for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
            reachable(world, &host, server, Duration::from_secs(30))?;
            let got = page(world, &host, &url("http", server), &[])?;
            ensure!(got.trim() == format!("page-of-{name}"), "{host} asked {server} and was served {got:?}");
        }
    }
    Ok(())
}

/// What is said of the two: names and numbers of the trunks, in list, tables and documents.
fn words(world: &World) -> Result<()> {
    let list = duo(world, "list")?;
    ensure!(list.contains(" 600 ") && list.contains("west/600"), "list says {list}");
    let map = duo(world, "map lower")?;
    ensure!(map.contains("<-> vlan600") && map.contains("<-> trunk1/vlan600"), "the table says {map}");
    let [acme, beta] = [json(world, "show acme")?, json(world, "show beta")?];
    ensure!(acme.get("trunk").is_none() && beta["trunk"] == "west" && beta["trunk_number"] == 1, "{acme} {beta}");
    ensure!(acme["mac"] != beta["mac"], "both have {}", acme["mac"]);
    let status = duo(world, "status")?;
    let lines = ["east: number 0, trunk-duo, 1 tenants", "west: number 1, trunk-duo-1, 1 tenants"];
    ensure!(lines.iter().all(|line| status.contains(line)), "status says {status}");
    let file = duo(world, "export")?;
    ensure!(file.contains("trunk = \"west\"") && !file.contains("east"), "the export says {file}");
    world.ok("server", &["sh", "-ec", "tenantd --instance duo export >/run/lab/duo.toml"])?;
    let same = duo(world, "diff -f /run/lab/duo.toml")?;
    ensure!(same.contains("nothing differs"), "the export differs from what it is of: {same}");
    // Saying the first one's name says nothing new.
    world.ok("server", &["sed", "-i", "s/^\\[tenants.acme\\]$/&\\ntrunk = \"east\"/", "/run/lab/duo.toml"])?;
    let same = duo(world, "apply -f /run/lab/duo.toml")?;
    ensure!(!same.contains("changed:"), "to name the first trunk changed something: {same}");
    let taken = world.exec("server", &words_of("add-tenant x --address 10.0.0.1/8 --trunk west --vlan 600"))?;
    let said = String::from_utf8_lossy(&taken.stderr).into_owned();
    ensure!(taken.status.code() == Some(1) && said.contains("taken on trunk 1 by tenant beta"), "{said}");
    Ok(())
}

fn words_of(words: &'static str) -> Vec<&'static str> {
    ["tenantd", "--instance", DUO].into_iter().chain(words.split_whitespace()).collect()
}

/// Devices of the patch room, as `ip` tells them.
fn devices(world: &World, wanted: &[&str]) -> Result<()> {
    let room = format!("--net=/run/tenantd/{DUO}/patchroom");
    let text = world.ok("server", &["nsenter", &room, "ip", "-j", "link"])?;
    let links: Vec<Value> = serde_json::from_str(&text)?;
    let mut names: Vec<&str> = links.iter().filter_map(|link| link["ifname"].as_str()).filter(|n| *n != "lo").collect();
    names.sort_unstable();
    ensure!(names == wanted, "the patch room has {names:?}, not {wanted:?}");
    Ok(())
}

/// Packets of one count there only: at the port, and at the access server of its trunk.
fn apart(world: &World) -> Result<()> {
    let ports = |name: &str| -> Result<(u64, u64)> {
        let counters = json(world, &format!("status {name}"))?["counters"].clone();
        Ok((counters["rx_packets"].as_u64().context("no counter")?, counters["tx_packets"].as_u64().unwrap_or(0)))
    };
    let at_server = |number: usize| -> Result<u64> {
        let argv = ["access-server", "counters", "--json", "--instance", ACCESS[number]];
        let rows: Vec<Value> = serde_json::from_str(&world.ok("server", &argv)?)?;
        rows.iter().find(|row| row["vlan"] == 600).and_then(|row| row["rx_packets"].as_u64()).context("no counter")
    };
    let once = |number: usize, other: usize| -> Result<()> {
        let (own, others) = (ports(NAMES[number])?, ports(NAMES[other])?);
        let (here, there) = (at_server(number)?, at_server(other)?);
        let host = world.options().site(number as u16).host();
        Pinging::start(world, &host, SERVER_INNER_V4, 50)?.all_answered()?;
        ensure!(ports(NAMES[other])? == others, "pings of {} count for {}", NAMES[number], NAMES[other]);
        let now = ports(NAMES[number])?;
        ensure!(now.0 - own.0 >= 50 && now.1 - own.1 >= 50, "50 pings count from {own:?} to {now:?}");
        ensure!(at_server(other)? == there, "pings of {} count at {}", NAMES[number], ACCESS[other]);
        ensure!(at_server(number)? - here == 50, "50 pings count from {here} to {}", at_server(number)?);
        let rows = world.ok("server", &["access-server", "list", "--instance", ACCESS[number]])?;
        let remote = |number: usize| world.options().site(number as u16).outer_v4().to_string();
        ensure!(rows.contains(&remote(number)) && !rows.contains(&remote(other)), "{} has {rows}", ACCESS[number]);
        Ok(())
    };
    for (number, other) in [(0, 1), (1, 0)] {
        // A stack speaks by itself now and then (who is there, what may be joined, a connection that ends late), and that
        // counts too. What is counted for the wrong one is so every time.
        let mut last = once(number, other);
        for _ in 0..4 {
            if last.is_ok() {
                break;
            }
            last = once(number, other);
        }
        last?;
    }
    Ok(())
}

/// A trace goes the way over the tenant's own trunk, and the metrics tell the two apart.
fn traced(world: &World) -> Result<()> {
    for (name, port) in [("acme", "p600,"), ("beta", "p1-600,")] {
        let said = duo(world, &format!("trace {name} --from {HOST_INNER_V4} --to {SERVER_INNER_V4}:80"))?;
        ensure!(said.contains(port), "the way to {name} is not over {port} {said}");
    }
    let socket = format!("/run/tenantd/{DUO}/api.sock");
    let text = world.ok("server", &["curl", "-sS", "--fail", "--unix-socket", &socket, "http://t/metrics"])?;
    for (name, trunk) in [("acme", ""), ("beta", "west")] {
        let found = text.lines().any(|line| {
            line.starts_with(&format!("tenantd_tenant_info{{tenant=\"{name}\",vlan=\"600\""))
                && line.contains(&format!("trunk=\"{trunk}\""))
        });
        ensure!(found, "the metrics do not say that {name} is on {trunk:?}");
    }
    Ok(())
}

fn pings(world: &World, count: u32) -> Result<Vec<Pinging>> {
    let hosts = (0..2).map(|number| world.options().site(number).host());
    hosts.map(|host| Pinging::start(world, &host, SERVER_INNER_V4, count)).collect()
}

/// While the access server of one trunk is away its packets go on, and on the other trunk everything is done as ever.
fn one_away(world: &World, servers: &mut Vec<Running>) -> Result<()> {
    let pings = pings(world, 200)?;
    let away = servers.pop().context("no access server")?;
    let found = away.interrupt()?;
    ensure!(found.status.success(), "the access server ended with {}", found.status);
    eventually("the second one is away and the first is not", Duration::from_secs(30), || {
        let found = self::servers(world).ok()?;
        (found.first()? == "connected" && found.get(1)? != "connected").then_some(())
    })?;
    duo(world, "add-tenant gamma --address 192.168.1.1/24 --tunnel ipip:198.51.100.77,local=203.0.113.2")?;
    let refused = world.exec(
        "server",
        &words_of("add-tenant delta --trunk west --address 192.168.1.1/24 --tunnel ipip:198.51.100.78"),
    )?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1) && said.contains("duo-1/api.sock"), "{said}");
    duo(world, "remove-tenant gamma --force")?;
    pings.into_iter().try_for_each(|ping| ping.all_answered().map(drop))?;
    servers.push(access(world, 1)?);
    all_connected(world)
}

/// A trunk on which there is a tenant cannot be left out; it is named, with the tenant.
fn left_out(world: &World, daemon: Running) -> Result<Running> {
    let pings = pings(world, 200)?;
    kill(world, "TERM")?;
    daemon.wait(Duration::from_secs(60))?;
    let refused = start(world, &["east="])?.wait(Duration::from_secs(60))?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    let words = ["\"west\"", "refused", "beta", "--trunk"];
    ensure!(refused.status.code() == Some(1) && words.iter().all(|word| said.contains(word)), "{said}");
    let daemon = stands(world, start(world, &["east=", "west="])?)?;
    pings.into_iter().try_for_each(|ping| ping.all_answered().map(drop))?;
    all_connected(world)?;
    Ok(daemon)
}

fn removed(world: &World) -> Result<()> {
    for (name, number) in NAMES.into_iter().zip(0..) {
        let other = world.options().site(1 - number).host();
        let ping = (number == 0).then(|| Pinging::start(world, &other, SERVER_INNER_V4, 100)).transpose()?;
        duo(world, &format!("remove-tenant {name} --force"))?;
        ping.map(Pinging::all_answered).transpose()?;
    }
    devices(world, &["trunk", "trunk-1"])?;
    for instance in ACCESS {
        let rows = world.ok("server", &["access-server", "list", "--json", "--instance", instance])?;
        ensure!(serde_json::from_str::<Vec<Value>>(&rows)?.is_empty(), "{instance} has {rows}");
    }
    let room = format!("--net=/run/tenantd/{DUO}/patchroom");
    for trunk in ["trunk", "trunk-1"] {
        let classes = world.ok("server", &["nsenter", &room, "tc", "class", "show", "dev", trunk])?;
        ensure!(classes.trim().is_empty(), "{trunk} has {classes}");
    }
    duo(world, "verify").map(drop)
}

/// A trunk that is a card goes away: its tenant is half done and says so, another trunk's tenant does not notice; when
/// the card is back, everything is as desired again.
fn one_is_lost(world: &World) -> Result<()> {
    let card = "ip link add south0 type veth peer name south1; ip link set south0 up; ip link set south1 up";
    world.ok("server", &["sh", "-ec", card])?;
    let daemon = stands(world, start(world, &["east=", "south=south0"])?)?;
    duo(world, "add-tenant acme --trunk east --vlan 600 --address 192.168.1.1/24")?;
    duo(world, "add-tenant beta --trunk south --vlan 600 --address 192.168.1.1/24")?;
    duo(world, "verify")?;
    world.ok("server", &["ip", "link", "del", "south1"])?;
    let half_done = |state: &str| {
        eventually(&format!("beta is {state}"), Duration::from_secs(60), || {
            let beta = json(world, "status beta").ok()?;
            (beta["state"] == state).then_some(beta)
        })
    };
    let lost = |beta: &Value| -> Result<()> {
        let cause = beta["cause"].as_str().unwrap_or_default();
        ensure!(cause.contains("trunk south is lost") && cause.contains("south0"), "{beta}");
        let acme = json(world, "status acme")?;
        ensure!(acme["state"] == "ready", "{acme}");
        let status = json(world, "status")?;
        let (east, south) = (&status["trunks"][0], &status["trunks"][1]);
        ensure!(
            east.get("cause").is_none() && south["cause"].as_str().is_some_and(|c| c.contains("south0")),
            "{status}"
        );
        Ok(())
    };
    lost(&half_done("half-done")?)?;
    // Also a daemon that starts without it serves the others.
    kill(world, "KILL")?;
    let _ = daemon.wait(Duration::from_secs(60))?;
    let daemon = stands(world, start(world, &["east=", "south=south0"])?)?;
    lost(&half_done("half-done")?)?;
    duo(world, "add-tenant gamma --address 192.168.1.1/24")?;
    world.ok("server", &["sh", "-ec", card])?;
    half_done("ready")?;
    duo(world, "verify")?;
    for name in ["acme", "beta", "gamma"] {
        duo(world, &format!("remove-tenant {name} --force"))?;
    }
    devices(world, &["south0", "trunk"])?;
    kill(world, "TERM")?;
    daemon.wait(Duration::from_secs(60))?;
    // Nobody is on the first one any more: it may be left out, and what was made for it goes.
    let daemon = stands(world, start(world, &["south=south0"])?)?;
    devices(world, &["south0"])?;
    kill(world, "TERM")?;
    daemon.wait(Duration::from_secs(60)).map(drop)
}

/// What follows `run --instance duo`, its exit code, and words its complaint must have.
const BAD: &[(&str, i32, &[&str])] = &[
    ("--trunk=", 2, &["trunk", "\"\"", "device name"]),
    ("--trunk a/b", 2, &["trunk", "a/b", "device name"]),
    ("--trunk abcdefghijklmnop=", 2, &["trunk", "abcdefghijklmnop", "15"]),
    ("--trunk west=abcdefghijklmnop", 2, &["trunk", "card", "abcdefghijklmnop"]),
    ("--trunk a= --trunk a=south0", 2, &["trunk", "\"a\"", "twice"]),
    ("--trunk a=x0 --trunk b=x0", 2, &["trunk", "\"b\"", "card", "twice"]),
    ("--trunk a=,access=http://x", 2, &["trunk", "http://x", "unix:///PATH"]),
    ("--trunk a=,speed=9", 2, &["trunk", "speed=9", "access=unix:///PATH"]),
    ("--trunk a= --trunk nosuch0", 1, &["trunk", "nosuch0", "no such device"]),
    ("--trunk a= --trunk b=,access=unix:///run/access-server/duo/api.sock", 1, &["trunk", "\"b\"", "access server"]),
    ("--config /run/lab/number.toml", 2, &["number.toml", "trunks", "text"]),
    ("--config /run/lab/both.toml", 2, &["both.toml", "trunk"]),
];

fn bad_input(world: &World) -> Result<()> {
    world.ok("server", &["sh", "-ec", "echo 'trunks = 5' >/run/lab/number.toml"])?;
    world.ok("server", &["sh", "-ec", "printf 'trunk = \"a=\"\\ntrunks = [\"b=\"]\\n' >/run/lab/both.toml"])?;
    let mut wrong = Vec::new();
    let mut complain = |what: &str, code: i32, words: &[&str], output: &std::process::Output| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let missing: Vec<_> = words.iter().filter(|word| !said.contains(**word)).collect();
        if output.status.code() != Some(code) || !missing.is_empty() {
            wrong.push(format!("{what}: {} instead of {code}, lacks {missing:?}: {said}", output.status));
        }
    };
    for (words, code, expected) in BAD {
        let head = ["tenantd", "run", "--instance", DUO, "--state-dir", "/run/lab/duo"];
        let argv: Vec<&str> = head.into_iter().chain(words.split_whitespace()).collect();
        let output = world.spawn("server", &argv)?.wait(Duration::from_secs(60))?;
        complain(words, *code, expected, &output);
    }
    // An instance whose name leaves no place for a number.
    let argv =
        ["tenantd", "run", "--instance", "abcdefgh", "--state-dir", "/run/lab/long", "--trunk", "a=", "--trunk", "b="];
    let output = world.spawn("server", &argv)?.wait(Duration::from_secs(60))?;
    complain("a long name", 1, &["instance", "abcdefgh", "trunk-abcdefgh-1", "15"], &output);
    let daemon = stands(world, start(world, &["east=", "west="])?)?;
    for (words, code, expected) in [
        ("add-tenant n --address 10.0.0.1/8 --trunk north", 1, &["trunk", "\"north\"", "east, west"] as &[&str]),
        ("add-tenant n --address 10.0.0.1/8 --trunk west --device x0", 2, &["trunk", "\"west\"", "on no trunk"]),
    ] {
        complain(words, code, expected, &world.exec("server", &words_of(words))?);
    }
    ensure!(json(world, "list")? == serde_json::json!([]), "a refused request left a tenant");
    kill(world, "TERM")?;
    daemon.wait(Duration::from_secs(60))?;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
