//! The declarative file on real packets: applied, changed under traffic, applied again, killed in the middle and run again,
//! exported, and imported after everything was removed. And its schema, judged by a validator that is not ours.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use system_tests::plan::{Kind, Options, SERVER_INNER_V4, Site};
use system_tests::tenants;
use system_tests::traffic::{Pinging, page, reachable, url};
use system_tests::world::{World, bin_dir, eventually};

use crate::floor::{Need, TENANTS, explain, trial, world};
use crate::kill9::pid;

/// Where the file lies on the server of a world.
const FILE: &str = "/run/lab/closed-networks.toml";

const VALIDATOR: &[Need] =
    &[Need::Daemons, Need::Program("python3", "python3"), Need::Module("jsonschema", "python3-jsonschema")];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("declare::on_real_packets", TENANTS, || in_world("declare", 3, on_real_packets)),
        trial("declare::killed_in_the_middle", TENANTS, || in_world("declkill", 1, killed_in_the_middle)),
        trial("declare::at_once_and_one_by_one", TENANTS, || in_world("declspeed", 1, speed)),
        trial("declare::the_schema_agrees_with_the_reader", VALIDATOR, schema_agrees),
    ]
}

fn in_world(stem: &str, sites: u16, check: fn(&World) -> Result<()>) -> Result<()> {
    let kinds = vec![Kind::Ipip, Kind::Gre, Kind::Vxlan];
    let world = world(stem, Options { sites, kinds, ..Options::default() })?;
    explain(&world, check(&world))
}

fn write(world: &World, text: &str) -> Result<()> {
    std::fs::write(world.path(FILE), text).context("cannot write the file")
}

/// A site's tenant, two addresses and a web server.
fn tenant(world: &World, site: &Site, second: &str) -> String {
    let name = site.tenant();
    format!(
        "[tenants.{name}]\nvlan = {}\naddresses = [\"{SERVER_INNER_V4}/24\", \"{second}/24\"]\ntunnels = [\"{}\"]\n\
         services.web = {{ template = \"nginx\", set = {{ body = \"{}\" }} }}\n\n",
        site.vlan(),
        site.server_tunnel(world.options().outer),
        tenants::page(site)
    )
}

fn apply(world: &World, more: &[&str]) -> Result<String> {
    world.ok("server", &[&["tenantd", "apply", "-f", FILE], more].concat())
}

fn last(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

fn list(world: &World) -> Result<Value> {
    Ok(serde_json::from_str(&world.ok("server", &["tenantd", "list", "--json"])?)?)
}

fn on_real_packets(world: &World) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    let all = |second: &str| {
        let tenants: String = sites.iter().map(|site| tenant(world, site, second)).collect();
        format!("version = 1\n\n{tenants}")
    };
    write(world, &all("192.168.1.2"))?;
    let said = apply(world, &[])?;
    ensure!(last(&said) == "3 tenants: 3 added", "{said}");
    for site in &sites {
        eventually("its page is served", Duration::from_secs(30), || {
            let got = page(world, &site.host(), &url("http", SERVER_INNER_V4), &[]).ok()?;
            (got.trim() == tenants::page(site)).then_some(())
        })?;
    }
    let before = list(world)?;
    let said = apply(world, &[])?;
    ensure!(last(&said) == "3 tenants: 3 same", "{said}");
    ensure!(list(world)? == before, "applied twice, something changed: {before}\n{}", list(world)?);
    // One address is changed in all while the other one is pinged, and nginx goes on.
    let masters = |world: &World| -> Result<Vec<String>> {
        sites.iter().map(|site| tenants::sh(world, &site.tenant(), "pgrep -o -x nginx")).collect()
    };
    let servers = masters(world)?;
    let mut pings = Vec::new();
    for site in &sites {
        reachable(world, &site.host(), SERVER_INNER_V4, Duration::from_secs(30))?;
        pings.push(Pinging::start(world, &site.host(), SERVER_INNER_V4, 300)?);
    }
    for second in ["192.168.1.3", "192.168.1.4", "192.168.1.5"] {
        write(world, &all(second))?;
        let said = apply(world, &[])?;
        ensure!(last(&said) == "3 tenants: 3 changed", "{said}");
        for site in &sites {
            let addresses = tenants::sh(world, &site.tenant(), "ip -o address show")?;
            ensure!(addresses.contains(&format!(" {second}/")), "{second} is not in {addresses}");
        }
        // Behind VXLAN the host can ask for it; the other gateways answer for one address only.
        reachable(world, &sites[2].host(), second, Duration::from_secs(30))?;
    }
    for ping in pings {
        ping.all_answered()?;
    }
    ensure!(masters(world)? == servers, "a service that is the same was started again");
    exported_and_imported(world, &sites)?;
    exchanged(world, &sites)?;
    pruned(world, &sites)
}

