//! Client of the access server: rows are stated, never asked for in steps. Every request is an idempotent PUT or
//! DELETE; after a lost connection all rows of ours are stated again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use stackmap::{MacAddr, TunnelKind, TunnelSpec, Vlan};

use crate::model::{Counters, Tenant};

/// Why the access server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Nobody answers at the socket.
    #[error("the access server cannot be reached at {path}; start it with: access-server run")]
    Unreachable {
        /// Socket.
        path: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("the access server broke off")]
    Broken(#[source] hyper::Error),
    /// It refused, and said why.
    #[error("the access server refused: {detail}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its words.
        detail: String,
        /// Field of the request, if it named one.
        field: Option<String>,
        /// The field's value.
        value: Option<String>,
        /// The rule broken.
        rule: Option<String>,
    },
    /// Its answer does not parse.
    #[error("the access server's answer does not parse")]
    Answer(#[source] serde_json::Error),
}

/// One VLAN's row as it is stated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    vlan: Vlan,
    owner: String,
    generation: u64,
    origin: &'static str,
    lifetime_s: Option<u64>,
    server_mac: MacAddr,
    gateway_mac: MacAddr,
    tunnels: Vec<RowTunnel>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct RowTunnel {
    kind: TunnelKind,
    remote: IpAddr,
    local: Option<IpAddr>,
    key: Option<u32>,
    prefixes: Vec<IpNet>,
}

/// The row as the access server keeps it.
#[derive(Debug, Clone, Deserialize)]
pub struct StoredRow {
    /// VLAN.
    pub vlan: Vlan,
    /// Who stated it.
    pub owner: String,
    /// Longest inner packet in bytes that fits every tunnel of the VLAN.
    pub mtu: u32,
    /// Generation last stated.
    pub generation: u64,
}

/// State of the access server.
#[derive(Debug, Clone, Deserialize)]
pub struct AccessStatus {
    /// Its own outer addresses.
    pub local: Vec<IpAddr>,
}

#[derive(Deserialize)]
struct CounterRow {
    vlan: u16,
    #[serde(flatten)]
    counters: Counters,
}

#[derive(Deserialize, Default)]
struct Problem {
    detail: Option<String>,
    title: Option<String>,
    field: Option<String>,
    value: Option<serde_json::Value>,
    rule: Option<String>,
}

