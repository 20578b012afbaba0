//! `lab up`: makes a world, adds its tenants, says how to explore.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal};
use system_tests::plan::{Gateway, Inner, Kind, Options, Outer, SERVER_INNER_V4, SERVER_INNER_V6};
use system_tests::record::name_flag;
use system_tests::world::World;
use system_tests::{holder, tenants, world};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name, so that several can stand side by side.
    #[arg(long, default_value = "lab")]
    name: String,
    /// Number of customer sites, 1 to 50.
    #[arg(long, default_value_t = 3)]
    sites: u16,
    /// Kind of tunnel; a list (ipip,gre,vxlan) goes round the sites.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ipip")]
    tunnel: Vec<Kind>,
    /// IP version inside the tunnels.
    #[arg(long, value_enum, default_value = "both")]
    inner: Inner,
    /// IP version of the tunnels.
    #[arg(long, value_enum, default_value = "4")]
    outer: Outer,
    /// Who ends the tunnels at the customers' side.
    #[arg(long, value_enum, default_value = "site")]
    gateway: Gateway,
    /// GRE tunnels carry a key (1000, 1001, ...).
    #[arg(long)]
    keyed: bool,
    /// No tenants: only sites, internet and the server with its daemons.
    #[arg(long)]
    bare: bool,
    /// No daemons on the server either.
    #[arg(long)]
    no_server: bool,
    /// Hold the lab and take it down at Ctrl-C.
    #[arg(long)]
    foreground: bool,
    /// Say nothing but errors.
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) fn run(args: Args) -> Result<u8> {
    let quiet = args.quiet;
    let options = Options {
        name: args.name,
        sites: args.sites,
        kinds: args.tunnel,
        inner: args.inner,
        outer: args.outer,
        gateway: args.gateway,
        keyed: args.keyed,
        server: !args.no_server,
    };
    let started = Instant::now();
    let mut say = |step: &str| {
        if !quiet {
            // A closed pipe at our output must not end a lab half-made.
            let _ = writeln!(std::io::stdout(), "  {step}");
        }
    };
    // Blocked before the world exists: from here on Ctrl-C is ours to answer.
    let mut stop = SigSet::empty();
    if args.foreground {
        stop.add(Signal::SIGINT);
        stop.add(Signal::SIGTERM);
        stop.thread_block().context("cannot block signals")?;
    }
    let world = World::up(&options, &mut say)?;
    let tenants = options.server && !args.bare;
    if tenants {
        for site in options.sites() {
            let said = tenants::add(&world, &site)?;
            say(&said);
        }
    }
    if !quiet {
        println!(
            "lab {:?} stands after {:.1} s.\n{}",
            options.name,
            started.elapsed().as_secs_f64(),
            explore(&options, tenants)
        );
    }
    if args.foreground {
        println!("Ctrl-C takes it down.");
        stop.wait().context("cannot wait for a signal")?;
        drop(world);
        println!("lab {:?} is down.", options.name);
    } else {
        world.keep()?;
    }
    Ok(0)
}

/// What a newcomer types next.
pub(crate) fn explore(options: &Options, tenants: bool) -> String {
    let flag = name_flag(&options.name);
    let (v4, v6) = (SERVER_INNER_V4, format!("'[{SERVER_INNER_V6}]'"));
    let server = if options.inner.v4() { v4.to_owned() } else { v6 };
    let mut lines = vec![format!("Explore ({}):", options.nodes().join(", "))];
    if let Some(dir) = own_dir_unless_in_path() {
        lines.push(format!("  PATH={dir}:$PATH"));
    }
    if tenants {
        lines.push(format!("  lab exec{flag} host-a -- curl -s http://{server}/"));
        lines.push(format!(
            "  lab exec{flag} host-b -- curl -s http://{server}/      # the same address, another server"
        ));
    }
    if options.server {
        lines.push(format!("  lab exec{flag} server -- tenantd map"));
    }
    lines.push(format!("  lab exec{flag} gw-a -- tcpdump -ni wan0              # the tunnel"));
    lines.push(format!("Stop:\n  lab down{flag}"));
    lines.join("\n")
}

/// Where this program is, when typing `lab` would not find it.
fn own_dir_unless_in_path() -> Option<String> {
    let dir = world::bin_dir().ok()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    (!std::env::split_paths(&path).any(|d| d == dir)).then(|| dir.display().to_string())
}

/// The hidden command: watcher and holder. The connection to the maker is standard input.
pub(crate) fn hold(options: &str) -> Result<u8> {
    let options: Options = serde_json::from_str(options).context("options")?;
    let maker = std::io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
    holder::run(&options, UnixStream::from(maker))?;
    Ok(0)
}
