//! Our filters on devices: clsact ingress, one fixed place each, so that putting a program there again replaces the
//! old one atomically (delete and add would lose packets).
//!
//! Works in the network namespace of the calling thread.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use libbpf_rs::{ErrorKind, TC_INGRESS, TcHook, TcHookBuilder};

/// Priority of our filters on a device. Another room's filter has the same and another handle.
pub const FILTER_PRIORITY: u32 = 10;

/// A filter could not be put on a device, or not be removed.
#[derive(Debug, thiserror::Error)]
#[error(
    "{step} on device {ifindex} (needs a kernel with CONFIG_NET_SCH_INGRESS, since 4.5, and CONFIG_NET_CLS_BPF, since 4.1)"
)]
pub struct FilterError {
    /// The device.
    pub ifindex: u32,
    /// What was tried.
    pub step: &'static str,
    /// Why it failed.
    #[source]
    pub source: libbpf_rs::Error,
}

/// Does a device with this index exist in the calling thread's namespace?
pub(crate) fn device_exists(ifindex: u32) -> bool {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the IF_NAMESIZE bytes that if_indextoname(3) may write.
    let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr()) };
    // SAFETY: not null means our buffer, with a string in it.
    !found.is_null() && !unsafe { CStr::from_ptr(found) }.is_empty()
}

fn hook(program: BorrowedFd<'_>, ifindex: u32, handle: u32) -> Result<TcHook, FilterError> {
    let device = i32::try_from(ifindex).map_err(|_| FilterError {
        ifindex,
        step: "address a filter",
        source: io::Error::from_raw_os_error(libc::ENODEV).into(),
    })?;
    Ok(TcHookBuilder::new(program.as_fd())
        .ifindex(device)
        .replace(true)
        .handle(handle)
        .priority(FILTER_PRIORITY)
        .hook(TC_INGRESS))
}

/// What the kernel refuses may be an answer, but libbpf prints it as an error, on stderr by default. So its printing is
/// off for this one call, which other threads of this crate wait for.
fn quietly<T>(call: impl FnOnce() -> T) -> T {
    static PRINTING: Mutex<()> = Mutex::new(());
    let _one = PRINTING.lock().unwrap_or_else(PoisonError::into_inner);
    let print = libbpf_rs::set_print(None);
    let answer = call();
    libbpf_rs::set_print(print);
    answer
}

/// A clsact that is there already is fine, and `create()` says so.
fn make_clsact(hook: &mut TcHook) -> Result<(), libbpf_rs::Error> {
    quietly(|| hook.create()).map(|_| ())
}

/// Is this very program in our place on the device?
pub(crate) fn is_attached(program: BorrowedFd<'_>, ifindex: u32, handle: u32) -> Result<bool, FilterError> {
    let mut hook = hook(program, ifindex, handle)?;
    match quietly(|| hook.query()) {
        Ok(there) => Ok(Some(there) == id(program)),
        // No such filter, no clsact, no device.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => Ok(false),
        Err(_) if !device_exists(ifindex) => Ok(false),
        Err(source) => Err(FilterError { ifindex, step: "look for the filter", source }),
    }
}

/// The kernel's number of a program (proc_pid_fdinfo(5)).
fn id(program: BorrowedFd<'_>) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", program.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
}

/// Puts the program on a device, in place of the one that was there. `fresh`: the device has no clsact yet, as far as
/// we know.
pub(crate) fn attach(program: BorrowedFd<'_>, ifindex: u32, handle: u32, fresh: bool) -> Result<(), FilterError> {
    let mut hook = hook(program, ifindex, handle)?;
    if !fresh && hook.attach().is_ok() {
        return Ok(());
    }
    let clsact = "make the clsact queueing discipline";
    make_clsact(&mut hook).map_err(|source| FilterError { ifindex, step: clsact, source })?;
    hook.attach().map_err(|source| FilterError { ifindex, step: "attach the filter", source })?;
    Ok(())
}

/// Takes our filter off a device; succeeds when it, or the device, is not there. clsact stays: others may use it.
pub(crate) fn detach(program: BorrowedFd<'_>, ifindex: u32, handle: u32) -> Result<(), FilterError> {
    if !device_exists(ifindex) {
        return Ok(());
    }
    match hook(program, ifindex, handle)?.detach() {
        Ok(()) => Ok(()),
        // No such filter: ENOENT, and EINVAL when there is no clsact either.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => Ok(()),
        Err(_) if !device_exists(ifindex) => Ok(()),
        Err(source) => Err(FilterError { ifindex, step: "detach the filter", source }),
    }
}
