//! Sockets of other processes: taken as descriptors of our own for a moment (`pidfd_getfd`, Linux 5.6) and asked where
//! they are. The processes do not notice.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::facts::{Place, Seen};
use super::namespace;
use super::process::{Known, is_gone};

/// Sockets looked at in one verification; some ten seconds of one processor.
const MOST: usize = 1 << 20;

/// Sockets seen so far: many are held by several processes, and each is asked once.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    seen: HashMap<u64, Option<Seen>>,
    places: HashMap<u64, Place>,
}

impl Sockets {
    /// How many were looked at.
    pub(super) fn count(&self) -> usize {
        self.seen.len()
    }

    /// Sockets of a process; one that is closed meanwhile is left out.
    pub(super) fn of(&mut self, pid: i32, known: &Known) -> io::Result<Vec<Seen>> {
        let mut pidfd = None;
        let mut found = Vec::new();
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
            let entry = entry?;
            let Ok(link) = std::fs::read_link(entry.path()) else { continue };
            let Some(inode) = number(&link.to_string_lossy()) else { continue };
            if let Some(seen) = self.seen.get(&inode) {
                found.extend(*seen);
                continue;
            }
            if self.seen.len() >= MOST {
                return Err(io::Error::other(format!("more than {MOST} sockets")));
            }
            let Some(fd) = entry.file_name().to_str().and_then(|n| n.parse::<RawFd>().ok()) else { continue };
            if pidfd.is_none() {
                pidfd = Some(open(pid)?);
            }
            let Some(pidfd) = &pidfd else { continue };
            let seen = match self.look(pidfd, fd, inode, known) {
                Err(error) if is_gone(&error) => continue,
                seen => seen?,
            };
            self.seen.insert(inode, seen);
            found.extend(seen);
        }
        Ok(found)
    }

    fn look(&mut self, pidfd: &OwnedFd, fd: RawFd, inode: u64, known: &Known) -> io::Result<Option<Seen>> {
        let socket = take(pidfd, fd)?;
        // Another file may have got the number since.
        if nix::sys::stat::fstat(&socket)?.st_ino != inode {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        let family = namespace::option(socket.as_fd(), libc::SO_DOMAIN)?;
        let cookie = namespace::cookie_of(socket.as_fd())?;
        let place = match self.places.get(&cookie) {
            Some(place) => *place,
            None => {
                let place = known.place_of_socket(cookie, socket.as_fd())?;
                self.places.insert(cookie, place);
                place
            }
        };
        Ok(Some(Seen { inode, family, place }))
    }
}

/// `socket:[4711]`
fn number(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a system call on plain numbers; the kernel makes the descriptor for us.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as RawFd)) }
    }
}

fn take(pidfd: &OwnedFd, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: as above, on a live descriptor; what is made is close-on-exec.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as RawFd)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_sockets() {
        assert_eq!(number("socket:[4711]"), Some(4711));
        assert_eq!(number("pipe:[4711]"), None);
        assert_eq!(number("/tmp/socket:[1]"), None);
    }
}
