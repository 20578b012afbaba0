//! Services of a tenant: add, remove, start, stop, restart, reload.
//!
//! A server may take its time until it is ready, and a bad one for ever; so the owner only looks whether what is asked
//! is allowed, and a task of its own talks to the tenant's init. It comes back with [`Done`].

use std::collections::BTreeSet;

use stackmap::{Invalid, TenantName};
use tenant_init::client::ClientError;
use tenant_init::protocol::{Refusal, RefusalKind};

use super::errors::half_made;
use super::stored::{Doing, Ended};
use super::{Owner, answer};
use crate::control::{OpError, Reply};
use crate::fault;
use crate::kernel::{Kernel, ServiceJob};
use crate::model::*;
use crate::plan::service_of;
use crate::world::{StepError, Verb};

/// Most services of one tenant that are on their way at the same time.
const AT_ONCE: usize = 4;

/// What came of a job.
#[derive(Debug)]
pub(crate) struct Done {
    tenant: TenantName,
    service: ServiceRequest,
    verb: Verb,
    /// To be recorded when it went well.
    add: bool,
    doing: Doing,
    result: Result<(), OpError>,
    reply: Asked,
}

/// Who waits for the end of a job.
#[derive(Debug)]
enum Asked {
    /// What the service does then.
    Status(Reply<ServiceStatus>),
    /// That it is gone.
    Gone(Reply<()>),
}

impl Asked {
    fn refuse(self, error: OpError) -> Ended {
        match self {
            Self::Status(reply) => answer(reply, Err(error)),
            Self::Gone(reply) => answer(reply, Err(error)),
        }
    }
}

impl<K: Kernel> Owner<K> {
    pub(super) fn add_service(
        &mut self,
        name: &TenantName,
        service: ServiceRequest,
        reply: Reply<ServiceStatus>,
    ) -> Ended {
        match self.may_add(name, &service) {
            // Started before it is recorded: a command that cannot be run is refused and nothing is changed.
            Ok(job) => self.begin(name, service, job, true, Asked::Status(reply)),
            Err(error) => answer(reply, Err(error)),
        }
    }

    fn may_add(&self, name: &TenantName, service: &ServiceRequest) -> Result<K::Job, OpError> {
        let tenant = self.changeable(name)?;
        service.check()?;
        let busy = self.starting.get(name).is_some_and(|names| names.contains(&service.name));
        let rule = match service_of(tenant, &service.name) {
            _ if busy => Some(format!("it is on its way in tenant {name}")),
            Some(there) if there == service => None,
            Some(_) => Some(format!("tenant {name} has a service of this name that runs something else")),
            None => None,
        };
        if let Some(rule) = rule {
            return Err(OpError::Conflict { field: "name".into(), value: service.name.to_string(), rule });
        }
        self.kernel.job(tenant, service, Verb::Start).map_err(|e| service_refused(name, service, e))
    }

    pub(super) fn act_on_service(
        &mut self,
        name: &TenantName,
        service: &TenantName,
        verb: Verb,
        reply: Reply<ServiceStatus>,
    ) -> Ended {
        self.act(name, service, verb, Asked::Status(reply))
    }

    /// Stopped and forgotten by init before it is struck out: killed in between, it is started again.
    pub(super) fn remove_service(&mut self, name: &TenantName, service: &TenantName, reply: Reply<()>) -> Ended {
        self.act(name, service, Verb::Remove, Asked::Gone(reply))
    }

    fn act(&mut self, name: &TenantName, service: &TenantName, verb: Verb, reply: Asked) -> Ended {
        let found = self.changeable(name).and_then(|tenant| {
            let found = service_of(tenant, service).cloned();
            let found = found.ok_or_else(|| OpError::Unknown { what: "service", name: service.to_string() })?;
            let job = self.kernel.job(tenant, &found, verb).map_err(|e| service_refused(name, &found, e))?;
            Ok((found, job))
        });
        match found {
            Ok((found, job)) => self.begin(name, found, job, false, reply),
            Err(error) => reply.refuse(error),
        }
    }

