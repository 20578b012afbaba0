//! Client of the access server: rows are stated, never asked for in steps. Every request is an idempotent PUT or
//! DELETE; after a lost connection all rows of ours are stated again.

mod clients;
mod look;
mod stated;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use stackmap::{MacAddr, TrunkIndex, TunnelKind, TunnelSpec, Vlan};

use crate::model::Counters;

pub use clients::AccessClients;
pub use look::{AccessLook, LookDevice, LookHop, LookProgram, LookSite};
pub use stated::{StatedRow, StatedTunnel};

/// How long the access server may take to answer: the owner waits for it, and with the owner every tenant.
const DEADLINE: Duration = Duration::from_secs(3);
/// How long its status may take, which is asked for all the time.
const DEADLINE_STATUS: Duration = Duration::from_secs(1);
/// The same of one that did not answer lately: the owner waits for it, and with the owner everybody.
const DEADLINE_SILENT: Duration = Duration::from_millis(200);
/// How long replace-all may take: it has every row of ours.
const DEADLINE_ALL: Duration = Duration::from_secs(20);
/// How old a list of all rows may be that a pass over many tenants goes by.
const RECENT: Duration = Duration::from_secs(5);
/// One that did not answer in time is not asked again for this long, but for its status.
const QUIET: Duration = Duration::from_secs(10);

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
    /// It took the question and did not answer.
    #[error("the access server at {path} did not answer within {deadline:?}")]
    Silent {
        /// Socket.
        path: String,
        /// Time waited.
        deadline: Duration,
    },
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
    /// Nobody said which access server is the trunk's.
    #[error("trunk number {0} is none of this instance's trunks")]
    NoTrunk(TrunkIndex),
    /// Its answer does not parse.
    #[error("the access server's answer does not parse")]
    Answer(#[source] serde_json::Error),
}

impl AccessError {
    /// True when it is not there or does not answer: what it was asked may be right.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Broken(_) | Self::Silent { .. })
    }
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

impl Row {
    /// Its VLAN.
    pub fn vlan(&self) -> Vlan {
        self.vlan
    }
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
#[serde(from = "RowAsSent")]
pub struct StoredRow {
    /// VLAN.
    pub vlan: Vlan,
    /// Who stated it.
    pub owner: String,
    /// Longest inner packet in bytes that fits some tunnel of the VLAN. Not the shortest: what comes from the site with
    /// the longest must get in, and what goes to another is answered there with that tunnel's own MTU.
    pub mtu: u32,
    /// Generation last stated.
    pub generation: u64,
}

#[derive(Deserialize)]
struct RowAsSent {
    vlan: Vlan,
    owner: String,
    mtu: u32,
    generation: u64,
    tunnels: Vec<TunnelAsSent>,
}

#[derive(Deserialize)]
struct TunnelAsSent {
    mtu: u32,
}

impl From<RowAsSent> for StoredRow {
    fn from(row: RowAsSent) -> Self {
        let mtu = row.tunnels.iter().map(|t| t.mtu).max().unwrap_or(row.mtu);
        Self { vlan: row.vlan, owner: row.owner, mtu, generation: row.generation }
    }
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
    quiet_until: Option<Instant>,
    /// All rows as they were read at that time, with what was stated and withdrawn since.
    recent: Option<(Instant, BTreeMap<Vlan, StoredRow>)>,
}

impl AccessClient {
    /// A client that is not connected yet. `owner` marks the rows that are ours.
    pub fn new(socket: &Path, owner: String) -> Self {
        Self { socket: socket.to_path_buf(), owner, sender: None, quiet_until: None, recent: None }
    }

    /// Whether we stated the row.
    pub fn is_ours(&self, row: &StoredRow) -> bool {
        row.owner == self.owner
    }

