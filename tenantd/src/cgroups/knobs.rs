//! The limits as the kernel's files: what is written, what is read back, for both versions.
//!
//! Short periods (10 ms) for processor time: within a period the processes of a tenant may have all processors, and their
//! neighbours wait as long. Below a tenth of a core the kernel's least quota (1 ms) asks for 100 ms. Memory
//! is kept in pages by the kernel: what was asked for is rounded down before it is compared. Swap is part of the
//! memory limit (version 1) or refused (version 2): a tenant must not push what is beyond its limit onto the disk
//! that all tenants share.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use super::disk::Disk;
use super::layout::Version;
use crate::limits::{Bytes, Cores, Count};

/// Microseconds.
fn period(milli: u64) -> u64 {
    if milli < 100 { 100_000 } else { 10_000 }
}

/// Bytes; what the kernel rounds memory limits to. All targets have 4 KiB pages, greater ones only round further.
const PAGE: u64 = 4096;

/// Writes an existing file; a kernel's file is never created by writing.
pub(super) fn put(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).truncate(true).open(path)?.write_all(value.as_bytes())
}

/// A failed step on one file: the file and the cause.
pub(super) type FileError = (std::path::PathBuf, io::Error);

fn write(dir: &Path, file: &str, value: &str) -> Result<(), FileError> {
    let path = dir.join(file);
    put(&path, value).map_err(|error| (path, error))
}

pub(super) fn read(dir: &Path, file: &str) -> Result<String, FileError> {
    let path = dir.join(file);
    fs::read_to_string(&path).map_err(|error| (path, error))
}

fn number<T: std::str::FromStr>(dir: &Path, file: &str) -> Result<T, FileError> {
    let bad = || (dir.join(file), io::Error::new(io::ErrorKind::InvalidData, "not a number"));
    read(dir, file)?.trim().parse().map_err(|_| bad())
}

/// As the kernel keeps it: whole pages.
pub(super) fn pages(memory: Bytes) -> Bytes {
    Bytes::new(memory.get() / PAGE * PAGE).unwrap_or(memory)
}

pub(super) fn write_cpu(dir: &Path, version: Version, cpu: Option<Cores>) -> Result<(), FileError> {
    let period = cpu.map_or(100_000, |cpu| period(cpu.milli().into()));
    let quota = cpu.map(|cpu| u64::from(cpu.milli()) * period / 1000);
    match version {
        Version::Two => {
            let quota = quota.map_or_else(|| "max".to_owned(), |us| us.to_string());
            write(dir, "cpu.max", &format!("{quota} {period}"))
        }
        Version::One => {
            // First no quota: the new period with the old quota may be refused.
            write(dir, "cpu.cfs_quota_us", "-1")?;
            write(dir, "cpu.cfs_period_us", &period.to_string())?;
            quota.map_or(Ok(()), |us| write(dir, "cpu.cfs_quota_us", &us.to_string()))
        }
    }
}

pub(super) fn read_cpu(dir: &Path, version: Version) -> Result<Option<Cores>, FileError> {
    let (quota, period) = match version {
        Version::Two => {
            let text = read(dir, "cpu.max")?;
            let mut words = text.split_whitespace().map(|word| word.parse::<u64>().ok());
            (words.next().flatten(), words.next().flatten())
        }
        Version::One => {
            let quota: i64 = number(dir, "cpu.cfs_quota_us")?;
            (u64::try_from(quota).ok(), Some(number(dir, "cpu.cfs_period_us")?))
        }
    };
    let milli = quota.zip(period.filter(|us| *us > 0)).map(|(quota, period)| quota.saturating_mul(1000) / period);
    Ok(milli.and_then(|milli| Cores::from_milli(u32::try_from(milli).unwrap_or(u32::MAX))))
}

pub(super) fn write_memory(dir: &Path, version: Version, memory: Option<Bytes>) -> Result<(), FileError> {
    match version {
        Version::Two => {
            let value = memory.map_or_else(|| "max".to_owned(), |n| pages(n).get().to_string());
            // A kernel without swap has no such file and needs none.
            if dir.join("memory.swap.max").exists() {
                write(dir, "memory.swap.max", if memory.is_some() { "0" } else { "max" })?;
            }
            write(dir, "memory.max", &value)
        }
        Version::One => {
            let value = memory.map_or_else(|| "-1".to_owned(), |n| pages(n).get().to_string());
            let (plain, with_swap) = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes");
            if !dir.join(with_swap).exists() {
                return write(dir, plain, &value);
            }
            // The kernel refuses (EINVAL) a moment in which memory with swap would be below memory.
            let now: u64 = number(dir, with_swap)?;
            let grows = memory.is_none_or(|n| n.get() > now);
            let order = if grows { [with_swap, plain] } else { [plain, with_swap] };
            order.into_iter().try_for_each(|file| write(dir, file, &value))
        }
    }
}

pub(super) fn read_memory(dir: &Path, version: Version) -> Result<Option<Bytes>, FileError> {
    match version {
        Version::Two => Ok(read(dir, "memory.max")?.trim().parse().ok().and_then(Bytes::new)),
        Version::One => {
            let n: u64 = number(dir, "memory.limit_in_bytes")?;
            // No limit reads back as LONG_MAX rounded down to a page.
            Ok(Bytes::new(n).filter(|n| n.get() < (i64::MAX as u64) / PAGE * PAGE))
        }
    }
}

pub(super) fn write_processes(dir: &Path, processes: Option<Count>) -> Result<(), FileError> {
    write(dir, "pids.max", &processes.map_or_else(|| "max".to_owned(), |n| n.to_string()))
}

pub(super) fn read_processes(dir: &Path) -> Result<Option<Count>, FileError> {
    Ok(read(dir, "pids.max")?.trim().parse().ok().and_then(Count::new))
}

/// Reading and writing in bytes a second.
pub(super) type Io = (Option<Bytes>, Option<Bytes>);

/// The files of version 1, in the order of [`Io`].
const THROTTLE: [&str; 2] = ["blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device"];

pub(super) fn write_io(dir: &Path, version: Version, disk: Disk, io: Io) -> Result<(), FileError> {
    match version {
        Version::Two => {
            let value = |n: Option<Bytes>| n.map_or_else(|| "max".to_owned(), |n| n.get().to_string());
            write(dir, "io.max", &format!("{disk} rbps={} wbps={}", value(io.0), value(io.1)))
        }
        Version::One => THROTTLE.into_iter().zip([io.0, io.1]).try_for_each(|(file, n)| {
            // Zero takes the rule away.
            write(dir, file, &format!("{disk} {}", n.map_or(0, Bytes::get)))
        }),
    }
}

pub(super) fn read_io(dir: &Path, version: Version, disk: Disk) -> Result<Io, FileError> {
    let line = |text: &str| {
        text.lines()
            .find_map(|line| line.split_once(' ').filter(|(dev, _)| *dev == disk.to_string()))
            .map(|l| l.1.to_owned())
    };
    match version {
        Version::Two => {
            let line = line(&read(dir, "io.max")?).unwrap_or_default();
            let value = |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key)?.parse().ok());
            Ok((value("rbps=").and_then(Bytes::new), value("wbps=").and_then(Bytes::new)))
        }
        Version::One => {
            let value = |file| -> Result<Option<Bytes>, FileError> {
                Ok(line(&read(dir, file)?).and_then(|n| n.trim().parse().ok()).and_then(Bytes::new))
            };
            Ok((value(THROTTLE[0])?, value(THROTTLE[1])?))
        }
    }
}
