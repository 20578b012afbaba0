//! Questions to a world's `tenantd`, on one connection: what takes thousands of questions must not start a process for
//! each.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::daemons::INSTANCE;
use crate::world::World;

/// An answer takes no longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// A way to the API.
pub struct Api {
    socket: PathBuf,
    stream: Option<BufReader<UnixStream>>,
}

impl Api {
    /// The API of a world's server; the caller need not be in the world.
    #[must_use]
    pub fn of(world: &World) -> Self {
        Self { socket: world.path(&format!("/run/tenantd/{INSTANCE}/api.sock")), stream: None }
    }

    /// Asks; an answer that is no success is an error with all it says.
    ///
    /// # Errors
    /// Nobody answers, or it is refused.
    pub fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        self.timed(method, path, body).map(|(answer, _)| answer)
    }

    /// As [`Api::ask`], with the milliseconds it took.
    ///
    /// # Errors
    /// As [`Api::ask`].
    pub fn timed(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<(Value, f64)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: tenantd\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let started = Instant::now();
        let answered = self.exchange(&request);
        if answered.is_err() {
            // The next one on a new connection.
            self.stream = None;
        }
        let (status, answer) = answered.with_context(|| format!("{method} {path}"))?;
        let took = started.elapsed().as_secs_f64() * 1e3;
        if !(200..300).contains(&status) {
            bail!("{method} {path}: {status} {answer}");
        }
        let answer = if answer.is_empty() { Value::Null } else { serde_json::from_str(&answer)? };
        Ok((answer, took))
    }

    fn exchange(&mut self, request: &str) -> Result<(u16, String)> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream = UnixStream::connect(&self.socket).context("nobody listens")?;
                stream.set_read_timeout(Some(PATIENCE))?;
                none.insert(BufReader::new(stream))
            }
        };
        stream.get_mut().write_all(request.as_bytes())?;
        let (mut line, mut length) = (String::new(), 0);
        stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|word| word.parse().ok()).context("no answer")?;
        loop {
            line.clear();
            stream.read_line(&mut line)?;
            if line.trim_end().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        Ok((status, String::from_utf8(body)?))
    }
}
