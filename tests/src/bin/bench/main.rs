//! `bench`: what the data path and `add-tenant` cost, against a raw veth pair and against what an operator builds by
//! hand, in one run. Prints a table, writes a JSON file, and fails when a floor is missed.
//!
//! Everything happens in network namespaces of its own; nothing of the machine's network is touched. `lab`, `tenantd`,
//! `access-server` and `tenant-init` are those beside this program.

mod add_tenant;
mod bare;
mod cpu;
mod floors;
mod flows;
mod netns;
mod one;
mod programs;
mod report;
mod results;
mod rows;
mod sample;
mod scale;
mod whole;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};

use crate::report::{Report, Section};
use crate::results::{Measure, Results};

/// Rounds go on beyond those asked for while the machine is noisy, for at most this long in all.
const PATIENCE: Duration = Duration::from_secs(200);
/// Noisy: the quartiles of a floor's rounds are further apart than this part of the median.
const NOISE: f64 = 0.10;

/// Measures the data path and add-tenant against a raw veth pair and the by-hand way.
#[derive(Parser)]
#[command(name = "bench", version, after_help = "Example:\n  bench --rounds 7 --no-gate")]
struct Cli {
    /// Rounds, each over all rows.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each measurement takes, in milliseconds.
    #[arg(long, default_value_t = 300)]
    duration: u64,
    /// Tenants added by each way.
    #[arg(long, default_value_t = 30)]
    tenants: usize,
    /// Whole tenants with a web server made by each way.
    #[arg(long, default_value_t = 200)]
    whole: usize,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Where the plot of the curves over the number of tenants goes (SVG) [default: nowhere]
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Only print: do not fail when a floor is missed.
    #[arg(long)]
    no_gate: bool,
    /// A short run that only proves that every row gives numbers.
    #[arg(long)]
    smoke: bool,
    /// Where the JSON file goes.
    #[arg(long, default_value = "bench-results")]
    out: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Parts of the JSON file by name.
type Values = Vec<(&'static str, serde_json::Value)>;

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The data path and add-tenant.
    Path,
    /// A whole tenant with a web server, and its memory.
    Whole,
    /// One tenant that stands: processes, its web server, its sockets.
    One,
    /// Curves over the number of tenants, and stacks without an init.
    Scale,
}

#[derive(Subcommand)]
enum Command {
    /// The loop of add-tenant inside a world (the bench starts it itself).
    #[command(name = "__add", hide = true)]
    Add {
        /// How many.
        count: usize,
    },
    /// The loop of whole tenants inside a world (the bench starts it itself).
    #[command(name = "__whole", hide = true)]
    Whole {
        /// How many.
        count: usize,
    },
    /// What is measured of one tenant, inside a world (the bench starts it itself).
    #[command(name = "__one", hide = true)]
    One {
        /// How many rounds.
        rounds: usize,
    },
    /// Starts a process a line of standard input (the bench starts it itself).
    #[command(name = "__fork", hide = true)]
    Fork,
    /// Makes sockets or sends (the bench starts it itself).
    #[command(name = "__sockets", hide = true)]
    Sockets {
        /// Number of the job.
        job: usize,
    },
    /// The floor of a whole tenant: one a line of standard input (the bench starts it itself).
    #[command(name = "__floor", hide = true)]
    Floor,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Some(Command::Add { count }) => add_tenant::inside(count).map(|()| true),
        Some(Command::Whole { count }) => whole::inside(count).map(|()| true),
        Some(Command::One { rounds }) => one::inside(rounds).map(|()| true),
        Some(Command::Fork) => one::alone().map(|()| true),
        Some(Command::Sockets { job }) => one::sockets(job).map(|()| true),
        Some(Command::Floor) => whole::floor().map(|()| true),
        None => run(&cli),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all floors that count were reached.
fn run(cli: &Cli) -> Result<bool> {
    ensure!(nix::unistd::geteuid().is_root(), "not root: network namespaces need root");
    let started = Instant::now();
    let wanted = |part| cli.only.is_empty() || cli.only.contains(&part);
    let (mut found, mut floors) = (Vec::new(), Vec::new());
    if wanted(Part::Path) {
        let (parts, reached) = path(cli, started)?;
        found.extend(parts);
        floors.extend(reached);
    }
    type Measured = fn(&Cli) -> Result<Section>;
    let others: [(Part, Measured); 3] = [
        (Part::Whole, |cli| whole::measure(if cli.smoke { 3 } else { cli.whole }).map(whole::Whole::section)),
        (Part::One, |cli| one::measure(cli.smoke)),
        (Part::Scale, |cli| scale::measure(cli.smoke, cli.plot.as_deref())),
    ];
    for (part, measure) in others {
        if wanted(part) {
            let section = measure(cli).with_context(|| format!("{part:?}"))?;
            println!();
            section.lines.iter().for_each(|line| println!("{line}"));
            eprintln!("bench: {part:?} done after {:.0} s", started.elapsed().as_secs_f64());
            found.push(section.json);
            floors.extend(section.floors);
        }
    }
    let all = report::floors(&floors);
    let path = report::write(&cli.out, found, &floors)?;
    println!("\n{} ({:.0} s)", path.display(), started.elapsed().as_secs_f64());
    Ok(cli.no_gate || cli.smoke || all)
}

/// The data path and `add-tenant`.
fn path(cli: &Cli, started: Instant) -> Result<(Values, Vec<floors::Floor>)> {
    let (rounds, duration, tenants) = if cli.smoke {
        (1, Duration::from_millis(60), 2)
    } else {
        (cli.rounds, Duration::from_millis(cli.duration), cli.tenants)
    };
    let scene = rows::build()?;
    eprintln!("bench: {} rows stand after {:.1} s", scene.rows.len(), started.elapsed().as_secs_f64());
    let mut results = Results::default();
    let mut number = 0;
    cpu::first(true);
    while number < rounds || (!cli.smoke && started.elapsed() < PATIENCE && noisy(&results)) {
        results.round(&scene.rows, number, duration)?;
        number += 1;
        eprintln!("bench: round {number} of {rounds} done after {:.0} s", started.elapsed().as_secs_f64());
    }
    let programs = programs::measure(&scene.rows, rounds, duration)?;
    cpu::first(false);
    let times = add_tenant::measure(&scene.world, tenants)?;
    let mut floors = floors::data_path(&results);
    floors.extend(floors::add_tenant(&times));
    let report = Report { rows: &scene.rows, results: &results, programs: &programs, times: &times };
    report.print();
    if cli.smoke {
        sane(&scene.rows, &results)?;
    }
    Ok((report.json(), floors))
}

/// Whether the rounds so far are too far apart to be judged.
fn noisy(results: &Results) -> bool {
    let measures = [Measure::TcpUp, Measure::TcpDown, Measure::SmallUp, Measure::SmallDown, Measure::PingP50];
    measures.into_iter().any(|measure| {
        [("ipip", "raw"), ("lan-ipip", "lan-by-hand")].into_iter().any(|(row, to)| {
            let (ours, to) = (results.rounds(row, measure), results.rounds(to, measure));
            let ratios: Vec<f64> = ours.iter().zip(to).map(|(o, t)| o / t).collect();
            sample::spread(&ratios) > NOISE
        })
    })
}

/// Every row gave a number for everything that is measured of it.
fn sane(rows: &[rows::Row], results: &Results) -> Result<()> {
    for row in rows {
        for measure in Measure::ALL {
            let rounds = results.rounds(row.name, measure);
            let left_out = row.part == rows::Part::Ladder && matches!(measure, Measure::Tcp4Up | Measure::Tcp4Down);
            let good = !rounds.is_empty() && rounds.iter().all(|v| v.is_finite());
            ensure!(good || left_out, "row {} gave no {}", row.name, measure.name());
        }
    }
    Ok(())
}
