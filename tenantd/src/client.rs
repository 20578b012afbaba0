//! The command line's way to the daemon: HTTP/1.1 over the Unix socket, one connection a call.
//!
//! Blocking on purpose: a verb asks one or two questions and ends, so a runtime of one thread inside is all it takes.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;

use crate::api::socket::GROUP;
use crate::config::{DEFAULT_INSTANCE, default_socket};
use crate::problem::{MEDIA_TYPE, Problem};

/// Why a question has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("the daemon is not running at {}; start it with: tenantd run{}", .0.display(), options_of(.0))]
    NotRunning(PathBuf),
    /// The socket is there, but not for us.
    #[error("no permission for the socket {}: it is for root and members of the group {GROUP}", .0.display())]
    NoPermission(PathBuf),
    /// Another reason not to reach the socket.
    #[error("cannot reach the daemon at {}", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error(
        "the daemon at {} broke off before it answered: it ended or was started again, and what was asked for may be \
         done or not; look, and ask again", .path.display()
    )]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: hyper::Error,
    },
    /// The daemon refused or failed.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
    /// An answer we do not understand.
    #[error("the daemon at {} answers what this program does not understand ({status}): {reason}", .path.display())]
    Strange {
        /// The socket.
        path: PathBuf,
        /// HTTP status.
        status: StatusCode,
        /// What is wrong with it.
        reason: String,
    },
    /// What was received could not be handed on.
    #[error("cannot write")]
    Sink(#[source] io::Error),
}

/// The options, with a leading blank, that make a daemon listen at `socket`.
fn options_of(socket: &Path) -> String {
    let run_dir = socket.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
    match socket {
        path if path == default_socket(DEFAULT_INSTANCE) => String::new(),
        path if path == default_socket(run_dir) => format!(" --instance {run_dir}"),
        path => format!(" --socket {}", path.display()),
    }
}

/// How long a client waits before it tries again to reach the daemon. Nothing else runs in it.
const AGAIN: Duration = Duration::from_millis(50);

/// How long a client tries: a new daemon with 4,000 tenants listens within this time.
const TAKE_OVER: Duration = Duration::from_secs(3);

/// Whether the next try may go better.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused)
}

/// A daemon that may be asked.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

/// A good answer as received.
#[derive(Debug)]
pub struct Answer {
    socket: PathBuf,
    status: StatusCode,
    body: Bytes,
}

impl Answer {
    /// The body as received; empty for "done, nothing to say".
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// The body as a value.
    ///
    /// # Errors
    /// [`ClientError::Strange`] when it is of another shape.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|e| ClientError::Strange {
            path: self.socket.clone(),
            status: self.status,
            reason: e.to_string(),
        })
    }
}

impl Client {
    /// A client of the daemon at `socket`; does not connect yet.
    ///
    /// # Errors
    /// When the system gives no event queue.
    pub fn new(socket: impl Into<PathBuf>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        Ok(Self { socket: socket.into(), runtime })
    }

    /// Where the daemon is looked for.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks `GET path`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn get(&self, path: &str) -> Result<Answer, ClientError> {
        self.call(Method::GET, path, None)
    }

    /// Asks with any method; `body` is JSON.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn call(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Answer, ClientError> {
        self.runtime.block_on(async {
            let response = self.send(method, path, body).await?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(|source| self.broken(source))?.to_bytes();
            Ok(Answer { socket: self.socket.clone(), status, body })
        })
    }

    /// Asks `POST path` with a body that is no JSON.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn upload(&self, path: &str, media_type: &'static str, body: Vec<u8>) -> Result<Answer, ClientError> {
        self.runtime.block_on(async {
            let response = self.send_as(Method::POST, path, Some(body), media_type).await?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(|source| self.broken(source))?.to_bytes();
            Ok(Answer { socket: self.socket.clone(), status, body })
        })
    }

    /// Asks `GET path` and hands on every piece as it comes, until the daemon ends it or `sink` fails.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Sink`] is what `sink` said.
    pub fn stream(&self, path: &str, sink: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), ClientError> {
        self.stream_of(Method::GET, path, None, sink)
    }

    /// As [`stream`](Self::stream), with any method; `body` is JSON.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub fn stream_of(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        mut sink: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        self.runtime.block_on(async {
            let mut body = self.send(method, path, body).await?.into_body();
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame.map_err(|source| self.broken(source))?.into_data() {
                    sink(&data).map_err(ClientError::Sink)?;
                }
            }
            Ok(())
        })
    }

    async fn send(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Response<Incoming>, ClientError> {
        self.send_as(method, path, body, "application/json").await
    }

    async fn send_as(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        media_type: &'static str,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = self.connect().await.map_err(|e| self.unreachable(e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|source| self.broken(source))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "tenantd")
            .header(header::CONTENT_TYPE, media_type)
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|e| self.strange(StatusCode::BAD_REQUEST, format!("request {path:?}: {e}")))?;
        let response = sender.send_request(request).await.map_err(|source| self.broken(source))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let is_problem = response.headers().get(header::CONTENT_TYPE).is_some_and(|v| v == MEDIA_TYPE);
        let body = response.into_body().collect().await.map_err(|source| self.broken(source))?.to_bytes();
        if !is_problem {
            return Err(self.strange(status, String::from_utf8_lossy(&body).chars().take(200).collect()));
        }
        let problem = serde_json::from_slice(&body).map_err(|e| self.strange(status, e.to_string()))?;
        Err(ClientError::Refused(Box::new(problem)))
    }

    /// Waits for a daemon that is being replaced, or has more callers than it takes at once. A socket on which nobody
    /// listens is one whose daemon has just ended (a new one moves its own into place); where there is none, there was
    /// no daemon and nothing is waited for.
    async fn connect(&self) -> io::Result<tokio::net::UnixStream> {
        let until = Instant::now() + TAKE_OVER;
        loop {
            match tokio::net::UnixStream::connect(&self.socket).await {
                Err(e) if Instant::now() < until && is_passing(&e) => std::thread::sleep(AGAIN),
                answer => return answer,
            }
        }
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        let path = self.socket.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning(path),
            io::ErrorKind::PermissionDenied => ClientError::NoPermission(path),
            _ => ClientError::Connect { path, source },
        }
    }

    fn broken(&self, source: hyper::Error) -> ClientError {
        ClientError::Broken { path: self.socket.clone(), source }
    }

    fn strange(&self, status: StatusCode, reason: String) -> ClientError {
        ClientError::Strange { path: self.socket.clone(), status, reason }
    }
}

/// What stays as it is in a path segment (RFC 3986 unreserved).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One path segment, percent-encoded.
pub fn segment(value: impl ToString) -> String {
    utf8_percent_encode(&value.to_string(), SEGMENT).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_tunnel_is_one_segment() {
        assert_eq!(segment("gre:fd00::1,prefix=10.0.0.0/8"), "gre%3Afd00%3A%3A1%2Cprefix%3D10.0.0.0%2F8");
    }

    #[test]
    fn nobody_there_says_how_to_start() {
        let client = Client::new("/nonexistent/api.sock").unwrap();
        assert_eq!(
            client.get("/v1/status").unwrap_err().to_string(),
            "the daemon is not running at /nonexistent/api.sock; start it with: tenantd run --socket /nonexistent/api.sock"
        );
    }
}
