//! `/metrics` on TCP, for a Prometheus that runs elsewhere. Nobody is asked who he is: whoever reaches the address reads
//! VLANs and figures of all closed networks, so the address has to be said and cannot be a wildcard (docs/threat.md).
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

use super::{Api, metrics, no_method, no_path};

/// Connections that are answered at the same time; more wait in the kernel.
const CONNECTIONS: usize = 16;
/// How long one may last. Prometheus itself gives up after ten seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a refused `accept`: we are out of descriptors.
const BREATH: Duration = Duration::from_millis(100);

/// How often an address is tried that cannot be listened on: its device comes later, or another program leaves.
const AGAIN: Duration = Duration::from_secs(5);

/// Answers on an address of this host for as long as it is polled. One that cannot be listened on is told and tried again:
/// the data path does not wait for figures.
pub(crate) async fn serve(address: SocketAddr, api: Api) {
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
    answer(listener, api).await;
}

async fn answer(listener: TcpListener, api: Api) {
    let router = Router::new()
        .route("/metrics", get(metrics::show_anybody))
        .fallback(no_path)
        .method_not_allowed_fallback(no_method)
        .with_state(api);
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
