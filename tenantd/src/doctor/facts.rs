//! What is so on a machine, read from its files once. Everything is optional: what cannot be read is told by the check
//! that wanted it. The root is a parameter, so a directory that looks like a machine is as good as one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flate2::read::GzDecoder;

use super::network_files;
use crate::cgroups::Layout;
use crate::config::Config;
use crate::trunks;

/// Where the machine and the instance are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Root of the machine's file systems; `/` for the one we run on.
    pub root: PathBuf,
    /// Instance name.
    pub instance: String,
    /// Its state directory.
    pub state_dir: PathBuf,
    /// Its run directory.
    pub run_dir: PathBuf,
    /// Its BPF file system.
    pub bpffs: PathBuf,
    /// Its cgroups, below the root of each hierarchy.
    pub cgroup: String,
    /// Names of the devices that the daemon makes in the host's own network namespace.
    pub devices: Vec<String>,
}

impl Place {
    /// The place of a configured daemon on the machine whose root is `root`.
    #[must_use]
    pub fn of(config: &Config, root: &Path) -> Self {
        // As numbered in a new store; what a manager is told to leave alone is all of our names anyway.
        let first = Path::new(&config.access);
        let numbered = trunks::number(&config.trunks, &trunks::Known::new(), &config.instance, first);
        let specs = numbered.map(|(specs, _)| specs).unwrap_or_default();
        Self {
            root: root.to_owned(),
            instance: config.instance.clone(),
            state_dir: config.state_dir.clone(),
            run_dir: config.run_dir.clone(),
            bpffs: config.bpffs.clone(),
            cgroup: config.cgroup.clone(),
            devices: specs.into_iter().filter(|spec| spec.card.is_none()).map(|spec| spec.near).collect(),
        }
    }

    /// A path of the machine as we reach it.
    #[must_use]
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// True for the machine we run on: what can be tried out is.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.root == Path::new("/")
    }

    fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        fs::read_to_string(self.at(path)).ok().map(|text| text.trim_end().to_owned())
    }
}

/// The file system that holds the state directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    /// Its kind, as `/proc/self/mountinfo` names it.
    pub kind: String,
    /// Free bytes, for root.
    pub free: u64,
    /// Free inodes; none where the file system makes them as needed.
    pub inodes: Option<u64>,
}

/// Something in the instance's directories that carries a tenant's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trace {
    /// A tenant's files: never removed here, they may be somebody's data.
    Files(PathBuf),
    /// A control socket of an init; true when somebody listens.
    Socket(PathBuf, bool),
    /// A cgroup; true when a process is in it or below.
    Cgroup(PathBuf, bool),
}

/// What was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Where.
    pub place: Place,
    /// Release of the kernel.
    pub release: String,
    /// Its version line, which names how it was built.
    pub version: String,
    /// Lines `CONFIG_...` of its configuration, where it is to be had.
    pub config: Option<String>,
    /// Its command line.
    pub command_line: String,
    /// What debugfs says of preemption, the chosen one in brackets.
    pub preempt: Option<String>,
    /// Effective capabilities of this process, as a mask.
    pub capabilities: u64,
    /// Hard limit of open files: the daemon's if it runs, else ours.
    pub files: Option<u64>,
    /// Process id of the running daemon.
    pub daemon: Option<i32>,
    /// Sysctls by path below `/proc/sys`.
    pub sysctls: BTreeMap<String, u64>,
    /// Bytes of memory that can be had.
    pub memory: Option<u64>,
    /// Cgroup hierarchies, or why they are not known.
    pub cgroups: Result<Layout, String>,
    /// Whether a BPF file system is mounted where it is wanted.
    pub bpffs: bool,
    /// The state directory's file system.
    pub disk: Option<Disk>,
    /// When the store was written last.
    pub written: Option<SystemTime>,
    /// What time it is.
    pub now: SystemTime,
    /// Loop devices can be had.
    pub loop_control: bool,
    /// Commands that run in the host's own network namespace.
    pub commands: BTreeSet<String>,
    /// Configuration of network managers.
    pub network: network_files::NetworkFiles,
    /// What carries a tenant's name, with that name.
    pub traces: Vec<(String, Trace)>,
    /// What trying out the kernel's features said; none when it was not tried.
    pub features: Option<Result<(), String>>,
}

impl Facts {
    /// Reads all of it. Blocks, for some milliseconds a thousand processes.
    #[must_use]
    pub fn read(place: Place) -> Self {
        let release = place.read("/proc/sys/kernel/osrelease").unwrap_or_default();
        // What the daemon wrote into its lock; another process may have the number since.
        let daemon = place.read(place.run_dir.join("lock")).and_then(|pid| pid.parse().ok());
        let daemon = daemon.filter(|pid: &i32| {
            place.read(format!("/proc/{pid}/comm")).is_some_and(|name| name.starts_with("tenantd"))
        });
        let whose = daemon.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let store = fs::metadata(place.at(place.state_dir.join("tenantd.db")));
        Self {
            version: place.read("/proc/sys/kernel/version").unwrap_or_default(),
            config: kernel_config(&place, &release),
            command_line: place.read("/proc/cmdline").unwrap_or_default(),
            preempt: place.read("/sys/kernel/debug/sched/preempt"),
            capabilities: capabilities(&place.read("/proc/self/status").unwrap_or_default()),
            files: open_files(&place.read(format!("/proc/{whose}/limits")).unwrap_or_default()),
            daemon,
            sysctls: sysctls(&place),
            memory: available(&place.read("/proc/meminfo").unwrap_or_default()),
            cgroups: cgroups(&place),
            bpffs: mounted(&place, &place.bpffs).is_some_and(|kind| kind == "bpf"),
            disk: disk(&place),
            written: store.and_then(|file| file.modified()).ok(),
            now: SystemTime::now(),
            loop_control: place.at("/dev/loop-control").exists(),
            commands: commands(&place),
            network: network_files::read(&place),
            traces: traces(&place),
            features: None,
            release,
            place,
        }
    }

