//! From a service as it is desired to the program that init runs: a command as it was given, or a rendered template.

use std::path::Path;

use stackmap::Invalid;
use tenant_init::protocol::ServiceSpec;

use crate::model::{ServiceRequest, Tenant};

/// What init is told to run; the same request gives the same answer, so that it can be compared with what runs.
pub fn spec(tenant: &Tenant, service: &ServiceRequest, files: &Path) -> Result<ServiceSpec, Invalid> {
    let _ = (tenant, files);
    Ok(ServiceSpec {
        name: service.name.to_string(),
        argv: service.command.clone(),
        env: Default::default(),
        cwd: None,
    })
}
