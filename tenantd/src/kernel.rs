//! What the owner asks of the machine: kernel, access server, files and the tenants' inits, as one trait a purpose. The
//! owner is generic over all of them ([`Kernel`]); [`World`](crate::world::World) is the machine itself, and tests put
//! one made of memory in its place, so that thousands of histories can be played without root.
//!
//! The rule of every method: nothing is remembered that the machine itself could be asked for, and what is asked twice
//! is done once ([`Steps::apply`] is idempotent).

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use stackmap::{Invalid, MacAddr, Segment, TenantName, TrunkIndex};
use tenant_init::protocol::ServiceState;
use tokio::sync::oneshot;

use crate::access::{AccessError, AccessStatus};
use crate::cgroups::Usage;
use crate::images::ImageStore;
use crate::limits::Limits;
use crate::metrics::{Readers, Seated};
use crate::model::{Counters, Filter, ServiceRequest, ShareRequest, Tenant, TenantRequest};
use crate::net::link::NetlinkError;
use crate::net::watch::Changed;
use crate::plan::{Action, Actual};
use crate::refusals::TenantRefusals;
use crate::store::Desired;
use crate::trace::Parts;
use crate::verify::Gathered;
use crate::world::verify::Listed;
use crate::world::{Orphan, StepError, Verb};

/// Everything the owner asks.
pub trait Kernel: Steps + Access + Rules + Services + Views + Send + 'static {}

impl<K: Steps + Access + Rules + Services + Views + Send + 'static> Kernel for K {}

/// What the machine tells by itself.
#[derive(Debug)]
pub enum KernelEvent {
    /// An init ended although nobody asked it to.
    InitEnded {
        /// Its tenant.
        tenant: TenantName,
        /// Its process id.
        pid: i32,
    },
    /// An init that did not answer has answered.
    InitAnswers {
        /// Its tenant.
        tenant: TenantName,
        /// Its process id.
        pid: i32,
    },
    /// Nobody answers in a stack that was mended; see [`Steps::probe_beside`].
    Unanswered {
        /// Its tenant.
        tenant: TenantName,
        /// What was asked and how often.
        error: StepError,
    },
    /// Somebody changed something in the patch room, in a stack or beside them.
    Changed(BTreeSet<Changed>),
    /// More happened than could be told: everything has to be looked at.
    Overrun,
}

/// Whom a change is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// A tenant's stack or port.
    Tenant(TenantName),
    /// A trunk, and with it everybody on it.
    Trunk,
    /// Nobody of ours.
    Nobody,
}

/// Reading what is so for a tenant and taking the steps of its plan.
pub trait Steps {
    /// VLANs that have a port or a row in the data path, whoever they belong to.
    ///
    /// # Errors
    /// The patch room or its tables cannot be read.
    fn ports(&self) -> impl Future<Output = Result<BTreeSet<Segment>, StepError>> + Send;

    /// Removes what a tenant that nobody knows left in the patch room.
    ///
    /// # Errors
    /// The step that failed.
    fn sweep(&mut self, at: Segment) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Says whether the readings that follow are some of many: then what all tenants have in one place may be read once
    /// for a while, and what somebody else changes there in that while is seen by the next pass.
    fn expect_many(&mut self, _many: bool) {}

    /// Reads what is so for one tenant.
    ///
    /// # Errors
    /// What could not be read; nothing is known then.
    fn actual(&mut self, desired: &Desired) -> impl Future<Output = Result<Actual, StepError>> + Send;

    /// Takes one step; one that is taken already succeeds.
    ///
    /// # Errors
    /// The step's own.
    fn apply(&mut self, tenant: &Tenant, action: &Action) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Begins the probe of a tenant that nobody waits for: an answer ends it, and that there is none is told later
    /// ([`KernelEvent::Unanswered`]). For what the daemon mends by itself, so that a stack that does not answer makes
    /// nobody else wait.
    ///
    /// # Errors
    /// It cannot be asked.
    fn probe_beside(&mut self, tenant: &Tenant) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Tells init to end its services and then itself, and kills what is left after a while. The receiver hears when
    /// all is gone, at once when there is nothing.
    ///
    /// # Errors
    /// A card given whole could not be taken back, or init not be told.
    fn stop(&mut self, tenant: &Tenant) -> impl Future<Output = Result<oneshot::Receiver<()>, StepError>> + Send;

