//! `tenantd reload-service`: tell a service to read its files again.

use clap::Args;
use hyper::Method;
use stackmap::TenantName;

use super::add_service::service_name;
use super::{Context, Failure, status};
use crate::model::ServiceStatus;

/// Arguments of `reload-service`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd reload-service acme web")]
pub struct ReloadService {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// Service
    #[arg(value_name = "SERVICE", value_parser = service_name)]
    service: TenantName,
}

/// Sends the service SIGHUP.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &ReloadService, cx: &Context) -> Result<(), Failure> {
    let path = format!("/v1/tenants/{}/services/{}/reload", args.name, args.service);
    let answer = cx.client.call(Method::POST, &path, None)?;
    cx.say(&answer, |service: ServiceStatus| format!("service {}\n", status::service_words(&service)))
}