    /// Tries out what tenants need of the kernel. Only for the machine we run on, as root, with a state directory.
    pub fn try_features(&mut self) {
        if self.place.is_here() && self.place.state_dir.is_dir() {
            let tried = crate::features::check(&self.place.state_dir);
            self.features = Some(tried.map_err(|error| crate::commands::chain(&error)));
        }
    }

    /// A sysctl that is a number.
    #[must_use]
    pub fn sysctl(&self, key: &str) -> Option<u64> {
        self.sysctls.get(key).copied()
    }
}

fn sysctls(place: &Place) -> BTreeMap<String, u64> {
    let keys = super::limits::keys().chain(super::machine::KEYS.iter().copied());
    keys.filter_map(|key| Some((key.to_owned(), place.read(Path::new("/proc/sys").join(key))?.parse().ok()?))).collect()
}

fn kernel_config(place: &Place, release: &str) -> Option<String> {
    place.read(format!("/boot/config-{release}")).or_else(|| {
        let mut text = String::new();
        GzDecoder::new(fs::File::open(place.at("/proc/config.gz")).ok()?).read_to_string(&mut text).ok()?;
        Some(text)
    })
}

fn capabilities(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// The hard limit: the last column but one.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn cgroups(place: &Place) -> Result<Layout, String> {
    let read = |path: &str| place.read(path).ok_or_else(|| format!("{path} cannot be read"));
    let (mounts, own) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
    Layout::find(&mounts, &own).map_err(|error| format!("cgroup.controllers cannot be read: {error}"))
}

/// The kind of the file system that holds `path`: of the mounts above it the longest, of equal ones the last.
fn mounted(place: &Place, path: &Path) -> Option<String> {
    let text = place.read("/proc/self/mountinfo")?;
    let mut best: Option<(usize, String)> = None;
    for line in text.lines() {
        let Some((front, back)) = line.split_once(" - ") else { continue };
        let (Some(point), Some(kind)) = (front.split(' ').nth(4), back.split(' ').next()) else { continue };
        let length = Path::new(point).components().count();
        if path.starts_with(point) && best.as_ref().is_none_or(|(longest, _)| length >= *longest) {
            best = Some((length, kind.to_owned()));
        }
    }
    best.map(|(_, kind)| kind)
}

fn disk(place: &Place) -> Option<Disk> {
    // Before its first start a daemon has no directory yet: the one that it will be made in counts.
    let there = place.state_dir.ancestors().find(|path| place.at(path).is_dir())?;
    let found = nix::sys::statvfs::statvfs(&place.at(there)).ok()?;
    let kind = mounted(place, there).unwrap_or_default();
    let inodes = (found.files() > 0).then(|| found.files_available());
    Some(Disk { kind, free: found.blocks_available().saturating_mul(found.fragment_size()), inodes })
}

/// A tenant may run what it likes in a namespace of its own; that is none of the host's business.
fn commands(place: &Place) -> BTreeSet<String> {
    let proc = place.at("/proc");
    let ours = fs::read_link(proc.join("self/ns/net")).ok();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(&proc).into_iter().flatten().flatten() {
        let is_process = entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
        if is_process && fs::read_link(entry.path().join("ns/net")).ok() == ours {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.insert(name.trim_end().to_owned());
        }
    }
    found
}

fn names(directory: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<_> =
        entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect();
    found.sort();
    found
}

fn traces(place: &Place) -> Vec<(String, Trace)> {
    let mut found = Vec::new();
    for (name, path) in names(&place.at(place.state_dir.join("tenants"))) {
        found.push((name, Trace::Files(path)));
    }
    for (name, path) in names(&place.at(place.run_dir.join("tenants"))) {
        if let Some(name) = name.strip_suffix(".sock") {
            let lives = UnixStream::connect(&path)
                .map_or_else(|error| error.kind() != std::io::ErrorKind::ConnectionRefused, |_| true);
            found.push((name.to_owned(), Trace::Socket(path, lives)));
        }
    }
    for hierarchy in cgroups(place).map(|layout| layout.hierarchies).unwrap_or_default() {
        for (name, path) in names(&hierarchy.mount_point.join(&place.cgroup)) {
            let Some(name) = name.strip_prefix("tenant-") else { continue };
            let lives = is_populated(&path, 0);
            found.push((name.to_owned(), Trace::Cgroup(path, lives)));
        }
    }
    found
}

/// Version 1 has no `populated` for what is below, so one looks there. Deep trees count as lived in.
fn is_populated(cgroup: &Path, depth: u32) -> bool {
    let here = fs::read_to_string(cgroup.join("cgroup.procs")).is_ok_and(|pids| !pids.trim().is_empty());
    let mut below = fs::read_dir(cgroup).into_iter().flatten().flatten();
    here || depth > 16
        || below
            .any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()) && is_populated(&entry.path(), depth + 1))
}

/// The clock is wrong when it is before this: the year in which this was written.
pub(super) const WRITTEN: Duration = Duration::from_secs(1_735_689_600);
