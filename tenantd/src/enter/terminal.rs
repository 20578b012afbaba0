//! The operator's terminal: raw while a terminal of the tenant is shown in it, and as it was before afterwards.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

/// Raw mode; dropping it restores what was before, also when a panic unwinds.
pub(crate) struct Raw {
    terminal: OwnedFd,
    before: libc::termios,
}

impl Raw {
    /// None when `fd` is no terminal.
    pub(crate) fn enter(fd: BorrowedFd<'_>) -> io::Result<Option<Raw>> {
        let mut before = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: system call that fills the structure when it succeeds.
        if unsafe { libc::tcgetattr(fd.as_raw_fd(), before.as_mut_ptr()) } < 0 {
            return Ok(None);
        }
        // SAFETY: filled above.
        let raw = Raw { terminal: fd.try_clone_to_owned()?, before: unsafe { before.assume_init() } };
        raw.again()?;
        Ok(Some(raw))
    }

    /// Raw once more, after somebody else had the terminal.
    pub(super) fn again(&self) -> io::Result<()> {
        let mut modes = self.before;
        // SAFETY: changes the structure only.
        unsafe { libc::cfmakeraw(&mut modes) };
        self.set(&modes)
    }

    /// As it was before, for a while.
    pub(super) fn leave(&self) -> io::Result<()> {
        self.set(&self.before)
    }

    fn set(&self, modes: &libc::termios) -> io::Result<()> {
        // SAFETY: system call on a live structure. Now, not after output was sent: it may be held back by Ctrl-S.
        Errno::result(unsafe { libc::tcsetattr(self.terminal.as_raw_fd(), libc::TCSANOW, modes) })?;
        Ok(())
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.leave();
    }
}

/// Gives `to` the window size of `from`; of 24 lines and 80 columns when that has none.
pub(super) fn copy_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: system calls on a structure that lives here.
    unsafe {
        if libc::ioctl(from.as_raw_fd(), libc::TIOCGWINSZ, &mut size) < 0 || size.ws_col == 0 {
            size.ws_row = 24;
            size.ws_col = 80;
        }
        Errno::result(libc::ioctl(to.as_raw_fd(), libc::TIOCSWINSZ, &size))?;
    }
    Ok(())
}

/// Lines and columns of a terminal; 24 and 80 when it does not say.
pub(crate) fn window(of: BorrowedFd<'_>) -> (usize, usize) {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: system call on a structure that lives here.
    let known = unsafe { libc::ioctl(of.as_raw_fd(), libc::TIOCGWINSZ, &mut size) } == 0;
    if known && size.ws_row > 0 && size.ws_col > 0 { (size.ws_row.into(), size.ws_col.into()) } else { (24, 80) }
}
