//! Which hierarchies this process sees, and which controller is in which. Pure but for [`Layout::read`].
//!
//! In: `/proc/self/mountinfo` and `/proc/self/cgroup`. Out: for every hierarchy its mount point, its controllers and
//! our own place in it. Three layouts are met: version 2 only, version 1 only, and hybrid, where version 1 has the
//! controllers and version 2 has none but is there for BPF and `cgroup.kill`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Which interface a hierarchy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Version 1: one hierarchy a controller (or a few).
    One,
    /// Version 2, the unified hierarchy.
    Two,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its interface.
    pub version: Version,
    /// Controllers that can be used here, such as `memory`; a named hierarchy of version 1 has `name=systemd`.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Our own directory, relative to the mount point; empty at its root.
    pub own: PathBuf,
    /// What `/proc/PID/cgroup` calls the directory that is mounted; `/` unless a part of the hierarchy is.
    pub shown: PathBuf,
}

/// All hierarchies that are mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// In no particular order; at most one of version 2.
    pub hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// Reads the layout of this process.
    ///
    /// # Errors
    /// When /proc cannot be read. Without any hierarchy the layout is empty, which is not an error here.
    pub fn read() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        Self::find(&mounts, &own)
    }

    /// The layout that these two texts describe; asks the mount point of version 2 which controllers it has.
    ///
    /// # Errors
    /// When the root of version 2 has no readable `cgroup.controllers`.
    pub fn find(mounts: &str, own: &str) -> io::Result<Self> {
        let mut layout = Self::parse(mounts, own);
        for hierarchy in layout.hierarchies.iter_mut().filter(|h| h.version == Version::Two) {
            let controllers = fs::read_to_string(hierarchy.mount_point.join("cgroup.controllers"))?;
            hierarchy.controllers = controllers.split_whitespace().map(str::to_owned).collect();
        }
        Ok(layout)
    }

    /// What the two texts say alone. A hierarchy that is mounted more than once counts where we see our own place in
    /// it; of several such mounts the last one, because a later mount may hide an earlier one.
    pub(super) fn parse(mounts: &str, own: &str) -> Self {
        let mut layout = Self::default();
        for found in mounts.lines().filter_map(|line| hierarchy(line, own)) {
            let same = |h: &Hierarchy| h.version == found.version && h.controllers == found.controllers;
            layout.hierarchies.retain(|h| !same(h) && h.mount_point != found.mount_point);
            layout.hierarchies.push(found);
        }
        layout
    }

    /// The unified hierarchy.
    #[must_use]
    pub fn unified(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.version == Version::Two)
    }

    /// The hierarchy that has a controller; version 2 names it `io` where version 1 names it `blkio`.
    #[must_use]
    pub fn with(&self, version: Version, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.version == version && h.controllers.iter().any(|c| c == controller))
    }

    /// In words, for messages: `version 2 at /sys/fs/cgroup/unified (no controller), version 1 at ...`.
    #[must_use]
    pub fn describe(&self) -> String {
        let words = self.hierarchies.iter().map(|h| {
            let version = if h.version == Version::Two { 2 } else { 1 };
            let controllers =
                if h.controllers.is_empty() { "no controller".to_owned() } else { h.controllers.join(" ") };
            format!("version {version} at {} ({controllers})", h.mount_point.display())
        });
        let words: Vec<String> = words.collect();
        if words.is_empty() { "no cgroup hierarchy is mounted".to_owned() } else { words.join(", ") }
    }
}

