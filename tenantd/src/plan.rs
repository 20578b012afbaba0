//! The difference between what is desired and what the kernel holds, as a value: a list of steps that can be printed,
//! compared with a golden file and applied. Pure: no I/O, no clock. Removals come before additions; a plan of a
//! tenant that is as desired is empty.
//!
//! One long file, because the order of the steps is what it is about, and that is seen only in one piece; a third of it is its tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use stackmap::{Layer, MacAddr, TenantName, TunnelSpec};

use crate::model::{ServiceRequest, ShareMount, Tenant};
use crate::net::room::port_name;
use crate::net::stack::{StackAddress, StackPlan, StackRoute, Via};
use crate::store::Desired;

/// A part of a tenant as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Part {
    /// Nothing of it is there.
    #[default]
    Missing,
    /// As it should be.
    Right,
    /// There, and not as it should be: what differs, in words.
    Wrong(Vec<String>),
}

impl Part {
    /// A part of which this differs.
    pub fn of(differences: Vec<String>) -> Self {
        if differences.is_empty() { Self::Right } else { Self::Wrong(differences) }
    }

    /// Nothing has to be done.
    pub fn is_right(&self) -> bool {
        *self == Self::Right
    }

    /// Something of it is there, right or wrong.
    pub fn is_there(&self) -> bool {
        *self != Self::Missing
    }

    /// What has been found, where it is not right; `missing` are the words for nothing.
    fn found(&self, missing: impl Into<String>) -> Vec<String> {
        match self {
            Self::Missing => vec![missing.into()],
            Self::Right => Vec::new(),
            Self::Wrong(differences) => differences.clone(),
        }
    }
}

/// What is so for one tenant, as far as a plan needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actual {
    /// Its init lives.
    pub init: bool,
    /// The port's end in the patch room exists.
    pub port: bool,
    /// The port's row, program and rates in the data path.
    pub bound: Part,
    /// The stack's device is there (the other end of the port, or the card given whole).
    pub device: bool,
    /// Addresses, routes and neighbour.
    pub stack: Part,
    /// The packet filter of its stack.
    pub filter: Part,
    /// Our row at the access server.
    pub access: Part,
    /// The access server does not answer: what it holds is not known.
    pub access_away: bool,
    /// Generation of our row there when it is newer than ours: the store is older than what was stated.
    pub access_newer: Option<u64>,
    /// Files of the tenant exist.
    pub files: bool,
    /// Its row at the guard; wrong is also one of a stack that is gone.
    pub guard: Part,
    /// Its cgroups with its limits.
    pub limits: Part,
    /// The socket of its own API is listened on.
    pub door: bool,
    /// Its resolv.conf names its name servers.
    pub names: bool,
    /// Shared directories that are mounted in it.
    pub shares: Vec<MountedShare>,
    /// Its init lives and does not answer: what it runs is not known.
    pub silent: bool,
    /// Its init lives and could not finish its house, and why: it never will.
    pub unfinished: Option<String>,
    /// Services init knows, and whether they were started from what is desired.
    pub services: BTreeMap<TenantName, bool>,
    /// How often init started each of them again; only told, never planned by.
    pub service_restarts: Vec<(String, u64)>,
}

/// A shared directory as it is mounted in a running tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedShare {
    /// The kernel's number of the mount.
    pub id: u64,
    /// Where it is.
    pub at: String,
    /// Where it is if it is what it was; empty when the host has removed the directory since.
    pub target: String,
    /// Nobody in the tenant writes.
    pub read_only: bool,
}

