//! Starting the init of a tenant: one straight list of privileged steps, each one system call and one named error.
//! Also finding an init that is already there ([`adopt`]) and ending one ([`end`]).
//!
//! In: names, ids and paths. Out: a process in new net, mount, pid, ipc and uts namespaces, held by descriptors that
//! cannot come to mean another process. Nothing waits for init but its `execve`; whether the tenant's house is made
//! is asked with `hello` on the control socket, which takes connections before init runs.
//!
//! The caller is a program with many threads: the child shares its memory until `execve` (as `vfork` does; copying
//! the page tables of the daemon would cost more than all namespaces) and makes nothing but system calls.

pub mod bare;
mod child;
mod names;
mod slots;

use std::ffi::{CString, NulError};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use stackmap::{GidRange, StackIndex, TenantName};
use tenant_init::client::{Client, ClientError};
use tenant_init::house::{HouseSpec, IDS, Image, Layer, Share};
use tenant_init::protocol::Hello;
use tenant_init::tree;

pub use names::{resolv_conf, write_hosts, write_resolv_conf};
use slots::Slots;
pub use slots::reserve;

use crate::cgroups::Entry;
use crate::fault;

/// What an init is made from.
#[derive(Debug, Clone)]
pub struct LaunchSpec {
    /// The program `tenant-init`.
    pub init_path: PathBuf,
    /// The tenant; also its host name.
    pub name: TenantName,
    /// Index of its stack; for messages.
    pub stack: StackIndex,
    /// Its range of user and group ids; services run with the first.
    pub gids: GidRange,
    /// Where the control socket is to be, such as `/run/tenantd/main/tenants/acme.sock`.
    pub control_socket: PathBuf,
    /// Directory of the tenant's own files, such as `/var/lib/tenantd/main/tenants/acme`.
    pub state_dir: PathBuf,
    /// Name servers for its `/etc/resolv.conf`.
    pub dns: Vec<IpAddr>,
    /// Its addresses, for its `/etc/hosts`.
    pub addresses: Vec<IpNet>,
    /// What its root file system is made from.
    pub image: Image,
    /// Where what it writes goes.
    pub layer: Layer,
    /// True when it administers its own stack.
    pub network: bool,
    /// Host directory with the socket of its own API.
    pub api: Option<PathBuf>,
    /// The program `tenantd` as it shall be there.
    pub program: Option<PathBuf>,
    /// Directories it shares with others.
    pub shares: Vec<Share>,
    /// Size of its /run, and of its /tmp and /dev/shm together, bytes.
    pub scratch: u64,
}

/// A running init.
#[derive(Debug)]
pub struct Launched {
    /// Its process id in our pid namespace.
    pub pid: i32,
    /// The process itself; readable when it has ended.
    pub pidfd: OwnedFd,
    /// The tenant's stack.
    pub netns: OwnedFd,
    /// Inode number of the stack's namespace.
    pub netns_inode: u64,
}

