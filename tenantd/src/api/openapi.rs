//! The OpenAPI document: what is not said beside a handler, and the route that gives it out.

use std::sync::LazyLock;

use axum::body::Bytes;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::{IntoResponses, OpenApi, ToSchema};

use crate::problem::Problem;

/// The frame into which every route puts its own description.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "tenantd",
        description = "Closed networks on one server: each tenant has a stack, a port and a process group of its own. \
                       Served on a Unix socket for root and members of the group tenantd."
    ),
    // Referred to by the refusals, which the generator does not follow.
    components(schemas(Problem)),
    tags(
        (name = "tenants", description = "Closed networks and what belongs to them"),
        (name = "services", description = "Processes kept running inside a tenant"),
        (name = "images", description = "What tenants' root file systems are made from"),
        (name = "shares", description = "Directories of the host that several tenants see"),
        (name = "daemon", description = "Tables, status, events"),
    )
)]
pub(super) struct Document;

/// The answer to every request that is refused or fails.
#[derive(IntoResponses)]
#[response(
    status = "default",
    description = "Refused or failed; nothing was changed unless the detail says so",
    content_type = "application/problem+json"
)]
pub(super) struct Refused(#[allow(dead_code, reason = "only its description is used")] Problem);

/// A tunnel; in a request the text `KIND:REMOTE[,local=ADDR][,key=N][,prefix=CIDR]...` is taken too.
#[derive(ToSchema)]
#[schema(as = Tunnel)]
#[allow(dead_code, reason = "only its description is used; the type is stackmap's, which knows no OpenAPI")]
pub(crate) struct TunnelSchema {
    /// `ipip`, `gre` or `vxlan`.
    #[schema(example = "ipip")]
    kind: String,
    /// The customer's gateway.
    #[schema(example = "198.51.100.2")]
    remote: String,
    /// The access server's address; chosen by it when left out.
    local: Option<String>,
    /// GRE key or VNI.
    key: Option<u32>,
    /// Prefixes behind the gateway; none means everything.
    #[schema(example = json!(["192.168.1.0/24"]))]
    prefixes: Vec<String>,
}

static JSON: LazyLock<Bytes> = LazyLock::new(|| {
    // Serialising it cannot fail: it holds text only. If it ever does, the test of this document sees it.
    super::described().1.to_json().unwrap_or_default().into()
});

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "daemon", operation_id = "openapi",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value), Refused))]
pub(super) async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], JSON.clone()).into_response()
}
