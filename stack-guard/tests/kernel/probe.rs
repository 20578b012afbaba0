//! A process that does as it is told, a word line at a time, and says what the kernel answered: this program, started
//! again. It becomes another user, joins cgroups and namespaces, makes sockets and uses them.

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use nix::unistd::{Gid, Uid};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::uring;
use crate::world::Netns;

/// Set where this program shall be a probe.
const ASKED: &str = "STACK_GUARD_PROBE";

/// The probe's end of the line.
const LINE: RawFd = 3;

/// What the kernel answered.
pub(crate) type Answer = Result<(), Errno>;

/// A running probe; ends with its value.
pub(crate) struct Probe {
    child: Child,
    line: OwnedFd,
}

fn say(line: &OwnedFd, text: &str, fd: Option<RawFd>) {
    let fds: Vec<RawFd> = fd.into_iter().collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    sendmsg::<()>(line.as_raw_fd(), &[IoSlice::new(text.as_bytes())], control, MsgFlags::empty(), None).unwrap();
}

/// None: the other end is closed.
fn hear(line: &OwnedFd) -> Option<(String, Option<OwnedFd>)> {
    let mut bytes = [0; 4096];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(line.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty()).ok()?;
    let fd = message.cmsgs().unwrap().find_map(|control| match control {
        // SAFETY: a descriptor that just arrived, and nobody else's.
        ControlMessageOwned::ScmRights(fds) => fds.first().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => None,
    });
    let length = message.bytes;
    (length > 0).then(|| (String::from_utf8_lossy(&bytes[..length]).into_owned(), fd))
}

