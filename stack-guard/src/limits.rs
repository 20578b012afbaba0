//! The limit of connections a stack accepts: a program on its namespace, at the lookup of listening sockets.
//!
//! What it costs: nothing a packet of a connection, a table lookup a new one. It is loaded once a limited stack, because
//! its context does not tell the namespace; it is attached only where there is a limit. The kernel detaches it with the
//! namespace; the pin goes with the row.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use libbpf_rs::OpenObject;
use libbpf_rs::libbpf_sys;
use libbpf_rs::skel::{OpenSkel, SkelBuilder};

use crate::pins::{LIMIT, OpenOptions, adopt, c_path, configure, detach, pinned_maps};
use crate::skel::guard::GuardSkelBuilder;

/// A limit on the connections a stack accepts could not be set or lifted.
#[derive(Debug, thiserror::Error)]
#[error("limit of stack {cookie}: {step}")]
pub struct LimitError {
    /// The stack.
    pub cookie: u64,
    step: &'static str,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    cookie: u64,
    step: &'static str,
) -> impl FnOnce(E) -> LimitError {
    move |source| LimitError { cookie, step, source: source.into() }
}

fn pin(pin_dir: &Path, cookie: u64) -> PathBuf {
    pin_dir.join(format!("{LIMIT}{cookie}"))
}

/// A program that knows its stack.
fn load(options: &OpenOptions, cookie: u64) -> Result<OwnedFd, LimitError> {
    let mut storage = MaybeUninit::<OpenObject>::uninit();
    let mut open = GuardSkelBuilder::default().open(&mut storage).map_err(failed(cookie, "open the BPF object"))?;
    // It has no process to look at.
    configure(&mut open, false, cookie);
    let progs = &mut open.progs;
    for program in [
        &mut progs.guard_create,
        &mut progs.guard_bind4,
        &mut progs.guard_bind6,
        &mut progs.guard_connect4,
        &mut progs.guard_connect6,
        &mut progs.guard_sendmsg4,
        &mut progs.guard_sendmsg6,
        &mut progs.guard_watch,
    ] {
        program.set_autoload(false);
    }
    for (map, _) in pinned_maps(&mut open, options.max_stacks) {
        adopt(map, options).map_err(failed(cookie, "adopt the tables"))?;
    }
    let skel = open.load().map_err(failed(cookie, "load the BPF program"))?;
    skel.progs.guard_incoming.as_fd().try_clone_to_owned().map_err(failed(cookie, "hold the BPF program"))
}

/// Whether a limit of the stack is pinned.
pub(crate) fn is_set(pin_dir: &Path, cookie: u64) -> bool {
    pin(pin_dir, cookie).exists()
}

/// Puts the program in the place of the pinned one. Says whether there was one that is attached.
pub(crate) fn replace(options: &OpenOptions, cookie: u64) -> Result<bool, LimitError> {
    let path = c_path(&pin(&options.pin_dir, cookie)).map_err(failed(cookie, "name the pin"))?;
    // SAFETY: a C string.
    let link = unsafe { libbpf_sys::bpf_obj_get(path.as_ptr()) };
    if link < 0 {
        return Ok(false);
    }
    // SAFETY: just opened, and nobody else's.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    let program = load(options, cookie)?;
    // SAFETY: two descriptors that are open; no options.
    let rc = unsafe { libbpf_sys::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), std::ptr::null()) };
    // ENOLINK: the namespace is gone.
    Ok(rc == 0)
}

/// Attaches the program to the stack's namespace, in place of one that is there.
pub(crate) fn set(options: &OpenOptions, cookie: u64, netns: BorrowedFd<'_>) -> Result<(), LimitError> {
    if replace(options, cookie)? {
        return Ok(());
    }
    lift(&options.pin_dir, cookie)?;
    let program = load(options, cookie)?;
    // SAFETY: two descriptors that are open; no options. The result is a descriptor that is ours, or an error.
    let link = unsafe {
        let kind = libbpf_sys::BPF_SK_LOOKUP;
        libbpf_sys::bpf_link_create(program.as_raw_fd(), netns.as_raw_fd(), kind, std::ptr::null())
    };
    if link < 0 {
        let cause = io::Error::from_raw_os_error(-link);
        return Err(failed(cookie, "attach to the namespace")(cause));
    }
    // SAFETY: as above.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    let path = c_path(&pin(&options.pin_dir, cookie)).map_err(failed(cookie, "name the pin"))?;
    // SAFETY: a descriptor that is open and a C string.
    let rc = unsafe { libbpf_sys::bpf_obj_pin(link.as_raw_fd(), path.as_ptr()) };
    if rc < 0 {
        return Err(failed(cookie, "pin the attachment")(io::Error::from_raw_os_error(-rc)));
    }
    Ok(())
}

/// Takes the program off; succeeds when it is not there.
pub(crate) fn lift(pin_dir: &Path, cookie: u64) -> Result<(), LimitError> {
    let pin = pin(pin_dir, cookie);
    detach(&pin).map_err(failed(cookie, "take the program off"))?;
    match std::fs::remove_file(pin) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(cookie, "remove the pin")(e)),
        _ => Ok(()),
    }
}