/// One step; each is idempotent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Stop and forget a service.
    StopService(TenantName),
    /// Take the row away at the access server: the tenant's traffic ends there first.
    WithdrawAccess,
    /// Take the port out of the data path.
    Unbind,
    /// Delete the port.
    DeletePort,
    /// Take a card that was given whole back into our namespace, or it would end in the machine's first one.
    ReturnDevice,
    /// End init and with it every process and the stack.
    EndInit,
    /// Take its row from the guard.
    Unguard,
    /// Remove its cgroups.
    RemoveCgroups,
    /// Remove the tenant's files.
    RemoveFiles,
    /// Strike the tenant from the tables and the store.
    Forget,
    /// Make its cgroups and have the kernel hold its limits.
    Limit,
    /// Listen on the socket of its own API.
    OpenDoor,
    /// Start init: stack and process group.
    Launch,
    /// Have the guard keep its processes in its stack, and others out of it.
    Guard,
    /// Put the packet filter into its stack.
    Filter,
    /// State the row at the access server.
    StateAccess,
    /// Make the port, both ends in place.
    AddPort,
    /// Give a whole card into the stack.
    GiveDevice,
    /// Put the port into the data path.
    Bind,
    /// Set addresses, routes, neighbour.
    Configure,
    /// Ask the stack through its port until it answers.
    Probe,
    /// Write its resolv.conf.
    WriteNames,
    /// Take a shared directory out.
    UnmountShare(MountedShare),
    /// Put a shared directory in.
    MountShare(ShareMount),
    /// Start a service.
    StartService(TenantName),
}

impl Action {
    /// Short name, as shown in `steps` and in a status.
    pub fn name(&self) -> &'static str {
        match self {
            Action::StopService(_) => "stop-service",
            Action::WithdrawAccess => "withdraw",
            Action::Unbind => "unbind",
            Action::DeletePort => "delete-port",
            Action::ReturnDevice => "return-device",
            Action::EndInit => "end",
            Action::Unguard => "unguard",
            Action::Guard => "guard",
            Action::Filter => "filter",
            Action::RemoveCgroups => "remove-cgroups",
            Action::RemoveFiles => "remove-files",
            Action::Forget => "forget",
            Action::Limit => "limits",
            Action::OpenDoor => "api",
            Action::Launch => "stack",
            Action::StateAccess => "access",
            Action::AddPort => "port",
            Action::GiveDevice => "device",
            Action::Bind => "bind",
            Action::Configure => "addresses",
            Action::Probe => "probe",
            Action::WriteNames => "resolv",
            Action::UnmountShare(_) => "unmount-share",
            Action::MountShare(_) => "share",
            Action::StartService(_) => "service",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::StopService(name) | Action::StartService(name) => write!(f, "{} {name}", self.name()),
            Action::UnmountShare(share) => write!(f, "{} {}", self.name(), share.at),
            Action::MountShare(share) => write!(f, "{} {}", self.name(), share.target),
            _ => f.write_str(self.name()),
        }
    }
}

/// One step of a plan, and why it is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The step.
    pub action: Action,
    /// What was found, in words such as `address 192.168.1.1/24 is missing`.
    pub found: Vec<String>,
}

/// The steps from `actual` to `desired`: first those that take away, then those that add.
pub fn plan(desired: &Desired, actual: &Actual) -> Vec<Planned> {
    if desired.removing { removal(&desired.tenant, actual) } else { making(&desired.tenant, actual) }
}

/// A plan that is being written.
#[derive(Default)]
struct Steps(Vec<Planned>);

impl Steps {
    fn add(&mut self, action: Action, found: impl Into<String>) {
        self.0.push(Planned { action, found: vec![found.into()] });
    }

    fn found(&mut self, action: Action, found: Vec<String>) {
        self.0.push(Planned { action, found });
    }

    fn when(&mut self, is: bool, action: Action) {
        if is {
            self.add(action, "the tenant is being removed");
        }
    }
}

fn removal(tenant: &Tenant, actual: &Actual) -> Vec<Planned> {
    let mut steps = Steps::default();
    steps.when(actual.access.is_there() && !actual.access_away, Action::WithdrawAccess);
    // Also where no tag leads to the port: rows of an unbind that was killed may be left, and its class.
    steps.when(actual.bound.is_there() || actual.port, Action::Unbind);
    steps.when(actual.port, Action::DeletePort);
    steps.when(tenant.whole_device && actual.device, Action::ReturnDevice);
    steps.when(actual.init, Action::EndInit);
    steps.when(actual.guard.is_there(), Action::Unguard);
    steps.when(actual.limits.is_there(), Action::RemoveCgroups);
    steps.when(actual.files, Action::RemoveFiles);
    // While it is away the row keeps the VLAN taken, but nothing else of the tenant has to wait for it.
    steps.when(actual.access.is_there() && actual.access_away, Action::WithdrawAccess);
    steps.when(true, Action::Forget);
    steps.0
}

