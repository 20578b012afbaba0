//! `tenantd set-limits`: what a running tenant may use of the machine from now on.

use std::collections::BTreeMap;

use clap::Args;
use hyper::Method;
use stackmap::TenantName;

use super::{Context, Failure, body, show};
use crate::limits::Limits;
use crate::model::Tenant;

/// Arguments of `set-limits`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tenantd set-limits acme memory=1G cpu=2\n  tenantd set-limits acme rate_in=none   # \
    the default\n\nLimits: cpu, memory, processes, io_read, io_write, disk, rate_in, rate_out, connections. Those that \
    are not named stay."
)]
pub struct SetLimits {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// Limits to be changed
    #[arg(value_name = "KEY=VALUE", required = true)]
    limits: Vec<String>,
}

/// Changes the limits.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &SetLimits, cx: &Context) -> Result<(), Failure> {
    Limits::from_words(&args.limits)?;
    let changes = args.limits.iter().filter_map(|word| word.split_once('='));
    let changes: BTreeMap<_, _> = changes.map(|(key, value)| (key, Some(value).filter(|v| *v != "none"))).collect();
    let answer = cx.client.call(Method::PATCH, &format!("/v1/tenants/{}/limits", args.name), body(&changes))?;
    cx.say(&answer, |tenant: Tenant| show::words(&tenant))
}