/// A connection, made anew when it broke.
pub struct AccessClient {
    socket: PathBuf,
    owner: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl AccessClient {
    /// A client that is not connected yet. `owner` marks the rows that are ours.
    pub fn new(socket: &Path, owner: String) -> Self {
        Self { socket: socket.to_path_buf(), owner, sender: None }
    }

    /// Whether we stated the row.
    pub fn is_ours(&self, row: &StoredRow) -> bool {
        row.owner == self.owner
    }

    /// The row that states `tenant`; `None` for one without a VLAN or without tunnels.
    pub fn row(&self, tenant: &Tenant, gateway_mac: MacAddr) -> Option<Row> {
        if tenant.tunnels.is_empty() {
            return None;
        }
        Some(Row {
            vlan: tenant.vlan?,
            owner: self.owner.clone(),
            generation: tenant.generation,
            origin: "operator",
            lifetime_s: None,
            server_mac: tenant.mac?,
            gateway_mac,
            tunnels: tenant.tunnels.iter().map(row_tunnel).collect(),
        })
    }

    /// State one row.
    pub async fn put(&mut self, row: &Row) -> Result<StoredRow, AccessError> {
        let path = format!("/v1/vlans/{}", row.vlan);
        // The VLAN is in the path; everything else is the body.
        let mut body = serde_json::to_value(row).map_err(AccessError::Answer)?;
        if let Some(object) = body.as_object_mut() {
            object.remove("vlan");
        }
        self.call(Method::PUT, &path, Some(&body)).await
    }

    /// Take one row away; one that is not there is gone already.
    pub async fn delete(&mut self, vlan: Vlan) -> Result<(), AccessError> {
        let path = format!("/v1/vlans/{vlan}?owner={}", self.owner.replace('/', "%2F"));
        self.call::<(), serde_json::Value>(Method::DELETE, &path, None).await.map(drop)
    }

    /// State all rows at once: what is ours there and not in `rows` goes.
    pub async fn replace_all(&mut self, rows: &[Row]) -> Result<(), AccessError> {
        let path = format!("/v1/owners/{}/vlans", self.owner.replace('/', "%2F"));
        let body = serde_json::json!({ "rows": rows });
        self.call::<_, serde_json::Value>(Method::PUT, &path, Some(&body)).await.map(drop)
    }

    /// One row as stored; `None` when there is none.
    pub async fn get(&mut self, vlan: Vlan) -> Result<Option<StoredRow>, AccessError> {
        match self.call::<(), StoredRow>(Method::GET, &format!("/v1/vlans/{vlan}"), None).await {
            Ok(row) => Ok(Some(row)),
            Err(AccessError::Refused { status: 404, .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// State of the access server.
    pub async fn status(&mut self) -> Result<AccessStatus, AccessError> {
        self.call::<(), _>(Method::GET, "/v1/status", None).await
    }

    /// Counters by VLAN; 0 is what could not be attributed.
    pub async fn counters(&mut self) -> Result<BTreeMap<u16, Counters>, AccessError> {
        let rows: Vec<CounterRow> = self.call::<(), _>(Method::GET, "/v1/counters", None).await?;
        Ok(rows.into_iter().map(|row| (row.vlan, row.counters)).collect())
    }

    async fn call<B: Serialize, T: for<'a> Deserialize<'a>>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, AccessError> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(AccessError::Answer)?,
            None => Vec::new(),
        };
        // A connection the server closed while idle shows only when it is used: one more try on a new one.
        let mut fresh = self.sender.is_none();
        loop {
            match self.send(method.clone(), path, body.clone()).await {
                Err(AccessError::Broken(_)) if !fresh => {
                    fresh = true;
                    self.sender = None;
                }
                Err(error) => {
                    if !matches!(error, AccessError::Refused { .. }) {
                        self.sender = None;
                    }
                    return Err(error);
                }
                Ok(bytes) => {
                    let bytes = if bytes.is_empty() { Bytes::from_static(b"null") } else { bytes };
                    return serde_json::from_slice(&bytes).map_err(AccessError::Answer);
                }
            }
        }
    }

    async fn send(&mut self, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, AccessError> {
        let sender = self.connected().await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "access-server")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| AccessError::Refused {
                status: 0,
                detail: e.to_string(),
                field: None,
                value: None,
                rule: None,
            })?;
        let response = sender.send_request(request).await.map_err(AccessError::Broken)?;
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(AccessError::Broken)?.to_bytes();
        if status.is_success() { Ok(bytes) } else { Err(refusal(status, &bytes)) }
    }

    async fn connected(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, AccessError> {
        let usable = self.sender.as_mut().filter(|s| !s.is_closed()).is_some();
        if !usable {
            let stream = tokio::net::UnixStream::connect(&self.socket)
                .await
                .map_err(|source| AccessError::Unreachable { path: self.socket.display().to_string(), source })?;
            let (sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(AccessError::Broken)?;
            tokio::spawn(connection);
            self.sender = Some(sender);
        }
        let sender = self.sender.as_mut().ok_or_else(|| AccessError::Unreachable {
            path: self.socket.display().to_string(),
            source: std::io::ErrorKind::NotConnected.into(),
        })?;
        sender.ready().await.map_err(AccessError::Broken)?;
        Ok(sender)
    }
}

fn row_tunnel(spec: &TunnelSpec) -> RowTunnel {
    RowTunnel {
        kind: spec.kind(),
        remote: spec.remote(),
        local: spec.local(),
        key: spec.key(),
        prefixes: spec.prefixes().to_vec(),
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> AccessError {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    AccessError::Refused {
        status: status.as_u16(),
        detail: problem.detail.or(problem.title).unwrap_or_else(|| status.to_string()),
        field: problem.field,
        value: problem.value.map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)),
        rule: problem.rule,
    }
}
