//! `/v1/plan`: what a pass would do now, read from the kernel, without doing it.

use axum::Json;
use axum::extract::State;

use super::extract;
use super::openapi::Refused;
use crate::control::{Handle, OpError};
use crate::model::TenantPlan;
use crate::problem::Problem;

/// What would be done for every tenant now; nothing is done
#[utoipa::path(get, path = "/v1/plan", tag = "daemon", operation_id = "plan",
    responses((status = 200, description = "Of every tenant; one without steps is as desired", body = Vec<TenantPlan>),
        Refused))]
pub(super) async fn all(State(handle): State<Handle>) -> Result<Json<Vec<TenantPlan>>, Problem> {
    let mut plans = Vec::new();
    for tenant in handle.list().await? {
        // One after another, so that the owner can do other things in between.
        match handle.plan(tenant.name).await {
            Ok(plan) => plans.push(plan),
            Err(OpError::Unknown { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Json(plans))
}

/// What would be done for a tenant now; nothing is done
#[utoipa::path(get, path = "/v1/tenants/{name}/plan", tag = "tenants", operation_id = "plan_tenant",
    params(("name" = String, Path, description = "Tenant")),
    responses((status = 200, description = "Without steps it is as desired", body = TenantPlan), Refused))]
pub(super) async fn one(
    State(handle): State<Handle>,
    extract::Tenant(name): extract::Tenant,
) -> Result<Json<TenantPlan>, Problem> {
    Ok(Json(handle.plan(name).await?))
}