    /// Lets a task do it.
    fn begin(&mut self, name: &TenantName, service: ServiceRequest, job: K::Job, add: bool, reply: Asked) -> Ended {
        let names: &mut BTreeSet<TenantName> = self.starting.entry(name.clone()).or_default();
        if names.len() >= AT_ONCE || !names.insert(service.name.clone()) {
            let rule = format!("tenant {name} has it or {AT_ONCE} other services on their way; wait for them");
            let value = service.name.to_string();
            return reply.refuse(OpError::Conflict { field: "service".into(), value, rule });
        }
        let (handle, tenant, doing, verb) = (self.handle.clone(), name.clone(), self.doing.clone(), job.verb());
        tokio::spawn(async move {
            let result = job.run().await.map_err(|error| service_refused(&tenant, &service, error));
            handle.service_done(Done { tenant, service, verb, add, doing, result, reply }).await;
        });
        Ended::Later
    }

    /// A task has come back.
    pub(super) async fn service_done(&mut self, done: Done) -> Ended {
        let Done { tenant, service, verb, add, doing, result, reply } = done;
        if let Some(names) = self.starting.get_mut(&tenant) {
            names.remove(&service.name);
            if names.is_empty() {
                self.starting.remove(&tenant);
            }
        }
        self.doing = doing;
        fault::point("service.done");
        let name = service.name.clone();
        let result = match result {
            Ok(()) if add => self.enlist(&tenant, service).await,
            Ok(()) if verb == Verb::Remove => self.strike(&tenant, &name).await,
            other => other,
        };
        if result.is_ok() {
            let (kind, detail) = match verb {
                Verb::Stop => ("service-exited", name.to_string()),
                Verb::Remove => ("service-exited", format!("{name} removed")),
                _ => ("service-started", name.to_string()),
            };
            self.tell(kind, Some(&tenant), detail);
        }
        match (reply, result) {
            (reply, Err(error)) => reply.refuse(error),
            (Asked::Gone(reply), Ok(())) => answer(reply, Ok(())),
            (Asked::Status(reply), Ok(())) => answer(reply, self.service_status(&tenant, &name).await),
        }
    }

    async fn enlist(&mut self, name: &TenantName, service: ServiceRequest) -> Result<(), OpError> {
        let asked = service.name.clone();
        // What it was asked for may have changed while it started.
        self.changeable(name)?;
        let recorded = self
            .change(name, move |tenant| {
                tenant.services.retain(|s| s.name != service.name);
                tenant.services.push(service);
                Ok(())
            })
            .await;
        match recorded {
            Err(error @ OpError::Failed { step: "store", .. }) => {
                let _ = self.kernel.stop_service(name, &asked).await;
                Err(error)
            }
            // The service runs and is recorded; what else is wrong with the tenant is told by its status.
            _ => Ok(()),
        }
    }

    async fn strike(&mut self, name: &TenantName, service: &TenantName) -> Result<(), OpError> {
        let gone = service.clone();
        let struck = self.change(name, move |tenant| {
            tenant.services.retain(|s| s.name != gone);
            Ok(())
        });
        struck.await.map(drop)
    }

    pub(super) fn templates(&self) -> Vec<TemplateView> {
        crate::templates::views(&self.kernel.templates())
    }

    pub(super) fn template(&self, name: &str) -> Result<TemplateView, OpError> {
        Ok(crate::templates::view(&self.kernel.templates(), name).map_err(|error| error.invalid())?)
    }
}

/// A service that could not be started: what the caller can mend is told as a field, everything else as a failed step.
pub(super) fn service_refused(name: &TenantName, service: &ServiceRequest, error: StepError) -> OpError {
    match error {
        StepError::Init(ClientError::Refused(refusal)) => refused(service, &refusal).into(),
        StepError::Service(error) => error.invalid().into(),
        other => half_made(name, "service", &other),
    }
}

fn refused(service: &ServiceRequest, refusal: &Refusal) -> Invalid {
    let mut rule = refusal.explained();
    if let (RefusalKind::Command, Some(template)) = (refusal.kind, &service.template) {
        rule = format!("{rule}; tenantd template show {template} names its package");
    }
    Invalid::new(refusal.field.clone(), &refusal.value, rule)
}