fn making(tenant: &Tenant, actual: &Actual) -> Vec<Planned> {
    let mut steps = Steps::default();
    if let Some(why) = &actual.unfinished {
        // The next pass starts anew.
        steps.add(Action::EndInit, format!("its init is not ready: {why}"));
        return steps.0;
    }
    // A port whose other end is not in this stack is a leftover of a stack that died.
    let stale_port = actual.port && !(actual.init && actual.device);
    taking_away(&mut steps, tenant, actual, stale_port);
    if !actual.limits.is_right() {
        steps.found(Action::Limit, actual.limits.found("its cgroups are missing"));
    }
    // Before the tenant is there: from its first moment it finds somebody who listens.
    if !actual.door {
        steps.add(Action::OpenDoor, "nobody listens on the socket of its own API");
    }
    if !actual.init {
        steps.add(Action::Launch, "its init does not run");
    }
    if !actual.init || !actual.guard.is_right() {
        let missing = "its row at the guard is missing";
        let found = if actual.init { actual.guard.found(missing) } else { vec![missing.to_owned()] };
        steps.found(Action::Guard, found);
    }
    // Before the port: a stack that lets little in never lets in more. A new one lets everything in, with nothing set.
    if actual.init && !actual.filter.is_right() {
        steps.found(Action::Filter, actual.filter.found("the packet filter is missing"));
    } else if !actual.init && !tenant.filter.is_open() {
        steps.add(Action::Filter, "the packet filter is missing");
    }
    if let Some(vlan) = tenant.vlan {
        let name = port_of(tenant);
        if !tenant.tunnels.is_empty() && !actual.access.is_right() && !actual.access_away {
            let missing = format!("the row of vlan {vlan} at the access server is missing");
            steps.found(Action::StateAccess, actual.access.found(missing));
        }
        let port = actual.port && !stale_port;
        if !port {
            steps.add(Action::AddPort, format!("port {name} is missing"));
        }
        if !port || !actual.bound.is_right() {
            let missing = format!("the row of port {name} is missing");
            let found = if port { actual.bound.found(missing) } else { vec![missing] };
            steps.found(Action::Bind, found);
        }
    } else if !(actual.init && actual.device) {
        steps.add(Action::GiveDevice, format!("device {} is not in the stack", tenant.device));
    }
    let configured = actual.init && actual.device && actual.stack.is_right() && !stale_port;
    if !configured {
        let there = actual.init && actual.device && !stale_port;
        let missing = "addresses and routes are missing";
        steps.found(Action::Configure, if there { actual.stack.found(missing) } else { vec![missing.to_owned()] });
    }
    if tenant.vlan.is_some() && !(configured && actual.bound.is_right()) {
        steps.add(Action::Probe, "its way was changed");
    }
    // A new init does both by itself.
    if actual.init {
        if !actual.names {
            steps.add(Action::WriteNames, "its resolv.conf differs");
        }
        for share in shares(tenant, &actual.shares).missing {
            let found = format!("share {} is missing", share.target);
            steps.add(Action::MountShare(share), found);
        }
    }
    for service in tenant.services.iter().filter(|_| !actual.silent) {
        let as_desired = actual.init && actual.services.get(&service.name) == Some(&true);
        if !as_desired {
            let found = format!("service {} was not started", service.name);
            steps.add(Action::StartService(service.name.clone()), found);
        }
    }
    // What the kernel has of the tenant is mended without the access server; only then it is missed.
    if actual.access_away && !tenant.tunnels.is_empty() {
        steps.add(Action::StateAccess, "the access server does not answer");
    }
    steps.0
}

