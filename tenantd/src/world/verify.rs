//! What a verification starts from: the tables' side, and ways to read the kernel's. Quick: it holds the owner.

use std::collections::BTreeSet;

use stackmap::Flow;

use super::{StepError, World};
use crate::cgroups::{CgroupError, Layout};
use crate::model::Tenant;
use crate::refusals::TenantRefusals;
use crate::store::Desired;
use crate::verify::{Expected, Gathered, SeatedInit};

/// One tenant as owner and tables have it.
pub struct Listed<'a> {
    /// What is desired.
    pub desired: &'a Desired,
    /// Its rows in the tables.
    pub flow: Option<Flow>,
    /// Its rows as they follow from what is desired.
    pub wanted: BTreeSet<String>,
    /// The step that failed last, with its cause.
    pub failure: Option<String>,
}

/// The rows of a flow, as the field writes them.
pub(crate) fn words(flow: &Flow) -> BTreeSet<String> {
    // Which of its addresses the access server uses is its own choice; how many tunnels there are is not.
    [flow.upper.to_string(), flow.lower.to_string(), format!("{} tunnels", flow.access.len())].into()
}

impl World {
    /// Everything a verification needs.
    ///
    /// # Errors
    /// The guard's tables or the cgroups cannot be read.
    pub(crate) fn gather(&self, tenants: &[Listed<'_>]) -> Result<Gathered, StepError> {
        let layout = Layout::read().map_err(CgroupError::Layout)?;
        let expected = tenants.iter().map(|listed| self.expect(listed, &layout)).collect::<Result<_, _>>()?;
        Ok(Gathered {
            expected,
            room: self.room.reader(),
            room_pin: self.config.run_dir.join("patchroom"),
            trunks: self.room.devices(),
            guard: self.guard.kernel_rows().map_err(stack_guard::PutError::from)?,
            access: self.room.specs().map(|spec| (spec.number, spec.access.clone())).collect(),
            owner: format!("tenantd/{}", self.config.instance),
        })
    }

    fn expect(&self, listed: &Listed<'_>, layout: &Layout) -> Result<Expected, StepError> {
        let Desired { tenant, removing, .. } = listed.desired;
        let seat = self.seats.get(&tenant.name);
        let port = match tenant.segment() {
            // Device and MTU are the kernel's to say.
            Some(at) => Some(self.port_row(tenant, at, 0, 0).config(&self.room)?),
            None => None,
        };
        let gateway = tenant.segment().map(|at| self.macs(at).1);
        Ok(Expected {
            name: tenant.name.clone(),
            stack: tenant.stack,
            ids: tenant.gid,
            at: tenant.segment(),
            device: tenant.device.clone(),
            mac: tenant.mac,
            owns_network: tenant.owns_network(),
            removing: *removing,
            failure: listed.failure.clone(),
            wanted_rows: listed.wanted.clone(),
            rows: listed.flow.as_ref().map(words).unwrap_or_default(),
            cgroups: self.cgroups.paths_in(layout, &tenant.name),
            init: seat.map(|seat| SeatedInit { pid: seat.pid, inode: seat.inode, cookie: seat.cookie }),
            port,
            access: gateway.and_then(|gateway| self.access.row(tenant, gateway)).map(|row| row.stated()),
            guard: match seat {
                Some(seat) => Some(self.guard_row(tenant, seat)?),
                None => None,
            },
        })
    }

    /// What the guard counted of a tenant.
    pub fn refusals(&self, tenant: &Tenant) -> Option<TenantRefusals> {
        let counters = self.guard_counters(tenant)?;
        Some(TenantRefusals {
            connections: counters.connections,
            refused: counters.refusals.iter().map(|(refusal, n)| (refusal.name().to_owned(), *n)).collect(),
            not_told: counters.not_told,
        })
    }
}