    /// State one row.
    pub async fn put(&mut self, row: &Row) -> Result<StoredRow, AccessError> {
        let path = format!("/v1/vlans/{}", row.vlan);
        // The VLAN is in the path; everything else is the body.
        let mut body = serde_json::to_value(row).map_err(AccessError::Answer)?;
        if let Some(object) = body.as_object_mut() {
            object.remove("vlan");
        }
        let stored: StoredRow = self.call(Method::PUT, &path, Some(&body)).await?;
        if let Some((_, rows)) = &mut self.recent {
            rows.insert(row.vlan, stored.clone());
        }
        Ok(stored)
    }

    /// Take one row away; one that is not there is gone already.
    pub async fn delete(&mut self, vlan: Vlan) -> Result<(), AccessError> {
        let path = format!("/v1/vlans/{vlan}?owner={}", self.owner.replace('/', "%2F"));
        if let Some((_, rows)) = &mut self.recent {
            rows.remove(&vlan);
        }
        self.call::<(), serde_json::Value>(Method::DELETE, &path, None).await.map(drop)
    }

    /// State all rows at once: what is ours there and not in `rows` goes.
    pub async fn replace_all(&mut self, rows: &[Row]) -> Result<(), AccessError> {
        let path = format!("/v1/owners/{}/vlans", self.owner.replace('/', "%2F"));
        let body = serde_json::json!({ "rows": rows });
        self.recent = None;
        self.call_within::<_, serde_json::Value>(Method::PUT, &path, Some(&body), DEADLINE_ALL).await.map(drop)
    }

    /// Take away what is ours there and not of a VLAN in `wanted`.
    pub async fn delete_others(&mut self, wanted: &BTreeSet<Vlan>) -> Result<(), AccessError> {
        let rows: Vec<StoredRow> = self.call::<(), _>(Method::GET, "/v1/vlans", None).await?;
        for row in rows {
            if self.is_ours(&row) && !wanted.contains(&row.vlan) {
                self.delete(row.vlan).await?;
            }
        }
        Ok(())
    }