/// What has to go before anything is added.
fn taking_away(steps: &mut Steps, tenant: &Tenant, actual: &Actual, stale_port: bool) {
    if stale_port {
        let found = || format!("port {} leads to no stack of the tenant", port_of(tenant));
        steps.add(Action::Unbind, found());
        steps.add(Action::DeletePort, found());
    }
    for (name, _) in actual.services.iter().filter(|(_, as_desired)| !**as_desired) {
        let found = match service_of(tenant, name) {
            Some(_) => format!("service {name} runs as something else"),
            None => format!("service {name} is not desired"),
        };
        steps.add(Action::StopService(name.clone()), found);
    }
    // Without tunnels the access server has nothing to know, and none may be there: then the other end of the trunk is
    // somebody else's.
    if tenant.tunnels.is_empty() && actual.access.is_there() {
        steps.add(Action::WithdrawAccess, "the access server has a row although there are no tunnels");
    }
    // The row of a stack that died would refuse the new init its first sockets: it runs in the tenant's cgroup.
    if !actual.init && actual.guard.is_there() {
        steps.add(Action::Unguard, "the guard has a row of a stack that is gone");
    }
    for share in shares(tenant, &actual.shares).wrong.into_iter().filter(|_| actual.init) {
        let found = format!("what is mounted at {} is not desired so", share.at);
        steps.add(Action::UnmountShare(share), found);
    }
}

fn port_of(tenant: &Tenant) -> String {
    tenant.segment().map(port_name).unwrap_or_default()
}

/// What is mounted and should not be as it is, and what is then missing.
struct Shares {
    wrong: Vec<MountedShare>,
    missing: Vec<ShareMount>,
}

fn shares(tenant: &Tenant, mounted: &[MountedShare]) -> Shares {
    let mut missing = tenant.shares.clone();
    let mut wrong = Vec::new();
    for share in mounted {
        let found = missing.iter().position(|s| (&s.target, s.read_only) == (&share.target, share.read_only));
        match found {
            Some(i) => drop(missing.remove(i)),
            None => wrong.push(share.clone()),
        }
    }
    Shares { wrong, missing }
}

/// The service of this name.
pub fn service_of<'a>(tenant: &'a Tenant, name: &TenantName) -> Option<&'a ServiceRequest> {
    tenant.services.iter().find(|s| s.name == *name)
}

/// True when the tenant's stack asks for its neighbours: some site is behind a layer-2 tunnel.
pub fn asks_neighbours(tunnels: &[TunnelSpec]) -> bool {
    tunnels.iter().any(|t| t.kind().layer() == Layer::Two)
}

/// Prefixes for which the tenant's port answers ARP and ND: all of its sites. None where neighbours are asked through
/// a tunnel; a layer-3 site beside it is reached by a route that asks nobody.
pub fn answered_prefixes(tunnels: &[TunnelSpec]) -> Vec<ipnet::IpNet> {
    if asks_neighbours(tunnels) {
        return Vec::new();
    }
    let prefixes: BTreeSet<_> = tunnels.iter().flat_map(TunnelSpec::effective_prefixes).collect();
    prefixes.into_iter().collect()
}

