//! `tenantd share`: put one directory of the host into several tenants.

use clap::Args;
use hyper::Method;

use super::list_shares::line;
use super::{Context, Failure, body};
use crate::model::{ShareFor, ShareRequest, SharedDirectory};

/// Arguments of `share`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd share /srv/common acme beta --create\n  \
    tenantd share /srv/manuals acme:ro beta:ro\n\nTenants see it as /shared/ and its last name, at once. Their networks \
    stay apart, but what they put there they share: files, and also Unix sockets that a server of one of them listens \
    on. Directories that tenants write belong to user 1879048192 (0x70000000), which nobody else is; --create makes one.")]
pub struct Share {
    /// Directory of the host, absolute
    #[arg(value_name = "DIR")]
    directory: String,
    /// Tenants that shall see it; with :ro nobody there writes
    #[arg(value_name = "NAME[:ro]", required = true)]
    tenants: Vec<ShareFor>,
    /// Make the directory, owned so that tenants may write
    #[arg(long)]
    create: bool,
}

/// Shares the directory.
///
/// # Errors
/// [`Failure`].
pub fn run(args: Share, cx: &Context) -> Result<(), Failure> {
    let request = ShareRequest { directory: args.directory, tenants: args.tenants, create: args.create };
    let answer = cx.client.call(Method::POST, "/v1/shares", body(&request))?;
    cx.say(&answer, |shared: SharedDirectory| format!("{}\n", line(&shared).join("  ")))
}
