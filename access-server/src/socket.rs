//! The Unix socket of the API: made whole before anybody can see it, replaced only when nobody answers on it.
//!
//! Binaries are static, so there is no name service: the group is looked up in `/etc/group` itself.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, chown};
use thiserror::Error;
use tracing::info;

/// The group whose members may speak to the daemons, when the host has it.
pub const GROUP: &str = "tenantd";

/// Why the API socket could not be made.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Somebody answers on this path already.
    #[error("another program answers on the socket {}", .path.display())]
    Answered {
        /// The path of the socket.
        path: PathBuf,
    },
    /// There is something at this path that is no socket.
    #[error("{} is there and is not a socket; not replaced", .path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// One step of making it failed.
    #[error("cannot {step} for the socket {}", .path.display())]
    Make {
        /// The step that failed.
        step: &'static str,
        /// The path of the socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Listens on `path`, mode 0660, owned by root and by the group [`GROUP`] if the host has it.
pub fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |step| move |source| SocketError::Make { step, path: path.to_owned(), source };
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(failed("make the directory"))?;
    }
    refuse_living(path)?;
    // Bound under another name and moved into place: no moment in which the socket is there with wrong rights, and
    // a client either reaches the old daemon or the new one.
    let fresh = path.with_extension(format!("new.{}", std::process::id()));
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh).map_err(failed("bind"))?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o660)).map_err(failed("set the mode"))?;
    match group_id(&std::fs::read_to_string("/etc/group").unwrap_or_default(), GROUP) {
        Some(gid) => {
            chown(&fresh, None, Some(Gid::from_raw(gid))).map_err(|errno| failed("set the group")(errno.into()))?;
        }
        None => info!(group = GROUP, "the host has no such group: the socket is for root only"),
    }
    std::fs::rename(&fresh, path).map_err(failed("move into place"))?;
    listener.set_nonblocking(true).map_err(failed("set non-blocking mode"))?;
    Ok(listener)
}

fn refuse_living(path: &Path) -> Result<(), SocketError> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(SocketError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::Answered { path: path.to_owned() }),
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
        Err(source) => Err(SocketError::Make { step: "probe the old one", path: path.to_owned(), source }),
    }
}

/// The number of the group `name` in the text of an `/etc/group` (group(5): name:password:number:members).
pub fn group_id(group_file: &str, name: &str) -> Option<u32> {
    group_file.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// The name of the group numbered `gid` in the text of an `/etc/group`.
pub fn group_name(group_file: &str, gid: u32) -> Option<String> {
    group_file.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const GROUPS: &str = "root:x:0:\ntenantd:x:991:alice,bob\nbroken\ntenantd2:x:5:\n";

    #[test]
    fn groups_are_read_without_a_name_service() {
        assert_eq!(group_id(GROUPS, "tenantd"), Some(991));
        assert_eq!(group_id(GROUPS, "nobody"), None);
        assert_eq!(group_name(GROUPS, 991).as_deref(), Some("tenantd"));
        assert_eq!(group_name(GROUPS, 992), None);
    }

    #[test]
    fn a_living_socket_is_not_replaced_and_a_stale_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/api.sock");
        let first = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(listen(&path), Err(SocketError::Answered { .. })));
        drop(first);
        listen(&path).unwrap();
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing left beside it");
    }

    #[test]
    fn a_file_in_the_way_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(listen(&path), Err(SocketError::NotASocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }
}
