//! `tenantd remove-route`: take a further route of a tenant away.

use clap::Args;
use hyper::Method;
use stackmap::{IpNet, TenantName, parse_prefix};

use super::{Context, Failure, show};
use crate::client::segment;
use crate::model::Tenant;

/// Arguments of `remove-route`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd remove-route acme 10.0.0.0/8")]
pub struct RemoveRoute {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// Destination of the route
    #[arg(value_name = "CIDR", value_parser = parse_prefix)]
    to: IpNet,
}

/// Removes the route.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &RemoveRoute, cx: &Context) -> Result<(), Failure> {
    let path = format!("/v1/tenants/{}/routes/{}", args.name, segment(args.to));
    let answer = cx.client.call(Method::DELETE, &path, None)?;
    cx.say(&answer, |tenant: Tenant| show::words(&tenant))
}
