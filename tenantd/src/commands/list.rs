//! `tenantd list`: all tenants, one a line.

use clap::Args;

use super::table::{align, commas};
use super::{Context, Failure};
use crate::model::Tenant;

/// Arguments of `list`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd list --json")]
pub struct List {}

/// Prints all tenants.
///
/// # Errors
/// [`Failure`].
pub fn run(_: &List, cx: &Context) -> Result<(), Failure> {
    let answer = cx.client.get("/v1/tenants")?;
    cx.say(&answer, |tenants: Vec<Tenant>| {
        if tenants.is_empty() {
            return "no tenants; make one with: tenantd add-tenant NAME --address CIDR --tunnel KIND:REMOTE\n"
                .to_owned();
        }
        let head = ["NAME", "STACK", "DEVICE", "VLAN", "GID", "ADDRESSES", "TUNNELS", "SERVICES"];
        let mut lines = vec![head.map(str::to_owned).to_vec()];
        lines.extend(tenants.into_iter().map(|t| {
            let vlan = vlan_words(&t);
            vec![
                t.name.to_string(),
                t.stack.to_string(),
                t.device,
                vlan,
                t.gid.get().to_string(),
                commas(t.addresses),
                t.tunnels.len().to_string(),
                t.services.len().to_string(),
            ]
        }));
        align(&lines)
    })
}

/// `600`, on a trunk other than the first `west/600`.
fn vlan_words(t: &Tenant) -> String {
    let vlan = t.vlan.map_or_else(|| "-".to_owned(), |vlan| vlan.to_string());
    t.trunk.as_ref().map(|trunk| format!("{trunk}/{vlan}")).unwrap_or(vlan)
}
