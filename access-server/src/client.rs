//! The client side of the API, over the same Unix socket: what the command line is made of.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;

use crate::config::Places;
use crate::problem::Problem;
use crate::socket::{GROUP, group_name};

/// Everything but RFC 3986's unreserved characters.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How long a client waits before it tries again to reach the daemon.
const AGAIN: Duration = Duration::from_millis(50);
/// How long a client tries: a new daemon with 4,000 rows listens within this time.
const TAKE_OVER: Duration = Duration::from_secs(3);

/// A request that was not done.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody answers on the socket.
    #[error("no daemon answers on {}: start it with `access-server run --wan DEV --local ADDR{instance}`", .socket.display())]
    NoDaemon {
        /// The socket.
        socket: PathBuf,
        /// The option that names the instance, with a leading blank.
        instance: String,
    },
    /// The socket is not for this user.
    #[error("no permission to use {}: only root and members of group {group} may", .socket.display())]
    Permission {
        /// The socket.
        socket: PathBuf,
        /// The group.
        group: String,
    },
    /// The socket could not be reached for another reason.
    #[error("cannot connect to {}", .socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The daemon hung up, or does not speak HTTP.
    #[error("the daemon did not answer properly")]
    Http(#[source] hyper::Error),
    /// The request cannot be written down.
    #[error("the request cannot be made")]
    Request(#[source] hyper::http::Error),
    /// The answer is not what this version knows.
    #[error("the answer of the daemon cannot be read (status {status})")]
    Answer {
        /// The HTTP status.
        status: StatusCode,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The daemon refused.
    #[error("{}", .0.detail)]
    Refused(Problem),
}

/// A client of one instance's daemon.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    instance: String,
}

impl Client {
    /// A client of the daemon in these places. Connects for each request.
    pub fn new(places: &Places<'_>) -> Self {
        let instance = match places.instance {
            "main" => String::new(),
            other => format!(" --instance {other}"),
        };
        Self { socket: places.socket(), instance }
    }

    /// Asks and reads the answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send(Method::GET, path, Bytes::new()).await?.read()
    }

    /// Puts `body` there, or what the path alone describes when it is empty, and reads the answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: impl Into<Bytes>) -> Result<T, ClientError> {
        self.send(Method::PUT, path, body.into()).await?.read()
    }

    /// Deletes something.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.send(Method::DELETE, path, Bytes::new()).await.map(|_| ())
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, ClientError> {
        let stream = self.connect().await.map_err(|error| self.no_connection(error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::Http)?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "access-server")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(ClientError::Request)?;
        let response = sender.send_request(request).await.map_err(ClientError::Http)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(ClientError::Http)?.to_bytes();
        connection.abort();
        let answer = Answer { status, body };
        if status.is_success() { Ok(answer) } else { Err(ClientError::Refused(answer.read()?)) }
    }

    /// A socket on which nobody listens is one whose daemon has just ended: the next one moves its own into place. Where
    /// there is none, there was no daemon and nothing is waited for.
    async fn connect(&self) -> io::Result<UnixStream> {
        let until = Instant::now() + TAKE_OVER;
        loop {
            match UnixStream::connect(&self.socket).await {
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused && Instant::now() < until => {
                    tokio::time::sleep(AGAIN).await;
                }
                answer => return answer,
            }
        }
    }

    /// Whether a daemon listens now; nothing is waited for.
    pub async fn is_answered(&self) -> bool {
        UnixStream::connect(&self.socket).await.is_ok()
    }

    fn no_connection(&self, source: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoDaemon { socket, instance: self.instance.clone() }
            }
            io::ErrorKind::PermissionDenied => ClientError::Permission { group: group_of(&socket), socket },
            _ => ClientError::Connect { socket, source },
        }
    }
}

struct Answer {
    status: StatusCode,
    body: Bytes,
}

impl Answer {
    fn read<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|source| ClientError::Answer { status: self.status, source })
    }
}

/// Text as one segment of a path or as a value of a query.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, IN_PATH).to_string()
}

fn group_of(socket: &Path) -> String {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let gid = std::fs::metadata(socket).map(|meta| meta.gid());
    gid.ok().and_then(|gid| group_name(&groups, gid)).unwrap_or_else(|| GROUP.to_owned())
}
