//! The image `host`: an immutable, filtered snapshot of the host's `/etc`, directories of its `/var`, and copies of
//! the few set-id programs a tenant needs. Nothing of `/usr` is copied.
//!
//! Every state of the host is a version of its own (`images/host/<number>`). The newest is used as long as the host is
//! in that state; running tenants keep theirs, and [`ImageStore::sweep_host`] removes what nobody uses.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, fchown, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag};

use super::accounts;
use super::building::Building;
use super::manifest::{self, FORMAT, ImageKind, Manifest};
use super::rules;
use super::stranger::{Stranger, with_stranger};
use super::survey::{Entry, Kind, LeftOut, Reason, Survey, SurveyError, is_public, open_as_stranger, survey};
use super::{HOST, ImageStore};

/// A version of the image `host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostImage {
    /// Which one; what a running tenant has to be remembered with.
    pub version: u64,
    /// The lower tree of the root file system; its `usr` is an empty directory.
    pub root: PathBuf,
    /// Programs to be bound over the read-only `/usr`: the copy, and where it belongs (absolute, in the tenant).
    pub set_id: Vec<(PathBuf, PathBuf)>,
    /// What of the host is not in it, for messages about missing configuration.
    pub left_out: Vec<LeftOut>,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The host's root directory could not be opened.
    #[error("cannot open the root directory {path}")]
    Root {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread that looks with a stranger's rights could not be made.
    #[error("cannot give up root's rights to look at the host (setgroups; needs root)")]
    Stranger(#[source] io::Error),
    /// The host could not be looked at.
    #[error("cannot look at the host's files")]
    Survey(#[from] SurveyError),
    /// A file of the host could not be copied.
    #[error("cannot copy the host's {path}")]
    Copy {
        /// The file, relative to the root.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The snapshot could not be written.
    #[error("cannot write the snapshot of the host in {path}")]
    Write {
        /// File or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An earlier version is wanted and is not there, or is broken.
    #[error("version {version} of the image host cannot be used")]
    Version {
        /// Which.
        version: u64,
        /// Why.
        #[source]
        source: manifest::ManifestError,
    },
}

impl ImageStore {
    /// The snapshot of the host as it was when this was first asked: an earlier one when nothing has changed since,
    /// else a new one. The first call takes tens of milliseconds, later ones none.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn host(&self) -> Result<HostImage, HostError> {
        // Nothing that holds the lock leaves half a value behind.
        let mut known = self.host.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(image) = &*known {
            return Ok(image.clone());
        }
        let image = self.look_at_host()?;
        *known = Some(image.clone());
        Ok(image)
    }

    /// Looks at the host again: what tenants that start from now on get.
    ///
    /// # Errors
    /// See [`HostError`]; the one in use stays then.
    pub fn refresh_host(&self) -> Result<HostImage, HostError> {
        let mut known = self.host.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let image = self.look_at_host()?;
        *known = Some(image.clone());
        Ok(image)
    }

    /// An earlier version, for a tenant that was started with it.
    ///
    /// # Errors
    /// [`HostError::Version`] when it is not there.
    pub fn host_version(&self, version: u64) -> Result<HostImage, HostError> {
        let dir = self.version_dir(version);
        let manifest = Manifest::read(&dir).map_err(|source| HostError::Version { version, source })?;
        Ok(described(version, &dir, &manifest))
    }

    /// Removes the versions that nobody uses: not the one this daemon hands out, not the newest, not `in_use`.
    ///
    /// # Errors
    /// [`HostError::Write`] naming the directory; the others are removed.
    pub fn sweep_host(&self, in_use: &BTreeSet<u64>) -> Result<(), HostError> {
        let known = self.host.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let versions = self.versions()?;
        let ours = known.as_ref().map(|image| image.version);
        let mut result = Ok(());
        for version in &versions {
            if in_use.contains(version) || ours == Some(*version) || versions.last() == Some(version) {
                continue;
            }
            let path = self.version_dir(*version);
            if let Err(source) = fs::remove_dir_all(&path) {
                result = Err(HostError::Write { path, source });
            }
        }
        result
    }

    fn version_dir(&self, version: u64) -> PathBuf {
        self.dir.join(HOST).join(version.to_string())
    }

    /// The versions that are there, oldest first.
    fn versions(&self) -> Result<BTreeSet<u64>, HostError> {
        let path = self.dir.join(HOST);
        let read = |source| HostError::Write { path: path.clone(), source };
        let mut versions = BTreeSet::new();
        for entry in fs::read_dir(&path).map_err(read)? {
            if let Some(version) = entry.map_err(read)?.file_name().to_str().and_then(|name| name.parse().ok()) {
                versions.insert(version);
            }
        }
        Ok(versions)
    }

    fn look_at_host(&self) -> Result<HostImage, HostError> {
        let root = File::open(&self.host_root);
        let root = root.map_err(|source| HostError::Root { path: self.host_root.clone(), source })?.into();
        with_stranger(|stranger| {
            let survey = survey(stranger, &root)?;
            let listing = format!("format {FORMAT}\n{}", survey.listing());
            let newest = self.versions()?.last().copied();
            if let Some(version) = newest {
                let dir = self.version_dir(version);
                // One that is broken is no error here: the next one takes its place.
                if fs::read_to_string(dir.join("listing")).is_ok_and(|old| old == listing)
                    && let Ok(manifest) = Manifest::read(&dir)
                    && manifest.check_tree(&dir).is_ok()
                {
                    return Ok(described(version, &dir, &manifest));
                }
            }
            let version = newest.unwrap_or(0) + 1;
            let manifest = self.snapshot(&Snapshot { stranger, root: &root }, survey, &listing, version)?;
            Ok(described(version, &self.version_dir(version), &manifest))
        })
        .map_err(HostError::Stranger)?
    }

    fn snapshot(
        &self,
        from: &Snapshot<'_>,
        survey: Survey,
        listing: &str,
        version: u64,
    ) -> Result<Manifest, HostError> {
        let building = Building::start(&self.dir).map_err(written(&self.dir))?;
        let tree = building.path().join("tree");
        directory(&tree, 0o755, (0, 0))?;
        let mut left_out = survey.left_out;
        for (name, mode) in rules::EMPTY {
            directory(&tree.join(name), *mode, (0, 0))?;
        }
        for entry in &survey.entries {
            left_out.extend(from.entry(entry, &tree)?);
        }
        let mut programs = Vec::new();
        let copies = building.path().join("set-id");
        directory(&copies, 0o755, (0, 0))?;
        for entry in &survey.programs {
            match from.program(entry, &copies)? {
                None => programs.push(entry.path.clone()),
                Some(left) => left_out.push(left),
            }
        }
        from.generated(&tree, programs.iter().any(|path| path.ends_with("sudo")))?;

        let (entries, bytes) = manifest::measure(&tree).map_err(written(&tree))?;
        let manifest = Manifest {
            format: FORMAT,
            name: HOST.to_owned(),
            kind: ImageKind::Host,
            source: self.host_root.display().to_string(),
            made: manifest::now(),
            entries,
            bytes,
            programs,
            left_out,
        };
        fs::write(building.path().join("listing"), listing).map_err(written(building.path()))?;
        manifest.write(building.path()).map_err(written(building.path()))?;
        let target = self.version_dir(version);
        building.finish(&target).map_err(written(&target))?;
        Ok(manifest)
    }
}

fn described(version: u64, dir: &Path, manifest: &Manifest) -> HostImage {
    let copies = dir.join("set-id");
    let set_id = manifest.programs.iter().map(|path| (copies.join(path), Path::new("/").join(path))).collect();
    HostImage { version, root: dir.join("tree"), set_id, left_out: manifest.left_out.clone() }
}

fn written(path: &Path) -> impl FnOnce(io::Error) -> HostError {
    move |source| HostError::Write { path: path.to_owned(), source }
}

fn directory(path: &Path, mode: u32, (uid, gid): (u32, u32)) -> Result<(), HostError> {
    let made = DirBuilder::new().mode(0o700).create(path);
    // In this order: giving a file away takes its set-id bits.
    let made = made.and_then(|()| chown(path, Some(uid), Some(gid)));
    made.and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode))).map_err(written(path))
}

