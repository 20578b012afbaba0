//! `PUT /v1/owners/{owner}/vlans`: replace-all of what an owner has.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use stackmap::Owner;

use super::body::{self, RowsBody};
use super::view::ReplacedView;
use super::{Api, mismatch};
use crate::daemon::{Command, Reply};
use crate::problem::Problem;

pub(super) async fn replace_all(
    State(api): State<Api>,
    Path(owner): Path<String>,
    bytes: Bytes,
) -> Result<Json<ReplacedView>, Problem> {
    let owner: Owner = owner.parse()?;
    let rows = body::read::<RowsBody>(&bytes)?.requests(&owner)?;
    match api.ask(Command::ReplaceAll(owner, rows)).await? {
        Reply::Replaced { added, changed, removed } => Ok(Json(ReplacedView { added, changed, removed })),
        _ => Err(mismatch()),
    }
}
