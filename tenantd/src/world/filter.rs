//! The packet filter of a tenant's stack, in that stack.

use std::collections::BTreeMap;

use stackmap::{Invalid, TenantName};

use super::{StepError, World};
use crate::commands::chain;
use crate::model::{Filter, Tenant};
use crate::net::filter::{FilterError, Found, Netfilter, satisfies};
use crate::plan::Part;

/// The filter of the tenant's stack. What cannot be read is not as it should be, and the step says why; only a kernel
/// that cannot filter is good enough for a tenant that does not.
pub(super) fn part(tenant: &Tenant, found: Result<Option<Found>, FilterError>) -> Part {
    match found {
        Ok(found) if satisfies(found.as_ref(), &tenant.filter) => Part::Right,
        Ok(None) => Part::Missing,
        Ok(Some(_)) => Part::Wrong(vec!["the rules of the packet filter differ".into()]),
        Err(FilterError::NoFeature { .. }) if tenant.filter.is_open() => Part::Right,
        Err(error) => Part::Wrong(vec![format!("the packet filter cannot be read: {}", chain(&error))]),
    }
}

impl World {
    pub(super) async fn set_filter(&self, tenant: &Tenant) -> Result<(), StepError> {
        let filter = tenant.filter.clone();
        self.in_filter(&tenant.name, move |netfilter| netfilter.set(&filter)).await
    }

    /// Packets that the filter has dropped, by rule.
    pub(super) async fn filter_drops(&self, tenant: &Tenant) -> BTreeMap<String, u64> {
        if tenant.filter.is_open() {
            return BTreeMap::new();
        }
        let found = self.in_filter(&tenant.name, Netfilter::read).await.ok().flatten();
        found.map(|found| found.drops(&tenant.filter)).unwrap_or_default()
    }

    /// Whether this host can filter at all.
    ///
    /// # Errors
    /// [`Invalid`] naming what the kernel lacks.
    pub async fn check_filter(&self, name: &TenantName, filter: &Filter) -> Result<(), Invalid> {
        if filter.is_open() {
            return Ok(());
        }
        match self.in_filter(name, Netfilter::read).await {
            Err(StepError::Filter(lacking @ FilterError::NoFeature { .. })) => {
                Err(Invalid::new("filter", filter.default, chain(&lacking)))
            }
            _ => Ok(()),
        }
    }
}
