//! `/v1/tenants/{name}/logs/{service}`: the end of a service's log, and what is written from now on.
//!
//! The file is written by the tenant's side: it may be cut, replaced or not be there yet, and it is never followed
//! through a link. Init puts it aside as `NAME.log.1`: what is asked for begins there when the newest file is shorter,
//! and a follower goes from one to the other without losing what was written between two looks. It looks four times a
//! second; there is no watcher that sees every file system.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::Stream;
use stackmap::Invalid;
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

/// The most lines that can be asked for.
const LINES_MAX: usize = 100_000;
/// How far back lines are looked for in one file: more than a file has before it is put aside.
const FAR: u64 = 4 << 20;

/// The last 64 KiB of a service's log, or its last lines; with `follow` also what comes
#[utoipa::path(get, path = "/v1/tenants/{name}/logs/{service}", tag = "services", operation_id = "logs",
    params(
        ("name" = String, Path, description = "Tenant"),
        ("service" = String, Path, description = "Service"),
        ("follow" = Option<bool>, Query, description = "Stay and send what is written from now on"),
        ("lines" = Option<usize>, Query, description = "Begin with this many lines, 0 to 100000, instead of 64 KiB")
    ),
    responses((status = 200, description = "The log as it was written", body = String, content_type = "text/plain"), Refused))]
pub(super) async fn read(
    State(handle): State<Handle>,
    extract::Service(name, service): extract::Service,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let (follow, past) = wanted(query.as_deref())?;
    let path = handle.log_path(name, service).await?;
    let tail = Tail::open(path, follow, past)
        .await
        .map_err(|e| Problem::new(ProblemKind::Io, format!("the log cannot be read: {e}")))?;
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    Ok((headers, Body::from_stream(tail.pieces())).into_response())
}

/// How much of what was written before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Past {
    Bytes(u64),
    Lines(usize),
}

/// `follow` and `lines` of the query.
#[allow(clippy::result_large_err, reason = "a refusal is made once a request and leaves at once")]
fn wanted(query: Option<&str>) -> Result<(bool, Past), Problem> {
    let (mut past, mut rest) = (Past::Bytes(TAIL), Vec::new());
    for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("lines", value)) => {
                let lines = value.parse().ok().filter(|lines| *lines <= LINES_MAX);
                let rule = format!("must be a number from 0 to {LINES_MAX}");
                past = Past::Lines(lines.ok_or_else(|| Invalid::new("lines", value, rule))?);
            }
            _ => rest.push(part),
        }
    }
    for part in &rest {
        let key = part.split('=').next().unwrap_or_default();
        if key != "follow" {
            return Err(Invalid::new(key.to_owned(), *part, "unknown parameter: must be follow or lines").into());
        }
    }
    Ok((flag(Some(&rest.join("&")), "follow")?, past))
}

/// A reading position in a file that may change under it.
struct Tail {
    path: PathBuf,
    follow: bool,
    file: Option<File>,
    at: u64,
    /// Bytes that were there when it was asked; who does not follow gets these and no more.
    left: u64,
}

impl Tail {
    async fn open(path: PathBuf, follow: bool, past: Past) -> io::Result<Self> {
        let mut tail = Self { path, follow, file: None, at: 0, left: 0 };
        let Some(mut newest) = open_plain(&tail.path).await? else { return Ok(tail) };
        let len = newest.metadata().await?.len();
        let (start, missing) = start(&mut newest, len, past).await?;
        tail.left = len - start;
        (tail.at, tail.file) = (newest.seek(SeekFrom::Start(start)).await?, Some(newest));
        // Not enough in it: the rest is at the end of the one before.
        if let (0, Some(missing)) = (start, missing)
            && let Ok(Some(mut before)) = open_plain(&aside(&tail.path)).await
        {
            let len = before.metadata().await?.len();
            let (start, _) = self::start(&mut before, len, missing).await?;
            tail.left += len - start;
            (tail.at, tail.file) = (before.seek(SeekFrom::Start(start)).await?, Some(before));
        }
        Ok(tail)
    }

    fn pieces(self) -> impl Stream<Item = io::Result<Bytes>> {
        futures::stream::try_unfold(self, |mut tail| async move { Ok(tail.next().await?.map(|piece| (piece, tail))) })
    }

    /// The next piece; none at the end, which a follower never reaches.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let most = if self.follow { PIECE } else { usize::try_from(self.left).unwrap_or(PIECE).min(PIECE) };
            if most == 0 {
                return Ok(None);
            }
            if let Some(file) = &mut self.file {
                let mut piece = vec![0; most];
                let n = file.read(&mut piece).await?;
                if n > 0 {
                    self.at += n as u64;
                    self.left = self.left.saturating_sub(n as u64);
                    piece.truncate(n);
                    return Ok(Some(piece.into()));
                }
            }
            if self.renewed().await? {
                continue;
            }
            if !self.follow {
                return Ok(None);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Goes to the start of a file that was cut, or of the one that came after it. Only asked when the file at hand is
    /// read to its end, so nothing of it is lost.
    async fn renewed(&mut self) -> io::Result<bool> {
        let Some(newest) = open_plain(&self.path).await? else { return Ok(false) };
        let now = newest.metadata().await?;
        let mut next = newest;
        if let Some(file) = &mut self.file {
            let ours = file.metadata().await?;
            let is_ours = |other: &Metadata| (ours.dev(), ours.ino()) == (other.dev(), other.ino());
            if is_ours(&now) {
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
            // Put aside twice since our last look: the one between comes first.
            if let Ok(Some(between)) = open_plain(&aside(&self.path)).await {
                let found = between.metadata().await?;
                let later = (found.mtime(), found.mtime_nsec()) >= (ours.mtime(), ours.mtime_nsec());
                if !is_ours(&found) && later {
                    next = between;
                }
            }
        }
        self.file = Some(next);
        self.at = 0;
        Ok(true)
    }
}

/// Where init puts a log that is full.
fn aside(path: &Path) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".1");
    aside.into()
}

