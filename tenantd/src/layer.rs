//! The private layer of a tenant: what it writes over its image, kept over restarts, and how large it may become.
//!
//! Three kinds. A plain directory has no limit. Where the file system can, a limit is a project quota on that directory.
//! Elsewhere a limited layer is an image: a sparse file with an ext4 file system of that size, mounted over the same
//! directory in the tenant's own mount namespace; the limit then is the size of the file, its tables (about 4 %)
//! included.
//!
//! ```text
//! <tenant>/layer/{upper,work}   the layer; root's, upper is the tenant's
//! <tenant>/layer.img            when it is there, it is the layer, whatever lies in the directory
//! <tenant>/layer.img.new, layer.new    not whole yet, removed at the next start
//! ```
//!
//! A layer changes its kind only while the tenant does not run, in [`Layer::prepare`]. The contents are copied, the copy is
//! brought to the disk and named in one step, and only then what was before is removed: a kill at any moment leaves
//! one whole layer. All functions block; only one at a time may work on the same tenant.

mod device;
mod image;
mod mount;
mod quota;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::fstatat;
use stackmap::{GidRange, Invalid};

use device::LoopDevice;
pub use image::{MakeError, ProgramError};

/// The smallest limit: less than this is mostly the tables of a file system.
pub const MIN_LIMIT: u64 = 16 << 20;
/// The largest: what ext4 can hold in one file with blocks of 4 KiB.
pub const MAX_LIMIT: u64 = 15 << 40;

/// Where a tenant's layer is and whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    dir: PathBuf,
    image: PathBuf,
    owner: u32,
}

/// How a layer is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory, without a limit.
    Directory,
    /// A directory with a limit that the file system holds.
    Quota,
    /// A file with a file system in it.
    Image,
}

/// A layer that a root file system can be made with.
#[derive(Debug)]
pub struct Prepared {
    /// How it is kept.
    pub kind: Kind,
    /// `upperdir` of the overlay, once `mount` is in its place.
    pub upper: PathBuf,
    /// `workdir` of the overlay.
    pub work: PathBuf,
    /// The mount that has to be moved to its place, in the tenant's mount namespace, before that. While it is open
    /// the image is in use.
    pub mount: Option<LayerMount>,
}

/// A mounted image without a place yet.
#[derive(Debug)]
pub struct LayerMount {
    /// The mount: `move_mount(mount, "", AT_FDCWD, at, MOVE_MOUNT_F_EMPTY_PATH)`.
    pub mount: OwnedFd,
    /// Where it belongs.
    pub at: PathBuf,
}

/// What a layer uses, and may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Bytes in use.
    pub bytes: u64,
    /// Bytes it may use.
    pub bytes_limit: Option<u64>,
    /// Files, directories and links.
    pub inodes: u64,
    /// How many there may be.
    pub inodes_limit: Option<u64>,
}

/// When a new limit holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// At once.
    Now,
    /// With the next start of the tenant: the layer changes its kind, or the kernel cannot grow it while it is used.
    AtRestart,
}

