//! `/v1/images`: what tenants' root file systems are made from.
//!
//! Making one takes from seconds to minutes, so the answer is a stream of events (as `/v1/events`): `progress` while it
//! goes on, then `done` with the image or `failed` with a problem. Who goes away does not stop it.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use stackmap::{Invalid, TenantName};
use tokio::sync::mpsc;

use super::caller::Caller;
use super::extract::{Body, Only, Part};
use super::openapi::Refused;
use crate::audit::Outcome;
use crate::commands::chain;
use crate::control::Handle;
use crate::images::{
    BuildError, Debootstrap, HOST, ImageStore, ImportError, Manifest, Progress, RemoveError, Signatures,
};
use crate::model::{DebootstrapRequest, ImageRequest, ImageView};
use crate::problem::{Problem, ProblemKind};

/// How long debootstrap may take.
const BUILD_DEADLINE: Duration = Duration::from_secs(3600);
/// Words of progress that wait for a slow reader; more are left out.
const WAITING: usize = 256;
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// All images and who stands on them
#[utoipa::path(get, path = "/v1/images", tag = "images", operation_id = "list_images",
    responses((status = 200, description = "`host` first, the others by name", body = Vec<ImageView>), Refused))]
pub(super) async fn list(State(handle): State<Handle>) -> Result<Json<Vec<ImageView>>, Problem> {
    let (store, tenants) = (handle.images().await?, handle.list().await?);
    let users = |name: &str| tenants.iter().filter(|t| t.image == name).map(|t| t.name.to_string()).collect();
    let listed = blocking(move || store.list()).await?;
    let listed = listed.map_err(|e| Problem::new(ProblemKind::Io, format!("the images cannot be listed: {e}")))?;
    let mut views =
        vec![ImageView { name: HOST.into(), kind: HOST.into(), used_by: users(HOST), ..ImageView::default() }];
    views.extend(listed.into_iter().map(|image| match image.manifest {
        Ok(manifest) => ImageView { used_by: users(&image.name), ..view(&manifest) },
        Err(error) => {
            let broken = Some(chain(&error));
            ImageView { used_by: users(&image.name), name: image.name, broken, ..ImageView::default() }
        }
    }));
    Ok(Json(views))
}

/// `{image}` of the path.
pub(super) struct Image(TenantName);

impl Part for Image {
    const NAME: &'static str = "image";
    fn parse(text: &str) -> Result<Self, Invalid> {
        text.parse().map(Self).map_err(|e: Invalid| e.for_field("image"))
    }
}

/// Remove an image that no tenant stands on
#[utoipa::path(delete, path = "/v1/images/{image}", tag = "images", operation_id = "remove_image",
    params(("image" = String, Path, description = "Image")),
    responses((status = 204, description = "Gone"), Refused))]
pub(super) async fn remove(Caller(handle): Caller, Only(Image(name)): Only<Image>) -> Result<StatusCode, Problem> {
    let (store, tenants) = (handle.images().await?, handle.list().await?);
    let users: Vec<_> = tenants.iter().filter(|t| t.image == name.as_str()).map(|t| t.name.to_string()).collect();
    let after = Some(serde_json::json!({"image": name.as_str()}));
    let removed = blocking(move || store.remove(name.as_str(), &users)).await?;
    if removed.is_ok() {
        handle.note("remove-image", None, after, Outcome::Done);
    }
    removed.map_err(|error| match error {
        RemoveError::Name(refused) => Problem::from(refused),
        RemoveError::Used { ref name, .. } => {
            Problem::at(ProblemKind::Conflict, &Invalid::new("image", name.clone(), error.to_string()))
        }
        error => Problem::new(ProblemKind::Io, chain(&error)),
    })?;
    Ok(StatusCode::NO_CONTENT)
}

/// Make an image; the answer tells how it goes until it is done or has failed
#[utoipa::path(post, path = "/v1/images", tag = "images", operation_id = "make_image",
    request_body = ImageRequest,
    responses(
        (status = 200, description = "`progress` with `{\"line\"}` or `{\"entries\"}`, then `done` with this object \
            or `failed` with a problem", body = ImageView, content_type = "text/event-stream"),
        Refused
    ))]
