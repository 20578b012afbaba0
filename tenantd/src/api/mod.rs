//! REST over the Unix socket: every route is one handler with its OpenAPI description beside it, so that document and
//! router cannot disagree. A handler parses, checks, asks the [`Handle`] and answers; it keeps nothing.
//!
//! Tasks: one a connection (by axum), each waiting for the owner task's reply.

mod account;
mod addresses;
mod audit;
mod backup;
mod caller;
mod declare;
mod dns;
mod events;
mod extract;
mod filter;
mod here;
mod images;
mod inside;
mod limits;
mod logs;
mod map;
mod metrics;
mod openapi;
mod plan;
mod refused;
pub use backup::{DATABASE, RESTORE_MAX};
pub use inside::{DoorError, Doors};
pub(crate) use openapi::TunnelSchema;
mod routes;
mod services;
mod shares;
pub mod socket;
mod status;
pub(crate) mod tcp;
mod templates;
mod tenants;
mod trace;
mod tunnels;
mod verify;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod fake;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{Method, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use stackmap::TenantName;
use tokio::net::UnixListener;
use tracing::{info, warn};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::control::Handle;
use crate::fault;
use crate::problem::{Problem, ProblemKind};
use refused::{Teller, What};
use socket::{Gate, Peer};
pub use socket::{ServeError, bind, inherited};

/// The longest request body, in bytes: a tenant with a thousand sites fits.
pub const BODY_MAX: usize = 256 * 1024;

/// Answers on `listener` until it fails or `until` ends; requests under way then are still answered.
///
/// # Errors
/// [`ServeError::Listen`] with what the system says about the listener.
pub async fn serve(
    listener: UnixListener,
    handle: Handle,
    until: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let router = router(handle, Gate::of_this_host());
    let service = router.into_make_service_with_connect_info::<Peer>();
    axum::serve(listener, service).with_graceful_shutdown(until).await.map_err(ServeError::Listen)
}

/// The OpenAPI 3.1 document, as `/openapi.json` gives it out.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    described().1
}

/// All routes and their description.
fn described() -> (Router<Handle>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(openapi::Document::openapi())
        .routes(routes!(tenants::list, tenants::add))
        .routes(routes!(tenants::show, declare::put, tenants::remove))
        .routes(routes!(declare::export))
        .routes(routes!(tunnels::list, tunnels::add))
        .routes(routes!(tunnels::remove))
        .routes(routes!(addresses::list, addresses::set, addresses::add))
        .routes(routes!(addresses::remove))
        .routes(routes!(routes::list, routes::set, routes::add))
        .routes(routes!(routes::remove))
        .routes(routes!(filter::show, filter::set))
        .routes(routes!(dns::list, dns::set))
        .routes(routes!(limits::show, limits::set))
        .routes(routes!(tenants::restart))
        .routes(routes!(images::list, images::make))
        .routes(routes!(images::remove))
        .routes(routes!(shares::all, shares::share))
        .routes(routes!(shares::list))
        .routes(routes!(shares::unshare))
        .routes(routes!(services::list, services::add))
        .routes(routes!(services::show, services::remove))
        .routes(routes!(services::restart))
        .routes(routes!(services::start))
        .routes(routes!(services::stop))
        .routes(routes!(services::reload))
        .routes(routes!(templates::list))
        .routes(routes!(templates::show))
        .routes(routes!(logs::read))
        .routes(routes!(status::tenant))
        .routes(routes!(map::all))
        .routes(routes!(map::one))
        .routes(routes!(status::daemon))
        .routes(routes!(events::follow))
        .routes(routes!(audit::read))
        .routes(routes!(backup::read))
        .routes(routes!(backup::restore))
        .routes(routes!(here::here))
        .routes(routes!(plan::all))
        .routes(routes!(plan::one))
        .routes(routes!(verify::all))
        .routes(routes!(verify::one))
        .routes(routes!(trace::one))
        .routes(routes!(metrics::show))
        .routes(routes!(openapi::document))
        .split_for_parts()
}

fn router(handle: Handle, gate: Gate) -> Router {
    let (router, _) = described();
    let guarded = Guarded { gate, handle: handle.clone(), refusals: Arc::default() };
    router
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(guarded, guard))
        .with_state(handle)
}

/// What stands before the operators' routes.
#[derive(Clone)]
struct Guarded {
    gate: Gate,
    handle: Handle,
    refusals: Arc<Teller>,
}

/// Lets only the gate's people in and writes down who changed what.
async fn guard(
    State(Guarded { gate, handle, refusals }): State<Guarded>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let is_question = matches!(*request.method(), Method::GET | Method::HEAD);
    let method = request.method().clone();
    // The pattern, not the path: a tunnel in a path holds a customer's address.
    let route = request.extensions().get::<MatchedPath>().map(|p| p.as_str().to_owned()).unwrap_or_default();
    let what = What::new(&method, &route, request.uri(), tenant_of(&route, request.uri()));
    let tell = |response: &Response| refusals.tell(&handle.by(caller::who(&peer, &handle)), &what, response);
    if !gate.admits(&peer) {
        warn!(uid = peer.uid, gid = peer.gid, "refused a caller who is neither root nor in the group");
        let response = Problem::new(ProblemKind::Forbidden, gate.rule()).into_response();
        tell(&response);
        return response;
    }
    if is_question {
        return next.run(request).await;
    }
    fault::asked();
    fault::point("request.received");
    let response = next.run(request).await;
    fault::point("request.answered");
    info!(uid = peer.uid, %method, route, status = response.status().as_u16(), "request");
    tell(&response);
    response
}

/// The tenant that a path names.
fn tenant_of(route: &str, uri: &Uri) -> Option<TenantName> {
    let at = route.split('/').position(|part| part == "{name}")?;
    uri.path().split('/').nth(at)?.parse().ok()
}

async fn no_such_path(uri: Uri) -> Problem {
    Problem::new(ProblemKind::Unknown, format!("there is no {:?} here; GET /openapi.json lists what is", uri.path()))
}

async fn no_such_method(method: Method, uri: Uri) -> Problem {
    Problem::new(ProblemKind::Method, format!("{:?} has no {method}; GET /openapi.json lists what it has", uri.path()))
}
