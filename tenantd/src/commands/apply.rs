//! `tenantd apply`: bring every tenant of a declarative file to what it says.

use clap::Args;
use stackmap::{Invalid, TenantName};

use super::{Context, Failure, diff, tasks};
use crate::declare::order::{Permission, Task, schedule, unname_first};

/// Arguments of `apply`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tenantd apply -f closed-networks.toml\n  tenantd apply -f closed-networks.toml --prune \
    --dry-run\n  tenantd export acme | sed s/192.168.1.1/192.168.1.2/ | tenantd apply -f -\n\n\
    What is so already is not touched; what can be changed in place is, with nothing ended. Stopped at any moment and run \
    again, it does the rest. One tenant that fails stops no other: exit code 1 says that some did. When something is to be \
    ended (--prune, --replace), everything is checked before, also by the daemon, and if one tenant would be refused, \
    nothing is done.\n\
    The file is described in docs/closed-networks.md."
)]
pub struct Apply {
    #[command(flatten)]
    files: tasks::Files,
    /// Remove the tenants that no file names, with their files; refused for one whose processes run
    #[arg(long)]
    prune: bool,
    /// With --prune: end running processes
    #[arg(long, requires = "prune")]
    force: bool,
    /// With --prune: also when no file names a tenant, which removes all
    #[arg(long, requires = "prune")]
    yes: bool,
    /// End this tenant, with its files, and make it again if it cannot be changed in place; may be given several times
    #[arg(long, value_name = "NAME")]
    replace: Vec<TenantName>,
    /// Say what would be done and let the daemon check it; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Tenants at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
}

/// Applies; the code is 1 when a tenant failed.
///
/// # Errors
/// [`Failure`] when nothing could be done at all.
pub fn run(args: Apply, cx: &Context) -> Result<u8, Failure> {
    let mut wanted = args.files.read()?;
    let there = tasks::export(cx)?;
    unname_first(&mut wanted, &there);
    let may = Permission { prune: args.prune, replace: args.replace.into_iter().collect() };
    let found = schedule(&wanted, &there.tenants, &may);
    if args.prune && !args.yes && wanted.tenants.is_empty() && !there.tenants.is_empty() {
        let rule = "no file names a tenant: all that are there would be removed, with their files; --yes says so";
        return Err(Invalid::new("prune", there.tenants.len(), rule).into());
    }
    let how = tasks::How { jobs: args.jobs, force: args.force, dry_run: args.dry_run };
    if args.dry_run && !cx.json {
        diff::say(&found, cx)?;
    }
    // What is ended is not there any more when its successor is refused.
    if !args.dry_run && found.waves.iter().flatten().any(Task::ends) {
        let code = tasks::check(&found, how, cx)?;
        if code != 0 {
            return Ok(code);
        }
    }
    tasks::run(&found, how, cx)
}