/// Everything is removed and comes back from the file, with the same numbers.
fn exported_and_imported(world: &World, sites: &[Site]) -> Result<()> {
    let before = list(world)?;
    let out = "/run/lab/exported.toml";
    world.ok("server", &["tenantd", "export", "-o", out])?;
    ensure!(last(&world.ok("server", &["tenantd", "apply", "-f", out])?) == "3 tenants: 3 same", "applied at home");
    for site in sites {
        world.ok("server", &["tenantd", "remove-tenant", &site.tenant(), "--force"])?;
    }
    let said = world.ok("server", &["tenantd", "import", out])?;
    ensure!(last(&said) == "3 tenants: 3 added", "{said}");
    let rows = |list: &Value| {
        let mut list = list.clone();
        let tenants = list.as_array_mut().into_iter().flatten();
        tenants.for_each(|tenant| tenant["generation"] = Value::Null);
        list
    };
    ensure!(rows(&list(world)?) == rows(&before), "imported: {}\nexported: {before}", list(world)?);
    for site in sites {
        eventually("its page is served again", Duration::from_secs(30), || {
            let got = page(world, &site.host(), &url("http", SERVER_INNER_V4), &[]).ok()?;
            (got.trim() == tenants::page(site)).then_some(())
        })?;
    }
    Ok(())
}

/// Two tenants exchange their tunnels: neither server answers its old customer any more.
fn exchanged(world: &World, sites: &[Site]) -> Result<()> {
    let outer = world.options().outer;
    let [a, b] = [&sites[0], &sites[1]].map(|site| site.server_tunnel(outer));
    let file: String = sites.iter().map(|site| tenant(world, site, "192.168.1.5")).collect();
    let swapped = file.replace(&a, "\u{0}").replace(&b, &a).replace('\u{0}', &b);
    write(world, &format!("version = 1\n{swapped}"))?;
    let said = apply(world, &[])?;
    ensure!(last(&said) == "3 tenants: 2 changed, 1 same", "{said}");
    for (site, server) in [(&sites[0], &sites[1]), (&sites[1], &sites[0])] {
        eventually("the other one's page is served", Duration::from_secs(30), || {
            let got = page(world, &site.host(), &url("http", SERVER_INNER_V4), &[]).ok()?;
            (got.trim() == tenants::page(server)).then_some(())
        })?;
    }
    Ok(())
}

/// Pruned is what no file names; what runs is refused until it is said twice, and its VLAN is free for another at once.
fn pruned(world: &World, sites: &[Site]) -> Result<()> {
    let (first, others) = sites.split_first().context("no site")?;
    let vlan = others[0].vlan();
    let new = format!("[tenants.new]\nvlan = {vlan}\naddresses = [\"10.0.0.1/8\"]\n");
    write(world, &format!("version = 1\n{}{new}", tenant(world, first, "192.168.1.5")))?;
    let refused = world.exec("server", &["tenantd", "apply", "-f", FILE, "--prune"])?;
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    ensure!(refused.status.code() == Some(1) && said.contains("running processes"), "{said}");
    let said = world.exec("server", &["tenantd", "apply", "-f", FILE, "--prune", "--force"])?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(said.contains("new: added"), "{said}");
    let names: Vec<String> = list(world)?
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|tenant| Some(tenant["name"].as_str()?.to_owned()))
        .collect();
    ensure!(names == ["new".to_owned(), first.tenant()], "{names:?}");
    Ok(())
}

/// A file of `count` bare tenants.
fn many(count: usize) -> String {
    let one = |n: usize| format!("[tenants.t{n:04}]\naddresses = [\"192.168.1.1/24\"]\n");
    format!("version = 1\n{}", (0..count).map(one).collect::<String>())
}

/// Applies the file of so many tenants and kills the client, by its pid, when some are made; how many are.
fn client_killed(world: &World, count: usize, there: fn(&World) -> usize) -> Result<usize> {
    write(world, &many(count))?;
    let mut client =
        world.spawn("server", &["sh", "-c", &format!("echo $$; exec tenantd apply -f {FILE} >/dev/null")])?;
    let mut line = String::new();
    let stdout = client.stdout().context("no output")?;
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
    eventually("some are made", Duration::from_secs(60), || (there(world) >= 10).then_some(()))?;
    // It has ended by itself when whoever kills it is late.
    world.exec("server", &["kill", "-9", line.trim()])?;
    client.wait(Duration::from_secs(60))?;
    Ok(there(world))
}

