//! Finding out what of the host goes into the image `host`, as a value; nothing is written.
//!
//! In: a root directory (the host's `/`, or a made-up one). Out: [`Survey`], every entry with what identifies its
//! state, and every path that is left out with the reason. Two equal surveys mean an equal snapshot: the kernel
//! changes the time of last change (ctime) of a file whenever its content, mode or owner changes.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{FileStat, fstat, fstatat};
use serde::{Deserialize, Serialize};

use super::rules::{self, Rule};
use super::stranger::Stranger;

/// Everybody may read, and a directory may be passed.
const FILE_BITS: u32 = 0o044;
const DIRECTORY_BITS: u32 = 0o055;

/// Why a path of the host is not in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Not everybody may read it. A directory is there, empty.
    NotWorldReadable,
    /// A link to something that not everybody may read.
    LinkToUnreadable,
    /// It belongs to this machine and not to a package.
    HostsOwn,
    /// A socket, pipe or device.
    Special,
    /// Another file system is mounted there.
    Mount,
}

/// A path of the host that is not in the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Absolute path on the host.
    pub path: PathBuf,
    /// Why.
    pub reason: Reason,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
    Link(OsString),
}

/// Something that goes into the snapshot.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Relative to the root.
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    pub(super) stat: FileStat,
}

/// What was found; directories come before what is in them.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The tree.
    pub(super) entries: Vec<Entry>,
    /// Programs to be bound over the read-only `/usr`; regular files.
    pub(super) programs: Vec<Entry>,
    pub(super) left_out: Vec<LeftOut>,
}

/// Why the host could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// A path could not be read.
    #[error("cannot look at {path} ({step})")]
    Look {
        /// The path, relative to the root.
        path: PathBuf,
        /// The system call.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The image `host` is made of one `/usr`.
    #[error(
        "/{0} is a directory of its own: the image host needs a merged /usr (Debian 12 and newer); use another image"
    )]
    NotMerged(&'static str),
}

/// How often a look-up is asked for again that the kernel could not finish.
const AGAIN: usize = 1000;

/// Opens below `at` without following links, as a stranger.
pub(super) fn open_as_stranger(
    stranger: &Stranger,
    at: impl AsFd,
    path: &Path,
    flags: OFlag,
    resolve: ResolveFlag,
) -> io::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    // Somebody renames or mounts something somewhere on the machine: the kernel cannot be sure and says to ask again
    // (openat2(2), EAGAIN).
    for _ in 0..AGAIN {
        match stranger.look(|| openat2(&at, path, how))? {
            Err(Errno::EAGAIN) => std::thread::yield_now(),
            opened => return Ok(opened?),
        }
    }
    Err(Errno::EAGAIN.into())
}

/// Whether everybody may read what this describes.
pub(super) fn is_public(stat: &FileStat) -> bool {
    let wanted = if kind_of(stat) == libc::S_IFDIR { DIRECTORY_BITS } else { FILE_BITS };
    stat.st_mode & wanted == wanted
}

fn kind_of(stat: &FileStat) -> u32 {
    stat.st_mode & libc::S_IFMT
}

/// Looks at everything the image `host` is made of, below the directory `root`.
///
/// # Errors
/// [`SurveyError`]. What is gone again in the moment it is looked at is none.
pub(super) fn survey(stranger: &Stranger, root: &OwnedFd) -> Result<Survey, SurveyError> {
    let mut walk = Walk { stranger, root, found: Survey::default(), var: 0 };
    walk.merged_links()?;
    walk.base("etc")?;
    walk.base("var")?;
    walk.programs()?;
    Ok(walk.found)
}

struct Walk<'a> {
    stranger: &'a Stranger,
    root: &'a OwnedFd,
    found: Survey,
    /// Directories taken of `/var`.
    var: usize,
}

fn error(path: &Path, step: &'static str) -> impl FnOnce(io::Error) -> SurveyError {
    move |source| SurveyError::Look { path: path.to_owned(), step, source }
}

/// Whether a path went away or became something else since its name was read; the next survey sees it.
fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ESTALE)
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

