//! Writing a service's files as root into a directory that the tenant owns.
//!
//! The tenant's processes may put links and anything else there, so nothing is opened by a path from outside: every
//! step goes from the directory's own descriptor and never through a link (`openat2`, Linux 5.6), and a file is made
//! anew beside the old one and then takes its name.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{Rendered, RenderedFile};

/// Which file of a service could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path} of the service ({step})")]
pub struct WriteError {
    /// The file or directory.
    pub path: PathBuf,
    /// The system call.
    pub step: &'static str,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Writes what was rendered below `dir`, which is made when it is not there; all of it belongs to user and group
/// `owner`, the first id of the tenant. Files of the template are replaced, everything else there is left alone.
///
/// # Errors
/// The first file or directory that could not be written.
pub fn write_files(rendered: &Rendered, dir: &Path, owner: u32) -> Result<(), WriteError> {
    let failed = |step: &'static str, source: io::Error| WriteError { path: dir.to_owned(), step, source };
    // The parents of `dir` are root's.
    DirBuilder::new().recursive(true).mode(0o750).create(dir).map_err(|error| failed("mkdir", error))?;
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let root = OpenOptions::new().read(true).custom_flags(flags).open(dir).map_err(|error| failed("open", error))?;
    fchown(&root, Some(owner), Some(owner)).map_err(|error| failed("chown", error))?;
    for (path, mode) in &rendered.dirs {
        make_directory(&root, path, *mode, owner)?;
    }
    for file in &rendered.files {
        make_file(&root, file, owner)?;
    }
    Ok(())
}

fn make_directory(root: &File, path: &Path, mode: u32, owner: u32) -> Result<OwnedFd, WriteError> {
    let failed = |step: &'static str, source: io::Error| WriteError { path: path.to_owned(), step, source };
    let mut at = root.try_clone().map_err(|error| failed("dup", error))?.into();
    let mut parts = path.iter().peekable();
    while let Some(part) = parts.next() {
        let fresh = match mkdirat(&at, part, Mode::from_bits_truncate(0o700)) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(errno) => return Err(failed("mkdirat", errno.into())),
        };
        at = open(&at, part, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(|error| failed("openat2", error))?;
        let mode = match parts.peek() {
            None => mode,
            Some(_) if fresh => 0o755,
            // Another entry of the list says what this one has to be.
            Some(_) => continue,
        };
        let mode = Mode::from_bits_truncate(mode);
        fchmod(&at, mode).map_err(|errno| failed("fchmod", errno.into()))?;
        fchown(&at, Some(owner), Some(owner)).map_err(|error| failed("fchown", error))?;
    }
    Ok(at)
}

fn make_file(root: &File, file: &RenderedFile, owner: u32) -> Result<(), WriteError> {
    let failed = |step: &'static str, source: io::Error| WriteError { path: file.path.clone(), step, source };
    let name = file.path.file_name().ok_or_else(|| failed("path", io::ErrorKind::InvalidInput.into()))?;
    let directory = match file.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => open(root, parent, OFlag::O_RDONLY | OFlag::O_DIRECTORY),
        None => root.try_clone().map(OwnedFd::from),
    };
    let directory = directory.map_err(|error| failed("openat2 of its directory", error))?;
    let fresh: OsString = [OsStr::new("."), name, OsStr::new(".new")].into_iter().collect();
    match unlinkat(&directory, fresh.as_os_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(failed("unlinkat", errno.into())),
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    let made = open(&directory, Path::new(&fresh), flags).map_err(|error| failed("openat2", error))?;
    let mut made = File::from(made);
    made.write_all(file.content.as_bytes()).map_err(|error| failed("write", error))?;
    fchmod(&made, Mode::from_bits_truncate(file.mode)).map_err(|errno| failed("fchmod", errno.into()))?;
    fchown(&made, Some(owner), Some(owner)).map_err(|error| failed("fchown", error))?;
    renameat(&directory, fresh.as_os_str(), &directory, name).map_err(|errno| failed("renameat", errno.into()))
}

/// Opens what lies below `at`, through no link and no mount that leads elsewhere.
fn open(at: impl AsFd, path: impl AsRef<Path>, flags: OFlag) -> io::Result<OwnedFd> {
    let mode = if flags.contains(OFlag::O_CREAT) { Mode::S_IRUSR | Mode::S_IWUSR } else { Mode::empty() };
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .mode(mode)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(openat2(at, path.as_ref(), how)?)
}
