//! `tenantd import`: make the tenants of a file that `export` wrote, on this server or on another.

use clap::Args;

use super::{Context, Failure, diff, tasks};
use crate::declare::order::{Permission, Verdict, schedule, unname_first};

/// Arguments of `import`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd import closed-networks.toml   # made on the \
    other server by: tenantd export -o closed-networks.toml\n\nUnlike apply it changes no tenant that is there: \
    everything is checked first, also by the daemon, and if one tenant of the file is there and differs, or cannot be made, \
    nothing is done. Group ids, VLANs and stacks that the file says must be free. Files of the tenants are not part of it.")]
pub struct Import {
    /// The file; - is standard input
    #[arg(value_name = "FILE")]
    file: String,
    /// Check everything; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Tenants at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
}

/// Imports; the code is 1 when nothing was done because of a tenant, or a tenant failed.
///
/// # Errors
/// [`Failure`] when nothing could be done at all.
pub fn run(args: Import, cx: &Context) -> Result<u8, Failure> {
    let mut wanted = tasks::Files::one(args.file).read()?;
    let there = tasks::export(cx)?;
    unname_first(&mut wanted, &there);
    let mut found = schedule(&wanted, &there.tenants, &Permission::default());
    for tenant in found.tenants.iter_mut().filter(|t| t.verdict == Verdict::Change) {
        tenant.verdict = Verdict::Refused;
        tenant.reason = Some("is there and differs; import changes nothing that is there, apply does".to_owned());
    }
    let how = tasks::How { jobs: args.jobs, force: false, dry_run: true };
    if found.tenants.iter().any(|t| t.verdict == Verdict::Refused) {
        found.waves.clear();
        if !cx.json {
            diff::say(&found, cx)?;
        }
        return tasks::run(&found, how, cx);
    }
    let code = tasks::check(&found, how, cx)?;
    if code != 0 || args.dry_run {
        return Ok(code);
    }
    tasks::run(&found, tasks::How { dry_run: false, ..how }, cx)
}
