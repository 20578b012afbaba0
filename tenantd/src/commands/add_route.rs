//! `tenantd add-route`: one more route of a tenant, or another next hop for one.

use clap::Args;
use hyper::Method;
use stackmap::TenantName;

use super::{Context, Failure, body, show};
use crate::model::{Route, Tenant};

/// Arguments of `add-route`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd add-route acme 10.0.0.0/8,via=192.168.1.254")]
pub struct AddRoute {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// Route to be added
    #[arg(value_name = "CIDR[,via=ADDR]")]
    route: Route,
}

/// Adds the route.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &AddRoute, cx: &Context) -> Result<(), Failure> {
    let path = format!("/v1/tenants/{}/routes", args.name);
    let answer = cx.client.call(Method::POST, &path, body(&args.route))?;
    cx.say(&answer, |tenant: Tenant| show::words(&tenant))
}
