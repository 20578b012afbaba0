//! `tenantd unshare`: take a directory of the host out of tenants.

use clap::Args;
use hyper::Method;
use stackmap::TenantName;

use super::{Context, Failure};
use crate::client::segment;

/// Arguments of `unshare`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tenantd unshare /srv/common beta\n\nFiles that are open there stay open until they \
    are closed; restart-tenant closes them."
)]
pub struct Unshare {
    /// Directory of the host
    #[arg(value_name = "DIR")]
    directory: String,
    /// Tenants that shall see it no longer
    #[arg(value_name = "NAME", required = true)]
    tenants: Vec<TenantName>,
}

/// Takes the directory out, tenant by tenant.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Unshare, cx: &Context) -> Result<(), Failure> {
    for name in &args.tenants {
        let path = format!("/v1/tenants/{name}/shares/{}", segment(&args.directory));
        cx.client.call(Method::DELETE, &path, None)?;
        cx.done(&format!("tenant {name} sees {} no longer", args.directory))?;
    }
    Ok(())
}
