//! `GET /metrics`, on the socket and, where it is asked for, on TCP ([`super::tcp`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use tokio::sync::Mutex;

use super::{Api, mismatch};
use crate::daemon::{Command, Reply};
use crate::metrics::{self, CONTENT_TYPE};
use crate::problem::{Problem, ProblemKind};

/// How old an answer may be that somebody gets whom nobody knows: who asks without end costs one scrape a second.
const FRESH: Duration = Duration::from_secs(1);

pub(super) async fn show(State(api): State<Api>) -> Result<impl IntoResponse, Problem> {
    scraped(api, Duration::ZERO).await
}

/// The same on TCP.
pub(super) async fn show_anybody(State(api): State<Api>) -> Result<impl IntoResponse, Problem> {
    scraped(api, FRESH).await
}

async fn scraped(api: Api, old: Duration) -> Result<impl IntoResponse, Problem> {
    let scrape = api.scrape.clone();
    let text = scrape.one_at_a_time(old, async move { make(&api).await }).await?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
}

async fn make(api: &Api) -> Result<Bytes, Problem> {
    let Reply::Metrics(snapshot) = api.ask(Command::Metrics).await? else { return Err(mismatch()) };
    // Thousands of rows as text: not on the one thread that everybody waits for.
    let text = tokio::task::spawn_blocking(move || metrics::text(*snapshot)).await;
    Ok(text.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?.into())
}

fn failed(cause: String) -> Problem {
    Problem::new(ProblemKind::DataPath, cause)
}

/// The last answer and when it was ready; locked while one is made.
#[derive(Debug, Clone, Default)]
pub(super) struct Scrape(Arc<Mutex<Option<(Instant, Bytes)>>>);

impl Scrape {
    /// What `make` says, or an answer that was ready at most `old` before it was asked for. Made in a task of its own: a
    /// client that breaks off does not let the next one begin beside it.
    async fn one_at_a_time(
        self,
        old: Duration,
        make: impl Future<Output = Result<Bytes, Problem>> + Send + 'static,
    ) -> Result<Bytes, Problem> {
        let asked = Instant::now();
        let mut last = self.0.lock_owned().await;
        if let Some((ready, text)) = &*last
            && *ready + old >= asked
        {
            return Ok(text.clone());
        }
        let making = tokio::spawn(async move {
            let text = make.await?;
            *last = Some((Instant::now(), text.clone()));
            Ok(text)
        });
        making.await.unwrap_or_else(|error| Err(failed(error.to_string())))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn clients_that_break_off_do_not_make_several_be_made_at_once() {
        let scrape = Scrape::default();
        let begun = Arc::new(AtomicUsize::new(0));
        for _ in 0..20 {
            let counted = begun.clone();
            let make = async move {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(5)).await;
                Ok(Bytes::from_static(b"one"))
            };
            let asked = scrape.clone().one_at_a_time(Duration::ZERO, make);
            assert!(tokio::time::timeout(Duration::from_millis(5), asked).await.is_err());
        }
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        // Who asked while it was made gets it; later on, only those on TCP, for a moment.
        let never = || async { panic!("an answer is there") };
        assert_eq!(scrape.clone().one_at_a_time(Duration::ZERO, never()).await.unwrap(), "one");
        assert_eq!(scrape.clone().one_at_a_time(Duration::from_secs(60), never()).await.unwrap(), "one");
        let new = async { Ok(Bytes::from_static(b"new")) };
        assert_eq!(scrape.one_at_a_time(Duration::ZERO, new).await.unwrap(), "new");
    }
}
