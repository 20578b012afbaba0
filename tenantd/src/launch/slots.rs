//! Descriptors with low numbers, kept free for what a child inherits.
//!
//! A child with a table of descriptors of its own would copy the daemon's, two for each tenant, and close them again:
//! with 4,000 tenants that is most of a launch. Instead it shares the daemon's table until its first system call, which
//! takes it a table of its own and copies only what lies below a bound (`close_range` with `CLOSE_RANGE_UNSHARE`, 5.9).
//! So what it inherits has to lie there.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::dup3;
use tenant_init::house::LAYER_FD;

/// Enough for what init has open (five), the stack's settings and every hierarchy of cgroups of version 1.
const COUNT: usize = 20;

/// The numbers of this process.
static SLOTS: Mutex<Option<Vec<OwnedFd>>> = Mutex::new(None);

/// Numbers that one launch uses; free again when it is dropped.
pub(super) struct Slots {
    numbers: MutexGuard<'static, Option<Vec<OwnedFd>>>,
    used: usize,
    null: File,
}

/// Takes the numbers now, while few others are open. Without it they are taken at the first launch.
///
/// # Errors
/// No /dev/null, no more descriptors.
pub fn reserve() -> io::Result<()> {
    Slots::take().map(drop)
}

impl Slots {
    /// Waits for another launch of this process to end.
    pub(super) fn take() -> io::Result<Self> {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        // What a launch that panicked left there is overwritten.
        let mut numbers = SLOTS.lock().unwrap_or_else(PoisonError::into_inner);
        if numbers.is_none() {
            *numbers = Some((0..COUNT).map(|_| copy(&null)).collect::<io::Result<_>>()?);
        }
        Ok(Self { numbers, used: 0, null })
    }

    /// Puts a copy of a descriptor into the next one; its number.
    pub(super) fn put(&mut self, fd: &impl AsFd) -> io::Result<i32> {
        let slot = self.numbers.as_mut().and_then(|numbers| numbers.get_mut(self.used));
        let slot = slot.ok_or_else(|| io::Error::other("more descriptors to inherit than there are numbers for"))?;
        dup3(fd, slot, nix::fcntl::OFlag::O_CLOEXEC)?;
        self.used += 1;
        Ok(slot.as_raw_fd())
    }

    /// The first number above all of them.
    pub(super) fn bound(&self) -> i32 {
        let highest = self.numbers.iter().flatten().map(AsRawFd::as_raw_fd).max();
        highest.map_or(LAYER_FD, |highest| highest) + 1
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        for slot in self.numbers.iter_mut().flatten().take(self.used) {
            // What was put there must end with its other copies. It cannot fail: the number is ours.
            let _ = dup3(&self.null, slot, nix::fcntl::OFlag::O_CLOEXEC);
        }
    }
}

/// A copy above the child's fixed numbers (0 to 5).
fn copy(fd: &impl AsFd) -> io::Result<OwnedFd> {
    let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(LAYER_FD + 1))?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(copy) })
}
