//! The trunks as the owner knows them: how each is, and how its access server is. What is wrong with one is told of the
//! tenants on it and of nobody else.

use std::net::IpAddr;

use stackmap::{Invalid, TrunkIndex};

use super::{Owner, chain};
use crate::access::AccessError;
use crate::kernel::Kernel;
use crate::model::{Repair, Tenant, TenantRequest, TrunkStatus};
use crate::trunks::TrunkSpec;

const CONNECTED: &str = "connected";

/// One trunk.
#[derive(Debug)]
struct OnTrunk {
    spec: TrunkSpec,
    /// Why it is not as it should be.
    cause: Option<String>,
    /// `connected`, or why its access server is not.
    access: String,
    /// The access server's own addresses; empty while it was never reached.
    locals: Vec<IpAddr>,
}

/// All of them, by number.
#[derive(Debug)]
pub(super) struct Trunks(Vec<OnTrunk>);

impl Trunks {
    /// Nothing is known of them yet.
    pub(super) fn new(specs: Vec<TrunkSpec>) -> Self {
        let on = |spec| OnTrunk { spec, cause: None, access: "not asked yet".into(), locals: Vec::new() };
        Self(specs.into_iter().map(on).collect())
    }

    fn get(&self, number: TrunkIndex) -> Option<&OnTrunk> {
        self.0.iter().find(|trunk| trunk.spec.number == number)
    }

    fn get_mut(&mut self, number: TrunkIndex) -> Option<&mut OnTrunk> {
        self.0.iter_mut().find(|trunk| trunk.spec.number == number)
    }

    fn numbers(&self) -> Vec<TrunkIndex> {
        self.0.iter().map(|trunk| trunk.spec.number).collect()
    }

    /// Refuses a tenant of a trunk that is not here, or is here another one: a row may come from another store.
    pub(super) fn check(&self, tenant: &Tenant) -> Result<(), Invalid> {
        let number = tenant.trunk_number;
        let words = || tenant.trunk.clone().unwrap_or_else(|| format!("number {number}"));
        match (self.get(number), self.carried(number)) {
            (None, _) => Err(Invalid::new("trunk", words(), "is none of this instance's trunks; name it with --trunk")),
            (Some(_), carried) if carried != tenant.trunk => {
                let is = carried.unwrap_or_else(|| "the first one".into());
                Err(Invalid::new("trunk", words(), format!("had number {number}, which is {is} here")))
            }
            _ => Ok(()),
        }
    }

    /// `connected`, or why its access server is not.
    pub(super) fn access(&self, number: TrunkIndex) -> &str {
        self.get(number).map_or("there is no such trunk", |trunk| trunk.access.as_str())
    }

    pub(super) fn is_connected(&self, number: TrunkIndex) -> bool {
        self.access(number) == CONNECTED
    }

    /// True when every access server answers.
    pub(super) fn all_connected(&self) -> bool {
        self.0.iter().all(|trunk| trunk.access == CONNECTED)
    }

    /// Own addresses of its access server; empty while it was never reached.
    pub(super) fn locals(&self, number: TrunkIndex) -> &[IpAddr] {
        self.get(number).map_or(&[], |trunk| trunk.locals.as_slice())
    }

    /// What all access servers have is stated again.
    pub(super) fn ask_again(&mut self) {
        self.0.iter_mut().for_each(|trunk| trunk.access = "not asked yet".into());
    }

    /// True when there is more than one: then one may have been missing from the start.
    pub(super) fn are_several(&self) -> bool {
        self.0.len() > 1
    }

    /// True while some trunk is not as it should be.
    pub(super) fn any_lost(&self) -> bool {
        self.0.iter().any(|trunk| trunk.cause.is_some())
    }

    /// Name of the first one, that with number 0.
    pub(super) fn first_name(&self) -> String {
        self.get(TrunkIndex::default()).map(|trunk| trunk.spec.name.clone()).unwrap_or_default()
    }

    /// The name that a tenant of a trunk carries: the first one needs none.
    pub(super) fn carried(&self, number: TrunkIndex) -> Option<String> {
        let further = self.get(number).filter(|_| number != TrunkIndex::default());
        further.map(|trunk| trunk.spec.name.clone())
    }

    /// Words before what is said of a trunk; none where there is only one.
    fn before(&self, number: TrunkIndex) -> String {
        let one_of_many = self.get(number).filter(|_| self.are_several());
        one_of_many.map(|trunk| format!("trunk {}: ", trunk.spec.name)).unwrap_or_default()
    }
}

impl<K: Kernel> Owner<K> {
    /// The trunk that a new tenant's port shall be on. A VLAN that was asked for without a trunk is that of the first: it
    /// names a closed network, and on another trunk it would name another one.
    pub(super) fn trunk_for(&self, request: &TenantRequest) -> Result<TrunkIndex, Invalid> {
        let numbers = self.trunks.numbers();
        if let Some(name) = &request.trunk {
            let found = self.trunks.0.iter().find(|trunk| trunk.spec.name == *name).map(|trunk| trunk.spec.number);
            return found.ok_or_else(|| {
                let names: Vec<_> = self.trunks.0.iter().map(|trunk| trunk.spec.name.as_str()).collect();
                Invalid::new("trunk", name, format!("must be one of this instance's trunks: {}", names.join(", ")))
            });
        }
        let first = numbers.first().copied().unwrap_or_default();
        if request.vlan.is_some() {
            return Ok(first);
        }
        let has_one_free = |number: &TrunkIndex| self.maps.lower().lowest_free_vlan(*number).is_ok();
        Ok(numbers.into_iter().find(has_one_free).unwrap_or(first))
    }

