//! `lab demo`: the product's main job before a newcomer's eyes. Every step is checked; the first that fails ends it.

use std::io::{BufRead as _, BufReader};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use system_tests::plan::{HOST_INNER_V4, Inner, Kind, Options, SERVER_INNER_V4, Site};
use system_tests::traffic::{Pinging, page, reachable};
use system_tests::world::World;
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
    let ftp = patiently(world, site, &format!("ftp://{SERVER_INNER_V4}/hello.txt"))?;
    println!("  {}$ curl ftp://{SERVER_INNER_V4}/hello.txt     -> {}", site.host(), ftp.trim());
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
