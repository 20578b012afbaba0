//! `GET /v1/counters`, and of one VLAN: `GET /v1/vlans/{vlan}/counters`.

use axum::Json;
use axum::extract::{Path, State};

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

/// Zeros for a VLAN that has no row: what it lost is counted all the same.
pub(super) async fn show(State(api): State<Api>, Path(vlan): Path<String>) -> Result<Json<VlanCounters>, Problem> {
    match api.ask(Command::CountersOf(vlan.parse()?)).await? {
        Reply::CountersOf(counters) => Ok(Json(counters)),
        _ => Err(mismatch()),
    }
}
