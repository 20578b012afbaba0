//! The directories and files of a service, made in the tenant's own root before each start.
//!
//! The tree belongs to the tenant, who may have put links anywhere. Links in the way to a file are followed as the
//! tenant's own programs follow them, but never the ones of `/proc` that stand for init's own descriptors
//! (`RESOLVE_NO_MAGICLINKS`, Linux 5.6); a link at the place itself is replaced. Nothing is opened that could block.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use tenant_init::protocol::{Directory, Refusal, RefusalKind, ServiceFile, ServiceSpec};

use crate::users::Users;

/// Permissions of directories and files that name none.
const PLAIN: (u32, u32) = (0o755, 0o644);

/// Owner and permissions.
struct Rights {
    owner: (u32, u32),
    mode: u32,
}

/// Makes everything a service asks for.
///
/// # Errors
/// A refusal that names the path, or the owner that the tenant does not have.
pub(crate) fn make(spec: &ServiceSpec, users: &Users) -> Result<(), Refusal> {
    let rights = |user: &Option<String>, group: &Option<String>, mode: u32| {
        let (uid, gid) = users.owner(user.as_deref(), group.as_deref())?;
        Ok(Rights { owner: (uid, gid), mode })
    };
    for Directory { path, mode, user, group } in &spec.directories {
        let rights = rights(user, group, mode.unwrap_or(PLAIN.0))?;
        directory(path, &rights).map_err(|error| failed("directories", path, &error))?;
    }
    for file in &spec.files {
        let rights = rights(&file.user, &file.group, file.mode.unwrap_or(PLAIN.1))?;
        write(file, &rights).map_err(|error| failed("files", &file.path, &error))?;
    }
    Ok(())
}

fn failed(field: &str, path: &str, error: &io::Error) -> Refusal {
    Refusal::new(RefusalKind::Failed, field, path, format!("cannot make it: {error}"))
}

fn directory(path: &str, rights: &Rights) -> io::Result<()> {
    let fd = walk(path)?;
    give(&fd, rights)
}

fn write(file: &ServiceFile, rights: &Rights) -> io::Result<()> {
    let (parent, name) = file.path.rsplit_once('/').ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let parent = if parent.is_empty() { open("/")? } else { walk(parent)? };
    let at = parent.as_raw_fd();
    let name = CString::new(name)?;
    if file.keep && exists(at, &name)? {
        return Ok(());
    }
    // One name for all: init makes one file at a time, and what a killed one left behind is in nobody's way.
    let temporary = c".tenant-init.new";
    // SAFETY: plain system calls with live paths.
    let fresh = unsafe {
        libc::unlinkat(at, temporary.as_ptr(), 0);
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        OwnedFd::from_raw_fd(check(libc::openat(at, temporary.as_ptr(), flags, 0o600))?)
    };
    let mut fresh = File::from(fresh);
    let finish = || -> io::Result<()> {
        fresh.write_all(file.content.as_bytes())?;
        give(&fresh.into(), rights)?;
        // SAFETY: as above.
        check(unsafe { libc::renameat(at, temporary.as_ptr(), at, name.as_ptr()) }).map(drop)
    };
    finish().inspect_err(|_| {
        // SAFETY: as above.
        unsafe { libc::unlinkat(at, temporary.as_ptr(), 0) };
    })
}

/// Opens a directory and makes what is missing on the way.
fn walk(path: &str) -> io::Result<OwnedFd> {
    match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        done => return done,
    }
    let mut at = open("/")?;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let name = CString::new(part)?;
        at = match open_at(at.as_raw_fd(), &name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // SAFETY: plain system call with a live path.
                check(unsafe { libc::mkdirat(at.as_raw_fd(), name.as_ptr(), PLAIN.0) })?;
                open_at(at.as_raw_fd(), &name)?
            }
            done => done?,
        };
    }
    Ok(at)
}

fn open(path: &str) -> io::Result<OwnedFd> {
    open_at(libc::AT_FDCWD, &CString::new(path)?)
}

