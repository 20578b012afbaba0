//! Our way: two requests to the API, then the site asks for the page. And the asking, which is the same for all ways.
//!
//! The site's client sits in the gateway, as in the first rows of the data path; every tenant has a gateway address of
//! its own, put on before the clock runs.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use system_tests::daemons::INSTANCE;
use system_tests::nodes;

use crate::bare::{self, Constants, Program, Target};
use crate::netns::Netns;
use crate::rows::{ACCESS, GATEWAY};

/// The server's address, in every way and every tenant.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
/// Who asks.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
/// Nothing a tenant does may take this long, also on a machine that stands still for seconds: the first repeat of a lost
/// SYN comes after one second.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries while nobody listens yet.
const AGAIN: Duration = Duration::from_micros(100);

/// Asks 192.168.1.1 for its page until it is answered. A connection that nobody refuses is waited for as any client
/// waits for it: what a lost packet costs is not hidden.
pub(super) fn get() -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let server = SocketAddr::from((SERVER, 80));
    loop {
        match TcpStream::connect_timeout(&server, PATIENCE) {
            Ok(stream) => return answered(stream),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && Instant::now() < until => {
                std::thread::sleep(AGAIN);
            }
            Err(error) => return Err(error).context("nobody answers at 192.168.1.1:80"),
        }
    }
}

fn answered(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").context("cannot ask")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("no answer")?;
    let line = String::from_utf8_lossy(&answer);
    ensure!(line.starts_with("HTTP/1.1 200"), "the server answers {:?}", line.lines().next());
    Ok(())
}

/// A tenant of ours that was made, in milliseconds.
pub(crate) struct Made {
    pub(super) total: f64,
    pub(super) tenant: f64,
    pub(super) service: f64,
    pub(super) steps: Vec<(String, f64)>,
}

/// The API and the gateway.
pub(crate) struct Ours {
    gateway: Netns,
    netns: File,
}

impl Ours {
    pub(crate) fn new() -> Result<Self> {
        let path = nodes::netns_path("gw-a");
        let gateway = Netns::open(&path)?;
        gateway.ip(&format!(
            "address add {HOST}/32 dev wire\nroute add {SERVER}/32 via {ACCESS} dev wire src {HOST} mtu 1480\n"
        ))?;
        let server = Netns::open(&nodes::netns_path("server"))?;
        server.ip(&format!("route add 10.200.0.0/16 via {GATEWAY} dev wan0\n"))?;
        Ok(Self { gateway, netns: File::open(path)? })
    }

    /// Makes tenant number `n` and asks its server from its site.
    pub(crate) fn tenant(&mut self, n: usize) -> Result<Made> {
        let [high, low] = u16::try_from(n)?.to_be_bytes();
        let local = Ipv4Addr::new(10, 200, high, low);
        self.gateway.ip(&format!("address add {local}/32 dev wire\n"))?;
        let constants =
            Constants { local, remote: ACCESS, ipip_to: SERVER, target: Target::None, ..Constants::default() };
        for program in [Program::EncapOut, Program::DecapIn] {
            bare::attach(&self.gateway, "wire", program, &constants)?;
        }
        // Each way moves this thread to where its site is.
        setns(&self.netns, CloneFlags::CLONE_NEWNET).context("cannot enter the gateway")?;
        let name = format!("whole-{n}");
        let tenant = json!({
            "name": name, "vlan": n + 1, "addresses": [format!("{SERVER}/24")],
            "tunnels": [format!("ipip:{local},local={ACCESS}")],
        });
        let service = json!({"name": "web", "template": "nginx"});
        let started = Instant::now();
        let added = post("/v1/tenants", &tenant)?;
        let tenant = started.elapsed();
        // The site asks when it likes, not when the operator has been answered.
        let answer = ask(&format!("/v1/tenants/{name}/services"), &service)?;
        let got = get();
        let total = started.elapsed();
        // A refusal says more than the silence that follows it.
        read(answer)?;
        got.with_context(|| name.clone())?;
        let service = started.elapsed();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Ok(Made { total: ms(total), tenant: ms(tenant), service: ms(service - tenant), steps: steps(&added) })
    }
}

fn steps(added: &Value) -> Vec<(String, f64)> {
    let step = |step: &Value| Some((step["name"].as_str()?.to_owned(), step["us"].as_f64()? / 1e3));
    added["steps"].as_array().into_iter().flatten().filter_map(step).collect()
}

/// One request to the daemon and its answer.
fn post(path: &str, body: &Value) -> Result<Value> {
    read(ask(path, body)?)
}

/// Sends a request.
fn ask(path: &str, body: &Value) -> Result<UnixStream> {
    let socket = format!("/run/tenantd/{INSTANCE}/api.sock");
    let mut stream = UnixStream::connect(Path::new(&socket)).with_context(|| format!("cannot connect to {socket}"))?;
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: tenantd\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    Ok(stream)
}

fn read(mut stream: UnixStream) -> Result<Value> {
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("the API answers {answer:?}"))?;
    if !head.starts_with("HTTP/1.1 2") {
        bail!("the API answers {answer}");
    }
    serde_json::from_str(body).with_context(|| format!("the API answers {body:?}"))
}
