//! `lab down`: takes a lab down; one that is not there is down already.

use anyhow::Result;
use system_tests::{holder, record};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name of the lab [default: the only one that stands, else lab].
    #[arg(long, conflicts_with = "all")]
    name: Option<String>,
    /// All labs of this machine.
    #[arg(long)]
    all: bool,
}

pub(crate) fn run(args: Args) -> Result<u8> {
    let standing = record::names()?;
    let names = if args.all { standing.clone() } else { vec![record::meant(args.name)?] };
    for name in names {
        if !standing.contains(&name) {
            println!("no lab named {name:?} stands; nothing to do");
            continue;
        }
        holder::end(&record::read(&name)?)?;
        println!("lab {name:?} is down");
    }
    Ok(0)
}
