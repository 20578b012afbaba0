//! `tenantd remove-address`: take an address of the server in a closed network away.

use clap::Args;
use hyper::Method;
use stackmap::{IpNet, TenantName, parse_address};

use super::{Context, Failure, show};
use crate::client::segment;
use crate::model::Tenant;

/// Arguments of `remove-address`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd remove-address acme 192.168.1.7/24")]
pub struct RemoveAddress {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// Address to be removed; the last one stays
    #[arg(value_name = "CIDR", value_parser = parse_address)]
    address: IpNet,
}

/// Removes the address.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &RemoveAddress, cx: &Context) -> Result<(), Failure> {
    let path = format!("/v1/tenants/{}/addresses/{}", args.name, segment(args.address));
    let answer = cx.client.call(Method::DELETE, &path, None)?;
    cx.say(&answer, |tenant: Tenant| show::words(&tenant))
}
