//! What a tenant uses, read from its directories; for status and `top`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::knobs::read;
use super::layout::Version;

/// What a tenant uses. A field is absent where no controller of this host counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Memory in bytes: processes, page cache, kernel memory. This is what the limit is compared with. Without a limit, on a
    /// host with cgroup version 1, only what its processes hold and share with nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Of it, page cache that was not touched lately and goes before anything is killed, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_cold: Option<u64>,
    /// Processes killed because the memory was used up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
    /// Processor time used so far in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<u64>,
    /// Time in which it wanted the processor but had used up its share, in microseconds (summed over processors).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled_us: Option<u64>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// Processes it could not make because it had as many as it may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes_refused: Option<u64>,
    /// Bytes read from disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_read: Option<u64>,
    /// Bytes written to disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_written: Option<u64>,
}

/// Bytes that a process holds and shares with nobody (proc_pid_statm(5)); none when it is gone.
pub(super) fn held_by(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut fields = text.split(' ').skip(1).map(|field| field.parse::<u64>().ok());
    let (resident, shared) = (fields.next()??, fields.next()??);
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(resident.saturating_sub(shared) * u64::try_from(page).ok()?)
}

fn number(dir: &Path, file: &str) -> Option<u64> {
    read(dir, file).ok()?.trim().parse().ok()
}

/// `key value` lines.
fn keyed(dir: &Path, file: &str, key: &str) -> Option<u64> {
    let text = read(dir, file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

impl Usage {
    /// Adds what one directory counts; files that are not there count nothing.
    pub(super) fn add(&mut self, dir: &Path, version: Version, controllers: &[String]) {
        let has = |name: &str| controllers.iter().any(|c| c == name);
        if has("pids") {
            self.processes = number(dir, "pids.current");
            self.processes_refused = keyed(dir, "pids.events", "max");
        }
        match version {
            Version::Two => {
                // Counted in every directory, also without the controller (4.15).
                let us = keyed(dir, "cpu.stat", "usage_usec");
                self.cpu_us = self.cpu_us.or(us);
                if has("cpu") {
                    self.throttled_us = keyed(dir, "cpu.stat", "throttled_usec");
                }
                if has("memory") {
                    self.memory = number(dir, "memory.current");
                    self.memory_cold = keyed(dir, "memory.stat", "inactive_file");
                    self.oom_kills = keyed(dir, "memory.events", "oom_kill");
                }
                if has("io") {
                    (self.io_read, self.io_written) = io_stat(dir);
                }
            }
            Version::One => {
                if has("cpuacct") {
                    self.cpu_us = number(dir, "cpuacct.usage").map(|ns| ns / 1000);
                }
                if has("cpu") {
                    self.throttled_us = keyed(dir, "cpu.stat", "throttled_time").map(|ns| ns / 1000);
                }
                if has("memory") {
                    self.memory = number(dir, "memory.usage_in_bytes");
                    self.memory_cold = keyed(dir, "memory.stat", "total_inactive_file");
                    self.oom_kills = keyed(dir, "memory.oom_control", "oom_kill");
                }
                if has("blkio") {
                    (self.io_read, self.io_written) = service_bytes(dir);
                }
            }
        }
    }
}

/// Of [`Usage`] what is one number in a small file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Processes and threads.
    pub processes: Option<u64>,
    /// Memory in bytes, as in [`Usage::memory`].
    pub memory: Option<u64>,
    /// Processor time in microseconds.
    pub cpu_us: Option<u64>,
    /// Processes killed because the memory was used up.
    pub oom_kills: Option<u64>,
}

impl Spent {
    /// Adds what one directory counts; files that are not there count nothing.
    pub(super) fn add(&mut self, dir: &Path, version: Version, controllers: &[String]) {
        let has = |name: &str| controllers.iter().any(|c| c == name);
        if has("pids") {
            self.processes = number(dir, "pids.current");
        }
        match version {
            Version::Two => {
                if self.cpu_us.is_none() {
                    self.cpu_us = keyed(dir, "cpu.stat", "usage_usec");
                }
                if has("memory") {
                    self.memory = number(dir, "memory.current");
                    self.oom_kills = keyed(dir, "memory.events", "oom_kill");
                }
            }
            Version::One => {
                if has("cpuacct") {
                    self.cpu_us = number(dir, "cpuacct.usage").map(|ns| ns / 1000);
                }
                if has("memory") {
                    self.memory = number(dir, "memory.usage_in_bytes");
                    self.oom_kills = keyed(dir, "memory.oom_control", "oom_kill");
                }
            }
        }
    }
}

/// Version 2: `8:0 rbytes=1 wbytes=2 ...`, summed over disks.
fn io_stat(dir: &Path) -> (Option<u64>, Option<u64>) {
    let Ok(text) = read(dir, "io.stat") else { return (None, None) };
    let sum = |key: &str| {
        let values = text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok());
        Some(values.sum())
    };
    (sum("rbytes="), sum("wbytes="))
}

/// Version 1: `8:0 Read 1`, `8:0 Write 2`, ..., summed over disks.
fn service_bytes(dir: &Path) -> (Option<u64>, Option<u64>) {
    let Ok(text) = read(dir, "blkio.throttle.io_service_bytes_recursive") else { return (None, None) };
    let sum = |key: &str| {
        let values = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            (words.next()? == key).then(|| words.next()?.parse::<u64>().ok()).flatten()
        });
        Some(values.sum())
    };
    (sum("Read"), sum("Write"))
}
