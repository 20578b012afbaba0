//! The processes that are the world: a watcher on the machine and, as its child, the holder, pid 1 inside.
//!
//! The watcher keeps the record, waits for the holder's end and removes what the kernel does not (record,
//! empty cgroups). Either dying takes the world down: the holder has the watcher's death as its own
//! death signal. While the world is being made the watcher also ends it when its maker goes away.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, setsid};

use crate::cgroups;
use crate::daemons::{self, Daemon};
use crate::nodes;
use crate::plan::Options;
use crate::record::{Held, Record, start_time};

/// What the holder tells its maker, one line each.
pub const STEP: &str = "step ";
/// The world stands.
pub const READY: &str = "ready";
/// It could not be made; the rest of the line is why (newlines as `\n`).
pub const FAILED: &str = "failed ";
/// What the maker answers when it is content; before that its end is the world's end.
pub const KEEP: u8 = b'k';

/// Runs watcher and holder. `maker` is the connection to whoever asked. Returns (in the watcher) when the
/// world is gone.
///
/// # Errors
/// The name is taken, or a process cannot be made. The maker has been told.
pub fn run(options: &Options, mut maker: UnixStream) -> Result<()> {
    let made = start(options, &maker);
    let (mut held, holder) = match made {
        Ok(made) => made,
        Err(e) => {
            let _ = writeln!(maker, "{FAILED}{}", one_line(&e));
            return Err(e);
        }
    };
    let watched = watch(options, &mut held, holder, &mut maker);
    let _ = kill(holder, Signal::SIGKILL);
    while waitpid(holder, None) == Err(Errno::EINTR) {}
    cgroups::remove(&options.name);
    held.remove();
    watched
}

fn start(options: &Options, maker: &UnixStream) -> Result<(Held, Pid)> {
    let held = Held::take(&options.name)?;
    // What an earlier world of this name may have left when all of it was killed at once.
    cgroups::remove(&options.name);
    // A session of our own: a Ctrl-C at the terminal is for `lab up`, which then says what it wants.
    let _ = setsid();
    unshare(CloneFlags::CLONE_NEWPID).context("cannot make a pid namespace")?;
    // SAFETY: this process has one thread (a fresh exec of the lab), so the child may do what it likes.
    match unsafe { fork() }.context("cannot fork the holder")? {
        ForkResult::Parent { child } => Ok((held, child)),
        ForkResult::Child => {
            // `held` stays open here too: the name is taken while either of us lives.
            std::process::exit(hold(options, maker));
        }
    }
}

fn watch(options: &Options, held: &mut Held, holder: Pid, maker: &mut UnixStream) -> Result<()> {
    let start_time = start_time(holder.as_raw()).context("the holder died at birth")?;
    let mut record = Record { holder: holder.as_raw(), start_time, options: options.clone(), kept: false };
    held.write(&record).context("cannot write the record")?;
    // Until it is content the maker holds the world: its end, or the holder's, is the end.
    loop {
        let mut fds = [PollFd::new(maker.as_fd(), PollFlags::POLLIN)];
        let answered = poll(&mut fds, PollTimeout::from(50u8)).unwrap_or(0) > 0;
        if answered {
            let mut answer = [0u8; 1];
            if maker.read(&mut answer).unwrap_or(0) == 0 || answer != [KEEP] {
                return Ok(());
            }
            break;
        }
        if !matches!(waitpid(holder, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive)) {
            return Ok(());
        }
    }
    record.kept = true;
    held.write(&record).context("cannot write the record")?;
    let _ = maker.write_all(b"kept\n");
    while waitpid(holder, None) == Err(Errno::EINTR) {}
    Ok(())
}

/// The holder: pid 1 of the world.
fn hold(options: &Options, maker: &UnixStream) -> i32 {
    // A clone of the socket: the watcher reads, we write.
    let Ok(mut say) = maker.try_clone() else {
        return 1;
    };
    match build(options, &mut say) {
        Ok(children) => {
            let _ = writeln!(say, "{READY}");
            drop(say);
            supervise(children)
        }
        Err(e) => {
            let _ = writeln!(say, "{FAILED}{}", one_line(&e));
            1
        }
    }
}

