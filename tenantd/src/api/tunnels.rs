//! `/v1/tenants/{name}/tunnels`: the sites of a closed network.

use axum::Json;
use axum::extract::State;
use stackmap::TunnelSpec;

use super::caller::Caller;
use super::extract::{self, Body};
use super::openapi::{Refused, TunnelSchema};
use crate::control::Handle;
use crate::model::Tenant;
use crate::problem::Problem;

/// Tunnels of a tenant
#[utoipa::path(get, path = "/v1/tenants/{name}/tunnels", tag = "tenants", operation_id = "list_tunnels",
    params(("name" = String, Path, description = "Tenant")),
    responses((status = 200, description = "Its tunnels", body = Vec<TunnelSchema>), Refused))]
pub(super) async fn list(
    State(handle): State<Handle>,
    extract::Tenant(name): extract::Tenant,
) -> Result<Json<Vec<TunnelSpec>>, Problem> {
    Ok(Json(handle.show(name).await?.tunnels))
}

/// Add a tunnel, or change the prefixes of one that is there
#[utoipa::path(post, path = "/v1/tenants/{name}/tunnels", tag = "tenants", operation_id = "add_tunnel",
    params(("name" = String, Path, description = "Tenant")),
    request_body = TunnelSchema,
    responses((status = 200, description = "The tenant as it is now", body = Tenant), Refused))]
pub(super) async fn add(
    Caller(handle): Caller,
    extract::Tenant(name): extract::Tenant,
    Body(tunnel): Body<TunnelSpec>,
) -> Result<Json<Tenant>, Problem> {
    Ok(Json(handle.add_tunnel(name, tunnel).await?))
}

/// Take a tunnel away; its prefixes need not be said
#[utoipa::path(delete, path = "/v1/tenants/{name}/tunnels/{spec}", tag = "tenants", operation_id = "remove_tunnel",
    params(
        ("name" = String, Path, description = "Tenant"),
        ("spec" = String, Path, description = "KIND:REMOTE[,local=ADDR][,key=N], percent-encoded")
    ),
    responses((status = 200, description = "The tenant as it is now", body = Tenant), Refused))]
pub(super) async fn remove(
    Caller(handle): Caller,
    extract::Tunnel(name, tunnel): extract::Tunnel,
) -> Result<Json<Tenant>, Problem> {
    Ok(Json(handle.remove_tunnel(name, tunnel).await?))
}
