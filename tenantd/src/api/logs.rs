//! `/v1/tenants/{name}/logs/{service}`: the end of a service's log, and what is written from now on.
//!
//! The file is written by the tenant's side: it may be cut, replaced or not be there yet, and it is never followed
//! through a link. Following looks at the file four times a second; there is no watcher that sees every file system.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::Stream;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};

use super::extract::{self, flag};
use super::openapi::Refused;
use crate::control::Handle;
use crate::problem::{Problem, ProblemKind};

/// How much of the past is sent.
const TAIL: u64 = 64 * 1024;
/// The largest piece sent at once.
const PIECE: usize = 32 * 1024;
/// How often a followed file is looked at.
const PAUSE: Duration = Duration::from_millis(250);

/// The last 64 KiB of a service's log; with `follow` also what comes
#[utoipa::path(get, path = "/v1/tenants/{name}/logs/{service}", tag = "services", operation_id = "logs",
    params(
        ("name" = String, Path, description = "Tenant"),
        ("service" = String, Path, description = "Service"),
        ("follow" = Option<bool>, Query, description = "Stay and send what is written from now on")
    ),
    responses((status = 200, description = "The log as it was written", body = String, content_type = "text/plain"), Refused))]
pub(super) async fn read(
    State(handle): State<Handle>,
    extract::Service(name, service): extract::Service,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let follow = flag(query.as_deref(), "follow")?;
    let path = handle.log_path(name, service).await?;
    let tail = Tail::open(path, follow)
        .await
        .map_err(|e| Problem::new(ProblemKind::Io, format!("the log cannot be read: {e}")))?;
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    Ok((headers, Body::from_stream(tail.pieces())).into_response())
}

/// A reading position in a file that may change under it.
struct Tail {
    path: PathBuf,
    follow: bool,
    file: Option<File>,
    at: u64,
}

impl Tail {
    async fn open(path: PathBuf, follow: bool) -> io::Result<Self> {
        let mut tail = Self { path, follow, file: None, at: 0 };
        if let Some(mut file) = open_plain(&tail.path).await? {
            let len = file.metadata().await?.len();
            tail.at = file.seek(SeekFrom::Start(len.saturating_sub(TAIL))).await?;
            tail.file = Some(file);
        }
        Ok(tail)
    }

    fn pieces(self) -> impl Stream<Item = io::Result<Bytes>> {
        futures::stream::try_unfold(self, |mut tail| async move { Ok(tail.next().await?.map(|piece| (piece, tail))) })
    }

    /// The next piece; none at the end, which a follower never reaches.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(file) = &mut self.file {
                let mut piece = vec![0; PIECE];
                let n = file.read(&mut piece).await?;
                if n > 0 {
                    self.at += n as u64;
                    piece.truncate(n);
                    return Ok(Some(piece.into()));
                }
            }
            if !self.follow {
                return Ok(None);
            }
            if !self.renewed().await? {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Goes to the start of a file that was cut, or of another one that took its place. Only asked when the file at
    /// hand is read to its end, so nothing of it is lost.
    async fn renewed(&mut self) -> io::Result<bool> {
        let Some(newest) = open_plain(&self.path).await? else { return Ok(false) };
        let now = newest.metadata().await?;
        if let Some(file) = &mut self.file {
            let ours = file.metadata().await?;
            if (ours.dev(), ours.ino()) == (now.dev(), now.ino()) {
                if now.len() < self.at {
                    self.at = file.seek(SeekFrom::Start(0)).await?;
                    return Ok(true);
                }
                return Ok(false);
            }
            // Written to after our last read and before it was put aside.
            if ours.len() > self.at {
                return Ok(true);
            }
        }
        self.file = Some(newest);
        self.at = 0;
        Ok(true)
    }
}

/// Opens a regular file, none if it is not there. A tenant must not make the daemon read a link or wait on a pipe.
async fn open_plain(path: &Path) -> io::Result<Option<File>> {
    let mut options = tokio::fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = match options.open(path).await {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    if !file.metadata().await?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::fs::{self, OpenOptions};
    use std::io::Write;

    use super::*;

    async fn soon(tail: &mut Tail) -> String {
        let piece = tokio::time::timeout(Duration::from_secs(5), tail.next()).await.unwrap().unwrap().unwrap();
        String::from_utf8(piece.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn only_the_end_of_a_long_log_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.log");
        fs::write(&path, "x".repeat(100_000) + "end\n").unwrap();
        let mut tail = Tail::open(path, false).await.unwrap();
        let mut all = String::new();
        while let Some(piece) = tail.next().await.unwrap() {
            all += std::str::from_utf8(&piece).unwrap();
        }
        assert_eq!(all.len() as u64, TAIL);
        assert!(all.ends_with("xend\n"));
    }

    #[tokio::test]
    async fn a_follower_survives_absence_growth_truncation_and_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.log");
        let mut tail = Tail::open(path.clone(), true).await.unwrap();
        fs::write(&path, "one\n").unwrap();
        assert_eq!(soon(&mut tail).await, "one\n");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"two\n").unwrap();
        assert_eq!(soon(&mut tail).await, "two\n");
        fs::write(&path, "3\n").unwrap();
        assert_eq!(soon(&mut tail).await, "3\n");
        let mut old = OpenOptions::new().append(true).open(&path).unwrap();
        fs::rename(&path, dir.path().join("web.log.1")).unwrap();
        fs::write(&path, "four\n").unwrap();
        old.write_all(b"late\n").unwrap();
        assert_eq!(soon(&mut tail).await, "late\n");
        assert_eq!(soon(&mut tail).await, "four\n");
    }

    #[tokio::test]
    async fn links_and_pipes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link.log");
        std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
        assert!(Tail::open(link, false).await.is_err());
        let pipe = dir.path().join("pipe.log");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(Tail::open(pipe, false).await.is_err());
    }
}