/// Why a layer cannot be prepared, changed or looked at.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// A limit breaks a rule.
    #[error(transparent)]
    Limit(#[from] Invalid),
    /// A file or directory of the layer.
    #[error("cannot {step} {path}")]
    Path {
        /// What was to be done.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The image could not be made or grown.
    #[error("cannot make the layer's image")]
    Make(#[from] MakeError),
    /// The image could not become a device.
    #[error("cannot attach {path} to a loop device (a limit without project quota needs loop devices)")]
    Attach {
        /// The image.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The image could not be mounted.
    #[error("cannot mount {path} ({step})")]
    Mount {
        /// The image.
        path: PathBuf,
        /// The system call.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The contents could not be moved to the layer's new kind; they are where they were.
    #[error("cannot move the layer's contents to {path}; they stay where they are")]
    Move {
        /// The new place.
        path: PathBuf,
        /// Why; a full file system when the limit is below what is there.
        #[source]
        source: ProgramError,
    },
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LayerError {
    move |source| LayerError::Path { step, path: path.to_owned(), source }
}

/// Removes what may be absent.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Checks a limit in bytes.
///
/// # Errors
/// [`Invalid`] naming the field `disk`.
pub fn check_limit(bytes: u64) -> Result<u64, Invalid> {
    if !(MIN_LIMIT..=MAX_LIMIT).contains(&bytes) {
        return Err(Invalid::new("disk", bytes, "must be 16 MiB (16777216) to 15 TiB, in bytes"));
    }
    Ok(bytes)
}

impl Layer {
    /// The layer of the tenant whose files are in `state_dir`.
    #[must_use]
    pub fn new(state_dir: &Path, ids: GidRange) -> Self {
        Self { dir: state_dir.join("layer"), image: state_dir.join("layer.img"), owner: ids.get() }
    }

    /// Makes the layer ready for a start of the tenant, with `limit` bytes or without a limit. Making a new one takes
    /// about 10 ms as an image and nothing as a directory; changing the kind takes as long as copying.
    ///
    /// The tenant must not run: when its earlier mount is not quite gone, the same file system is mounted once more,
    /// which is safe, but the kind is not changed then.
    ///
    /// # Errors
    /// See [`LayerError`]. The layer is whole after each.
    pub fn prepare(&self, limit: Option<u64>) -> Result<Prepared, LayerError> {
        limit.map_or(Ok(0), check_limit)?;
        let (new_image, new_dir) = (self.beside("layer.img.new"), self.beside("layer.new"));
        gone(fs::remove_file(&new_image)).map_err(failed("remove", &new_image))?;
        gone(tenant_init::tree::remove(&new_dir)).map_err(failed("remove", &new_dir))?;
        directory(&self.dir, 0o700, 0)?;
        let is_image = self.image.exists();
        let quota = quota::is_supported(&self.dir);
        match (is_image, limit) {
            (false, Some(limit)) if !quota => self.to_image(&new_image, limit)?,
            (true, None) => self.to_directory(&new_dir)?,
            (true, Some(limit)) => {
                let size = self.image_size()?;
                if limit / 4096 < size / 4096 {
                    return Err(shrinking(limit, size));
                }
                if limit / 4096 > size / 4096 && self.attached()?.is_none() {
                    image::grow_offline(&self.image, limit)?;
                }
            }
            (false, _) => {}
        }
        if self.image.exists() { self.prepare_image() } else { self.prepare_directory(limit, quota) }
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.dir.with_file_name(name)
    }

    fn prepared(&self, kind: Kind, mount: Option<LayerMount>) -> Prepared {
        Prepared { kind, upper: self.dir.join("upper"), work: self.dir.join("work"), mount }
    }

    fn prepare_directory(&self, limit: Option<u64>, quota: bool) -> Result<Prepared, LayerError> {
        self.places(&self.dir)?;
        if quota {
            // Also without a limit, so that one set later holds for everything.
            quota::mark(&self.dir, self.owner).map_err(failed("set the project of", &self.dir))?;
            quota::limit(&self.dir, self.owner, limit).map_err(failed("set the quota of", &self.dir))?;
        }
        Ok(self.prepared(if limit.is_some() { Kind::Quota } else { Kind::Directory }, None))
    }

    fn prepare_image(&self) -> Result<Prepared, LayerError> {
        // What a change of the kind did not come to remove: the image is the layer.
        for name in ["upper", "work"] {
            let path = self.dir.join(name);
            gone(tenant_init::tree::remove(&path)).map_err(failed("remove", &path))?;
        }
        let (mount, _) = self.mount(&self.image)?;
        self.places(&through(&mount))?;
        Ok(self.prepared(Kind::Image, Some(LayerMount { mount, at: self.dir.clone() })))
    }

    /// `upper` is the root directory as the tenant sees it; `work` is the kernel's.
    fn places(&self, dir: &Path) -> Result<(), LayerError> {
        let upper = dir.join("upper");
        if !upper.exists() {
            directory(&upper, 0o755, self.owner)?;
        }
        directory(&dir.join("work"), 0o700, self.owner)
    }

    fn attached(&self) -> Result<Option<LoopDevice>, LayerError> {
        LoopDevice::find(&self.image).map_err(|source| LayerError::Attach { path: self.image.clone(), source })
    }

    fn mount(&self, image: &Path) -> Result<(OwnedFd, LoopDevice), LayerError> {
        let device = LoopDevice::attach(image);
        let device = device.map_err(|source| LayerError::Attach { path: image.to_owned(), source })?;
        match mount::detached(&device.path) {
            // The mount keeps the device from here on.
            Ok(mount) => Ok((mount, device)),
            Err(mount::MountFailure { step, source }) => {
                Err(LayerError::Mount { path: image.to_owned(), step, source })
            }
        }
    }

    fn image_size(&self) -> Result<u64, LayerError> {
        let figures = image::figures_on_disk(&self.image).map_err(failed("read", &self.image))?;
        Ok(figures.bytes_limit.unwrap_or(0))
    }

    fn to_image(&self, new: &Path, limit: u64) -> Result<(), LayerError> {
        image::make(new, limit)?;
        let upper = self.dir.join("upper");
        if upper.exists() && fs::read_dir(&upper).map_err(failed("read", &upper))?.next().is_some() {
            let moved = self.mount(new).and_then(|(mount, _device)| {
                copy(&upper, &through(&mount).join("upper"))?;
                sync(&mount).map_err(failed("write", new))
            });
            if let Err(error) = moved {
                let _ = fs::remove_file(new);
                return Err(error);
            }
        }
        fs::rename(new, &self.image).and_then(|()| self.sync_parent()).map_err(failed("name", &self.image))
    }

    fn to_directory(&self, new: &Path) -> Result<(), LayerError> {
        directory(new, 0o700, 0)?;
        let (mount, _device) = self.mount(&self.image)?;
        copy(&through(&mount).join("upper"), &new.join("upper"))?;
        drop(mount);
        File::open(new).and_then(|dir| sync(&dir.into())).map_err(failed("write", new))?;
        // Until the image is removed it is the layer, and what lies here is swept.
        gone(tenant_init::tree::remove(&self.dir)).map_err(failed("remove", &self.dir))?;
        fs::rename(new, &self.dir).and_then(|()| self.sync_parent()).map_err(failed("name", &self.dir))?;
        fs::remove_file(&self.image).map_err(failed("remove", &self.image))
    }

    fn sync_parent(&self) -> io::Result<()> {
        File::open(self.beside("."))?.sync_all()
    }

    /// Applies a new limit to the layer of a tenant that runs, as far as that can be done now.
    ///
    /// # Errors
    /// [`LayerError::Limit`] when the limit is below the size of the image: an image only grows.
    pub fn set_limit(&self, limit: Option<u64>) -> Result<Effect, LayerError> {
        limit.map_or(Ok(0), check_limit)?;
        match (self.image.exists(), limit) {
            (false, _) if quota::is_supported(&self.dir) => {
                quota::limit(&self.dir, self.owner, limit).map_err(failed("set the quota of", &self.dir))?;
                Ok(Effect::Now)
            }
            (false, None) => Ok(Effect::Now),
            (false, Some(_)) | (true, None) => Ok(Effect::AtRestart),
            (true, Some(limit)) => self.grow(limit),
        }
    }

    fn grow(&self, limit: u64) -> Result<Effect, LayerError> {
        let size = self.image_size()?;
        if limit / 4096 < size / 4096 {
            return Err(shrinking(limit, size));
        }
        if limit / 4096 == size / 4096 {
            return Ok(Effect::Now);
        }
        if self.attached()?.is_none() {
            return Ok(Effect::AtRestart);
        }
        let (mount, device) = self.mount(&self.image)?;
        let grown = image::grow_mounted(&self.image, &device, &mount, limit).map_err(failed("grow", &self.image))?;
        Ok(if grown == image::Grown::Now { Effect::Now } else { Effect::AtRestart })
    }

    /// What the layer uses. Takes microseconds for an image or a quota; a plain directory has to be walked.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub fn figures(&self) -> Result<Figures, LayerError> {
        if self.image.exists() {
            return match self.attached()? {
                None => image::figures_on_disk(&self.image).map_err(failed("read", &self.image)),
                Some(_) => {
                    let (mount, _device) = self.mount(&self.image)?;
                    image::figures_mounted(&mount, &self.image).map_err(failed("read", &self.image))
                }
            };
        }
        let upper = self.dir.join("upper");
        if quota::is_supported(&self.dir) {
            return quota::figures(&self.dir, self.owner).map_err(failed("read the quota of", &self.dir));
        }
        walk(&upper).map_err(failed("read", &upper))
    }

    /// Removes the layer with everything the tenant has written. The tenant must not run.
    ///
    /// # Errors
    /// The first path that could not be removed.
    pub fn remove(&self) -> Result<(), LayerError> {
        if self.dir.exists() && quota::is_supported(&self.dir) {
            // The number may come to be another tenant's.
            quota::limit(&self.dir, self.owner, None).map_err(failed("set the quota of", &self.dir))?;
        }
        for path in [self.beside("layer.img.new"), self.image.clone()] {
            gone(fs::remove_file(&path)).map_err(failed("remove", &path))?;
        }
        for path in [self.beside("layer.new"), self.dir.clone()] {
            gone(tenant_init::tree::remove(&path)).map_err(failed("remove", &path))?;
        }
        Ok(())
    }
}

fn shrinking(limit: u64, size: u64) -> LayerError {
    LayerError::Limit(Invalid::new(
        "disk",
        limit,
        format!("must be at least {size}, the layer's present size: it can grow but not shrink"),
    ))
}

fn directory(path: &Path, mode: u32, owner: u32) -> Result<(), LayerError> {
    let made = match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    made.and_then(|()| chown(path, Some(owner), Some(owner)))
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(failed("make the directory", path))
}

/// The path of a mount that has no place.
fn through(mount: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()))
}

/// Copies a directory with everything an overlay's upper layer has: owners, modes, times, hard links, white-outs
/// (devices), extended attributes.
fn copy(from: &Path, to: &Path) -> Result<(), LayerError> {
    let into_child = |path: &Path| match path.strip_prefix("/proc/self") {
        // Descriptors are closed in the child; its parent still has them.
        Ok(inner) => Path::new("/proc").join(std::process::id().to_string()).join(inner),
        Err(_) => path.to_owned(),
    };
    let mut command = Command::new("cp");
    command.args(["-a", "--one-file-system", "--no-target-directory", "--"]).arg(into_child(from)).arg(into_child(to));
    image::run("cp", &mut command, &[0]).map_err(|source| LayerError::Move { path: to.to_owned(), source })
}

/// Brings a whole file system to the disk.
fn sync(on: &OwnedFd) -> io::Result<()> {
    let directory = File::open(through(on))?;
    // SAFETY: plain system call on a live descriptor.
    Errno::result(unsafe { libc::syncfs(directory.as_raw_fd()) })?;
    Ok(())
}

/// Space and inodes of a directory, each hard link's file once. Its owner may be at work: no link of his is followed.
fn walk(top: &Path) -> io::Result<Figures> {
    let top = File::open(top)?;
    let mut figures = Figures::default();
    let mut linked = BTreeSet::new();
    let mut directories = vec![PathBuf::from(".")];
    while let Some(directory) = directories.pop() {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH;
        // What is gone or something else by now counts no more.
        let Ok(fd) = openat2(&top, &directory, OpenHow::new().flags(flags).resolve(resolve)) else { continue };
        let mut entries = Dir::from_fd(fd.try_clone()?)?;
        for entry in entries.iter() {
            let entry = entry?;
            let name = entry.file_name();
            let dots = matches!(name.to_bytes(), b"." | b"..");
            let Ok(stat) = fstatat(&fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
            let is_dir = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
            if dots || (stat.st_nlink > 1 && !is_dir && !linked.insert(stat.st_ino)) {
                continue;
            }
            figures.inodes += 1;
            figures.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            if is_dir {
                directories.push(directory.join(OsStr::from_bytes(name.to_bytes())));
            }
        }
    }
    Ok(figures)
}
