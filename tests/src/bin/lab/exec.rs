//! `lab exec`: runs a command in a node.

use anyhow::Result;
use system_tests::{enter, record};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  lab exec host-a -- ping -c 3 192.168.1.1")]
pub(crate) struct Args {
    /// Name of the lab [default: the only one that stands, else lab].
    #[arg(long)]
    name: Option<String>,
    /// host-a, gw-a, ..., internet, server.
    node: String,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Returns the command's own exit code.
pub(crate) fn run(args: Args) -> Result<u8> {
    let record = record::read(&record::meant(args.name)?)?;
    let code = enter::run(&record, &args.node, &args.command)?;
    Ok(u8::try_from(code).unwrap_or(1))
}
