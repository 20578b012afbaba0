//! The handle through which the API talks to the one task that owns all tenant state.
//!
//! Operators and tenants have a queue each: the owner takes from the operators' first. Of one tenant at most one
//! command waits there, so that no tenant makes another one wait longer than for one command of each.

use std::sync::Arc;

mod measure;
mod prove;
mod verbs;
mod who;

use serde_json::Value;
use stackmap::{Invalid, TenantName, TunnelSpec};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot};

use crate::audit::{AuditRow, Outcome as AuditOutcome, Query};
use crate::change::Change;
use crate::images::ImageStore;
use crate::metrics::{Roster, Scraper};
use crate::model::*;
pub(crate) use crate::owner::Proof;
use crate::owner::services::Done;
pub use crate::owner::{PutHow, RestoreHow};
use crate::store::{Copied, Copying};
use crate::trace::Parts;
use crate::world::Verb;
pub use who::Who;

/// Why an operation was refused or failed. The API turns each into a problem document.
#[derive(Debug, thiserror::Error)]
pub enum OpError {
    /// A value breaks a rule; nothing was changed.
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// A key is held by another tenant; nothing was changed.
    #[error("{field}: {value} refused: {rule}")]
    Conflict {
        /// Field of the request.
        field: std::borrow::Cow<'static, str>,
        /// Its value.
        value: String,
        /// The rule and the holder.
        rule: String,
    },
    /// No such tenant, tunnel or service.
    #[error("{what} {name:?} is unknown")]
    Unknown {
        /// `tenant`, `service`, `tunnel`.
        what: &'static str,
        /// The name asked for.
        name: String,
    },
    /// The store's row of a tenant is not what was written, or contradicts another one; it is not followed.
    #[error(
        "tenant {name}: its row in the store is not followed: {cause}; restore a backup, or give it up with: tenantd \
         remove-tenant {name} --force"
    )]
    BadRow {
        /// The tenant.
        name: TenantName,
        /// What is wrong with the row.
        cause: String,
    },
    /// A step failed; what had been done was taken back and nothing is changed.
    #[error("tenant {name}: step {step} failed and nothing was changed: {cause}")]
    Failed {
        /// The tenant.
        name: TenantName,
        /// The step that failed.
        step: &'static str,
        /// Why.
        cause: String,
    },
    /// Processes run and `force` was not given.
    #[error("tenant {name} has {processes} running processes; remove-tenant --force ends them")]
    Busy {
        /// The tenant.
        name: TenantName,
        /// How many.
        processes: usize,
    },
    /// The tenant is half removed or half made; the state is kept and tried again.
    #[error("tenant {name} is half done at step {step}: {cause}")]
    HalfDone {
        /// The tenant.
        name: TenantName,
        /// The step that failed.
        step: &'static str,
        /// Why.
        cause: String,
    },
    /// The kernel could not be compared with the tables.
    #[error("cannot verify: {cause}")]
    CannotVerify {
        /// Why.
        cause: String,
    },
    /// The kernel's counters could not be read.
    #[error("cannot measure: {cause}")]
    CannotMeasure {
        /// Why.
        cause: String,
    },
    /// The store could not be read.
    #[error("cannot read the store: {cause}")]
    CannotRead {
        /// Why.
        cause: String,
    },
    /// A backup could not be restored; nothing is changed.
    #[error("nothing was restored: {cause}")]
    CannotRestore {
        /// Why.
        cause: String,
    },
    /// The daemon is shutting down.
    #[error("the daemon is shutting down")]
    Closed,
}

