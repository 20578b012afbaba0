//! `/v1/shares` and `/v1/tenants/{name}/shares`: directories of the host that several tenants see.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use stackmap::Invalid;

use super::caller::Caller;
use super::extract::{self, Body, Part};
use super::inside::seen;
use super::openapi::Refused;
use crate::control::Handle;
use crate::model::{ShareMount, ShareRequest, SharedDirectory};
use crate::problem::Problem;

/// All shared directories
#[utoipa::path(get, path = "/v1/shares", tag = "shares", operation_id = "list_shares",
    responses((status = 200, description = "Sorted by directory", body = Vec<SharedDirectory>), Refused))]
pub(super) async fn all(State(handle): State<Handle>) -> Result<Json<Vec<SharedDirectory>>, Problem> {
    Ok(Json(handle.shares().await?))
}

/// Put a directory into tenants, also running ones
#[utoipa::path(post, path = "/v1/shares", tag = "shares", operation_id = "share",
    request_body = ShareRequest,
    responses((status = 200, description = "The directory and who sees it now", body = SharedDirectory), Refused))]
pub(super) async fn share(
    Caller(handle): Caller,
    Body(request): Body<ShareRequest>,
) -> Result<Json<SharedDirectory>, Problem> {
    Ok(Json(handle.share(request).await?))
}

/// Shared directories that one tenant sees
#[utoipa::path(get, path = "/v1/tenants/{name}/shares", tag = "shares", operation_id = "tenant_shares",
    params(("name" = String, Path, description = "Tenant")),
    responses((status = 200, description = "What it sees, and where", body = Vec<ShareMount>), Refused))]
pub(super) async fn list(
    State(handle): State<Handle>,
    extract::Tenant(name): extract::Tenant,
) -> Result<Json<Vec<ShareMount>>, Problem> {
    Ok(Json(seen(&handle, handle.show(name).await?).shares))
}

/// `{directory}` of the path.
pub(super) struct Directory(String);

impl Part for Directory {
    const NAME: &'static str = "directory";
    fn parse(text: &str) -> Result<Self, Invalid> {
        Ok(Self(text.to_owned()))
    }
}

/// Take a directory out of a tenant, also a running one
#[utoipa::path(delete, path = "/v1/tenants/{name}/shares/{directory}", tag = "shares", operation_id = "unshare",
    params(
        ("name" = String, Path, description = "Tenant"),
        ("directory" = String, Path, description = "On the host, percent-encoded")
    ),
    responses((status = 204, description = "Gone"), Refused))]
pub(super) async fn unshare(
    Caller(handle): Caller,
    extract::Of(name, Directory(directory)): extract::Of<Directory>,
) -> Result<StatusCode, Problem> {
    handle.unshare(directory, vec![name]).await?;
    Ok(StatusCode::NO_CONTENT)
}
