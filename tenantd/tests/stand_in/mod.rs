//! What stands behind the socket in tests of the command line: it answers from a list and writes down what it was
//! asked. Every question asked must be one of the OpenAPI document.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, mpsc};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A socket on which prepared answers are given.
pub(crate) struct Daemon {
    pub(crate) socket: PathBuf,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    _dir: TempDir,
}

#[derive(Clone)]
struct Answers {
    answers: Arc<BTreeMap<&'static str, (u16, Value)>>,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

/// Starts a stand-in; an answer is found by `METHOD PATH`, its status by the first number.
pub(crate) fn daemon(answers: &[(&'static str, u16, Value)]) -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("api.sock");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let answers = answers.iter().map(|(question, status, answer)| (*question, (*status, answer.clone()))).collect();
    let state = Answers { answers: Arc::new(answers), asked: asked.clone() };
    let (ready, is_ready) = mpsc::channel();
    let path = socket.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::UnixListener::bind(path).unwrap();
            ready.send(()).unwrap();
            axum::serve(listener, Router::new().fallback(answer).with_state(state)).await.unwrap();
        });
    });
    is_ready.recv().unwrap();
    Daemon { socket, asked, _dir: dir }
}

async fn answer(State(state): State<Answers>, method: Method, uri: Uri, body: Bytes) -> Response {
    let question = format!("{method} {uri}");
    let found = state.answers.get(question.as_str()).cloned();
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    state.asked.lock().unwrap().push((question.clone(), body));
    let Some((status, answer)) = found else {
        return (StatusCode::IM_A_TEAPOT, format!("no answer prepared for {question}")).into_response();
    };
    let media = if status < 400 { "application/json" } else { "application/problem+json" };
    let text = match answer {
        Value::Null => String::new(),
        Value::String(text) => text,
        value => value.to_string(),
    };
    (StatusCode::from_u16(status).unwrap(), [(header::CONTENT_TYPE, media)], text).into_response()
}

impl Daemon {
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        tenantd(&self.socket, args)
    }

    /// Runs a verb that must be done; returns what it printed.
    pub(crate) fn done(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(code(&output), 0, "{args:?}: {}", err(&output));
        assert_eq!(err(&output), "", "{args:?}");
        out(&output)
    }

    /// The questions asked since the last time, all of which must be routes of the API.
    pub(crate) fn asked(&self) -> Vec<(String, Value)> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        for (question, _) in &asked {
            assert!(is_route(question), "{question} is not in the OpenAPI document");
        }
        asked
    }
}

fn is_route(question: &str) -> bool {
    let (method, path) = question.split_once(' ').unwrap();
    let path = path.split('?').next().unwrap();
    let document = serde_json::to_value(tenantd::api::openapi()).unwrap();
    document["paths"].as_object().unwrap().iter().any(|(pattern, item)| {
        let (pattern, path): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
        let fits = |(p, s): (&&str, &&str)| p.starts_with('{') || p == s;
        pattern.len() == path.len() && pattern.iter().zip(&path).all(fits) && item.get(method.to_lowercase()).is_some()
    })
}

pub(crate) fn tenantd(socket: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenantd"));
    command.args(args).env("TENANTD_SOCKET", socket).env_remove("TENANTD_INSTANCE").output().unwrap()
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

pub(crate) fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[allow(dead_code, reason = "not every test program asks for it")]
pub(crate) fn acme() -> Value {
    json!({
        "name": "acme", "stack": "inet0", "vlan": 600, "gid": 524_288, "device": "dev0", "whole_device": false,
        "mac": "02:00:00:00:12:58", "addresses": ["192.168.1.1/24"],
        "tunnels": [{"kind": "ipip", "remote": "198.51.100.2", "local": null, "key": null, "prefixes": []}],
        "dns": [], "gateway": null, "routes": [{"to": "10.0.0.0/8", "via": "192.168.1.254"}],
        "services": [{"name": "web", "template": "nginx", "set": {"root": "/srv"}, "command": []}], "generation": 3
    })
}

#[allow(dead_code, reason = "not every test program asks for it")]
pub(crate) fn status(pid: i32, netns: u64) -> Value {
    json!({
        "name": "acme", "state": "ready", "init_pid": pid, "netns": netns, "mtu": 1480,
        "services": [{"name": "web", "state": "running", "pid": 12, "restarts": 1, "last_exit": "signal 9"}],
        "counters": {"rx_packets": 5, "rx_bytes": 500, "tx_packets": 4, "tx_bytes": 400, "drops": {"spoof": 2, "mtu": 0}}
    })
}
