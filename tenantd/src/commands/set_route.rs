//! `tenantd set-route`: replace a tenant's further routes.

use clap::Args;
use hyper::Method;
use stackmap::TenantName;

use super::{Context, Failure, body, show};
use crate::model::{Route, Tenant};
use crate::rules::check_routes;

/// Arguments of `set-route`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tenantd set-route acme 10.0.0.0/8,via=192.168.1.254\n  tenantd set-route acme   # none"
)]
pub struct SetRoute {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// All further routes the stack shall have; none removes them
    #[arg(value_name = "CIDR[,via=ADDR]")]
    routes: Vec<Route>,
}

/// Replaces the routes.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &SetRoute, cx: &Context) -> Result<(), Failure> {
    check_routes(&args.routes)?;
    let path = format!("/v1/tenants/{}/routes", args.name);
    let answer = cx.client.call(Method::PUT, &path, body(&args.routes))?;
    cx.say(&answer, |tenant: Tenant| show::words(&tenant))
}
