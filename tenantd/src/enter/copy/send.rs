//! The side that reads files. Only regular files and directories; a name that has become a link meanwhile is not
//! followed, and a file that grows while it is read is sent as long as it was.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};

use super::wire::{ENDLESS, PIECE, Word};
use super::{Copied, CopyError, Local, Progress, Watcher, shown};

/// How deep directories may lie in each other: each level is an open descriptor.
pub(super) const DEPTH: usize = 200;

/// What is only a view of the kernel has no size and no end (linux/magic.h).
const PROC: i64 = 0x9fa0;

pub(super) struct Sender<'a, W: Write> {
    to: W,
    recursive: bool,
    watch: Watcher<'a>,
    copied: Copied,
}

impl<'a, W: Write> Sender<'a, W> {
    pub(super) fn new(to: W, recursive: bool, watch: Watcher<'a>) -> Self {
        Self { to, recursive, watch, copied: Copied::default() }
    }

    pub(super) fn copied(&mut self) -> Copied {
        mem::take(&mut self.copied)
    }

    /// Sends a file or directory that the operator has named: a link at this place is followed.
    pub(super) fn send(&mut self, local: &Local) -> Result<(), CopyError> {
        let path = match local {
            Local::Stream => {
                self.say(&Word::File { mode: 0o644, size: ENDLESS, name: Vec::new() })?;
                return self.data(&mut io::stdin().lock(), OsStr::new("-"), None);
            }
            Local::Path(path) => path,
        };
        let failed = |step| move |errno: nix::Error| error(path.as_os_str(), step, errno.into());
        let name = path.file_name().filter(|name| name.len() <= 255).ok_or_else(|| CopyError::Rule {
            path: shown(path.as_os_str()),
            rule: "must end with the name of a file or directory",
        })?;
        // Looked at first: opening a device may do something.
        let found = fstatat(AT_FDCWD, path.as_path(), AtFlags::empty()).map_err(failed("find it"))?;
        let rule = |rule| CopyError::Rule { path: shown(path.as_os_str()), rule };
        match kind(&found) {
            libc::S_IFREG => {}
            libc::S_IFDIR if self.recursive => {}
            libc::S_IFDIR => return Err(rule("is a directory: must be a file, or say --recursive")),
            _ => return Err(rule("must be a regular file or a directory")),
        }
        let fd = openat(AT_FDCWD, path.as_path(), READ, Mode::empty()).map_err(failed("open"))?;
        let found = fstat(&fd).map_err(failed("look at it"))?;
        match kind(&found) {
            libc::S_IFREG if nix::sys::statfs::fstatfs(&fd).is_ok_and(|fs| fs.filesystem_type().0 == PROC) => {
                Err(rule("is a view of the kernel: must be a regular file"))
            }
            libc::S_IFREG => self.file(fd, &found, name),
            libc::S_IFDIR => self.directory(fd, &found, name, path, 1),
            _ => Err(rule("must be a regular file or a directory")),
        }
    }

    /// Says that this was all.
    pub(super) fn finish(&mut self) -> Result<(), CopyError> {
        self.say(&Word::Done)?;
        self.to.flush().map_err(CopyError::Stream)
    }

    /// Says why it stops.
    pub(super) fn fail(&mut self, why: String) -> io::Result<()> {
        Word::Failed(why).write(&mut self.to)?;
        self.to.flush()
    }

    fn say(&mut self, word: &Word) -> Result<(), CopyError> {
        word.write(&mut self.to).map_err(CopyError::Stream)
    }

    fn skip(&mut self, path: &Path, why: &dyn std::fmt::Display) -> Result<(), CopyError> {
        let text = format!("{}: {why}", shown(path.as_os_str()));
        self.say(&Word::Skipped(text.clone()))?;
        self.copied.skipped.push(text);
        Ok(())
    }

    fn file(&mut self, fd: OwnedFd, found: &FileStat, name: &OsStr) -> Result<(), CopyError> {
        let size = u64::try_from(found.st_size).unwrap_or(0);
        self.say(&Word::File { mode: found.st_mode & 0o777, size, name: name.as_bytes().to_vec() })?;
        self.data(&mut File::from(fd).take(size), name, Some(size))
    }

    fn data(&mut self, from: &mut impl Read, name: &OsStr, size: Option<u64>) -> Result<(), CopyError> {
        let mut done = 0;
        (self.watch)(Progress { name, done, size });
        let mut piece = vec![0; PIECE];
        loop {
            let n = match from.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(|source| error(name, "read", source))?,
            };
            if n == 0 {
                break;
            }
            self.say(&Word::Data(piece[..n].to_vec()))?;
            done += n as u64;
            (self.watch)(Progress { name, done, size });
        }
        self.copied.files += 1;
        self.copied.bytes += done;
        self.say(&Word::End)
    }

    fn directory(
        &mut self,
        fd: OwnedFd,
        found: &FileStat,
        name: &OsStr,
        path: &Path,
        depth: usize,
    ) -> Result<(), CopyError> {
        if depth > DEPTH {
            return self.skip(path, &"too many directories in each other");
        }
        let mut dir = match Dir::from_fd(fd) {
            Ok(dir) => dir,
            Err(errno) => return self.skip(path, &errno.desc()),
        };
        self.say(&Word::Directory { mode: found.st_mode & 0o777, name: name.as_bytes().to_vec() })?;
        let mut names: Vec<CString> = Vec::new();
        for entry in dir.iter() {
            match entry {
                Ok(entry) if !matches!(entry.file_name().to_bytes(), b"." | b"..") => {
                    names.push(entry.file_name().into())
                }
                Ok(_) => {}
                Err(errno) => {
                    self.skip(path, &errno.desc())?;
                    break;
                }
            }
        }
        // The same order each time, whatever the file system's.
        names.sort_unstable();
        for name in names {
            self.entry(&dir, &name, &path.join(OsStr::from_bytes(name.to_bytes())), depth)?;
        }
        self.say(&Word::Up)
    }

    fn entry(&mut self, dir: &Dir, name: &CStr, path: &Path, depth: usize) -> Result<(), CopyError> {
        let found = match fstatat(dir.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(errno) => return self.skip(path, &errno.desc()),
        };
        match kind(&found) {
            libc::S_IFREG | libc::S_IFDIR => {}
            libc::S_IFLNK => return self.skip(path, &"is a symbolic link"),
            _ => return self.skip(path, &"is no regular file or directory"),
        }
        let opened = openat(dir.as_fd(), name, READ | OFlag::O_NOFOLLOW, Mode::empty());
        let opened = opened.and_then(|fd| fstat(&fd).map(|found| (fd, found)));
        let (fd, found) = match opened {
            Ok(opened) => opened,
            Err(errno) => return self.skip(path, &errno.desc()),
        };
        let name = OsStr::from_bytes(name.to_bytes());
        match kind(&found) {
            libc::S_IFREG => self.file(fd, &found, name),
            libc::S_IFDIR => self.directory(fd, &found, name, path, depth + 1),
            _ => self.skip(path, &"is no regular file or directory"),
        }
    }
}

/// A pipe that took the place of a file must not hold us, nor a terminal become ours.
const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC);

pub(super) fn kind(found: &FileStat) -> libc::mode_t {
    found.st_mode & libc::S_IFMT
}

fn error(path: &OsStr, step: &'static str, source: io::Error) -> CopyError {
    CopyError::Path { path: shown(path), step, source }
}
