//! How a world is found again: `/run/tenantd-lab/NAME.json` on the machine.
//!
//! The watcher and the holder keep a lock on the file for as long as they live, so a record nobody holds is
//! stale by definition, also after a `kill -9` of everything.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::plan::Options;

const DIR: &str = "/run/tenantd-lab";

/// A standing world.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Pid of the holder as the machine sees it.
    pub holder: i32,
    /// Its start time (field 22 of `/proc/PID/stat`): a pid alone may be re-used.
    pub start_time: u64,
    /// What was asked for.
    pub options: Options,
    /// Whether it stands on its own; otherwise it ends with the process that made it.
    pub kept: bool,
}

/// Path of the record of the world `name`.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(format!("{name}.json"))
}

/// The locked file of a world that is being made or stands.
pub struct Held {
    file: Flock<File>,
    path: PathBuf,
}

impl Held {
    /// Takes the name.
    ///
    /// # Errors
    /// The name is in use, or the directory cannot be written.
    pub fn take(name: &str) -> Result<Self> {
        fs::create_dir_all(DIR).with_context(|| format!("cannot make {DIR}"))?;
        let path = path(name);
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .with_context(|| format!("cannot open {}", path.display()))?;
            let Ok(file) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
                bail!("a lab named {name:?} stands already (lab down --name {name}, or choose another --name)");
            };
            // Between open and lock the last owner may have removed the file: then the lock is on nothing.
            if same_file(&file, &path)? {
                return Ok(Self { file, path });
            }
        }
    }

    /// Writes the record.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, record: &Record) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(&serde_json::to_vec_pretty(record)?)?;
        self.file.flush()
    }

    /// Removes the record; the lock goes with the value.
    pub fn remove(&self) {
        // Absent is as good as removed.
        let _ = fs::remove_file(&self.path);
    }
}

fn same_file(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(theirs) => Ok(ours.ino() == theirs.ino() && ours.dev() == theirs.dev()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Reads the record of a world that stands.
///
/// # Errors
/// There is none of that name (a stale record is removed on the way), or it cannot be read.
pub fn read(name: &str) -> Result<Record> {
    let path = path(name);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            bail!("no lab named {name:?} stands (lab up{} makes one)", name_flag(name))
        }
        Err(e) => return Err(e).with_context(|| format!("cannot open {}", path.display())),
    };
    if !is_held(&path)? {
        let _ = fs::remove_file(&path);
        bail!("the lab named {name:?} is gone (its record was stale and is removed)");
    }
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(|| format!("cannot read {}", path.display()))?;
    let record: Record =
        serde_json::from_str(&text).with_context(|| format!("the lab named {name:?} is not ready yet"))?;
    if start_time(record.holder) != Some(record.start_time) {
        bail!("the holder of the lab named {name:?} has just died");
    }
    Ok(record)
}

/// The names of all worlds that stand. Stale records are removed.
///
/// # Errors
/// The directory cannot be read.
pub fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    let entries = match fs::read_dir(DIR) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(names),
        Err(e) => return Err(e).with_context(|| format!("cannot read {DIR}")),
    };
    for entry in entries {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".json")) else {
            continue;
        };
        if is_held(&path)? {
            names.push(name.to_owned());
        } else {
            let _ = fs::remove_file(&path);
            crate::cgroups::remove(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Whether some process holds the record.
///
/// # Errors
/// The file cannot be opened.
pub fn is_held(path: &Path) -> Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e).with_context(|| format!("cannot open {}", path.display())),
    };
    Ok(Flock::lock(file, FlockArg::LockSharedNonblock).is_err())
}

/// Start time of a process in clock ticks since boot; `None` when there is no such process.
#[must_use]
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in field 2 may hold blanks and parentheses: count from its last parenthesis.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The lab a command without `--name` means: the only one that stands, else the one named `lab`.
///
/// # Errors
/// The directory of the records cannot be read.
pub fn meant(name: Option<String>) -> Result<String> {
    if let Some(name) = name {
        return Ok(name);
    }
    // Those of tests and of a `lab up` under way are not meant.
    let mut names: Vec<String> =
        names()?.into_iter().filter(|name| read(name).is_ok_and(|record| record.kept)).collect();
    Ok(match (names.pop(), names.is_empty()) {
        (Some(only), true) => only,
        _ => "lab".to_owned(),
    })
}

/// ` --name X` unless X is the default.
#[must_use]
pub fn name_flag(name: &str) -> String {
    if name == "lab" { String::new() } else { format!(" --name {name}") }
}
