//! The cgroups of the tenants: one directory a tenant in every hierarchy that is needed, below one directory of the
//! instance. Holds the limits of processor, memory, processes and I/O, says what is used, and ends what is left.
//!
//! In: tenant names and [`Limits`]. Out: descriptors with which a new process enters ([`Entry`]), what the kernel holds
//! now ([`Cgroups::limits`] is read from it, never remembered), [`Usage`]. Works on version 2, version 1 and both
//! together; why with code of our own: docs/decisions/0008-cgroups.md.
//!
//! The instance's directory lies below the root of the hierarchies as we see them, not below our own place: tenants
//! live on when the daemon's unit is stopped, and version 2 does not allow directories with limits below one with
//! processes. In a cgroup namespace that root is the namespace's.
//!
//! In version 1 a tenant has a directory of its own only where it makes a difference: with unlimited memory it is in the
//! instance's directory of that hierarchy, because each memory cgroup holds 16 bytes for every file system of the machine
//! (docs/decisions/0016), and so it is where version 2 counts the same anyway.
//!
//! One long file, because each operation says for both versions beside each other what it does; what only one of them
//! has is in the rooms below it.
//!
//! Longer than other rooms: all verbs of one type, each with the documentation of what it reads, writes and refuses.

mod disk;
mod end;
mod knobs;
mod layout;
mod stray;
#[cfg(test)]
mod tests;
mod usage;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use stackmap::{Invalid, TenantName};

pub use disk::Disk;
pub use layout::{Hierarchy, Layout, Version};
pub use usage::{Spent, Usage};

use crate::fault;
use crate::limits::{Bytes, Limits};
use knobs::FileError;

/// Controllers of version 1 that every tenant is in: four that limit and one that counts processor time. The others
/// cost a directory and an entry each and do nothing for us.
const V1: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "blkio"];
/// Controllers of version 2 that are handed down to the tenants.
const V2: [&str; 4] = ["cpu", "memory", "pids", "io"];
/// Where systemd without the unified hierarchy looks for the processes of a unit: a tenant that stayed in the daemon's
/// place there would be killed with the daemon's unit.
const SYSTEMD: &str = "name=systemd";

/// What begins the name of a tenant's directory: a tenant may be called `tasks`, which is a file in version 1.
const PREFIX: &str = "tenant-";

