//! `GET /metrics`, on the socket and, where it is asked for, on TCP ([`super::tcp`]).

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::{Api, mismatch};
use crate::daemon::{Command, Reply};
use crate::metrics::{self, CONTENT_TYPE};
use crate::problem::{Problem, ProblemKind};

pub(super) async fn show(State(api): State<Api>) -> Result<impl IntoResponse, Problem> {
    let Reply::Metrics(snapshot) = api.ask(Command::Metrics).await? else { return Err(mismatch()) };
    // Thousands of rows as text: not on the one thread that everybody waits for.
    let text = tokio::task::spawn_blocking(move || metrics::text(*snapshot)).await;
    let failed = |cause: String| Problem::new(ProblemKind::DataPath, cause);
    let text = text.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
}