/// System accounts keep their files; a person's are root's in the snapshot.
fn owner(uid: u32, gid: u32) -> (u32, u32) {
    let system = |id| if accounts::is_system(id) { id } else { 0 };
    (system(uid), system(gid))
}

/// Where a snapshot is made from.
struct Snapshot<'a> {
    stranger: &'a Stranger,
    root: &'a OwnedFd,
}

impl Snapshot<'_> {
    /// Puts an entry into the tree, or says why it is left out after all.
    fn entry(&self, entry: &Entry, tree: &Path) -> Result<Option<LeftOut>, HostError> {
        let target = tree.join(&entry.path);
        let (uid, gid) = owner(entry.stat.st_uid, entry.stat.st_gid);
        match &entry.kind {
            Kind::Directory => directory(&target, entry.stat.st_mode & 0o7777, (uid, gid))?,
            Kind::Link(to) => {
                symlink(to, &target).and_then(|()| lchown(&target, Some(uid), Some(gid))).map_err(written(&target))?;
            }
            // A set-id bit has no business in /etc.
            Kind::File => return self.file(entry, &target, 0o777),
        }
        Ok(None)
    }

    /// Copies a program below `copies`, at its own path there.
    fn program(&self, entry: &Entry, copies: &Path) -> Result<Option<LeftOut>, HostError> {
        if !accounts::is_system(entry.stat.st_uid) || !accounts::is_system(entry.stat.st_gid) {
            return Ok(Some(left_out(entry, Reason::HostsOwn)));
        }
        let mut parent = copies.to_owned();
        for part in entry.path.parent().into_iter().flatten() {
            parent.push(part);
            if !parent.exists() {
                directory(&parent, 0o755, (0, 0))?;
            }
        }
        self.file(entry, &copies.join(&entry.path), 0o6777)
    }

    /// Copies a regular file that everybody may read; `bits` of its mode are kept.
    fn file(&self, entry: &Entry, target: &Path, bits: u32) -> Result<Option<LeftOut>, HostError> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let source = self.open(&entry.path, flags);
        let mut source = match source {
            Ok(source) => File::from(source),
            Err(error) => {
                let reason = match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EXDEV) => Reason::Mount,
                    Some(Errno::EACCES) => Reason::NotWorldReadable,
                    // Changed since it was found. The next survey sees what it has become.
                    Some(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR | Errno::ENXIO) => Reason::Special,
                    _ => return Err(HostError::Copy { path: entry.path.clone(), source: error }),
                };
                return Ok(Some(left_out(entry, reason)));
            }
        };
        let copying = |source| HostError::Copy { path: entry.path.clone(), source };
        // What counts is the file that is open, not the one that had this name before.
        let stat = nix::sys::stat::fstat(&source).map_err(|errno| copying(errno.into()))?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFREG || !is_public(&stat) {
            return Ok(Some(left_out(entry, Reason::NotWorldReadable)));
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target);
        let mut file = file.map_err(written(target))?;
        io::copy(&mut source, &mut file).map_err(copying)?;
        let (uid, gid) = owner(stat.st_uid, stat.st_gid);
        let modified = source.metadata().and_then(|metadata| metadata.modified()).map_err(copying)?;
        fchown(&file, Some(uid), Some(gid))
            .and_then(|()| file.set_permissions(Permissions::from_mode(stat.st_mode & bits)))
            .and_then(|()| file.set_modified(modified))
            .map_err(written(target))?;
        Ok(None)
    }

    fn open(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let links = ResolveFlag::RESOLVE_NO_SYMLINKS;
        let Ok(inner) = path.strip_prefix("etc") else {
            return open_as_stranger(self.stranger, self.root, path, flags, links);
        };
        // /etc may be a file system of its own, but no other mount in it is looked into.
        let base = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let base = open_as_stranger(self.stranger, self.root, Path::new("etc"), base, links)?;
        open_as_stranger(self.stranger, &base, inner, flags, links | ResolveFlag::RESOLVE_NO_XDEV)
    }

    /// Files that are made and not copied.
    fn generated(&self, tree: &Path, sudo: bool) -> Result<(), HostError> {
        let read = |path: &str| {
            let name = Path::new(path);
            let file = self.open(name, OFlag::O_RDONLY | OFlag::O_NOFOLLOW).map(File::from);
            let text = file.and_then(io::read_to_string);
            text.map_err(|source| HostError::Copy { path: name.to_owned(), source })
        };
        let made = accounts::filter(&read("etc/passwd")?, &read("etc/group")?);
        let secret = if made.shadow_gid == 0 { 0o600 } else { 0o640 };
        let mut files = vec![
            ("etc/passwd", made.passwd.as_str(), 0o644, 0),
            ("etc/group", &made.group, 0o644, 0),
            ("etc/shadow", &made.shadow, secret, made.shadow_gid),
            ("etc/gshadow", &made.gshadow, secret, made.shadow_gid),
            // The tenant has no ids to give away.
            ("etc/subuid", "", 0o644, 0),
            ("etc/subgid", "", 0o644, 0),
        ];
        // Where the host has no such directory nothing reads it.
        if tree.join("etc/profile.d").is_dir() {
            files.push(("etc/profile.d/tenantd.sh", PROFILE, 0o644, 0));
        }
        if sudo {
            // The host's own is not world-readable. This is the rule of the package, without its comments.
            files.push(("etc/sudoers", SUDOERS, 0o440, 0));
        }
        for (path, text, mode, gid) in files {
            let target = tree.join(path);
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target);
            file.and_then(|mut file| {
                io::Write::write_all(&mut file, text.as_bytes())?;
                fchown(&file, Some(0), Some(gid))?;
                file.set_permissions(Permissions::from_mode(mode))
            })
            .map_err(written(&target))?;
        }
        let mtab = tree.join("etc/mtab");
        symlink("../proc/self/mounts", &mtab).map_err(written(&mtab))
    }
}

/// /etc/profile sets a path of its own: the program that speaks to the tenant's own API is found in a login shell, too.
const PROFILE: &str = "PATH=\"$PATH:/run/tenantd\"\n";

/// The group is Debian's; where there is none the line has no effect.
const SUDOERS: &str = "Defaults env_reset\nDefaults secure_path=\"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:\
                       /sbin:/bin\"\nroot ALL=(ALL:ALL) ALL\n%sudo ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n";

fn left_out(entry: &Entry, reason: Reason) -> LeftOut {
    LeftOut { path: Path::new("/").join(&entry.path), reason }
}
