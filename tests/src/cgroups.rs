//! Cgroups of a world: the holder moves into one of its own in every hierarchy and becomes the root of a cgroup
//! namespace there, so what the daemons make under `/sys/fs/cgroup` is below it and can be removed as one.
//!
//! Cgroups are the one thing the kernel does not take away with the holder: directories stay when they are
//! empty. The watcher removes them, or whoever finds the stale record.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

struct Hierarchy {
    mount_point: PathBuf,
    /// Version 1: one with named controllers.
    v1: bool,
    /// Where this process is in it.
    own: String,
}

/// Those that are mounted, and where `process` (`self` or a pid) is in each.
fn hierarchies(process: &str) -> Vec<Hierarchy> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    mounts.lines().filter_map(|line| parse(line, &own)).collect()
}

fn parse(line: &str, own: &str) -> Option<Hierarchy> {
    let (front, back) = line.split_once(" - ")?;
    let mount_point = PathBuf::from(front.split(' ').nth(4)?);
    let mut back = back.split(' ');
    let kind = back.next()?;
    let options: Vec<&str> = back.nth(1)?.split(',').filter(|o| !matches!(*o, "rw" | "ro")).collect();
    let is_own = |fields: &[&str]| match kind {
        "cgroup2" => fields.first() == Some(&"0"),
        // `xattr` and the like are options too: one common controller is enough.
        _ => fields.get(1).is_some_and(|names| names.split(',').any(|n| options.contains(&n))),
    };
    if !matches!(kind, "cgroup" | "cgroup2") {
        return None;
    }
    let own = own.lines().find_map(|line| {
        let fields: Vec<&str> = line.splitn(3, ':').collect();
        is_own(&fields).then(|| fields.get(2).map(|path| (*path).to_owned())).flatten()
    })?;
    Some(Hierarchy { mount_point, v1: kind == "cgroup", own })
}

impl Hierarchy {
    /// Version 1: below where we are, so that limits go on to hold. Version 2: below the root, because a cgroup
    /// with processes in it cannot hand controllers down.
    fn dir(&self, name: &str) -> PathBuf {
        let base =
            if self.v1 { self.mount_point.join(self.own.trim_start_matches('/')) } else { self.mount_point.clone() };
        base.join(format!("tenantd-lab-{name}"))
    }
}

/// Moves the caller into cgroups named after the world, unshares the cgroup namespace and mounts the
/// hierarchies anew. Call it in a private mount namespace. A hierarchy that refuses is left as it is.
///
/// # Errors
/// The cgroup namespace cannot be unshared.
pub fn enter_own(name: &str) -> nix::Result<()> {
    let mut mine = Vec::new();
    for hierarchy in hierarchies("self") {
        let dir = hierarchy.dir(name);
        if fs::create_dir_all(&dir).is_err() {
            continue;
        }
        // A cpuset without processors and memory takes no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let (Some(parent), true) = (dir.parent(), dir.join(file).exists() && hierarchy.v1) {
                let _ = fs::read(parent.join(file)).and_then(|value| fs::write(dir.join(file), value));
            }
        }
        if fs::write(dir.join("cgroup.procs"), "0").is_ok() {
            mine.push(hierarchy);
        }
    }
    unshare(CloneFlags::CLONE_NEWCGROUP)?;
    for hierarchy in &mine {
        // A bind mount, not a fresh one: the kernel refuses to mount a file system over itself (EBUSY).
        let (dir, none) = (hierarchy.dir(name), None::<&str>);
        if mount(Some(&dir), &hierarchy.mount_point, none, MsFlags::MS_BIND, none).is_err() {
            continue;
        }
        // Version 2 hands controllers down only from a cgroup without processes: step one level lower.
        let leaf = hierarchy.mount_point.join("lab");
        if fs::create_dir_all(&leaf).is_ok() && !hierarchy.v1 {
            let _ = fs::write(leaf.join("cgroup.procs"), "0");
        }
    }
    Ok(())
}

/// Moves the caller into the cgroups of the process `pid`, for what is run in a world to be of it: the guard of a world's
/// daemon sees only what is below the world's cgroup. A hierarchy that refuses is left as it is.
pub fn join(pid: i32) {
    for hierarchy in hierarchies(&pid.to_string()) {
        let dir = hierarchy.mount_point.join(hierarchy.own.trim_start_matches('/'));
        let _ = fs::write(dir.join("cgroup.procs"), "0");
    }
}

/// Removes the cgroups of the world `name`. Its processes must be dead or dying.
pub fn remove(name: &str) {
    let until = Instant::now() + Duration::from_secs(30);
    for hierarchy in hierarchies("self") {
        let dir = hierarchy.dir(name);
        // A dead process leaves its cgroup a moment after it is reaped.
        while dir.exists() && !remove_tree(&dir) && Instant::now() < until {
            sleep(Duration::from_millis(5));
        }
    }
}

fn remove_tree(dir: &Path) -> bool {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(dir).is_ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const OWN: &str = "4:memory:/api/x\n3:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n";

    #[test]
    fn version_1_nests_below_where_we_are() {
        let line = "33 30 0:30 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory";
        let hierarchy = parse(line, OWN).unwrap();
        assert_eq!(hierarchy.dir("t"), Path::new("/sys/fs/cgroup/memory/api/x/tenantd-lab-t"));
        assert!(hierarchy.v1);
    }

    #[test]
    fn version_2_and_other_mounts() {
        let line = "39 30 0:36 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(parse(line, OWN).unwrap().dir("t"), Path::new("/sys/fs/cgroup/unified/tenantd-lab-t"));
        assert!(parse("22 1 0:20 / /proc rw - proc proc rw", OWN).is_none());
    }
}