/// What the API asks of the owner; each carries the way back.
#[derive(Debug)]
pub(crate) enum Command {
    /// Make a tenant, or only say how.
    AddTenant { request: Box<TenantRequest>, dry_run: bool, reply: Reply<Added> },
    /// End a tenant.
    RemoveTenant { name: TenantName, force: bool, reply: Reply<()> },
    /// Bring a tenant to what is declared.
    Put { name: TenantName, tenant: Box<DeclaredTenant>, how: PutHow, reply: Reply<Put> },
    /// All tenants, to be declared again.
    Export { reply: Reply<Export> },
    /// All tenants, sorted by name.
    List { reply: Reply<Vec<Tenant>> },
    /// One tenant.
    Show { name: TenantName, reply: Reply<Tenant> },
    /// Put one more tunnel, or change the prefixes of one.
    AddTunnel { name: TenantName, tunnel: TunnelSpec, reply: Reply<Tenant> },
    /// Take a tunnel away.
    RemoveTunnel { name: TenantName, tunnel: TunnelSpec, reply: Reply<Tenant> },
    /// Change addresses, routes, name servers or limits.
    Change { name: TenantName, change: Change, reply: Reply<Tenant> },
    /// End its init in good order; the answer comes when its services have been told.
    StopTenant { name: TenantName, reply: Reply<Stopping> },
    /// Bring it to what is desired now, not on the timer.
    Settle { name: TenantName, reply: Reply<Tenant> },
    /// Put a directory into tenants.
    Share { request: Box<ShareRequest>, reply: Reply<SharedDirectory> },
    /// Take a directory out of tenants.
    Unshare { directory: String, tenants: Vec<TenantName>, reply: Reply<()> },
    /// The images, to be looked into or added to.
    Images { reply: Reply<Arc<ImageStore>> },
    /// The shared directories.
    ListShares { reply: Reply<Vec<SharedDirectory>> },
    /// Add and start a service.
    AddService { name: TenantName, service: Box<ServiceRequest>, reply: Reply<ServiceStatus> },
    /// Stop and forget a service.
    RemoveService { name: TenantName, service: TenantName, reply: Reply<()> },
    /// Start, stop, restart or reload a service.
    ActOnService { name: TenantName, service: TenantName, verb: Verb, reply: Reply<ServiceStatus> },
    /// A task that was busy with a service has come back.
    ServiceDone(Box<Done>),
    /// All templates.
    Templates { reply: Reply<Vec<TemplateView>> },
    /// One template.
    ShowTemplate { name: String, reply: Reply<TemplateView> },
    /// The tables.
    Map { reply: Reply<MapView> },
    /// A way to a copy of everything that is stored.
    Backup { reply: Reply<Copying> },
    /// Bring the tenants to what a copy says.
    Restore { copied: Box<Copied>, how: RestoreHow, reply: Reply<Restored> },
    /// Rows of the audit.
    Audit { query: Query, reply: Reply<Vec<AuditRow>> },
    /// Something that the owner has no part in, for the audit.
    Note { verb: &'static str, tenant: Option<TenantName>, after: Option<Value>, outcome: AuditOutcome },
    /// The daemon.
    Status { reply: Reply<DaemonStatus> },
    /// What a pass would do for a tenant.
    Plan { name: TenantName, reply: Reply<TenantPlan> },
    /// One tenant's status.
    TenantStatus { name: TenantName, reply: Reply<TenantStatus> },
    /// Where a service's log is.
    LogPath { name: TenantName, service: TenantName, reply: Reply<std::path::PathBuf> },
    /// Tables against kernel, and what the guard refused.
    Prove(Proof),
    /// What a trace starts from.
    TraceParts { name: TenantName, reply: Reply<Parts> },
    /// The owner's part of the metrics.
    Roster { reply: Reply<Roster> },
}

/// A tenant on its way down.
#[derive(Debug)]
pub(crate) struct Stopping {
    /// Readable, so to say, when every process of it is gone.
    pub(crate) gone: oneshot::Receiver<()>,
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, OpError>>;

/// A cheap, cloneable way to the owner task.
#[derive(Debug, Clone)]
pub struct Handle {
    operators: mpsc::Sender<Asked>,
    tenants: mpsc::Sender<Asked>,
    events: broadcast::Sender<Event>,
    guest: Option<Guest>,
    scraper: Arc<Scraper>,
    traces: Arc<measure::Traces>,
    who: Who,
}

/// Who speaks through a handle that belongs to a tenant.
#[derive(Debug, Clone)]
struct Guest {
    name: TenantName,
    /// One permit: the command that it may have in the owner's queue.
    turn: Arc<Semaphore>,
    /// One permit: the flow that it may have followed.
    trace: Arc<Semaphore>,
}

/// A command and who asked.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Who.
    pub(crate) who: Who,
    /// What.
    pub(crate) command: Command,
    /// A tenant's turn, given back when the command is done.
    _turn: Option<OwnedSemaphorePermit>,
}

/// Where the commands arrive.
#[derive(Debug)]
pub struct Inbox {
    /// The operators'.
    pub(crate) operators: mpsc::Receiver<Asked>,
    /// The tenants'.
    pub(crate) tenants: mpsc::Receiver<Asked>,
}

impl Handle {
    /// The daemon's own handle, and where its commands arrive.
    pub(crate) fn new() -> (Self, Inbox) {
        let (operators, from_operators) = mpsc::channel(1024);
        let (tenants, from_tenants) = mpsc::channel(1024);
        let (events, _) = broadcast::channel(1024);
        let inbox = Inbox { operators: from_operators, tenants: from_tenants };
        let (scraper, traces) = (Arc::default(), Arc::default());
        (Self { operators, tenants, events, guest: None, who: Who::daemon(), scraper, traces }, inbox)
    }

