//! `/v1/vlans`: the rows, one by one and their tunnels.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use stackmap::{Invalid, Owner, TunnelSpec, Vlan};

use super::body::{self, RowBody};
use super::view::RowView;
use super::{Api, mismatch};
use crate::daemon::{Command, Reply};
use crate::problem::Problem;

/// The query of verbs that need to know who asks.
#[derive(Debug, Deserialize)]
pub(super) struct Who {
    owner: Option<String>,
}

impl Who {
    fn owner(self) -> Result<Owner, Invalid> {
        let asked = self.owner.ok_or_else(|| Invalid::new("owner", "", "must be given as ?owner=OWNER"))?;
        asked.parse()
    }
}

pub(super) async fn list(State(api): State<Api>) -> Result<Json<Vec<RowView>>, Problem> {
    match api.ask(Command::Rows).await? {
        Reply::Rows(rows) => Ok(Json(rows.iter().map(RowView::of).collect())),
        _ => Err(mismatch()),
    }
}

pub(super) async fn show(State(api): State<Api>, Path(vlan): Path<String>) -> Result<Json<RowView>, Problem> {
    row(&api, Command::Row(vlan.parse()?)).await
}

pub(super) async fn put(
    State(api): State<Api>,
    Path(vlan): Path<String>,
    bytes: Bytes,
) -> Result<Json<RowView>, Problem> {
    let vlan: Vlan = vlan.parse()?;
    let request = body::read::<RowBody>(&bytes)?.request_for(vlan)?;
    row(&api, Command::Put(request)).await
}

pub(super) async fn delete(
    State(api): State<Api>,
    Path(vlan): Path<String>,
    Query(who): Query<Who>,
) -> Result<StatusCode, Problem> {
    done(&api, Command::Delete(vlan.parse()?, who.owner()?)).await
}

pub(super) async fn put_tunnel(
    State(api): State<Api>,
    Path((vlan, spec)): Path<(String, String)>,
    Query(who): Query<Who>,
) -> Result<Json<RowView>, Problem> {
    let spec: TunnelSpec = spec.parse()?;
    row(&api, Command::PutTunnel(vlan.parse()?, who.owner()?, spec)).await
}

pub(super) async fn delete_tunnel(
    State(api): State<Api>,
    Path((vlan, spec)): Path<(String, String)>,
    Query(who): Query<Who>,
) -> Result<StatusCode, Problem> {
    let spec: TunnelSpec = spec.parse()?;
    done(&api, Command::DeleteTunnel(vlan.parse()?, who.owner()?, spec)).await
}

async fn row(api: &Api, command: Command) -> Result<Json<RowView>, Problem> {
    match api.ask(command).await? {
        Reply::Row(row) => Ok(Json(RowView::of(&row))),
        _ => Err(mismatch()),
    }
}

async fn done(api: &Api, command: Command) -> Result<StatusCode, Problem> {
    match api.ask(command).await? {
        Reply::Done => Ok(StatusCode::NO_CONTENT),
        _ => Err(mismatch()),
    }
}
