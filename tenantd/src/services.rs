//! From a service as it is desired to what init is told: a command as it was given, or a rendered template.

mod holder;

use std::path::{Path, PathBuf};

use stackmap::Invalid;
use tenant_init::service::ServiceSpec;

use crate::model::{ServiceRequest, Tenant};
use crate::templates::{self, Context, Template, TemplateError};
pub use holder::holder;

/// Why a service cannot be as it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The template or one of its settings.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The program of the template is not in the tenant's root.
    #[error("{program} is not installed in image {image}; {}", advice(package.as_deref(), image))]
    NotInstalled {
        /// The template.
        template: String,
        /// The program.
        program: PathBuf,
        /// Debian package that has it.
        package: Option<String>,
        /// The tenant's image.
        image: String,
    },
}

impl ServiceError {
    /// As a refusal that names the field.
    pub fn invalid(&self) -> Invalid {
        match self {
            Self::Template(error) => error.invalid(),
            Self::NotInstalled { template, .. } => Invalid::new("template", template, self.to_string()),
        }
    }
}

fn advice(package: Option<&str>, image: &str) -> String {
    match package {
        Some(package) if image == crate::images::HOST => {
            format!("apt-get install {package} on this machine, then restart-tenant")
        }
        Some(package) => format!("apt-get install {package} inside the tenant"),
        None => "install it first".to_owned(),
    }
}

/// What init is told to run; the same request gives the same answer, so that it can be compared with what runs.
///
/// # Errors
/// The template, or a value of it.
pub fn spec(tenant: &Tenant, service: &ServiceRequest, templates: &Path) -> Result<ServiceSpec, ServiceError> {
    let mut spec = match template(service, templates)? {
        Some(template) => {
            let address = tenant.addresses.first().map_or(std::net::Ipv4Addr::UNSPECIFIED.into(), |a| a.addr());
            let context = Context { service: service.name.clone(), tenant: tenant.name.clone(), address };
            templates::render(&template, &service.set, &context)?
        }
        None => ServiceSpec { name: service.name.to_string(), argv: service.command.clone(), ..ServiceSpec::default() },
    };
    service.options.apply(&mut spec);
    Ok(spec)
}

/// The service's template, if it has one.
///
/// # Errors
/// It is unknown or broken.
pub fn template(service: &ServiceRequest, templates: &Path) -> Result<Option<Template>, ServiceError> {
    let found = service.template.as_ref().map(|name| templates::find(templates, name));
    Ok(found.transpose()?)
}

/// The refusal of a template whose program is not in the tenant's image.
#[must_use]
pub fn not_installed(tenant: &Tenant, service: &ServiceRequest, template: &Template) -> ServiceError {
    ServiceError::NotInstalled {
        template: service.template.clone().unwrap_or_default(),
        program: template.needs.clone(),
        package: template.package.clone(),
        image: tenant.image.clone(),
    }
}