    /// The same way to the owner, for the administrator of one tenant.
    pub(crate) fn for_tenant(&self, name: TenantName) -> Self {
        let one = || Arc::new(Semaphore::new(1));
        Self { guest: Some(Guest { name, turn: one(), trace: one() }), ..self.clone() }
    }

    /// The same way to the owner for one caller: whatever is asked through it is asked by that one.
    #[must_use]
    pub fn by(&self, who: Who) -> Self {
        Self { who, ..self.clone() }
    }

    /// The tenant whose administrator speaks here; none for an operator.
    pub(crate) fn tenant(&self) -> Option<&TenantName> {
        self.guest.as_ref().map(|guest| &guest.name)
    }

    /// Follow what happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Tell the followers; nobody listening is no error.
    pub(crate) fn publish(&self, event: Event) {
        let _ = self.events.send(event);
    }

    async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Command) -> Result<T, OpError> {
        let (reply, answer) = oneshot::channel();
        match &self.guest {
            None => self.operators.send(self.asked(make(reply))).await.map_err(|_| OpError::Closed)?,
            Some(guest) => {
                let turn = guest.turn.clone().acquire_owned().await.map_err(|_| OpError::Closed)?;
                let asked = Asked { _turn: Some(turn), ..self.asked(make(reply)) };
                self.tenants.send(asked).await.map_err(|_| OpError::Closed)?;
            }
        }
        answer.await.map_err(|_| OpError::Closed)?
    }

    fn asked(&self, command: Command) -> Asked {
        Asked { who: self.who.clone(), command, _turn: None }
    }

