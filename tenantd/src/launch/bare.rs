//! A stack without a tenant: a network namespace with its settings, in which nothing is yet.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, open, openat};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use tenant_init::house::{Absent, SETTINGS};

/// Makes one as a tenant's child would; the calling thread is in it afterwards.
///
/// # Errors
/// No namespace, or a setting that must be there is not.
pub fn make() -> io::Result<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let proc = open("/proc", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    for (path, value, absent) in &SETTINGS {
        match openat(&proc, *path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()) {
            Err(nix::errno::Errno::ENOENT) if *absent == Absent::IsFine => {}
            opened => File::from(opened?).write_all(value)?,
        }
    }
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}
