//! An image of a tarball, which may come from anywhere.
//!
//! Every path is looked up by the kernel inside of the tree (`openat2` with `RESOLVE_IN_ROOT`, Linux 5.6): dots, absolute
//! names and links, those of the tarball itself too, end in the tree as they would in the tenant. Devices, pipes and
//! sockets are left out. Owners have to fit into a tenant's ids. Of extended attributes only file capabilities are
//! taken: others could speak to the overlay that is made on the tree.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use stackmap::Invalid;
use tar::EntryType;

use super::building::Building;
use super::manifest::{ImageKind, Manifest};
use super::named::FinishError;
use super::{ImageStore, Progress};

/// How often a look-up is asked for again that the kernel could not finish.
const AGAIN: usize = 1000;

/// A tenant has 65,536 ids.
const LAST_ID: u64 = 65_535;
/// How many entries between two words of progress.
const STRIDE: u64 = 1_000;

/// Why a tarball did not become an image.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The name.
    #[error(transparent)]
    Name(#[from] Invalid),
    /// The tarball cannot be read, or is none.
    #[error("cannot read the tarball {path}")]
    Read {
        /// The tarball.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program that unpacks this compression.
    #[error("cannot unpack {path} with {program}: {why}")]
    Unpack {
        /// The tarball.
        path: PathBuf,
        /// The program.
        program: &'static str,
        /// What happened.
        why: String,
    },
    /// An entry breaks a rule.
    #[error("{entry:?} in the tarball refused: {rule}")]
    Refused {
        /// Its path.
        entry: String,
        /// The rule.
        rule: &'static str,
    },
    /// An entry could not be written.
    #[error("cannot write {entry:?} of the tarball ({step})")]
    Write {
        /// Its path.
        entry: String,
        /// The system call.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What came out is no image.
    #[error(transparent)]
    Finish(#[from] FinishError),
}

impl ImageStore {
    /// Makes an image of a tarball: plain, or packed by gzip, xz, zstd or bzip2 (as its first bytes say, and by the
    /// program of that name). Nothing is left after an error.
    ///
    /// # Errors
    /// See [`ImportError`].
    pub fn import(
        &self,
        name: &str,
        tarball: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Manifest, ImportError> {
        let target = self.free_name(name)?;
        let mut source = Source::open(tarball)?;
        let building = Building::start(&self.dir);
        let building = building.map_err(|source| FinishError::Write { path: target.clone(), source })?;
        let tree = building.path().join("tree");
        let made =
            std::fs::create_dir(&tree).and_then(|()| std::fs::set_permissions(&tree, Permissions::from_mode(0o755)));
        let root = made.and_then(|()| File::open(&tree));
        let root = root.map_err(|source| FinishError::Write { path: tree.clone(), source })?;
        Tree { root: root.into() }.unpack(&mut source, progress)?;
        source.end()?;
        Ok(self.finish(building, &target, ImageKind::Tarball, tarball.display().to_string())?)
    }
}

/// The bytes of a tarball, unpacked.
struct Source {
    path: PathBuf,
    program: Option<(&'static str, Child)>,
    bytes: Box<dyn Read>,
}

impl Source {
    fn open(path: &Path) -> Result<Self, ImportError> {
        let reading = |source| ImportError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(reading)?;
        if !file.metadata().map_err(reading)?.is_file() {
            return Err(reading(io::Error::new(io::ErrorKind::InvalidInput, "no regular file")));
        }
        let mut magic = Vec::new();
        file.by_ref().take(6).read_to_end(&mut magic).map_err(reading)?;
        file.rewind().map_err(reading)?;
        let program = match magic.as_slice() {
            [0x1f, 0x8b, ..] => "gzip",
            [0xfd, b'7', b'z', b'X', b'Z', 0] => "xz",
            [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
            [b'B', b'Z', b'h', ..] => "bzip2",
            _ => return Ok(Self { path: path.to_owned(), program: None, bytes: Box::new(file) }),
        };
        let failed = |why: String| ImportError::Unpack { path: path.to_owned(), program, why };
        let mut command = Command::new(program);
        command.arg("-dc").env("PATH", "/usr/bin:/bin").stdin(file).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        let Some(bytes) = child.stdout.take() else { return Err(failed("no output".to_owned())) };
        Ok(Self { path: path.to_owned(), program: Some((program, child)), bytes: Box::new(bytes) })
    }

    /// The rest is read, so that the program can end, and its word is heard: what it wrote before may be half.
    fn end(mut self) -> Result<(), ImportError> {
        let reading = |source| ImportError::Read { path: self.path.clone(), source };
        io::copy(&mut self.bytes, &mut io::sink()).map_err(reading)?;
        if let Some((program, mut child)) = self.program.take() {
            let status = child.wait().map_err(reading)?;
            if !status.success() {
                return Err(ImportError::Unpack { path: self.path.clone(), program, why: status.to_string() });
            }
        }
        Ok(())
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some((_, child)) = &mut self.program {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What an entry says besides its path and content.
struct Facts {
    mode: u32,
    uid: u32,
    gid: u32,
    modified: u64,
    capability: Option<Vec<u8>>,
}

/// The tree that is written.
struct Tree {
    root: OwnedFd,
}

/// A step of writing an entry: its name and the error.
type Step<T> = Result<T, (&'static str, io::Error)>;

fn at<T, E: Into<io::Error>>(step: &'static str, result: Result<T, E>) -> Step<T> {
    result.map_err(|error| (step, error.into()))
}

impl Tree {
    fn unpack(&self, source: &mut Source, progress: &mut dyn FnMut(Progress)) -> Result<(), ImportError> {
        let path = source.path.clone();
        let reading = |source| ImportError::Read { path: path.clone(), source };
        let mut archive = tar::Archive::new(&mut source.bytes);
        let mut done = 0;
        for entry in archive.entries().map_err(reading)? {
            let mut entry = entry.map_err(reading)?;
            let shown = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let refused = |rule| ImportError::Refused { entry: shown.clone(), rule };
            let inner = inside(Path::new(OsStr::from_bytes(&entry.path_bytes()))).map_err(refused)?;
            let facts = facts(&mut entry).map_err(reading)?.map_err(refused)?;
            let kind = entry.header().entry_type();
            let link = entry.link_name_bytes().map(|name| name.into_owned());
            let written = |(step, source)| ImportError::Write { entry: shown.clone(), step, source };
            match (kind, &inner) {
                (EntryType::Directory, None) | (EntryType::XGlobalHeader, _) => {}
                (_, None) => return Err(refused("must have a name")),
                (EntryType::Char | EntryType::Block | EntryType::Fifo, Some(_)) => {
                    progress(Progress::Line(format!("left out: {shown} (a device or pipe)")));
                }
                (EntryType::Directory, Some(inner)) => self.directory(inner, &facts).map_err(written)?,
                (EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse, Some(inner)) => {
                    self.file(inner, &facts, &mut entry).map_err(written)?;
                }
                (EntryType::Symlink, Some(inner)) => {
                    let target = link.ok_or_else(|| refused("must say where the link leads"))?;
                    self.link(inner, OsStr::from_bytes(&target), &facts).map_err(written)?;
                }
                (EntryType::Link, Some(inner)) => {
                    let target = link.ok_or_else(|| refused("must say where the link leads"))?;
                    let target = inside(Path::new(OsStr::from_bytes(&target))).map_err(refused)?;
                    let target = target.ok_or_else(|| refused("must not be a hard link to a directory"))?;
                    self.hard_link(inner, &target).map_err(written)?;
                }
                _ => return Err(refused("must be a file, a directory or a link")),
            }
            done += 1;
            if done % STRIDE == 0 {
                progress(Progress::Entries(done));
            }
        }
        Ok(())
    }

    fn open(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        // EAGAIN: something on the machine was renamed meanwhile (openat2(2)).
        let again = (0..AGAIN).find_map(|_| match openat2(&self.root, path, how) {
            Err(Errno::EAGAIN) => None,
            opened => Some(opened),
        });
        again.unwrap_or(Err(Errno::EAGAIN))
    }

    /// The directory an entry belongs into; made when the tarball does not have it, parents first.
    fn parent(&self, inner: &Path) -> Step<OwnedFd> {
        let parent = inner.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        match self.open(parent, flags) {
            Err(Errno::ENOENT) if parent != Path::new(".") => {}
            other => return at("openat2", other),
        }
        let mut made = PathBuf::new();
        let mut above = at("openat2", self.open(Path::new("."), flags))?;
        for part in parent {
            made.push(part);
            match mkdirat(&above, part, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(("mkdirat", errno.into())),
            }
            above = at("openat2", self.open(&made, flags))?;
        }
        Ok(above)
    }

    /// Makes room for an entry: a later one of the same path wins, but never over a directory.
    fn place<'a>(&self, inner: &'a Path) -> Step<(OwnedFd, &'a OsStr)> {
        let parent = self.parent(inner)?;
        let name = inner.file_name().unwrap_or_default();
        match unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok((parent, name)),
            Err(errno) => Err(("unlinkat", errno.into())),
        }
    }

    fn directory(&self, inner: &Path, facts: &Facts) -> Step<()> {
        let parent = self.parent(inner)?;
        let name = inner.file_name().unwrap_or_default();
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut opened = openat(&parent, name, flags, Mode::empty());
        if matches!(opened, Err(Errno::ENOTDIR | Errno::ELOOP)) {
            at("unlinkat", unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir))?;
            opened = Err(Errno::ENOENT);
        }
        if matches!(opened, Err(Errno::ENOENT)) {
            at("mkdirat", mkdirat(&parent, name, Mode::from_bits_truncate(0o700)))?;
            opened = openat(&parent, name, flags, Mode::empty());
        }
        let directory = File::from(at("openat", opened)?);
        at("fchown", fchown(&directory, Some(facts.uid), Some(facts.gid)))?;
        at("fchmod", directory.set_permissions(Permissions::from_mode(facts.mode)))
    }

    fn file(&self, inner: &Path, facts: &Facts, content: &mut impl Read) -> Step<()> {
        let (parent, name) = self.place(inner)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&parent, name, flags, Mode::from_bits_truncate(0o600));
        let mut file = File::from(at("openat", file)?);
        at("write", io::copy(content, &mut file))?;
        // In this order: giving a file away takes its set-id bits and capabilities.
        at("fchown", fchown(&file, Some(facts.uid), Some(facts.gid)))?;
        if let Some(value) = &facts.capability {
            let key = c"security.capability".as_ptr();
            // SAFETY: the key and the value live here, with the value's length.
            let set = unsafe { libc::fsetxattr(file.as_raw_fd(), key, value.as_ptr().cast(), value.len(), 0) };
            at("fsetxattr", Errno::result(set))?;
        }
        at("fchmod", file.set_permissions(Permissions::from_mode(facts.mode)))?;
        let modified = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(facts.modified));
        // A time no disk can hold is as good as none.
        let _ = file.set_modified(modified.unwrap_or(SystemTime::UNIX_EPOCH));
        Ok(())
    }

    fn link(&self, inner: &Path, target: &OsStr, facts: &Facts) -> Step<()> {
        let (parent, name) = self.place(inner)?;
        at("symlinkat", symlinkat(target, &parent, name))?;
        let (uid, gid) = (Uid::from_raw(facts.uid), Gid::from_raw(facts.gid));
        at("fchownat", fchownat(&parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW))
    }

    fn hard_link(&self, inner: &Path, target: &Path) -> Step<()> {
        let file = at("openat2", self.open(target, OFlag::O_PATH | OFlag::O_NOFOLLOW))?;
        let kind = at("fstat", fstat(&file))?.st_mode & libc::S_IFMT;
        if kind != libc::S_IFREG && kind != libc::S_IFLNK {
            return Err(("linkat", io::Error::new(io::ErrorKind::InvalidInput, "only files can have a second name")));
        }
        let (parent, name) = self.place(inner)?;
        at("linkat", linkat(&file, c"", &parent, name, AtFlags::AT_EMPTY_PATH))
    }
}

/// An entry's path in the tree; none is the tree itself.
fn inside(path: &Path) -> Result<Option<PathBuf>, &'static str> {
    let mut inner = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => inner.push(part),
            Component::RootDir | Component::CurDir => {}
            _ => return Err("must not have .. in its path"),
        }
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return Err("must not have a NUL character in its path");
    }
    Ok(Some(inner).filter(|inner| !inner.as_os_str().is_empty()))
}

fn facts<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Result<Facts, &'static str>> {
    let mut capability = None;
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        // Revision 2, without a user namespace of its own (struct vfs_cap_data).
        if extension.key_bytes() == b"SCHILY.xattr.security.capability" && extension.value_bytes().len() == 20 {
            capability = Some(extension.value_bytes().to_vec());
        }
    }
    let header = entry.header();
    let (uid, gid) = (header.uid()?, header.gid()?);
    if uid > LAST_ID || gid > LAST_ID {
        return Ok(Err("must belong to a user and group of 0 to 65535"));
    }
    let number = |id: u64| u32::try_from(id).unwrap_or(0);
    Ok(Ok(Facts {
        mode: header.mode()? & 0o7777,
        uid: number(uid),
        gid: number(gid),
        modified: header.mtime()?,
        capability,
    }))
}
