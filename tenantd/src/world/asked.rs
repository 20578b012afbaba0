//! The world as the owner asks it. What is done lies in the rooms beside this one, under the same names (an inherent
//! method is found before a trait's); only what is no more than a line or two is done here.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stackmap::{Invalid, MacAddr, Segment, TenantName, TrunkIndex};
use tenant_init::protocol::ServiceState;
use tokio::sync::oneshot;

use super::verify::Listed;
use super::{Job, Orphan, StepError, Verb, World, joined};
use crate::access::{AccessError, AccessStatus, Row};
use crate::cgroups::Usage;
use crate::images::ImageStore;
use crate::kernel::{Access, Rules, ServiceJob, Services, Steps, Views, Whose};
use crate::limits::Limits;
use crate::metrics::{Readers, Seated};
use crate::model::{Counters, Filter, ServiceRequest, ShareRequest, Tenant, TenantRequest};
use crate::net::link::{self, NetlinkError};
use crate::net::room::port_segment;
use crate::net::watch::Changed;
use crate::plan::{Action, Actual};
use crate::refusals::TenantRefusals;
use crate::store::Desired;
use crate::trace::Parts;
use crate::verify::Gathered;

/// How long init may take to say how many processes it has.
const COUNT_DEADLINE: Duration = Duration::from_secs(5);
/// How long it may take to say what its services do, to somebody who looks.
const LIST_DEADLINE: Duration = Duration::from_secs(2);

impl Steps for World {
    async fn ports(&self) -> Result<BTreeSet<Segment>, StepError> {
        let mut found: BTreeSet<_> = self.room.segments().await?.into_iter().collect();
        let links = self.room.work(|inside| link::list(&inside.netlink)).await?;
        // One that leads nowhere is not ours, whatever it is called.
        let ports = links.iter().filter(|(_, link)| link.across.is_some());
        found.extend(ports.filter_map(|(name, _)| port_segment(name)));
        Ok(found)
    }

    async fn sweep(&mut self, at: Segment) -> Result<(), StepError> {
        // Of a trunk that is not said any more only devices can be left.
        if self.room.trunk(at.trunk).is_ok() {
            self.room.unbind(at).await?;
            self.free_class(at).await?;
        }
        Ok(self.room.delete_port(at).await?)
    }

    fn expect_many(&mut self, many: bool) {
        self.among_many = many;
    }

    async fn actual(&mut self, desired: &Desired) -> Result<Actual, StepError> {
        self.actual(desired).await
    }

    async fn apply(&mut self, tenant: &Tenant, action: &Action) -> Result<(), StepError> {
        self.apply(tenant, action).await
    }

    async fn probe_beside(&mut self, tenant: &Tenant) -> Result<(), StepError> {
        self.probe_beside(tenant).await
    }

    async fn stop(&mut self, tenant: &Tenant) -> Result<oneshot::Receiver<()>, StepError> {
        self.stop(tenant).await
    }

    fn whose(&self, changed: &Changed) -> Whose {
        self.whose_is(changed)
    }

    async fn mend_trunks(&mut self) -> Vec<(TrunkIndex, Result<Vec<String>, StepError>)> {
        let mended = self.room.mend_trunks(&self.here).await;
        mended.into_iter().map(|(number, found)| (number, found.map_err(StepError::from))).collect()
    }

    fn close_door(&mut self, name: &TenantName) {
        self.doors.close(name);
    }

    fn forget_seat(&mut self, name: &TenantName, pid: i32) {
        self.forget_seat(name, pid);
    }

    fn init_answers(&mut self, name: &TenantName, pid: i32) {
        if let Some(seat) = self.seats.get_mut(name).filter(|seat| seat.pid == pid) {
            seat.silent = false;
        }
    }

    fn forget_ended(&mut self, name: &TenantName) {
        self.forget_ended(name);
    }

    async fn orphans(&mut self, known: &BTreeSet<TenantName>) -> Result<Vec<Orphan>, StepError> {
        Self::orphans(self, known).await
    }

    fn sweep_dead(&mut self, names: &BTreeSet<TenantName>, ids: &BTreeSet<u32>) -> Result<(), StepError> {
        Self::sweep_dead(self, names, ids)
    }

    async fn end_orphan(&mut self, orphan: &Orphan) -> Result<(), StepError> {
        Self::end_orphan(self, orphan).await
    }

    fn mend_names(&mut self) -> Option<String> {
        match self.room.keep_pinned(&self.config.run_dir.join("patchroom")) {
            Ok(true) => Some("the patch room was not pinned any more".into()),
            Ok(false) => None,
            Err(error) => {
                tracing::warn!(error = crate::owner::chain(&error), "the patch room cannot be pinned again");
                None
            }
        }
    }

