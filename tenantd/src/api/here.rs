//! `/v1/here`: who is answered, and by which version. What the program asks first when it runs inside a tenant.

use axum::Json;
use axum::extract::State;

use super::openapi::Refused;
use crate::control::Handle;
use crate::model::Here;

/// Who is answered on this socket
#[utoipa::path(get, path = "/v1/here", tag = "daemon", operation_id = "here",
    responses((status = 200, description = "Version, and the tenant whose own API this is", body = Here), Refused))]
pub(super) async fn here(State(handle): State<Handle>) -> Json<Here> {
    Json(Here { version: env!("CARGO_PKG_VERSION").into(), tenant: handle.tenant().cloned() })
}
