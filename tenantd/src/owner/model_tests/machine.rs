//! A machine made of memory, as far as tenants go: it outlives the daemons that work on it. What the kernel does by
//! itself it does too: with init go its stack, its services and both ends of its port, but not the rows of tables.
//!
//! What a real machine would not take is written down as a violation and fails the test.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use stackmap::{Segment, TenantName, TrunkIndex, TunnelSpec};

use crate::limits::Limits;
use crate::model::{Filter, ServiceRequest, ShareMount, Tenant};
use crate::net::stack::StackPlan;
use crate::plan::answered_prefixes;

/// Longest packet of every tunnel, bytes.
const INNER: u32 = 1480;
/// Longest packet of the trunk, bytes.
const TRUNK: u32 = 1500;

#[derive(Debug, Default)]
pub(super) struct Machine {
    pub(super) houses: BTreeMap<TenantName, House>,
    /// Ports in the patch room, by VLAN on its trunk: the number of the pair.
    pub(super) room: BTreeMap<Segment, u64>,
    pub(super) rows: BTreeMap<Segment, Row>,
    /// First group id to the cookie of the stack.
    pub(super) guard: BTreeMap<u32, u64>,
    pub(super) access: BTreeMap<Segment, AccessRow>,
    /// Trunks whose access server does not answer.
    pub(super) away: BTreeSet<TrunkIndex>,
    /// The row that is refused.
    pub(super) refuses: Option<Segment>,
    /// Steps taken for each tenant, but opening its door.
    pub(super) steps: BTreeMap<TenantName, Vec<String>>,
    pub(super) violations: Vec<String>,
    /// Steps of this name do nothing, as if the plan lacked them.
    pub(super) deaf_to: Option<&'static str>,
    numbers: u64,
}

/// What a tenant has on the machine beside its port.
#[derive(Debug, Default)]
pub(super) struct House {
    pub(super) cgroups: Option<Limits>,
    pub(super) files: bool,
    pub(super) names: Option<Vec<IpAddr>>,
    pub(super) init: Option<Init>,
}

#[derive(Debug)]
pub(super) struct Init {
    pub(super) pid: i32,
    pub(super) cookie: u64,
    /// The stack's end of this pair.
    pub(super) device: Option<u64>,
    pub(super) stack: Option<StackPlan>,
    pub(super) filter: Filter,
    pub(super) services: BTreeMap<TenantName, ServiceRequest>,
    pub(super) shares: Vec<ShareMount>,
    /// It does not answer.
    pub(super) silent: bool,
}

/// A port's row in the data path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) pair: u64,
    pub(super) mtu: u32,
    pub(super) answers: Vec<ipnet::IpNet>,
    pub(super) rates: (Option<u64>, Option<u64>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AccessRow {
    pub(super) generation: u64,
    pub(super) tunnels: Vec<TunnelSpec>,
}

impl Row {
    pub(super) fn of(tenant: &Tenant, pair: u64) -> Self {
        let rate = |limit: Option<crate::limits::BitRate>| limit.map(|limit| limit.get());
        Self {
            pair,
            mtu: mtu(tenant),
            answers: answered_prefixes(&tenant.tunnels),
            rates: (rate(tenant.limits.rate_in), rate(tenant.limits.rate_out)),
        }
    }
}

pub(super) fn mtu(tenant: &Tenant) -> u32 {
    if tenant.tunnels.is_empty() { TRUNK - 4 } else { INNER }
}

impl Machine {
    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn violation(&mut self, words: String) {
        self.violations.push(words);
    }

    pub(super) fn init(&mut self, name: &TenantName) -> Option<&mut Init> {
        self.houses.get_mut(name)?.init.as_mut()
    }

    /// The kernel's part of an init's end.
    pub(super) fn init_dies(&mut self, name: &TenantName) -> Option<i32> {
        let init = self.houses.get_mut(name)?.init.take()?;
        if let Some(pair) = init.device {
            self.room.retain(|_, there| *there != pair);
        }
        Some(init.pid)
    }

    /// Both ends of a port go together.
    pub(super) fn port_goes(&mut self, at: Segment) {
        let Some(pair) = self.room.remove(&at) else { return };
        for init in self.houses.values_mut().filter_map(|house| house.init.as_mut()) {
            if init.device == Some(pair) {
                (init.device, init.stack) = (None, None);
            }
        }
    }

    /// Where the machine is not exactly what these tenants ask for; nothing of anybody else may be there.
    pub(super) fn differences(&self, tenants: &[Tenant], macs: impl Fn(Segment) -> stackmap::MacAddr) -> Vec<String> {
        let mut found = self.violations.clone();
        let mut differ = |name: &TenantName, part: &str, right: bool| {
            if !right {
                found.push(format!("{name}: {part}"));
            }
        };
        for tenant in tenants {
            let name = &tenant.name;
            let nothing = House::default();
            let house = self.houses.get(name).unwrap_or(&nothing);
            differ(name, "cgroups", house.cgroups.as_ref() == Some(&tenant.limits));
            differ(name, "files", house.files);
            differ(name, "resolv.conf", house.names.as_ref() == Some(&tenant.dns));
            let Some(init) = &house.init else {
                differ(name, "init", false);
                continue;
            };
            differ(name, "guard", self.guard.get(&tenant.gid.get()) == Some(&init.cookie));
            differ(name, "filter", init.filter == tenant.filter);
            let services: BTreeMap<_, _> = tenant.services.iter().map(|s| (s.name.clone(), s.clone())).collect();
            differ(name, "services", init.services == services);
            let shares: BTreeSet<_> = init.shares.iter().collect();
            differ(name, "shares", shares == tenant.shares.iter().collect() && shares.len() == init.shares.len());
            let Some(at) = tenant.segment() else { continue };
            let pair = self.room.get(&at);
            differ(name, "port", pair.is_some() && pair == init.device.as_ref());
            differ(name, "row", self.rows.get(&at) == pair.map(|pair| Row::of(tenant, *pair)).as_ref());
            let stack = crate::plan::stack_plan(tenant, Some(macs(at)), mtu(tenant));
            differ(name, "stack", init.stack.as_ref() == Some(&stack));
            let row = AccessRow { generation: tenant.generation, tunnels: tenant.tunnels.clone() };
            let wanted = (!tenant.tunnels.is_empty()).then_some(row);
            differ(name, "access", self.access.get(&at) == wanted.as_ref());
        }
        let names: BTreeSet<_> = tenants.iter().map(|t| &t.name).collect();
        let segments: BTreeSet<_> = tenants.iter().filter_map(Tenant::segment).collect();
        let gids: BTreeSet<_> = tenants.iter().map(|t| t.gid.get()).collect();
        let left =
            |what: &str, things: Vec<String>| things.into_iter().map(|t| format!("left over: {what} {t}")).collect();
        let found_left: [Vec<String>; 5] = [
            left("house", self.houses.keys().filter(|n| !names.contains(n)).map(|n| n.to_string()).collect()),
            left("port", self.room.keys().filter(|v| !segments.contains(v)).map(|v| v.to_string()).collect()),
            left("row", self.rows.keys().filter(|v| !segments.contains(v)).map(|v| v.to_string()).collect()),
            left("guard row", self.guard.keys().filter(|g| !gids.contains(g)).map(|g| g.to_string()).collect()),
            left("access row", self.access.keys().filter(|v| !segments.contains(v)).map(|v| v.to_string()).collect()),
        ];
        found.extend(found_left.into_iter().flatten());
        found
    }
}
