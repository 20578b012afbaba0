//! `clone` that makes the child in a cgroup of version 2.
//!
//! The C library's `clone` cannot do it, `clone3` has no wrapper in it, and a plain system call would let the child go
//! on upon its parent's stack frames. Hence a few instructions of its own, for x86-64; not the launch's, because these
//! tests show what the kernel does with an entry, whoever uses it.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// `CLONE_INTO_CGROUP` of linux/sched.h, a flag of clone3 only: it lies above 32 bits, and the libc crate's constant of
/// that name is a 32-bit one, so that it is 0.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What the child does: never returns (`_exit` or `execve`).
pub(crate) type Run = extern "C" fn(*mut libc::c_void) -> c_int;

/// The child's stack: lowest address, size in bytes; the end must be aligned to 16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChildStack {
    /// Lowest address.
    pub(crate) base: *mut libc::c_void,
    /// Bytes.
    pub(crate) size: usize,
}

/// Makes a child in `cgroup` (a directory of version 2, see `Entry::unified`; none: where the caller is) that
/// runs `run(arg)` on `stack`. `flags` are those of clone(2) without a signal; the child ends with SIGCHLD. Returns its
/// process id and its pidfd.
///
/// Kernel 5.7 or newer.
///
/// # Errors
/// What clone3(2) says: `EBUSY` when version 2 hands controllers down from `cgroup`, `ENODEV` when it was removed,
/// `EOPNOTSUPP` when it is threaded.
///
/// # Safety
/// As for clone(2): `run` may only do what is allowed between `vfork` and `execve` when `flags` share memory; `stack`,
/// `arg` and what they point to must live until the child has left the shared memory; `run` must not return.
pub(crate) unsafe fn clone_into(
    flags: c_int,
    cgroup: Option<BorrowedFd<'_>>,
    stack: ChildStack,
    run: Run,
    arg: *mut libc::c_void,
) -> io::Result<(i32, OwnedFd)> {
    let mut pidfd: c_int = -1;
    // SAFETY: all zero is a valid value of this plain struct.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(flags.cast_unsigned()) | libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd).addr() as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.stack = stack.base.addr() as u64;
    args.stack_size = stack.size as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: the caller's promise.
    let pid = unsafe { clone3(&args, run, arg) }?;
    // SAFETY: the kernel stored a new descriptor here.
    Ok((pid, unsafe { std::os::fd::FromRawFd::from_raw_fd(pidfd) }))
}

unsafe fn clone3(args: &libc::clone_args, run: Run, arg: *mut libc::c_void) -> io::Result<i32> {
    let result: i64;
    // SAFETY: the parent only loses what a system call takes (rax, rcx, r11). The child begins with the same registers
    // on a stack of its own, which `call` leaves as the calling convention wants it, and never comes back.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r8",
            "call r9",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") args,
            in("rsi") size_of::<libc::clone_args>(),
            in("r8") arg,
            in("r9") run,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    i32::try_from(result)
        .ok()
        .filter(|pid| *pid > 0)
        .ok_or_else(|| io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EINVAL)))
}
