//! Loop devices: a file as a block device, attached so that the kernel lets go of it with its last user.
//!
//! Written against `drivers/block/loop.c` and `include/uapi/linux/loop.h`; `LOOP_CONFIGURE` is from Linux 5.8.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

const LOOP_SET_CAPACITY: libc::c_ulong = 0x4C07;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4C05;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
/// Gone when the last descriptor and the last mount are.
const AUTOCLEAR: u32 = 4;
/// Not through the page cache a second time. Taken back by the kernel where the file system cannot do it.
const DIRECT_IO: u32 = 16;

/// How often a free device is asked for: between the question and the answer others may take it.
const TRIES: usize = 64;

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Info>() == 232 && size_of::<Config>() == 304);

/// A file as a block device.
#[derive(Debug)]
pub(super) struct LoopDevice {
    /// Keeps the device while nothing is mounted.
    device: File,
    pub(super) path: PathBuf,
}

impl LoopDevice {
    /// The device of a file: the one it is attached to already, or a free one. Two devices of one file would be two
    /// file systems writing into each other, so looking comes first; the caller makes sure that nobody else attaches
    /// the same file in between.
    pub(super) fn attach(image: &Path) -> io::Result<Self> {
        if let Some(found) = Self::find(image)? {
            return Ok(found);
        }
        let file = OpenOptions::new().read(true).write(true).open(image)?;
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
        for _ in 0..TRIES {
            // SAFETY: no argument.
            let number = Errno::result(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) })?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = OpenOptions::new().read(true).write(true).open(&path)?;
            // SAFETY: plain numbers and arrays; zero is a value of each.
            let mut config: Config = unsafe { std::mem::zeroed() };
            config.fd = u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
            config.info.flags = AUTOCLEAR | DIRECT_IO;
            // SAFETY: the structure lives here and has the kernel's layout.
            match Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &config) }) {
                Ok(_) => return Ok(Self { device, path }),
                Err(Errno::EBUSY) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// The device a file is attached to.
    pub(super) fn find(image: &Path) -> io::Result<Option<Self>> {
        let wanted = fs::metadata(image)?;
        // As seen from another mount namespace the beginning of the path may be another one.
        let end: PathBuf = image.iter().rev().take(2).collect::<Vec<_>>().into_iter().rev().collect();
        for entry in fs::read_dir("/sys/block")? {
            let entry = entry?;
            let name = entry.file_name();
            // Only attached ones have it. It proves nothing, but spares opening all devices.
            let Ok(backing) = fs::read_to_string(entry.path().join("loop/backing_file")) else { continue };
            if !name.as_encoded_bytes().starts_with(b"loop") || !Path::new(backing.trim_end()).ends_with(&end) {
                continue;
            }
            let path = Path::new("/dev").join(&name);
            // It may go away at any moment: then it is not ours any more.
            // Only to read: closing a device that was open for writing makes udev look at it again.
            let Ok(device) = File::open(&path) else { continue };
            if status(&device).is_ok_and(|info| info.inode == wanted.ino() && same_device(info.device, wanted.dev())) {
                return Ok(Some(Self { device, path }));
            }
        }
        Ok(None)
    }

    /// Tells the device that its file has grown.
    pub(super) fn grown(&self) -> io::Result<()> {
        // SAFETY: no argument.
        Errno::result(unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_SET_CAPACITY) })?;
        Ok(())
    }
}

fn status(device: &File) -> io::Result<Info> {
    // SAFETY: plain numbers and arrays; zero is a value of each.
    let mut info: Info = unsafe { std::mem::zeroed() };
    // SAFETY: the structure lives here and has the kernel's layout.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &mut info) })?;
    Ok(info)
}

/// The kernel writes `huge_encode_dev`, which is what `stat` shows on 64 bit machines for all but huge numbers.
fn same_device(ours: u64, stat: u64) -> bool {
    let (major, minor) = (u64::from(libc::major(stat)), u64::from(libc::minor(stat)));
    ours == stat || ours == (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}
