//! Network namespaces of the bench: the world's nodes, and its own, which have no name and end with it.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};
use system_tests::nodes;
use system_tests::world::World;

/// A network namespace held open.
pub(crate) struct Netns {
    file: File,
}

impl Netns {
    /// A new one: loopback up, nobody checks the way back, no IPv6 noise.
    pub(crate) fn fresh() -> Result<Self> {
        let file = apart(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            // A new namespace starts with the machine's present IPv4 values.
            for (key, value) in [
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
                ("ipv6/conf/all/disable_ipv6", "1"),
            ] {
                fs::write(Path::new("/proc/sys/net").join(key), value).with_context(|| format!("cannot set {key}"))?;
            }
            File::open("/proc/thread-self/ns/net").context("cannot open the new namespace")
        })?;
        let netns = Self { file };
        netns.ip("link set lo up\n")?;
        Ok(netns)
    }

    /// A node of a world.
    pub(crate) fn node(world: &World, node: &str) -> Result<Self> {
        Self::open(&world.path(&nodes::netns_path(node).to_string_lossy()))
    }

    /// The one a tenant lives in: that of the processes `tenantd exec` starts.
    pub(crate) fn tenant(world: &World, name: &str) -> Result<Self> {
        let said = world.ok("server", &["tenantd", "exec", name, "--", "readlink", "/proc/self/ns/net"])?;
        let wanted = said.trim();
        for entry in fs::read_dir("/proc")?.flatten() {
            let link = entry.path().join("ns/net");
            if fs::read_link(&link).is_ok_and(|found| found.as_os_str() == wanted) {
                return Self::open(&link);
            }
        }
        Err(anyhow!("no process in {wanted}, the stack of {name}"))
    }

    /// One that is pinned.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self { file })
    }

    /// A path that `ip ... netns PATH` takes.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Runs `job` in a thread that is in this namespace. A socket made there stays there.
    pub(crate) fn run<T: Send>(&self, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        apart(|| {
            setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
            job()
        })
    }

    /// `ip -batch` here.
    pub(crate) fn ip(&self, batch: &str) -> Result<()> {
        self.run(|| nodes::ip(None, batch))
    }

    /// Number of a device.
    pub(crate) fn ifindex(&self, device: &str) -> Result<u32> {
        self.run(|| nix::net::if_::if_nametoindex(device).with_context(|| format!("no device {device}")))
    }

    /// A veth pair: `device` here, `peer` there, with these Ethernet addresses, both up.
    pub(crate) fn veth(&self, device: (&str, &str), there: &Self, peer: (&str, &str)) -> Result<()> {
        let netns = there.path();
        self.ip(&format!(
            "link add {} address {} type veth peer name {} address {} netns {netns}\nlink set {} up\n",
            device.0, device.1, peer.0, peer.1, device.0
        ))?;
        there.ip(&format!("link set {} up\n", peer.0))
    }
}

/// Runs `job` in a thread of its own: what it does to itself ends with it.
fn apart<T: Send>(job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| scope.spawn(job).join()).map_err(|_| anyhow!("a thread died"))?
}