fn open_at(at: RawFd, path: &CString) -> io::Result<OwnedFd> {
    // SAFETY: all zero is a valid value of this plain structure.
    let mut how = unsafe { std::mem::zeroed::<libc::open_how>() };
    how.flags = (libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;
    how.resolve = libc::RESOLVE_NO_MAGICLINKS;
    let size = std::mem::size_of::<libc::open_how>();
    // SAFETY: plain system call with a live path and structure.
    let fd = unsafe { libc::syscall(libc::SYS_openat2, at, path.as_ptr(), &how, size) };
    let fd = check(i32::try_from(fd).map_err(io::Error::other)?)?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn give(fd: &OwnedFd, rights: &Rights) -> io::Result<()> {
    // The owner first: changing it clears the set-id bits.
    // SAFETY: plain system calls on a descriptor that lives here.
    unsafe {
        check(libc::fchown(fd.as_raw_fd(), rights.owner.0, rights.owner.1))?;
        check(libc::fchmod(fd.as_raw_fd(), rights.mode)).map(drop)
    }
}

fn exists(at: RawFd, name: &CString) -> io::Result<bool> {
    // SAFETY: plain system call; the structure lives here and is not read.
    let result = check(unsafe {
        let mut about = std::mem::zeroed::<libc::stat>();
        libc::fstatat(at, name.as_ptr(), &mut about, libc::AT_SYMLINK_NOFOLLOW)
    });
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    /// Makes things as whoever runs the test.
    fn make_as_us(spec: &ServiceSpec) -> Result<(), Refusal> {
        let rights = |mode| {
            // SAFETY: plain system calls.
            let owner = unsafe { (libc::geteuid(), libc::getegid()) };
            Rights { owner, mode }
        };
        for one in &spec.directories {
            directory(&one.path, &rights(one.mode.unwrap())).map_err(|e| failed("directories", &one.path, &e))?;
        }
        for file in &spec.files {
            write(file, &rights(file.mode.unwrap())).map_err(|e| failed("files", &file.path, &e))?;
        }
        Ok(())
    }

    fn file(path: &std::path::Path, content: &str, keep: bool) -> ServiceSpec {
        let path = path.to_str().unwrap().to_owned();
        let file = ServiceFile { path, content: content.into(), mode: Some(0o640), user: None, group: None, keep };
        ServiceSpec { files: vec![file], ..ServiceSpec::default() }
    }

    #[test]
    fn files_are_replaced_whole_and_links_at_their_place_are_not_followed() {
        let room = std::env::temp_dir().join(format!("tenant-init-files-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&room);
        let path = room.join("etc/x/y.conf");
        make_as_us(&file(&path, "one", false)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        let first = std::fs::metadata(&path).unwrap().ino();
        make_as_us(&file(&path, "two", true)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one", "it is kept");
        make_as_us(&file(&path, "two", false)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_ne!(std::fs::metadata(&path).unwrap().ino(), first);

        let victim = room.join("victim");
        std::fs::write(&victim, "mine").unwrap();
        std::fs::remove_file(&path).unwrap();
        symlink(&victim, &path).unwrap();
        make_as_us(&file(&path, "three", true)).unwrap();
        assert!(path.is_symlink(), "a link is something that is there");
        make_as_us(&file(&path, "three", false)).unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three");
        // The temporary name is no way out either.
        symlink(&victim, room.join("etc/x/.tenant-init.new")).unwrap();
        make_as_us(&file(&path, "four", false)).unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine");
        assert_eq!(std::fs::read_dir(room.join("etc/x")).unwrap().count(), 1, "nothing is left behind");

        // Ordinary links on the way are the tenant's own; those to descriptors of ours are not.
        symlink(room.join("etc"), room.join("ordinary")).unwrap();
        make_as_us(&file(&room.join("ordinary/x/z"), "z", false)).unwrap();
        assert!(room.join("etc/x/z").exists());
        let held = File::open(&room).unwrap();
        let magic = format!("/proc/self/fd/{}", held.as_raw_fd());
        symlink(&magic, room.join("magic")).unwrap();
        for bad in [room.join("magic/out"), std::path::PathBuf::from(format!("{magic}/out"))] {
            let refusal = make_as_us(&file(&bad, "out", false)).unwrap_err();
            assert_eq!((refusal.kind, refusal.field.as_str()), (RefusalKind::Failed, "files"));
        }
        assert!(!room.join("out").exists());

        let path = room.join("var/lib/deep");
        let one = Directory { path: path.to_str().unwrap().into(), mode: Some(0o2750), user: None, group: None };
        make_as_us(&ServiceSpec { directories: vec![one], ..ServiceSpec::default() }).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o2750);
        // A file where a directory has to be is an error that names the path.
        let refusal = make_as_us(&file(&victim.join("x"), "", false)).unwrap_err();
        assert_eq!(refusal.value, victim.join("x").to_str().unwrap());
        std::fs::remove_dir_all(&room).unwrap();
    }
}
