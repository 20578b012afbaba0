//! The packet filter of a tenant's stack, in that stack.

use std::collections::BTreeMap;

use stackmap::{Invalid, TenantName};

use super::{Seat, StepError, World};
use crate::commands::chain;
use crate::model::{Filter, Tenant};
use crate::net::filter::{FilterError, Found, Netfilter, satisfies};

impl Seat {
    fn found(&self) -> Result<Option<Found>, StepError> {
        self.with_netfilter(Netfilter::read)
    }

    fn with_netfilter<T: Send>(
        &self,
        ask: impl FnOnce(&Netfilter) -> Result<T, FilterError> + Send,
    ) -> Result<T, StepError> {
        match &self.netfilter {
            Some(netfilter) => Ok(ask(netfilter)?),
            None => Ok(self.netns.run(|| ask(&Netfilter::open()?))??),
        }
    }
}

impl World {
    /// True when the tenant's stack filters as it should. What cannot be read is not as it should be, and the step says
    /// why; only a kernel that cannot filter is good enough for a tenant that does not.
    pub(super) fn filter_is(&self, tenant: &Tenant) -> bool {
        let Some(seat) = self.seats.get(&tenant.name) else { return false };
        match seat.found() {
            Ok(found) => satisfies(found.as_ref(), &tenant.filter),
            Err(StepError::Filter(FilterError::NoFeature { .. })) => tenant.filter.is_open(),
            Err(_) => false,
        }
    }

    pub(super) fn set_filter(&self, tenant: &Tenant) -> Result<(), StepError> {
        let seat = self.seats.get(&tenant.name).ok_or_else(|| StepError::NoInit(tenant.name.clone()))?;
        seat.with_netfilter(|netfilter| netfilter.set(&tenant.filter))
    }

    /// Packets that the filter has dropped, by rule.
    pub(super) fn filter_drops(&self, tenant: &Tenant) -> BTreeMap<String, u64> {
        let seat = self.seats.get(&tenant.name).filter(|_| !tenant.filter.is_open());
        let found = seat.and_then(|seat| seat.found().ok().flatten());
        found.map(|found| found.drops(&tenant.filter)).unwrap_or_default()
    }

    /// Whether this host can filter at all.
    ///
    /// # Errors
    /// [`Invalid`] naming what the kernel lacks.
    pub fn check_filter(&self, name: &TenantName, filter: &Filter) -> Result<(), Invalid> {
        match self.seats.get(name).filter(|_| !filter.is_open()).map(Seat::found) {
            Some(Err(StepError::Filter(lacking @ FilterError::NoFeature { .. }))) => {
                Err(Invalid::new("filter", filter.default, chain(&lacking)))
            }
            _ => Ok(()),
        }
    }
}
