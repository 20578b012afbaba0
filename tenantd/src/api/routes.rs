//! `/v1/tenants/{name}/routes`: routes beyond those of addresses and tunnels.

use axum::Json;
use axum::extract::State;
use stackmap::{Invalid, IpNet, parse_prefix};

use super::caller::Caller;
use super::extract::{self, Body, Part};
use super::inside::seen;
use super::openapi::Refused;
use crate::change::Change;
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
    Caller(handle): Caller,
    extract::Tenant(name): extract::Tenant,
    Body(routes): Body<Vec<Route>>,
) -> Result<Json<Tenant>, Problem> {
    check_routes(&routes)?;
    Ok(Json(seen(&handle, handle.change(name, Change::Routes(routes)).await?)))
}

/// Add a route, or give one that is there another next hop
#[utoipa::path(post, path = "/v1/tenants/{name}/routes", tag = "tenants", operation_id = "add_route",
    params(("name" = String, Path, description = "Tenant")),
    request_body = Route,
    responses((status = 200, description = "The tenant as it is now", body = Tenant), Refused))]
pub(super) async fn add(
    Caller(handle): Caller,
    extract::Tenant(name): extract::Tenant,
    Body(route): Body<Route>,
) -> Result<Json<Tenant>, Problem> {
    check_routes(std::slice::from_ref(&route))?;
    Ok(Json(seen(&handle, handle.change(name, Change::AddRoute(route)).await?)))
}

/// `{to}` of the path.
pub(super) struct To(IpNet);

impl Part for To {
    const NAME: &'static str = "to";
    fn parse(text: &str) -> Result<Self, Invalid> {
        parse_prefix(text).map(Self).map_err(|e| e.for_field("to"))
    }
}

/// Take the route to a destination away
#[utoipa::path(delete, path = "/v1/tenants/{name}/routes/{to}", tag = "tenants", operation_id = "remove_route",
    params(
        ("name" = String, Path, description = "Tenant"),
        ("to" = String, Path, description = "Destination prefix, percent-encoded")
    ),
    responses((status = 200, description = "The tenant as it is now", body = Tenant), Refused))]
pub(super) async fn remove(
    Caller(handle): Caller,
    extract::Of(name, To(to)): extract::Of<To>,
) -> Result<Json<Tenant>, Problem> {
    Ok(Json(seen(&handle, handle.change(name, Change::RemoveRoute(to)).await?)))
}
