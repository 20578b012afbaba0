//! `GET /v1/status`.

use axum::Json;
use axum::extract::State;

use super::view::StatusView;
use super::{Api, mismatch};
use crate::daemon::{Command, Reply};
use crate::problem::Problem;

pub(super) async fn show(State(api): State<Api>) -> Result<Json<StatusView>, Problem> {
    match api.ask(Command::Status).await? {
        Reply::Status(status) => Ok(Json(StatusView::of(&status))),
        _ => Err(mismatch()),
    }
}
