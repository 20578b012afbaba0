//! The side that writes files. It believes nothing: every name is one part of a path, nothing is followed below the
//! place that the operator has named, and a file gets permission bits only.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::send::{DEPTH, kind};
use super::wire::{ENDLESS, Word};
use super::{Copied, CopyError, Progress, Watcher, shown};

/// Where what comes goes.
enum Place {
    /// Into this directory, by its own name.
    Below(OwnedFd),
    /// Into this directory, by this name.
    As(OwnedFd, CString),
    /// To standard output.
    Stream,
}

pub(super) struct Receiver {
    place: Place,
    /// The path that was named, for messages.
    named: String,
    umask: Mode,
    /// Directories that are being filled: themselves, and their mode when they are new.
    open: Vec<(OwnedFd, Option<Mode>)>,
    copied: Copied,
}

impl Receiver {
    pub(super) fn to_stream() -> Self {
        Self::new(Place::Stream, "-".to_owned())
    }

    /// At a path that the operator has named. Of several files it must be a directory, and also when it ends with `/`.
    pub(super) fn at(path: &Path, many: bool) -> Result<Self, CopyError> {
        let named = shown(path.as_os_str());
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let failed = |step| {
            let path = named.clone();
            move |errno: Errno| CopyError::Path { path, step, source: errno.into() }
        };
        let slash = path.as_os_str().as_bytes().ends_with(b"/");
        match openat(AT_FDCWD, path, flags, Mode::empty()) {
            Ok(dir) => return Ok(Self::new(Place::Below(dir), named)),
            Err(Errno::ENOENT | Errno::ENOTDIR) if !many && !slash => {}
            Err(errno) => return Err(failed("open the directory")(errno)),
        }
        let rule = CopyError::Rule { path: named.clone(), rule: "must end with a name" };
        let name = path.file_name().ok_or(rule)?;
        let name = CString::new(name.as_bytes()).map_err(|_| stream())?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parent = openat(AT_FDCWD, parent, flags, Mode::empty()).map_err(failed("open the directory around it"))?;
        Ok(Self::new(Place::As(parent, name), named))
    }

    fn new(place: Place, named: String) -> Self {
        let umask = nix::sys::stat::umask(Mode::empty());
        nix::sys::stat::umask(umask);
        Self { place, named, umask, open: Vec::new(), copied: Copied::default() }
    }

    /// Writes what comes until everything was said.
    pub(super) fn take(&mut self, from: impl Read, watch: Watcher<'_>) -> Result<Copied, CopyError> {
        let mut from = BufReader::new(from);
        loop {
            match Word::read(&mut from).map_err(CopyError::Stream)? {
                Word::Directory { mode, name } => self.directory(mode, &name)?,
                Word::Up => self.up()?,
                Word::File { mode, size, name } => self.file(&mut from, (mode, size, &name), watch)?,
                Word::Skipped(text) => self.copied.skipped.push(shown(OsStr::new(&text))),
                Word::Failed(text) => return Err(CopyError::There(shown(OsStr::new(&text)))),
                Word::Done if self.open.is_empty() => return Ok(std::mem::take(&mut self.copied)),
                Word::Data(_) | Word::End | Word::Done => return Err(stream()),
            }
        }
    }

    /// The directory, the name in it, and whether a link there is the operator's own wish.
    fn target(&self, name: &[u8]) -> Result<(BorrowedFd<'_>, CString, bool), CopyError> {
        if let (None, Place::As(dir, name)) = (self.open.last(), &self.place) {
            return Ok((dir.as_fd(), name.clone(), true));
        }
        let dir = match (self.open.last(), &self.place) {
            (Some((dir, _)), _) | (None, Place::Below(dir)) => dir.as_fd(),
            _ => return Err(stream()),
        };
        if name.is_empty() && self.open.is_empty() {
            return Err(CopyError::Rule {
                path: self.named.clone(),
                rule: "is a directory: must be the name of a file",
            });
        }
        let plain = !matches!(name, b"" | b"." | b"..") && name.len() <= 255 && !name.contains(&b'/');
        let name = CString::new(name).ok().filter(|_| plain).ok_or_else(stream)?;
        Ok((dir, name, false))
    }

    fn directory(&mut self, mode: u32, name: &[u8]) -> Result<(), CopyError> {
        if self.open.len() >= DEPTH {
            return Err(stream());
        }
        if matches!(self.place, Place::Stream) {
            return Err(CopyError::Rule { path: self.named.clone(), rule: "must be a directory to copy one" });
        }
        let (dir, name, follow) = self.target(name)?;
        let failed = |step| failed(&name, step);
        let (new, follow) = match mkdirat(dir, name.as_c_str(), Mode::S_IRWXU) {
            Ok(()) => (Some(self.permitted(mode)), false),
            Err(Errno::EEXIST) => (None, follow),
            Err(errno) => return Err(failed("make the directory")(errno)),
        };
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | link_flag(follow);
        let opened = openat(dir, name.as_c_str(), flags, Mode::empty()).map_err(failed("open the directory"))?;
        self.open.push((opened, new));
        Ok(())
    }

