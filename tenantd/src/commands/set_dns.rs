//! `tenantd set-dns`: replace the name servers of a tenant's resolv.conf.

use std::net::IpAddr;

use clap::Args;
use hyper::Method;
use stackmap::TenantName;

use super::{Context, Failure, body, show};
use crate::model::Tenant;
use crate::rules::check_dns;

/// Arguments of `set-dns`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tenantd set-dns acme 192.168.1.53 fd00::53\n  tenantd set-dns acme   # none: the tenant asks itself"
)]
pub struct SetDns {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// All name servers it shall ask
    #[arg(value_name = "ADDR")]
    servers: Vec<IpAddr>,
}

/// Replaces the name servers.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &SetDns, cx: &Context) -> Result<(), Failure> {
    check_dns(&args.servers)?;
    let path = format!("/v1/tenants/{}/dns", args.name);
    let answer = cx.client.call(Method::PUT, &path, body(&args.servers))?;
    cx.say(&answer, |tenant: Tenant| show::words(&tenant))
}