    /// One row as stored; `None` when there is none.
    pub async fn get(&mut self, vlan: Vlan) -> Result<Option<StoredRow>, AccessError> {
        match self.call::<(), StoredRow>(Method::GET, &format!("/v1/vlans/{vlan}"), None).await {
            Ok(row) => Ok(Some(row)),
            Err(AccessError::Refused { status: 404, .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// One row as it was at most `RECENT` ago: a pass over thousands of tenants asks once for all of them.
    pub async fn get_recent(&mut self, vlan: Vlan) -> Result<Option<StoredRow>, AccessError> {
        if let Some((read, rows)) = &self.recent
            && read.elapsed() < RECENT
        {
            return Ok(rows.get(&vlan).cloned());
        }
        self.recent = None;
        let read = Instant::now();
        let rows: Vec<StoredRow> = self.call_within::<(), _>(Method::GET, "/v1/vlans", None, DEADLINE_ALL).await?;
        let rows: BTreeMap<_, _> = rows.into_iter().map(|row| (row.vlan, row)).collect();
        let row = rows.get(&vlan).cloned();
        self.recent = Some((read, rows));
        Ok(row)
    }

    /// State of the access server.
    pub async fn status(&mut self) -> Result<AccessStatus, AccessError> {
        let quiet = self.quiet_until.take().filter(|until| Instant::now() < *until);
        let deadline = if quiet.is_some() { DEADLINE_SILENT } else { DEADLINE_STATUS };
        match self.call_within::<(), _>(Method::GET, "/v1/status", None, deadline).await {
            // Its silence goes on; when the quiet is over it gets its full time once more, for it may only be slow.
            Err(AccessError::Silent { .. }) if quiet.is_some() => {
                self.quiet_until = quiet;
                Err(self.silent(DEADLINE_STATUS))
            }
            answer => answer,
        }
    }

    /// Counters by VLAN; 0 is what could not be attributed.
    async fn counters(&mut self) -> Result<BTreeMap<u16, Counters>, AccessError> {
        let rows: Vec<CounterRow> = self.call::<(), _>(Method::GET, "/v1/counters", None).await?;
        Ok(rows.into_iter().map(|row| (row.vlan, row.counters)).collect())
    }

    /// Counters of one VLAN. An access server that is older than this question has no such path: it is asked for all.
    pub async fn counters_of(&mut self, vlan: Vlan) -> Result<Counters, AccessError> {
        match self.call::<(), CounterRow>(Method::GET, &format!("/v1/vlans/{vlan}/counters"), None).await {
            Ok(row) => Ok(row.counters),
            Err(AccessError::Refused { status: 404, .. }) => {
                Ok(self.counters().await?.remove(&vlan.get()).unwrap_or_default())
            }
            Err(other) => Err(other),
        }
    }

    async fn call<B: Serialize, T: for<'a> Deserialize<'a>>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, AccessError> {
        self.call_within(method, path, body, DEADLINE).await
    }

    async fn call_within<B: Serialize, T: for<'a> Deserialize<'a>>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&B>,
        deadline: Duration,
    ) -> Result<T, AccessError> {
        if self.quiet_until.is_some_and(|until| Instant::now() < until) {
            return Err(self.silent(deadline));
        }
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(AccessError::Answer)?,
            None => Vec::new(),
        };
        // A connection the server closed while idle shows only when it is used: one more try on a new one.
        let mut fresh = self.sender.is_none();
        loop {
            let sent = tokio::time::timeout(deadline, self.send(method.clone(), path, body.clone())).await;
            let sent = sent.unwrap_or_else(|_| {
                self.quiet_until = Some(Instant::now() + QUIET);
                Err(self.silent(deadline))
            });
            match sent {
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

    fn silent(&self, deadline: Duration) -> AccessError {
        AccessError::Silent { path: self.socket.display().to_string(), deadline }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn the_longest_packet_of_any_site_must_get_in() {
        let row = |tunnels: serde_json::Value| {
            let row = serde_json::json!({"vlan": 600, "owner": "tenantd/main", "mtu": 1450, "generation": 1,
                "layer": "mixed", "tunnels": tunnels});
            serde_json::from_value::<StoredRow>(row).unwrap().mtu
        };
        assert_eq!(row(serde_json::json!([{"kind": "vxlan", "mtu": 1450}, {"kind": "ipip", "mtu": 1480}])), 1480);
        assert_eq!(row(serde_json::json!([])), 1450);
    }

    #[tokio::test]
    async fn one_that_does_not_answer_is_left_alone_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        // Listens and never says a word, as a stopped process does.
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut client = AccessClient::new(&path, "tenantd/test".into());
        let started = Instant::now();
        let silent = client.get("600".parse().unwrap()).await.unwrap_err();
        assert!(matches!(silent, AccessError::Silent { .. }) && silent.is_away(), "{silent}");
        assert!(started.elapsed() >= DEADLINE, "{:?}", started.elapsed());
        let started = Instant::now();
        assert!(client.get("601".parse().unwrap()).await.unwrap_err().is_away());
        // Whoever asks it waits for the whole deadline.
        assert!(started.elapsed() < DEADLINE, "asked again at once");
        // Only its status, again and again, and the owner does not wait a second for it each time.
        let started = Instant::now();
        for _ in 0..4 {
            assert_eq!(client.status().await.unwrap_err().to_string(), client.silent(DEADLINE_STATUS).to_string());
        }
        assert!(started.elapsed() < 4 * DEADLINE_STATUS, "{:?}", started.elapsed());
        // With its full time when the quiet is over.
        client.quiet_until = Some(Instant::now());
        let started = Instant::now();
        assert!(client.status().await.unwrap_err().is_away());
        assert!(started.elapsed() >= DEADLINE_STATUS, "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn nobody_there_says_how_to_start_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut client = AccessClient::new(&dir.path().join("none.sock"), "tenantd/test".into());
        let away = client.status().await.unwrap_err();
        assert!(away.is_away() && away.to_string().contains("start it with: access-server run"), "{away}");
    }
}
