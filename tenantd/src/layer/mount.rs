//! Mounting an image without a place: a descriptor of the mount, to be moved to where it belongs (`move_mount`, in
//! whatever mount namespace) or dropped. Nothing of it is ever visible in the daemon's own namespace.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const SET_FLAG: libc::c_uint = 0;
const SET_STRING: libc::c_uint = 1;
const CMD_CREATE: libc::c_uint = 6;
const ATTR_NODEV: libc::c_uint = 4;
const ATTR_NOATIME: libc::c_uint = 0x10;

/// Which step failed, with what the kernel said about it.
#[derive(Debug)]
pub(super) struct MountFailure {
    pub(super) step: &'static str,
    pub(super) source: io::Error,
}

/// Mounts the ext4 file system on a block device. On a device that is mounted already this is the same file system
/// once more. Needs Linux 5.2.
pub(super) fn detached(device: &Path) -> Result<OwnedFd, MountFailure> {
    let failed = |step| move |source| MountFailure { step, source };
    // SAFETY: a string that lives here.
    let context = descriptor(unsafe { libc::syscall(libc::SYS_fsopen, c"ext4".as_ptr(), FSOPEN_CLOEXEC) });
    let mut context = File::from(context.map_err(failed("fsopen"))?);
    let source = CString::new(device.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into());
    let source = source.map_err(failed("fsconfig source"))?;
    configure(&context, SET_STRING, c"source", Some(&source)).map_err(failed("fsconfig source"))?;
    // What a tenant removes is given back to the host's disk.
    configure(&context, SET_FLAG, c"discard", None).map_err(failed("fsconfig discard"))?;
    if let Err(error) = command(&context, CMD_CREATE) {
        let words = what_the_kernel_says(&mut context);
        let source = if words.is_empty() { error } else { io::Error::new(error.kind(), format!("{error}: {words}")) };
        return Err(MountFailure { step: "fsconfig create", source });
    }
    let attributes = ATTR_NODEV | ATTR_NOATIME;
    // SAFETY: plain numbers.
    let mount =
        descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) });
    mount.map_err(failed("fsmount"))
}

fn configure(context: &File, verb: libc::c_uint, key: &CStr, value: Option<&CStr>) -> io::Result<()> {
    let value = value.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: both strings live in the caller.
    done(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), verb, key.as_ptr(), value, 0) })
}

fn command(context: &File, verb: libc::c_uint) -> io::Result<()> {
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: no strings with this command.
    done(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), verb, none, none, 0) })
}

/// The messages that wait in the context, one a read, each `e text` for an error.
fn what_the_kernel_says(context: &mut File) -> String {
    let mut words = Vec::new();
    let mut buffer = [0; 256];
    while let Ok(length @ 1..) = context.read(&mut buffer) {
        words.push(String::from_utf8_lossy(&buffer[..length]).trim().to_owned());
        if words.len() == 16 {
            break;
        }
    }
    words.join("; ")
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    done(result)?;
    let number = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
