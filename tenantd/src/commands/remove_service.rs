//! `tenantd remove-service`: stop and forget a service.

use clap::Args;
use hyper::Method;
use stackmap::TenantName;

use super::add_service::service_name;
use super::{Context, Failure};

/// Arguments of `remove-service`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd remove-service acme web")]
pub struct RemoveService {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// Service
    #[arg(value_name = "SERVICE", value_parser = service_name)]
    service: TenantName,
}

/// Stops and forgets the service.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &RemoveService, cx: &Context) -> Result<(), Failure> {
    let path = format!("/v1/tenants/{}/services/{}", args.name, args.service);
    cx.client.call(Method::DELETE, &path, None)?;
    cx.done(&format!("service {} of {} removed", args.service, args.name))
}
