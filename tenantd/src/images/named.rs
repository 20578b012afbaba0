//! Images with a name: finding, listing, removing, and giving a finished one its name.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use stackmap::{Invalid, TenantName};

use super::building::Building;
use super::manifest::{self, FORMAT, ImageKind, Manifest, ManifestError};
use super::{HOST, ImageStore};

/// An image that a tenant can be made on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The lower tree of the root file system.
    pub root: PathBuf,
    /// What it is.
    pub manifest: Manifest,
}

/// An image in a list: a broken one does not hide the others.
#[derive(Debug)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// What it is, or what is wrong with it.
    pub manifest: Result<Manifest, ManifestError>,
}

/// Why there is no such image.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// No image can have this name, or none has.
    #[error(transparent)]
    Name(#[from] Invalid),
    /// It is there, but cannot be used.
    #[error("image {name} cannot be used")]
    Broken {
        /// The image.
        name: String,
        /// Why.
        #[source]
        source: ManifestError,
    },
}

/// Why an image was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// No image can have this name, none has, or it is always there.
    #[error(transparent)]
    Name(#[from] Invalid),
    /// Tenants stand on it.
    #[error("image {name} is used by {}", users.join(", "))]
    Used {
        /// The image.
        name: String,
        /// The tenants.
        users: Vec<String>,
    },
    /// Its files could not be removed.
    #[error("cannot remove {path}")]
    Files {
        /// The image's directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why a whole tree did not become an image.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    /// It is no root file system.
    #[error("this is no root file system: /{0} is not a directory in it")]
    NoRoot(&'static str),
    /// It could not be brought to the disk or named.
    #[error("cannot write the image {path}")]
    Write {
        /// The image's directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Directories that something is mounted on in every tenant.
const MOUNT_POINTS: [(&str, u32); 5] =
    [("dev", 0o755), ("proc", 0o555), ("run", 0o755), ("sys", 0o555), ("tmp", 0o1777)];

impl ImageStore {
    /// A new image's name, checked: a DNS label, not `host`, not taken.
    pub(super) fn free_name(&self, name: &str) -> Result<PathBuf, Invalid> {
        let path = self.named(name)?;
        if path.exists() {
            return Err(Invalid::new("image", name, "must not be an image that is there already; remove it first"));
        }
        Ok(path)
    }

    fn named(&self, name: &str) -> Result<PathBuf, Invalid> {
        name.parse::<TenantName>().map_err(|invalid| invalid.for_field("image"))?;
        if name == HOST {
            return Err(Invalid::new("image", name, "must not be host: that image is made of the host's own files"));
        }
        Ok(self.dir.join(name))
    }

    /// The image of a name, other than `host`.
    ///
    /// # Errors
    /// [`GetError::Name`] lists the images there are.
    pub fn get(&self, name: &str) -> Result<Image, GetError> {
        let dir = self.named(name)?;
        if !dir.exists() {
            let known = self.names().unwrap_or_default().join(", ");
            return Err(Invalid::new("image", name, format!("must be one of {known}")).into());
        }
        let broken = |source| GetError::Broken { name: name.to_owned(), source };
        let manifest = Manifest::read(&dir).map_err(broken)?;
        let root = dir.join("tree");
        // Counting a whole distribution at each start of a tenant would be felt.
        if let Err(source) = fs::read_dir(root.join("usr")) {
            return Err(broken(ManifestError::Read { path: root.join("usr"), source }));
        }
        Ok(Image { root, manifest })
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            if let Some(name) = entry?.file_name().to_str().filter(|name| name.parse::<TenantName>().is_ok()) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// All images but `host`, by name.
    ///
    /// # Errors
    /// When the directory of the images cannot be read.
    pub fn list(&self) -> io::Result<Vec<Listed>> {
        let names = self.names()?.into_iter().filter(|name| name != HOST);
        Ok(names.map(|name| Listed { manifest: Manifest::read(&self.dir.join(&name)), name }).collect())
    }

    /// Removes an image that none of `users` (tenants, as the caller knows them) stands on.
    ///
    /// # Errors
    /// See [`RemoveError`]. A removal that was interrupted is finished at the next open.
    pub fn remove(&self, name: &str, users: &[String]) -> Result<(), RemoveError> {
        let path = self.named(name)?;
        if !users.is_empty() {
            return Err(RemoveError::Used { name: name.to_owned(), users: users.to_vec() });
        }
        if !path.exists() {
            let known = self.names().unwrap_or_default().join(", ");
            return Err(Invalid::new("image", name, format!("must be one of {known}")).into());
        }
        let files = |source| RemoveError::Files { path: path.clone(), source };
        let trash = Building::start(&self.dir).map_err(files)?;
        fs::rename(&path, trash.path().join("tree")).map_err(files)?;
        trash.remove().map_err(files)
    }

    /// Makes the tree of `building` an image.
    pub(super) fn finish(
        &self,
        building: Building,
        target: &Path,
        kind: ImageKind,
        source: String,
    ) -> Result<Manifest, FinishError> {
        let tree = building.path().join("tree");
        for name in ["usr", "etc"] {
            if !fs::symlink_metadata(tree.join(name)).is_ok_and(|metadata| metadata.is_dir()) {
                return Err(FinishError::NoRoot(name));
            }
        }
        let written = |source| FinishError::Write { path: target.to_owned(), source };
        for (name, mode) in MOUNT_POINTS {
            let path = tree.join(name);
            match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => return Err(FinishError::NoRoot(name)),
                Err(_) => {
                    let made = DirBuilder::new().mode(mode).create(&path);
                    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
                    made.and_then(|()| fs::set_permissions(&path, mode)).map_err(written)?;
                }
            }
        }
        let (entries, bytes) = manifest::measure(&tree).map_err(written)?;
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let manifest = Manifest {
            format: FORMAT,
            name,
            kind,
            source,
            made: manifest::now(),
            entries,
            bytes,
            programs: Vec::new(),
            left_out: Vec::new(),
        };
        manifest.write(building.path()).map_err(written)?;
        // Whole on the disk before it has its name: a power cut leaves no half image.
        let directory = File::open(building.path()).map_err(written)?;
        // SAFETY: plain system call on a live descriptor.
        Errno::result(unsafe { libc::syncfs(directory.as_raw_fd()) }).map_err(|errno| written(errno.into()))?;
        building.finish(target).and_then(|()| File::open(&self.dir)?.sync_all()).map_err(written)?;
        Ok(manifest)
    }
}
