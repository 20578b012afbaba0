//! Making the tenant's house: the one straight list of privileged steps between a process of the host's root in new
//! namespaces and process 1 of a server of its own. The first step that fails is named in the answer to `hello`.
//!
//! In: a mount, a pid and (unless the tenant administers its own stack) a network namespace that are already new.
//! Out: a root file system of the tenant's own, nothing of the host's mounts, a user namespace in which root is
//! nobody outside, a bounding set and a system call filter that everything in the tenant inherits.
//!
//! What is the host's is opened first and by descriptor; after `pivot_root` every path, whatever links the tenant has
//! put in its way, ends in the tenant's own root. The mount namespace stays the host's: nobody in the tenant mounts or
//! unmounts anything.

use std::ffi::CStr;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use tenant_init::house::{Absent, HouseSpec, Image, LAYER_FD, Layer, SETTINGS, SHARE_IDS};
use tenant_init::mounts::{
    NODEV, NOEXEC, NOSUID, RDONLY, attach, attributes, bind, check, copy, copy_plain, directory, file, new,
};
use tenant_init::{lock, seed};

/// Which step failed, and why.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub(crate) struct SetupError {
    step: String,
    #[source]
    source: io::Error,
}

/// What init holds of the host once its house is finished.
#[derive(Debug)]
pub(crate) struct Held {
    /// Where the logs of the services go: a directory that no path in the tenant leads to.
    pub(crate) logs: OwnedFd,
    /// Inode number of the tenant's network namespace; init is not dumpable and cannot ask later.
    pub(crate) netns: u64,
}

const INERT: u64 = NOSUID | NODEV | NOEXEC;

/// Directories that hold programs of the host beside `/usr`, where they are no links into it.
const PROGRAMS: [&str; 8] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "libexec"];

/// Device nodes of a tenant: name, major, minor. There are no others, and nobody in the tenant can make one.
const DEVICES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const DEVICE_LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Of /proc and /sys, what tells of the host or steers it. Those that a kernel lacks are passed over.
const HIDDEN: [&str; 19] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/block",
    "/sys/bus",
    "/sys/dev",
    "/sys/firmware",
    "/sys/fs",
    "/sys/kernel",
    "/sys/module",
    "/sys/power",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Files of the state directory's `etc` that the daemon writes and the tenant reads.
const NAMES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];

/// What is taken from the host before its mounts are left.
struct Taken {
    programs: Vec<(OwnedFd, PathBuf)>,
    set_id: Vec<(OwnedFd, PathBuf)>,
    names: Vec<(OwnedFd, PathBuf)>,
    api: Option<OwnedFd>,
    program: Option<OwnedFd>,
    shares: Vec<(OwnedFd, PathBuf)>,
}

