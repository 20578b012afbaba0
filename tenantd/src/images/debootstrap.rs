//! An image of a distribution's archive, made by the distribution's own program `debootstrap`.
//!
//! The program mounts, changes its root and starts other programs, so it runs as the first process of a pid namespace
//! and in a mount namespace of its own (by `unshare` of util-linux): whatever ends it, or us, nothing stays mounted
//! and nothing stays running. What it writes lies in a temporary directory until it is whole.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use stackmap::Invalid;

use super::building::Building;
use super::manifest::{ImageKind, Manifest};
use super::named::FinishError;
use super::{ImageStore, Progress};

/// How many of its last lines an error shows.
const LAST_LINES: usize = 10;

/// Who vouches for the packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signatures {
    /// The keys of the distribution, as installed on this machine.
    Distribution,
    /// The keys in this file.
    Keyring(PathBuf),
    /// Nobody: an archive of one's own that is not signed.
    Unchecked,
}

/// What an image shall be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debootstrap {
    /// The release, such as `bookworm`.
    pub suite: String,
    /// The archive, such as `http://deb.debian.org/debian`.
    pub mirror: String,
    /// True for the smallest system, false for debootstrap's default.
    pub minbase: bool,
    /// Packages besides.
    pub include: Vec<String>,
    /// Who vouches for them.
    pub signatures: Signatures,
    /// After so long the build is given up.
    pub deadline: Duration,
}

/// Why the image was not made; nothing is left.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A value breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The program is not there or could not be started.
    #[error("cannot start debootstrap (Debian packages debootstrap and util-linux)")]
    Start(#[source] io::Error),
    /// It could not be watched.
    #[error("cannot follow debootstrap ({step})")]
    Follow {
        /// The system call.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("debootstrap failed with {status}; its last lines:\n{}", lines.join("\n"))]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        lines: Vec<String>,
    },
    /// It took too long.
    #[error("debootstrap did not end within {0:?}")]
    Deadline(Duration),
    /// What it made could not be cleaned.
    #[error("cannot clean {path}")]
    Clean {
        /// A file of the tree.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What came out is no image.
    #[error(transparent)]
    Finish(#[from] FinishError),
}

impl Debootstrap {
    /// Every value becomes an argument of a program.
    fn check(&self) -> Result<(), Invalid> {
        let word = |text: &str, more: &str| {
            text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(c))
        };
        if !word(&self.suite, ".-") {
            return Err(Invalid::new("suite", &self.suite, "must be a release: a-z, 0-9, dot and hyphen"));
        }
        let known = ["http://", "https://", "file:///"].iter().any(|start| self.mirror.starts_with(start));
        if !known || !self.mirror.chars().all(|c| c.is_ascii_graphic()) {
            return Err(Invalid::new("mirror", &self.mirror, "must be an http, https or file URL"));
        }
        if let Some(package) = self.include.iter().find(|package| !word(package, "+.-")) {
            return Err(Invalid::new("include", package, "must be a package: a-z, 0-9, plus, dot and hyphen"));
        }
        if let Signatures::Keyring(path) = &self.signatures
            && !(path.is_absolute() && path.is_file())
        {
            return Err(Invalid::new("keyring", path.display(), "must be the absolute path of a file"));
        }
        Ok(())
    }

    fn command(&self, tree: &Path) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL", "debootstrap"]);
        if self.minbase {
            command.arg("--variant=minbase");
        }
        if !self.include.is_empty() {
            command.arg(format!("--include={}", self.include.join(",")));
        }
        match &self.signatures {
            Signatures::Distribution => command.arg("--force-check-gpg"),
            Signatures::Keyring(path) => command.arg(format!("--keyring={}", path.display())).arg("--force-check-gpg"),
            Signatures::Unchecked => command.arg("--no-check-gpg"),
        };
        command.arg(&self.suite).arg(tree).arg(&self.mirror);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C").env("HOME", "/root");
        for name in ["http_proxy", "https_proxy", "no_proxy"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped());
        // SAFETY: two system calls between fork and exec, nothing else.
        unsafe {
            command.pre_exec(|| {
                // With us goes unshare, with it (--kill-child) the namespace.
                Errno::result(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
                // Errors belong to the same story.
                Errno::result(libc::dup2(1, 2))?;
                Ok(())
            });
        }
        command
    }
}

impl ImageStore {
    /// Makes an image of a distribution's archive. Takes minutes; `progress` gets the program's own lines. The calling
    /// thread has to live as long as that.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build_debootstrap(
        &self,
        name: &str,
        what: &Debootstrap,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Manifest, BuildError> {
        let target = self.free_name(name)?;
        what.check()?;
        let building = Building::start(&self.dir);
        let building = building.map_err(|source| FinishError::Write { path: target.clone(), source })?;
        let tree = building.path().join("tree");
        let child = what.command(&tree).spawn().map_err(BuildError::Start)?;
        follow(Running(child), what.deadline, progress)?;
        clean(&tree).map_err(|(path, source)| BuildError::Clean { path, source })?;
        let source = format!("{} of {}", what.suite, what.mirror);
        Ok(self.finish(building, &target, ImageKind::Debootstrap, source)?)
    }
}

/// A program that is ended when it is given up.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn follow(mut child: Running, deadline: Duration, progress: &mut dyn FnMut(Progress)) -> Result<(), BuildError> {
    let until = Instant::now() + deadline;
    let failed = |step| move |source| BuildError::Follow { step, source };
    let mut output = child.0.stdout.take().ok_or_else(|| failed("pipe")(io::ErrorKind::BrokenPipe.into()))?;
    let mut last = VecDeque::new();
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(BuildError::Deadline(deadline));
        }
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(output.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(failed("poll")(errno.into())),
        }
        let length = output.read(&mut buffer).map_err(failed("read"))?;
        said.extend_from_slice(&buffer[..length]);
        while let Some(end) = said.iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&said[..end]).trim().to_owned();
            said.drain(..=end);
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(line.clone());
            progress(Progress::Line(line));
        }
        // A line without end is no line of debootstrap.
        said.truncate(64 << 10);
        if length == 0 {
            break;
        }
    }
    let status = child.0.wait().map_err(failed("wait"))?;
    if status.success() { Ok(()) } else { Err(BuildError::Failed { status, lines: last.into() }) }
}

/// Takes out what one system has and many made of it must not share, what came from this machine, and everything
/// that is neither file, directory nor link (an image has no devices).
fn clean(tree: &Path) -> Result<(), (PathBuf, io::Error)> {
    let gone = |path: PathBuf| match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err((path, error)),
        _ => Ok(()),
    };
    // debootstrap copies the first two from the host.
    for name in ["etc/resolv.conf", "etc/hostname", "etc/machine-id", "var/lib/dbus/machine-id"] {
        gone(tree.join(name))?;
    }
    let mut directories = vec![tree.to_owned()];
    while let Some(directory) = directories.pop() {
        let failed = |source| (directory.clone(), source);
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            let special = kind.is_block_device() || kind.is_char_device() || kind.is_fifo() || kind.is_socket();
            let host_key =
                directory.ends_with("etc/ssh") && entry.file_name().as_encoded_bytes().starts_with(b"ssh_host_");
            let package =
                directory.ends_with("var/cache/apt/archives") && entry.path().extension().is_some_and(|e| e == "deb");
            if kind.is_dir() {
                directories.push(entry.path());
            } else if special || host_key || package {
                gone(entry.path())?;
            }
        }
    }
    Ok(())
}
