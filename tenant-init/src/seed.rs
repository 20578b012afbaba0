//! The tenant's user namespace and those that belong to it, made by a child that ends at once: who makes a namespace
//! owns it, and whoever asks stays what it is.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::house::IDS;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;

/// The namespaces of a seed, as descriptors that keep them.
#[derive(Debug)]
pub struct Seed {
    /// The user namespace.
    pub user: OwnedFd,
    /// What belongs to it, with its kind.
    pub others: Vec<(OwnedFd, CloneFlags)>,
}

/// Makes a user namespace in which `inside..` is the host's `outside..`, 65,536 ids, and `others` that belong to it.
/// `proc` is a proc file system of our own pid namespace. Forks, so it is for programs that can afford it: a few ms.
///
/// # Errors
/// The system's.
pub fn make(proc: &OwnedFd, inside: u32, outside: u32, others: &[CloneFlags]) -> io::Result<Seed> {
    let (mut ready, made) = pipe()?;
    let (hold, mut go) = pipe()?;
    let wanted = others.iter().fold(CloneFlags::CLONE_NEWUSER, |all, one| all | *one);
    // SAFETY: the child makes system calls on what lives on its stack and ends, also when we have many threads.
    let child = match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {
            drop((ready, go));
            seed(wanted, outside, made, hold)
        }
        child => child,
    };
    drop((made, hold));
    let seed = read_errno(&mut ready).and_then(|()| {
        let map = format!("{inside} {outside} {IDS}\n");
        for file in ["uid_map", "gid_map"] {
            let file = open(proc, &format!("{child}/{file}"), OFlag::O_WRONLY)?;
            File::from(file).write_all(map.as_bytes())?;
        }
        let namespace = |name: &str| open(proc, &format!("{child}/ns/{name}"), OFlag::O_RDONLY);
        let others = others.iter().map(|flag| Ok((namespace(name_of(*flag))?, *flag)));
        Ok(Seed { user: namespace("user")?, others: others.collect::<io::Result<_>>()? })
    });
    // It ends when it reads this, or the end of the pipe.
    let _ = go.write_all(b"!");
    let mut status = 0;
    // SAFETY: system call on a variable that lives here; the child is ours.
    while unsafe { libc::waitpid(child, &mut status, 0) } < 0 && Errno::last() == Errno::EINTR {}
    seed
}

fn seed(wanted: CloneFlags, owner: u32, mut made: File, mut hold: File) -> ! {
    let errno = owned_by(owner).and_then(|()| nix::sched::unshare(wanted)).err().map_or(0, |errno| errno as i32);
    let _ = made.write_all(&errno.to_ne_bytes());
    let _ = hold.read(&mut [0]);
    // SAFETY: runs no destructor of the parent's image.
    unsafe { libc::_exit(0) }
}

/// Makes `owner` the effective user, with the capabilities of root. What the users of a user namespace take of the
/// kernel's limits for each user (inotify instances: 128; queued signals, message queues) also counts against the user who made
/// it (`inc_ucount` in kernel/ucount.c, Linux 4.9), who would be the host's root for all tenants: one of them could take
/// everything from all others and from the host. Nobody of the host has this id, so its capabilities in the namespace
/// are nobody's.
fn owned_by(owner: u32) -> nix::Result<()> {
    // SAFETY: plain system calls of the calling thread, without the C library, which would ask other threads to do the
    // same: there are none in a forked child.
    unsafe {
        // SECBIT_NO_SETUID_FIXUP: capabilities stay when the user changes. Whoever joins the namespace gets other bits.
        Errno::result(libc::prctl(libc::PR_SET_SECUREBITS, 1 << 2, 0, 0, 0))?;
        Errno::result(libc::syscall(libc::SYS_setresuid, -1, owner, -1)).map(drop)
    }
}

fn read_errno(ready: &mut File) -> io::Result<()> {
    let mut errno = [0; 4];
    ready.read_exact(&mut errno)?;
    match i32::from_ne_bytes(errno) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn pipe() -> io::Result<(File, File)> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    Ok((reader.into(), writer.into()))
}

fn open(proc: &OwnedFd, path: &str, flags: OFlag) -> io::Result<OwnedFd> {
    Ok(openat(proc, Path::new(path), flags | OFlag::O_CLOEXEC, Mode::empty())?)
}

fn name_of(flag: CloneFlags) -> &'static str {
    match flag {
        CloneFlags::CLONE_NEWIPC => "ipc",
        CloneFlags::CLONE_NEWUTS => "uts",
        CloneFlags::CLONE_NEWNET => "net",
        _ => "none",
    }
}
