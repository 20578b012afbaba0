//! `lab demo`: the product's main job before a newcomer's eyes. Every step is checked; the first that fails ends it.

use std::io::{BufRead as _, BufReader};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use system_tests::plan::{HOST_INNER_V4, Inner, Kind, Options, SERVER_INNER_V4, Site};
use system_tests::tenants::FTP_USER;
use system_tests::traffic::{Pinging, page, reachable};
use system_tests::world::{World, eventually};
use system_tests::{holder, record, tenants};

use crate::up::explore;

/// Pings of each host while D is added: 5 s of them.
const PINGS: u32 = 500;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name of the lab it makes; one of that name is taken down first.
    #[arg(long, default_value = "demo")]
    name: String,
    /// Take the lab down at the end.
    #[arg(long)]
    no_keep: bool,
}

pub(crate) fn run(args: Args) -> Result<u8> {
    if record::names()?.contains(&args.name) {
        holder::end(&record::read(&args.name)?)?;
    }
    let started = Instant::now();
    let options = Options {
        name: args.name,
        sites: 4,
        kinds: vec![Kind::Ipip, Kind::Gre, Kind::Vxlan, Kind::Ipip],
        inner: Inner::Both,
        ..Options::default()
    };
    headline("The world: four customers' sites, an internet, one server (all network namespaces)");
    let world = World::up(&options, &mut |step| println!("  {step}"))?;
    if let Err(e) = show(&world) {
        eprintln!("\n{}", world.report());
        return Err(e.context("the demo failed"));
    }
    println!("\nAll of it in {:.1} s. Every step was checked.", started.elapsed().as_secs_f64());
    if args.no_keep {
        drop(world);
        return Ok(0);
    }
    println!("{}", explore(&options, true));
    world.keep()?;
    Ok(0)
}

fn show(world: &World) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    let Some((d, abc)) = sites.split_last() else { bail!("no sites") };
    headline(&format!(
        "A, B and C: everybody's host is {HOST_INNER_V4}, everybody wants the server at {SERVER_INNER_V4}"
    ));
    for site in abc {
        add(world, site)?;
    }
    headline("Each has standard servers, unmodified, with their package's configuration");
    for (site, (template, program)) in abc.iter().zip(OTHERS) {
        more(world, site, template, program)?;
    }
    headline("Each host asks 192.168.1.1 and reaches its own server (web, then FTP)");
    for site in abc {
        fetch(world, site)?;
    }
    headline("Each server opens a connection to its host, without having been asked (push)");
    for site in abc {
        push(world, site)?;
    }
    headline("D is added while A, B and C talk");
    let pings = abc
        .iter()
        .map(|site| Pinging::start(world, &site.host(), SERVER_INNER_V4, PINGS))
        .collect::<Result<Vec<_>>>()?;
    std::thread::sleep(Duration::from_millis(500));
    add(world, d)?;
    fetch(world, d)?;
    for (site, ping) in abc.iter().zip(pings) {
        let pings = ping.all_answered()?;
        println!("  {}: {} pings during all this, {} answered, 0 lost", site.host(), pings.sent, pings.received);
    }
    headline("The three tables");
    print!("{}", indent(&world.ok("server", &["tenantd", "map"])?));
    shells(world, abc)?;
    files(world, abc)?;
    limit(world, abc)?;
    attack(world, abc)
}

/// A server each has besides web and FTP, where it is installed: template and program.
const OTHERS: [(&str, &str); 3] =
    [("dnsmasq", "/usr/sbin/dnsmasq"), ("openssh", "/usr/sbin/sshd"), ("redis", "/usr/bin/redis-server")];

fn more(world: &World, site: &Site, template: &str, program: &str) -> Result<()> {
    if !std::path::Path::new(program).exists() {
        println!("  ({program} is not installed: {} goes without)", site.tenant());
        return Ok(());
    }
    let argv = ["tenantd", "add-service", &site.tenant(), template, "--template", template].map(String::from);
    println!("  # {}", shell(&argv));
    print!("{}", indent(&world.ok("server", &argv.each_ref().map(String::as_str))?));
    Ok(())
}

