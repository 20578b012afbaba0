//! The programs' places: tc filters on clsact. Priority is ours, the handle the instance's, so that instances share a
//! device and a new program takes the place of the old one at once.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use libbpf_rs::{ErrorKind, TC_EGRESS, TC_INGRESS, TcAttachPoint, TcHook};

/// Priority of our filters among those of a device.
const PRIORITY: u32 = 0x7464;

/// Which side of a device a program sits on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Ingress,
    Egress,
}

impl Side {
    fn point(self) -> TcAttachPoint {
        match self {
            Self::Ingress => TC_INGRESS,
            Self::Egress => TC_EGRESS,
        }
    }
}

/// The handle of an instance's filters: FNV-1a of its name, never 0 (which the kernel would choose itself).
pub(super) fn handle(instance: &str) -> u32 {
    let hash = instance.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.max(1)
}

fn hook(program: BorrowedFd<'_>, ifindex: u32, side: Side, handle: u32) -> TcHook {
    let mut hook = TcHook::new(program);
    hook.ifindex(ifindex as i32).attach_point(side.point()).handle(handle).priority(PRIORITY).replace(true);
    hook
}

/// Puts a program on a device, in the place of this instance's former one.
pub(super) fn attach(program: &impl AsFd, ifindex: u32, side: Side, handle: u32) -> Result<(), libbpf_rs::Error> {
    let mut hook = hook(program.as_fd(), ifindex, side, handle);
    hook.create()?;
    hook.attach()?;
    Ok(())
}

/// Takes this instance's program off a device; neither program nor device need be there.
pub(super) fn detach(program: &impl AsFd, ifindex: u32, side: Side, handle: u32) -> Result<(), libbpf_rs::Error> {
    match hook(program.as_fd(), ifindex, side, handle).detach() {
        // Device gone, no clsact, no such filter.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => Ok(()),
        Err(e) if format!("{e:#}").contains("(os error 19)") => Ok(()),
        other => other,
    }
}

/// Whether an instance's program is on a device. `any` is any descriptor: the kernel finds the filter by its place.
pub(super) fn is_attached(any: BorrowedFd<'_>, ifindex: u32, side: Side, handle: u32) -> bool {
    static PRINTING: Mutex<()> = Mutex::new(());
    let _one = PRINTING.lock().unwrap_or_else(PoisonError::into_inner);
    // libbpf prints a refusal as an error, on stderr by default; here it is an answer.
    let print = libbpf_rs::set_print(None);
    let found = hook(any, ifindex, side, handle).query();
    libbpf_rs::set_print(print);
    found.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_tell_instances_apart() {
        assert_ne!(handle("main"), handle("other"));
        assert_ne!(handle(""), 0);
        assert_eq!(handle("main"), handle("main"));
    }
}