/// Runs the whole list.
pub(crate) fn set_up(spec: &HouseSpec) -> Result<Held, SetupError> {
    let mut owned = vec![CloneFlags::CLONE_NEWIPC, CloneFlags::CLONE_NEWUTS];
    if spec.network {
        owned.push(CloneFlags::CLONE_NEWNET);
    }
    step("be killable when memory is short", killable)?;
    step("private mounts", || {
        Ok(mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?)
    })?;
    let logs = step("open logs", || open_directory(&spec.state.join("logs")))?;
    let proc = step("proc", || new(c"proc", &[], INERT))?;
    let users = step("user namespace", || seed::make(&proc, 0, spec.ids, &owned))?;
    for (namespace, kind) in &users.others {
        step("join the tenant's namespaces", || Ok(setns(namespace, *kind)?))?;
    }
    if spec.network {
        step("settings of the stack", || stack_settings(&proc))?;
    }
    step("host name", || host_name(&spec.name))?;
    step("loopback up", loopback_up)?;
    // The network namespace that a mount of sysfs shows is the one of the process that mounts it.
    let sys = step("sysfs", || new(c"sysfs", &[], INERT | RDONLY))?;
    let queues = step("mqueue", || optional(new(c"mqueue", &[], INERT)))?;
    let taken = step("take from the host", || take(spec, &proc, &users.user))?;
    let root = step("root file system", || root(spec, &users.user))?;
    step("attach the root", || attach(&root, &spec.state.join("stage/root")))?;
    step("enter the root", || enter(&spec.state.join("stage/root")))?;
    step("programs", || {
        taken.programs.iter().try_for_each(|(mount, at)| directory(at).and_then(|()| attach(mount, at)))
    })?;
    step("set-id programs", || taken.set_id.iter().try_for_each(|(mount, at)| optional(attach(mount, at)).map(drop)))?;
    step("/proc", || directory(Path::new("/proc")).and_then(|()| attach(&proc, Path::new("/proc"))))?;
    step("/sys", || directory(Path::new("/sys")).and_then(|()| attach(&sys, Path::new("/sys"))))?;
    let memory = step("file systems in memory, mask /proc and /sys", || in_memory(spec))?;
    step("/dev", || devices(spec, &memory, queues.as_ref()))?;
    for (mount, at) in [(&memory.tmp, "/tmp"), (&memory.run, "/run")] {
        step(at, || directory(Path::new(at)).and_then(|()| attach(mount, Path::new(at))))?;
    }
    step("/run/tenantd", || own_api(&taken))?;
    for (mount, at) in &taken.names {
        step(&at.display().to_string(), || name_file(mount, at))?;
    }
    for (mount, at) in &taken.shares {
        step(&format!("share {}", at.display()), || share_point(at, spec.ids).and_then(|()| attach(mount, at)))?;
    }
    drop((taken, root, sys, queues, proc, memory));
    let netns = step("read the stack's inode", || Ok(fs::metadata("/proc/self/ns/net")?.ino()))?;
    step("cgroup namespace", || optional(unshare(CloneFlags::CLONE_NEWCGROUP).map_err(Into::into)).map(drop))?;
    step("enter the user namespace", || Ok(setns(&users.user, CloneFlags::CLONE_NEWUSER)?))?;
    drop(users);
    step("become the tenant's root", become_root)?;
    short_turns();
    step("system call filter", lock::filter)?;
    step("capabilities", || lock::capabilities(spec.network))?;
    Ok(Held { logs, netns })
}

/// A daemon may be exempt from being killed when memory is short; a tenant's processes, which inherit it, are not. Done
/// as the host's root, who by this also sets the least value that the tenant can go back to.
fn killable() -> io::Result<()> {
    let path = "/proc/self/oom_score_adj";
    if fs::read_to_string(path)?.starts_with('-') { fs::write(path, "0") } else { Ok(()) }
}

fn step<T>(name: &str, action: impl FnOnce() -> io::Result<T>) -> Result<T, SetupError> {
    action().map_err(|source| SetupError { step: name.to_owned(), source })
}

/// None where the kernel or the host does not have it.
fn optional<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(made) => Ok(Some(made)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path, flags, Mode::empty())?)
}

