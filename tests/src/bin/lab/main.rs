//! `lab`: figure 3 of the specification on one machine, out of network namespaces.

mod answer;
mod demo;
mod down;
mod exec;
mod status;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds closed networks, an internet and a server out of network namespaces, and takes you into them.
///
/// Nothing of this machine's own network is touched; `lab down`, or the death of the lab's first process, leaves
/// nothing behind.
#[derive(Parser)]
#[command(
    name = "lab",
    version,
    after_help = "Example:\n  lab up --sites 3\n  lab exec host-a -- curl -s http://192.168.1.1/\n  lab down"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a lab.
    Up(up::Args),
    /// Runs a command in a node: host-a, gw-a, ..., internet, server.
    Exec(exec::Args),
    /// Shows the labs that stand.
    Status(status::Args),
    /// Takes a lab down.
    Down(down::Args),
    /// Shows three closed networks on one server, end to end, and leaves the lab standing.
    Demo(demo::Args),
    /// Answers every HTTP request with a text (the demo's hosts run it).
    #[command(name = "__answer", hide = true)]
    Answer(answer::Args),
    /// The processes that are the world (the lab starts them itself).
    #[command(name = "__hold", hide = true)]
    Hold {
        /// Options as JSON.
        options: String,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Up(args) => up::run(args),
        Command::Exec(args) => exec::run(args),
        Command::Status(args) => status::run(args),
        Command::Down(args) => down::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Answer(args) => answer::run(&args),
        Command::Hold { options } => up::hold(&options),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("lab: {e:#}");
            ExitCode::from(1)
        }
    }
}
