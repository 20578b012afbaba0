//! Looking at the host's files as nobody in particular does: the kernel itself says what is world-readable.
//!
//! Mode bits alone are no proof (a directory further up may be closed, an access list may say more), so whatever is
//! read for a tenant is opened by a thread without supplementary groups whose file system ids own nothing. With a
//! file system uid other than 0 the kernel takes the file capabilities (`CAP_DAC_OVERRIDE` and its like) out of the
//! thread's effective set (capabilities(7)), so root's power is away for that moment.

use std::io;
use std::marker::PhantomData;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

/// An id nobody has: 2^32-1 means "no id" to the kernel, 2^32-2 is some systems' nobody.
const STRANGER: u32 = u32::MAX - 2;

/// The sight of a thread made for it; it cannot be carried to another thread.
#[derive(Debug)]
pub(super) struct Stranger(PhantomData<*const ()>);

/// Runs `work` on a thread of its own that can look as a stranger.
///
/// # Errors
/// When the thread cannot give up its groups; needs root. A panic of `work` goes on in the caller.
pub(super) fn with_stranger<T: Send>(work: impl FnOnce(&Stranger) -> T + Send) -> io::Result<T> {
    let result = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // The system call, not glibc's function: that one changes all threads of the process.
            // SAFETY: an empty list; nothing is read.
            if unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) } < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(work(&Stranger(PhantomData)))
        });
        thread.join()
    });
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl Stranger {
    /// Runs `look` (one system call, such as an open) with a stranger's rights.
    ///
    /// # Errors
    /// When the thread's ids could not be changed; `look` did not run then.
    pub(super) fn look<T>(&self, look: impl FnOnce() -> T) -> io::Result<T> {
        let _back = Back;
        setfsgid(Gid::from_raw(STRANGER));
        setfsuid(Uid::from_raw(STRANGER));
        // Both calls say what was before, also when they fail: asking again is the only way to know (setfsuid(2)).
        let none = u32::MAX;
        if setfsuid(Uid::from_raw(none)).as_raw() != STRANGER || setfsgid(Gid::from_raw(none)).as_raw() != STRANGER {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        Ok(look())
    }
}

/// Puts root's ids back, whatever happens in between.
struct Back;

impl Drop for Back {
    fn drop(&mut self) {
        setfsuid(Uid::from_raw(0));
        setfsgid(Gid::from_raw(0));
    }
}
