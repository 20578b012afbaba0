//! The HTTP API on the Unix socket: parse once, ask the owner, show. Each file has one noun.

mod body;
mod counters;
mod look;
mod metrics;
mod owners;
mod status;
pub(crate) mod tcp;
pub mod view;
mod vlans;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{Method, Uri};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, put};
use tokio::sync::{mpsc, oneshot};

use crate::daemon::{Command, Event, Failure, Reply, chain};
use crate::fault;
use crate::gateway::Refusal;
use crate::problem::{Problem, ProblemKind};

/// The largest body taken: 4,094 rows of many sites each have room.
const BODY_LIMIT: usize = 32 << 20;

/// The way from a request to the owner.
#[derive(Debug, Clone)]
pub struct Api {
    owner: mpsc::Sender<Event>,
    scrape: metrics::Scrape,
}

impl Api {
    /// An API in front of the owner that receives from the other end of `owner`.
    pub fn new(owner: mpsc::Sender<Event>) -> Self {
        Self { owner, scrape: metrics::Scrape::default() }
    }

    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/v1/status", get(status::show))
            .route("/v1/counters", get(counters::list))
            .route("/v1/vlans", get(vlans::list))
            .route("/v1/vlans/{vlan}", get(vlans::show).put(vlans::put).delete(vlans::delete))
            .route("/v1/vlans/{vlan}/counters", get(counters::show))
            .route("/v1/vlans/{vlan}/look/{address}", get(look::show))
            .route("/metrics", get(metrics::show))
            .route("/v1/vlans/{vlan}/tunnels/{spec}", put(vlans::put_tunnel).delete(vlans::delete_tunnel))
            .route("/v1/owners/{owner}/vlans", put(owners::replace_all))
            .fallback(no_path)
            .method_not_allowed_fallback(no_method)
            .layer(DefaultBodyLimit::max(BODY_LIMIT))
            .layer(middleware::from_fn(change))
            .with_state(self)
    }

    async fn ask(&self, command: Command) -> Result<Reply, Problem> {
        let stopping = || Problem::new(ProblemKind::Stopping, "the daemon is stopping");
        let (reply, answer) = oneshot::channel();
        self.owner.send(Event::Request(command, reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?.map_err(Problem::from)
    }
}

/// The ends of a request that changes something.
async fn change(request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    fault::asked();
    fault::point("request.received");
    let response = next.run(request).await;
    fault::point("request.answered");
    response
}

async fn no_path(uri: Uri) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("there is no {}", uri.path()))
}

async fn no_method(method: Method, uri: Uri) -> Problem {
    Problem::new(ProblemKind::MethodNotAllowed, format!("{} has no method {method}", uri.path()))
}

/// An answer of another sort than the question: a mistake in this program, told as such.
fn mismatch() -> Problem {
    Problem::new(ProblemKind::DataPath, "the owner gave an answer of another sort; this is a bug")
}

impl From<stackmap::Invalid> for Problem {
    fn from(invalid: stackmap::Invalid) -> Self {
        Self::new(ProblemKind::Invalid, invalid.to_string()).at(invalid.field, invalid.value, invalid.rule)
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refusal) => refusal.into(),
            Failure::Table(error) => Self::new(ProblemKind::DataPath, chain(&error)),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        let conflict = Self::new(ProblemKind::Conflict, detail.clone());
        match refusal {
            Refusal::Invalid(invalid) => invalid.into(),
            Refusal::OwnedByOther { asked, vlan, holder } => {
                conflict.at("owner", asked.to_string(), format!("vlan {vlan} belongs to owner {holder}"))
            }
            Refusal::TunnelBound { field, tunnel, vlan, holder } => {
                conflict.at(field, tunnel.to_string(), format!("is bound to vlan {vlan} of owner {holder}"))
            }
            Refusal::Older { asked, stored, .. } => conflict.at(
                "generation",
                asked.to_string(),
                format!("must not be older than the stored generation {stored}"),
            ),
            Refusal::UnknownVlan { vlan } => {
                Self::new(ProblemKind::NotFound, detail).at("vlan", vlan.to_string(), "must have a row")
            }
        }
    }
}