impl Probe {
    /// In a cgroup from its first instruction on; root, in the calling thread's namespaces.
    pub(crate) fn start(cgroup: &Path) -> Self {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let procs = std::fs::OpenOptions::new().write(true).open(cgroup.join("cgroup.procs")).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(ASKED, "1");
        // SAFETY: prctl(2), write(2) and dup2(2), which are async-signal-safe, on descriptors that live as long.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                nix::unistd::write(&procs, b"0")?;
                if libc::dup2(theirs.as_raw_fd(), LINE) != LINE {
                    return Err(std::io::Error::last_os_error());
                }
                // dup2 of a descriptor onto itself leaves it to be closed by exec.
                libc::fcntl(LINE, libc::F_SETFD, 0);
                Ok(())
            });
        }
        Self { child: command.spawn().unwrap(), line: ours }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn ask(&self, words: &str, fd: Option<RawFd>) -> (Answer, Option<OwnedFd>) {
        say(&self.line, words, fd);
        let (answer, fd) = hear(&self.line).unwrap_or_else(|| panic!("the probe ended at: {words}"));
        let number = answer.parse().unwrap_or_else(|_| panic!("{words}: {answer}"));
        (if number == 0 { Ok(()) } else { Err(Errno::from_raw(number)) }, fd)
    }

    /// What the kernel answers to it.
    pub(crate) fn tries(&self, words: &str) -> Answer {
        self.ask(words, None).0
    }

    /// What must succeed.
    pub(crate) fn does(&self, words: &str) {
        let answer = self.tries(words);
        assert_eq!(answer, Ok(()), "{words}");
    }

    /// Joins a cgroup, moved by the test.
    pub(crate) fn join(&self, cgroup: &Path) {
        std::fs::write(cgroup.join("cgroup.procs"), self.pid().to_string()).unwrap();
    }

    pub(crate) fn enter(&self, netns: &Netns) {
        self.does(&format!("netns {}", netns.path()));
    }

    /// Hands a socket over to another probe.
    pub(crate) fn passes(&self, name: &str, to: &Probe) {
        let (answer, fd) = self.ask(&format!("pass {name}"), None);
        assert_eq!(answer, Ok(()));
        let fd = fd.unwrap();
        let (answer, _) = to.ask(&format!("take {name}"), Some(fd.as_fd().as_raw_fd()));
        assert_eq!(answer, Ok(()));
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // Only this child; it may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Is the probe instead of the tests when this process was started for it.
pub(crate) fn when_asked() -> Option<ExitCode> {
    std::env::var_os(ASKED)?;
    // SAFETY: the descriptor the starting process left here.
    let line = unsafe { OwnedFd::from_raw_fd(LINE) };
    let mut sockets = BTreeMap::new();
    while let Some((words, fd)) = hear(&line) {
        let words: Vec<&str> = words.split(' ').collect();
        let answer = obey(&words, fd, &mut sockets);
        let number = match answer {
            Ok(()) => 0,
            Err(e) => e.raw_os_error().unwrap_or(libc::EPROTO),
        };
        let passed = match words[..] {
            ["pass", name] => Some(sockets[name].as_raw_fd()),
            _ => None,
        };
        say(&line, &number.to_string(), passed);
    }
    Some(ExitCode::SUCCESS)
}

fn kind(words: &[&str]) -> (Domain, Type, Option<Protocol>) {
    let domain = if words[0] == "v6" { Domain::IPV6 } else { Domain::IPV4 };
    match words[1] {
        "tcp" => (domain, Type::STREAM, None),
        "udp" => (domain, Type::DGRAM, None),
        // 89 is OSPF: nothing on a test's loopback speaks it.
        "raw" => (domain, Type::RAW, Some(Protocol::from(89))),
        other => panic!("{other}?"),
    }
}

fn obey(words: &[&str], fd: Option<OwnedFd>, sockets: &mut BTreeMap<String, Socket>) -> std::io::Result<()> {
    let number = |text: &str| text.parse::<u32>().unwrap();
    let address = |text: &str| SockAddr::from(text.parse::<SocketAddr>().unwrap());
    // Keeps what it is not told to change.
    let keep = Gid::from_raw(u32::MAX);
    match words {
        ["netns", path] => setns(std::fs::File::open(path)?, CloneFlags::CLONE_NEWNET)?,
        ["uid", uid] => {
            let uid = Uid::from_raw(number(uid));
            nix::unistd::setresuid(uid, uid, uid)?;
        }
        ["euid", uid] => {
            nix::unistd::setresuid(Uid::from_raw(u32::MAX), Uid::from_raw(number(uid)), Uid::from_raw(u32::MAX))?
        }
        ["rgid", gid] => nix::unistd::setresgid(Gid::from_raw(number(gid)), keep, keep)?,
        ["egid", gid] => nix::unistd::setresgid(keep, Gid::from_raw(number(gid)), keep)?,
        ["sgid", gid] => nix::unistd::setresgid(keep, keep, Gid::from_raw(number(gid)))?,
        ["fsgid", gid] => drop(nix::unistd::setfsgid(Gid::from_raw(number(gid)))),
        ["groups", gids] => {
            let gids: Vec<Gid> = gids.split(',').map(|gid| Gid::from_raw(number(gid))).collect();
            nix::unistd::setgroups(&gids)?;
        }
        ["userns"] => nix::sched::unshare(CloneFlags::CLONE_NEWUSER)?,
        ["comm", name] => nix::sys::prctl::set_name(&std::ffi::CString::new(*name).unwrap())?,
        ["socket", name, what @ ..] => {
            let (domain, kind, protocol) = kind(what);
            sockets.insert((*name).to_owned(), Socket::new(domain, kind, protocol)?);
        }
        ["uring-socket", name, what @ ..] => {
            let (domain, kind, protocol) = kind(what);
            let fd = uring::socket(domain.into(), kind.into(), protocol.map_or(0, i32::from))?;
            sockets.insert((*name).to_owned(), Socket::from(fd));
        }
        ["bind", name, to] => sockets[*name].bind(&address(to))?,
        ["listen", name] => sockets[*name].listen(1024)?,
        ["connect", name, to] => sockets[*name].connect(&address(to))?,
        ["uring-connect", name, to] => uring::connect(sockets[*name].as_fd(), &address(to))?,
        ["send", name, to] => drop(sockets[*name].send_to(b"x", &address(to))?),
        ["write", name] => drop(sockets[*name].send(b"x")?),
        ["uring-send", name, to] => uring::send_to(sockets[*name].as_fd(), &address(to))?,
        ["accept", name, as_name] => {
            let (socket, _) = sockets[*name].accept()?;
            sockets.insert((*as_name).to_owned(), socket);
        }
        ["close", name] => drop(sockets.remove(*name)),
        ["pass", _] => {}
        ["take", name] => drop(sockets.insert((*name).to_owned(), Socket::from(fd.unwrap()))),
        ["open", path] => drop(std::fs::OpenOptions::new().read(true).write(true).custom_flags_nonblock().open(path)?),
        ["mknod", path, major, minor, kind] => {
            let flags = if *kind == "b" { nix::sys::stat::SFlag::S_IFBLK } else { nix::sys::stat::SFlag::S_IFCHR };
            let device = libc::makedev(number(major), number(minor));
            nix::sys::stat::mknod(*path, flags, nix::sys::stat::Mode::S_IRUSR, device)?;
        }
        _ => panic!("{words:?}?"),
    }
    Ok(())
}

/// Opening a terminal or a tape must not wait.
trait Nonblock {
    fn custom_flags_nonblock(&mut self) -> &mut Self;
}

impl Nonblock for std::fs::OpenOptions {
    fn custom_flags_nonblock(&mut self) -> &mut Self {
        use std::os::unix::fs::OpenOptionsExt as _;
        self.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
    }
}
