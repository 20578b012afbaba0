//! nginx under load: in a tenant, asked from its site through tunnel, access server, trunk and port; and behind a raw veth
//! pair, with a configuration like the package's.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};

use crate::netns::Netns;
use crate::sample;

const DIR: &str = "/run/lab/raw";
/// Connections that stay, each with its own thread.
const CONNECTIONS: usize = 4;
/// nginx ends a connection after 1000 requests.
const TURNS: usize = 900;
const KEPT: &[u8] = b"GET / HTTP/1.1\r\nHost: server\r\n\r\n";
const LAST: &[u8] = b"GET / HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n";

/// Where a server is asked from.
pub(super) struct Place {
    netns: File,
    server: SocketAddr,
}

impl Place {
    /// From the caller's network namespace.
    pub(super) fn here(server: Ipv4Addr) -> Result<Self> {
        Ok(Self { netns: File::open("/proc/thread-self/ns/net")?, server: (server, 80).into() })
    }

    /// Median of the requests of one connection that stays, microseconds.
    pub(super) fn latency(&self, duration: Duration) -> Result<f64> {
        self.inside(|| {
            let mut stream = self.connect()?;
            let (started, mut times) = (Instant::now(), Vec::new());
            while started.elapsed() < duration {
                if times.len() % TURNS == TURNS - 1 {
                    stream = self.connect()?;
                }
                let asked = Instant::now();
                ask(&mut stream)?;
                times.push(asked.elapsed().as_secs_f64() * 1e6);
            }
            Ok(sample::median(&times))
        })
    }

    /// Requests a second over connections that stay.
    pub(super) fn kept(&self, duration: Duration) -> Result<f64> {
        let answered = AtomicU64::new(0);
        let one = || {
            self.inside(|| {
                let mut stream = self.connect()?;
                let (started, mut own) = (Instant::now(), 0);
                while started.elapsed() < duration {
                    if own % TURNS == TURNS - 1 {
                        stream = self.connect()?;
                    }
                    ask(&mut stream)?;
                    own += 1;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        let started = Instant::now();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(one)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread died"))?)
        })?;
        Ok(answered.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64())
    }

    /// Requests a second, each over a connection of its own.
    pub(super) fn fresh(&self, duration: Duration) -> Result<f64> {
        self.inside(|| {
            let (started, mut answered) = (Instant::now(), 0.0);
            while started.elapsed() < duration {
                let mut stream = self.connect()?;
                stream.write_all(LAST)?;
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer)?;
                ensure!(answer.starts_with(b"HTTP/1.1 200"), "no page");
                answered += 1.0;
            }
            Ok(answered / started.elapsed().as_secs_f64())
        })
    }

    fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.server, Duration::from_secs(30)).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(stream)
    }

    fn inside<T: Send>(&self, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let entered = || {
                setns(&self.netns, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
                job()
            };
            scope.spawn(entered).join().map_err(|_| anyhow!("a thread died"))?
        })
    }
}

/// One request. The page comes with its header or after it.
fn ask(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(KEPT)?;
    let (mut answer, mut length) = ([0; 4096], 0);
    while whole(answer.get(..length).unwrap_or_default()) != Some(length) {
        let got = stream.read(answer.get_mut(length..).unwrap_or_default())?;
        ensure!(got > 0, "the server ends the connection");
        length += got;
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "no page");
    Ok(())
}

/// How long the answer is that begins so.
fn whole(answer: &[u8]) -> Option<usize> {
    let header = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(answer.get(..header)?).ok()?;
    let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: "))?;
    Some(header + length.trim().parse::<usize>().ok()?)
}

/// nginx behind a raw veth pair.
pub(super) struct Raw {
    pub(super) place: Place,
    nginx: Child,
    _server: Netns,
}

impl Raw {
    pub(super) fn start() -> Result<Self> {
        let (client, server) = (Netns::fresh()?, Netns::fresh()?);
        client.veth(("eth0", "02:00:5e:00:53:0a"), &server, ("eth0", "02:00:5e:00:53:01"))?;
        client.ip("address add 192.168.1.10/24 dev eth0\n")?;
        server.ip("address add 192.168.1.1/24 dev eth0\n")?;
        fs::create_dir_all(format!("{DIR}/www"))?;
        // As long as a tenant's page.
        fs::write(format!("{DIR}/www/index.html"), "server of whole-0\n")?;
        fs::write(format!("{DIR}/nginx.conf"), conf())?;
        let log = File::create(format!("{DIR}/log"))?;
        let nginx = server.run(|| {
            let mut command = Command::new("nginx");
            command.args(["-e", "stderr", "-c", &format!("{DIR}/nginx.conf")]).stdin(Stdio::null()).stderr(log);
            command.spawn().context("cannot run nginx")
        })?;
        let here = |client: &Netns| client.run(|| Place::here(Ipv4Addr::new(192, 168, 1, 1)));
        let raw = Self { place: here(&client)?, nginx, _server: server };
        let until = Instant::now() + Duration::from_secs(60);
        while let Err(error) = raw.place.latency(Duration::from_millis(1)) {
            ensure!(
                Instant::now() < until,
                "{error:#}: {}",
                fs::read_to_string(format!("{DIR}/log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(raw)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(self.nginx.id()).unwrap_or(0)),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.nginx.wait();
    }
}

/// What of the package's configuration matters for a small page.
fn conf() -> String {
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {DIR}/{kind}; "))
        .collect();
    format!(
        "daemon off;\nuser www-data;\nworker_processes auto;\npid {DIR}/nginx.pid;\nerror_log stderr;\n\
         events {{ worker_connections 768; }}\n\
         http {{ sendfile on; tcp_nopush on; types_hash_max_size 2048; types {{ text/html html; }}\n\
         access_log {DIR}/access.log; gzip on; {paths}\n\
         server {{ listen 80 default_server; listen [::]:80 default_server; root {DIR}/www; index index.html;\n\
         server_name _; location / {{ try_files $uri $uri/ =404; }} }} }}\n"
    )
}
