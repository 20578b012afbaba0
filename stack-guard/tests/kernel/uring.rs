//! Sockets by io_uring: one ring an operation.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use io_uring::{IoUring, opcode, squeue, types};
use socket2::SockAddr;

/// Why io_uring cannot be tried here; None: it can.
pub(crate) fn unable() -> Option<&'static str> {
    let Ok(ring) = IoUring::new(2) else {
        return Some("this kernel has no io_uring");
    };
    let mut probe = io_uring::Probe::new();
    if ring.submitter().register_probe(&mut probe).is_err() || !probe.is_supported(opcode::Socket::CODE) {
        return Some("io_uring of this kernel makes no sockets (5.19)");
    }
    None
}

/// Does one operation; `async_` makes a worker of the kernel do it.
fn one(entry: squeue::Entry) -> io::Result<i32> {
    let mut ring = IoUring::new(2)?;
    // SAFETY: what the entry points to lives in the callers until the operation is complete, which is waited for.
    unsafe { ring.submission().push(&entry.flags(squeue::Flags::ASYNC)).map_err(io::Error::other)? };
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().ok_or_else(|| io::Error::other("no completion"))?.result();
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}

pub(crate) fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    let fd = one(opcode::Socket::new(domain, kind, protocol).build())?;
    // SAFETY: a descriptor just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn connect(socket: BorrowedFd<'_>, to: &SockAddr) -> io::Result<()> {
    one(opcode::Connect::new(types::Fd(socket.as_raw_fd()), to.as_ptr().cast(), to.len()).build()).map(drop)
}

pub(crate) fn send_to(socket: BorrowedFd<'_>, to: &SockAddr) -> io::Result<()> {
    let mut part = libc::iovec { iov_base: c"x".as_ptr().cast_mut().cast(), iov_len: 1 };
    // SAFETY: all zero is a value of this C struct.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = to.as_ptr().cast_mut().cast();
    message.msg_namelen = to.len();
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    one(opcode::SendMsg::new(types::Fd(socket.as_raw_fd()), &raw const message).build()).map(drop)
}
