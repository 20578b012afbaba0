//! Processor time of the whole machine, and where a thread runs.

use std::fs;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Seconds all processors were busy since boot, of `/proc/stat`: everything but idle, waiting and stolen.
/// Packets are worked on in whatever context is at hand, so no process's own account has them all.
pub(crate) fn busy() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    // cpu user nice system idle iowait irq softirq steal guest guest_nice; guest is in user already.
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    let busy: f64 = [0, 1, 2, 5, 6].into_iter().filter_map(|i| ticks.get(i)).sum();
    // USER_HZ: 100 on every architecture that matters.
    Ok(busy / 100.0)
}

/// The processors this program may use.
pub(crate) fn allowed() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return vec![0] };
    (0..CpuSet::count()).filter(|&n| set.is_set(n).unwrap_or(false)).collect()
}

/// Keeps the calling thread on the `n`-th of them, round and round. Where that is refused it runs anywhere.
pub(crate) fn pin(n: usize) {
    let allowed = allowed();
    let mut set = CpuSet::new();
    if set.set(allowed[n % allowed.len()]).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// Puts this program's threads, those to come included, before (`true`) or among everybody else's: what else the machine
/// does should not be what is measured. Where it is refused all stays as it is.
pub(crate) fn first(first: bool) {
    let nice = if first { -20 } else { 0 };
    // SAFETY: a system call without pointers; 0 is the calling thread, whose value new threads inherit.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    // Where sessions are scheduled as groups (sched(7), autogroup), nice only counts within one: weigh ours too.
    let _ = fs::write("/proc/self/autogroup", nice.to_string());
}
