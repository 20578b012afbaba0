//! Services of a tenant, as its init is told about them.

use std::path::PathBuf;

use stackmap::TenantName;
use tenant_init::service::ServiceSpec;

use super::{INIT_DEADLINE, STOP_GRACE, StepError, World};
use crate::model::{ServiceRequest, Tenant};
use crate::services;

impl World {
    fn templates(&self) -> PathBuf {
        self.config.state_dir.join("templates")
    }

    pub(super) fn service_spec(&self, tenant: &Tenant, service: &ServiceRequest) -> Result<ServiceSpec, StepError> {
        Ok(services::spec(tenant, service, &self.templates())?)
    }

    /// Start a service; answers when it is ready.
    pub async fn start_service(&self, tenant: &Tenant, service: &ServiceRequest) -> Result<i32, StepError> {
        let ready = self.ask_init(&tenant.name, |c| c.hello(INIT_DEADLINE)).await?;
        if !ready.ready {
            return Err(StepError::NotReady(ready.failed.unwrap_or_default()));
        }
        let spec = self.service_spec(tenant, service)?;
        let deadline = spec.longest_start();
        self.ask_init(&tenant.name, move |c| c.start(spec, deadline)).await
    }

    /// Stop and forget a service at the tenant's init.
    pub async fn stop_service(&self, tenant: &TenantName, service: &TenantName) -> Result<(), StepError> {
        let service = service.clone();
        self.ask_init(tenant, move |c| c.remove(service.as_str(), STOP_GRACE)).await
    }

    /// Stop and start a service.
    pub async fn restart_service(&self, tenant: &TenantName, service: &TenantName) -> Result<i32, StepError> {
        let service = service.clone();
        self.ask_init(tenant, move |c| c.restart(service.as_str(), STOP_GRACE)).await
    }
}
