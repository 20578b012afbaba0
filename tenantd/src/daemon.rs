//! `tenantd run`: one straight list from a checked configuration to a served API. Every step has its named error;
//! what was made so far stays in the kernel and is found again by the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use stackmap::TrunkIndex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::access::AccessClients;
use crate::config::Config;
use crate::control::Handle;
use crate::fault;
use crate::features::{self, FeatureError};
use crate::net::ns::NsError;
use crate::net::room::{PatchError, PatchRoom, check_card};
use crate::owner::{Owner, Parts, StartError};
use crate::pulse::{self, Pulse};
use crate::store::{Home, Settling, SqliteStore, Store, StoreError};
use crate::trunks::{self, TrunkOption, TrunkSpec};
use crate::world::{OpenError, World, WorldParts};

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A capability is missing.
    #[error("tenantd needs {0}: start it as root")]
    Capability(caps::Capability),
    /// The process's own capabilities could not be read.
    #[error("cannot read the process's capabilities")]
    Capabilities(#[source] caps::errors::CapsError),
    /// A fault point that cannot be armed.
    #[error(transparent)]
    Fault(#[from] fault_point::ArmError),
    /// The kernel is too old.
    #[error("kernel {found} is too old: tenantd needs 6.1 or newer (Debian 12 has it)")]
    Kernel {
        /// Its release.
        found: String,
    },
    /// A directory could not be made.
    #[error("cannot make the directory {path}")]
    Directory {
        /// Its path.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Another daemon of this instance runs.
    #[error("another tenantd of this instance runs (process {holder}, lock {path})")]
    Locked {
        /// Lock file.
        path: PathBuf,
        /// Process id written in it.
        holder: String,
    },
    /// The lock file could not be opened.
    #[error("cannot open the lock file {path}")]
    Lock {
        /// Lock file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The limit of open files could not be raised.
    #[error("cannot raise the limit of open files")]
    Files(#[source] io::Error),
    /// bpffs could not be mounted.
    #[error("cannot mount a BPF file system at {path}")]
    Bpffs {
        /// Mount point.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The kernel lacks what tenants need.
    #[error(transparent)]
    Feature(#[from] FeatureError),
    /// The tenants' init program is not there.
    #[error("init: {path:?} refused: no executable file; tenant-init lies beside tenantd, or name it with --init")]
    Init {
        /// Its path.
        path: PathBuf,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What trunks there are contradicts itself.
    #[error(transparent)]
    Trunk(#[from] stackmap::Invalid),
    /// A trunk on which there are tenants is not said any more.
    #[error(
        "trunk: {name:?} refused to be left out: {} on it ({}); name it with --trunk, or remove them first",
        if .tenants.len() == 1 { "1 tenant is".to_owned() } else { format!("{} tenants are", .tenants.len()) },
        .tenants.join(", ")
    )]
    TrunkLeftOut {
        /// Its name.
        name: String,
        /// The tenants, the first of them.
        tenants: Vec<String>,
    },
    /// The patch room.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// Our own namespace.
    #[error(transparent)]
    Ns(#[from] NsError),
    /// Cgroups or images.
    #[error(transparent)]
    World(#[from] OpenError),
    /// The owner.
    #[error(transparent)]
    Start(#[from] Box<StartError>),
    /// The API's socket.
    #[error("the API's socket")]
    Api(#[from] crate::api::ServeError),
    /// A task that has no end ended: a defect, which the log tells of.
    #[error("the owner or the API ended by itself")]
    Task,
    /// Signals could not be caught.
    #[error("cannot catch signals")]
    Signal(#[source] io::Error),
}

/// Capabilities without which nothing works, with what each is for.
const NEEDED: [caps::Capability; 4] = [
    // Namespaces, mounts, clone.
    caps::Capability::CAP_SYS_ADMIN,
    // Devices, addresses, routes, packet filters.
    caps::Capability::CAP_NET_ADMIN,
    // The probe's packet socket.
    caps::Capability::CAP_NET_RAW,
    // Giving files to tenants.
    caps::Capability::CAP_CHOWN,
];

/// Run until SIGTERM or SIGINT. The kernel keeps what tenants need; nothing is taken down at the end.
pub async fn run(config: Config) -> Result<(), RunError> {
    fault::arm()?;
    for capability in NEEDED {
        let held = caps::has_cap(None, caps::CapSet::Effective, capability).map_err(RunError::Capabilities)?;
        if !held {
            return Err(RunError::Capability(capability));
        }
    }
    check_kernel()?;
    raise_file_limit()?;
    check_init(&config.init)?;
    let pin = config.run_dir.join("patchroom");
    if let [TrunkOption { card: Some(card), .. }] = config.trunks.as_slice() {
        // Before anything is made for it. One of several may be missing: then its tenants wait.
        check_card(&pin, card)?;
    }
    let tenants = config.run_dir.join("tenants");
    for (path, mode) in [(&config.run_dir, 0o755), (&tenants, 0o700), (&config.state_dir, 0o711)] {
        make_dir(path, mode)?;
    }
    let _lock = lock(&config.run_dir.join("lock"))?;
    // Somebody may have started another one of this instance with another run directory.
    let _store_lock = lock(&config.state_dir.join("lock"))?;
    // Tries things out in the state directory, which two at once would do to each other.
    features::check(&config.state_dir)?;
    fault::point("start.locked");
    let bpf_dir = bpf_dir(&config)?;
    let mark = config.run_dir.join("store.mark");
    let settling = Settling { home: Home::of_this_machine(&config.instance), accept: config.accept_store, mark: &mark };
    let mut store = SqliteStore::settle(&config.state_dir.join("tenantd.db"), &settling)?;
    fault::point("start.store");
    let (specs, used) = number_trunks(&config, &mut store, &pin)?;
    let room = PatchRoom::open(&pin, &bpf_dir, &specs, &used).await?;
    fault::point("start.room");
    let access = AccessClients::new(&specs, &format!("tenantd/{}", config.instance));
    let (events_in, events) = tokio::sync::mpsc::channel(1024);
    let (handle, inbox) = Handle::new();
    let made_of =
        WorldParts { config: config.clone(), room, access, events: events_in, handle: handle.clone(), bpf_dir };
    let world = World::new(made_of)?;
    fault::point("start.world");
    let parts = Parts {
        instance: config.instance.clone(),
        trunks: specs,
        store: Box::new(store),
        kernel: world,
        events,
        handle: handle.clone(),
        inbox,
    };
    // Whoever finds the socket may also ask us to end.
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signal)?;
    // Before what was there is adopted: callers then wait for their answer and not for the socket.
    let listener = match crate::api::inherited(&config.socket)? {
        Some(listener) => listener,
        None => crate::api::bind(&config.socket).await?,
    };
    fault::point("start.listening");
    pulse::starting("reading what is so");
    let owner = tokio::select! {
        owner = Owner::start(parts) => owner.map_err(Box::new)?,
        // What was begun is finished by the next start.
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    if let Some(address) = config.metrics {
        tokio::spawn(crate::api::tcp::serve(address, handle.clone()));
    }
    let (stop_owner, owner_stopped) = oneshot::channel();
    let (stop_api, api_stopped) = oneshot::channel::<()>();
    let mut owner = tokio::spawn(owner.run(Pulse::from_environment(), owner_stopped));
    // An error as well as a word ends the wait: both mean that we end.
    let until = async move { drop(api_stopped.await) };
    let mut api = tokio::spawn(crate::api::serve(listener, handle, until));
    tracing::info!(socket = %config.socket.display(), "ready");
    tokio::select! {
        served = &mut api => return Ok(served.map_err(|_| RunError::Task)??),
        _ = &mut owner => return Err(RunError::Task),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    fault::point("stop.begun");
    pulse::stopping();
    // The command that the owner is busy with is finished and answered. Whoever waits behind it is told that we end, and
    // who comes later finds the next daemon: the socket's file stays, so that clients know that one is to come.
    drop((stop_owner, stop_api));
    if tokio::time::timeout(LAST_COMMAND, &mut owner).await.is_err() {
        // A step that has begun is finished by the next start: intent is in the store, the rest is read from the kernel.
        owner.abort();
    }
    fault::point("stop.silent");
    let _ = tokio::time::timeout(LAST_ANSWERS, api).await;
    Ok(())
}

/// The trunks with their numbers, which are kept from then on, and the numbers of those on which there are tenants.
fn number_trunks(
    config: &Config,
    store: &mut SqliteStore,
    pin: &Path,
) -> Result<(Vec<TrunkSpec>, BTreeSet<TrunkIndex>), RunError> {
    let known = store.trunks()?;
    let (specs, after) = trunks::number(&config.trunks, &known, &config.instance, Path::new(&config.access))?;
    let mut on: BTreeMap<TrunkIndex, Vec<String>> = BTreeMap::new();
    // With one, and never another one, all tenants are on it.
    let rows = if after.len() > 1 { store.load()?.rows } else { Vec::new() };
    for row in rows {
        if let Some(at) = row.tenant.segment() {
            on.entry(at.trunk).or_default().push(row.tenant.name.to_string());
        }
    }
    for (number, tenants) in &mut on {
        if !specs.iter().any(|spec| spec.number == *number) {
            tenants.sort();
            let name = after.get(number).cloned().unwrap_or_else(|| format!("number {number}"));
            return Err(RunError::TrunkLeftOut { name, tenants: std::mem::take(tenants) });
        }
    }
    for spec in specs.iter().filter(|spec| !on.contains_key(&spec.number)) {
        if let Some(card) = &spec.card {
            check_card(pin, card)?;
        }
    }
    store.keep_trunks(&after)?;
    Ok((specs, on.into_keys().collect()))
}

/// How long the command under way may take at the end. Longer ones are undone or finished by the next start.
const LAST_COMMAND: Duration = Duration::from_secs(10);
/// How long callers may take to read their answers; followers of events and logs do not end by themselves.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

fn check_kernel() -> Result<(), RunError> {
    let found = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let mut numbers = found.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 1) { Err(RunError::Kernel { found }) } else { Ok(()) }
}

fn check_init(path: &Path) -> Result<(), RunError> {
    nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).map_err(|_| RunError::Init { path: path.to_path_buf() })
}

fn make_dir(path: &Path, mode: u32) -> Result<(), RunError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|source| RunError::Directory { path: path.to_path_buf(), source })
}

/// Two descriptors a tenant are open all the time (its init's and the socket of its own API): 1,024, what most service
/// managers give, end at some 500 tenants.
fn raise_file_limit() -> Result<(), RunError> {
    let mut files = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain system calls on a structure that lives here.
    let done = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut files) == 0 && {
            files.rlim_cur = files.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &files) == 0
        }
    };
    if done { Ok(()) } else { Err(RunError::Files(io::Error::last_os_error())) }
}

/// A holder that was killed keeps the lock until the kernel has taken it apart, which a quick restart must survive.
const DYING: Duration = Duration::from_secs(3);

fn lock(path: &Path) -> Result<Flock<File>, RunError> {
    let failed = |source| RunError::Lock { path: path.to_path_buf(), source };
    // For root only: whoever can open it can hold it.
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).mode(0o600).open(path).map_err(failed)?;
    let deadline = Instant::now() + DYING;
    let locked = loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((same, nix::errno::Errno::EWOULDBLOCK)) if Instant::now() < deadline => file = same,
            outcome => break outcome,
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    match locked {
        Ok(locked) => {
            locked.set_len(0).map_err(failed)?;
            std::fs::write(path, std::process::id().to_string()).map_err(failed)?;
            Ok(locked)
        }
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            let holder = std::fs::read_to_string(path).unwrap_or_default();
            Err(RunError::Locked { path: path.to_path_buf(), holder })
        }
        Err((_, error)) => Err(failed(error.into())),
    }
}

/// The instance's directory on bpffs; mounts one where there is none, as an init system does.
fn bpf_dir(config: &Config) -> Result<PathBuf, RunError> {
    let failed = |source| RunError::Bpffs { path: config.bpffs.clone(), source };
    make_dir(&config.bpffs, 0o700)?;
    let found = nix::sys::statfs::statfs(&config.bpffs).map_err(|e| failed(e.into()))?;
    if found.filesystem_type() != nix::sys::statfs::BPF_FS_MAGIC {
        let options = Some("mode=700");
        nix::mount::mount(Some("bpf"), &config.bpffs, Some("bpf"), nix::mount::MsFlags::empty(), options)
            .map_err(|e| failed(e.into()))?;
    }
    let dir = config.bpffs.join("tenantd").join(&config.instance);
    make_dir(&dir, 0o700)?;
    Ok(dir)
}
