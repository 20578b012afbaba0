//! What can happen, generated: commands of operators, faults, tampering, outages.

use proptest::prelude::*;
use stackmap::{Segment, TenantName, TrunkIndex, Vlan};

use super::fake::Fault;
use crate::change::Change;
use crate::control::{Handle, OpError};
use crate::model::*;
use crate::world::Verb;

#[derive(Debug, Clone)]
pub(super) enum Op {
    Command(Command),
    /// The call so many calls from now.
    Fault(u32, Fault),
    Kill,
    Wait(u64),
    Access {
        /// Of each trunk.
        away: [bool; 2],
        refuses: Option<Segment>,
    },
    Tamper(TenantName, Tampering),
    /// The kernel tells that something of a tenant changed, true or not; none: it told more than could be heard.
    Told(Option<TenantName>),
}

#[derive(Debug, Clone)]
pub(super) enum Command {
    Add(Box<TenantRequest>),
    Remove(TenantName, bool),
    Change(TenantName, Box<Change>),
    AddTunnel(TenantName, String),
    RemoveTunnel(TenantName, String),
    AddService(TenantName, Box<ServiceRequest>),
    RemoveService(TenantName, TenantName),
    Restart(TenantName),
    RestartService(TenantName, TenantName),
    Share(TenantName, String),
    Unshare(TenantName, String),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Tampering {
    KillInit,
    DeletePort,
    RenameDevice,
    DeleteRow,
    ChangeRow,
    DeleteGuard,
    DeleteAccess,
    DeleteAddress,
    DeleteRoute,
    Filter,
    Limits,
    Names,
    Unshare,
    Silence,
    ForgetService,
}

/// The tenant as answered, where one is.
pub(super) type Answer = Result<Option<Tenant>, OpError>;

impl Command {
    pub(super) fn name(&self) -> TenantName {
        match self {
            Self::Add(request) => request.name.clone(),
            Self::Remove(name, _)
            | Self::Change(name, _)
            | Self::AddTunnel(name, _)
            | Self::RemoveTunnel(name, _)
            | Self::AddService(name, _)
            | Self::RemoveService(name, _)
            | Self::Restart(name)
            | Self::RestartService(name, _)
            | Self::Share(name, _)
            | Self::Unshare(name, _) => name.clone(),
        }
    }