/// What root types in each of them: as it is shown, and as it is run so that it fits into a column.
const SHELLS: [(&str, &str); 4] = [
    ("id -un", "id -un"),
    ("hostname", "hostname"),
    ("ip -br address", "ip -br -4 address | awk '$1 != \"lo\" { print $1, $3 }'"),
    ("ps ax", "ps -eo pid,comm --sort=pid | grep -vwE 'ps|sh|grep'"),
];

/// What root sees in each of them.
fn shells(world: &World, abc: &[Site]) -> Result<()> {
    headline("Root shells of the three, side by side");
    for (shown, script) in SHELLS {
        beside(world, abc, shown, script)?;
    }
    for site in abc {
        let name = tenants::sh(world, &site.tenant(), "id -u; hostname")?;
        ensure!(name == format!("0\n{}\n", site.tenant()), "{} is not its own root's: {name}", site.tenant());
    }
    Ok(())
}

/// A file of one is not in the others.
fn files(world: &World, abc: &[Site]) -> Result<()> {
    headline("Root writes a file, makes a user: in its own server only");
    let [a, others @ ..] = abc else { bail!("no sites") };
    let script = "echo 'only here' >/etc/motd; useradd --create-home kim";
    println!("  {}# {script}", a.tenant());
    tenants::sh(world, &a.tenant(), script)?;
    beside(world, abc, "cat /etc/motd; id kim", "cat /etc/motd 2>&1 | tail -n 1 | cut -c1-30; id kim 2>&1")?;
    for site in others {
        let there = tenants::sh(world, &site.tenant(), "! grep -q 'only here' /etc/motd; ! id kim 2>&1");
        ensure!(there.is_ok(), "{} sees what {} wrote", site.tenant(), a.tenant());
    }
    Ok(())
}

/// Processes beyond the limit are refused, the neighbour goes on.
fn limit(world: &World, abc: &[Site]) -> Result<()> {
    headline("A limit holds: 40 processes for B, which tries to start 100");
    let [_, b, c] = abc else { bail!("three sites") };
    let tenant = b.tenant();
    println!("  # tenantd set-limits {tenant} processes=40");
    world.ok("server", &["tenantd", "set-limits", &tenant, "processes=40"])?;
    // Harmless without the limit, too: a hundred that sleep for a second.
    let script = "import os, time\nn = 0\ntry:\n    for _ in range(100):\n        if os.fork() == 0: time.sleep(1); os._exit(0)\n        n += 1\nexcept OSError as e: print(e.strerror, 'after', n)";
    let said = world.ok("server", &["tenantd", "exec", &tenant, "--", "/usr/bin/python3", "-c", script])?;
    println!("  {tenant}# fork, fork, fork ...              -> {}", said.trim());
    ensure!(said.contains("after"), "{tenant} started a hundred processes");
    let served = patiently(world, c, &format!("http://{SERVER_INNER_V4}/"))?;
    println!("  {}$ curl http://{SERVER_INNER_V4}/             -> {}", c.host(), served.trim());
    Ok(())
}

/// A program under the group of a tenant, but not in its stack.
fn attack(world: &World, abc: &[Site]) -> Result<()> {
    headline("An attack: a program under the group id of A opens a socket in the server's own stack");
    let [a, ..] = abc else { bail!("no sites") };
    let show: serde_json::Value =
        serde_json::from_str(&world.ok("server", &["tenantd", "show", &a.tenant(), "--json"])?)?;
    let gid = show["gid"].to_string();
    let script =
        "import socket\ntry: socket.socket(); print('opened')\nexcept OSError as e: print('refused:', e.strerror)";
    let argv = ["setpriv", "--reuid", &gid, "--regid", &gid, "--clear-groups", "/usr/bin/python3", "-c", script];
    let said = world.ok("server", &argv)?;
    println!("  $ setpriv --regid {gid} python3 -c 'socket.socket()'   -> {}", said.trim());
    ensure!(said.starts_with("refused"), "the guard let a socket of {} be made in the server's stack", a.tenant());
    let event = eventually("the refusal is told", Duration::from_secs(5), || {
        let log = world.log("tenantd");
        let line = log.lines().find(|line| line.contains("guard-refused"))?;
        Some(line.split_once("kind=").map_or(line, |(_, event)| event).to_owned())
    })?;
    println!("  event: {event}");
    Ok(())
}

