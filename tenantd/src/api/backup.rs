//! `/v1/backup` and `/v1/restore`: the whole store, out and in, while everything runs. The bytes go through the connection:
//! nothing is written or read on this host at a place that a caller names.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use stackmap::Invalid;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::caller::Caller;
use super::extract::flags;
use super::openapi::Refused;
use crate::audit::Outcome;
use crate::control::{Handle, RestoreHow};
use crate::model::Restored;
use crate::owner::chain;
use crate::problem::{Problem, ProblemKind};
use crate::store::{CopyError, StoreError, read_copy};

/// The media type of an SQLite database (registered with IANA).
pub const DATABASE: &str = "application/vnd.sqlite3";
/// The longest backup that is taken, in bytes: the audit alone may have 128 MiB.
pub const RESTORE_MAX: usize = 512 << 20;
/// How long a backup may take to come.
const COMES: Duration = Duration::from_secs(60);
/// One copy is made or read at a time: each is in memory twice.
static ONE: Semaphore = Semaphore::const_new(1);

/// Everything the store holds, as one database: tenants with their passwords, and the audit
#[utoipa::path(get, path = "/v1/backup", tag = "daemon", operation_id = "backup",
    responses((status = 200, description = "An SQLite database", body = Vec<u8>, content_type = "application/vnd.sqlite3"),
        Refused))]
pub(super) async fn read(Caller(handle): Caller) -> Result<Response, Problem> {
    let turn = turn().await?;
    let copying = handle.backup().await?;
    let bytes = work(turn, move || copying.make())
        .await?
        .map_err(|error: StoreError| Problem::new(ProblemKind::Io, chain(&error)))?;
    // It holds passwords: nobody takes it without a row.
    handle.note_surely("backup", Outcome::Done).await?;
    Ok(([(header::CONTENT_TYPE, DATABASE)], bytes).into_response())
}

/// Bring the tenants to what a backup says; all of them or, when one cannot be, none
#[utoipa::path(post, path = "/v1/restore", tag = "daemon", operation_id = "restore",
    params(
        ("dry_run" = Option<bool>, Query, description = "Only check and compare, change nothing"),
        ("prune" = Option<bool>, Query, description = "Remove the tenants that are not in it"),
        ("force" = Option<bool>, Query, description = "With prune: also those in which processes run"),
        ("accept_store" = Option<bool>, Query, description = "Also a backup of another machine or instance")
    ),
    request_body(content = Vec<u8>, content_type = "application/vnd.sqlite3"),
    responses((status = 200, description = "What was changed, or would be", body = Restored), Refused))]
pub(super) async fn restore(
    State(_): State<Handle>,
    Caller(handle): Caller,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Json<Restored>, Problem> {
    let names = ["dry_run", "prune", "force", "accept_store"];
    let [dry_run, prune, force, accept] = flags(query.as_deref(), names)?;
    let turn = turn().await?;
    let late = |_| Invalid::new("backup", "", format!("must come within {} s", COMES.as_secs()));
    let bytes = tokio::time::timeout(COMES, to_bytes(body, RESTORE_MAX)).await.map_err(late)?.map_err(|_| {
        let rule = format!("must come whole and have at most {RESTORE_MAX} bytes");
        Problem::at(ProblemKind::TooLarge, &Invalid::new("backup", "", rule))
    })?;
    let copied = work(turn, move || read_copy(&bytes)).await?;
    let copied = copied.map_err(|error: CopyError| Invalid::new("backup", "", chain(&error)))?;
    Ok(Json(handle.restore(copied, RestoreHow { dry_run, prune, force, accept }).await?))
}

async fn turn() -> Result<SemaphorePermit<'static>, Problem> {
    ONE.acquire().await.map_err(|e| Problem::new(ProblemKind::Io, e.to_string()))
}

/// On a thread of its own: some megabytes are read and checked. The thread has the turn, also when nobody waits for it any
/// more.
async fn work<T: Send + 'static>(
    turn: SemaphorePermit<'static>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    let work = move || {
        let done = work();
        drop(turn);
        done
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| Problem::new(ProblemKind::Io, e.to_string()))
}
