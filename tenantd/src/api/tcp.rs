//! `/metrics` on TCP, for a Prometheus that runs elsewhere. Nobody is asked who he is: whoever reaches the address reads
//! names and figures of all tenants, so the address has to be said and cannot be a wildcard (docs/threat.md).
//!
//! Tasks: one that accepts, at most [`CONNECTIONS`] that answer, each for at most [`PATIENCE`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::{metrics, no_such_method, no_such_path};
use crate::control::Handle;

/// Connections that are answered at the same time; more wait in the kernel.
const CONNECTIONS: usize = 16;
/// How long one may last. Prometheus itself gives up after ten seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a refused `accept`: we are out of descriptors.
const BREATH: Duration = Duration::from_millis(100);
/// How often an address is tried that cannot be listened on: its device comes later, or another program leaves.
const AGAIN: Duration = Duration::from_secs(5);

/// Answers on an address of this host for as long as it is polled. One that cannot be listened on is told and tried again:
/// tenants do not wait for figures.
pub(crate) async fn serve(address: SocketAddr, handle: Handle) {
    let mut told = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if !told => tracing::warn!(%address, %error, "metrics on TCP: cannot listen; tried every 5 s"),
            Err(_) => {}
        }
        told = true;
        tokio::time::sleep(AGAIN).await;
    };
    tracing::info!(%address, "metrics on TCP");
    answer(listener, handle).await;
}

async fn answer(listener: TcpListener, handle: Handle) {
    let router = Router::new()
        .route("/metrics", get(metrics::show_anybody))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(handle);
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Never closed, so there is always a seat sooner or later.
        let Ok(seat) = seats.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) if gone_already(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "metrics on TCP: cannot accept");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
            // One that takes longer, or breaks off, is dropped; there is nobody to tell.
            let _ = tokio::time::timeout(PATIENCE, server.serve_connection(TokioIo::new(stream), service)).await;
            drop(seat);
        });
    }
}

/// The client broke off before it was accepted.
fn gone_already(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_that_is_taken_is_tried_again() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let (handle, _inbox) = Handle::new();
        let serving = tokio::spawn(serve(address, handle));
        tokio::time::sleep(4 * AGAIN).await;
        assert!(!serving.is_finished());
        drop(taken);
        tokio::time::sleep(2 * AGAIN).await;
        assert!(tokio::net::TcpStream::connect(address).await.is_ok(), "nobody listens");
        serving.abort();
    }
}
