//! `/v1/events`: what happens from now on, as server-sent events (WHATWG HTML section 9.2).
//!
//! Each event has the number and the kind of the [`Event`](crate::model::Event), its data is the event as JSON. A
//! follower that reads too slowly is told how many it missed (`lagged`) and goes on with the newest.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use tokio::sync::broadcast::error::RecvError;

use super::openapi::Refused;
use crate::control::Handle;

/// A comment is sent this often when nothing happens, so that both ends see a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Events from now on (server-sent); inside a tenant those about it
#[utoipa::path(get, path = "/v1/events", tag = "daemon", operation_id = "events",
    responses(
        (status = 200, description = "`event` is the kind, `id` its number, `data` this object; `lagged` tells how \
            many were missed", body = crate::model::Event, content_type = "text/event-stream"),
        Refused
    ))]
pub(super) async fn follow(State(handle): State<Handle>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let inbox = handle.subscribe();
    let only = handle.tenant().map(ToString::to_string);
    let stream = futures::stream::unfold((inbox, only), |(mut inbox, only)| async move {
        let mine = |event: &crate::model::Event| only.is_none() || (event.tenant == only && !event.is_for_operators());
        let next = loop {
            match inbox.recv().await {
                Ok(event) if !mine(&event) => {}
                next => break next,
            }
        };
        let event = match next {
            Ok(event) => {
                let data = serde_json::to_string(&event).unwrap_or_default();
                Event::default().id(event.id.to_string()).event(&event.kind).data(data)
            }
            Err(RecvError::Lagged(missed)) => Event::default().event("lagged").data(format!("{{\"missed\":{missed}}}")),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(event), (inbox, only)))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}
