//! Asks a daemon over its socket, as any HTTP client may, without a process for each question.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use system_tests::world::World;

/// Longer than any daemon may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// A question: method, path, body.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// `GET`, `PUT` and so on.
    pub(crate) method: &'static str,
    /// Path with its query.
    pub(crate) path: String,
    /// JSON.
    pub(crate) body: Option<Value>,
}

/// A question without a body.
pub(crate) fn ask(method: &'static str, path: impl Into<String>) -> Ask {
    Ask { method, path: path.into(), body: None }
}

impl Ask {
    /// With a body.
    pub(crate) fn with(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    /// Asks; none when the daemon ended before it answered.
    pub(crate) fn of(&self, socket: &Path) -> Result<Option<(u16, Value)>> {
        let mut stream = UnixStream::connect(socket).with_context(|| format!("cannot reach {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = self.body.as_ref().map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{} {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.method,
            self.path,
            body.len()
        );
        let mut answer = Vec::new();
        let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        match sent.and_then(|()| stream.read_to_end(&mut answer)) {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => bail!("{self:?}: no answer within {PATIENCE:?}"),
            // Reset or broken: as good as an end.
            Err(_) if answer.is_empty() => return Ok(None),
            _ => {}
        }
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(None) };
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("an answer without a status")?;
        Ok(Some((status, serde_json::from_str(body).unwrap_or(Value::Null))))
    }

    /// Asks, and it must be granted.
    pub(crate) fn granted(&self, socket: &Path) -> Result<Value> {
        let (status, answer) = self.of(socket)?.with_context(|| format!("{self:?}: the daemon ended"))?;
        ensure!((200..300).contains(&status), "{self:?}: {status} {answer}");
        Ok(answer)
    }
}

/// Where a world's tenantd is asked.
pub(crate) fn tenantd_socket(world: &World) -> PathBuf {
    world.path("/run/tenantd/main/api.sock")
}

/// Where a world's access server is asked.
pub(crate) fn access_socket(world: &World) -> PathBuf {
    world.path("/run/access-server/main/api.sock")
}
