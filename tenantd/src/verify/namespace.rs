//! Questions to the kernel about namespaces: which one a socket belongs to, who owns one, what is above it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns};

// linux/nsfs.h, 4.9 and newer; answers a descriptor.
nix::ioctl_none_bad!(ns_get_userns, nix::request_code_none!(0xb7, 0x1));
nix::ioctl_none_bad!(ns_get_parent, nix::request_code_none!(0xb7, 0x2));
// linux/sockios.h, 4.10 and newer; answers a descriptor of the socket's network namespace.
nix::ioctl_none_bad!(siocgskns, 0x894c);

fn descriptor(answer: nix::Result<libc::c_int>) -> io::Result<OwnedFd> {
    let raw = answer?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// The user namespace that owns a namespace. `EPERM` when it is none of ours or below.
pub(super) fn owner_of(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: a live descriptor; the request takes no argument.
    descriptor(unsafe { ns_get_userns(namespace.as_raw_fd()) })
}

/// The namespace above a user or pid namespace. `EPERM` at ours.
pub(super) fn above(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: as above.
    descriptor(unsafe { ns_get_parent(namespace.as_raw_fd()) })
}

/// The network namespace of a socket.
pub(super) fn of_socket(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: as above.
    descriptor(unsafe { siocgskns(socket.as_raw_fd()) })
}

/// Inode number.
pub(super) fn inode(namespace: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(namespace)?.st_ino)
}

/// What `/proc/PID/ns/KIND` and its like point to: `net:[4026531840]`.
pub(super) fn inode_at(path: &Path) -> io::Result<u64> {
    let link = std::fs::read_link(path)?;
    let text = link.to_string_lossy();
    let number = text.split_once('[').and_then(|(_, rest)| rest.strip_suffix(']')?.parse().ok());
    number.ok_or_else(|| io::Error::other(format!("{} points to {text:?}", path.display())))
}

/// Above a user or pid namespace, itself included, the first that `is` says something about. Bounded by the kernel:
/// 32 levels.
pub(super) fn first_above<T>(namespace: OwnedFd, is: impl Fn(u64) -> Option<T>) -> io::Result<Option<T>> {
    let mut at = namespace;
    for _ in 0..=32 {
        if let Some(found) = is(inode(at.as_fd())?) {
            return Ok(Some(found));
        }
        at = match above(at.as_fd()) {
            Ok(next) => next,
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Ok(None),
            Err(error) => return Err(error),
        };
    }
    Ok(None)
}

/// A number the kernel tells of a socket.
pub(super) fn option<T: Copy + Default>(socket: BorrowedFd<'_>, name: libc::c_int) -> io::Result<T> {
    let mut value = T::default();
    let mut length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: a live descriptor, a number and its length; the options asked for here are plain numbers of that size.
    let result = unsafe {
        let into = (&raw mut value).cast::<libc::c_void>();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, into, &mut length)
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// The cookie of a socket's network namespace (`SO_NETNS_COOKIE`, Linux 5.14): never used again while the machine runs.
pub(super) fn cookie_of(socket: BorrowedFd<'_>) -> io::Result<u64> {
    option(socket, libc::SO_NETNS_COOKIE)
}

/// The cookie of the calling thread's network namespace.
pub(super) fn own_cookie() -> io::Result<u64> {
    cookie_of(std::os::unix::net::UnixDatagram::unbound()?.as_fd())
}

/// Cookies of network namespaces, by a socket made in each. On a thread of its own, which ends in one of them.
pub(super) fn cookies(namespaces: &[File]) -> io::Result<Vec<u64>> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("verify".into()).spawn_scoped(scope, || {
            let cookie = |namespace: &File| {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                own_cookie()
            };
            namespaces.iter().map(cookie).collect()
        })?;
        thread.join().map_err(|_| io::Error::other("the thread panicked"))?
    })
}
