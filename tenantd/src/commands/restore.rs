//! `tenantd restore`: the tenants of a backup.

use std::path::PathBuf;

use clap::Args;

use super::{Context, Failure};
use crate::api::DATABASE;
use crate::model::Restored;

/// Arguments of `restore`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd restore /srv/backup/tenantd.db --dry-run\n  tenantd restore \
    /srv/backup/tenantd.db --prune\n\nWhile everything runs: the backup is checked as a whole, then all tenants are brought to \
    it, or none. Tenants that are the same are not touched. The audit stays what it is; what is there before is kept beside \
    the store (tenantd.db.before-restore).")]
pub struct Restore {
    /// The file that backup wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Check, and show what would be added, changed and removed
    #[arg(long)]
    dry_run: bool,
    /// Remove the tenants that are not in it, with their files; refused while their processes run
    #[arg(long)]
    prune: bool,
    /// With --prune: also end running processes
    #[arg(long, requires = "prune")]
    force: bool,
    /// Take a backup of another machine or instance
    #[arg(long)]
    accept_store: bool,
}

/// Restores.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Restore, cx: &Context) -> Result<(), Failure> {
    let bytes = std::fs::read(&args.file).map_err(|source| {
        let path = args.file.display().to_string();
        Failure::File { verb: "read", path, source }
    })?;
    let path = format!(
        "/v1/restore?dry_run={}&prune={}&force={}&accept_store={}",
        args.dry_run, args.prune, args.force, args.accept_store
    );
    let answer = cx.client.upload(&path, DATABASE, bytes)?;
    cx.say(&answer, |restored: Restored| words(&restored))
}

fn words(r: &Restored) -> String {
    let mut text = String::new();
    let mut line = |verb: &str, words: &str| text += &format!("{verb:7} {words}\n");
    r.added.iter().for_each(|name| line("add", name));
    for tenant in &r.changed {
        let fields: Vec<_> = tenant.changes.iter().map(|change| change.field.as_str()).collect();
        line("change", &format!("{}: {}", tenant.name, fields.join(", ")));
    }
    r.removed.iter().for_each(|name| line("remove", name));
    let same = format!("{} the same", r.same);
    text += &match (&r.kept, r.dry_run) {
        (_, true) => format!("{same}; nothing was done\n"),
        (Some(kept), _) => {
            format!("{same}; what was there is kept in {kept}. tenantd status tells how far the kernel is\n")
        }
        (None, _) => format!("{same}; there was nothing to do\n"),
    };
    text
}