/// Addresses, routes and neighbour of the tenant's stack. `mtu` in bytes.
pub fn stack_plan(tenant: &Tenant, gateway_mac: Option<MacAddr>, mtu: u32) -> StackPlan {
    let asks = asks_neighbours(&tenant.tunnels) || tenant.whole_device;
    let addresses = tenant.addresses.iter().map(|&address| StackAddress { address, connected: asks }).collect();
    let mut routes = BTreeMap::new();
    if !asks {
        for address in &tenant.addresses {
            let to = address.trunc();
            if to.prefix_len() < to.max_prefix_len() {
                routes.insert(to, (Via::Port, Some(address.addr())));
            }
        }
    }
    for tunnel in tenant.tunnels.iter().filter(|t| t.kind().layer() == Layer::Three) {
        for to in tunnel.effective_prefixes() {
            // Beside a layer-2 site the customer's router has the default route, not the tunnel.
            if !(asks && to.prefix_len() == 0) {
                routes.entry(to).or_insert((Via::Port, None));
            }
        }
    }
    let through = |via| if asks { Via::Router(via) } else { Via::Port };
    for route in &tenant.routes {
        let via = match route.via {
            Some(via) => through(via),
            None if asks => Via::Link,
            None => Via::Port,
        };
        routes.insert(route.to.trunc(), (via, None));
    }
    if let Some(gateway) = tenant.gateway {
        routes.insert(everywhere(gateway.is_ipv4()), (through(gateway), None));
    }
    let routes: BTreeSet<_> = routes.into_iter().map(|(to, (via, source))| StackRoute { to, via, source }).collect();
    let gateway_mac = gateway_mac.filter(|_| routes.iter().any(|r| r.via == Via::Port));
    StackPlan { addresses, routes, gateway_mac, mtu, link_local: asks, shared: tenant.owns_network() }
}

