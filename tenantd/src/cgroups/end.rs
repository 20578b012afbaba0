//! Ending what is in a cgroup and taking its directories away.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

/// Process ids in a directory and all below it, as this process sees them. A process of a pid namespace that we do not
/// see reads as 0 and is left out: a signal to 0 would go to ourselves.
pub(super) fn processes(dir: &Path) -> io::Result<BTreeSet<i32>> {
    let mut found = BTreeSet::new();
    let text = match fs::read_to_string(dir.join("cgroup.procs")) {
        Err(error) if is_gone(&error) => return Ok(found),
        other => other?,
    };
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for child in children(dir)? {
        found.append(&mut processes(&child)?);
    }
    Ok(found)
}

fn children(dir: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        other => other?,
    };
    Ok(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect())
}

/// `ENOENT`, or `ENODEV`: a file of a cgroup that was removed while it was open.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// Sends SIGKILL to a process of `dir`. The number is looked up a second time after it was turned into a descriptor,
/// so that it cannot mean a process that got the number in between.
pub(super) fn kill(dir: &Path, pid: i32) -> io::Result<()> {
    // SAFETY: system calls with numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let Ok(fd @ 0..) = i32::try_from(fd) else {
        return match Errno::last() {
            Errno::ESRCH => Ok(()),
            errno => Err(errno.into()),
        };
    };
    // SAFETY: the kernel just gave us this descriptor.
    let process = unsafe { OwnedFd::from_raw_fd(fd) };
    if !processes(dir)?.contains(&pid) {
        return Ok(());
    }
    // SAFETY: a live descriptor and no further information.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), libc::SIGKILL, 0, 0) };
    match sent {
        0 => Ok(()),
        _ if Errno::last() == Errno::ESRCH => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Removes a directory with all below it; the absent is removed already.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(error) if is_gone(&error) => return Ok(()),
        // EBUSY also means that there are directories below it.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
        other => return other,
    }
    for child in children(dir)? {
        remove(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(error) if is_gone(&error) => Ok(()),
        other => other,
    }
}
