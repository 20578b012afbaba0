//! `tenantd restart-tenant`: end everything that runs in a tenant and start it again.

use clap::Args;
use hyper::Method;
use stackmap::TenantName;

use super::{Context, Failure, show};
use crate::model::Tenant;

/// Arguments of `restart-tenant`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tenantd restart-tenant acme\n\nServices are asked to end, and killed when they do \
    not within 30 s. What the tenant has written stays, unless it was made with --ephemeral."
)]
pub struct RestartTenant {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
}

/// Restarts the tenant; returns when it is ready.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &RestartTenant, cx: &Context) -> Result<(), Failure> {
    let answer = cx.client.call(Method::POST, &format!("/v1/tenants/{}/restart", args.name), None)?;
    cx.say(&answer, |tenant: Tenant| show::words(&tenant))
}