/// Where in a file of `len` bytes that much of the past begins, and what of it the file does not have.
async fn start(file: &mut File, len: u64, past: Past) -> io::Result<(u64, Option<Past>)> {
    match past {
        Past::Bytes(bytes) => {
            Ok((len.saturating_sub(bytes), bytes.checked_sub(len).filter(|n| *n > 0).map(Past::Bytes)))
        }
        Past::Lines(lines) => {
            let from = file.seek(SeekFrom::Start(len.saturating_sub(FAR))).await?;
            let mut end = Vec::new();
            (&mut *file).take(len - from).read_to_end(&mut end).await?;
            let (at, missing) = last_lines(&end, lines);
            Ok((from + at as u64, Some(missing).filter(|n| *n > 0).map(Past::Lines)))
        }
    }
}

/// Where the last lines of a text begin, and how many it has too few. A last line may lack its end.
fn last_lines(text: &[u8], lines: usize) -> (usize, usize) {
    let (mut at, mut missing) = (text.len(), lines);
    while missing > 0 && at > 0 {
        let before = &text[..at - 1];
        at = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        missing -= 1;
    }
    (at, missing)
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
        let piece = tokio::time::timeout(Duration::from_secs(30), tail.next()).await.unwrap().unwrap().unwrap();
        String::from_utf8(piece.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn only_the_end_of_a_long_log_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.log");
        fs::write(&path, "x".repeat(100_000) + "end\n").unwrap();
        let mut tail = Tail::open(path, false, Past::Bytes(TAIL)).await.unwrap();
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
        let mut tail = Tail::open(path.clone(), true, Past::Bytes(TAIL)).await.unwrap();
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

    async fn all(path: &Path, past: Past) -> String {
        let mut tail = Tail::open(path.to_owned(), false, past).await.unwrap();
        let mut all = String::new();
        while let Some(piece) = tail.next().await.unwrap() {
            all += std::str::from_utf8(&piece).unwrap();
        }
        all
    }

    #[tokio::test]
    async fn the_past_goes_back_into_what_was_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.log");
        assert_eq!(all(&path, Past::Lines(3)).await, "");
        fs::write(&path, "four\nfive\nsi").unwrap();
        assert_eq!(all(&path, Past::Lines(9)).await, "four\nfive\nsi");
        fs::write(dir.path().join("web.log.1"), "one\ntwo\nthree\n").unwrap();
        for (lines, text) in [
            (0, ""),
            (1, "si"),
            (2, "five\nsi"),
            (3, "four\nfive\nsi"),
            (4, "three\nfour\nfive\nsi"),
            (6, "one\ntwo\nthree\nfour\nfive\nsi"),
            (99, "one\ntwo\nthree\nfour\nfive\nsi"),
        ] {
            assert_eq!(all(&path, Past::Lines(lines)).await, text, "{lines}");
        }
        assert_eq!(all(&path, Past::Bytes(18)).await, "three\nfour\nfive\nsi");
        // A follower goes on from there.
        let mut tail = Tail::open(path.clone(), true, Past::Lines(4)).await.unwrap();
        assert_eq!(soon(&mut tail).await, "three\n");
        assert_eq!(soon(&mut tail).await, "four\nfive\nsi");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"x\n").unwrap();
        assert_eq!(soon(&mut tail).await, "x\n");
    }

    #[tokio::test]
    async fn a_follower_misses_nothing_when_a_log_is_put_aside_twice_between_two_looks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.log");
        fs::write(&path, "one\n").unwrap();
        let mut tail = Tail::open(path.clone(), true, Past::Lines(1)).await.unwrap();
        assert_eq!(soon(&mut tail).await, "one\n");
        for text in ["two\n", "three\n"] {
            fs::rename(&path, dir.path().join("web.log.1")).unwrap();
            fs::write(&path, text).unwrap();
        }
        assert_eq!(soon(&mut tail).await, "two\n");
        assert_eq!(soon(&mut tail).await, "three\n");
    }

    #[test]
    fn bad_parameters_are_named() {
        assert_eq!(wanted(None).unwrap(), (false, Past::Bytes(TAIL)));
        assert_eq!(wanted(Some("lines=5&follow")).unwrap(), (true, Past::Lines(5)));
        for (query, field) in [
            ("lines=x", "lines"),
            ("lines=100001", "lines"),
            ("lines=-1", "lines"),
            ("tail=3", "tail"),
            ("follow=1", "follow"),
        ] {
            assert_eq!(wanted(Some(query)).unwrap_err().field.as_deref(), Some(field), "{query}");
        }
    }

    #[tokio::test]
    async fn links_and_pipes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link.log");
        std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
        assert!(Tail::open(link, false, Past::Lines(1)).await.is_err());
        let pipe = dir.path().join("pipe.log");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(Tail::open(pipe, false, Past::Lines(1)).await.is_err());
    }
}