impl Walk<'_> {
    fn merged_links(&mut self) -> Result<(), SurveyError> {
        for &name in rules::MERGED {
            let path = Path::new(name);
            match fstatat(self.root, path, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(error(path, "fstatat")(errno.into())),
                Ok(stat) if kind_of(&stat) == libc::S_IFLNK => {
                    let target = readlinkat(self.root, path).map_err(|e| error(path, "readlinkat")(e.into()))?;
                    if !Path::new(&target).strip_prefix("/").unwrap_or(Path::new(&target)).starts_with("usr") {
                        return Err(SurveyError::NotMerged(name));
                    }
                    self.found.entries.push(Entry { path: path.to_owned(), kind: Kind::Link(target), stat });
                }
                Ok(_) => return Err(SurveyError::NotMerged(name)),
            }
        }
        Ok(())
    }

    /// `/etc` or `/var`, which may be file systems of their own.
    fn base(&mut self, name: &'static str) -> Result<(), SurveyError> {
        let path = Path::new(name);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let fd = open_as_stranger(self.stranger, self.root, path, flags, ResolveFlag::RESOLVE_NO_SYMLINKS);
        let fd = fd.map_err(error(path, "openat2"))?;
        let stat = fstat(&fd).map_err(|e| error(path, "fstat")(e.into()))?;
        self.found.entries.push(Entry { path: path.to_owned(), kind: Kind::Directory, stat });
        self.directory(fd, path)
    }

    fn leave_out(&mut self, path: &Path, reason: Reason) {
        self.found.left_out.push(LeftOut { path: Path::new("/").join(path), reason });
    }

    /// Everything in the directory `fd`, which a stranger has opened.
    fn directory(&mut self, fd: OwnedFd, path: &Path) -> Result<(), SurveyError> {
        let again = fd.try_clone().map_err(error(path, "dup"))?;
        let mut dir = Dir::from_fd(again).map_err(|e| error(path, "fdopendir")(e.into()))?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(|e| error(path, "getdents64")(e.into()))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        names.sort();
        for name in names {
            self.entry(&fd, &path.join(&name), &name)?;
        }
        Ok(())
    }

    fn entry(&mut self, parent: &OwnedFd, path: &Path, name: &OsStr) -> Result<(), SurveyError> {
        let stat = match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(errno) if is_gone(errno) => return Ok(()),
            Err(errno) => return Err(error(path, "fstatat")(errno.into())),
        };
        let in_var = path.starts_with("var");
        let rule = match (path.strip_prefix("etc"), path.strip_prefix("var")) {
            (Ok(inner), _) => rules::of_etc(inner),
            (_, Ok(inner)) => rules::of_var(inner),
            _ => Rule::LeaveOut,
        };
        match kind_of(&stat) {
            libc::S_IFDIR => self.found_directory(parent, path, stat, rule),
            // Of /var only the directories; naming every file would say nothing.
            libc::S_IFREG if in_var => Ok(()),
            libc::S_IFREG | libc::S_IFLNK if rule != Rule::Keep && !in_var => {
                self.leave_out(path, Reason::HostsOwn);
                Ok(())
            }
            libc::S_IFREG if !is_public(&stat) => {
                self.leave_out(path, Reason::NotWorldReadable);
                Ok(())
            }
            libc::S_IFREG => {
                self.found.entries.push(Entry { path: path.to_owned(), kind: Kind::File, stat });
                Ok(())
            }
            libc::S_IFLNK => self.found_link(parent, path, name, stat),
            _ if in_var => Ok(()),
            _ => {
                self.leave_out(path, Reason::Special);
                Ok(())
            }
        }
    }

    fn found_directory(&mut self, at: &OwnedFd, path: &Path, stat: FileStat, rule: Rule) -> Result<(), SurveyError> {
        if rule == Rule::LeaveOut {
            self.leave_out(path, Reason::HostsOwn);
            return Ok(());
        }
        if path.starts_with("var") {
            self.var += 1;
            if self.var > rules::VAR_MOST {
                self.leave_out(path, Reason::HostsOwn);
                return Ok(());
            }
        }
        self.found.entries.push(Entry { path: path.to_owned(), kind: Kind::Directory, stat });
        if rule == Rule::Empty {
            self.leave_out(path, Reason::HostsOwn);
            return Ok(());
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let name = Path::new(path.file_name().unwrap_or_default());
        // A mount in there is the host's, whatever it shows.
        let fd = open_as_stranger(self.stranger, at, name, flags, ResolveFlag::RESOLVE_NO_XDEV);
        match fd {
            Ok(fd) if is_public(&stat) => self.directory(fd, path),
            Ok(_) => {
                self.leave_out(path, Reason::NotWorldReadable);
                Ok(())
            }
            Err(source) => match errno(&source) {
                Errno::EACCES => {
                    self.leave_out(path, Reason::NotWorldReadable);
                    Ok(())
                }
                Errno::EXDEV => {
                    self.leave_out(path, Reason::Mount);
                    Ok(())
                }
                errno if is_gone(errno) => Ok(()),
                _ => Err(error(path, "openat2")(source)),
            },
        }
    }

    fn found_link(&mut self, at: &OwnedFd, path: &Path, name: &OsStr, stat: FileStat) -> Result<(), SurveyError> {
        let target = match readlinkat(at, name) {
            Ok(target) => target,
            Err(errno) if is_gone(errno) || errno == Errno::EINVAL => return Ok(()),
            Err(errno) => return Err(error(path, "readlinkat")(errno.into())),
        };
        // Followed as in a root of its own; only a place is taken, nothing is opened.
        let end = open_as_stranger(self.stranger, self.root, path, OFlag::O_PATH, ResolveFlag::RESOLVE_IN_ROOT);
        let public = match end {
            Ok(end) => {
                let stat = fstat(&end).map_err(|e| error(path, "fstat")(e.into()))?;
                is_public(&stat)
            }
            Err(source) => match errno(&source) {
                // Closed on the way there.
                Errno::EACCES => false,
                // It leads nowhere on this machine, or into a process.
                errno if is_gone(errno) => true,
                _ => return Err(error(path, "openat2")(source)),
            },
        };
        if public {
            self.found.entries.push(Entry { path: path.to_owned(), kind: Kind::Link(target), stat });
        } else {
            self.leave_out(path, Reason::LinkToUnreadable);
        }
        Ok(())
    }

    /// Programs with a set-id bit that a tenant needs, and those with file capabilities: these would be refused by
    /// the kernel in the read-only `/usr` (`EPERM` from execve when a capability is outside of the bounding set), the
    /// copies have none.
    fn programs(&mut self) -> Result<(), SurveyError> {
        for directory in rules::PROGRAM_DIRS.iter().map(Path::new) {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            let fd = open_as_stranger(self.stranger, self.root, directory, flags, ResolveFlag::RESOLVE_NO_SYMLINKS);
            let fd = match fd {
                Ok(fd) => fd,
                Err(source) if errno(&source) == Errno::ENOENT => continue,
                Err(source) => return Err(error(directory, "openat2")(source)),
            };
            let again = fd.try_clone().map_err(error(directory, "dup"))?;
            let mut names = Vec::new();
            let mut dir = Dir::from_fd(again).map_err(|e| error(directory, "fdopendir")(e.into()))?;
            for entry in dir.iter() {
                let entry = entry.map_err(|e| error(directory, "getdents64")(e.into()))?;
                // Most of it is links and ordinary programs; only these are looked at.
                if matches!(entry.file_type(), Some(nix::dir::Type::File) | None) {
                    names.push(OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
                }
            }
            names.sort();
            for name in names {
                self.program(&fd, &directory.join(&name), &name)?;
            }
        }
        Ok(())
    }

    fn program(&mut self, at: &OwnedFd, path: &Path, name: &OsStr) -> Result<(), SurveyError> {
        let stat = match fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(errno) if is_gone(errno) => return Ok(()),
            Err(errno) => return Err(error(path, "fstatat")(errno.into())),
        };
        if kind_of(&stat) != libc::S_IFREG {
            return Ok(());
        }
        let set_id = stat.st_mode & 0o6000 != 0;
        let wanted = if set_id {
            name.to_str().is_some_and(|name| rules::SET_ID.contains(&name))
        } else {
            has_capabilities(at, name)
        };
        if !wanted {
            return Ok(());
        }
        if !is_public(&stat) {
            self.leave_out(path, Reason::NotWorldReadable);
        } else {
            self.found.programs.push(Entry { path: path.to_owned(), kind: Kind::File, stat });
        }
        Ok(())
    }
}

