//! `/v1/map`: the three tables.

use axum::Json;
use axum::extract::{Path, State};

use super::openapi::Refused;
use crate::control::{Handle, OpError};
use crate::model::{MapRow, MapView};
use crate::problem::Problem;

/// The three tables
#[utoipa::path(get, path = "/v1/map", tag = "daemon", operation_id = "map",
    responses((status = 200, description = "Upper, lower and access table", body = MapView), Refused))]
pub(super) async fn all(State(handle): State<Handle>) -> Result<Json<MapView>, Problem> {
    Ok(Json(handle.map().await?))
}

/// One table
#[utoipa::path(get, path = "/v1/map/{table}", tag = "daemon", operation_id = "map_table",
    params(("table" = String, Path, description = "`upper`, `lower` or `access`")),
    responses((status = 200, description = "Its rows", body = Vec<MapRow>), Refused))]
pub(super) async fn one(State(handle): State<Handle>, Path(table): Path<String>) -> Result<Json<Vec<MapRow>>, Problem> {
    let view = handle.map().await?;
    match table.as_str() {
        "upper" => Ok(Json(view.upper)),
        "lower" => Ok(Json(view.lower)),
        "access" => Ok(Json(view.access)),
        _ => Err(OpError::Unknown { what: "table", name: table }.into()),
    }
}
