//! `tenantd set-address`: replace the server's addresses in a closed network.

use clap::Args;
use hyper::Method;
use stackmap::{IpNet, TenantName, parse_address};

use super::{Context, Failure, body, show};
use crate::model::Tenant;
use crate::rules::check_address_list;

/// Arguments of `set-address`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd set-address acme 192.168.1.1/24 fd00::1/64")]
pub struct SetAddress {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// All addresses the server shall have
    #[arg(value_name = "CIDR", required = true, value_parser = parse_address)]
    addresses: Vec<IpNet>,
}

/// Replaces the addresses.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &SetAddress, cx: &Context) -> Result<(), Failure> {
    check_address_list(&args.addresses)?;
    let path = format!("/v1/tenants/{}/addresses", args.name);
    let answer = cx.client.call(Method::PUT, &path, body(&args.addresses))?;
    cx.say(&answer, |tenant: Tenant| show::words(&tenant))
}
