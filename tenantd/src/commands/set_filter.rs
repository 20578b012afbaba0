//! `tenantd set-filter`: replace what a tenant's stack lets in.

use clap::Args;
use hyper::Method;
use stackmap::TenantName;

use super::{Context, Failure, body, show};
use crate::model::{Filter, FilterRule, Tenant, Verdict};

/// Arguments of `set-filter`.
#[derive(Debug, Args)]
#[command(
    after_help = "The first rule that fits decides, else the default. Loopback and neighbour discovery always pass; with \
    --default drop also replies to what the tenant itself opened.\n\nExample:\n  \
    tenantd set-filter acme --default drop --rule accept,tcp/80 --rule accept,tcp/22,from=192.168.1.0/24\n  \
    tenantd set-filter acme --rule drop,udp/5000-6000\n  tenantd set-filter acme   # everything passes"
)]
pub struct SetFilter {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// What happens to an incoming packet that no rule fits
    #[arg(long, value_enum, value_name = "ACTION", default_value_t)]
    default: Verdict,
    /// All rules, in order: accept or drop; tcp, udp, icmp or any; where it comes from
    #[arg(long = "rule", value_name = "ACTION[,PROTO[/PORT[-PORT]]][,from=CIDR]")]
    rules: Vec<FilterRule>,
}

/// Replaces the filter.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &SetFilter, cx: &Context) -> Result<(), Failure> {
    let filter = Filter { default: args.default, rules: args.rules.clone() };
    filter.check()?;
    let path = format!("/v1/tenants/{}/filter", args.name);
    let answer = cx.client.call(Method::PUT, &path, body(&filter))?;
    cx.say(&answer, |tenant: Tenant| show::words(&tenant))
}