    pub(super) fn trunk_status(&self) -> Vec<TrunkStatus> {
        let one = |trunk: &OnTrunk| {
            let number = trunk.spec.number;
            let on = |tenant: &Tenant| tenant.segment().is_some_and(|at| at.trunk == number);
            TrunkStatus {
                name: trunk.spec.name.clone(),
                number: number.get(),
                device: trunk.spec.device().to_owned(),
                cause: trunk.cause.clone(),
                access: trunk.access.clone(),
                tenants: self.desired.values().filter(|desired| on(&desired.tenant)).count(),
            }
        };
        self.trunks.0.iter().map(one).collect()
    }

    /// Asks every access server who it is.
    pub(super) async fn reach_all(&mut self) {
        for number in self.trunks.numbers() {
            self.reach_access(number).await;
        }
    }

    /// Ask the access server of a trunk who it is; when it was away, state every row again.
    pub(super) async fn reach_access(&mut self, number: TrunkIndex) {
        let was = self.trunks.access(number).to_owned();
        let (is, locals) = match self.kernel.access_status(number).await {
            Ok(status) if was == CONNECTED => (was.clone(), Some(status.local)),
            Ok(status) => match self.state_all(number).await {
                Ok(()) => (CONNECTED.to_owned(), Some(status.local)),
                Err(error) => (chain(&error), Some(status.local)),
            },
            Err(error) => (chain(&error), None),
        };
        if let Some(trunk) = self.trunks.get_mut(number) {
            trunk.access.clone_from(&is);
            trunk.locals = locals.unwrap_or_else(|| std::mem::take(&mut trunk.locals));
        }
        if was != is {
            let kind = if is == CONNECTED { "access-connected" } else { "access-lost" };
            let detail = self.trunks.before(number) + &is;
            tracing::info!(kind, detail, "access server");
            self.tell(kind, None, detail);
        }
    }

    /// State every row of a trunk. When one of them is refused the others must not wait for it: what nobody desires is
    /// taken away, and each tenant states its own in its pass, where a refusal stays with the tenant it is about.
    async fn state_all(&mut self, number: TrunkIndex) -> Result<(), AccessError> {
        if self.orphans.any_lives() {
            // Nothing of ours is withdrawn: an orphan's row is among it. Each tenant states its own in its pass.
            self.look_at_trunk(number);
            return Ok(());
        }
        let staying = self.desired.values().filter(|desired| !desired.removing).map(|desired| &desired.tenant);
        let on = staying.filter(|tenant| tenant.segment().is_some_and(|at| at.trunk == number));
        let tenants: Vec<_> = on.cloned().collect();
        match self.kernel.state_all(number, &tenants).await {
            Err(AccessError::Refused { detail, .. }) => {
                tracing::warn!(detail, "the access server refused the rows as a whole; they are stated one by one");
                self.kernel.withdraw_others(number, &tenants).await?;
                self.look_at_trunk(number);
                Ok(())
            }
            other => other,
        }
    }

    /// Every tenant on a trunk gets a turn.
    fn look_at_trunk(&mut self, number: TrunkIndex) {
        for desired in self.desired.values() {
            if desired.tenant.segment().is_some_and(|at| at.trunk == number) {
                self.turns.last(desired.tenant.name.clone());
            }
        }
    }

    /// Makes sure of the trunks; when something of one differed, every port on it may have to be bound again.
    pub(super) async fn mend_trunks(&mut self) {
        for (number, mended) in self.kernel.mend_trunks().await {
            match mended {
                Ok(found) => self.trunk_is_there(number, found),
                Err(error) => self.trunk_is_lost(number, chain(&error)),
            }
        }
    }

    fn trunk_is_there(&mut self, number: TrunkIndex, mut found: Vec<String>) {
        let recovered = self.trunks.get_mut(number).is_some_and(|trunk| trunk.cause.take().is_some());
        if found.is_empty() && !recovered {
            return;
        }
        if found.is_empty() {
            found.push(self.trunks.before(number) + "the trunk was lost");
        }
        let words = found.join("; ");
        tracing::warn!(words, "the trunk was repaired");
        let mut event = self.event("repaired", None, format!("{words}; done: trunk"));
        let steps = vec!["trunk".to_owned()];
        self.write_down_repair(None, &found, &steps);
        event.repair = Some(Repair { found, steps });
        self.handle.publish(event);
        self.look_at_trunk(number);
    }

    fn trunk_is_lost(&mut self, number: TrunkIndex, cause: String) {
        let words = self.trunks.before(number) + &cause;
        let Some(trunk) = self.trunks.get_mut(number).filter(|trunk| trunk.cause.as_ref() != Some(&cause)) else {
            return;
        };
        trunk.cause = Some(cause);
        tracing::error!(cause = words, "the trunk cannot be repaired");
        self.tell("trunk-lost", None, words);
        self.look_at_trunk(number);
    }
}
