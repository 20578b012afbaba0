//! What an image says of itself, written beside its tree.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::survey::LeftOut;

/// Format of manifests and trees; another one is not used but made anew or refused.
pub const FORMAT: u32 = 1;

/// What an image was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageKind {
    /// The host's own files; its `/usr` is the host's.
    Host,
    /// A distribution's archive, by debootstrap.
    Debootstrap,
    /// A tarball.
    Tarball,
}

/// What is known of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] at the time it was made.
    pub format: u32,
    /// Its name.
    pub name: String,
    /// What it was made of.
    pub kind: ImageKind,
    /// Where from: a suite and a mirror, a path.
    pub source: String,
    /// When, in seconds since 1970.
    pub made: u64,
    /// Files, directories and links in it.
    pub entries: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// For `host`: programs to be bound over the read-only `/usr`, relative to the root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<PathBuf>,
    /// For `host`: what of the host is not in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
}

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// There is no manifest, or it cannot be read.
    #[error("image is broken: cannot read {path}")]
    Read {
        /// The manifest.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The manifest does not parse.
    #[error("image is broken: {path} is no manifest")]
    Parse {
        /// The manifest.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// It was made by another version of this program.
    #[error("image {path} has format {found}, this program knows {FORMAT}")]
    Format {
        /// The manifest.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
    /// The tree is not what it was.
    #[error("image is broken: {path} has {found} entries or bytes, its manifest says {wanted}")]
    Tree {
        /// The tree.
        path: PathBuf,
        /// What is there.
        found: u64,
        /// What was there.
        wanted: u64,
    },
}

impl Manifest {
    /// Reads the manifest of the image in `dir`.
    pub(super) fn read(dir: &Path) -> Result<Self, ManifestError> {
        let path = dir.join("manifest.json");
        let text = fs::read(&path).map_err(|source| ManifestError::Read { path: path.clone(), source })?;
        let manifest: Self =
            serde_json::from_slice(&text).map_err(|source| ManifestError::Parse { path: path.clone(), source })?;
        if manifest.format != FORMAT {
            return Err(ManifestError::Format { path, found: manifest.format });
        }
        Ok(manifest)
    }

    /// Writes it for the image in `dir`.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        fs::write(dir.join("manifest.json"), serde_json::to_vec(self)?)
    }

    /// Compares the tree with what was counted when it was made: a power cut may leave files empty.
    pub(super) fn check_tree(&self, dir: &Path) -> Result<(), ManifestError> {
        let path = dir.join("tree");
        let (entries, bytes) = measure(&path).map_err(|source| ManifestError::Read { path: path.clone(), source })?;
        for (found, wanted) in [(entries, self.entries), (bytes, self.bytes)] {
            if found != wanted {
                return Err(ManifestError::Tree { path, found, wanted });
            }
        }
        Ok(())
    }
}

/// Entries of a tree and bytes of its files.
pub(super) fn measure(tree: &Path) -> io::Result<(u64, u64)> {
    let (mut entries, mut bytes) = (0, 0);
    let mut directories = vec![tree.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            entries += 1;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                bytes += entry.metadata()?.size();
            }
        }
    }
    Ok((entries, bytes))
}

/// Now, in seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
