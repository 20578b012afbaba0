//! Network namespaces, devices and processes that end with the test process: nothing here has a name on the machine.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// Where the test process mounts its own bpffs, visible to it alone.
const BPFFS: &str = "/sys/fs/bpf";

/// Why root's tests cannot run here; None: they can.
pub(crate) fn unable() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root");
    }
    if Command::new("ip").arg("-V").stdout(Stdio::null()).status().is_err() {
        return Some("needs iproute2");
    }
    None
}

/// Before any thread is started: a mount namespace with a bpffs, and a network namespace that is not the host's.
pub(crate) fn leave_the_host() {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), none).unwrap();
}

/// A pin directory of its own.
pub(crate) fn pin_dir() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    PathBuf::from(format!("{BPFFS}/room{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// A network namespace held open by a file descriptor.
pub(crate) struct Netns {
    file: File,
}

/// Namespace of the calling thread.
fn current() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

impl Netns {
    /// A new one, loopback up.
    pub(crate) fn new() -> Self {
        let file = std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                current()
            });
            made.join().unwrap()
        });
        let netns = Self { file };
        netns.ip("link set dev lo up");
        netns
    }

    /// What `ip link ... netns` takes.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Runs in this namespace. The calling thread is elsewhere for that time, so no threads are needed.
    pub(crate) fn run<T>(&self, job: impl FnOnce() -> T) -> T {
        let back = current();
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
        let result = job();
        setns(back, CloneFlags::CLONE_NEWNET).unwrap();
        result
    }

    /// A command that will run in this namespace, and end with the thread that starts it, however that ends.
    pub(crate) fn command(&self, program: &str) -> Command {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(program);
        let file = self.file.try_clone().unwrap();
        // SAFETY: prctl(2) and setns(2) alone, which are async-signal-safe; the descriptor lives as long as the closure.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                Ok(setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?)
            });
        }
        command
    }

    /// Runs a command line to its end and returns what it printed; panics when it fails.
    pub(crate) fn sh(&self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = self.command(words[0]).args(&words[1..]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{line}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// `ip` with these words.
    pub(crate) fn ip(&self, line: &str) {
        self.sh(&format!("ip {line}"));
    }

    /// Interface index of a device here.
    pub(crate) fn ifindex(&self, device: &str) -> u32 {
        self.run(|| nix::net::if_::if_nametoindex(device).unwrap())
    }

    /// One in which no device says anything by itself.
    pub(crate) fn silent() -> Self {
        let netns = Self::new();
        netns.run(|| {
            for which in ["all", "default"] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1").unwrap();
            }
        });
        netns
    }

    /// A veth from here into another namespace, both ends up.
    pub(crate) fn veth(&self, name: &str, other: &Netns, other_name: &str, mtu: u32) -> u32 {
        self.ip(&format!(
            "link add {name} mtu {mtu} type veth peer name {other_name} mtu {mtu} netns {}",
            other.path()
        ));
        self.ip(&format!("link set dev {name} up"));
        other.ip(&format!("link set dev {other_name} up"));
        self.ifindex(name)
    }
}