/// Which step of the launch failed.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// An init answers on the control socket: a second one would split the tenant.
    #[error("tenant {name} already has an init on {path}")]
    Running {
        /// The tenant.
        name: TenantName,
        /// The control socket.
        path: PathBuf,
    },
    /// A directory could not be made or given to its owner.
    #[error("cannot make the directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The tenant's resolv.conf or hosts could not be written.
    #[error("cannot write the tenant's name files in {path}")]
    Names {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The log of init could not be opened.
    #[error("cannot open the log {path}")]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The control socket could not be made.
    #[error("cannot make the control socket {path} ({step})")]
    Socket {
        /// Where.
        path: PathBuf,
        /// The system call.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A path or name has a NUL character.
    #[error("a path of the launch has a NUL character")]
    Nul(#[from] NulError),
    /// A descriptor or the child's stack could not be made.
    #[error("cannot prepare the child ({step})")]
    Prepare {
        /// The system call.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The namespaces could not be made.
    #[error(
        "cannot make the namespaces of {stack} (clone; needs root and a kernel with net, mount and pid namespaces)"
    )]
    Clone {
        /// The stack.
        stack: StackIndex,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A step in the new namespaces failed.
    #[error("cannot prepare {stack} ({step})")]
    Child {
        /// The stack.
        stack: StackIndex,
        /// The step.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Init did not make the tenant's own stack; it was ended again.
    #[error("process {pid} did not make the tenant's own network namespace")]
    OwnStack {
        /// Init.
        pid: i32,
        /// Why.
        #[source]
        source: ClientError,
    },
    /// The program could not be executed.
    #[error("cannot execute {path}")]
    Exec {
        /// `tenant-init`.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Init started, but its stack could not be opened; it was ended again.
    #[error("cannot open the network namespace of process {pid}")]
    Netns {
        /// Init.
        pid: i32,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// How long init may take to make a stack of the tenant's own.
const OWN_STACK: Duration = Duration::from_secs(10);

/// What init is told, in a file of its own: too much for a command line.
fn house(spec: &LaunchSpec) -> Result<OwnedFd, LaunchError> {
    let prepare = |step| move |source| LaunchError::Prepare { step, source };
    let house = HouseSpec {
        name: spec.name.to_string(),
        ids: spec.gids.get(),
        state: spec.state_dir.clone(),
        image: spec.image.clone(),
        layer: spec.layer.clone(),
        network: spec.network,
        api: spec.api.clone(),
        program: spec.program.clone(),
        shares: spec.shares.clone(),
        scratch: spec.scratch,
    };
    let text = serde_json::to_vec(&house).map_err(io::Error::other).map_err(prepare("write the house"))?;
    let memory = nix::sys::memfd::memfd_create("house", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
    let memory = memory.map_err(|errno| LaunchError::Prepare { step: "memfd_create", source: errno.into() })?;
    let file = File::from(memory);
    file.write_all_at(&text, 0).map_err(prepare("write the house"))?;
    Ok(file.into())
}

/// The program `tenant-init` beside the running program.
///
/// # Errors
/// When the path of the running program cannot be read.
pub fn init_beside_us() -> io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("tenant-init"))
}

/// Starts the init of a tenant and returns when its program has begun. Typically well under a millisecond; blocking
/// for that time, so an async caller may call it directly.
///
/// Files that are there already are kept (names are written anew); nothing is left in the kernel after an error.
///
/// # Errors
/// The first step that fails.
pub fn launch(spec: &LaunchSpec) -> Result<Launched, LaunchError> {
    launch_into(spec, &Surroundings::default())
}

/// What a tenant is put into, as descriptors.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// Its cgroups.
    pub cgroups: Option<Entry>,
    /// The mount of its layer, with [`Layer::Mounted`].
    pub layer: Option<OwnedFd>,
}

/// [`launch`], in the tenant's cgroups from its first instruction.
///
/// # Errors
/// The first step that fails.
pub fn launch_into(spec: &LaunchSpec, surroundings: &Surroundings) -> Result<Launched, LaunchError> {
    directories(spec)?;
    write_names(spec)?;
    let log = init_log(&spec.state_dir)?;
    let prepare = |step| move |source| LaunchError::Prepare { step, source };
    let mut slots = Slots::take().map_err(prepare("reserve descriptors"))?;
    let mut inherit = |fd: BorrowedFd<'_>| slots.put(&fd).map_err(prepare("dup3"));
    let null = File::options().read(true).write(true).open("/dev/null").map_err(prepare("open /dev/null"))?;
    let program = CString::new(spec.init_path.as_os_str().as_bytes())?;
    let argv = [
        CString::new("tenant-init")?,
        CString::new(spec.name.as_str())?,
        CString::new(format!("--control-fd={}", child::CONTROL_FD))?,
        CString::new(format!("--house-fd={}", child::HOUSE_FD))?,
    ];
    let house = house(spec)?;
    let cgroups = surroundings.cgroups.as_ref();
    let tasks =
        cgroups.iter().flat_map(|entry| &entry.tasks).map(|fd| inherit(fd.as_fd())).collect::<Result<Vec<_>, _>>()?;
    let first = spec.gids.get();
    let ping_groups = CString::new(format!("{first} {}", first + (IDS - 1)))?;
    let control = control_socket(spec)?;
    fault::point("launch.socket");
    let inherited = [inherit(null.as_fd())?, inherit(log.as_fd())?, inherit(control.as_fd())?, inherit(house.as_fd())?];
    let layer = surroundings.layer.as_ref().map(|fd| inherit(fd.as_fd())).transpose()?;
    let birth = child::Birth {
        program: &program,
        argv: &argv,
        inherited: &inherited,
        ping_groups: (!spec.network).then_some(&ping_groups),
        bound: slots.bound(),
        unified: cgroups.and_then(|entry| entry.unified.as_ref()).map(AsRawFd::as_raw_fd),
        layer,
        tasks: &tasks,
    };
    let (pid, pidfd) = match child::clone_and_exec(&birth) {
        Ok(running) => running,
        Err(failure) => {
            // Nobody will ever listen here.
            let _ = fs::remove_file(&spec.control_socket);
            return Err(named(spec, failure));
        }
    };
    fault::point("launch.cloned");
    if spec.network
        && let Err(source) = Client::connect(&spec.control_socket).and_then(|mut init| init.hello(OWN_STACK))
    {
        // The stack is made by init: before it answers its namespace is still ours.
        let _ = end(&pidfd, Duration::from_secs(5));
        let _ = fs::remove_file(&spec.control_socket);
        return Err(LaunchError::OwnStack { pid, source });
    }
    // Our child, not reaped: the number cannot mean another process.
    match open_netns(pid) {
        Ok((netns, netns_inode)) => Ok(Launched { pid, pidfd, netns, netns_inode }),
        Err(source) => {
            let _ = end(&pidfd, Duration::from_secs(5));
            let _ = fs::remove_file(&spec.control_socket);
            Err(LaunchError::Netns { pid, source })
        }
    }
}

fn named(spec: &LaunchSpec, failure: child::Failure) -> LaunchError {
    match failure {
        child::Failure::Prepare(step, source) => LaunchError::Prepare { step, source },
        child::Failure::Clone(source) => LaunchError::Clone { stack: spec.stack, source },
        child::Failure::Step(step, source) => LaunchError::Child { stack: spec.stack, step, source },
        child::Failure::Exec(source) => LaunchError::Exec { path: spec.init_path.clone(), source },
    }
}

/// Makes the directory of a tenant's files, for what has to lie there before [`launch`].
///
/// # Errors
/// [`LaunchError::Directory`].
pub fn make_state_dir(spec: &LaunchSpec) -> Result<(), LaunchError> {
    let error = |source| LaunchError::Directory { path: spec.state_dir.clone(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(&spec.state_dir).map_err(error)
}

/// Root's: the state directory with `etc`, `layer` and `stage` (where init puts mounts on its way). The tenant's: `logs`,
/// which init writes and no path in the tenant leads to. Nobody else lists what is root's.
fn directories(spec: &LaunchSpec) -> Result<(), LaunchError> {
    let make = |path: &Path, mode: u32, owner: u32| {
        let error = |source| LaunchError::Directory { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(mode).create(path).map_err(error)?;
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(error)?;
        if owner != 0 { chown(path, Some(owner), Some(owner)).map_err(error) } else { Ok(()) }
    };
    if let Some(parent) = spec.control_socket.parent() {
        let error = |source| LaunchError::Directory { path: parent.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(error)?;
    }
    make(&spec.state_dir, 0o700, 0)?;
    for (name, mode) in [
        ("etc", 0o755),
        ("layer", 0o700),
        ("stage", 0o700),
        ("stage/root", 0o700),
        ("stage/lower", 0o700),
        ("stage/layer", 0o700),
    ] {
        make(&spec.state_dir.join(name), mode, 0)?;
    }
    make(&spec.state_dir.join("logs"), 0o700, spec.gids.get())
}

fn write_names(spec: &LaunchSpec) -> Result<(), LaunchError> {
    let hostname = fs::write(spec.state_dir.join("etc/hostname"), format!("{}\n", spec.name));
    hostname
        .and_then(|()| write_resolv_conf(&spec.state_dir, &spec.dns))
        .and_then(|()| write_hosts(&spec.state_dir, &spec.name, &spec.addresses))
        .map_err(|source| LaunchError::Names { path: spec.state_dir.join("etc"), source })
}

fn init_log(state_dir: &Path) -> Result<File, LaunchError> {
    // Not below `logs`: a service may have any name.
    let path = state_dir.join("init.log");
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    file.map_err(|source| LaunchError::Log { path, source })
}

/// The control socket, bound and listening before init exists: whoever connects from now on waits for init.
fn control_socket(spec: &LaunchSpec) -> Result<OwnedFd, LaunchError> {
    let path = &spec.control_socket;
    let error = |step| move |errno: Errno| LaunchError::Socket { path: path.clone(), step, source: errno.into() };
    let make = || socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None);
    let address = UnixAddr::new(path).map_err(error("path, at most 107 bytes"))?;
    let probe = make().map_err(error("socket"))?;
    match connect(probe.as_raw_fd(), &address) {
        Ok(()) => {
            return Err(LaunchError::Running { name: spec.name.clone(), path: path.clone() });
        }
        Err(Errno::ENOENT) => {}
        // Left by an init that is gone.
        Err(Errno::ECONNREFUSED) => fs::remove_file(path).map_err(|source| LaunchError::Socket {
            path: path.clone(),
            step: "unlink",
            source,
        })?,
        Err(errno) => return Err(error("connect")(errno)),
    }
    let control = make().map_err(error("socket"))?;
    // Before bind: the mode of the socket's inode becomes the mode of the file, without a moment in between.
    nix::sys::stat::fchmod(&control, nix::sys::stat::Mode::from_bits_truncate(0o600)).map_err(error("fchmod"))?;
    bind(control.as_raw_fd(), &address).map_err(error("bind"))?;
    Backlog::new(16).and_then(|backlog| listen(&control, backlog)).map_err(error("listen"))?;
    Ok(control)
}

fn open_netns(pid: i32) -> io::Result<(OwnedFd, u64)> {
    let file = File::open(format!("/proc/{pid}/ns/net"))?;
    let inode = file.metadata()?.ino();
    Ok((file.into(), inode))
}

/// Why an init was not found again.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// Nobody answers on the control socket, or not well.
    #[error("the tenant's init does not answer")]
    Client(#[from] ClientError),
    /// The init that answers belongs to another tenant.
    #[error("the init on {path} is of tenant {found:?}")]
    Stranger {
        /// The control socket.
        path: PathBuf,
        /// Who it says it is.
        found: String,
    },
    /// The process that answered cannot be taken hold of.
    #[error("cannot take hold of process {pid} ({step})")]
    Process {
        /// The process that answered.
        pid: i32,
        /// The system call.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process that answered has another stack than it says: its number was taken over by another process.
    #[error("process {pid} does not have the network namespace {wanted} (has {found})")]
    Netns {
        /// The process.
        pid: i32,
        /// What init said.
        wanted: u64,
        /// What the process has.
        found: u64,
    },
}

/// How long an init may take to say who it is. One that hangs is tried again by the next pass, and meanwhile others have
/// their turns.
const WHO: Duration = Duration::from_millis(500);

/// Finds the init that listens on a control socket, after a restart of the daemon.
///
/// # Errors
/// [`AdoptError::Client`] with [`ClientError::Gone`] when there is none.
pub fn adopt(control_socket: &Path, name: &TenantName) -> Result<(Launched, Hello), AdoptError> {
    let (launched, hello, mut client) = find(control_socket, name)?;
    client.hello(WHO)?;
    Ok((launched, hello))
}

/// As [`adopt`], but not sure yet: the number is known to have meant init all the time when the connection, which is given
/// back, answers once more.
///
/// # Errors
/// As [`adopt`].
pub fn find(control_socket: &Path, name: &TenantName) -> Result<(Launched, Hello, Client), AdoptError> {
    let mut client = Client::connect(control_socket)?;
    let hello = client.hello(WHO)?;
    if hello.name != name.as_str() {
        return Err(AdoptError::Stranger { path: control_socket.to_owned(), found: hello.name });
    }
    let pid = client.peer_pid().ok_or(ClientError::Unexpected)?;
    let process = |step| move |source| AdoptError::Process { pid, step, source };
    let pidfd = pidfd_open(pid).map_err(process("pidfd_open"))?;
    let (netns, netns_inode) = open_netns(pid).map_err(process("open netns"))?;
    if netns_inode != hello.netns {
        return Err(AdoptError::Netns { pid, wanted: hello.netns, found: netns_inode });
    }
    Ok((Launched { pid, pidfd, netns, netns_inode }, hello, client))
}

fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain system call.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Why an init could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// The signal could not be sent.
    #[error("cannot send SIGKILL to the tenant's init")]
    Signal(#[source] io::Error),
    /// The end could not be waited for.
    #[error("cannot wait for the end of the tenant's init")]
    Wait(#[source] io::Error),
    /// It is still there: a process in it hangs in the kernel.
    #[error("the tenant's processes did not end within {0:?}")]
    Deadline(Duration),
}

/// Ends an init, and with it (it is process 1 of its pid namespace) every process of the tenant. Returns when all of
/// them are gone. One that is gone already is no error. Blocks: typically 1 ms, more with many processes.
///
/// # Errors
/// See [`EndError`].
pub fn end(pidfd: &OwnedFd, deadline: Duration) -> Result<(), EndError> {
    // SAFETY: plain system call on a live descriptor.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, std::ptr::null::<u8>(), 0)
    };
    if sent < 0 && Errno::last() != Errno::ESRCH {
        return Err(EndError::Signal(io::Error::last_os_error()));
    }
    let until = Instant::now() + deadline;
    loop {
        let left = until.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) => return Err(EndError::Deadline(deadline)),
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(EndError::Wait(errno.into())),
        }
    }
    reap(pidfd);
    Ok(())
}

/// Takes an init that has ended off the process table. When it is our child we owe it a wait; an adopted one has
/// another parent, and that is no error.
pub fn reap(pidfd: &OwnedFd) {
    // SAFETY: plain system call on a live descriptor and a structure that lives here.
    unsafe {
        let mut info = std::mem::zeroed::<libc::siginfo_t>();
        let id = libc::id_t::try_from(pidfd.as_raw_fd()).unwrap_or(libc::id_t::MAX);
        libc::waitid(libc::P_PIDFD, id, &mut info, libc::WEXITED | libc::WNOHANG);
    }
}

/// Removes what a tenant has on disk and in the run directory. What is not there is no error.
///
/// # Errors
/// The first path that could not be removed.
pub fn forget(control_socket: &Path, state_dir: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    gone(fs::remove_file(control_socket))?;
    gone(tree::remove(state_dir))
}
