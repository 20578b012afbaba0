//! The pure core: which rows may be, and which changes of the table lead there.
//!
//! Comes in: requests (already parsed), resolved paths, the time. Goes out: a [`Plan`] of puts and deletes, or a
//! refusal that says what stands against it. The shell applies the plan step by step and reports each done step
//! back, so what is remembered here is what the data path holds. No I/O, no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use stackmap::{Generation, Invalid, MacAddr, MacRole, Origin, Owner, TrunkIndex, TunnelId, TunnelSpec, Vlan};
use thiserror::Error;

use crate::mtu;
use crate::row::{NextHop, TunnelRow, VlanRow};

/// What the core knows of its surroundings; changes only when a device or the configuration does.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The instance, from which Ethernet addresses are derived.
    pub instance: String,
    /// The outer addresses of this access server; the first of a family is its default.
    pub locals: Vec<IpAddr>,
    /// The smallest MTU of the WAN devices in bytes: the limit while there is no route.
    pub wan_mtu: u32,
    /// The MTU of the trunk in bytes, a limit for every inner packet.
    pub trunk_mtu: u32,
}

/// What an owner asks for one VLAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRequest {
    /// The VLAN.
    pub vlan: Vlan,
    /// Who asks.
    pub owner: Owner,
    /// The owner's count of its writings.
    pub generation: Generation,
    /// Set by an operator or registered.
    pub origin: Origin,
    /// Seconds the row lives; `None` until removed.
    pub lifetime_s: Option<u64>,
    /// The server's Ethernet address; `None` to derive it.
    pub server_mac: Option<MacAddr>,
    /// The gateway's Ethernet address; `None` to derive it.
    pub gateway_mac: Option<MacAddr>,
    /// The sites.
    pub tunnels: Vec<TunnelSpec>,
}

/// The two outer ends a route is looked up for: (local, remote).
pub type Ends = (IpAddr, IpAddr);

/// How outer packets between two ends leave, as the routing table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// Device and router.
    pub next_hop: NextHop,
    /// The MTU of that device or route in bytes.
    pub mtu: u32,
}

/// One change of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Remove the row of this VLAN.
    Delete(Vlan),
    /// Make the row of its VLAN equal to this.
    Put(VlanRow),
}

/// The changes that lead to what was asked, removals first, and what they come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order they must be applied.
    pub steps: Vec<Step>,
    /// VLANs that get a row.
    pub added: Vec<Vlan>,
    /// VLANs whose row becomes another.
    pub changed: Vec<Vlan>,
    /// VLANs that lose their row.
    pub removed: Vec<Vlan>,
}

/// Why a request is refused; nothing is changed then.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// A value breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The row of the VLAN belongs to another owner.
    #[error("vlan {vlan} belongs to owner {holder}, not to {asked}")]
    OwnedByOther {
        /// The VLAN.
        vlan: Vlan,
        /// Whose it is.
        holder: Owner,
        /// Who asked.
        asked: Owner,
    },
    /// The tunnel leads to another VLAN already.
    #[error("tunnel {tunnel} is bound to vlan {vlan} of owner {holder}")]
    TunnelBound {
        /// Where the request names it.
        field: String,
        /// The identity that is taken.
        tunnel: TunnelId,
        /// The VLAN it leads to.
        vlan: Vlan,
        /// Whose row that is.
        holder: Owner,
    },
    /// The owner itself has written something newer.
    #[error("vlan {vlan} holds generation {stored} of owner {owner}, {asked} is older")]
    Older {
        /// The VLAN.
        vlan: Vlan,
        /// The owner of both.
        owner: Owner,
        /// What is there.
        stored: Generation,
        /// What was asked for.
        asked: Generation,
    },
    /// There is no row for the VLAN.
    #[error("there is no row for vlan {vlan}")]
    UnknownVlan {
        /// The VLAN.
        vlan: Vlan,
    },
}

/// The rows, and the indexes by which a request is checked in constant time.
#[derive(Debug)]
pub struct Gateway {
    settings: Settings,
    rows: BTreeMap<Vlan, VlanRow>,
    bound: HashMap<TunnelId, Vlan>,
    expiries: BTreeSet<(u64, Vlan)>,
    paths: HashMap<Ends, Option<Path>>,
}

