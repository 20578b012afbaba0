//! `/v1/status` and `/v1/tenants/{name}/status`: what is so, beside what was asked for.

use axum::Json;
use axum::extract::State;

use super::extract;
use super::inside::seen_status;
use super::openapi::Refused;
use crate::control::Handle;
use crate::model::{DaemonStatus, TenantStatus};
use crate::problem::Problem;

/// State of the daemon
#[utoipa::path(get, path = "/v1/status", tag = "daemon", operation_id = "status",
    responses((status = 200, description = "The daemon", body = DaemonStatus), Refused))]
pub(super) async fn daemon(State(handle): State<Handle>) -> Result<Json<DaemonStatus>, Problem> {
    Ok(Json(handle.status().await?))
}

/// State of a tenant, read from the kernel
#[utoipa::path(get, path = "/v1/tenants/{name}/status", tag = "tenants", operation_id = "tenant_status",
    params(("name" = String, Path, description = "Tenant")),
    responses((status = 200, description = "The tenant's state", body = TenantStatus), Refused))]
pub(super) async fn tenant(
    State(handle): State<Handle>,
    extract::Tenant(name): extract::Tenant,
) -> Result<Json<TenantStatus>, Problem> {
    Ok(Json(seen_status(&handle, handle.tenant_status(name).await?)))
}