fn build(options: &Options, say: &mut UnixStream) -> Result<Vec<(Daemon, i32)>> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("cannot set the death signal")?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWNET)
        .context("cannot make namespaces")?;
    mounts()?;
    fs::write("/proc/sys/kernel/hostname", format!("lab-{}", options.name)).context("cannot set the host name")?;
    cgroups::enter_own(&options.name).context("cannot make a cgroup namespace")?;
    let started = Instant::now();
    nodes::build(options)?;
    let nodes = options.nodes().len();
    writeln!(say, "{STEP}{nodes} nodes wired in {} ms", started.elapsed().as_millis())?;
    // All at once: they wait for each other where they must, and a slow one hides the others' start.
    let mut started = Vec::new();
    for daemon in daemons::of(options) {
        let child = daemon.start()?;
        started.push((daemon, child, Instant::now()));
    }
    let mut children = Vec::new();
    for (daemon, mut child, since) in started {
        daemon.wait_ready(&mut child)?;
        let what = daemon.argv.iter().take(2).cloned().collect::<Vec<_>>().join(" ");
        writeln!(say, "{STEP}{what} on {} up after {} ms", daemon.node, since.elapsed().as_millis())?;
        children.push((daemon, i32::try_from(child.id()).context("a pid that is none")?));
    }
    Ok(children)
}

/// Private `/proc`, `/run` and bpffs; everything else is the machine's.
fn mounts() -> Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("cannot make mounts private")?;
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("proc"), "/proc", Some("proc"), safe | MsFlags::MS_NOEXEC, none).context("cannot mount /proc")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), safe, Some("mode=755")).context("cannot mount /run")?;
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), safe | MsFlags::MS_NOEXEC, Some("mode=700"))
        .context("cannot mount a bpffs on /sys/fs/bpf")?;
    for dir in [daemons::DIR, daemons::STATE_DIR, "/run/lab/hold"] {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {dir}"))?;
    }
    // Programs that change their user (su, passwd) do so in a tenant as its state's file system allows.
    mount(Some("tmpfs"), daemons::STATE_DIR, Some("tmpfs"), MsFlags::MS_NODEV, Some("mode=755"))
        .with_context(|| format!("cannot mount {}", daemons::STATE_DIR))?;
    Ok(())
}

/// Reaps, and starts daemons again when they die. Never returns while pid 1 is wanted.
fn supervise(children: Vec<(Daemon, i32)>) -> i32 {
    let mut running: BTreeMap<i32, (Daemon, Instant)> = BTreeMap::new();
    let mut down: Vec<(Daemon, Instant)> = Vec::new();
    running.extend(children.into_iter().map(|(daemon, pid)| (pid, (daemon, Instant::now()))));
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    let Ok(signals) =
        mask.thread_block().and_then(|()| SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK))
    else {
        return 1;
    };
    loop {
        while let Ok(Some(_)) = signals.read_signal() {}
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
            if let Some((daemon, since)) = status.pid().and_then(|pid| running.remove(&pid.as_raw())) {
                // One that dies at once is not asked again at once.
                let pause = if since.elapsed() < Duration::from_secs(1) { 500 } else { 50 };
                down.push((daemon, Instant::now() + Duration::from_millis(pause)));
            }
        }
        let (due, later): (Vec<_>, Vec<_>) =
            down.drain(..).partition(|(daemon, at)| *at <= Instant::now() && !daemon.is_held());
        down = later;
        for (daemon, _) in due {
            match daemon.start().ok().and_then(|child| i32::try_from(child.id()).ok()) {
                Some(pid) => drop(running.insert(pid, (daemon, Instant::now()))),
                None => down.push((daemon, Instant::now() + Duration::from_secs(1))),
            }
        }
        let timeout = if down.is_empty() { PollTimeout::NONE } else { PollTimeout::from(20u8) };
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, timeout);
    }
}

/// An error chain as one line.
fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").replace('\n', "\\n")
}

/// Asks the holder of a world to end by the one way that cannot fail, and waits until nothing is left.
///
/// # Errors
/// The holder cannot be killed, or the record is still held after 60 s.
pub fn end(record: &Record) -> Result<()> {
    let path = crate::record::path(&record.options.name);
    if start_time(record.holder) == Some(record.start_time) {
        match kill(Pid::from_raw(record.holder), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(e) => return Err(e).context("cannot end the holder"),
        }
    }
    wait_gone(&path, &record.options.name)
}

fn wait_gone(path: &Path, name: &str) -> Result<()> {
    // Longer than its cgroups are waited for.
    let until = Instant::now() + Duration::from_secs(60);
    while path.exists() && crate::record::is_held(path)? {
        if Instant::now() > until {
            bail!("the lab named {name:?} is still being taken down after 60 s");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
