//! `/metrics`: what Prometheus reads. On the daemon's socket for those whom it admits; on TCP, when that is asked for,
//! this path and nothing else ([`super::tcp`]).

use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::openapi::Refused;
use crate::control::Handle;
use crate::metrics::{CONTENT_TYPE, FRESH};
use crate::problem::Problem;

/// Metrics for Prometheus
///
/// Metrics of the daemon and of every tenant in the text format of OpenMetrics 1.0; docs/metrics.md lists them.
#[utoipa::path(get, path = "/metrics", tag = "daemon", operation_id = "metrics",
    responses((status = 200, description = "Metrics", body = String,
        content_type = "application/openmetrics-text"), Refused))]
pub(super) async fn show(State(handle): State<Handle>) -> Result<impl IntoResponse, Problem> {
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], handle.metrics(Duration::ZERO).await?))
}

/// The same for somebody whom nobody knows.
pub(super) async fn show_anybody(State(handle): State<Handle>) -> Result<impl IntoResponse, Problem> {
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], handle.metrics(FRESH).await?))
}