    /// Whom a change is about.
    fn whose(&self, changed: &Changed) -> Whose;

    /// Makes sure of what many tenants share: each trunk, its two ends up and its program. Returns of each what was found
    /// to differ, or the step that failed; with a new trunk every tenant on it has to be looked at.
    fn mend_trunks(&mut self) -> impl Future<Output = Vec<(TrunkIndex, Result<Vec<String>, StepError>)>> + Send;

    /// Takes the socket of a tenant's own API away; nobody is to come in while it is removed.
    fn close_door(&mut self, name: &TenantName);

    /// Lets go of an init that is known to have ended.
    fn forget_seat(&mut self, name: &TenantName, pid: i32);

    /// An init is to be asked again: it has answered.
    fn init_answers(&mut self, name: &TenantName, pid: i32);

    /// Lets go of an init if it has ended and nobody has been told yet.
    fn forget_ended(&mut self, name: &TenantName);

    /// Tenants that are on the machine and not among the known ones. A machine of memory has none.
    ///
    /// # Errors
    /// The machine cannot be read.
    fn orphans(&mut self, known: &BTreeSet<TenantName>) -> impl Future<Output = Result<Vec<Orphan>, StepError>> + Send {
        let _ = known;
        std::future::ready(Ok(Vec::new()))
    }

    /// Removes what holds no process and is of none of these names and of none of these ids.
    ///
    /// # Errors
    /// What could not be removed.
    fn sweep_dead(&mut self, names: &BTreeSet<TenantName>, ids: &BTreeSet<u32>) -> Result<(), StepError> {
        let _ = (names, ids);
        Ok(())
    }

    /// Ends an orphan; its files stay.
    ///
    /// # Errors
    /// The step that failed.
    fn end_orphan(&mut self, orphan: &Orphan) -> impl Future<Output = Result<(), StepError>> + Send {
        let _ = orphan;
        std::future::ready(Ok(()))
    }

    /// Puts back what holds the machine's rooms by name, when somebody took it away; says what was put back.
    fn mend_names(&mut self) -> Option<String> {
        None
    }

    /// How many processes run in a tenant, its init left out.
    ///
    /// # Errors
    /// Its init does not answer.
    fn processes(&self, name: &TenantName) -> impl Future<Output = Result<usize, StepError>> + Send;
}

/// The rows of all tenants at the access server of each trunk; a single row is a step.
pub trait Access {
    /// Who it is; asks it also when it did not answer lately.
    ///
    /// # Errors
    /// [`AccessError`].
    fn access_status(&mut self, trunk: TrunkIndex) -> impl Future<Output = Result<AccessStatus, AccessError>> + Send;

    /// States the rows of these tenants, all of that trunk; what is ours there and of no other goes.
    ///
    /// # Errors
    /// [`AccessError`].
    fn state_all(
        &mut self,
        trunk: TrunkIndex,
        tenants: &[Tenant],
    ) -> impl Future<Output = Result<(), AccessError>> + Send;

    /// Takes away what is ours there and of none of these tenants.
    ///
    /// # Errors
    /// [`AccessError`].
    fn withdraw_others(
        &mut self,
        trunk: TrunkIndex,
        tenants: &[Tenant],
    ) -> impl Future<Output = Result<(), AccessError>> + Send;
}

/// What this machine can do for a request; nothing is changed.
pub trait Rules {
    /// Ethernet addresses of a VLAN's two ends: server and gateway.
    fn macs(&self, at: Segment) -> (MacAddr, MacAddr);

    /// True when a network card of this name is in our namespace.
    ///
    /// # Errors
    /// The devices cannot be read.
    fn card_is_here(&self, name: &str) -> impl Future<Output = Result<bool, NetlinkError>> + Send;