/// What failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The path of the instance's directory is not one.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// /proc could not be read, or the root of version 2 is broken.
    #[error("cannot find out which cgroup hierarchies there are")]
    Layout(#[source] io::Error),
    /// A directory could not be made.
    #[error("cannot make the cgroup {path}")]
    Make {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// This host cannot hold a limit.
    #[error("limit {limit} refused: {why}; without this limit the tenant can be made")]
    NotHere {
        /// The limit's name.
        limit: &'static str,
        /// The feature that is missing.
        why: String,
    },
    /// The kernel refuses a value.
    #[error("cannot set limit {limit} to {value} ({path})")]
    Set {
        /// The limit's name.
        limit: &'static str,
        /// The value, `none` for no limit.
        value: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file or directory of a cgroup could not be read or opened.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A process could not be ended.
    #[error("cannot end the processes of {path}")]
    Kill {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory is still used.
    #[error("cannot remove the cgroup {path} (processes in it: {processes:?})")]
    Remove {
        /// The directory.
        path: PathBuf,
        /// Who is in it.
        processes: Vec<i32>,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn read_error((path, source): FileError) -> CgroupError {
    CgroupError::Read { path, source }
}

/// What a new process needs to be in a tenant's cgroups from its first instruction.
///
/// Moving a process in by `cgroup.procs` waits for an RCU grace period: 8 to 16 ms on an idle machine, more than all
/// other steps of a tenant. Neither of these two ways does.
#[derive(Debug, Default)]
pub struct Entry {
    /// The directory in version 2, for `clone3` with
    /// `CLONE_INTO_CGROUP` (5.7); none where version 2 is not mounted.
    pub unified: Option<OwnedFd>,
    /// `tasks` of version 1, open for writing. The new process writes `0` into each, itself, while it has one thread:
    /// then (5.5 and newer) the kernel moves it without waiting.
    pub tasks: Vec<OwnedFd>,
}

/// Whether this host can hold a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Support {
    /// The limit's name.
    pub limit: &'static str,
    /// How far.
    pub held: Held,
}

/// How far a limit is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// Wholly.
    Yes,
    /// With a gap, which must be told to who asks.
    Partly(String),
    /// Not at all: asking for it is refused with this reason.
    No(String),
}

/// The cgroups of one instance.
#[derive(Debug, Clone)]
pub struct Cgroups {
    /// One a hierarchy.
    places: Vec<Place>,
    cpu: Result<Home, String>,
    memory: Result<Home, String>,
    processes: Result<Home, String>,
    io: Result<(Home, Disk), String>,
}

/// The instance's directory in one hierarchy.
#[derive(Debug, Clone)]
struct Place {
    version: Version,
    /// What tenants below it are held and counted by.
    controllers: Vec<String>,
    dir: PathBuf,
}

/// Where a limit is held.
#[derive(Debug, Clone)]
struct Home {
    version: Version,
    dir: PathBuf,
}

impl Cgroups {
    /// Finds the hierarchies and makes the instance's directory in those that are needed. `parent` is relative to the
    /// root of the hierarchies as this process sees them, such as `tenantd-main` or `tenants.slice/main`; with `./`
    /// before it, to our own place. I/O limits hold for the disk of `files`.
    ///
    /// A controller that is missing is no error here: limits that need it are refused one by one.
    ///
    /// # Errors
    /// A bad `parent`, /proc that cannot be read, a directory that cannot be made.
    pub fn open(parent: &str, files: &Path) -> Result<Self, CgroupError> {
        let layout = Layout::read().map_err(CgroupError::Layout)?;
        let disk = Disk::of(files).map_err(|source| CgroupError::Read { path: files.to_owned(), source })?;
        let disk = disk.ok_or_else(|| format!("{} lies on no single disk", files.display()));
        Self::make_in(&layout, parent, disk)
    }

    /// [`Cgroups::open`] in a layout that was found already.
    ///
    /// # Errors
    /// As [`Cgroups::open`].
    pub fn make_in(layout: &Layout, parent: &str, disk: Result<Disk, String>) -> Result<Self, CgroupError> {
        let (from_own, parent) = relative(parent)?;
        let mut places = Vec::new();
        let mut refused = Vec::new();
        for hierarchy in &layout.hierarchies {
            let used = |name: &String| name == SYSTEMD || V1.contains(&name.as_str());
            if hierarchy.version == Version::One && !hierarchy.controllers.iter().any(used) {
                continue;
            }
            let base = &hierarchy.mount_point;
            let base = if from_own { base.join(&hierarchy.own) } else { base.clone() };
            let dir = base.join(&parent);
            fs::create_dir_all(&dir).map_err(|source| CgroupError::Make { path: dir.clone(), source })?;
            let controllers = match hierarchy.version {
                Version::One => hierarchy.controllers.clone(),
                Version::Two => hand_down(&base, &parent, &mut refused),
            };
            places.push(Place { version: hierarchy.version, controllers, dir });
        }
        let home = |limit: &str, two: (&str, &str), one: (&str, &str)| {
            let candidates = [(Version::Two, two), (Version::One, one)];
            let found = candidates.into_iter().find_map(|(version, (controller, file))| {
                let has = |p: &&Place| p.version == version && p.controllers.iter().any(|c| c == controller);
                let place = places.iter().find(has)?;
                // Version 2 has the files in the children only when the controller was handed down, and both when the
                // kernel was built with the feature; the instance's directory is like a child in this.
                place.dir.join(file).exists().then(|| Home { version, dir: place.dir.clone() })
            });
            found.ok_or_else(|| {
                let why = refused.iter().find(|(controller, _)| *controller == two.0);
                match why {
                    Some((_, why)) => why.clone(),
                    None => format!("this host has no {limit} controller for us ({})", layout.describe()),
                }
            })
        };
        let io = home("io", ("io", "io.max"), ("blkio", "blkio.throttle.read_bps_device"));
        Ok(Self {
            cpu: home("cpu", ("cpu", "cpu.max"), ("cpu", "cpu.cfs_quota_us")),
            memory: home("memory", ("memory", "memory.max"), ("memory", "memory.limit_in_bytes")),
            processes: home("pids", ("pids", "pids.max"), ("pids", "pids.max")),
            io: io.and_then(|home| Ok((home, disk?))),
            places,
        })
    }

    /// Which limits of this room can be held here, in the order in which limits are shown.
    #[must_use]
    pub fn support(&self) -> Vec<Support> {
        let of = |home: &Result<Home, String>| match home {
            Ok(_) => Held::Yes,
            Err(why) => Held::No(why.clone()),
        };
        let (read, write) = match &self.io {
            Err(why) => (Held::No(why.clone()), Held::No(why.clone())),
            Ok((Home { version: Version::One, .. }, _)) => {
                let gap = "cgroup version 1 holds direct and synchronous writes only; what the page cache writes back \
                           later counts for nobody";
                (Held::Yes, Held::Partly(gap.to_owned()))
            }
            Ok(_) => (Held::Yes, Held::Yes),
        };
        let all = [
            ("cpu", of(&self.cpu)),
            ("memory", of(&self.memory)),
            ("processes", of(&self.processes)),
            ("io_read", read),
            ("io_write", write),
        ];
        all.into_iter().map(|(limit, held)| Support { limit, held }).collect()
    }

    /// Refuses limits that this host cannot hold.
    ///
    /// # Errors
    /// [`CgroupError::NotHere`] for the first one.
    pub fn check(&self, limits: &Limits) -> Result<(), CgroupError> {
        let asked = asked(limits);
        let refused = self.support().into_iter().find_map(|support| match support.held {
            Held::No(why) if asked.contains(&support.limit) => Some(CgroupError::NotHere { limit: support.limit, why }),
            _ => None,
        });
        refused.map_or(Ok(()), Err)
    }

    /// The part of `limits` that this room holds, as the kernel will give it back: without the limits of other rooms,
    /// memory in whole pages. What [`Cgroups::limits`] is to be compared with.
    #[must_use]
    pub fn held(limits: &Limits) -> Limits {
        Limits {
            cpu: limits.cpu,
            memory: limits.memory.map(knobs::pages),
            processes: limits.processes,
            io_read: limits.io_read,
            io_write: limits.io_write,
            ..Limits::default()
        }
    }

    /// Makes the directories that every tenant has; those that are there stay as they are.
    ///
    /// # Errors
    /// [`CgroupError::Make`].
    pub fn make(&self, tenant: &TenantName) -> Result<(), CgroupError> {
        self.always(tenant).try_for_each(|path| {
            make(path)?;
            fault::point("limits.some");
            Ok(())
        })
    }

    /// Makes the kernel hold these limits and no others for the tenant, whose directories exist; only what differs is
    /// written. Processes in it go on under the new limits.
    ///
    /// # Errors
    /// A limit that this host cannot hold, or that the kernel refuses: memory below what is used and cannot be given
    /// back is `EBUSY` in version 1; in version 2 the kernel kills until it fits.
    pub fn set(&self, tenant: &TenantName, limits: &Limits) -> Result<(), CgroupError> {
        self.check(limits)?;
        let (now, want) = (self.read(tenant)?, Self::held(limits));
        let set = |limit, value: Option<String>| {
            move |(path, source)| CgroupError::Set {
                limit,
                value: value.unwrap_or_else(|| "none".into()),
                path,
                source,
            }
        };
        if let (Ok(home), true) = (&self.processes, now.processes != want.processes) {
            let value = want.processes.map(|n| n.to_string());
            knobs::write_processes(&below(&home.dir, tenant), want.processes).map_err(set("processes", value))?;
        }
        if let (Ok(home), true) = (&self.memory, now.memory != want.memory) {
            let dir = below(&home.dir, tenant);
            make(dir.clone())?;
            // Who lives already, before the limit is there: killed in between, we come here again. What they hold stays
            // on the instance's account; the limit counts what they take from now on.
            let moved = self.bring_in(tenant, &dir)?;
            if let (Some(limit), true) = (want.memory, moved) {
                let held = self.held_by_processes(tenant).unwrap_or(0);
                if held > limit.get() {
                    let source = io::Error::other(format!("its processes hold {held} bytes"));
                    return Err(set("memory", Some(limit.to_string()))((dir, source)));
                }
            }
            let value = want.memory.map(|n| n.to_string());
            knobs::write_memory(&below(&home.dir, tenant), home.version, want.memory).map_err(set("memory", value))?;
        }
        if let (Ok(home), true) = (&self.cpu, now.cpu != want.cpu) {
            let value = want.cpu.map(|n| n.to_string());
            knobs::write_cpu(&below(&home.dir, tenant), home.version, want.cpu).map_err(set("cpu", value))?;
        }
        if let (Ok((home, disk)), true) = (&self.io, (now.io_read, now.io_write) != (want.io_read, want.io_write)) {
            let text = |n: Option<Bytes>| n.map_or_else(|| "none".to_owned(), |n| n.to_string());
            let value = Some(format!("{}/{}", text(want.io_read), text(want.io_write)));
            let io = (want.io_read, want.io_write);
            let dir = below(&home.dir, tenant);
            knobs::write_io(&dir, home.version, *disk, io).map_err(set("io_read/io_write", value))?;
        }
        Ok(())
    }

    /// The limits that the kernel holds for the tenant now; none when a directory of it is missing.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn limits(&self, tenant: &TenantName) -> Result<Option<Limits>, CgroupError> {
        if self.always(tenant).all(|dir| dir.is_dir()) { self.read(tenant).map(Some) } else { Ok(None) }
    }

    /// Whether the tenant has a directory in any hierarchy.
    #[must_use]
    pub fn has_some(&self, tenant: &TenantName) -> bool {
        self.dirs(tenant).any(|dir| dir.is_dir())
    }

    /// Whether one of the directories of a tenant that lives has nobody in it: somebody removed it, and it is a new one.
    #[must_use]
    pub fn is_deserted(&self, tenant: &TenantName) -> bool {
        self.counting(tenant).any(|(_, dir)| stray::is_deserted(&dir))
    }

    /// Brings the processes of the tenant whose init this is into all of its directories. What they hold stays on the account
    /// on which it is.
    ///
    /// # Errors
    /// A process cannot be moved: a directory has fewer places than there are processes, for example.
    pub fn bring_back(&self, tenant: &TenantName, init: i32) -> Result<(), CgroupError> {
        for (_, dir) in self.counting(tenant) {
            Self::move_into(&dir, || Ok(stray::with_init(init)))?;
        }
        Ok(())
    }

    fn read(&self, tenant: &TenantName) -> Result<Limits, CgroupError> {
        let mut limits = Limits::default();
        if let Ok(home) = &self.cpu {
            limits.cpu = knobs::read_cpu(&below(&home.dir, tenant), home.version).map_err(read_error)?;
        }
        if let Ok(home) = &self.memory {
            let dir = below(&home.dir, tenant);
            if home.version == Version::Two || dir.is_dir() {
                limits.memory = knobs::read_memory(&dir, home.version).map_err(read_error)?;
            }
        }
        if let Ok(home) = &self.processes {
            limits.processes = knobs::read_processes(&below(&home.dir, tenant)).map_err(read_error)?;
        }
        if let Ok((home, disk)) = &self.io {
            let io = knobs::read_io(&below(&home.dir, tenant), home.version, *disk).map_err(read_error)?;
            (limits.io_read, limits.io_write) = io;
        }
        Ok(limits)
    }

    /// Opens what a new process of the tenant needs to enter; see [`Entry`].
    ///
    /// # Errors
    /// [`CgroupError::Read`] when a directory is missing.
    pub fn entry(&self, tenant: &TenantName) -> Result<Entry, CgroupError> {
        let mut entry = Entry { unified: None, tasks: Vec::new() };
        for place in &self.places {
            let mut dir = below(&place.dir, tenant);
            if !self.is_own(place) && !dir.is_dir() {
                dir = place.dir.clone();
            }
            let opened = |path: PathBuf, flags: OFlag| {
                let fd = openat(AT_FDCWD, &path, flags | OFlag::O_CLOEXEC, Mode::empty());
                fd.map_err(|errno| CgroupError::Read { path, source: errno.into() })
            };
            match place.version {
                Version::Two => entry.unified = Some(opened(dir, OFlag::O_PATH | OFlag::O_DIRECTORY)?),
                Version::One => entry.tasks.push(opened(dir.join("tasks"), OFlag::O_WRONLY)?),
            }
        }
        Ok(entry)
    }

    /// The number by which BPF knows the tenant (`bpf_get_current_cgroup_id`, `bpf_skb_cgroup_id`): the inode number of
    /// its directory in version 2. None without version 2 or without the directory.
    ///
    /// # Errors
    /// The directory cannot be looked at.
    pub fn id(&self, tenant: &TenantName) -> Result<Option<u64>, CgroupError> {
        let Some(place) = self.unified() else { return Ok(None) };
        let path = below(&place.dir, tenant);
        match fs::metadata(&path) {
            Ok(found) => Ok(Some(found.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CgroupError::Read { path, source }),
        }
    }

    /// The tenant's directory in version 2, whether it is there or not; none without version 2.
    #[must_use]
    pub fn unified_dir(&self, tenant: &TenantName) -> Option<PathBuf> {
        self.unified().map(|place| below(&place.dir, tenant))
    }

    /// The instance's own directory in version 2, where BPF programs for all its tenants can be attached.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn instance_dir(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let open = |place: &Place| {
            let dir = File::open(&place.dir);
            dir.map(OwnedFd::from).map_err(|source| CgroupError::Read { path: place.dir.clone(), source })
        };
        self.unified().map(open).transpose()
    }

    /// What the tenant uses; empty when it has no directories.
    #[must_use]
    pub fn usage(&self, tenant: &TenantName) -> Usage {
        let mut usage = Usage::default();
        for (place, dir) in self.counting(tenant) {
            usage.add(&dir, place.version, &place.controllers);
        }
        usage.memory = usage.memory.or_else(|| self.held_by_processes(tenant));
        usage
    }

    /// The four figures of a tenant that cost little to read, for those who read them of every tenant.
    #[must_use]
    pub fn spent(&self, tenant: &TenantName) -> Spent {
        let mut spent = Spent::default();
        for (place, dir) in self.counting(tenant) {
            spent.add(&dir, place.version, &place.controllers);
        }
        spent.memory = spent.memory.or_else(|| self.held_by_processes(tenant));
        spent
    }

    /// Process ids of the tenant in any hierarchy, as seen from our pid namespace.
    ///
    /// # Errors
    /// A file that cannot be read; an absent directory has no processes.
    pub fn processes(&self, tenant: &TenantName) -> Result<BTreeSet<i32>, CgroupError> {
        let mut all = BTreeSet::new();
        for dir in self.dirs(tenant) {
            let path = dir.join("cgroup.procs");
            all.append(&mut end::processes(&dir).map_err(|source| CgroupError::Read { path, source })?);
        }
        Ok(all)
    }

    /// Sends SIGKILL to every process of the tenant, also to those that are made meanwhile; does not wait for their end.
    ///
    /// # Errors
    /// [`CgroupError::Kill`].
    pub fn kill(&self, tenant: &TenantName) -> Result<(), CgroupError> {
        let kill = |path: PathBuf| move |source| CgroupError::Kill { path, source };
        if let Some(place) = self.unified() {
            // All at once, forks included (5.14 and newer).
            match knobs::put(&below(&place.dir, tenant).join("cgroup.kill"), "1") {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(kill(place.dir.clone())(error)),
                _ => {}
            }
        }
        // One by one who is only in version 1. A process may fork while we look: again until a look finds nobody new.
        let mut seen = BTreeSet::new();
        for _ in 0..KILL_ROUNDS {
            let mut found = false;
            for dir in self.dirs(tenant) {
                let pids = end::processes(&dir).map_err(kill(dir.clone()))?;
                for pid in pids {
                    found |= seen.insert(pid);
                    end::kill(&dir, pid).map_err(kill(dir.clone()))?;
                }
            }
            if !found {
                break;
            }
        }
        Ok(())
    }

    /// Kills what is left of the tenant and removes its directories, waiting at most `patience` for processes to be
    /// gone. Removing the absent succeeds.
    ///
    /// # Errors
    /// [`CgroupError::Remove`] with the processes that stay.
    pub fn remove(&self, tenant: &TenantName, patience: Duration) -> Result<(), CgroupError> {
        let until = Instant::now() + patience;
        self.kill(tenant)?;
        for dir in self.dirs(tenant) {
            while let Err(source) = end::remove(&dir) {
                if Instant::now() >= until {
                    let processes = end::processes(&dir).unwrap_or_default().into_iter().collect();
                    return Err(CgroupError::Remove { path: dir, processes, source });
                }
                sleep(Duration::from_millis(1));
                self.kill(tenant)?;
            }
            fault::point("cgroups.some");
        }
        Ok(())
    }

    /// The tenants that have a directory in any hierarchy.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn tenants(&self) -> Result<BTreeSet<TenantName>, CgroupError> {
        let mut all = BTreeSet::new();
        for place in &self.places {
            let error = |source| CgroupError::Read { path: place.dir.clone(), source };
            for entry in fs::read_dir(&place.dir).map_err(error)? {
                let name = entry.map_err(error)?.file_name();
                all.extend(name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<TenantName>().ok()));
            }
        }
        Ok(all)
    }

    /// Removes the instance's directories when no tenant is in them; for tests and for taking an instance away.
    ///
    /// # Errors
    /// [`CgroupError::Remove`].
    pub fn remove_instance(&self) -> Result<(), CgroupError> {
        self.places.iter().try_for_each(|place| match fs::remove_dir(&place.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(CgroupError::Remove { path: place.dir.clone(), processes: Vec::new(), source: error })
            }
            _ => Ok(()),
        })
    }

    fn unified(&self) -> Option<&Place> {
        self.places.iter().find(|place| place.version == Version::Two)
    }

    /// The limits with those defaults filled in that this host can hold. A default protects the host where it can; a
    /// limit that was asked for and cannot be held is refused ([`Cgroups::check`]).
    #[must_use]
    pub fn with_defaults(&self, limits: &Limits) -> Limits {
        let all = limits.or_defaults();
        Limits { processes: all.processes.filter(|_| limits.processes.is_some() || self.processes.is_ok()), ..all }
    }

    /// Writes down, once at the start, what this host cannot hold and what follows from it.
    pub fn tell_support(&self) {
        for support in self.support() {
            let limit = support.limit;
            match support.held {
                Held::Yes => {}
                Held::Partly(gap) => tracing::warn!(limit, gap, "this host holds the limit with a gap"),
                Held::No(why) if limit == "processes" => tracing::warn!(
                    limit,
                    why,
                    "this host cannot hold the limit: tenants are made without the default of {} processes, and a fork \
                     bomb in one takes process ids from all",
                    crate::limits::DEFAULT_PROCESSES
                ),
                Held::No(why) => {
                    tracing::warn!(limit, why, "this host cannot hold the limit: asking for it is refused")
                }
            }
        }
    }

    /// The tenant's directories as `/proc/PID/cgroup` names them to us: the hierarchy's controllers, empty in version 2,
    /// and the path.
    ///
    /// # Errors
    /// The hierarchies cannot be read.
    pub fn paths(&self, tenant: &TenantName) -> Result<BTreeSet<(String, String)>, CgroupError> {
        let layout = Layout::read().map_err(CgroupError::Layout)?;
        Ok(self.paths_in(&layout, tenant))
    }

    /// [`Cgroups::paths`] in a layout that was read already.
    #[must_use]
    pub fn paths_in(&self, layout: &Layout, tenant: &TenantName) -> BTreeSet<(String, String)> {
        let mut paths = BTreeSet::new();
        for dir in self.dirs(tenant).filter(|dir| dir.is_dir()) {
            let holds = |h: &&Hierarchy| dir.starts_with(&h.mount_point);
            let hierarchy = layout.hierarchies.iter().filter(holds).max_by_key(|h| h.mount_point.as_os_str().len());
            let Some(hierarchy) = hierarchy else { continue };
            let Ok(below) = dir.strip_prefix(&hierarchy.mount_point) else { continue };
            let controllers = match hierarchy.version {
                Version::One => hierarchy.controllers.join(","),
                Version::Two => String::new(),
            };
            paths.insert((controllers, hierarchy.shown.join(below).to_string_lossy().into_owned()));
        }
        paths
    }

    /// Whether every tenant has a directory of its own there.
    fn is_own(&self, place: &Place) -> bool {
        let counts = |name: &str| match name {
            "memory" => false,
            // Version 2 counts processor time and keeps processes together without any controller.
            "cpuacct" | SYSTEMD => self.unified().is_none(),
            _ => V1.contains(&name),
        };
        place.version == Version::Two || place.controllers.iter().any(|name| counts(name))
    }

    /// The directories that every tenant has.
    fn always(&self, tenant: &TenantName) -> impl Iterator<Item = PathBuf> {
        self.places.iter().filter(|place| self.is_own(place)).map(move |place| below(&place.dir, tenant))
    }

    /// The directories that it has.
    fn counting(&self, tenant: &TenantName) -> impl Iterator<Item = (&Place, PathBuf)> {
        let all = self.places.iter().map(move |place| (place, below(&place.dir, tenant)));
        all.filter(|(place, dir)| self.is_own(place) || dir.is_dir())
    }

    /// Moves the tenant's processes into a directory of its own that is new; whether there were any. Each move waits for
    /// an RCU grace period, but nobody lives yet when a tenant is made with its limits.
    fn bring_in(&self, tenant: &TenantName, dir: &Path) -> Result<bool, CgroupError> {
        Self::move_into(dir, || self.processes(tenant))
    }

    fn move_into(dir: &Path, who: impl Fn() -> Result<BTreeSet<i32>, CgroupError>) -> Result<bool, CgroupError> {
        let error = |source| CgroupError::Read { path: dir.to_owned(), source };
        let mut moved = false;
        // A process may fork while we look: again until a look finds nobody new.
        for _ in 0..KILL_ROUNDS {
            let inside = end::processes(dir).map_err(error)?;
            let outside: Vec<i32> = who()?.difference(&inside).copied().collect();
            if outside.is_empty() {
                break;
            }
            moved = true;
            for pid in outside {
                match knobs::put(&dir.join("cgroup.procs"), &pid.to_string()) {
                    Err(gone) if gone.raw_os_error() == Some(libc::ESRCH) => {}
                    moved => moved.map_err(error)?,
                }
            }
        }
        Ok(moved)
    }

    /// Bytes that the tenant's processes hold and no other: what is left of its memory to be told where no cgroup counts.
    fn held_by_processes(&self, tenant: &TenantName) -> Option<u64> {
        self.memory.as_ref().ok()?;
        // All of them are in each of its directories; one is read, because a scrape asks for thousands of tenants.
        let place = self.unified().or_else(|| self.places.iter().find(|place| self.is_own(place)))?;
        let pids = end::processes(&below(&place.dir, tenant)).ok()?;
        Some(pids.into_iter().filter_map(usage::held_by).sum())
    }

    /// All that it can have.
    fn dirs(&self, tenant: &TenantName) -> impl Iterator<Item = PathBuf> {
        self.places.iter().map(move |place| below(&place.dir, tenant))
    }
}

