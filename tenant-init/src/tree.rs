//! Removing a directory tree that somebody hostile has made. Its depth is not limited by anything (each `mkdir` names
//! one part only), so neither the stack nor the number of open descriptors may grow with it, as they do in
//! `std::fs::remove_dir_all`: 20,000 directories within each other end a program that recurses.
//!
//! What lies deeper is moved up to the top before its parent is removed: two descriptors, one name in memory. No link
//! is followed.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Removes `path` and everything below it.
///
/// # Errors
/// The system's, `ENOENT` when there is nothing. What could be removed until then is gone.
pub fn remove(path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    match unlinkat(nix::fcntl::AT_FDCWD, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR | Errno::EPERM) => {}
        other => return Ok(other?),
    }
    let top = open(nix::fcntl::AT_FDCWD, &name)?;
    let mut next = 0_u64;
    while empty(&top, &mut next)? {}
    Ok(unlinkat(nix::fcntl::AT_FDCWD, name.as_c_str(), UnlinkatFlags::RemoveDir)?)
}

/// One pass over the top; false when there was nothing.
fn empty(top: &OwnedFd, next: &mut u64) -> io::Result<bool> {
    let mut found = false;
    for name in names(top)? {
        found = true;
        let name = name?;
        if discard(top, &name)? {
            continue;
        }
        let directory = match open(top, &name) {
            // Gone meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            other => other?,
        };
        for inner in names(&directory)? {
            let inner = inner?;
            if !discard(&directory, &inner)? {
                lift(&directory, &inner, top, next)?;
            }
        }
        discard(top, &name)?;
    }
    Ok(found)
}

/// Removes what can be removed by one call: everything but a directory with something in it, for which it says false.
fn discard(at: &OwnedFd, name: &CStr) -> io::Result<bool> {
    match unlinkat(at, name, UnlinkatFlags::NoRemoveDir) {
        // POSIX has EPERM for a directory.
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Ok(()) | Err(Errno::ENOENT) => return Ok(true),
        Err(errno) => return Err(errno.into()),
    }
    match unlinkat(at, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Moves a directory to the top under a name that nothing there has.
fn lift(from: &OwnedFd, name: &CStr, top: &OwnedFd, next: &mut u64) -> io::Result<()> {
    loop {
        *next += 1;
        let free = CString::new(format!("removed.{next}"))?;
        match renameat2(from, name, top, free.as_c_str(), RenameFlags::RENAME_NOREPLACE) {
            Err(Errno::EEXIST) => {}
            other => return Ok(other?),
        }
    }
}

fn open<Fd: std::os::fd::AsFd>(at: Fd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

/// The names in a directory, from its beginning, without itself and its parent.
fn names(directory: &OwnedFd) -> io::Result<impl Iterator<Item = io::Result<CString>>> {
    // Opened anew: copies of a descriptor share one position.
    let again = Dir::from_fd(open(directory, c".")?)?;
    let own = |name: &CStr| name == c"." || name == c"..";
    Ok(again.into_iter().filter_map(move |entry| match entry {
        Ok(entry) if own(entry.file_name()) => None,
        Ok(entry) => Some(Ok(entry.file_name().to_owned())),
        Err(errno) => Some(Err(errno.into())),
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A room of its own for a test.
    fn room(name: &str) -> std::path::PathBuf {
        let room = std::env::temp_dir().join(format!("tenant-init-tree-{name}-{}", std::process::id()));
        fs::create_dir(&room).unwrap();
        room
    }

    #[test]
    fn a_tree_of_everything_is_removed_and_what_links_lead_to_stays() {
        let room = room("all");
        let victim = room.join("victim");
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("file"), "precious").unwrap();
        let tree = room.join("tree");
        for directory in ["a/b/c", "a/b/d", "e", "removed.1/removed.2/removed.1"] {
            fs::create_dir_all(tree.join(directory)).unwrap();
            fs::write(tree.join(directory).join("file"), "x").unwrap();
            symlink(&victim, tree.join(directory).join("link")).unwrap();
        }
        nix::unistd::mkfifo(&tree.join("a/pipe"), Mode::S_IRWXU).unwrap();
        remove(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read_to_string(victim.join("file")).unwrap(), "precious");
        let link = room.join("link");
        symlink(&victim, &link).unwrap();
        remove(&link).unwrap();
        assert!(victim.join("file").exists());
        assert_eq!(remove(&tree).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        fs::remove_file(victim.join("file")).unwrap();
        remove(&room).unwrap();
    }

    #[test]
    fn depth_costs_neither_stack_nor_descriptors() {
        const DEPTH: usize = 5_000;
        let room = room("deep");
        let mut here = open(nix::fcntl::AT_FDCWD, &CString::new(room.as_os_str().as_bytes()).unwrap()).unwrap();
        for _ in 0..DEPTH {
            nix::sys::stat::mkdirat(&here, c"d", Mode::S_IRWXU).unwrap();
            here = open(&here, c"d").unwrap();
        }
        drop(here);
        // A thread as small as there are: recursion would need more at the first hundreds.
        let thread = std::thread::Builder::new().stack_size(64 * 1024);
        let gone = room.clone();
        thread.spawn(move || remove(&gone).unwrap()).unwrap().join().unwrap();
        assert!(!room.exists());
    }
}
