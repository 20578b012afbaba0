//! What the guard costs: the same process in the tenant's stack, once in the tenant's cgroup, where the guard decides about
//! its sockets, and once in one that the guard does not reach. It is nobody, because host root is let through early.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Gid, Uid};
use system_tests::daemons::INSTANCE;
use system_tests::world::World;

/// What is measured.
pub(super) const JOBS: [&str; 3] = ["TCP socket and close", "UDP socket and close", "UDP send, connected"];

const CALLS: u32 = 10_000;

/// A tenant to be measured in.
pub(super) struct Guarded {
    netns: PathBuf,
    procs: PathBuf,
    ids: u32,
}

impl Guarded {
    /// By its init in the world's `/proc`.
    pub(super) fn find(world: &World, tenant: &str) -> Result<Self> {
        for entry in fs::read_dir(world.path("/proc"))?.flatten() {
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if words.starts_with(format!("tenant-init\0{tenant}\0").as_bytes()) {
                let map = fs::read_to_string(entry.path().join("uid_map"))?;
                let ids = map.split_whitespace().nth(1).context("no uid_map")?.parse()?;
                let procs = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
                    .map(|mount| world.path(&format!("{mount}/tenantd-{INSTANCE}/tenant-{tenant}/cgroup.procs")));
                let procs = procs.into_iter().find(|path| path.exists()).context("no cgroup of version 2")?;
                return Ok(Self { netns: entry.path().join("ns/net"), procs, ids });
            }
        }
        anyhow::bail!("no init of {tenant}")
    }

    /// Nanoseconds of a call.
    pub(super) fn measure(&self, job: usize, guarded: bool) -> Result<f64> {
        let netns = File::open(&self.netns)?;
        let procs = File::options().write(true).open(&self.procs)?;
        let ids = self.ids;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["__sockets", &job.to_string()]);
        // SAFETY: system calls alone, on what lives as long as the closure.
        unsafe {
            command.pre_exec(move || {
                if guarded {
                    nix::unistd::write(&procs, b"0")?;
                }
                setns(&netns, CloneFlags::CLONE_NEWNET)?;
                nix::unistd::setgroups(&[])?;
                // Without the guard's reach the ids say nothing; with it the cgroup says it all.
                nix::unistd::setresgid(Gid::from_raw(ids), Gid::from_raw(ids), Gid::from_raw(ids))?;
                Ok(nix::unistd::setresuid(Uid::from_raw(ids), Uid::from_raw(ids), Uid::from_raw(ids))?)
            });
        }
        let output = command.output()?;
        ensure!(output.status.success(), "{}: {}", JOBS[job], String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
    }
}

/// `bench __sockets JOB`: prints nanoseconds of processor time a call, the least of a few batches.
pub(crate) fn child(job: usize) -> Result<()> {
    let sink = UdpSocket::bind("127.0.0.1:0")?;
    let from = UdpSocket::bind("127.0.0.1:0")?;
    from.connect(sink.local_addr()?)?;
    let kind = if job == 0 { libc::SOCK_STREAM } else { libc::SOCK_DGRAM };
    let mut bytes = [0; 32];
    let mut call = || -> Result<()> {
        if job == 2 {
            from.send(&[0; 18])?;
            sink.recv(&mut bytes)?;
            return Ok(());
        }
        // SAFETY: system calls without pointers, on a descriptor of ours.
        unsafe {
            let fd = libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, 0);
            ensure!(fd >= 0, "socket: {}", std::io::Error::last_os_error());
            libc::close(fd);
        }
        Ok(())
    };
    let mut least = f64::MAX;
    for _ in 0..3 {
        let before = processor_time();
        for _ in 0..CALLS {
            call()?;
        }
        least = least.min((processor_time() - before) / f64::from(CALLS));
    }
    println!("{least}");
    Ok(())
}

/// Nanoseconds this thread ran.
fn processor_time() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a buffer of the right type.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}