    /// Its mode comes last: it may forbid to fill it.
    fn up(&mut self) -> Result<(), CopyError> {
        let (dir, mode) = self.open.pop().ok_or_else(stream)?;
        match mode {
            Some(mode) => fchmod(&dir, mode).map_err(failed(c"directory", "set the mode")),
            None => Ok(()),
        }
    }

    fn permitted(&self, mode: u32) -> Mode {
        Mode::from_bits_truncate(mode & 0o777) & !self.umask
    }

    fn file(
        &mut self,
        from: &mut impl Read,
        (mode, size, name): (u32, u64, &[u8]),
        watch: Watcher<'_>,
    ) -> Result<(), CopyError> {
        if matches!(self.place, Place::Stream) {
            let name = OsStr::from_bytes(name).to_owned();
            return self.data(from, (&name, size), &mut io::stdout().lock(), watch);
        }
        let (dir, target, follow) = self.target(name)?;
        let dir = dir.try_clone_to_owned().map_err(CopyError::Stream)?;
        let common = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let fresh = common | OFlag::O_CREAT | OFlag::O_EXCL;
        let (fd, new) = match openat(&dir, target.as_c_str(), fresh, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(fd) => (fd, true),
            Err(Errno::EEXIST) => {
                let fd = openat(&dir, target.as_c_str(), common | link_flag(follow), Mode::empty());
                (fd.map_err(failed(&target, "open"))?, false)
            }
            Err(errno) => return Err(failed(&target, "make")(errno)),
        };
        let found = fstat(&fd).map_err(failed(&target, "look at it"))?;
        if kind(&found) != libc::S_IFREG {
            let path = shown(OsStr::from_bytes(target.to_bytes()));
            return Err(CopyError::Rule { path, rule: "is there and is no regular file" });
        }
        let shown_name = OsStr::from_bytes(target.to_bytes());
        let mut file = Holes(File::from(fd));
        let written = file.0.set_len(0).map_err(|source| path(&target, "empty it", source));
        let written = written.and_then(|()| self.data(from, (shown_name, size), &mut file, watch));
        let written = written.and_then(|()| {
            let end = file.0.stream_position().and_then(|end| file.0.set_len(end));
            end.map_err(|source| path(&target, "write", source))?;
            if new { fchmod(&file.0, self.permitted(mode)).map_err(failed(&target, "set the mode")) } else { Ok(()) }
        });
        if written.is_err() && new {
            // Half a file is worse than none.
            let _ = unlinkat(&dir, target.as_c_str(), UnlinkatFlags::NoRemoveDir);
        }
        written
    }

    fn data(
        &mut self,
        from: &mut impl Read,
        (name, size): (&OsStr, u64),
        to: &mut impl Write,
        watch: Watcher<'_>,
    ) -> Result<(), CopyError> {
        let failed = |source| CopyError::Path { path: shown(name), step: "write", source };
        let known = (size != ENDLESS).then_some(size);
        let mut done: u64 = 0;
        loop {
            match Word::read(from).map_err(CopyError::Stream)? {
                Word::Data(data) => {
                    done += data.len() as u64;
                    if done > size {
                        return Err(stream());
                    }
                    to.write_all(&data).map_err(failed)?;
                    watch(Progress { name, done, size: known });
                }
                Word::End => break,
                Word::Failed(text) => return Err(CopyError::There(shown(OsStr::new(&text)))),
                _ => return Err(stream()),
            }
        }
        to.flush().map_err(failed)?;
        self.copied.files += 1;
        self.copied.bytes += done;
        Ok(())
    }
}

/// A file in which zeros become holes: what is large only in name must not fill a disk.
struct Holes(File);

impl Write for Holes {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if data.len() >= 4096 && data.iter().all(|byte| *byte == 0) {
            self.0.seek(SeekFrom::Current(i64::try_from(data.len()).map_err(io::Error::other)?))?;
            return Ok(data.len());
        }
        self.0.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn link_flag(follow: bool) -> OFlag {
    if follow { OFlag::empty() } else { OFlag::O_NOFOLLOW }
}

fn stream() -> CopyError {
    CopyError::Stream(io::ErrorKind::InvalidData.into())
}

fn path(name: &std::ffi::CStr, step: &'static str, source: io::Error) -> CopyError {
    CopyError::Path { path: shown(OsStr::from_bytes(name.to_bytes())), step, source }
}

fn failed(name: &std::ffi::CStr, step: &'static str) -> impl Fn(Errno) -> CopyError {
    move |errno| path(name, step, errno.into())
}