    async fn processes(&self, name: &TenantName) -> Result<usize, StepError> {
        self.ask_init(name, |c| c.processes(COUNT_DEADLINE)).await
    }
}

impl Access for World {
    async fn access_status(&mut self, trunk: TrunkIndex) -> Result<AccessStatus, AccessError> {
        self.access.of(trunk)?.status().await
    }

    async fn state_all(&mut self, trunk: TrunkIndex, tenants: &[Tenant]) -> Result<(), AccessError> {
        let rows: Vec<_> = tenants.iter().filter_map(|tenant| self.row_of(trunk, tenant)).collect();
        self.access.of(trunk)?.replace_all(&rows).await
    }

    async fn withdraw_others(&mut self, trunk: TrunkIndex, tenants: &[Tenant]) -> Result<(), AccessError> {
        let wanted = tenants.iter().filter_map(|tenant| self.row_of(trunk, tenant)).map(|row| row.vlan()).collect();
        self.access.of(trunk)?.delete_others(&wanted).await
    }
}

impl World {
    /// The row that a trunk's access server has to have of a tenant; none of one that is on another trunk.
    fn row_of(&self, trunk: TrunkIndex, tenant: &Tenant) -> Option<Row> {
        let at = tenant.segment().filter(|at| at.trunk == trunk)?;
        self.access.row(tenant, self.macs(at).1)
    }
}

impl Rules for World {
    fn macs(&self, at: Segment) -> (MacAddr, MacAddr) {
        self.macs(at)
    }

    async fn card_is_here(&self, name: &str) -> Result<bool, NetlinkError> {
        Ok(link::find(&self.here, name)?.is_some())
    }

    async fn check_house(&self, request: &TenantRequest) -> Result<(), Invalid> {
        self.check_house(request).await
    }

    fn check_limits(&self, limits: &Limits) -> Result<(), Invalid> {
        self.check_limits(limits)
    }

    async fn check_filter(&self, name: &TenantName, filter: &Filter) -> Result<(), Invalid> {
        self.check_filter(name, filter).await
    }

    async fn check_share(&self, request: &ShareRequest) -> Result<PathBuf, Invalid> {
        self.check_share(request).await
    }
}

impl ServiceJob for Job {
    fn verb(&self) -> Verb {
        self.verb()
    }

    async fn run(self) -> Result<(), StepError> {
        // A method of our own is found first: this one blocks.
        tokio::task::spawn_blocking(move || self.run()).await.map_err(joined)?
    }
}

impl Services for World {
    type Job = Job;

    fn job(&self, tenant: &Tenant, service: &ServiceRequest, verb: Verb) -> Result<Job, StepError> {
        self.job(tenant, service, verb)
    }

    async fn stop_service(&self, tenant: &TenantName, service: &TenantName) -> Result<(), StepError> {
        self.stop_service(tenant, service).await
    }

    async fn services(&self, name: &TenantName) -> Result<Vec<ServiceState>, StepError> {
        self.ask_init(name, |c| c.list(LIST_DEADLINE)).await
    }

    fn templates(&self) -> PathBuf {
        self.templates()
    }

    fn images(&self) -> Arc<ImageStore> {
        self.images.clone()
    }
}

impl Views for World {
    fn seat(&self, name: &TenantName) -> Option<(i32, u64)> {
        self.seats.get(name).map(|seat| (seat.pid, seat.inode))
    }

    async fn counters(&mut self, tenant: &Tenant) -> Result<Counters, StepError> {
        self.counters(tenant).await
    }

    async fn mtu(&self, tenant: &Tenant) -> Option<u32> {
        let device = tenant.device.clone();
        let found = self.in_stack(tenant, move |netlink| Ok(link::find(netlink, &device)?)).await;
        Some(found.ok()??.mtu)
    }

    fn usage(&self, name: &TenantName) -> Usage {
        self.cgroups.usage(name)
    }

    fn refusals(&self, tenant: &Tenant) -> Option<TenantRefusals> {
        self.refusals(tenant)
    }

    fn files(&self, name: &TenantName) -> PathBuf {
        self.files(name)
    }

    fn ids_of_cookie(&self, cookie: u64) -> Option<u32> {
        self.guard.row(cookie).map(|row| row.gids_start)
    }

    fn gather(&self, tenants: &[Listed<'_>]) -> Result<Gathered, StepError> {
        self.gather(tenants)
    }

    fn seated(&self, name: &TenantName) -> Option<Seated> {
        self.seated(name)
    }

    fn readers(&self) -> Option<Readers> {
        self.readers()
    }

    fn trace_parts(&self, desired: &Desired, failure: Option<String>) -> Option<Parts> {
        Some(self.trace_parts(desired, failure))
    }
}
