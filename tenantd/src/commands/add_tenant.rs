//! `tenantd add-tenant`: ask for a closed network; returns when its stack has answered.

use std::net::IpAddr;
use std::time::Instant;

use clap::Args;
use hyper::Method;
use stackmap::{GidRange, IpNet, NicName, TenantName, TunnelSpec, Vlan, parse_address};

use super::{Context, Failure, body};
use crate::limits::Limits;
use crate::model::{Added, Privilege, Route, TenantRequest};

/// Arguments of `add-tenant`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    tenantd add-tenant acme --address 192.168.1.1/24 --vlan 600 --tunnel ipip:129.60.2.1\n  \
    tenantd add-tenant beta --address 192.168.1.1/24 --tunnel vxlan:198.51.100.2,key=601 --dry-run\n\n\
    Tunnel kinds: ipip, gre (key optional), vxlan (key = VNI). A tunnel without prefix= has everything behind it.")]
pub struct AddTenant {
    /// Name: a DNS label of at most 48 characters
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// Address of the server inside the closed network; may repeat across tenants
    #[arg(long = "address", value_name = "CIDR", required = true, value_parser = parse_address)]
    addresses: Vec<IpNet>,
    /// VLAN on the trunk, 1..=4094 [default: the lowest free one]
    #[arg(long, value_name = "N")]
    vlan: Option<Vlan>,
    /// Trunk, by its name [default: the first one; without --vlan the first one with a free VLAN]
    #[arg(long, value_name = "TRUNK")]
    trunk: Option<String>,
    /// First of the tenant's 65,536 group ids [default: the lowest free range]
    #[arg(long, value_name = "N")]
    gid: Option<GidRange>,
    /// Network card given to the tenant whole, instead of a port on the trunk
    #[arg(long, value_name = "NIC")]
    device: Option<NicName>,
    /// A site of the customer: KIND:REMOTE[,local=ADDR][,key=N][,prefix=CIDR]...
    #[arg(long = "tunnel", value_name = "KIND:REMOTE[,...]")]
    tunnels: Vec<TunnelSpec>,
    /// Name server for the tenant's resolv.conf
    #[arg(long, value_name = "ADDR")]
    dns: Vec<IpAddr>,
    /// Default router inside a layer-2 closed network
    #[arg(long, value_name = "ADDR")]
    gateway: Option<IpAddr>,
    /// Further route: CIDR[,via=ADDR]
    #[arg(long = "route", value_name = "CIDR[,via=ADDR]")]
    routes: Vec<Route>,
    /// What its administrator may change beyond files and processes; fixed for good
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    privileges: Vec<Privilege>,
    /// Image below its root file system; see: tenantd image list [default: host]
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
    /// Forget what it has written whenever it is started
    #[arg(long)]
    ephemeral: bool,
    /// What it may use: cpu=1.5, memory=512M, processes=500, io_read=20M, io_write=20M, disk=2G, rate_in=100M,
    /// rate_out=100M, connections=10000
    #[arg(long = "limit", value_name = "KEY=VALUE")]
    limits: Vec<String>,
    /// Check everything and print the plan; change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Asks for the tenant and says how long each step took.
///
/// # Errors
/// [`Failure`].
pub fn run(args: AddTenant, cx: &Context) -> Result<(), Failure> {
    let started = Instant::now();
    let request = TenantRequest {
        name: args.name,
        addresses: args.addresses,
        vlan: args.vlan,
        trunk: args.trunk,
        gid: args.gid.map(GidRange::get),
        device: args.device.map(|d| d.to_string()),
        tunnels: args.tunnels,
        dns: args.dns,
        gateway: args.gateway,
        routes: args.routes,
        privileges: args.privileges.into_iter().collect(),
        image: args.image,
        ephemeral: args.ephemeral,
        limits: Limits::from_words(args.limits)?,
    };
    request.check()?;
    let path = if args.dry_run { "/v1/tenants?dry_run=true" } else { "/v1/tenants" };
    let answer = cx.client.call(Method::POST, path, body(&request))?;
    cx.say(&answer, |added: Added| if added.dry_run { plan(&added) } else { line(&added, started) })
}

/// `tenant acme ready: inet0 dev0 vlan600 gid 524288 in 4.1 ms (store 0.2, stack 1.1, ...)`
fn line(added: &Added, started: Instant) -> String {
    let total = started.elapsed().as_secs_f64() * 1e3;
    let steps: Vec<_> = added.steps.iter().map(|s| format!("{} {:.1}", s.name, s.us as f64 / 1e3)).collect();
    let steps = if steps.is_empty() { String::new() } else { format!(" ({})", steps.join(", ")) };
    format!("tenant {} ready: {} in {total:.1} ms{steps}\n", added.tenant.name, identity(added))
}

fn plan(added: &Added) -> String {
    let mut text = format!("tenant {} would be: {}\n", added.tenant.name, identity(added));
    for (i, step) in added.steps.iter().enumerate() {
        text += &format!("{:3}. {}\n", i + 1, step.name);
    }
    text + "nothing was changed (--dry-run)\n"
}

fn identity(added: &Added) -> String {
    let t = &added.tenant;
    let vlan = t.vlan.map(|v| format!(" vlan{v}")).unwrap_or_default();
    let trunk = t.trunk.as_ref().map(|trunk| format!(" trunk {trunk}")).unwrap_or_default();
    format!("{} {}{vlan}{trunk} {}", t.stack, t.device, t.gid)
}
