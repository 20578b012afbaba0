//! `tenantd run`: the daemon itself, in the foreground.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::Args;
use nix::unistd::Uid;

use super::Failure;
use crate::config::{Config, Options};

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tenantd run --config /etc/tenantd/main.toml\n  tenantd run --instance lab --access \
    unix:///run/access-server/lab/api.sock\n\nThe file has the same words as the flags (state-dir = \"/srv/tenants\"); \
    a flag overrides it. RUST_LOG sets what is logged (default info)."
)]
pub struct Run {
    /// Settings file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Take over a store that belongs to another machine or instance; said once, not in the file
    #[arg(long)]
    accept_store: bool,
    #[command(flatten)]
    options: Options,
}

/// Runs the daemon until it is told to end. `instance` and `socket` are the flags that every verb has.
///
/// # Errors
/// [`Failure`].
pub fn run(args: Run, instance: Option<String>, socket: Option<PathBuf>) -> Result<(), Failure> {
    let config = settle(args, instance, socket)?;
    let uid = Uid::effective();
    if !uid.is_root() {
        return Err(Failure::NotRoot(uid));
    }
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Start)?;
    runtime.block_on(crate::daemon::run(config)).map_err(|e| Failure::Daemon(Box::new(e)))
}

fn settle(args: Run, instance: Option<String>, socket: Option<PathBuf>) -> Result<Config, Failure> {
    let config = resolve(args.config.as_deref(), Options { instance, socket, ..args.options })?;
    Ok(Config { accept_store: args.accept_store, ..config })
}

/// The settings of a daemon: flags over its file over the defaults.
pub(super) fn resolve(file: Option<&Path>, flags: Options) -> Result<Config, Failure> {
    let options = match file {
        Some(path) => flags.over(Options::read(path)?),
        None => flags,
    };
    let program = std::env::current_exe().map_err(Failure::Start)?;
    Ok(options.resolve(program.parent().unwrap_or(Path::new("/")))?)
}
