//! `/v1/tenants/{name}/filter`: what a tenant's stack lets in.

use axum::Json;
use axum::extract::State;

use super::caller::Caller;
use super::extract::{self, Body};
use super::inside::seen;
use super::openapi::Refused;
use crate::change::Change;
use crate::control::Handle;
use crate::model::{Filter, Tenant};
use crate::problem::Problem;

/// Packet filter of a tenant
#[utoipa::path(get, path = "/v1/tenants/{name}/filter", tag = "tenants", operation_id = "show_filter",
    params(("name" = String, Path, description = "Tenant")),
    responses((status = 200, description = "What its stack lets in", body = Filter), Refused))]
pub(super) async fn show(
    State(handle): State<Handle>,
    extract::Tenant(name): extract::Tenant,
) -> Result<Json<Filter>, Problem> {
    Ok(Json(handle.show(name).await?.filter))
}

/// Replace the packet filter, at once and whole
#[utoipa::path(put, path = "/v1/tenants/{name}/filter", tag = "tenants", operation_id = "set_filter",
    params(("name" = String, Path, description = "Tenant")),
    request_body = Filter,
    responses((status = 200, description = "The tenant as it is now", body = Tenant), Refused))]
pub(super) async fn set(
    Caller(handle): Caller,
    extract::Tenant(name): extract::Tenant,
    Body(filter): Body<Filter>,
) -> Result<Json<Tenant>, Problem> {
    filter.check()?;
    Ok(Json(seen(&handle, handle.change(name, Change::Filter(filter)).await?)))
}
