//! `tenantd exec`: run a command in a tenant, in the namespaces of its init.
//!
//! What comes in is the daemon's word for init's process id and for the inode of its network namespace; the second
//! proves the first, so a process id that was used again is refused. The command runs as the tenant's first uid and
//! gid without capabilities and without new privileges, in a session of its own: a program of the tenant must not have
//! the operator's terminal as its controlling one, or it could type into it (TIOCSTI). Signals that a terminal sends
//! us are handed on instead.

use std::ffi::{CString, NulError};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use clap::Args;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, killpg, pthread_sigmask, signal};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, chroot, execve, fchdir, fork, setgroups, setresgid, setresuid, setsid};
use stackmap::TenantName;

use super::{Context, Failure, chain};
use crate::model::{Tenant, TenantStatus};

/// Arguments of `exec`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tenantd exec acme -- curl http://192.168.1.10/\n\nThe exit code is the command's; \
    127 when it is not found, 126 when it cannot be executed, 128 and the number of a signal that ended it."
)]
pub struct Exec {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// Run as the host's root with all capabilities instead of the tenant's first user
    #[arg(long)]
    root: bool,
    /// Program and arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Why the command could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// Entering namespaces needs root.
    #[error("tenantd exec must be root (uid 0) to enter a tenant; this is uid {0}")]
    NotRoot(Uid),
    /// The tenant has no init at the moment.
    #[error("tenant {name} has no running stack: it is {state}; see: tenantd status {name}")]
    NoInit {
        /// The tenant.
        name: TenantName,
        /// Its state.
        state: String,
    },
    /// The namespaces of init could not be opened.
    #[error("cannot open namespace {name} of process {pid}")]
    Open {
        /// `net`, `mnt` and so on.
        name: &'static str,
        /// Process id of init.
        pid: i32,
        /// Why.
        source: io::Error,
    },
    /// The process is not the tenant's init any more.
    #[error("process {pid} is not in the network namespace of tenant {name} (inode {found}, expected {expected})")]
    Mistaken {
        /// The tenant.
        name: TenantName,
        /// Process id the daemon told.
        pid: i32,
        /// Inode of its network namespace.
        found: u64,
        /// Inode the daemon told.
        expected: u64,
    },
    /// A namespace could not be entered.
    #[error("cannot enter namespace {name}")]
    Enter {
        /// `net`, `mnt` and so on.
        name: &'static str,
        /// Why.
        source: Errno,
    },
    /// The command has a NUL byte.
    #[error("a command must not contain a NUL byte")]
    Nul(#[from] NulError),
    /// A capability set could not be emptied.
    #[error("cannot give up capabilities")]
    Capabilities(#[source] caps::errors::CapsError),
    /// The new process could not be made or waited for.
    #[error("cannot {step}")]
    Process {
        /// What was tried.
        step: &'static str,
        /// Why.
        source: Errno,
    },
}

/// The namespaces entered; the mount namespace last, for paths mean something else in it.
const NAMESPACES: [(&str, CloneFlags); 5] = [
    ("net", CloneFlags::CLONE_NEWNET),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// Where programs are looked for in a tenant.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Signals a terminal or a supervisor sends us, meant for the command.
const HANDED_ON: [Signal; 5] = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGWINCH];

/// Runs the command and returns its exit code.
///
/// # Errors
/// [`Failure`]; a command that could not be executed is an exit code instead (126, 127).
pub fn run(args: Exec, cx: Context) -> Result<u8, Failure> {
    let (tenant, pid, inode) = ask(&args.name, &cx)?;
    // No runtime, no thread, no connection beside us from here on: fork copies only this thread.
    drop(cx);
    let uid = Uid::effective();
    if !uid.is_root() {
        return Err(ExecError::NotRoot(uid).into());
    }
    let command = args.command.iter().map(|a| CString::new(a.as_str())).collect::<Result<Vec<_>, _>>();
    let command = command.map_err(ExecError::from)?;
    let environment = environment(args.root);
    let house = open(&args.name, pid, inode)?;
    for (name, flag, fd) in house.namespaces {
        setns(fd, flag).map_err(|source| ExecError::Enter { name, source })?;
    }
    let failed = |source| ExecError::Process { step: "go to the tenant's /", source };
    fchdir(house.root).and_then(|()| chroot(".")).map_err(failed)?;
    let id = (!args.root).then(|| tenant.gid.get());
    Ok(fork_and_wait(&command, &environment, id)?)
}

/// The tenant, the process id of its init, and the inode of its network namespace.
fn ask(name: &TenantName, cx: &Context) -> Result<(Tenant, i32, u64), Failure> {
    let tenant: Tenant = cx.client.get(&format!("/v1/tenants/{name}"))?.parse()?;
    let status: TenantStatus = cx.client.get(&format!("/v1/tenants/{name}/status"))?.parse()?;
    let (Some(pid), Some(inode)) = (status.init_pid, status.netns) else {
        let state = status.cause.unwrap_or_else(|| format!("{:?}", status.state));
        return Err(ExecError::NoInit { name: name.clone(), state }.into());
    };
    Ok((tenant, pid, inode))
}

/// Where init lives.
struct House {
    namespaces: Vec<(&'static str, CloneFlags, OwnedFd)>,
    root: OwnedFd,
}

/// Opens root and all namespaces of one process and makes sure that it is the one meant. They are opened below one
/// descriptor of /proc/PID, which never comes to mean another process.
fn open(name: &TenantName, pid: i32, expected: u64) -> Result<House, ExecError> {
    let proc = File::open(format!("/proc/{pid}")).map_err(|source| ExecError::Open { name: "net", pid, source })?;
    let open_in = |path: &str, flags: OFlag| {
        openat(proc.as_fd(), path, flags | OFlag::O_CLOEXEC, Mode::empty()).map_err(io::Error::from)
    };
    let mut namespaces = Vec::new();
    for (ns, flag) in NAMESPACES {
        let failed = |source: io::Error| ExecError::Open { name: ns, pid, source };
        let fd = open_in(&format!("ns/{ns}"), OFlag::O_RDONLY).map_err(failed)?;
        if ns == "net" {
            let found = File::from(fd.try_clone().map_err(failed)?).metadata().map_err(failed)?.ino();
            if found != expected {
                return Err(ExecError::Mistaken { name: name.clone(), pid, found, expected });
            }
        }
        namespaces.push((ns, flag, fd));
    }
    let root = open_in("root", OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(|source| ExecError::Open {
        name: "mnt",
        pid,
        source,
    })?;
    Ok(House { namespaces, root })
}

/// Nothing of the operator's environment goes into a tenant but the terminal and the language.
fn environment(root: bool) -> Vec<CString> {
    let user = if root { "root" } else { "tenant" };
    let mut variables = vec![format!("PATH={PATH}"), "HOME=/".to_owned(), format!("USER={user}")];
    for name in ["TERM", "LANG", "LC_ALL", "COLORTERM"] {
        variables.extend(std::env::var(name).ok().map(|value| format!("{name}={value}")));
    }
    variables.into_iter().filter_map(|v| CString::new(v).ok()).collect()
}

fn fork_and_wait(command: &[CString], environment: &[CString], id: Option<u32>) -> Result<u8, ExecError> {
    let failed = |step| move |source| ExecError::Process { step, source };
    let mut watched: SigSet = HANDED_ON.into_iter().collect();
    watched.add(Signal::SIGCHLD);
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&watched), Some(&mut before)).map_err(failed("block signals"))?;
    // SAFETY: this process has one thread (the runtime is gone and never had more), so the child may allocate.
    match unsafe { fork() }.map_err(failed("fork"))? {
        ForkResult::Child => {
            let code = become_tenant(id, &before).map_or_else(
                |error| complain(126, &chain(&error)),
                |()| match execute(command, environment) {
                    Errno::ENOENT => complain(127, &format!("{:?}: command not found in the tenant", command[0])),
                    errno => complain(126, &format!("{:?}: cannot be executed: {errno}", command[0])),
                },
            );
            std::process::exit(code)
        }
        ForkResult::Parent { child } => wait(child, &watched),
    }
}

/// Searches the tenant's directories, not the operator's (which execvpe(3) would); as there, a directory without the
/// program is passed over and a refusal is remembered. Returns only why it could not.
fn execute(command: &[CString], environment: &[CString]) -> Errno {
    let name = command[0].to_string_lossy();
    let programs = match name.contains('/') {
        true => vec![name.to_string()],
        false => PATH.split(':').map(|dir| format!("{dir}/{name}")).collect(),
    };
    let mut refusal = Errno::ENOENT;
    for program in programs.into_iter().filter_map(|p| CString::new(p).ok()) {
        match execve(&program, command, environment) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(Errno::EACCES) => refusal = Errno::EACCES,
            Err(errno) => return errno,
            Ok(never) => match never {},
        }
    }
    refusal
}

fn complain(code: i32, text: &str) -> i32 {
    eprintln!("tenantd: {text}");
    code
}

/// In the child: a session of its own, the tenant's ids, no capability, and the signals as a program expects them.
fn become_tenant(id: Option<u32>, mask: &SigSet) -> Result<(), ExecError> {
    let failed = |step| move |source| ExecError::Process { step, source };
    setsid().map_err(failed("make a session"))?;
    if let Some(id) = id {
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        caps::clear(None, caps::CapSet::Bounding).map_err(ExecError::Capabilities)?;
        caps::clear(None, caps::CapSet::Inheritable).map_err(ExecError::Capabilities)?;
        setgroups(&[]).map_err(failed("leave all groups"))?;
        setresgid(gid, gid, gid).map_err(failed("set the gid"))?;
        // Leaving uid 0 in all three ids empties the permitted, effective and ambient sets (capabilities(7)).
        setresuid(uid, uid, uid).map_err(failed("set the uid"))?;
        nix::sys::prctl::set_no_new_privs().map_err(failed("refuse new privileges"))?;
    }
    // Does not outlive us, whatever ends us. After setuid, which clears it.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed("tie it to our life"))?;
    // SAFETY: plain system call without pointers. The operator's shell may have left descriptors open for us.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(marked).map_err(failed("close further files"))?;
    // SAFETY: SIG_DFL is no handler of ours; Rust starts every program with SIGPIPE ignored, and exec keeps that.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.map_err(failed("reset SIGPIPE"))?;
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(mask), None).map_err(failed("unblock signals"))
}

/// In the parent: hands signals on to the command's session and waits for its end.
fn wait(child: Pid, watched: &SigSet) -> Result<u8, ExecError> {
    let failed = |step| move |source| ExecError::Process { step, source };
    loop {
        match watched.wait().map_err(failed("wait for signals"))? {
            Signal::SIGCHLD => match waitpid(child, Some(WaitPidFlag::WNOHANG)).map_err(failed("wait"))? {
                WaitStatus::Exited(_, code) => return Ok(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
                WaitStatus::Signaled(_, signal, _) => {
                    return Ok(u8::try_from(128 + signal as i32).unwrap_or(u8::MAX));
                }
                _ => {}
            },
            // The session is its own process group; gone already is no error.
            signal => drop(killpg(child, signal)),
        }
    }
}