    /// Limits and image of a request can be had here.
    ///
    /// # Errors
    /// [`Invalid`] naming what cannot.
    fn check_house(&self, request: &TenantRequest) -> impl Future<Output = Result<(), Invalid>> + Send;

    /// This host can hold such limits.
    ///
    /// # Errors
    /// [`Invalid`] naming the limit.
    fn check_limits(&self, limits: &Limits) -> Result<(), Invalid>;

    /// The tenant's stack can filter like this.
    ///
    /// # Errors
    /// [`Invalid`] naming what the kernel lacks.
    fn check_filter(&self, name: &TenantName, filter: &Filter) -> impl Future<Output = Result<(), Invalid>> + Send;

    /// A directory can be shared here; it is made when that is asked for. Returns its path in one spelling.
    ///
    /// # Errors
    /// [`Invalid`] (field `directory`).
    fn check_share(&self, request: &ShareRequest) -> impl Future<Output = Result<PathBuf, Invalid>> + Send;
}

/// Something to be done to a service beside the owner.
pub trait ServiceJob: Send + 'static {
    /// What it does.
    fn verb(&self) -> Verb;

    /// Does it and waits until it is done: a start, until the service is ready.
    ///
    /// # Errors
    /// Init does not answer, or refuses; the program is not there.
    fn run(self) -> impl Future<Output = Result<(), StepError>> + Send;
}

/// Services of a tenant, as its init is told about them.
pub trait Services {
    /// What is done to a service.
    type Job: ServiceJob;

    /// What is to be done for a service; nothing has been done yet.
    ///
    /// # Errors
    /// The template, or a value of it.
    fn job(&self, tenant: &Tenant, service: &ServiceRequest, verb: Verb) -> Result<Self::Job, StepError>;

    /// Stops and forgets a service.
    ///
    /// # Errors
    /// Init does not answer, or refuses.
    fn stop_service(
        &self,
        tenant: &TenantName,
        service: &TenantName,
    ) -> impl Future<Output = Result<(), StepError>> + Send;

    /// The services that a tenant's init knows.
    ///
    /// # Errors
    /// Init does not answer.
    fn services(&self, name: &TenantName) -> impl Future<Output = Result<Vec<ServiceState>, StepError>> + Send;

    /// Directory of the user's templates.
    fn templates(&self) -> PathBuf;

    /// The images.
    fn images(&self) -> Arc<ImageStore>;
}

/// What is shown and compared, and nothing is decided by.
pub trait Views {
    /// Process id and namespace of a tenant's init, if it lives.
    fn seat(&self, name: &TenantName) -> Option<(i32, u64)>;

    /// Traffic and drops of a tenant.
    ///
    /// # Errors
    /// The tables of the data path cannot be read.
    fn counters(&mut self, tenant: &Tenant) -> impl Future<Output = Result<Counters, StepError>> + Send;

    /// MTU of the tenant's device in bytes, as it is.
    fn mtu(&self, tenant: &Tenant) -> impl Future<Output = Option<u32>> + Send;

    /// What the tenant uses of the machine.
    fn usage(&self, name: &TenantName) -> Usage;

    /// What the guard counted of a tenant.
    fn refusals(&self, tenant: &Tenant) -> Option<TenantRefusals>;

    /// Directory of a tenant's files.
    fn files(&self, name: &TenantName) -> PathBuf;

    /// First group id of the stack with a cookie, as the guard has it.
    fn ids_of_cookie(&self, cookie: u64) -> Option<u32>;

    /// Everything a verification needs.
    ///
    /// # Errors
    /// The guard's tables or the cgroups cannot be read.
    fn gather(&self, tenants: &[Listed<'_>]) -> Result<Gathered, StepError>;

    /// A tenant's living init and stack, by all its numbers.
    fn seated(&self, name: &TenantName) -> Option<Seated>;

    /// Ways to read counters beside the owner; none where there is nothing to read.
    fn readers(&self) -> Option<Readers>;

    /// What a trace starts from; none where there is no way for packets.
    fn trace_parts(&self, desired: &Desired, failure: Option<String>) -> Option<Parts>;
}