    pub(super) async fn send(&self, to: &Handle) -> Answer {
        match self.clone() {
            Self::Add(request) => to.add_tenant(*request, false).await.map(|added| Some(added.tenant)),
            Self::Remove(name, force) => to.remove_tenant(name, force).await.map(|()| None),
            Self::Change(name, change) => to.change(name, *change).await.map(Some),
            Self::AddTunnel(name, tunnel) => to.add_tunnel(name, parsed(&tunnel)).await.map(Some),
            Self::RemoveTunnel(name, tunnel) => to.remove_tunnel(name, parsed(&tunnel)).await.map(Some),
            Self::AddService(name, service) => to.add_service(name, *service).await.map(|_| None),
            Self::RemoveService(name, service) => to.remove_service(name, service).await.map(|()| None),
            Self::Restart(name) => to.restart_tenant(name).await.map(Some),
            Self::RestartService(name, service) => to.act_on_service(name, service, Verb::Restart).await.map(|_| None),
            Self::Share(name, directory) => {
                let tenants = vec![ShareFor { name, read_only: false }];
                to.share(ShareRequest { directory, tenants, create: false }).await.map(|_| None)
            }
            Self::Unshare(name, directory) => to.unshare(directory, vec![name]).await.map(|()| None),
        }
    }
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

pub(super) fn request(name: &str, vlan: Option<u16>, addresses: &[&str], tunnels: &[&str]) -> TenantRequest {
    let json = serde_json::json!({"name": name, "vlan": vlan, "addresses": addresses, "tunnels": tunnels});
    serde_json::from_value(json).unwrap()
}

/// Few of everything, so that they meet.
fn name() -> impl Strategy<Value = TenantName> + Clone {
    prop::sample::select(vec!["acme", "beta", "core"]).prop_map(parsed)
}

fn service_name() -> impl Strategy<Value = TenantName> {
    prop::sample::select(vec!["web", "db"]).prop_map(parsed)
}

fn tunnel() -> impl Strategy<Value = String> {
    let all =
        ["ipip:198.51.100.2,prefix=10.1.0.0/16", "gre:198.51.100.3,prefix=10.2.0.0/16", "vxlan:198.51.100.4,key=7"];
    prop::sample::select(all.to_vec()).prop_map(str::to_owned)
}

fn add() -> impl Strategy<Value = Command> {
    let (vlan, west) = (prop::option::of(600_u16..603), any::<bool>());
    (name(), vlan, west, prop::option::weighted(0.7, tunnel())).prop_map(|(name, vlan, west, tunnel)| {
        let tunnels: Vec<_> = tunnel.iter().map(String::as_str).collect();
        let asked = request(name.as_str(), vlan, &["192.168.1.1/24"], &tunnels);
        Command::Add(Box::new(TenantRequest { trunk: west.then(|| "west".to_owned()), ..asked }))
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        prop::sample::select(vec!["192.168.1.2/24", "fd00::2/64"]).prop_map(|a| Change::AddAddress(parsed(a))),
        prop::sample::select(vec!["192.168.1.2/24", "fd00::2/64"]).prop_map(|a| Change::RemoveAddress(parsed(a))),
        Just(Change::AddRoute(parsed("10.9.0.0/16"))),
        Just(Change::RemoveRoute(parsed("10.9.0.0/16"))),
        prop::sample::select(vec!["192.168.1.53", "fd00::53"]).prop_map(|a| Change::Dns(vec![parsed(a)])),
        prop::sample::select(vec!["rate_in=1M", "rate_in=none", "cpu=2", "memory=none"])
            .prop_map(|word| Change::Limits(vec![word.to_owned()])),
        any::<bool>().prop_map(|drop| {
            let default = if drop { Verdict::Drop } else { Verdict::Accept };
            Change::Filter(Filter { default, ..Filter::default() })
        }),
    ]
}

fn service() -> impl Strategy<Value = ServiceRequest> {
    (service_name(), any::<bool>()).prop_map(|(name, one)| {
        let command = if one { ["/bin/one"] } else { ["/bin/two"] };
        serde_json::from_value(serde_json::json!({"name": name, "command": command})).unwrap()
    })
}

fn directory() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["/srv/a", "/srv/b"]).prop_map(str::to_owned)
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        4 => add(),
        3 => (name(), any::<bool>()).prop_map(|(name, force)| Command::Remove(name, force)),
        4 => (name(), change()).prop_map(|(name, change)| Command::Change(name, Box::new(change))),
        2 => (name(), tunnel()).prop_map(|(name, tunnel)| Command::AddTunnel(name, tunnel)),
        1 => (name(), tunnel()).prop_map(|(name, tunnel)| Command::RemoveTunnel(name, tunnel)),
        2 => (name(), service()).prop_map(|(name, service)| Command::AddService(name, Box::new(service))),
        1 => (name(), service_name()).prop_map(|(name, service)| Command::RemoveService(name, service)),
        1 => name().prop_map(Command::Restart),
        1 => (name(), service_name()).prop_map(|(name, service)| Command::RestartService(name, service)),
        3 => (name(), directory()).prop_map(|(name, directory)| Command::Share(name, directory)),
        3 => (name(), directory()).prop_map(|(name, directory)| Command::Unshare(name, directory)),
    ]
}

fn tampering() -> impl Strategy<Value = Tampering> {
    use Tampering::*;
    prop::sample::select(vec![
        KillInit,
        DeletePort,
        RenameDevice,
        DeleteRow,
        ChangeRow,
        DeleteGuard,
        DeleteAccess,
        DeleteAddress,
        DeleteRoute,
        Filter,
        Limits,
        Names,
        Unshare,
        Silence,
        ForgetService,
    ])
}

fn fault() -> impl Strategy<Value = Fault> {
    prop::sample::select(vec![Fault::FailBefore, Fault::FailAfter, Fault::KillBefore, Fault::KillAfter])
}

fn op() -> impl Strategy<Value = Op> {
    let refuses = prop::option::weighted(0.3, (0_u16..2, 600_u16..603)).prop_map(|at| {
        let (trunk, vlan) = at?;
        Some(Segment { trunk: TrunkIndex(trunk), vlan: Vlan::new(vlan).ok()? })
    });
    prop_oneof![
        8 => command().prop_map(Op::Command),
        5 => (0_u32..14, fault()).prop_map(|(calls, fault)| Op::Fault(calls, fault)),
        3 => (name(), tampering()).prop_map(|(name, tampering)| Op::Tamper(name, tampering)),
        1 => Just(Op::Kill),
        2 => prop::option::weighted(0.8, name()).prop_map(Op::Told),
        1 => (1_u64..40).prop_map(Op::Wait),
        1 => (any::<[bool; 2]>(), refuses).prop_map(|(away, refuses)| Op::Access { away, refuses }),
    ]
}

pub(super) fn all() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 1..24)
}

/// A line an event.
pub(super) fn words(ops: &[Op]) -> String {
    ops.iter().map(|op| format!("  {op:?}\n")).collect()
}