/// Copies of the host's mounts, with the attributes that they will have. The host's programs are not mapped: what is
/// not world-readable there stays unreadable, because the tenant's capabilities do not reach ids outside its range.
fn take(spec: &HouseSpec, proc: &OwnedFd, users: &OwnedFd) -> io::Result<Taken> {
    let with = |path: &Path, set: u64, users: Option<&OwnedFd>| -> io::Result<OwnedFd> {
        let mount = copy(path).map_err(|error| named(error, path))?;
        attributes(&mount, set, users).map_err(|error| named(error, path))?;
        Ok(mount)
    };
    let mut taken = Taken {
        programs: Vec::new(),
        set_id: Vec::new(),
        names: Vec::new(),
        api: None,
        program: None,
        shares: Vec::new(),
    };
    if let Image::Host { set_id, .. } = &spec.image {
        for name in PROGRAMS {
            let path = Path::new("/").join(name);
            if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
                taken.programs.push((with(&path, RDONLY | NOSUID | NODEV, None)?, path));
            }
        }
        for (from, target) in set_id {
            taken.set_id.push((with(from, RDONLY | NODEV, Some(users))?, target.clone()));
        }
    }
    for name in NAMES {
        let target = Path::new("/etc").join(name);
        taken.names.push((with(&spec.state.join("etc").join(name), RDONLY | INERT, None)?, target));
    }
    if let Some(api) = &spec.api {
        taken.api = Some(with(api, RDONLY | INERT, None)?);
    }
    if let Some(program) = &spec.program {
        taken.program = Some(with(program, RDONLY | NOSUID | NODEV, None)?);
    }
    if !spec.shares.is_empty() {
        let shared = seed::make(proc, SHARE_IDS, spec.ids, &[])?;
        for share in &spec.shares {
            let set = NOSUID | NODEV | if share.read_only { RDONLY } else { 0 };
            let mount = copy_plain(&share.source).map_err(|error| named(error, &share.source))?;
            attributes(&mount, set, Some(&shared.user)).map_err(|error| named(error, &share.source))?;
            taken.shares.push((mount, share.target.clone()));
        }
    }
    Ok(taken)
}

