//! `PUT /v1/tenants/{name}`, a tenant as a whole, and `/v1/export`, all of them.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::caller::Caller;
use super::extract::{self, Body, flags};
use super::openapi::Refused;
use crate::audit;
use crate::control::{Handle, PutHow};
use crate::model::{DeclaredTenant, Export, Outcome, Put};
use crate::problem::Problem;

/// Bring a tenant to what is declared: make it, or change what differs
#[utoipa::path(put, path = "/v1/tenants/{name}", tag = "tenants", operation_id = "put_tenant",
    params(
        ("name" = String, Path, description = "Tenant"),
        ("dry_run" = Option<bool>, Query, description = "Only check and compare, change nothing"),
        ("replace" = Option<bool>, Query,
            description = "End it, with its files, and make it again where it cannot be changed in place")
    ),
    request_body = DeclaredTenant,
    responses(
        (status = 201, description = "Made", body = Put),
        (status = 200, description = "Changed, replaced, or so already; or what would be", body = Put),
        Refused
    ))]
pub(super) async fn put(
    Caller(handle): Caller,
    extract::Tenant(name): extract::Tenant,
    RawQuery(query): RawQuery,
    Body(tenant): Body<DeclaredTenant>,
) -> Result<Response, Problem> {
    let [dry_run, replace] = flags(query.as_deref(), ["dry_run", "replace"])?;
    tenant.check()?;
    let place = format!("/v1/tenants/{name}");
    let put: Put = handle.put(name, tenant, PutHow { dry_run, replace }).await?;
    if put.outcome == Outcome::Added && !dry_run {
        return Ok((StatusCode::CREATED, [(header::LOCATION, place)], Json(put)).into_response());
    }
    Ok(Json(put).into_response())
}

/// Every tenant as it can be declared again; passwords of services are said
#[utoipa::path(get, path = "/v1/export", tag = "tenants", operation_id = "export",
    responses((status = 200, description = "All tenants", body = Export), Refused))]
pub(super) async fn export(State(_): State<Handle>, Caller(handle): Caller) -> Result<Json<Export>, Problem> {
    let export = handle.export().await?;
    // It holds passwords: nobody takes it without a row.
    handle.note_surely("export", audit::Outcome::Done).await?;
    Ok(Json(export))
}
