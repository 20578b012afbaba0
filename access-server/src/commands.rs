//! The verbs of the command line: one file each, and the one place that chooses.

mod completion;
mod counters;
mod delete_tunnel;
mod detach;
mod fault_points;
mod list;
mod man;
mod put_tunnel;
mod run;
mod show;
mod site;
mod status;

use anyhow::Context;
use clap::CommandFactory;
use serde::Serialize;

use crate::cli::{Cli, Verb};

/// Does what `cli` asks.
///
/// # Errors
/// Whatever stopped it; the chain of causes is meant for the user.
pub fn dispatch(cli: Cli) -> anyhow::Result<()> {
    match &cli.verb {
        Verb::Completion(args) => return completion::completion(args, &mut Cli::command()),
        Verb::Man(args) => return man::man(args, Cli::command()),
        _ => {}
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the event loop")?;
    runtime.block_on(async {
        match cli.verb {
            Verb::Run(args) => run::run(args).await,
            Verb::Site(args) => site::site(args).await,
            Verb::Status(args) => status::status(&args).await,
            Verb::List(args) => list::list(&args).await,
            Verb::Show(args) => show::show(&args).await,
            Verb::Counters(args) => counters::counters(&args).await,
            Verb::PutTunnel(args) => put_tunnel::put_tunnel(&args).await,
            Verb::DeleteTunnel(args) => delete_tunnel::delete_tunnel(&args).await,
            Verb::Detach(args) => detach::detach(&args).await,
            Verb::FaultPoints(args) => fault_points::fault_points(&args),
            // Done above, without an event loop.
            Verb::Completion(_) | Verb::Man(_) => Ok(()),
        }
    })
}

fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value).context("cannot write JSON")?);
    Ok(())
}
