//! `/v1/tenants/{name}/dns`: the name servers in a tenant's resolv.conf.

use std::net::IpAddr;

use axum::Json;
use axum::extract::State;

use super::caller::Caller;
use super::extract::{self, Body};
use super::inside::seen;
use super::openapi::Refused;
use crate::change::Change;
use crate::control::Handle;
use crate::model::Tenant;
use crate::problem::Problem;
use crate::rules::check_dns;

/// Name servers of a tenant
#[utoipa::path(get, path = "/v1/tenants/{name}/dns", tag = "tenants", operation_id = "list_dns",
    params(("name" = String, Path, description = "Tenant")),
    responses((status = 200, description = "Its name servers", body = Vec<String>), Refused))]
pub(super) async fn list(
    State(handle): State<Handle>,
    extract::Tenant(name): extract::Tenant,
) -> Result<Json<Vec<IpAddr>>, Problem> {
    Ok(Json(handle.show(name).await?.dns))
}

/// Replace the name servers
#[utoipa::path(put, path = "/v1/tenants/{name}/dns", tag = "tenants", operation_id = "set_dns",
    params(("name" = String, Path, description = "Tenant")),
    request_body = Vec<String>,
    responses((status = 200, description = "The tenant as it is now", body = Tenant), Refused))]
pub(super) async fn set(
    Caller(handle): Caller,
    extract::Tenant(name): extract::Tenant,
    Body(dns): Body<Vec<IpAddr>>,
) -> Result<Json<Tenant>, Problem> {
    check_dns(&dns)?;
    Ok(Json(seen(&handle, handle.change(name, Change::Dns(dns)).await?)))
}
