//! `tenantd list-shares`: directories of the host that tenants see.

use clap::Args;

use super::table::align;
use super::{Context, Failure};
use crate::model::SharedDirectory;

/// Arguments of `list-shares`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd list-shares")]
pub struct ListShares {}

/// Prints them, one a line.
///
/// # Errors
/// [`Failure`].
pub fn run(_: &ListShares, cx: &Context) -> Result<(), Failure> {
    let answer = cx.client.get("/v1/shares")?;
    cx.say(&answer, |all: Vec<SharedDirectory>| {
        if all.is_empty() {
            return "no shared directories; share one with: tenantd share DIR NAME...\n".to_owned();
        }
        let mut lines = vec![["DIRECTORY", "IN TENANTS", "TENANTS"].map(str::to_owned).to_vec()];
        lines.extend(all.iter().map(line));
        align(&lines)
    })
}

/// Directory, target and tenants.
pub(super) fn line(shared: &SharedDirectory) -> Vec<String> {
    let tenants = shared.tenants.iter().map(|t| format!("{}{}", t.name, if t.read_only { ":ro" } else { "" }));
    vec![shared.directory.clone(), shared.target.clone(), tenants.collect::<Vec<_>>().join(" ")]
}
