//! Which processes belong to a service, wherever they went.
//!
//! A process can leave its parent (the kernel gives it to init), its session and its process group, and it overwrites
//! its environment. What it cannot get rid of without the right to raise limits is a hard limit, which every child
//! inherits. `RLIMIT_LOCKS` limits nothing since Linux 2.4.25, so its value is free to be a number: each start of a
//! program gets another one. A process that lowers it (nothing does by accident) escapes the end of its service, not
//! the end of its tenant.

use std::fs;
use std::io;

/// Marks count down from here, or from the limit that init itself has.
const FIRST: u64 = 1 << 40;
/// Rounds of stopping before everything that was seen is killed. What forks faster meets the tenant's limit of
/// processes: a stopped one makes no others, so the rounds win.
const ROUNDS: usize = 16;

/// Gives out marks, none twice.
#[derive(Debug)]
pub(crate) struct Marks {
    next: u64,
}

impl Marks {
    pub(crate) fn new() -> Marks {
        let mut own = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: plain system call on a structure that lives here.
        let asked = unsafe { libc::getrlimit(libc::RLIMIT_LOCKS, &mut own) };
        Marks { next: if asked == 0 { own.rlim_max.min(FIRST) } else { 0 } }
    }

    /// A new mark; none when there are no more, which takes a limit that somebody set on purpose.
    pub(crate) fn next(&mut self) -> Option<u64> {
        self.next = self.next.checked_sub(1)?;
        Some(self.next).filter(|mark| *mark > 0)
    }
}

/// The processes that carry the mark.
pub(crate) fn of(mark: u64) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid > 1 && carries(*pid, mark)).collect()
}

fn carries(pid: i32, mark: u64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/limits")).is_ok_and(|limits| hard_limit(&limits) == Some(mark))
}

fn hard_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max file locks"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Ends every process that carries the mark; true when there were any. Stopped first, so that none makes others
/// meanwhile.
pub(crate) fn kill(mark: u64) -> bool {
    let mut seen: Vec<i32> = Vec::new();
    for _ in 0..ROUNDS {
        let known = seen.len();
        for pid in of(mark) {
            if !seen.contains(&pid) {
                signal(pid, libc::SIGSTOP);
                seen.push(pid);
            }
        }
        if seen.len() == known {
            break;
        }
    }
    for pid in &seen {
        signal(*pid, libc::SIGKILL);
    }
    !seen.is_empty()
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: plain system call. A process that ended meanwhile is no error.
    if unsafe { libc::kill(pid, signal) } < 0 {
        let _ = io::Error::last_os_error();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    #[test]
    fn processes_are_found_wherever_they_went() {
        let mark = Marks::new().next().unwrap() - u64::from(std::process::id());
        // A daemon as daemons do it: a session of its own, no parent, no environment, another directory.
        let mut command = Command::new("/bin/sh");
        let limit = libc::rlimit { rlim_cur: mark, rlim_max: mark };
        // SAFETY: setrlimit may be called between fork and exec.
        unsafe {
            command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_LOCKS, &limit) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        command.args(["-c", "(cd /; env -i setsid sleep 1000 </dev/null >/dev/null 2>&1 &) & wait"]);
        assert!(command.stdin(Stdio::null()).status().unwrap().success());
        let until = Instant::now() + Duration::from_secs(30);
        while of(mark).len() != 1 {
            assert!(Instant::now() < until, "{:?}", of(mark));
        }
        assert!(of(mark + 1).is_empty());
        kill(mark);
        while !of(mark).iter().all(|pid| ended(*pid)) {
            assert!(Instant::now() < until);
        }
    }

    fn ended(pid: i32) -> bool {
        fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
    }

    #[test]
    fn marks_are_never_the_same_and_run_out_quietly() {
        let mut marks = Marks { next: 3 };
        assert_eq!([marks.next(), marks.next(), marks.next(), marks.next()], [Some(2), Some(1), None, None]);
        assert_eq!(hard_limit("Max file locks   7    5   locks \n"), Some(5));
        assert_eq!(hard_limit("Max file locks   unlimited    unlimited   locks \n"), None);
        assert_eq!(hard_limit(""), None);
    }
}
