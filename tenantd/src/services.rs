//! From a service as it is desired to what init is told: a command as it was given, or a rendered template.

use std::path::{Path, PathBuf};

use stackmap::Invalid;
use tenant_init::service::{Directory, ServiceFile, ServiceSpec};

use crate::model::{ServiceRequest, Tenant};
use crate::templates::{self, Context, Rendered, TemplateError};

/// Why a service cannot be as it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The template or one of its settings.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

impl ServiceError {
    /// As a refusal that names the field.
    pub fn invalid(&self) -> Invalid {
        match self {
            Self::Template(error) => error.invalid(),
        }
    }
}

/// Directory of a service's files in the tenant.
fn home(service: &ServiceRequest) -> PathBuf {
    Path::new("/srv").join(service.name.as_str())
}

/// What init is told to run; the same request gives the same answer, so that it can be compared with what runs.
///
/// # Errors
/// The template, or a value of it.
pub fn spec(tenant: &Tenant, service: &ServiceRequest, templates: &Path) -> Result<ServiceSpec, ServiceError> {
    let mut spec = ServiceSpec { name: service.name.to_string(), ..ServiceSpec::default() };
    let Some(rendered) = render(tenant, service, templates)? else {
        spec.argv = service.command.clone();
        return Ok(spec);
    };
    let dir = home(service);
    let inside = |path: &Path| dir.join(path).to_string_lossy().into_owned();
    spec.argv = rendered.argv;
    spec.directories.push(Directory { path: inside(Path::new("")), mode: None, user: None, group: None });
    for (path, mode) in &rendered.dirs {
        spec.directories.push(Directory { path: inside(path), mode: Some(*mode), user: None, group: None });
    }
    for file in rendered.files {
        spec.files.push(ServiceFile {
            path: inside(&file.path),
            content: file.content,
            mode: Some(file.mode),
            user: None,
            group: None,
            keep: false,
        });
    }
    spec.cwd = Some(dir);
    Ok(spec)
}

fn render(tenant: &Tenant, service: &ServiceRequest, templates: &Path) -> Result<Option<Rendered>, ServiceError> {
    let Some(name) = &service.template else { return Ok(None) };
    let template = templates::find(templates, name)?;
    template.check_installed(name)?;
    let address = tenant.addresses.first().map_or(std::net::Ipv4Addr::UNSPECIFIED.into(), |a| a.addr());
    let context = Context { dir: home(service), tenant: tenant.name.clone(), address };
    Ok(Some(templates::render(&template, &service.set, &context)?))
}
