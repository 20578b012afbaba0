//! Runs a command in a node of a world: the way in for `lab exec`, tests and bench.
//!
//! A process may join a pid namespace only with its children, hence one fork: the parent stays outside, waits
//! and hands on the exit code; the child joins everything and becomes the command.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, execvpe, fork};

use crate::cgroups;
use crate::nodes;
use crate::record::Record;

/// Runs `argv` in `node` and returns its exit code (128 + signal when a signal ended it, 127 when it could
/// not be run).
///
/// # Errors
/// There is no such node, or the world has just ended.
pub fn run(record: &Record, node: &str, argv: &[String]) -> Result<i32> {
    let nodes = record.options.nodes();
    if !nodes.iter().any(|n| n == node) {
        bail!("no node {node:?}; there are: {}", nodes.join(", "));
    }
    let proc = PathBuf::from(format!("/proc/{}", record.holder));
    let open = |path: PathBuf| File::open(&path).with_context(|| format!("cannot enter the lab: {}", path.display()));
    let netns = nodes::netns_path(node);
    let net = open(proc.join("root").join(netns.strip_prefix("/").unwrap_or(&netns)))?;
    let pid = open(proc.join("ns/pid"))?;
    let rest = ["cgroup", "ipc", "uts", "mnt"].map(|n| open(proc.join("ns").join(n)));
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let argv =
        argv.iter().map(|a| CString::new(a.as_str())).collect::<Result<Vec<_>, _>>().context("NUL in the command")?;
    let Some(program) = argv.first() else { bail!("no command given") };
    let env = environment()?;
    setns(pid.as_fd(), CloneFlags::CLONE_NEWPID).context("cannot enter the lab's pid namespace")?;
    // SAFETY: `lab exec` has one thread, so the child may allocate.
    match unsafe { fork() }.context("cannot fork")? {
        ForkResult::Parent { child } => {
            // Ctrl-C is for the command; we only pass on how it ended.
            for s in [Signal::SIGINT, Signal::SIGQUIT] {
                // SAFETY: SIG_IGN runs no code of ours.
                let _ = unsafe { signal(s, SigHandler::SigIgn) };
            }
            loop {
                match waitpid(child, None) {
                    Ok(WaitStatus::Exited(_, code)) => return Ok(code),
                    Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(e) => return Err(e).context("cannot wait for the command"),
                }
            }
        }
        ForkResult::Child => {
            let entered = (|| -> Result<()> {
                // The command must not outlive `lab exec`: it would hold nothing open, but go on running.
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                // Before the mounts change: these are found as they are outside.
                cgroups::join(record.holder);
                for ns in rest {
                    setns(ns?.as_fd(), CloneFlags::empty())?;
                }
                setns(net.as_fd(), CloneFlags::CLONE_NEWNET)?;
                Ok(std::env::set_current_dir(&cwd).or_else(|_| std::env::set_current_dir("/"))?)
            })();
            if let Err(e) = entered {
                eprintln!("lab: cannot enter {node}: {e:#}");
                std::process::exit(125);
            }
            let e = execvpe(program, &argv, &env).unwrap_err();
            eprintln!("lab: cannot run {}: {}", program.to_string_lossy(), e.desc());
            std::process::exit(127);
        }
    }
}

/// The caller's environment with the directory of our own programs first in PATH.
fn environment() -> Result<Vec<CString>> {
    let path = path_with_binaries();
    // execvpe looks the program up in the caller's PATH, not in the one it hands over.
    // SAFETY: `lab exec` has one thread.
    unsafe { std::env::set_var("PATH", &path) };
    std::env::vars()
        .map(|(key, value)| CString::new(format!("{key}={value}")).context("NUL in the environment"))
        .collect()
}

/// PATH as the programs of a world see it: the directory this program is in, then the caller's, then where an
/// ordinary user has no `sbin`.
#[must_use]
pub fn path_with_binaries() -> String {
    let own = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf)).unwrap_or_default();
    let inherited = std::env::var("PATH").unwrap_or_default();
    format!("{}:{inherited}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", own.display())
}
