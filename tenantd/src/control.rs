//! The handle through which the API talks to the one task that owns all tenant state.

use stackmap::{Invalid, TenantName, TunnelSpec};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::model::*;

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
    /// All tenants, sorted by name.
    List { reply: Reply<Vec<Tenant>> },
    /// One tenant.
    Show { name: TenantName, reply: Reply<Tenant> },
    /// Put one more tunnel, or change the prefixes of one.
    AddTunnel { name: TenantName, tunnel: TunnelSpec, reply: Reply<Tenant> },
    /// Take a tunnel away.
    RemoveTunnel { name: TenantName, tunnel: TunnelSpec, reply: Reply<Tenant> },
    /// Replace the addresses.
    SetAddresses { name: TenantName, addresses: Vec<ipnet::IpNet>, reply: Reply<Tenant> },
    /// Replace the routes.
    SetRoutes { name: TenantName, routes: Vec<Route>, reply: Reply<Tenant> },
    /// Add and start a service.
    AddService { name: TenantName, service: Box<ServiceRequest>, reply: Reply<ServiceStatus> },
    /// Stop and forget a service.
    RemoveService { name: TenantName, service: TenantName, reply: Reply<()> },
    /// Stop and start a service.
    RestartService { name: TenantName, service: TenantName, reply: Reply<ServiceStatus> },
    /// The tables.
    Map { reply: Reply<MapView> },
    /// The daemon.
    Status { reply: Reply<DaemonStatus> },
    /// One tenant's status.
    TenantStatus { name: TenantName, reply: Reply<TenantStatus> },
    /// Where a service's log is.
    LogPath { name: TenantName, service: TenantName, reply: Reply<std::path::PathBuf> },
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, OpError>>;

/// A cheap, cloneable way to the owner task.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    events: broadcast::Sender<Event>,
}

impl Handle {
    /// A handle whose commands arrive at the receiver that is returned beside it.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Command>) {
        let (commands, inbox) = mpsc::channel(1024);
        let (events, _) = broadcast::channel(1024);
        (Self { commands, events }, inbox)
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
        self.commands.send(make(reply)).await.map_err(|_| OpError::Closed)?;
        answer.await.map_err(|_| OpError::Closed)?
    }

    /// Make a tenant; returns when its stack has answered a probe through its port. With `dry_run` only plans.
    pub async fn add_tenant(&self, request: TenantRequest, dry_run: bool) -> Result<Added, OpError> {
        self.ask(|reply| Command::AddTenant { request: Box::new(request), dry_run, reply }).await
    }
    /// End a tenant and everything of it; refused while its processes run unless `force`.
    pub async fn remove_tenant(&self, name: TenantName, force: bool) -> Result<(), OpError> {
        self.ask(|reply| Command::RemoveTenant { name, force, reply }).await
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
    /// Replace the server's addresses in the closed network.
    pub async fn set_addresses(&self, name: TenantName, addresses: Vec<ipnet::IpNet>) -> Result<Tenant, OpError> {
        self.ask(|reply| Command::SetAddresses { name, addresses, reply }).await
    }
    /// Replace the tenant's further routes.
    pub async fn set_routes(&self, name: TenantName, routes: Vec<Route>) -> Result<Tenant, OpError> {
        self.ask(|reply| Command::SetRoutes { name, routes, reply }).await
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
        self.ask(|reply| Command::RestartService { name, service, reply }).await
    }
    /// The three tables.
    pub async fn map(&self) -> Result<MapView, OpError> {
        self.ask(|reply| Command::Map { reply }).await
    }
    /// State of the daemon.
    pub async fn status(&self) -> Result<DaemonStatus, OpError> {
        self.ask(|reply| Command::Status { reply }).await
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
