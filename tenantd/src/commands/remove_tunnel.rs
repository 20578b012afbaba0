//! `tenantd remove-tunnel`: take a site away.

use clap::Args;
use hyper::Method;
use stackmap::{TenantName, TunnelSpec};

use super::{Context, Failure, show};
use crate::client::segment;
use crate::model::Tenant;

/// Arguments of `remove-tunnel`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd remove-tunnel acme gre:198.51.100.7,key=12")]
pub struct RemoveTunnel {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// KIND:REMOTE[,local=ADDR][,key=N]; prefixes need not be said
    #[arg(value_name = "KIND:REMOTE[,...]")]
    tunnel: TunnelSpec,
}

/// Takes the tunnel away.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &RemoveTunnel, cx: &Context) -> Result<(), Failure> {
    let path = format!("/v1/tenants/{}/tunnels/{}", args.name, segment(&args.tunnel));
    let answer = cx.client.call(Method::DELETE, &path, None)?;
    cx.say(&answer, |tenant: Tenant| show::words(&tenant))
}
