//! From a service as it is desired to the program that init runs: a command as it was given, or a rendered template.

use std::path::{Path, PathBuf};

use stackmap::Invalid;
use tenant_init::protocol::ServiceSpec;

use crate::model::{ServiceRequest, Tenant};
use crate::templates::{self, Context, Rendered, TemplateError, WriteError};

/// Why a service cannot be as it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The template or one of its settings.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A rendered file could not be written.
    #[error("cannot write the service's files")]
    Write(#[from] WriteError),
}

impl ServiceError {
    /// As a refusal that names the field, where the caller can mend it.
    pub fn invalid(&self) -> Option<Invalid> {
        match self {
            Self::Template(error) => Some(error.invalid()),
            Self::Write(_) => None,
        }
    }
}

/// Where services' files lie: a tenant's directory and the operator's own templates.
#[derive(Debug, Clone)]
pub struct Places {
    /// Directory of the tenant's files.
    pub tenant: PathBuf,
    /// Directory of the operator's templates.
    pub templates: PathBuf,
}

impl Places {
    fn of(&self, service: &ServiceRequest) -> PathBuf {
        self.tenant.join("services").join(service.name.as_str())
    }
}

/// What init is told to run; the same request gives the same answer, so that it can be compared with what runs.
pub fn spec(tenant: &Tenant, service: &ServiceRequest, places: &Places) -> Result<ServiceSpec, ServiceError> {
    let (argv, cwd) = match render(tenant, service, places)? {
        Some(rendered) => (rendered.argv, Some(places.of(service))),
        None => (service.command.clone(), None),
    };
    Ok(ServiceSpec { name: service.name.to_string(), argv, cwd, ..ServiceSpec::default() })
}

/// Write what a template's service reads, owned by the tenant.
pub fn write(tenant: &Tenant, service: &ServiceRequest, places: &Places) -> Result<(), ServiceError> {
    if let Some(rendered) = render(tenant, service, places)? {
        templates::write_files(&rendered, &places.of(service), tenant.gid.get())?;
    }
    Ok(())
}

fn render(tenant: &Tenant, service: &ServiceRequest, places: &Places) -> Result<Option<Rendered>, ServiceError> {
    let Some(name) = &service.template else { return Ok(None) };
    let template = templates::find(&places.templates, name)?;
    template.check_installed(name)?;
    let address = tenant.addresses.first().map_or(std::net::Ipv4Addr::UNSPECIFIED.into(), |a| a.addr());
    let context = Context { dir: places.of(service), tenant: tenant.name.clone(), address };
    Ok(Some(templates::render(&template, &service.set, &context)?))
}

/// Remove what a service's template wrote.
pub fn remove(service: &str, tenant_files: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(tenant_files.join("services").join(service)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