/// Runs a script as root of each and prints what they say in columns.
fn beside(world: &World, sites: &[Site], shown: &str, script: &str) -> Result<()> {
    const WIDTH: usize = 38;
    let mut columns = Vec::new();
    for site in sites {
        let mut lines = vec![format!("{}# {shown}", site.tenant())];
        let said = world.exec("server", &["tenantd", "exec", &site.tenant(), "--", "sh", "-c", script])?;
        lines.extend(String::from_utf8_lossy(&said.stdout).lines().map(str::to_owned));
        columns.push(lines);
    }
    for row in 0..columns.iter().map(Vec::len).max().unwrap_or(0) {
        let cells = columns.iter().map(|lines| {
            let cell: String = lines.get(row).map(String::as_str).unwrap_or_default().chars().take(WIDTH - 2).collect();
            format!("{cell:WIDTH$}")
        });
        println!("  {}", cells.collect::<String>().trim_end());
    }
    Ok(())
}

/// Adds a tenant as its operator would, with web and FTP server.
fn add(world: &World, site: &Site) -> Result<()> {
    let options = world.options();
    for argv in
        [tenants::add_tenant(options, site), tenants::add_web(site), tenants::add_ftp(site), tenants::put_file(site)]
    {
        // A script for sh is shown as what it says.
        println!(
            "  # {}",
            argv.last().filter(|_| argv.first().is_some_and(|p| p == "sh")).cloned().unwrap_or_else(|| shell(&argv))
        );
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        print!("{}", indent(&world.ok("server", &argv)?));
    }
    reachable(world, &site.host(), SERVER_INNER_V4, Duration::from_secs(5))
}

fn fetch(world: &World, site: &Site) -> Result<()> {
    let web = patiently(world, site, &format!("http://{SERVER_INNER_V4}/"))?;
    println!("  {}$ curl http://{SERVER_INNER_V4}/             -> {}", site.host(), web.trim());
    ensure!(web.trim() == tenants::page(site), "{} was served another tenant's page", site.host());
    let (user, password) = (FTP_USER, tenants::ftp_password(site));
    let ftp = patiently(world, site, &format!("ftp://{user}:{password}@{SERVER_INNER_V4}/hello.txt"))?;
    println!("  {}$ curl ftp://{user}:...@{SERVER_INNER_V4}/hello.txt -> {}", site.host(), ftp.trim());
    ensure!(ftp.trim() == tenants::hello(site), "{} was given another tenant's file", site.host());
    Ok(())
}

/// A service is started when add-service returns; when it listens is its own business.
fn patiently(world: &World, site: &Site, url: &str) -> Result<String> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match page(world, &site.host(), url, &[]) {
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(50)),
            done => return done,
        }
    }
}

fn push(world: &World, site: &Site) -> Result<()> {
    let text = format!("This is {}.", site.host());
    let listen = format!("{HOST_INNER_V4}:8080");
    let mut web = world.spawn(&site.host(), &["lab", "__answer", &listen, &text])?;
    let mut line = String::new();
    BufReader::new(web.stdout().context("no output")?).read_line(&mut line)?;
    let url = format!("http://{listen}/");
    let got = world.ok("server", &["tenantd", "exec", &site.tenant(), "--", "curl", "-sS", "--max-time", "5", &url])?;
    println!("  {}$ curl {url}  -> {}", site.tenant(), got.trim());
    ensure!(got.trim() == text, "{} reached another closed network's host", site.tenant());
    Ok(())
}

fn headline(text: &str) {
    println!("\n== {text}");
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// A command line one can paste.
fn shell(argv: &[String]) -> String {
    let quote = |word: &String| {
        let plain = word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.,:/=@%+".contains(&b));
        if plain { word.clone() } else { format!("'{}'", word.replace('\'', "'\\''")) }
    };
    argv.iter().map(quote).collect::<Vec<_>>().join(" ")
}