/// Looks at a tenant that forks faster than it can be killed one by one, before the caller hears of it by `remove`.
const KILL_ROUNDS: usize = 1000;

fn make(path: PathBuf) -> Result<(), CgroupError> {
    match fs::create_dir(&path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(CgroupError::Make { path, source }),
        _ => Ok(()),
    }
}

fn below(dir: &Path, tenant: &TenantName) -> PathBuf {
    dir.join(format!("{PREFIX}{tenant}"))
}

/// The limits of this room that are asked for.
fn asked(limits: &Limits) -> Vec<&'static str> {
    Cgroups::held(limits).pairs().into_iter().map(|(name, _)| name).collect()
}

/// True when the path is meant from our own place.
fn relative(parent: &str) -> Result<(bool, PathBuf), Invalid> {
    let (own, path) = match parent.strip_prefix("./") {
        Some(path) => (true, path),
        None => (false, parent.trim_start_matches('/')),
    };
    let path = Path::new(path);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if path.as_os_str().is_empty() || !plain {
        let rule = "must be a path below the root of the cgroup hierarchies, without . and .. in it";
        return Err(Invalid::new("cgroup", parent, rule));
    }
    Ok((own, path.to_owned()))
}

/// Hands the controllers of version 2 down from `base` to the children of `base/parent`. Returns those that arrive
/// there; why another one does not goes into `refused`.
fn hand_down(base: &Path, parent: &Path, refused: &mut Vec<(&'static str, String)>) -> Vec<String> {
    let mut arrived = Vec::new();
    let levels: Vec<PathBuf> = {
        let mut levels: Vec<PathBuf> = parent.ancestors().map(|part| base.join(part)).collect();
        levels.reverse();
        levels
    };
    for controller in V2 {
        let mut ok = true;
        for level in &levels {
            let listed = |file| {
                let text = fs::read_to_string(level.join(file)).unwrap_or_default();
                text.split_whitespace().any(|name| name == controller)
            };
            if listed("cgroup.subtree_control") {
                continue;
            }
            if !listed("cgroup.controllers") {
                ok = false;
                break;
            }
            if let Err(error) = knobs::put(&level.join("cgroup.subtree_control"), &format!("+{controller}")) {
                let hint = match error.raw_os_error() {
                    Some(libc::EBUSY) => ": processes are in it; move them into a cgroup below it",
                    _ => "",
                };
                let why = format!("{} does not hand down the {controller} controller{hint} ({error})", level.display());
                refused.push((controller, why));
                ok = false;
                break;
            }
        }
        if ok {
            arrived.push(controller.to_owned());
        }
    }
    arrived
}
