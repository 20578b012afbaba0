//! The devices a group of processes may open and make nodes of: `src/bpf/devices.bpf.c`.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use libbpf_rs::OpenObject;
use libbpf_rs::libbpf_sys;
use libbpf_rs::skel::{OpenSkel, SkelBuilder};

use crate::cgroup::{self, CgroupError};
use crate::skel::devices::DevicesSkelBuilder;

/// Name of the program, by which an older one of ours is found.
const PROGRAM: &[u8] = b"guard_devices";

/// The kernel takes no more programs a cgroup.
const MAX_PROGRAMS: usize = 64;

/// The list of devices could not be put on a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// The directory is none that can be used.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The program could not be loaded.
    #[error("load the device program")]
    Load(#[source] libbpf_rs::Error),
    /// The kernel refused a step.
    #[error("{step} the device program of {}", path.display())]
    Attach {
        /// What was tried.
        step: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A default-deny list: null, zero, full, random, urandom, tty, ptmx and the pts terminals may be opened and made nodes
/// of, no other device. It stays on a cgroup until the cgroup is removed, without pins and without this process; a
/// program of another's, such as of a container runtime around us, is not touched, and both must allow.
#[derive(Debug)]
pub struct Devices {
    program: OwnedFd,
}

impl Devices {
    /// Loads the program; one serves any number of cgroups.
    pub fn load() -> Result<Self, DevicesError> {
        let mut storage = MaybeUninit::<OpenObject>::uninit();
        let skel =
            DevicesSkelBuilder::default().open(&mut storage).and_then(OpenSkel::load).map_err(DevicesError::Load)?;
        let program = skel.progs.guard_devices.as_fd().try_clone_to_owned();
        Ok(Self { program: program.map_err(|e| DevicesError::Load(e.into()))? })
    }

    /// Puts the list on a cgroup2 directory, in place of one of an earlier call or process.
    pub fn attach(&self, cgroup: &Path) -> Result<(), DevicesError> {
        let (dir, _) = cgroup::open(cgroup)?;
        let failed = |step| move |source| DevicesError::Attach { step, path: cgroup.to_owned(), source };
        let old = ours_on(&dir).map_err(failed("look for"))?;
        let mut options = libbpf_sys::bpf_prog_attach_opts {
            sz: size_of::<libbpf_sys::bpf_prog_attach_opts>() as libbpf_sys::size_t,
            flags: libbpf_sys::BPF_F_ALLOW_MULTI,
            ..Default::default()
        };
        if let Some(old) = &old {
            options.flags |= libbpf_sys::BPF_F_REPLACE;
            options.__bindgen_anon_1.replace_prog_fd = old.as_raw_fd();
        }
        // SAFETY: descriptors that are open, and options of the size they say.
        let rc = unsafe {
            let kind = libbpf_sys::BPF_CGROUP_DEVICE;
            libbpf_sys::bpf_prog_attach_opts(self.program.as_raw_fd(), dir.as_raw_fd(), kind, &raw const options)
        };
        // EINVAL: this very program is there.
        if rc == 0 || (rc == -libc::EINVAL && old.is_some_and(|old| same_program(old.as_fd(), self.program.as_fd()))) {
            return Ok(());
        }
        Err(failed("attach")(io::Error::from_raw_os_error(-rc)))
    }

    /// Whether a list of ours is on the directory.
    pub fn is_attached(cgroup: &Path) -> Result<bool, DevicesError> {
        let (dir, _) = cgroup::open(cgroup)?;
        let failed = |source| DevicesError::Attach { step: "look for", path: cgroup.to_owned(), source };
        Ok(ours_on(&dir).map_err(failed)?.is_some())
    }
}

fn info(program: BorrowedFd<'_>) -> io::Result<libbpf_sys::bpf_prog_info> {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut size = u32::try_from(size_of_val(&info)).unwrap_or(0);
    // SAFETY: a descriptor of a program, and a buffer of the size given.
    let rc = unsafe { libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut info, &raw mut size) };
    if rc == 0 { Ok(info) } else { Err(io::Error::from_raw_os_error(-rc)) }
}

fn same_program(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    matches!((info(one), info(other)), (Ok(one), Ok(other)) if one.id == other.id)
}

/// The program of ours that is attached to the directory itself.
fn ours_on(dir: &File) -> io::Result<Option<OwnedFd>> {
    let mut ids = [0u32; MAX_PROGRAMS];
    let mut count = u32::try_from(ids.len()).unwrap_or(0);
    // SAFETY: a descriptor of a directory, a buffer for `count` ids, and no place for the flags.
    let rc = unsafe {
        libbpf_sys::bpf_prog_query(
            dir.as_raw_fd(),
            libbpf_sys::BPF_CGROUP_DEVICE,
            0,
            std::ptr::null_mut(),
            ids.as_mut_ptr(),
            &raw mut count,
        )
    };
    if rc != 0 {
        return Err(io::Error::from_raw_os_error(-rc));
    }
    for &id in ids.iter().take(count as usize) {
        // SAFETY: a call without pointers; it returns a descriptor that is ours, or an error.
        let fd = unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) };
        // Gone since.
        if fd < 0 {
            continue;
        }
        // SAFETY: as above.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let name = info(fd.as_fd())?.name;
        // SAFETY: reading the bytes of a C array of char.
        let name = unsafe { std::slice::from_raw_parts(name.as_ptr().cast::<u8>(), name.len()) };
        if name.starts_with(PROGRAM) {
            return Ok(Some(fd));
        }
    }
    Ok(None)
}
