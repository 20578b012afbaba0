//! The disk that holds a path: I/O is limited a disk, and the kernel takes whole disks only (`ENODEV` for a partition).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::{major, minor};

/// A whole disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
}

impl std::fmt::Display for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl Disk {
    /// The disk below the file system of `path`; none for a file system without one (tmpfs, NFS, several disks at
    /// once).
    ///
    /// # Errors
    /// When `path` or /proc cannot be read.
    pub fn of(path: &Path) -> io::Result<Option<Self>> {
        let dev = fs::metadata(path)?.dev();
        let dev = match major(dev) {
            // btrfs and the like have a number of their own; the mount names the device.
            0 => match source(dev)?.and_then(|source| fs::metadata(source).ok()) {
                Some(file) if file.rdev() != 0 => file.rdev(),
                _ => return Ok(None),
            },
            _ => dev,
        };
        Ok(whole(Self { major: major(dev), minor: minor(dev) }))
    }
}

/// The third field of mountinfo is the device's number, the second after the dash its source.
fn source(dev: u64) -> io::Result<Option<String>> {
    let number = format!("{}:{}", major(dev), minor(dev));
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounts.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        (front.split(' ').nth(2)? == number).then(|| back.split(' ').nth(1).map(str::to_owned)).flatten()
    }))
}

fn whole(disk: Disk) -> Option<Disk> {
    let sys = format!("/sys/dev/block/{disk}");
    if !Path::new(&sys).join("partition").exists() {
        return Some(disk);
    }
    // The directory of a partition lies in the one of its disk.
    let text = fs::read_to_string(fs::canonicalize(sys).ok()?.parent()?.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(Disk { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_a_disk_has_none() {
        assert_eq!(Disk::of(Path::new("/proc")).unwrap(), None);
        assert!(Disk::of(Path::new("/proc/no-such-file")).is_err());
    }
}
