//! `tenantd remove-tenant`: end a closed network and everything of it.

use clap::Args;
use hyper::Method;
use stackmap::TenantName;

use super::{Context, Failure};

/// Arguments of `remove-tenant`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd remove-tenant acme --force")]
pub struct RemoveTenant {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// End its processes too; without it, running processes refuse
    #[arg(long)]
    force: bool,
}

/// Ends the tenant.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &RemoveTenant, cx: &Context) -> Result<(), Failure> {
    let force = if args.force { "?force=true" } else { "" };
    cx.client.call(Method::DELETE, &format!("/v1/tenants/{}{force}", args.name), None)?;
    cx.done(&format!("tenant {} removed", args.name))
}