pub(super) async fn make(Caller(handle): Caller, Body(request): Body<ImageRequest>) -> Result<Response, Problem> {
    let source = source(&request)?;
    let store = handle.images().await?;
    let (told, heard) = mpsc::channel(WAITING);
    // A thread of its own: debootstrap ends with the thread that started it.
    let thread =
        std::thread::Builder::new().name("image".into()).spawn(move || work(&store, &request, source, &told, &handle));
    thread.map_err(|e| Problem::new(ProblemKind::Io, format!("no thread: {e}")))?;
    Ok(Sse::new(stream(heard)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

enum Source {
    Tarball(PathBuf),
    Debootstrap(Debootstrap),
}

fn source(request: &ImageRequest) -> Result<Source, Invalid> {
    match (&request.tarball, &request.debootstrap) {
        (Some(path), None) if Path::new(path).is_absolute() => Ok(Source::Tarball(path.into())),
        (Some(path), None) => Err(Invalid::new("tarball", path, "must be an absolute path")),
        (None, Some(from)) => Ok(Source::Debootstrap(debootstrap(from))),
        _ => Err(Invalid::new("tarball", "", "either a tarball or debootstrap must be given")),
    }
}

fn debootstrap(from: &DebootstrapRequest) -> Debootstrap {
    let signatures = match &from.keyring {
        _ if from.unsigned => Signatures::Unchecked,
        Some(path) => Signatures::Keyring(path.into()),
        None => Signatures::Distribution,
    };
    Debootstrap {
        suite: from.suite.clone(),
        mirror: from.mirror.clone(),
        minbase: from.minbase,
        include: from.include.clone(),
        signatures,
        deadline: BUILD_DEADLINE,
    }
}

fn work(store: &Arc<ImageStore>, request: &ImageRequest, source: Source, told: &mpsc::Sender<Event>, handle: &Handle) {
    let mut progress = |progress: Progress| {
        let data = match progress {
            Progress::Line(line) => serde_json::json!({"line": line}),
            Progress::Entries(entries) => serde_json::json!({"entries": entries}),
        };
        // A reader that is slow or gone does not stop the work.
        let _ = told.try_send(Event::default().event("progress").data(data.to_string()));
    };
    let name = request.name.as_str();
    let made = match source {
        Source::Tarball(path) => store.import(name, &path, &mut progress).map_err(|error| match error {
            ImportError::Name(refused) => refused.into(),
            error => Problem::new(ProblemKind::Failed, chain(&error)),
        }),
        Source::Debootstrap(what) => store.build_debootstrap(name, &what, &mut progress).map_err(|error| match error {
            BuildError::Invalid(refused) => refused.into(),
            error => Problem::new(ProblemKind::Failed, chain(&error)),
        }),
    };
    let (kind, data) = match &made {
        Ok(manifest) => ("done", serde_json::to_string(&view(manifest))),
        Err(problem) => ("failed", serde_json::to_string(problem)),
    };
    // Its name alone: the address of a mirror may hold a password.
    let outcome = if made.is_ok() { Outcome::Done } else { Outcome::Failed("its maker was told why".into()) };
    handle.note("make-image", None, Some(serde_json::json!({"image": name})), outcome);
    tracing::info!(image = name, kind, "image");
    let _ = told.blocking_send(Event::default().event(kind).data(data.unwrap_or_default()));
}

fn stream(heard: mpsc::Receiver<Event>) -> impl Stream<Item = Result<Event, Infallible>> {
    futures::stream::unfold(heard, |mut heard| async move { Some((Ok(heard.recv().await?), heard)) })
}

fn view(manifest: &Manifest) -> ImageView {
    ImageView {
        name: manifest.name.clone(),
        kind: serde_json::to_value(manifest.kind).ok().and_then(|k| k.as_str().map(str::to_owned)).unwrap_or_default(),
        source: manifest.source.clone(),
        made: manifest.made,
        entries: manifest.entries,
        bytes: manifest.bytes,
        ..ImageView::default()
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Problem::new(ProblemKind::Io, e.to_string()))
}