/// One line of mountinfo: `id parent dev root mount-point options [fields] - type source super-options`.
fn hierarchy(line: &str, own: &str) -> Option<Hierarchy> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(3);
    let root = unescape(front.next()?);
    let mount_point = PathBuf::from(unescape(front.next()?));
    let mut back = back.split(' ');
    let kind = back.next()?;
    let options: Vec<&str> = back.nth(1)?.split(',').collect();
    let (version, controllers, path) = match kind {
        "cgroup2" => (Version::Two, Vec::new(), own.lines().find_map(|line| line.strip_prefix("0::"))?),
        "cgroup" => {
            // `id:controllers:path`. The mount's options name the same controllers among others (`rw`, `xattr`).
            let (names, path) = own.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let (names, path) = (fields.next()?, fields.next()?);
                names.split(',').any(|name| options.contains(&name)).then_some((names, path))
            })?;
            (Version::One, names.split(',').map(str::to_owned).collect(), path)
        }
        _ => return None,
    };
    // A bind mount shows a part of the hierarchy. One that does not contain us (its root is beside us, or above the
    // root of our cgroup namespace and thus begins with `/..`) is not where we may make directories.
    let own = Path::new(path).strip_prefix(&root).ok()?.to_owned();
    Some(Hierarchy { version, controllers, mount_point, own, shown: PathBuf::from(root) })
}

/// mountinfo writes blank, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(field.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const OWN: &str = "4:memory:/a/b\n3:name=systemd:/x.service\n2:cpu,cpuacct:/\n1:freezer:/\n0::/x.service\n";

    #[test]
    fn hybrid() {
        let layout = Layout::parse(HYBRID, OWN);
        assert_eq!(layout.hierarchies.len(), 4);
        let memory = layout.with(Version::One, "memory").unwrap();
        assert_eq!((memory.mount_point.to_str(), memory.own.to_str()), (Some("/sys/fs/cgroup/memory"), Some("a/b")));
        assert_eq!(layout.with(Version::One, "cpuacct"), layout.with(Version::One, "cpu"));
        let unified = layout.unified().unwrap();
        assert_eq!(unified.own, Path::new("x.service"));
        assert!(layout.with(Version::Two, "memory").is_none());
        // Named by /proc/self/cgroup but mounted nowhere.
        assert!(layout.with(Version::One, "freezer").is_none());
        assert!(layout.describe().contains("version 2 at /sys/fs/cgroup/unified (no controller)"));
    }

    #[test]
    fn version_2_only_and_none() {
        let line =
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot";
        let layout = Layout::parse(line, "0::/system.slice/tenantd.service\n");
        assert_eq!(layout.hierarchies.len(), 1);
        assert_eq!(layout.unified().unwrap().own, Path::new("system.slice/tenantd.service"));
        assert_eq!(Layout::parse("22 1 0:20 / /proc rw - proc proc rw", "0::/\n"), Layout::default());
        assert_eq!(Layout::default().describe(), "no cgroup hierarchy is mounted");
    }

    #[test]
    fn bind_mounts() {
        // A container without a cgroup namespace: the mount shows its own part only.
        let line = "33 31 0:30 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory";
        let layout = Layout::parse(line, "4:memory:/docker/abc/deeper\n");
        assert_eq!(layout.hierarchies[0].own, Path::new("deeper"));
        // A cgroup namespace whose directory was bound over the old mount, which now begins above our root.
        let lines = "33 31 0:30 /../.. /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
44 33 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
        let layout = Layout::parse(lines, "4:memory:/lab\n");
        assert_eq!(layout.hierarchies.len(), 1);
        assert_eq!(layout.hierarchies[0].own, Path::new("lab"));
        assert_eq!(Layout::parse(lines.lines().next().unwrap(), "4:memory:/lab\n"), Layout::default());
    }

    #[test]
    fn odd_mount_points_and_lines() {
        let line = "33 31 0:30 / /mnt/a\\040b rw - cgroup2 none rw";
        assert_eq!(Layout::parse(line, "0::/\n").hierarchies[0].mount_point, Path::new("/mnt/a b"));
        for broken in
            ["", " - ", "1 2 3 - cgroup", "33 31 0:30 / /x rw - cgroup cgroup", "33 31 0:30 / /x rw - cgroup2"]
        {
            assert_eq!(Layout::parse(broken, OWN), Layout::default(), "{broken:?}");
        }
    }
}
