//! What another tenant's customer sees all the time: datagrams a hundred times a second, each of which must come back,
//! and one connection that must live.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use system_tests::plan::SERVER_INNER_V4;
use system_tests::world::{Running, World, eventually};

use super::ask::{ask, tenantd_socket};

/// Sends back what it gets, datagrams and connections.
const SERVER: &str = r#"
import socket, threading
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
# What comes while this process is not let run waits here.
udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
udp.bind(("", 7007))
tcp = socket.socket()
tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
tcp.bind(("", 7007))
tcp.listen(8)
def one(connection):
    while data := connection.recv(65536):
        connection.sendall(data)
def accept():
    while True:
        threading.Thread(target=one, args=(tcp.accept()[0],), daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
while True:
    data, peer = udp.recvfrom(2048)
    udp.sendto(data, peer)
"#;

/// Until its standard input ends; then it waits for the last answers and says what came of them.
const CLIENT: &str = r#"
import json, select, socket, sys, threading, time
server = (sys.argv[1], 7007)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
udp.connect(server)
tcp = socket.create_connection(server, 20)
tcp.settimeout(20)
sent, got, lines, ended, slow = 0, set(), 0, "", 0.0
stop = threading.Event()
def receive():
    while True:
        try:
            got.add(udp.recv(100))
        except ConnectionError:
            pass
def connection():
    global lines, ended, slow
    try:
        while not stop.is_set():
            line = b"%08d" % lines
            at = time.monotonic()
            tcp.sendall(line)
            back = b""
            while len(back) < len(line):
                data = tcp.recv(len(line) - len(back))
                if not data:
                    raise OSError("ended by the server")
                back += data
            if back != line:
                raise OSError("another line came back")
            lines += 1
            slow = max(slow, time.monotonic() - at)
            time.sleep(0.02)
    except OSError as error:
        ended = str(error) or "timed out"
threading.Thread(target=receive, daemon=True).start()
thread = threading.Thread(target=connection, daemon=True)
thread.start()
print("on", flush=True)
while not select.select([sys.stdin], [], [], 0.01)[0]:
    try:
        udp.send(b"%08d" % sent)
    except ConnectionError:
        pass
    sent += 1
stop.set()
thread.join(25)
# What is under way comes late on a busy machine; what is lost never comes.
end = time.monotonic() + 20
while len(got) < sent and time.monotonic() < end:
    time.sleep(0.02)
lost = [n for n in range(sent) if b"%08d" % n not in got]
print(json.dumps({"sent": sent, "lost": len(lost), "which": lost[:20], "lines": lines, "ended": ended, "slow_ms": int(slow * 1000)}))
"#;

/// A customer's traffic under way.
pub(crate) struct Stream {
    running: Running,
}

/// Gives a tenant the server that answers.
pub(crate) fn serve(world: &World, tenant: &str) -> Result<()> {
    let body = json!({"name": "echo", "command": ["/usr/bin/python3", "-c", SERVER]});
    ask("POST", format!("/v1/tenants/{tenant}/services")).with(body).granted(&tenantd_socket(world)).map(drop)
}

impl Stream {
    /// Starts it from a customer's host.
    pub(crate) fn start(world: &World, host: &str) -> Result<Self> {
        eventually("the echo answers", Duration::from_secs(30), || {
            let test = format!("import socket; socket.create_connection(('{SERVER_INNER_V4}', 7007), 5)");
            world.ok(host, &["/usr/bin/python3", "-c", &test]).ok()
        })?;
        Ok(Self { running: world.spawn(host, &["/usr/bin/python3", "-c", CLIENT, SERVER_INNER_V4])? })
    }

    /// Ends it; nothing may be lost.
    pub(crate) fn unharmed(self) -> Result<Value> {
        let output = self.running.wait(Duration::from_secs(90))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().last().unwrap_or_default();
        let found: Value = serde_json::from_str(last)
            .with_context(|| format!("the client said {text:?} {}", String::from_utf8_lossy(&output.stderr)))?;
        ensure!(found["sent"].as_u64() > Some(10) && found["lines"].as_u64() > Some(5), "no traffic: {found}");
        ensure!(found["lost"] == 0 && found["ended"] == "", "another tenant lost something: {found}");
        Ok(found)
    }
}
