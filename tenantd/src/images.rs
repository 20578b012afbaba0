//! Images: the trees that tenants' root file systems are layers on.
//!
//! In: the host's own files, a distribution's archive, or a tarball. Out: directories that never change again, each
//! with a manifest, and nothing else: who uses which is the caller's to know. All functions block.
//!
//! Below the state directory, closed to everybody but root (there are set-uid programs in it):
//!
//! ```text
//! images/host/<version>/{tree,set-id,listing,manifest.json}   the image `host`, one directory a state of the host
//! images/<name>/{tree,manifest.json}                          all others
//! images/.building-<pid>-<n>/                                 not whole yet; locked while its maker lives
//! ```
//!
//! An image appears by one rename when it is whole, so a name never means half an image; what a killed maker left is
//! swept at the next [`ImageStore::open`]. Rooms: `rules`, `survey` and `stranger` what of the host may be seen;
//! `accounts` its passwd; `host` its snapshot; `building` the temporary directory;
//! `named` all other images; `import` and `debootstrap` how they come to be.

mod accounts;
mod building;
mod debootstrap;
mod host;
mod import;
mod manifest;
mod named;
mod rules;
mod stranger;
mod survey;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub use debootstrap::{BuildError, Debootstrap, Signatures};
pub use host::{HostError, HostImage};
pub use import::ImportError;
pub use manifest::{FORMAT, ImageKind, Manifest, ManifestError};
pub use named::{FinishError, GetError, Image, Listed, RemoveError};
pub use survey::{LeftOut, Reason, SurveyError};

/// The name of the image made of the host's own files.
pub const HOST: &str = "host";

/// A sign of life of long work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// So many entries of a tarball are written.
    Entries(u64),
    /// A line of what the work says.
    Line(String),
}

/// All images of one daemon.
#[derive(Debug)]
pub struct ImageStore {
    /// `<state_dir>/images`.
    dir: PathBuf,
    /// What the image `host` is made of: `/`, or a made-up root.
    host_root: PathBuf,
    /// The snapshot this daemon uses, once it was asked for.
    host: Mutex<Option<HostImage>>,
}

/// Why the images could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory could not be made.
    #[error("cannot make the directory of the images {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What an earlier maker left could not be removed.
    #[error("cannot remove the unfinished image {path}")]
    Sweep {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ImageStore {
    /// Opens the images of a state directory, makes the directory when there is none, and removes what makers that
    /// are gone have left. Quick: no image is looked into.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(state_dir: &Path) -> Result<Self, OpenError> {
        Self::open_with_host(state_dir, Path::new("/"))
    }

    /// As [`open`](Self::open), with another root directory to make the image `host` of.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_with_host(state_dir: &Path, host_root: &Path) -> Result<Self, OpenError> {
        let dir = state_dir.join("images");
        for path in [&dir, &dir.join(HOST)] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            let made =
                made.and_then(|()| fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)));
            made.map_err(|source| OpenError::Directory { path: path.clone(), source })?;
        }
        building::sweep(&dir).map_err(|(path, source)| OpenError::Sweep { path, source })?;
        Ok(Self { dir, host_root: host_root.to_owned(), host: Mutex::new(None) })
    }
}
