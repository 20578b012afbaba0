//! The program: reads the command line, does it, says what went wrong.

use std::io::IsTerminal;
use std::process::ExitCode;

use access_server::cli::Cli;
use access_server::commands;
use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Wrong usage ends here with code 2.
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr).init();
    match commands::dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("access-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}