fn named(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The overlay: the image below, mapped into the tenant's ids, its private layer above. Both directories of the layer
/// must be on one mount, so what is not the state directory's own file system is attached to `stage/layer` first.
fn root(spec: &HouseSpec, users: &OwnedFd) -> io::Result<OwnedFd> {
    let (Image::Host { root: image, .. } | Image::Tree { root: image }) = &spec.image;
    let (lower_at, layer_at) = (spec.state.join("stage/lower"), spec.state.join("stage/layer"));
    let lower = copy(image).map_err(|error| named(error, image))?;
    attributes(&lower, RDONLY | NODEV, Some(users)).map_err(|error| named(error, image))?;
    attach(&lower, &lower_at)?;
    let layer = match &spec.layer {
        Layer::Directory => spec.state.join("layer"),
        Layer::Memory { size } => {
            attach(&new(c"tmpfs", &[(c"size", &size.to_string()), (c"mode", "0700")], NODEV)?, &layer_at)?;
            layer_at
        }
        Layer::Mounted => {
            let at = spec.state.join("layer");
            // SAFETY: the daemon passed this descriptor to us; it is closed here and used by nobody else.
            attach(&unsafe { OwnedFd::from_raw_fd(LAYER_FD) }, &at)?;
            at
        }
    };
    let (upper, work) = (layer.join("upper"), layer.join("work"));
    for (path, owner) in [(&upper, spec.ids), (&work, 0)] {
        if !path.is_dir() {
            fs::create_dir(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
            chown(path, Some(owner), Some(owner))?;
        }
    }
    let text = |path: &Path| path.to_str().map(str::to_owned).ok_or(io::ErrorKind::InvalidInput);
    new(
        c"overlay",
        &[(c"lowerdir", &text(&lower_at)?), (c"upperdir", &text(&upper)?), (c"workdir", &text(&work)?)],
        NODEV,
    )
}

/// Makes `root` the root and lets go of everything else.
fn enter(root: &Path) -> io::Result<()> {
    nix::unistd::chdir(root)?;
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")?;
    Ok(())
}

/// What is not kept, as mounts that are attached nowhere yet.
struct InMemory {
    dev: OwnedFd,
    run: OwnedFd,
    tmp: OwnedFd,
    shm: OwnedFd,
}

/// Two file systems for all of it, because each costs the machine memory, and makes the books of every cgroup with
/// limited memory longer (one bit and one counter for each file system there is): one for what everybody in the tenant
/// may fill, and one for what must have room also then.
fn in_memory(spec: &HouseSpec) -> io::Result<InMemory> {
    // Parts are copied from a place, because a mount that is attached nowhere cannot be copied before Linux 6.15. The
    // two places are hidden afterwards: to take a mount away would wait for an RCU grace period.
    let (root, tenant) = (0, spec.ids);
    let stage = Path::new("/sys/fs");
    attach(&scratch(spec)?, stage)?;
    let tmp = part(&stage.join("tmp"), (tenant, 0o1777), NOSUID | NODEV)?;
    let shm = part(&stage.join("shm"), (tenant, 0o1777), INERT)?;
    let stage = Path::new("/sys/kernel");
    attach(&scratch(spec)?, stage)?;
    let run = part(&stage.join("run"), (tenant, 0o755), NOSUID | NODEV)?;
    // Not NODEV: the nodes are made here. The directory is root's of the host: no other node or file comes in.
    let dev = part(&stage.join("dev"), (root, 0o755), NOSUID | NOEXEC)?;
    nodes(&stage.join("dev"))?;
    mask(stage, spec.network)?;
    Ok(InMemory { dev, run, tmp, shm })
}

/// Memory of limited size.
fn scratch(spec: &HouseSpec) -> io::Result<OwnedFd> {
    let (size, inodes) = (spec.scratch.to_string(), (spec.scratch / 4096).to_string());
    new(c"tmpfs", &[(c"size", size.as_str()), (c"nr_inodes", &inodes), (c"mode", "0755")], NOSUID)
}

/// A new directory as a mount of its own.
fn part(at: &Path, (owner, mode): (u32, u32), set: u64) -> io::Result<OwnedFd> {
    fs::create_dir(at)?;
    chown(at, Some(owner), Some(owner))?;
    fs::set_permissions(at, fs::Permissions::from_mode(mode))?;
    let mount = copy(at)?;
    attributes(&mount, set, None)?;
    Ok(mount)
}

/// Puts one empty directory and one empty file, both in `stage`, over what is hidden.
fn mask(stage: &Path, network: bool) -> io::Result<()> {
    let (directory, file) = (stage.join("directory"), stage.join("file"));
    fs::create_dir(&directory)?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o555))?;
    fs::write(&file, b"")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o444))?;
    for path in HIDDEN.map(Path::new) {
        match fs::symlink_metadata(path) {
            _ if path == stage => {}
            Ok(found) => bind(if found.is_dir() { &directory } else { &file }, path, RDONLY | INERT)?,
            Err(_) => {}
        }
    }
    bind(&directory, stage, RDONLY | INERT)?;
    for path in READ_ONLY.map(Path::new) {
        if path.exists() {
            bind(path, path, RDONLY | INERT)?;
        }
    }
    if network {
        // Its own stack's settings stay writable: a second proc of the same processes, of which only this part is taken.
        let other = Path::new("/proc/irq");
        attach(&new(c"proc", &[], INERT)?, other)?;
        bind(&other.join("sys/net"), Path::new("/proc/sys/net"), INERT)?;
        umount2(other, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

fn nodes(dev: &Path) -> io::Result<()> {
    for (name, major, minor) in DEVICES {
        let node = dev.join(name);
        mknod(&node, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor))?;
        fs::set_permissions(&node, fs::Permissions::from_mode(0o666))?;
    }
    for (name, target) in DEVICE_LINKS {
        symlink(target, dev.join(name))?;
    }
    ["pts", "shm", "mqueue"].iter().try_for_each(|name| fs::create_dir(dev.join(name)))
}

fn devices(spec: &HouseSpec, memory: &InMemory, queues: Option<&OwnedFd>) -> io::Result<()> {
    let dev = Path::new("/dev");
    directory(dev)?;
    attach(&memory.dev, dev)?;
    // The group `tty` of the tenant.
    let tty = (spec.ids + 5).to_string();
    let terminals = [
        (c"newinstance" as &CStr, ""),
        (c"ptmxmode", "0666"),
        (c"mode", "0620"),
        (c"gid", tty.as_str()),
        // The kernel has 3,072 for all that are not its first instance.
        (c"max", "256"),
    ];
    attach(&new(c"devpts", &terminals, NOSUID | NOEXEC)?, &dev.join("pts"))?;
    attach(&memory.shm, &dev.join("shm"))?;
    if let Some(queues) = queues {
        attach(queues, &dev.join("mqueue"))?;
    }
    Ok(())
}

/// The socket of the tenant's own API and the program that speaks to it.
fn own_api(taken: &Taken) -> io::Result<()> {
    let at = Path::new("/run/tenantd");
    if let Some(api) = &taken.api {
        directory(at)?;
        attach(api, at)?;
        if let Some(program) = &taken.program {
            attach(program, &at.join("tenantd"))?;
        }
    }
    Ok(())
}

/// A file to bind over, in the tenant's own /etc, whatever the tenant has made of it.
fn name_file(mount: &OwnedFd, at: &Path) -> io::Result<()> {
    if let Some(parent) = at.parent() {
        directory(parent)?;
    }
    file(at)?;
    attach(mount, at)
}

/// A directory to mount a share on; its parents are the tenant's root's.
fn share_point(at: &Path, ids: u32) -> io::Result<()> {
    let mut path = PathBuf::new();
    for part in at.components() {
        path.push(part);
        let fresh = fs::symlink_metadata(&path).is_err();
        directory(&path)?;
        if fresh {
            chown(&path, Some(ids), Some(ids))?;
        }
    }
    Ok(())
}

/// How long (nanoseconds) a tenant's process may compute before one that has slept gets its turn. The kernel's own 3 ms
/// are what the answers of one tenant wait for the computing of another; what turns cost is below a hundredth at this.
const TURN: u64 = 300_000;

/// Inherited by everything in the tenant. A kernel before 6.12 has one length for all and ignores it, so a refusal is no
/// failure.
fn short_turns() {
    // struct sched_attr of linux/sched/types.h in its first form: SCHED_OTHER, nice 0, and the length as `runtime`.
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let attributes =
        Attributes { size: 48, policy: 0, flags: 0, nice: 0, priority: 0, runtime: TURN, deadline: 0, period: 0 };
    // SAFETY: system call on a structure that lives here, of the size it says.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

/// The user namespace made us nobody with all capabilities in it.
fn become_root() -> io::Result<()> {
    let root = (nix::unistd::Uid::from_raw(0), nix::unistd::Gid::from_raw(0));
    nix::unistd::setgroups(&[])?;
    nix::unistd::setresgid(root.1, root.1, root.1)?;
    nix::unistd::setresuid(root.0, root.0, root.0)?;
    Ok(())
}

/// Of a stack that init has just made; otherwise the daemon's child has written them.
fn stack_settings(proc: &OwnedFd) -> io::Result<()> {
    for (path, value, absent) in SETTINGS {
        let write = || -> io::Result<()> {
            let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            fs::File::from(nix::fcntl::openat(proc, path, flags, Mode::empty())?).write_all(value)
        };
        match write() {
            Err(error) if error.kind() == io::ErrorKind::NotFound && absent == Absent::IsFine => {}
            written => written.map_err(|error| named(error, Path::new(&*path.to_string_lossy())))?,
        }
    }
    Ok(())
}

fn host_name(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length are of a live slice.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }.into()).map(drop)
}

fn loopback_up() -> io::Result<()> {
    // SAFETY: plain system calls; `request` lives here and is initialised for the one we use.
    unsafe {
        let socket = check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0).into())?;
        let socket = OwnedFd::from_raw_fd(socket);
        let mut request = std::mem::zeroed::<libc::ifreq>();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        let fd = socket.as_fd().as_raw_fd();
        check(libc::ioctl(fd, libc::SIOCGIFFLAGS, &mut request).into())?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        check(libc::ioctl(fd, libc::SIOCSIFFLAGS, &request).into()).map(drop)
    }
}
