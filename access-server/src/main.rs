//! The program: reads the command line, does it, says what went wrong.

use std::io::IsTerminal;
use std::process::ExitCode;

use access_server::cli::Cli;
use access_server::client::ClientError;
use access_server::commands;
use access_server::problem::{Problem, ProblemKind};
use clap::Parser;
use stackmap::Invalid;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Wrong usage ends here with code 2.
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr).init();
    let json = cli.json();
    let Err(error) = commands::dispatch(cli) else {
        return ExitCode::SUCCESS;
    };
    match serde_json::to_string(&problem_of(&error)) {
        Ok(problem) if json => eprintln!("{problem}"),
        _ => eprintln!("access-server: {error:#}"),
    }
    // A value of the command line that clap could not know to be wrong is wrong usage too.
    if error.is::<Invalid>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

/// The problem document of whatever ended the command.
fn problem_of(error: &anyhow::Error) -> Problem {
    match (error.downcast_ref::<ClientError>(), error.downcast_ref::<Invalid>()) {
        (Some(ClientError::Refused(problem)), _) => problem.clone(),
        (_, Some(invalid)) => invalid.clone().into(),
        _ => Problem::new(ProblemKind::Failed, format!("{error:#}")),
    }
}
