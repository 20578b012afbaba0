//! `tenantd show`: one tenant as it was asked for.

use clap::Args;
use stackmap::TenantName;

use super::table::{commas, facts};
use super::{Context, Failure};
use crate::model::{ServiceRequest, Tenant};

/// Arguments of `show`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd show acme\n\nWhat it does now: tenantd status acme")]
pub struct Show {
    /// Tenant; inside a tenant it may be left out
    #[arg(value_name = "NAME")]
    name: Option<TenantName>,
}

/// Prints the tenant.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Show, cx: &Context) -> Result<(), Failure> {
    let name = cx.tenant(args.name.as_ref())?;
    let answer = cx.client.get(&format!("/v1/tenants/{name}"))?;
    cx.say(&answer, |tenant: Tenant| words(&tenant))
}

/// What `show` and the changing verbs print of a tenant.
pub(super) fn words(t: &Tenant) -> String {
    let mut lines = vec![
        ("name", t.name.to_string()),
        ("stack", t.stack.to_string()),
        ("device", if t.whole_device { format!("{} (a network card)", t.device) } else { t.device.clone() }),
        ("vlan", t.vlan.map(|v| v.to_string()).unwrap_or_default()),
        ("trunk", t.trunk.clone().unwrap_or_default()),
        ("gid", format!("{}..={}", t.gid.get(), t.gid.last())),
        ("mac", t.mac.map(|m| m.to_string()).unwrap_or_default()),
        ("addresses", commas(&t.addresses)),
        ("dns", commas(&t.dns)),
        ("gateway", t.gateway.map(|g| g.to_string()).unwrap_or_default()),
    ];
    lines.extend(t.tunnels.iter().map(|tunnel| ("tunnel", tunnel.to_string())));
    lines.extend(t.routes.iter().map(|route| ("route", route.to_string())));
    if !t.filter.is_open() {
        lines.push(("filter", format!("default {}", t.filter.default)));
        lines.extend(t.filter.rules.iter().map(|rule| ("filter", rule.to_string())));
    }
    lines.extend(t.services.iter().map(|service| ("service", service_words(service))));
    lines.push(("image", if t.ephemeral { format!("{}, ephemeral", t.image) } else { t.image.clone() }));
    lines.push(("limits", t.limits.to_string()));
    lines.extend(t.privileges.iter().map(|p| ("privilege", format!("{p:?}").to_lowercase())));
    lines.extend(t.shares.iter().map(|s| {
        ("share", format!("{} as {}{}", s.directory, s.target, if s.read_only { ", read-only" } else { "" }))
    }));
    lines.push(("generation", t.generation.to_string()));
    facts(&lines)
}

fn service_words(service: &ServiceRequest) -> String {
    match &service.template {
        Some(template) => {
            let settings: String = service.set.iter().map(|(k, v)| format!(" {k}={v}")).collect();
            format!("{} (template {template}{settings})", service.name)
        }
        None => format!("{} ({})", service.name, service.command.join(" ")),
    }
}