    /// Make a tenant; returns when its stack has answered a probe through its port. With `dry_run` only plans.
    pub async fn add_tenant(&self, request: TenantRequest, dry_run: bool) -> Result<Added, OpError> {
        self.ask(|reply| Command::AddTenant { request: Box::new(request), dry_run, reply }).await
    }
    /// End a tenant and everything of it; refused while its processes run unless `force`.
    pub async fn remove_tenant(&self, name: TenantName, force: bool) -> Result<(), OpError> {
        self.ask(|reply| Command::RemoveTenant { name, force, reply }).await
    }
    /// Bring a tenant to what is declared: by one write of the store and one pass.
    pub async fn put(&self, name: TenantName, tenant: DeclaredTenant, how: PutHow) -> Result<Put, OpError> {
        self.ask(|reply| Command::Put { name, tenant: Box::new(tenant), how, reply }).await
    }
    /// Every tenant, with what it takes to declare it again: passwords too.
    pub async fn export(&self) -> Result<Export, OpError> {
        self.ask(|reply| Command::Export { reply }).await
    }
    /// All tenants, sorted by name.
    pub async fn list(&self) -> Result<Vec<Tenant>, OpError> {
        self.ask(|reply| Command::List { reply }).await
    }
    /// One tenant.
    pub async fn show(&self, name: TenantName) -> Result<Tenant, OpError> {
        self.ask(|reply| Command::Show { name, reply }).await
    }
    /// Add a tunnel, or change the prefixes of one that is there.
    pub async fn add_tunnel(&self, name: TenantName, tunnel: TunnelSpec) -> Result<Tenant, OpError> {
        self.ask(|reply| Command::AddTunnel { name, tunnel, reply }).await
    }
    /// Take a tunnel away; its prefixes need not be said.
    pub async fn remove_tunnel(&self, name: TenantName, tunnel: TunnelSpec) -> Result<Tenant, OpError> {
        self.ask(|reply| Command::RemoveTunnel { name, tunnel, reply }).await
    }
    /// Change addresses, routes, name servers or limits; answers when the kernel has it.
    pub async fn change(&self, name: TenantName, change: Change) -> Result<Tenant, OpError> {
        self.ask(|reply| Command::Change { name, change, reply }).await
    }
    /// End everything that runs in a tenant, its services in good order, and start it again.
    pub async fn restart_tenant(&self, name: TenantName) -> Result<Tenant, OpError> {
        let again = name.clone();
        let stopping = self.ask(|reply| Command::StopTenant { name, reply }).await?;
        // Not in the owner: a service may take its time, and the other tenants do not wait for it.
        let _ = stopping.gone.await;
        self.ask(|reply| Command::Settle { name: again, reply }).await
    }
    /// Put a directory of the host into tenants, also running ones.
    pub async fn share(&self, request: ShareRequest) -> Result<SharedDirectory, OpError> {
        self.ask(|reply| Command::Share { request: Box::new(request), reply }).await
    }
    /// Take a directory out of tenants, also running ones.
    pub async fn unshare(&self, directory: String, tenants: Vec<TenantName>) -> Result<(), OpError> {
        self.ask(|reply| Command::Unshare { directory, tenants, reply }).await
    }
    /// The images, to be looked into or added to outside the owner.
    pub(crate) async fn images(&self) -> Result<Arc<ImageStore>, OpError> {
        self.ask(|reply| Command::Images { reply }).await
    }
    /// The shared directories, sorted.
    pub async fn shares(&self) -> Result<Vec<SharedDirectory>, OpError> {
        self.ask(|reply| Command::ListShares { reply }).await
    }
    /// Add and start a service.
    pub async fn add_service(&self, name: TenantName, service: ServiceRequest) -> Result<ServiceStatus, OpError> {
        self.ask(|reply| Command::AddService { name, service: Box::new(service), reply }).await
    }
    /// Stop and forget a service.
    pub async fn remove_service(&self, name: TenantName, service: TenantName) -> Result<(), OpError> {
        self.ask(|reply| Command::RemoveService { name, service, reply }).await
    }
    /// Stop and start a service.
    pub async fn restart_service(&self, name: TenantName, service: TenantName) -> Result<ServiceStatus, OpError> {
        self.act_on_service(name, service, Verb::Restart).await
    }
    /// Start, stop, restart or reload a service.
    pub async fn act_on_service(
        &self,
        name: TenantName,
        service: TenantName,
        verb: Verb,
    ) -> Result<ServiceStatus, OpError> {
        self.ask(|reply| Command::ActOnService { name, service, verb, reply }).await
    }
    /// Tell the owner what came of a service; one that is gone needs not know.
    pub(crate) async fn service_done(&self, done: Done) {
        let _ = self.operators.send(self.asked(Command::ServiceDone(Box::new(done)))).await;
    }
    /// All templates, ours and the user's.
    pub async fn templates(&self) -> Result<Vec<TemplateView>, OpError> {
        self.ask(|reply| Command::Templates { reply }).await
    }
    /// One template.
    pub async fn template(&self, name: String) -> Result<TemplateView, OpError> {
        self.ask(|reply| Command::ShowTemplate { name, reply }).await
    }
    /// The three tables.
    pub async fn map(&self) -> Result<MapView, OpError> {
        self.ask(|reply| Command::Map { reply }).await
    }
    /// A way to a copy of everything that is stored, to be made on another thread.
    ///
    /// # Errors
    /// [`OpError::CannotRead`].
    pub async fn backup(&self) -> Result<Copying, OpError> {
        self.ask(|reply| Command::Backup { reply }).await
    }
    /// Bring the tenants to what a copy says: all of them, or none.
    ///
    /// # Errors
    /// [`OpError`].
    pub async fn restore(&self, copied: Copied, how: RestoreHow) -> Result<Restored, OpError> {
        self.ask(|reply| Command::Restore { copied: Box::new(copied), how, reply }).await
    }
    /// Tells the audit of what the owner has no part in. Waits for nobody; false: the queue is full and it is not told.
    pub(crate) fn note(
        &self,
        verb: &'static str,
        tenant: Option<TenantName>,
        after: Option<Value>,
        outcome: AuditOutcome,
    ) -> bool {
        let queue = if self.guest.is_some() { &self.tenants } else { &self.operators };
        queue.try_send(self.asked(Command::Note { verb, tenant, after, outcome })).is_ok()
    }
    /// The same for what an operator must not get without a row: waits until the owner has room for it.
    ///
    /// # Errors
    /// [`OpError::Closed`].
    pub(crate) async fn note_surely(&self, verb: &'static str, outcome: AuditOutcome) -> Result<(), OpError> {
        let note = Command::Note { verb, tenant: None, after: None, outcome };
        self.operators.send(self.asked(note)).await.map_err(|_| OpError::Closed)
    }
    /// Who changed what.
    ///
    /// # Errors
    /// [`OpError::CannotRead`].
    pub async fn audit(&self, query: Query) -> Result<Vec<AuditRow>, OpError> {
        self.ask(|reply| Command::Audit { query, reply }).await
    }
    /// State of the daemon.
    pub async fn status(&self) -> Result<DaemonStatus, OpError> {
        self.ask(|reply| Command::Status { reply }).await
    }
    /// What a pass would do for a tenant now; nothing is done.
    pub async fn plan(&self, name: TenantName) -> Result<TenantPlan, OpError> {
        self.ask(|reply| Command::Plan { name, reply }).await
    }
    /// What is so for one tenant.
    pub async fn tenant_status(&self, name: TenantName) -> Result<TenantStatus, OpError> {
        self.ask(|reply| Command::TenantStatus { name, reply }).await
    }
    /// Path of a service's log file.
    pub async fn log_path(&self, name: TenantName, service: TenantName) -> Result<std::path::PathBuf, OpError> {
        self.ask(|reply| Command::LogPath { name, service, reply }).await
    }
}