fn everywhere(v4: bool) -> ipnet::IpNet {
    if v4 { ipnet::IpNet::V4(ipnet::Ipv4Net::default()) } else { ipnet::IpNet::V6(ipnet::Ipv6Net::default()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn tenant(json: serde_json::Value) -> Tenant {
        let mut base = serde_json::json!({
            "name": "acme", "stack": "inet0", "vlan": 600, "gid": 524_288, "device": "dev0", "whole_device": false,
            "mac": "02:00:00:00:02:58", "addresses": ["192.168.1.1/24"], "tunnels": ["ipip:198.51.100.2"], "dns": [],
            "gateway": null, "routes": [], "services": [], "generation": 1,
        });
        for (key, value) in json.as_object().unwrap() {
            base[key] = value.clone();
        }
        serde_json::from_value(base).unwrap()
    }

    fn words(desired: &Desired, actual: &Actual) -> String {
        plan(desired, actual).iter().map(|step| step.action.to_string()).collect::<Vec<_>>().join(", ")
    }

    fn wanted(tenant: Tenant) -> Desired {
        Desired::new(tenant)
    }

    fn as_desired() -> Actual {
        Actual {
            init: true,
            port: true,
            bound: Part::Right,
            device: true,
            stack: Part::Right,
            filter: Part::Right,
            access: Part::Right,
            access_away: false,
            access_newer: None,
            files: true,
            guard: Part::Right,
            limits: Part::Right,
            door: true,
            names: true,
            shares: Vec::new(),
            silent: false,
            unfinished: None,
            services: BTreeMap::new(),
            service_restarts: Vec::new(),
        }
    }

    #[test]
    fn what_a_silent_init_runs_is_left_alone_and_the_rest_is_mended() {
        let web = serde_json::json!({"name": "web", "template": "nginx"});
        let desired = wanted(tenant(serde_json::json!({"services": [web]})));
        let actual = Actual { silent: true, bound: Part::Missing, ..as_desired() };
        assert_eq!(words(&desired, &actual), "bind, probe");
    }

    #[test]
    fn a_new_tenant_is_made_in_order_and_proven_before_its_services_start() {
        let web = serde_json::json!({"name": "web", "template": "nginx"});
        let desired = wanted(tenant(serde_json::json!({"services": [web]})));
        let text = words(&desired, &Actual::default());
        assert_eq!(text, "limits, api, stack, guard, access, port, bind, addresses, probe, service web");
    }

    #[test]
    fn what_is_as_desired_needs_nothing() {
        assert_eq!(words(&wanted(tenant(serde_json::json!({}))), &as_desired()), "");
    }

    #[test]
    fn each_missing_piece_alone_is_mended_and_nothing_else_is_touched() {
        let desired = wanted(tenant(serde_json::json!({})));
        type Change = fn(&mut Actual);
        let cases: [(Change, &str); 6] = [
            (|a| a.door = false, "api"),
            (|a| a.access = Part::Missing, "access"),
            (|a| a.bound = Part::Missing, "bind, probe"),
            (|a| a.stack = Part::Missing, "addresses, probe"),
            (
                |a| (a.port, a.device, a.stack, a.bound) = (false, false, Part::Missing, Part::Missing),
                "port, bind, addresses, probe",
            ),
            (
                |a| (a.init, a.device, a.stack) = (false, false, Part::Missing),
                "unbind, delete-port, unguard, stack, guard, port, bind, addresses, probe",
            ),
        ];
        for (change, steps) in cases {
            let mut actual = as_desired();
            change(&mut actual);
            assert_eq!(words(&desired, &actual), steps, "{actual:?}");
        }
    }

    #[test]
    fn a_filter_is_there_before_the_port_and_is_put_back_alone() {
        let mut desired = wanted(tenant(serde_json::json!({"filter": {"default": "drop"}})));
        let steps = "limits, api, stack, guard, filter, access, port, bind, addresses, probe";
        assert_eq!(words(&desired, &Actual::default()), steps);
        let mut actual = as_desired();
        actual.filter = Part::Missing;
        assert_eq!(words(&desired, &actual), "filter");
        desired.tenant.filter = Default::default();
        assert_eq!(words(&desired, &actual), "filter", "one that nobody wants is taken out");
    }

    #[test]
    fn without_tunnels_the_access_server_is_not_needed_and_forgets_what_it_knew() {
        let desired = wanted(tenant(serde_json::json!({"tunnels": []})));
        assert_eq!(words(&desired, &Actual::default()), "limits, api, stack, guard, port, bind, addresses, probe");
        let mut actual = as_desired();
        assert_eq!(words(&desired, &actual), "withdraw");
        actual.access = Part::Missing;
        assert_eq!(words(&desired, &actual), "");
    }

    #[test]
    fn shares_are_put_in_taken_out_and_put_back() {
        let share =
            |name: &str| serde_json::json!({"directory": format!("/srv/{name}"), "target": format!("/shared/{name}")});
        let desired = wanted(tenant(serde_json::json!({"shares": [share("a"), share("b")]})));
        let mounted = |id, at: &str, target: &str, read_only| MountedShare {
            id,
            at: at.into(),
            target: target.into(),
            read_only,
        };
        let mut actual = as_desired();
        assert_eq!(words(&desired, &actual), "share /shared/a, share /shared/b");
        actual.shares = vec![
            mounted(1, "/shared/a", "/shared/a", false),
            mounted(2, "/moved/b", "/moved/b", false),
            mounted(3, "/shared/old", "/shared/old", true),
        ];
        let steps = "unmount-share /moved/b, unmount-share /shared/old, share /shared/b";
        assert_eq!(words(&desired, &actual), steps);
        actual.shares = vec![mounted(1, "/shared/a", "/shared/a", true), mounted(2, "/shared/b", "", false)];
        let steps = "unmount-share /shared/a, unmount-share /shared/b, share /shared/a, share /shared/b";
        assert_eq!(words(&desired, &actual), steps);
        actual.names = false;
        actual.shares.clear();
        actual.init = false;
        assert!(!words(&desired, &actual).contains("share"), "a new init mounts them itself");
    }

    #[test]
    fn a_service_nobody_wants_is_stopped_and_a_changed_one_is_started_anew() {
        let web = serde_json::json!({"name": "web", "command": ["/bin/true"]});
        let desired = wanted(tenant(serde_json::json!({"services": [web]})));
        let mut actual = as_desired();
        actual.services = BTreeMap::from([("old".parse().unwrap(), false), ("web".parse().unwrap(), false)]);
        assert_eq!(words(&desired, &actual), "stop-service old, stop-service web, service web");
        actual.services = BTreeMap::from([("web".parse().unwrap(), true)]);
        assert_eq!(words(&desired, &actual), "");
    }

    #[test]
    fn while_the_access_server_is_away_everything_else_is_mended_and_removed() {
        let web = serde_json::json!({"name": "web", "command": ["/bin/true"]});
        let mut desired = wanted(tenant(serde_json::json!({"services": [web]})));
        let mut actual = as_desired();
        (actual.access, actual.access_away) = (Part::Missing, true);
        (actual.init, actual.device, actual.stack) = (false, false, Part::Missing);
        let steps = "unbind, delete-port, unguard, stack, guard, port, bind, addresses, probe, service web, access";
        assert_eq!(words(&desired, &actual), steps);
        desired.removing = true;
        actual = Actual { access_away: true, ..as_desired() };
        assert_eq!(
            words(&desired, &actual),
            "unbind, delete-port, end, unguard, remove-cgroups, remove-files, withdraw, forget"
        );
    }

    #[test]
    fn removal_stops_the_traffic_first_and_forgets_last() {
        let mut desired = wanted(tenant(serde_json::json!({})));
        desired.removing = true;
        assert_eq!(
            words(&desired, &as_desired()),
            "withdraw, unbind, delete-port, end, unguard, remove-cgroups, remove-files, forget"
        );
        assert_eq!(words(&desired, &Actual::default()), "forget");
    }

    #[test]
    fn a_card_given_whole_is_returned_before_its_stack_ends() {
        let card =
            serde_json::json!({"vlan": null, "mac": null, "device": "eth1", "whole_device": true, "tunnels": []});
        let mut desired = wanted(tenant(card));
        assert_eq!(words(&desired, &Actual::default()), "limits, api, stack, guard, device, addresses");
        desired.removing = true;
        let actual = Actual { init: true, device: true, files: true, ..Actual::default() };
        assert_eq!(words(&desired, &actual), "return-device, end, remove-files, forget");
    }

    fn routes(tenant: &Tenant) -> Vec<String> {
        let mac = "02:00:00:00:02:59".parse().unwrap();
        let plan = stack_plan(tenant, Some(mac), 1480);
        assert_eq!(plan.gateway_mac.is_some(), plan.routes.iter().any(|r| r.via == Via::Port));
        plan.routes.iter().map(|r| format!("{} {:?}", r.to, r.via)).collect()
    }

    #[test]
    fn behind_a_layer_3_tunnel_nothing_is_on_the_link() {
        let acme =
            tenant(serde_json::json!({"gateway": "192.168.1.254", "routes": [{"to": "10.0.0.0/8", "via": null}]}));
        assert_eq!(routes(&acme), ["0.0.0.0/0 Port", "10.0.0.0/8 Port", "192.168.1.0/24 Port", "::/0 Port"]);
        assert!(stack_plan(&acme, None, 1480).addresses.iter().all(|a| !a.connected));
        let answered: Vec<_> = answered_prefixes(&acme.tunnels).iter().map(ToString::to_string).collect();
        assert_eq!(answered, ["0.0.0.0/0", "::/0"]);
    }

    #[test]
    fn behind_a_layer_2_tunnel_neighbours_are_asked_and_the_customers_router_is_the_gateway() {
        let acme = tenant(serde_json::json!({
            "tunnels": ["vxlan:198.51.100.2,key=7"], "gateway": "192.168.1.254",
            "routes": [{"to": "10.0.0.0/8", "via": "192.168.1.253"}],
        }));
        assert_eq!(routes(&acme), ["0.0.0.0/0 Router(192.168.1.254)", "10.0.0.0/8 Router(192.168.1.253)"]);
        assert!(stack_plan(&acme, None, 1480).addresses.iter().all(|a| a.connected));
    }

    #[test]
    fn a_layer_3_site_beside_a_layer_2_site_is_reached_by_its_prefix_only() {
        let acme = tenant(serde_json::json!({
            "tunnels": ["vxlan:198.51.100.2,key=7", "ipip:198.51.100.6,prefix=10.9.0.0/16"],
        }));
        assert_eq!(routes(&acme), ["10.9.0.0/16 Port"]);
        assert_eq!(answered_prefixes(&acme.tunnels), [], "a layer-2 port answers nothing itself");
    }
}
