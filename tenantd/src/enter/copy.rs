//! Files into a tenant and out of it.
//!
//! A child of ours enters and works there with the credentials of the tenant's user; a stream of small words goes
//! through a pipe between it and us (`wire`). So every path of the tenant is opened by somebody who may no more than
//! the tenant itself, in the tenant's own mounts: whatever links lie there, they end there. What comes out is checked
//! again on our side: names of one part, regular files and directories only, permission bits only, no more bytes than
//! were said. The same sender and receiver run on both sides.

mod receive;
mod send;
mod wire;

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use serde::Serialize;

use super::{EnterError, Entered, Hold, child, enter, here, relay};
use receive::Receiver;
use send::Sender;
use wire::Word;

/// Why files could not be copied; everything is named from the operator's view.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A path of ours, or the pipe to the other side.
    #[error("{path}: cannot {step}")]
    Path {
        /// As given, with unprintable characters escaped.
        path: String,
        /// What was tried.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// What is asked for cannot be.
    #[error("{path}: {rule}")]
    Rule {
        /// The path.
        path: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The other side said why it stopped.
    #[error("in the tenant: {0}")]
    There(String),
    /// The other side stopped without a word, or said what it cannot say.
    #[error("the stream from the tenant is broken")]
    Stream(#[source] io::Error),
}

/// Where copied bytes come from or go to on our side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Local {
    /// Standard input or output.
    Stream,
    /// A file or directory.
    Path(PathBuf),
}

/// What is to be copied, beside from where to where.
#[derive(Debug, Clone, Copy)]
pub struct Copy<'a> {
    /// The tenant.
    pub hold: &'a Hold,
    /// Who copies there; its root when none.
    pub user: Option<&'a str>,
    /// Directories too.
    pub recursive: bool,
}

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was passed over, and why: links, devices, files that could not be read.
    pub skipped: Vec<String>,
}

/// What goes on, to be shown.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The file's own name.
    pub name: &'a OsStr,
    /// Bytes so far.
    pub done: u64,
    /// Bytes of the whole file; none for a stream.
    pub size: Option<u64>,
}

/// Who is told what goes on.
pub type Watcher<'a> = &'a mut dyn FnMut(Progress<'_>);

/// A name for people: whatever bytes it has, nothing of it reaches their terminal as a command.
#[must_use]
pub fn shown(name: &OsStr) -> String {
    let mut text = String::new();
    for part in name.to_string_lossy().chars() {
        match part.is_control() {
            true => drop(write!(text, "{}", part.escape_default())),
            false => text.push(part),
        }
    }
    text
}

impl Copy<'_> {
    /// Copies files of ours to a path of the tenant: below it when it is a directory, else by that name.
    ///
    /// # Errors
    /// [`EnterError`]; what was copied until then stays.
    pub fn copy_in(&self, from: &[Local], to: &Path, watch: Watcher<'_>) -> Result<Copied, EnterError> {
        let many = from.len() > 1;
        let (child, [feed, answers]) = self.start(move |listen, speak| {
            let mut speak = BufWriter::new(speak);
            let received = Receiver::at(to, many).and_then(|mut receiver| receiver.take(listen, &mut |_| {}));
            let last = match received {
                Ok(_) => Word::Done,
                Err(error) => Word::Failed(super::words(&error)),
            };
            last.write(&mut speak).and_then(|()| speak.flush())
        })?;
        let mut sender = Sender::new(BufWriter::new(File::from(feed)), self.recursive, watch);
        let sent = from.iter().try_for_each(|local| sender.send(local)).and_then(|()| sender.finish());
        let copied = sender.copied();
        // The end of the stream for the other side, also when we stopped in the middle.
        drop(sender);
        let answer = Word::read(&mut BufReader::new(File::from(answers)));
        relay::end(child);
        match (answer, sent) {
            // Whoever stopped reading says why; a broken pipe is not the reason.
            (Ok(Word::Failed(text)), Ok(()) | Err(CopyError::Stream(_))) => Err(CopyError::There(text).into()),
            (_, Err(error)) => Err(error.into()),
            (Ok(Word::Done), Ok(())) => Ok(copied),
            (Ok(_), Ok(())) => Err(CopyError::Stream(io::ErrorKind::InvalidData.into()).into()),
            (Err(error), Ok(())) => Err(CopyError::Stream(error).into()),
        }
    }

    /// Copies files of the tenant to ours.
    ///
    /// # Errors
    /// [`EnterError`]; what was copied until then stays.
    pub fn copy_out(&self, from: &[PathBuf], to: &Local, watch: Watcher<'_>) -> Result<Copied, EnterError> {
        // Before somebody enters for nothing.
        let mut receiver = match to {
            Local::Stream => Receiver::to_stream(),
            Local::Path(path) => Receiver::at(path, from.len() > 1)?,
        };
        let recursive = self.recursive;
        let (child, [_feed, words]) = self.start(move |_listen, speak| {
            let mut nobody = |_: Progress<'_>| {};
            let mut sender = Sender::new(BufWriter::new(speak), recursive, &mut nobody);
            let sent = from.iter().try_for_each(|path| sender.send(&Local::Path(path.clone())));
            match sent.and_then(|()| sender.finish()) {
                Ok(()) => Ok(()),
                Err(error) => sender.fail(super::words(&error)),
            }
        })?;
        let received = receiver.take(File::from(words), watch);
        relay::end(child);
        Ok(received?)
    }

    /// A child in the tenant that does `work` with a pipe from us and one to us.
    fn start<'w>(
        &self,
        work: impl FnOnce(File, File) -> io::Result<()> + 'w,
    ) -> Result<(nix::unistd::Pid, [OwnedFd; 2]), EnterError> {
        let entered = enter(self.hold, self.user, |entry| {
            let (listen, speak) = entry.talk()?;
            Ok(Box::new(move || {
                nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
                let done = child::let_go([&listen, &speak]).and_then(|()| work(listen, speak));
                i32::from(done.is_err())
            }))
        })?;
        let Entered { child, ends } = entered;
        <[OwnedFd; 2]>::try_from(ends).map(|ends| (child, ends)).map_err(|_| {
            relay::end(child);
            here("prepare pipes")(io::Error::from(io::ErrorKind::UnexpectedEof))
        })
    }
}
