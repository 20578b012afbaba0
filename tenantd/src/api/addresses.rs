//! `/v1/tenants/{name}/addresses`: the server's addresses inside a closed network.

use axum::Json;
use axum::extract::State;
use stackmap::IpNet;

use super::extract::{self, Body};
use super::openapi::Refused;
use crate::control::Handle;
use crate::model::Tenant;
use crate::problem::Problem;
use crate::rules::check_address_list;

/// Addresses of a tenant
#[utoipa::path(get, path = "/v1/tenants/{name}/addresses", tag = "tenants", operation_id = "list_addresses",
    params(("name" = String, Path, description = "Tenant")),
    responses((status = 200, description = "Its addresses in CIDR form", body = Vec<String>), Refused))]
pub(super) async fn list(
    State(handle): State<Handle>,
    extract::Tenant(name): extract::Tenant,
) -> Result<Json<Vec<IpNet>>, Problem> {
    Ok(Json(handle.show(name).await?.addresses))
}

/// Replace the addresses
#[utoipa::path(put, path = "/v1/tenants/{name}/addresses", tag = "tenants", operation_id = "set_addresses",
    params(("name" = String, Path, description = "Tenant")),
    request_body = Vec<String>,
    responses((status = 200, description = "The tenant as it is now", body = Tenant), Refused))]
pub(super) async fn set(
    State(handle): State<Handle>,
    extract::Tenant(name): extract::Tenant,
    Body(addresses): Body<Vec<IpNet>>,
) -> Result<Json<Tenant>, Problem> {
    check_address_list(&addresses)?;
    Ok(Json(handle.set_addresses(name, addresses).await?))
}