fn killed_in_the_middle(world: &World) -> Result<()> {
    let count = if std::env::var_os("FULL").is_some() { 1000 } else { 150 };
    let there = |world: &World| list(world).ok().and_then(|list| list.as_array().map(Vec::len)).unwrap_or_default();
    // The client, when some are made and enough are left for what follows. Who kills it may be late: then again, from
    // none.
    let mut made = 0;
    for _ in 0..5 {
        made = client_killed(world, count, there)?;
        if made + 60 <= count {
            break;
        }
        write(world, "version = 1\n")?;
        apply(world, &["--prune", "--force", "--yes"])?;
        write(world, &many(count))?;
    }
    ensure!((10..=count - 60).contains(&made), "{made} of {count} when the client was killed");
    // The daemon, twice; the client waits until it is back.
    let client = world.spawn("server", &["sh", "-c", &format!("tenantd apply -f {FILE} 2>&1")])?;
    for more in [20, 40] {
        eventually("more are made", Duration::from_secs(60), || (there(world) >= made + more).then_some(()))?;
        let old = pid(world, "tenantd")?.context("no tenantd")?;
        world.ok("server", &["kill", "-9", &old.to_string()])?;
    }
    let output = client.wait(Duration::from_secs(600))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{said}");
    let said = apply(world, &[])?;
    ensure!(last(&said) == format!("{count} tenants: {count} same"), "{said}");
    // Nothing twice and nothing left over: a number each.
    let list = list(world)?;
    for field in ["vlan", "gid", "stack"] {
        let mut numbers: Vec<_> = list.as_array().into_iter().flatten().map(|t| t[field].to_string()).collect();
        numbers.sort();
        numbers.dedup();
        ensure!(numbers.len() == count, "{} of {field}", numbers.len());
    }
    write(world, "version = 1\n")?;
    let refused = world.exec("server", &["tenantd", "apply", "-f", FILE, "--prune"])?;
    ensure!(refused.status.code() == Some(2) && there(world) == count, "a file that names no tenant removed some");
    let said = apply(world, &["--prune", "--yes"])?;
    ensure!(last(&said) == format!("{count} tenants: {count} removed"), "{said}");
    Ok(())
}

/// All at once must not be slower than one by one.
fn speed(world: &World) -> Result<()> {
    let count = if std::env::var_os("FULL").is_some() { 1000 } else { 100 };
    let one_by_one = {
        let script =
            format!("for n in $(seq {count}); do tenantd add-tenant t$n --address 192.168.1.1/24 >/dev/null; done");
        let started = Instant::now();
        world.ok("server", &["sh", "-ec", &script])?;
        started.elapsed()
    };
    // The best of a few: while one of them is measured the machine may stand still for others.
    let mut at_once = Duration::MAX;
    for _ in 0..4 {
        write(world, "version = 1\n")?;
        apply(world, &["--prune", "--force", "--yes"])?;
        write(world, &many(count))?;
        let started = Instant::now();
        apply(world, &[])?;
        at_once = at_once.min(started.elapsed());
        if at_once <= one_by_one {
            break;
        }
    }
    let started = Instant::now();
    apply(world, &[])?;
    let again = started.elapsed();
    println!("{count} tenants: one by one {one_by_one:?}, apply {at_once:?}, apply again {again:?}");
    ensure!(at_once <= one_by_one, "apply took {at_once:?}, one by one {one_by_one:?}");
    Ok(())
}

/// What the schema refuses the program refuses, and what the program takes the schema takes. Files whose name begins with
/// `shape` are wrong in a way that a schema can see.
fn schema_agrees() -> Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tenantd/tests/declared");
    let schema = Command::new(bin_dir()?.join("tenantd")).arg("schema").output().context("cannot run tenantd")?;
    ensure!(schema.status.success(), "{}", String::from_utf8_lossy(&schema.stderr));
    let script = "
import json, sys, tomllib, jsonschema
schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
check = jsonschema.Draft202012Validator(schema)
for path in sys.argv[2:]:
    try:
        value = tomllib.load(open(path, 'rb'))
    except tomllib.TOMLDecodeError:
        print('unread'); continue
    print('taken' if check.is_valid(value) else 'refused')
";
    let at = std::env::temp_dir().join(format!("schema-{}.json", std::process::id()));
    std::fs::write(&at, &schema.stdout)?;
    let mut files: Vec<PathBuf> = Vec::new();
    for kind in ["good", "bad"] {
        let found = std::fs::read_dir(corpus.join(kind))?.flatten().map(|entry| entry.path());
        files.extend(found.filter(|path| path.extension().is_some_and(|e| e == "toml")));
    }
    ensure!(files.len() >= 10, "{files:?}");
    let judged = Command::new("python3").arg("-c").arg(script).arg(&at).args(&files).output()?;
    std::fs::remove_file(&at)?;
    ensure!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));
    let verdicts = String::from_utf8_lossy(&judged.stdout).into_owned();
    for (path, verdict) in files.iter().zip(verdicts.lines()) {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let good = path.parent().is_some_and(|dir| dir.ends_with("good"));
        let expected = if good {
            "taken"
        } else if name.starts_with("shape") {
            "refused"
        } else {
            verdict
        };
        ensure!(verdict == expected, "{name}: the schema says {verdict}");
    }
    Ok(())
}
