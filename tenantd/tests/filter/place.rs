//! A network namespace without a name; it ends with the test.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use tenantd::net::filter::Netfilter;
use tenantd::net::link::{self, VethEnd};
use tenantd::net::ns::NetNs;

pub(crate) struct Place(OwnedFd);

/// A process that holds a namespace.
pub(crate) struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Place {
    /// Loopback up.
    pub(crate) fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            OwnedFd::from(std::fs::File::open("/proc/thread-self/ns/net").unwrap())
        });
        let place = Self(made.join().unwrap());
        place.sh("ip link set dev lo up");
        place
    }

    /// One that belongs to a user namespace, as a tenant's own stack.
    pub(crate) fn of_a_user_namespace() -> (Self, Holder) {
        let holder = Holder(Command::new("unshare").args(["-U", "-n", "sleep", "60"]).spawn().unwrap());
        let path = format!("/proc/{}/ns/net", holder.0.id());
        let ours = std::fs::read_link("/proc/self/ns/net").unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::fs::read_link(&path).unwrap() == ours {
            assert!(Instant::now() < deadline, "unshare has made no namespace");
            std::thread::sleep(Duration::from_millis(5));
        }
        (Self(std::fs::File::open(path).unwrap().into()), holder)
    }

    /// A veth to another place, `eth0` in both.
    pub(crate) fn link(&self, other: &Place) {
        let netlink = self.ns().netlink().unwrap();
        let end = VethEnd { name: "eth0", mac: None, mtu: 1500 };
        link::add_veth(&netlink, end, end, other.0.as_fd()).unwrap();
        other.sh("ip link set dev eth0 up");
    }

    fn ns(&self) -> NetNs {
        NetNs::from(self.0.try_clone().unwrap())
    }

    pub(crate) fn netfilter(&self) -> Netfilter {
        self.run(|| Netfilter::open().unwrap())
    }

    /// Runs `job` on a thread in here.
    pub(crate) fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        self.ns().run(job).unwrap()
    }

    /// A command that will run in here, and end with the thread that starts it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let fd = self.0.try_clone().unwrap();
        // SAFETY: prctl(2) and setns(2) alone, which are async-signal-safe; the descriptor lives as long as the closure.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                Ok(setns(fd.as_fd(), CloneFlags::CLONE_NEWNET)?)
            });
        }
        command
    }

    /// Runs a command line to its end; panics when it fails.
    pub(crate) fn sh(&self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = self.command(words[0]).args(&words[1..]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{line}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Has nft do what a file says.
    pub(crate) fn nft(&self, file: &str) {
        let mut nft = self.command("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(file.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "{file}");
    }
}
