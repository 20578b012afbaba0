//! `tenantd status`: what is so, of the daemon or of one tenant.

use clap::Args;
use stackmap::TenantName;

use super::table::{commas, facts};
use super::{Context, Failure};
use crate::model::{DaemonStatus, ServiceStatus, StoreStatus, TenantState, TenantStatus, TrunkStatus};

/// Arguments of `status`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd status acme")]
pub struct Status {
    /// Tenant; the daemon itself when left out, inside a tenant that one
    #[arg(value_name = "NAME")]
    name: Option<TenantName>,
}

/// Prints the status.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Status, cx: &Context) -> Result<(), Failure> {
    let own = if cx.inside { Some(cx.tenant(args.name.as_ref())?) } else { None };
    match own.as_ref().or(args.name.as_ref()) {
        Some(name) => {
            let answer = cx.client.get(&format!("/v1/tenants/{name}/status"))?;
            cx.say(&answer, |status: TenantStatus| tenant(&status))
        }
        None => {
            let answer = cx.client.get("/v1/status")?;
            cx.say(&answer, |status: DaemonStatus| daemon(&status))
        }
    }
}

fn daemon(s: &DaemonStatus) -> String {
    let mut lines = vec![
        ("instance", s.instance.clone()),
        ("version", s.version.clone()),
        ("trunk", s.trunk.clone()),
        ("trunk is", s.trunk_cause.clone().unwrap_or_default()),
        ("access", s.access.clone()),
        ("tenants", s.tenants.to_string()),
        ("half done", commas(&s.half_done)),
        ("store", store(&s.store)),
        ("warning", s.store.warning.as_ref().map(|w| format!("the store: {w}")).unwrap_or_default()),
        ("waiting", if s.waiting == 0 { String::new() } else { format!("{} tenants to be looked at", s.waiting) }),
    ];
    if s.trunks.len() > 1 {
        lines.extend(s.trunks.iter().map(|trunk| ("trunk", trunk_words(trunk))));
    }
    lines.extend(s.bad_rows.iter().map(|words| ("bad row", words.clone())));
    lines.extend(s.orphans.iter().map(|words| ("unknown", words.clone())));
    facts(&lines)
}

/// `west: number 1, trunk-main-1, 3 tenants, access connected`
fn trunk_words(t: &TrunkStatus) -> String {
    let lost = t.cause.as_ref().map(|cause| format!(", {cause}")).unwrap_or_default();
    format!("{}: number {}, {}, {} tenants, access {}{lost}", t.name, t.number, t.device, t.tenants, t.access)
}

fn store(s: &StoreStatus) -> String {
    match &s.trouble {
        Some(trouble) => trouble.clone(),
        None => format!("ok, revision {}", s.revision),
    }
}

fn tenant(s: &TenantStatus) -> String {
    let state = match s.state {
        TenantState::Ready => "ready",
        TenantState::HalfDone => "half done, tried again",
        TenantState::Removing => "removing",
    };
    let text = |n: Option<&dyn ToString>| n.map(ToString::to_string).unwrap_or_default();
    let traffic = |packets: u64, bytes: u64| format!("{packets} packets, {bytes} bytes");
    let mut lines = vec![
        ("name", s.name.to_string()),
        ("state", state.to_owned()),
        ("step", s.step.clone().unwrap_or_default()),
        ("cause", s.cause.clone().unwrap_or_default()),
        ("init pid", text(s.init_pid.as_ref().map(|n| n as &dyn ToString))),
        ("netns", text(s.netns.as_ref().map(|n| n as &dyn ToString))),
        ("mtu", text(s.mtu.as_ref().map(|n| n as &dyn ToString))),
        ("received", traffic(s.counters.rx_packets, s.counters.rx_bytes)),
        ("sent", traffic(s.counters.tx_packets, s.counters.tx_bytes)),
    ];
    let drops = s.counters.drops.iter().filter(|(_, n)| **n > 0);
    lines.extend(drops.map(|(reason, n)| ("dropped", format!("{n} {reason}"))));
    lines.extend(s.services.iter().map(|service| ("service", service_words(service))));
    facts(&lines)
}

/// `web running, pid 12, 0 restarts`
pub(super) fn service_words(s: &ServiceStatus) -> String {
    let pid = s.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
    let exit = s.last_exit.as_ref().map(|exit| format!(", last {exit}")).unwrap_or_default();
    format!("{} {}{pid}, {} restarts{exit}", s.name, s.state, s.restarts)
}
