//! `/v1/verify` and `/v1/tenants/{name}/verify`: the tables beside the kernel. A question, so it is a GET, although it
//! takes as long as it takes to look at every process.

use axum::Json;
use axum::extract::State;

use super::extract;
use super::openapi::Refused;
use crate::control::Handle;
use crate::problem::Problem;
use crate::verify::Verification;

/// Do tables and kernel agree?
#[utoipa::path(get, path = "/v1/verify", tag = "daemon", operation_id = "verify",
    responses((status = 200, description = "Compared; `agree` says whether all is as the tables say",
        body = Verification), Refused))]
pub(super) async fn all(State(handle): State<Handle>) -> Result<Json<Verification>, Problem> {
    Ok(Json(handle.verify(None).await?))
}

/// Do tables and kernel agree about a tenant?
#[utoipa::path(get, path = "/v1/tenants/{name}/verify", tag = "tenants", operation_id = "verify_tenant",
    params(("name" = String, Path, description = "Tenant")),
    responses((status = 200, description = "Compared; `agree` says whether all is as the tables say",
        body = Verification), Refused))]
pub(super) async fn one(
    State(handle): State<Handle>,
    extract::Tenant(name): extract::Tenant,
) -> Result<Json<Verification>, Problem> {
    Ok(Json(handle.verify(Some(name)).await?))
}