/// Whether a program has file capabilities (the extended attribute `security.capability`).
fn has_capabilities(at: &OwnedFd, name: &OsStr) -> bool {
    use std::os::fd::AsRawFd;
    let path = Path::new("/proc/self/fd").join(at.as_raw_fd().to_string()).join(name);
    let Ok(path) = std::ffi::CString::new(path.into_os_string().into_encoded_bytes()) else { return false };
    // SAFETY: two strings that live here; no buffer, only the length is asked.
    let length = unsafe { libc::lgetxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) };
    length > 0
}

impl Survey {
    /// The state of everything, as text: equal texts, equal snapshots.
    pub(super) fn listing(&self) -> String {
        let mut text = String::new();
        for entry in self.entries.iter().chain(&self.programs) {
            let stat = &entry.stat;
            // A directory changes whenever a name in it does, and all its names are here themselves.
            let state = match &entry.kind {
                Kind::Directory => (0, 0, 0, 0),
                _ => (stat.st_size, stat.st_ino, stat.st_ctime, stat.st_ctime_nsec),
            };
            // Writing to a string cannot fail. Debug quotes line breaks and bytes that are no text.
            let _ = writeln!(
                text,
                "{:?} {:o} {} {} {:?} {:?}",
                entry.path, stat.st_mode, stat.st_uid, stat.st_gid, state, entry.kind
            );
        }
        text
    }
}
