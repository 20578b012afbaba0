//! Services of a tenant: add, remove, restart.

use stackmap::{Invalid, TenantName};

use super::Owner;
use super::errors::half_made;
use crate::control::OpError;
use crate::model::*;
use crate::plan::service_of;
use crate::world::StepError;

impl Owner {
    pub(super) async fn add_service(
        &mut self,
        name: &TenantName,
        service: ServiceRequest,
    ) -> Result<ServiceStatus, OpError> {
        let tenant = self.changeable(name)?.clone();
        service.check()?;
        match service_of(&tenant, &service.name) {
            Some(there) if *there == service => {}
            Some(_) => {
                return Err(OpError::Conflict {
                    field: "name".into(),
                    value: service.name.to_string(),
                    rule: format!("tenant {name} has a service of this name that runs something else"),
                });
            }
            None => {}
        }
        // Started before it is recorded: a command that cannot be run is refused and nothing is changed.
        self.world.start_service(&tenant, &service).await.map_err(|e| service_refused(name, e))?;
        let asked = service.name.clone();
        let recorded = self
            .change(name, move |tenant| {
                tenant.services.retain(|s| s.name != service.name);
                tenant.services.push(service);
                Ok(())
            })
            .await;
        if let Err(error @ OpError::Failed { step: "store", .. }) = recorded {
            let _ = self.world.stop_service(name, &asked).await;
            return Err(error);
        }
        self.tell("service-started", Some(name), asked.to_string());
        self.service_status(name, &asked).await
    }

    pub(super) async fn remove_service(&mut self, name: &TenantName, service: &TenantName) -> Result<(), OpError> {
        self.known_service(name, service)?;
        let gone = service.clone();
        self.change(name, move |tenant| {
            tenant.services.retain(|s| s.name != gone);
            Ok(())
        })
        .await?;
        self.tell("service-exited", Some(name), format!("{service} removed"));
        Ok(())
    }

    pub(super) async fn restart_service(
        &mut self,
        name: &TenantName,
        service: &TenantName,
    ) -> Result<ServiceStatus, OpError> {
        self.known_service(name, service)?;
        self.world.restart_service(name, service).await.map_err(|e| service_refused(name, e))?;
        self.tell("service-started", Some(name), service.to_string());
        self.service_status(name, service).await
    }

    pub(super) fn known_service(&self, name: &TenantName, service: &TenantName) -> Result<(), OpError> {
        match service_of(self.changeable(name)?, service) {
            Some(_) => Ok(()),
            None => Err(OpError::Unknown { what: "service", name: service.to_string() }),
        }
    }
}

/// A service that could not be started: what the caller can mend is told as a field, everything else as a failed step.
fn service_refused(name: &TenantName, error: StepError) -> OpError {
    match error {
        StepError::Init(tenant_init::client::ClientError::Refused(refusal)) => {
            Invalid::new(refusal.field, refusal.value, refusal.rule).into()
        }
        StepError::Service(error) => error.invalid().into(),
        other => half_made(name, "service", &other),
    }
}
