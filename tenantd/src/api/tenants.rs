//! `/v1/tenants` and `/v1/tenants/{name}`.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::caller::Caller;
use super::extract::{self, Body, flag};
use super::inside::seen;
use super::openapi::Refused;
use crate::control::Handle;
use crate::model::{Added, Tenant, TenantRequest};
use crate::problem::Problem;

/// All tenants, sorted by name
#[utoipa::path(get, path = "/v1/tenants", tag = "tenants", operation_id = "list_tenants",
    responses((status = 200, description = "All tenants", body = Vec<Tenant>), Refused))]
pub(super) async fn list(State(handle): State<Handle>) -> Result<Json<Vec<Tenant>>, Problem> {
    // From inside, the one whose API it is.
    Ok(Json(match handle.tenant() {
        Some(name) => vec![seen(&handle, handle.show(name.clone()).await?)],
        None => handle.list().await?,
    }))
}

/// Make a tenant; answers when its stack has answered a probe through its port
#[utoipa::path(post, path = "/v1/tenants", tag = "tenants", operation_id = "add_tenant",
    params(("dry_run" = Option<bool>, Query, description = "Only plan: check everything, change nothing")),
    request_body = TenantRequest,
    responses(
        (status = 201, description = "Made; how long each step took", body = Added),
        (status = 200, description = "Dry run: the plan", body = Added),
        Refused
    ))]
pub(super) async fn add(
    Caller(handle): Caller,
    RawQuery(query): RawQuery,
    Body(request): Body<TenantRequest>,
) -> Result<Response, Problem> {
    let dry_run = flag(query.as_deref(), "dry_run")?;
    request.check()?;
    let added = handle.add_tenant(request, dry_run).await?;
    if dry_run {
        return Ok(Json(added).into_response());
    }
    let place = format!("/v1/tenants/{}", added.tenant.name);
    Ok((StatusCode::CREATED, [(header::LOCATION, place)], Json(added)).into_response())
}

/// One tenant
#[utoipa::path(get, path = "/v1/tenants/{name}", tag = "tenants", operation_id = "show_tenant",
    params(("name" = String, Path, description = "Tenant")),
    responses((status = 200, description = "The tenant", body = Tenant), Refused))]
pub(super) async fn show(
    State(handle): State<Handle>,
    extract::Tenant(name): extract::Tenant,
) -> Result<Json<Tenant>, Problem> {
    Ok(Json(seen(&handle, handle.show(name).await?)))
}

/// End a tenant and everything of it
#[utoipa::path(delete, path = "/v1/tenants/{name}", tag = "tenants", operation_id = "remove_tenant",
    params(
        ("name" = String, Path, description = "Tenant"),
        ("force" = Option<bool>, Query, description = "End its processes too; without it, running processes refuse")
    ),
    responses((status = 204, description = "Gone"), Refused))]
pub(super) async fn remove(
    Caller(handle): Caller,
    extract::Tenant(name): extract::Tenant,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Problem> {
    handle.remove_tenant(name, flag(query.as_deref(), "force")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// End everything that runs in a tenant, its services in good order, and start it again
#[utoipa::path(post, path = "/v1/tenants/{name}/restart", tag = "tenants", operation_id = "restart_tenant",
    params(("name" = String, Path, description = "Tenant")),
    responses((status = 200, description = "Started again", body = Tenant), Refused))]
pub(super) async fn restart(
    Caller(handle): Caller,
    extract::Tenant(name): extract::Tenant,
) -> Result<Json<Tenant>, Problem> {
    Ok(Json(handle.restart_tenant(name).await?))
}
