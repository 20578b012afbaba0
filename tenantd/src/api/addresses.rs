//! `/v1/tenants/{name}/addresses`: the server's addresses inside a closed network.

use axum::Json;
use axum::extract::State;
use stackmap::{Invalid, IpNet, parse_address};

use super::caller::Caller;
use super::extract::{self, Body, Part};
use super::inside::seen;
use super::openapi::Refused;
use crate::change::Change;
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
    Caller(handle): Caller,
    extract::Tenant(name): extract::Tenant,
    Body(addresses): Body<Vec<IpNet>>,
) -> Result<Json<Tenant>, Problem> {
    check_address_list(&addresses)?;
    Ok(Json(seen(&handle, handle.change(name, Change::Addresses(addresses)).await?)))
}

/// Add an address
#[utoipa::path(post, path = "/v1/tenants/{name}/addresses", tag = "tenants", operation_id = "add_address",
    params(("name" = String, Path, description = "Tenant")),
    request_body = String,
    responses((status = 200, description = "The tenant as it is now", body = Tenant), Refused))]
pub(super) async fn add(
    Caller(handle): Caller,
    extract::Tenant(name): extract::Tenant,
    Body(address): Body<String>,
) -> Result<Json<Tenant>, Problem> {
    let address = parse_address(&address)?;
    Ok(Json(seen(&handle, handle.change(name, Change::AddAddress(address)).await?)))
}

/// `{address}` of the path.
pub(super) struct Address(IpNet);

impl Part for Address {
    const NAME: &'static str = "address";
    fn parse(text: &str) -> Result<Self, Invalid> {
        parse_address(text).map(Self)
    }
}

/// Take an address away
#[utoipa::path(delete, path = "/v1/tenants/{name}/addresses/{address}", tag = "tenants", operation_id = "remove_address",
    params(
        ("name" = String, Path, description = "Tenant"),
        ("address" = String, Path, description = "In CIDR form, percent-encoded")
    ),
    responses((status = 200, description = "The tenant as it is now", body = Tenant), Refused))]
pub(super) async fn remove(
    Caller(handle): Caller,
    extract::Of(name, Address(address)): extract::Of<Address>,
) -> Result<Json<Tenant>, Problem> {
    Ok(Json(seen(&handle, handle.change(name, Change::RemoveAddress(address)).await?)))
}
