//! `/v1/tenants/{name}/routes`: routes beyond those of addresses and tunnels.

use axum::Json;
use axum::extract::State;

use super::extract::{self, Body};
use super::openapi::Refused;
use crate::control::Handle;
use crate::model::{Route, Tenant};
use crate::problem::Problem;
use crate::rules::check_routes;

/// Further routes of a tenant
#[utoipa::path(get, path = "/v1/tenants/{name}/routes", tag = "tenants", operation_id = "list_routes",
    params(("name" = String, Path, description = "Tenant")),
    responses((status = 200, description = "Its further routes", body = Vec<Route>), Refused))]
pub(super) async fn list(
    State(handle): State<Handle>,
    extract::Tenant(name): extract::Tenant,
) -> Result<Json<Vec<Route>>, Problem> {
    Ok(Json(handle.show(name).await?.routes))
}

/// Replace the further routes
#[utoipa::path(put, path = "/v1/tenants/{name}/routes", tag = "tenants", operation_id = "set_routes",
    params(("name" = String, Path, description = "Tenant")),
    request_body = Vec<Route>,
    responses((status = 200, description = "The tenant as it is now", body = Tenant), Refused))]
pub(super) async fn set(
    State(handle): State<Handle>,
    extract::Tenant(name): extract::Tenant,
    Body(routes): Body<Vec<Route>>,
) -> Result<Json<Tenant>, Problem> {
    check_routes(&routes)?;
    Ok(Json(handle.set_routes(name, routes).await?))
}
