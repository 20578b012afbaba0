//! `tenantd backup`: everything the store holds, in one file.

use std::path::PathBuf;

use clap::Args;

use super::files::replace;
use super::{Context, Failure};

/// Arguments of `backup`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd backup /srv/backup/tenantd.db\n\nTaken while everything runs: one \
    moment of all tenants and of the audit, an SQLite database. Passwords of services are in it; its owner alone reads the \
    file. Files of the tenants are not part of it. tenantd restore brings the tenants back.")]
pub struct Backup {
    /// The file; one that is there is replaced at once
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Writes the file.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Backup, cx: &Context) -> Result<(), Failure> {
    let answer = cx.client.get("/v1/backup")?;
    replace(&args.file, answer.bytes()).map_err(|source| {
        let path = args.file.display().to_string();
        Failure::File { verb: "write", path, source }
    })?;
    cx.done(&format!("{}: {} bytes", args.file.display(), answer.bytes().len()))
}
