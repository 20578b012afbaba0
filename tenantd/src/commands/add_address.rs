//! `tenantd add-address`: one more address of the server in a closed network.

use clap::Args;
use hyper::Method;
use stackmap::{IpNet, TenantName, parse_address};

use super::{Context, Failure, body, show};
use crate::model::Tenant;

/// Arguments of `add-address`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd add-address acme 192.168.1.7/24")]
pub struct AddAddress {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// Address to be added
    #[arg(value_name = "CIDR", value_parser = parse_address)]
    address: IpNet,
}

/// Adds the address.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &AddAddress, cx: &Context) -> Result<(), Failure> {
    let path = format!("/v1/tenants/{}/addresses", args.name);
    let answer = cx.client.call(Method::POST, &path, body(&args.address))?;
    cx.say(&answer, |tenant: Tenant| show::words(&tenant))
}
