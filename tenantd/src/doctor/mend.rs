//! What `--fix` does: a list of changes, and the one place that carries them out. Nothing here decides; a change that
//! is not exactly as planned any more (a value changed since, a cgroup got a process) is refused by the kernel or here.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Place;

/// One change that harms nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Change {
    /// Set a sysctl now.
    Sysctl {
        /// Path below `/proc/sys`.
        key: String,
        /// The value it had; with another one nothing is done.
        from: u64,
        /// The value it gets.
        to: u64,
    },
    /// Write the settings that are to outlive a reboot.
    Keep {
        /// `/etc/sysctl.d/90-tenantd.conf`.
        path: PathBuf,
        /// What is set, by its path below `/proc/sys`; settings made there earlier stay.
        settings: Vec<(String, u64)>,
    },
    /// Remove a control socket at which nobody listens.
    RemoveSocket {
        /// Its path.
        path: PathBuf,
    },
    /// Remove a cgroup in which no process is.
    RemoveCgroup {
        /// Its directory.
        path: PathBuf,
    },
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mended {
    /// The change.
    pub change: Change,
    /// Why it was not made; none when it was.
    pub error: Option<String>,
}

/// Where settings are kept.
const KEPT: &str = "/etc/sysctl.d/90-tenantd.conf";
const HEAD: &str = "# Written by `tenantd doctor --fix`: what many tenants need. Loaded at boot.";

impl Change {
    /// The command that does the same by hand, where there is one.
    #[must_use]
    pub fn command(&self) -> Option<String> {
        match self {
            Self::Sysctl { key, to, .. } => Some(format!("sysctl -w {}={to}", key.replace('/', "."))),
            _ => None,
        }
    }
}

/// `set net.core.netdev_max_backlog from 1000 to 9188`
impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sysctl { key, from, to } => write!(f, "set {} from {from} to {to}", key.replace('/', ".")),
            Self::Keep { path, settings } => write!(f, "keep {} settings in {}", settings.len(), path.display()),
            Self::RemoveSocket { path } => write!(f, "remove the socket {}", path.display()),
            Self::RemoveCgroup { path } => write!(f, "remove the cgroup {}", path.display()),
        }
    }
}

/// The changes in order, each once, with what keeps the settings over a reboot behind them.
pub(super) fn plan(mut changes: Vec<Change>) -> Vec<Change> {
    let mut seen = Vec::new();
    changes.retain(|change| {
        let new = !seen.contains(change);
        seen.push(change.clone());
        new
    });
    let settings: Vec<(String, u64)> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Sysctl { key, to, .. } => Some((key.clone(), *to)),
            _ => None,
        })
        .collect();
    if !settings.is_empty() {
        changes.push(Change::Keep { path: KEPT.into(), settings });
    }
    changes
}

/// Carries changes out on one machine.
#[derive(Debug)]
pub struct Mender {
    place: Place,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
enum MendError {
    #[error("{path} cannot be {verb}")]
    File {
        verb: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{key} is {found} now, and was {from} when this was planned")]
    Changed { key: String, found: String, from: u64 },
    #[error("{key} is of the kernel that runs now, not of the machine at {root}")]
    Running { key: String, root: PathBuf },
    #[error("somebody listens at {path}")]
    Listens { path: PathBuf },
}

impl Mender {
    /// For the machine of this place.
    #[must_use]
    pub fn new(place: Place) -> Self {
        Self { place }
    }

    /// Carries them out one by one; one that fails does not stop the others.
    #[must_use]
    pub fn carry_out(&self, changes: Vec<Change>) -> Vec<Mended> {
        let mut mended: Vec<Mended> = Vec::new();
        for mut change in changes {
            if let Change::Keep { settings, .. } = &mut change {
                // What could not be set now is not set at the next boot either: it may have become greater since.
                let failed = |key: &str| {
                    mended.iter().any(|one| {
                        one.error.is_some() && matches!(&one.change, Change::Sysctl { key: k, .. } if k == key)
                    })
                };
                settings.retain(|(key, _)| !failed(key));
            }
            let error = self.one(&change).err().map(|error| crate::commands::chain(&error));
            mended.push(Mended { change, error });
        }
        mended
    }

    fn one(&self, change: &Change) -> Result<(), MendError> {
        match change {
            Change::Sysctl { key, from, to } => self.sysctl(key, *from, *to),
            Change::Keep { path, settings } => self.keep(&self.place.at(path), settings),
            Change::RemoveSocket { path } => match UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(failed("removed", path))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                _ => Err(MendError::Listens { path: path.clone() }),
            },
            Change::RemoveCgroup { path } => remove_cgroup(path).map_err(failed("removed", path)),
        }
    }

    fn sysctl(&self, key: &str, from: u64, to: u64) -> Result<(), MendError> {
        let path = self.place.at(Path::new("/proc/sys").join(key));
        let kind = nix::sys::statfs::statfs(&path).map_err(|e| failed("read", &path)(e.into()))?.filesystem_type();
        if !self.place.is_here() && kind == nix::sys::statfs::PROC_SUPER_MAGIC {
            return Err(MendError::Running { key: key.replace('/', "."), root: self.place.root.clone() });
        }
        let found = fs::read_to_string(&path).map_err(failed("read", &path))?;
        if found.trim() != from.to_string() {
            return Err(MendError::Changed { key: key.replace('/', "."), found: found.trim().to_owned(), from });
        }
        fs::write(&path, to.to_string()).map_err(failed("written", &path))
    }

    /// Beside the file and over it: half a file would be loaded at the next boot.
    fn keep(&self, path: &Path, settings: &[(String, u64)]) -> Result<(), MendError> {
        let mut kept: Vec<String> = match fs::read_to_string(path) {
            Ok(text) => text.lines().map(str::to_owned).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => vec![HEAD.to_owned()],
            Err(error) => return Err(failed("read", path)(error)),
        };
        for (key, to) in settings {
            let key = key.replace('/', ".");
            kept.retain(|line| line.split_once('=').is_none_or(|(there, _)| there.trim() != key));
            kept.push(format!("{key} = {to}"));
        }
        let beside = path.with_extension("new");
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed("made", directory))?;
        }
        // On the disk before it takes the other's place, or a power cut leaves an empty one.
        let written = fs::File::create(&beside).and_then(|mut file| {
            file.write_all((kept.join("\n") + "\n").as_bytes())?;
            file.sync_all()
        });
        written.map_err(failed("written", &beside))?;
        fs::rename(&beside, path).map_err(failed("replaced", path))?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        fs::File::open(directory).and_then(|opened| opened.sync_all()).map_err(failed("synchronised", directory))
    }
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MendError {
    let path = path.to_owned();
    move |source| MendError::File { verb, path, source }
}

/// From the leaves up; the kernel refuses where a process is.
fn remove_cgroup(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