impl Gateway {
    /// A core that knows no row yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            rows: BTreeMap::new(),
            bound: HashMap::new(),
            expiries: BTreeSet::new(),
            paths: HashMap::new(),
        }
    }

    /// Takes `rows` as what the table holds, forgetting all it knew before.
    pub fn adopt(&mut self, rows: Vec<VlanRow>) {
        self.rows.clear();
        self.bound.clear();
        self.expiries.clear();
        for row in rows {
            self.remember(row);
        }
    }

    /// Notes that `step` is done in the table.
    pub fn done(&mut self, step: Step) {
        match step {
            Step::Delete(vlan) => self.forget(vlan),
            Step::Put(row) => self.remember(row),
        }
    }

    fn remember(&mut self, row: VlanRow) {
        self.forget(row.vlan);
        self.bound.extend(row.tunnels.iter().map(|tunnel| (tunnel.id, row.vlan)));
        self.expiries.extend(row.expires_at.map(|at| (at, row.vlan)));
        self.rows.insert(row.vlan, row);
    }

    fn forget(&mut self, vlan: Vlan) {
        let Some(row) = self.rows.remove(&vlan) else {
            return;
        };
        for tunnel in &row.tunnels {
            // Only if it is still this row's: in the middle of a plan it may lead elsewhere already.
            if self.bound.get(&tunnel.id) == Some(&vlan) {
                self.bound.remove(&tunnel.id);
            }
        }
        if let Some(at) = row.expires_at {
            self.expiries.remove(&(at, vlan));
        }
    }

    /// What the core knows of its surroundings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The row of `vlan`.
    ///
    /// # Errors
    /// [`Refusal::UnknownVlan`].
    pub fn row(&self, vlan: Vlan) -> Result<&VlanRow, Refusal> {
        self.rows.get(&vlan).ok_or(Refusal::UnknownVlan { vlan })
    }

    /// All rows, by VLAN.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &VlanRow> {
        self.rows.values()
    }

    /// Rows with a tunnel to an address that is not this access server's: it was, when they were put.
    pub fn strangers(&self) -> impl Iterator<Item = &VlanRow> {
        let ours = |tunnel: &TunnelRow| self.settings.locals.contains(&tunnel.id.local());
        self.rows.values().filter(move |row| !row.tunnels.iter().all(ours))
    }

    /// The ends of `spec`, if no path between them is known yet: to be resolved and given to [`Self::learn`].
    pub fn unknown_ends(&self, spec: &TunnelSpec) -> Option<Ends> {
        let id = spec.resolve_among(&self.settings.locals).ok()?;
        let ends = (id.local(), id.remote());
        (!self.paths.contains_key(&ends)).then_some(ends)
    }

    /// The ends of all tunnels, each once: what must be resolved again when the routing table changed.
    pub fn ends(&self) -> HashSet<Ends> {
        self.bound.keys().map(|id| (id.local(), id.remote())).collect()
    }

    /// Notes the path between two ends; `None` when there is no route.
    pub fn learn(&mut self, ends: Ends, path: Option<Path>) {
        self.paths.insert(ends, path);
    }

    /// Plans the row `request` asks for.
    ///
    /// # Errors
    /// [`Refusal`], naming the field, the row or the owner that stands against it.
    pub fn put(&self, now: u64, request: &RowRequest) -> Result<Plan, Refusal> {
        let row = self.desired(now, request)?;
        self.admit(&row, &HashMap::new()).map_err(|refusal| self.within_request(request, refusal))?;
        let mut plan = Plan::default();
        self.plan_put(row, &mut plan);
        Ok(plan)
    }

    /// Plans that the row of `vlan` is gone. A row that is not there needs nothing.
    ///
    /// # Errors
    /// [`Refusal::OwnedByOther`].
    pub fn delete(&self, vlan: Vlan, owner: &Owner) -> Result<Plan, Refusal> {
        let mut plan = Plan::default();
        if let Some(row) = self.rows.get(&vlan) {
            owned(row, owner)?;
            plan.delete(vlan);
        }
        Ok(plan)
    }

    /// Plans that tunnel `spec` is one of `vlan`'s: a new row, one more site, or other prefixes of a site. The rest
    /// of the row stays as it is.
    ///
    /// # Errors
    /// [`Refusal`], as for [`Self::put`].
    pub fn put_tunnel(&self, vlan: Vlan, owner: &Owner, spec: &TunnelSpec) -> Result<Plan, Refusal> {
        let mut row = match self.rows.get(&vlan) {
            Some(row) => row.clone(),
            None => self.empty_row(vlan, owner),
        };
        owned(&row, owner)?;
        let tunnel = self.tunnel_row(spec)?;
        match row.tunnels.iter_mut().find(|old| old.id == tunnel.id) {
            Some(old) => *old = tunnel,
            None => row.tunnels.push(tunnel),
        }
        row.tunnels.sort_by_key(|tunnel| tunnel.id);
        check_sites(&row)?;
        self.admit(&row, &HashMap::new())?;
        let mut plan = Plan::default();
        self.plan_put(row, &mut plan);
        Ok(plan)
    }

    /// Plans that the tunnel of `spec`'s identity is not one of `vlan`'s; with its last tunnel the row goes.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] when the identity cannot be, [`Refusal::OwnedByOther`].
    pub fn delete_tunnel(&self, vlan: Vlan, owner: &Owner, spec: &TunnelSpec) -> Result<Plan, Refusal> {
        let id = spec.resolve_among(&self.settings.locals)?;
        let mut plan = Plan::default();
        let Some(row) = self.rows.get(&vlan) else {
            return Ok(plan);
        };
        owned(row, owner)?;
        let mut row = row.clone();
        row.tunnels.retain(|tunnel| tunnel.id != id);
        if row.tunnels.is_empty() {
            plan.delete(vlan);
        } else {
            self.plan_put(row, &mut plan);
        }
        Ok(plan)
    }

    /// Plans that `owner` has exactly the rows of `requests`. Tunnels may move between its rows.
    ///
    /// # Errors
    /// [`Refusal`] for the first request that cannot be; then none of them is planned.
    pub fn replace_all(&self, now: u64, owner: &Owner, requests: &[RowRequest]) -> Result<Plan, Refusal> {
        let mut desired: BTreeMap<Vlan, VlanRow> = BTreeMap::new();
        let mut taken: HashMap<TunnelId, Vlan> = HashMap::new();
        for (index, request) in requests.iter().enumerate() {
            let at = |refusal| within_rows(index, refusal);
            let row = self.desired(now, request).map_err(at)?;
            if desired.contains_key(&row.vlan) {
                return Err(at(Invalid::new("vlan", row.vlan, "is given twice").into()));
            }
            for tunnel in &row.tunnels {
                if let Some(&vlan) = taken.get(&tunnel.id) {
                    let (field, tunnel, holder) = (String::new(), tunnel.id, owner.clone());
                    let refusal = Refusal::TunnelBound { field, tunnel, vlan, holder };
                    return Err(at(self.within_request(request, refusal)));
                }
                taken.insert(tunnel.id, row.vlan);
            }
            desired.insert(row.vlan, row);
        }
        let mine = || self.rows.values().filter(|row| row.owner == *owner);
        // What the owner has today binds nothing tomorrow, except to the same owner's new rows, checked above.
        let released: HashMap<TunnelId, Vlan> =
            mine().flat_map(|row| row.tunnels.iter().map(|tunnel| (tunnel.id, row.vlan))).collect();
        for (index, request) in requests.iter().enumerate() {
            let Some(row) = desired.get(&request.vlan) else { continue };
            self.admit(row, &released).map_err(|refusal| within_rows(index, self.within_request(request, refusal)))?;
        }
        let mut plan = Plan::default();
        for row in mine().filter(|row| !desired.contains_key(&row.vlan)) {
            plan.delete(row.vlan);
        }
        // A tunnel that moves leaves its old row before it enters the new one, also when two rows swap.
        for row in mine().filter(|row| desired.contains_key(&row.vlan)) {
            let stays = |id: &TunnelId| taken.get(id).is_none_or(|&vlan| vlan == row.vlan);
            if !row.tunnels.iter().all(|tunnel| stays(&tunnel.id)) {
                let mut shrunk = row.clone();
                shrunk.tunnels.retain(|tunnel| stays(&tunnel.id));
                plan.steps.push(Step::Put(shrunk));
            }
        }
        for row in desired.into_values() {
            self.plan_put(row, &mut plan);
        }
        Ok(plan)
    }

    /// Plans the end of all rows whose time is over at `now`.
    pub fn expire(&self, now: u64) -> Plan {
        let mut plan = Plan::default();
        for &(at, vlan) in &self.expiries {
            if at > now {
                break;
            }
            plan.delete(vlan);
        }
        plan
    }

    /// When the next row ends, in seconds since the machine was started.
    pub fn next_expiry(&self) -> Option<u64> {
        self.expiries.first().map(|&(at, _)| at)
    }

    /// Takes freshly resolved paths for all ends and new MTUs of the devices, and plans the rows they change.
    pub fn repath(&mut self, paths: HashMap<Ends, Option<Path>>, wan_mtu: u32, trunk_mtu: u32) -> Plan {
        self.settings.wan_mtu = wan_mtu;
        self.settings.trunk_mtu = trunk_mtu;
        // Ends put in use while the paths were looked up keep what they have until the next time.
        let used = self.ends();
        self.paths.retain(|ends, _| used.contains(ends));
        self.paths.extend(paths);
        let mut plan = Plan::default();
        for row in self.rows.values() {
            let mut fresh = row.clone();
            for tunnel in &mut fresh.tunnels {
                self.route(tunnel);
            }
            self.plan_put(fresh, &mut plan);
        }
        plan
    }

    /// The row a request comes to, with everything resolved and all of its own rules checked.
    fn desired(&self, now: u64, request: &RowRequest) -> Result<VlanRow, Refusal> {
        if request.lifetime_s == Some(0) {
            return Err(Invalid::new("lifetime_s", 0, "must be at least 1 second").into());
        }
        let empty = self.empty_row(request.vlan, &request.owner);
        let mut tunnels: Vec<TunnelRow> = Vec::with_capacity(request.tunnels.len());
        for (index, spec) in request.tunnels.iter().enumerate() {
            let tunnel = self.tunnel_row(spec).map_err(|invalid| within_tunnels(index, invalid))?;
            if tunnels.iter().any(|other| other.id == tunnel.id) {
                return Err(Invalid::new(format!("tunnels[{index}]"), tunnel.id, "is given twice").into());
            }
            tunnels.push(tunnel);
        }
        // In the order in which the table gives them back, so that the same row is the same value.
        tunnels.sort_by_key(|tunnel| tunnel.id);
        let row = VlanRow {
            generation: request.generation,
            origin: request.origin,
            expires_at: request.lifetime_s.map(|seconds| now.saturating_add(seconds)),
            server_mac: request.server_mac.unwrap_or(empty.server_mac),
            gateway_mac: request.gateway_mac.unwrap_or(empty.gateway_mac),
            tunnels,
            ..empty
        };
        if row.server_mac == row.gateway_mac {
            return Err(Invalid::new("gateway_mac", row.gateway_mac, "must not be the server's address").into());
        }
        check_sites(&row)?;
        Ok(row)
    }

    fn empty_row(&self, vlan: Vlan, owner: &Owner) -> VlanRow {
        let mac = |role| MacAddr::derive(&self.settings.instance, TrunkIndex::default(), vlan, role);
        VlanRow {
            vlan,
            owner: owner.clone(),
            generation: Generation::default(),
            origin: Origin::Operator,
            expires_at: None,
            server_mac: mac(MacRole::Server),
            gateway_mac: mac(MacRole::Gateway),
            tunnels: Vec::new(),
        }
    }

    fn tunnel_row(&self, spec: &TunnelSpec) -> Result<TunnelRow, Invalid> {
        let id = spec.resolve_among(&self.settings.locals)?;
        if self.settings.locals.contains(&id.remote()) {
            return Err(Invalid::new("remote", id.remote(), "must not be an address of this access server"));
        }
        let mut tunnel = TunnelRow { id, prefixes: spec.effective_prefixes(), mtu: 0, next_hop: None };
        self.route(&mut tunnel);
        Ok(tunnel)
    }

    /// Fills in what follows from the path between the tunnel's ends.
    fn route(&self, tunnel: &mut TunnelRow) {
        let path = self.paths.get(&(tunnel.id.local(), tunnel.id.remote())).copied().flatten();
        let outer = path.map_or(self.settings.wan_mtu, |path| path.mtu);
        tunnel.next_hop = path.map(|path| path.next_hop);
        tunnel.mtu = mtu::inner(&tunnel.id, outer).min(self.settings.trunk_mtu);
    }

    /// Checks `row` against all others, as if the bindings in `released` did not exist.
    fn admit(&self, row: &VlanRow, released: &HashMap<TunnelId, Vlan>) -> Result<(), Refusal> {
        if let Some(old) = self.rows.get(&row.vlan) {
            owned(old, &row.owner)?;
            if row.generation < old.generation {
                return Err(Refusal::Older {
                    vlan: row.vlan,
                    owner: row.owner.clone(),
                    stored: old.generation,
                    asked: row.generation,
                });
            }
        }
        for tunnel in &row.tunnels {
            let holder = self.bound.get(&tunnel.id).and_then(|vlan| self.rows.get(vlan));
            match holder {
                Some(other) if other.vlan != row.vlan && !released.contains_key(&tunnel.id) => {
                    return Err(Refusal::TunnelBound {
                        field: "tunnel".to_owned(),
                        tunnel: tunnel.id,
                        vlan: other.vlan,
                        holder: other.owner.clone(),
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Says which of the request's tunnels a refusal is about.
    fn within_request(&self, request: &RowRequest, refusal: Refusal) -> Refusal {
        let Refusal::TunnelBound { tunnel, vlan, holder, .. } = refusal else { return refusal };
        let is_it = |spec: &TunnelSpec| spec.resolve_among(&self.settings.locals) == Ok(tunnel);
        let index = request.tunnels.iter().position(is_it).unwrap_or_default();
        Refusal::TunnelBound { field: format!("tunnels[{index}]"), tunnel, vlan, holder }
    }

    fn plan_put(&self, row: VlanRow, plan: &mut Plan) {
        match self.rows.get(&row.vlan) {
            // In the table as wanted; unless an earlier step of this plan has shrunk it.
            Some(old) if *old == row => return,
            Some(_) => plan.changed.push(row.vlan),
            None => plan.added.push(row.vlan),
        }
        plan.steps.push(Step::Put(row));
    }
}

impl Plan {
    fn delete(&mut self, vlan: Vlan) {
        self.steps.push(Step::Delete(vlan));
        self.removed.push(vlan);
    }
}

fn owned(row: &VlanRow, owner: &Owner) -> Result<(), Refusal> {
    if row.owner == *owner {
        return Ok(());
    }
    Err(Refusal::OwnedByOther { vlan: row.vlan, holder: row.owner.clone(), asked: owner.clone() })
}

/// One prefix behind two tunnels would leave open where a packet goes, on layer 2 as on layer 3.
fn check_sites(row: &VlanRow) -> Result<(), Invalid> {
    let mut behind: HashMap<IpNet, TunnelId> = HashMap::new();
    for tunnel in &row.tunnels {
        for prefix in &tunnel.prefixes {
            if let Some(other) = behind.insert(*prefix, tunnel.id) {
                let rule = format!("lies behind tunnel {other} already; each site needs prefixes of its own");
                return Err(Invalid::new("prefix", prefix, rule));
            }
        }
    }
    Ok(())
}

fn within_tunnels(index: usize, invalid: Invalid) -> Invalid {
    let field = format!("tunnels[{index}].{}", invalid.field);
    invalid.for_field(field)
}

fn within_rows(index: usize, refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Invalid(invalid) => {
            let field = format!("rows[{index}].{}", invalid.field);
            Refusal::Invalid(invalid.for_field(field))
        }
        Refusal::TunnelBound { field, tunnel, vlan, holder } => {
            Refusal::TunnelBound { field: format!("rows[{index}].{field}"), tunnel, vlan, holder }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests;
