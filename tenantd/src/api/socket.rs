//! The Unix socket of the API: who may open it, who is let in, and when an old one is replaced.
//!
//! Binaries are static, so there is no name service: the group is looked up in `/etc/group` itself.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, FromRawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::{Gid, Uid, chown};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;
use tracing::info;

/// The group whose members may speak to the daemon, when the host has it.
pub const GROUP: &str = "tenantd";

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody answers there.
    #[error("socket: {path:?} refused: process {pid} ({program}) answers on it already")]
    Answered {
        /// The socket.
        path: PathBuf,
        /// Who listens.
        pid: i32,
        /// The name of its program.
        program: String,
    },
    /// The service manager passed on something else.
    #[error(
        "socket: {path:?} refused: the service manager passed on {found}; ListenStream= of the socket unit must be the daemon's --socket"
    )]
    Passed {
        /// The socket that the daemon is to listen on.
        path: PathBuf,
        /// What was passed.
        found: String,
    },
    /// Something else than a socket is there.
    #[error("socket: {path:?} refused: is there and is no socket; not replaced")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// A step of making it failed.
    #[error("socket: {path:?}: cannot {step}")]
    Make {
        /// What was tried.
        step: &'static str,
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The listener failed.
    #[error("the listener failed")]
    Listen(#[source] io::Error),
}

/// Listens on `path`: mode 0660 for root and [`GROUP`], or 0600 when the host has no such group. Makes the directory.
///
/// # Errors
/// [`ServeError`]; a socket on which somebody answers is left alone.
pub async fn bind(path: &Path) -> Result<UnixListener, ServeError> {
    let failed = |step| move |source| ServeError::Make { step, path: path.to_owned(), source };
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).map_err(failed("make the directory"))?;
    // Two daemons that start at once must not both find the socket stale.
    let turn = File::open(dir).map_err(failed("open the directory"))?;
    turn.lock().map_err(failed("lock the directory"))?;
    refuse_living(path)?;
    // Made under another name and moved into place: a client finds the socket of the daemon before or this one, at no
    // moment none, and never one with wrong rights.
    // Short: a socket's path is, and one at a time is made here.
    let fresh = dir.join(".new");
    remove(&fresh).map_err(failed("remove a leftover"))?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed("open"))?;
    // The mode of a socket before bind is the mode its file is made with: at no moment is it open to others.
    nix::sys::stat::fchmod(socket.as_fd(), nix::sys::stat::Mode::from_bits_truncate(0o600))
        .map_err(|e| failed("set the mode")(e.into()))?;
    socket.bind(&SockAddr::unix(&fresh).map_err(failed("name"))?).map_err(failed("bind"))?;
    match Gate::of_this_host().group {
        Some(gid) => {
            chown(&fresh, None, Some(Gid::from_raw(gid))).map_err(|e| failed("set the group")(e.into()))?;
            fs::set_permissions(&fresh, fs::Permissions::from_mode(0o660)).map_err(failed("set the mode"))?;
        }
        None => info!(group = GROUP, "the host has no such group: the socket is for root only"),
    }
    socket.listen(BACKLOG).map_err(failed("listen"))?;
    socket.set_nonblocking(true).map_err(failed("make non-blocking"))?;
    fs::rename(&fresh, path).map_err(failed("move into place"))?;
    UnixListener::from_std(socket.into()).map_err(failed("watch"))
}

/// The name of the API's socket among several that a service manager passes on (`FileDescriptorName=`).
const PASSED_NAME: &str = "api";

/// The listening socket that a service manager made and passed on (sd_listen_fds(3)); none when it passed none. Its mode
/// and group are the unit's to say.
///
/// # Errors
/// [`ServeError::Passed`] when what was passed is not a socket that listens at `path`.
pub fn inherited(path: &Path) -> Result<Option<UnixListener>, ServeError> {
    let failed = |step| move |source| ServeError::Make { step, path: path.to_owned(), source };
    let passed: Vec<_> =
        sd_notify::listen_fds_with_names().map_err(failed("take what the service manager passed"))?.collect();
    let refused = |found: String| ServeError::Passed { path: path.to_owned(), found };
    let fd = match passed.as_slice() {
        [] => return Ok(None),
        [(fd, _)] => *fd,
        several => match several.iter().find(|(_, name)| name == PASSED_NAME) {
            Some((fd, _)) => *fd,
            None => return Err(refused(format!("{} sockets, none of them named {PASSED_NAME}", several.len()))),
        },
    };
    // SAFETY: the service manager opened it for us before we began, and this is the only place that takes it.
    let socket = unsafe { Socket::from_raw_fd(fd) };
    let address = socket.local_addr().map_err(failed("look at what the service manager passed"))?;
    let stream = socket.r#type().is_ok_and(|kind| kind == Type::STREAM);
    if !stream || !socket.is_listener().unwrap_or(false) {
        return Err(refused("something that is no listening stream socket".into()));
    }
    match address.as_pathname() {
        Some(found) if found == path => {}
        Some(found) => return Err(refused(format!("the socket {}", found.display()))),
        None => return Err(refused("a socket without a path".into())),
    }
    socket.set_nonblocking(true).map_err(failed("make non-blocking"))?;
    info!("listening on the socket that the service manager made");
    UnixListener::from_std(socket.into()).map(Some).map_err(failed("watch"))
}

fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

fn refuse_living(path: &Path) -> Result<(), ServeError> {
    let failed = |step| move |source| ServeError::Make { step, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed("look at the old one")(e)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(ServeError::NotASocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(stream) => {
            // For a listener the kernel tells who called listen().
            let pid = getsockopt(&stream, PeerCredentials).map_or(0, |c| c.pid());
            let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
            Err(ServeError::Answered { path: path.to_owned(), pid, program })
        }
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(e) => Err(failed("ask the old one")(e)),
    }
}

/// Who sits at the other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// 0: not known.
    pub(crate) pid: u32,
    pub(crate) groups: Vec<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self::of(stream.io())
    }
}

impl Peer {
    /// What the kernel says of the peer, as it was when it connected.
    pub(crate) fn of(stream: &tokio::net::UnixStream) -> Self {
        // No credentials cannot happen on a Unix socket; if it does, this is nobody.
        let nobody = (u32::MAX, u32::MAX, None);
        let (uid, gid, pid) = stream.peer_cred().map_or(nobody, |c| (c.uid(), c.gid(), c.pid()));
        let pid = pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
        Self { uid, gid, pid, groups: peer_groups(stream).unwrap_or_default() }
    }
}

/// Supplementary groups of the peer (`SO_PEERGROUPS`, Linux 4.13; nix has no wrapper).
fn peer_groups(stream: &tokio::net::UnixStream) -> io::Result<Vec<u32>> {
    use std::os::fd::AsRawFd;
    let mut groups = vec![0_u32; 64];
    loop {
        let mut len = libc::socklen_t::try_from(groups.len() * size_of::<u32>()).unwrap_or(libc::socklen_t::MAX);
        // SAFETY: `groups` is writable for `len` bytes and both outlive the call; gid_t is u32 on Linux.
        let done = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let count = len as usize / size_of::<u32>();
        if done == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // Too short: the kernel has written the length it needs.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// Who is let in: root, the daemon's own user, members of the group.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    own_uid: u32,
    group: Option<u32>,
}

impl Gate {
    pub(crate) fn of_this_host() -> Self {
        let groups = fs::read_to_string("/etc/group").unwrap_or_default();
        Self { own_uid: Uid::effective().as_raw(), group: group_id(&groups, GROUP) }
    }

    pub(crate) fn admits(&self, peer: &Peer) -> bool {
        let member = |gid: u32| peer.gid == gid || peer.groups.contains(&gid);
        peer.uid == 0 || peer.uid == self.own_uid || self.group.is_some_and(member)
    }

    pub(crate) fn rule(&self) -> String {
        match self.group {
            Some(gid) => format!("only root and members of the group {GROUP} (gid {gid}) may speak to this daemon"),
            None => format!("only root may speak to this daemon: the host has no group {GROUP}"),
        }
    }
}

/// The number of the group `name` in the text of `/etc/group` (group(5): name:password:number:members).
fn group_id(file: &str, name: &str) -> Option<u32> {
    file.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn groups_are_read_without_a_name_service() {
        let file = "root:x:0:\ntenantd:x:991:alice,bob\nbroken\ntenantd2:x:5:\n";
        assert_eq!(group_id(file, "tenantd"), Some(991));
        assert_eq!(group_id(file, "tenant"), None);
        assert_eq!(group_id(file, "broken"), None);
    }

    #[test]
    fn the_gate_admits_root_itself_and_members() {
        let gate = Gate { own_uid: 7, group: Some(991) };
        let peer = |uid, gid, groups: &[u32]| Peer { uid, gid, pid: 1, groups: groups.to_vec() };
        assert!(gate.admits(&peer(0, 0, &[])));
        assert!(gate.admits(&peer(7, 7, &[])));
        assert!(gate.admits(&peer(1000, 991, &[])));
        assert!(gate.admits(&peer(1000, 1000, &[4, 991])));
        assert!(!gate.admits(&peer(1000, 1000, &[4])));
        assert!(!Gate { own_uid: 0, group: None }.admits(&peer(1000, 991, &[991])));
    }

    #[tokio::test]
    async fn supplementary_groups_of_a_peer_are_read() {
        let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
        let expected: Vec<u32> = nix::unistd::getgroups().unwrap().into_iter().map(Gid::as_raw).collect();
        assert_eq!(peer_groups(&ours).unwrap(), expected);
    }

    #[tokio::test]
    async fn the_listener_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/api.sock");
        let first = bind(&path).await.unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let expected = if Gate::of_this_host().group.is_some() { 0o660 } else { 0o600 };
        assert_eq!(mode, expected);
        match bind(&path).await {
            Err(ServeError::Answered { pid, .. }) => assert_eq!(u32::try_from(pid).unwrap(), std::process::id()),
            other => panic!("{other:?}"),
        }
        drop(first);
        bind(&path).await.expect("nobody answers: replaced");
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        fs::write(&path, "mine").unwrap();
        assert!(matches!(bind(&path).await, Err(ServeError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
