//! `/v1/tenants/{name}/limits`: what a tenant may use of the machine.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde_json::Value;
use stackmap::Invalid;

use super::caller::Caller;
use super::extract::{self, Body};
use super::openapi::Refused;
use crate::change::Change;
use crate::control::Handle;
use crate::limits::Limits;
use crate::model::Tenant;
use crate::problem::Problem;

/// Limits of a tenant, as they were asked for
#[utoipa::path(get, path = "/v1/tenants/{name}/limits", tag = "tenants", operation_id = "show_limits",
    params(("name" = String, Path, description = "Tenant")),
    responses((status = 200, description = "Its limits; one that is left out has its default", body = Limits), Refused))]
pub(super) async fn show(
    State(handle): State<Handle>,
    extract::Tenant(name): extract::Tenant,
) -> Result<Json<Limits>, Problem> {
    Ok(Json(handle.show(name).await?.limits))
}

/// Change some limits of a running tenant
#[utoipa::path(patch, path = "/v1/tenants/{name}/limits", tag = "tenants", operation_id = "set_limits",
    params(("name" = String, Path, description = "Tenant")),
    request_body(content = Limits, description = "The limits to be changed; null for the default (RFC 7396)"),
    responses((status = 200, description = "The tenant as it is now", body = Tenant), Refused))]
pub(super) async fn set(
    Caller(handle): Caller,
    extract::Tenant(name): extract::Tenant,
    Body(changes): Body<BTreeMap<String, Value>>,
) -> Result<Json<Tenant>, Problem> {
    let words = changes.into_iter().map(word).collect::<Result<_, _>>()?;
    Ok(Json(handle.change(name, Change::Limits(words)).await?))
}

fn word((name, value): (String, Value)) -> Result<String, Invalid> {
    match value {
        Value::Null => Ok(format!("{name}=none")),
        Value::String(text) => Ok(format!("{name}={text}")),
        Value::Number(number) => Ok(format!("{name}={number}")),
        other => Err(Invalid::new(name, other.to_string(), "must be a number, a text or null")),
    }
}
