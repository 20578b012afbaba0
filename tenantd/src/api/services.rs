//! `/v1/tenants/{name}/services`: processes that are kept running inside a tenant.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::caller::Caller;
use super::extract::{self, Body};
use super::openapi::Refused;
use crate::control::{Handle, OpError};
use crate::model::{ServiceRequest, ServiceStatus};
use crate::problem::Problem;
use crate::world::Verb;

/// Services of a tenant and what they do now
#[utoipa::path(get, path = "/v1/tenants/{name}/services", tag = "services", operation_id = "list_services",
    params(("name" = String, Path, description = "Tenant")),
    responses((status = 200, description = "Its services", body = Vec<ServiceStatus>), Refused))]
pub(super) async fn list(
    State(handle): State<Handle>,
    extract::Tenant(name): extract::Tenant,
) -> Result<Json<Vec<ServiceStatus>>, Problem> {
    Ok(Json(handle.tenant_status(name).await?.services))
}

/// Add and start a service
#[utoipa::path(post, path = "/v1/tenants/{name}/services", tag = "services", operation_id = "add_service",
    params(("name" = String, Path, description = "Tenant")),
    request_body = ServiceRequest,
    responses((status = 201, description = "Started", body = ServiceStatus), Refused))]
pub(super) async fn add(
    Caller(handle): Caller,
    extract::Tenant(name): extract::Tenant,
    Body(service): Body<ServiceRequest>,
) -> Result<Response, Problem> {
    service.check()?;
    let place = format!("/v1/tenants/{name}/services/{}", service.name);
    let status = handle.add_service(name, service).await?;
    Ok((StatusCode::CREATED, [(header::LOCATION, place)], Json(status)).into_response())
}

/// What one service does now
#[utoipa::path(get, path = "/v1/tenants/{name}/services/{service}", tag = "services", operation_id = "show_service",
    params(("name" = String, Path, description = "Tenant"), ("service" = String, Path, description = "Service")),
    responses((status = 200, description = "The service", body = ServiceStatus), Refused))]
pub(super) async fn show(
    State(handle): State<Handle>,
    extract::Service(name, service): extract::Service,
) -> Result<Json<ServiceStatus>, Problem> {
    let services = handle.tenant_status(name).await?.services;
    let found = services.into_iter().find(|s| s.name == service);
    Ok(Json(found.ok_or_else(|| OpError::Unknown { what: "service", name: service.to_string() })?))
}

/// Stop and forget a service
#[utoipa::path(delete, path = "/v1/tenants/{name}/services/{service}", tag = "services", operation_id = "remove_service",
    params(("name" = String, Path, description = "Tenant"), ("service" = String, Path, description = "Service")),
    responses((status = 204, description = "Gone"), Refused))]
pub(super) async fn remove(
    Caller(handle): Caller,
    extract::Service(name, service): extract::Service,
) -> Result<StatusCode, Problem> {
    handle.remove_service(name, service).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Stop and start a service
#[utoipa::path(post, path = "/v1/tenants/{name}/services/{service}/restart", tag = "services", operation_id = "restart_service",
    params(("name" = String, Path, description = "Tenant"), ("service" = String, Path, description = "Service")),
    responses((status = 200, description = "Started again", body = ServiceStatus), Refused))]
pub(super) async fn restart(
    Caller(handle): Caller,
    extract::Service(name, service): extract::Service,
) -> Result<Json<ServiceStatus>, Problem> {
    Ok(Json(handle.restart_service(name, service).await?))
}

/// Start a service that was stopped
#[utoipa::path(post, path = "/v1/tenants/{name}/services/{service}/start", tag = "services", operation_id = "start_service",
    params(("name" = String, Path, description = "Tenant"), ("service" = String, Path, description = "Service")),
    responses((status = 200, description = "Started", body = ServiceStatus), Refused))]
pub(super) async fn start(
    Caller(handle): Caller,
    extract::Service(name, service): extract::Service,
) -> Result<Json<ServiceStatus>, Problem> {
    Ok(Json(handle.act_on_service(name, service, Verb::Start).await?))
}

/// Stop a service until it or its tenant is started again
#[utoipa::path(post, path = "/v1/tenants/{name}/services/{service}/stop", tag = "services", operation_id = "stop_service",
    params(("name" = String, Path, description = "Tenant"), ("service" = String, Path, description = "Service")),
    responses((status = 200, description = "Stopped", body = ServiceStatus), Refused))]
pub(super) async fn stop(
    Caller(handle): Caller,
    extract::Service(name, service): extract::Service,
) -> Result<Json<ServiceStatus>, Problem> {
    Ok(Json(handle.act_on_service(name, service, Verb::Stop).await?))
}

/// Tell a service to read its files again (SIGHUP)
#[utoipa::path(post, path = "/v1/tenants/{name}/services/{service}/reload", tag = "services", operation_id = "reload_service",
    params(("name" = String, Path, description = "Tenant"), ("service" = String, Path, description = "Service")),
    responses((status = 200, description = "Told", body = ServiceStatus), Refused))]
pub(super) async fn reload(
    Caller(handle): Caller,
    extract::Service(name, service): extract::Service,
) -> Result<Json<ServiceStatus>, Problem> {
    Ok(Json(handle.act_on_service(name, service, Verb::Reload).await?))
}
