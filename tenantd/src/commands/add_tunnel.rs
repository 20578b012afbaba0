//! `tenantd add-tunnel`: one more site, or other prefixes behind one.

use clap::Args;
use hyper::Method;
use stackmap::{TenantName, TunnelSpec};

use super::{Context, Failure, body, show};
use crate::model::Tenant;

/// Arguments of `add-tunnel`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd add-tunnel acme gre:198.51.100.7,key=12,prefix=10.2.0.0/16")]
pub struct AddTunnel {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// KIND:REMOTE[,local=ADDR][,key=N][,prefix=CIDR]...
    #[arg(value_name = "KIND:REMOTE[,...]")]
    tunnel: TunnelSpec,
}

/// Adds the tunnel.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &AddTunnel, cx: &Context) -> Result<(), Failure> {
    let path = format!("/v1/tenants/{}/tunnels", args.name);
    let answer = cx.client.call(Method::POST, &path, body(&args.tunnel))?;
    cx.say(&answer, |tenant: Tenant| show::words(&tenant))
}
