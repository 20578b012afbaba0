//! `tenantd stop-service`: stop a service until it or its tenant is started again.

use clap::Args;
use hyper::Method;
use stackmap::TenantName;

use super::add_service::service_name;
use super::{Context, Failure, status};
use crate::model::ServiceStatus;

/// Arguments of `stop-service`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd stop-service acme web")]
pub struct StopService {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// Service
    #[arg(value_name = "SERVICE", value_parser = service_name)]
    service: TenantName,
}

/// Stops the service.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &StopService, cx: &Context) -> Result<(), Failure> {
    let path = format!("/v1/tenants/{}/services/{}/stop", args.name, args.service);
    let answer = cx.client.call(Method::POST, &path, None)?;
    cx.say(&answer, |service: ServiceStatus| format!("service {}\n", status::service_words(&service)))
}
