//! `GET /v1/counters`.

use axum::Json;
use axum::extract::State;

use super::{Api, mismatch};
use crate::daemon::{Command, Reply};
use crate::problem::Problem;
use crate::table::VlanCounters;

pub(super) async fn list(State(api): State<Api>) -> Result<Json<Vec<VlanCounters>>, Problem> {
    match api.ask(Command::Counters).await? {
        Reply::Counters(counters) => Ok(Json(counters)),
        _ => Err(mismatch()),
    }
}
