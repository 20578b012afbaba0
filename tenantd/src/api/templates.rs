//! `/v1/templates`: servers that can be added by name.

use axum::Json;
use axum::extract::{Path, State};

use super::openapi::Refused;
use crate::control::Handle;
use crate::model::TemplateView;
use crate::problem::Problem;

/// All templates
#[utoipa::path(get, path = "/v1/templates", tag = "services", operation_id = "list_templates",
    responses((status = 200, description = "Ours and the user's", body = Vec<TemplateView>), Refused))]
pub(super) async fn list(State(handle): State<Handle>) -> Result<Json<Vec<TemplateView>>, Problem> {
    Ok(Json(handle.templates().await?))
}

/// One template with its settings
#[utoipa::path(get, path = "/v1/templates/{template}", tag = "services", operation_id = "show_template",
    params(("template" = String, Path, description = "Template")),
    responses((status = 200, description = "The template", body = TemplateView), Refused))]
pub(super) async fn show(
    State(handle): State<Handle>,
    Path(template): Path<String>,
) -> Result<Json<TemplateView>, Problem> {
    Ok(Json(handle.template(template).await?))
}
