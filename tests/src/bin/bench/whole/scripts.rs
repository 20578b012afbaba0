//! The ways of others: a shell script of somebody who has done it often, and `systemd-nspawn` in a stack that such a
//! script has made.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::floor::{index, nginx_conf};
use super::netlink::Netlink;
use super::site::{HOST, SERVER, get};

const DIR: &str = "/run/lab/hand";
const CGROUPS: &str = "/sys/fs/cgroup";
/// What nspawn takes as a root: directories, the fewest files; the programs are the host's.
const TREE: &str = "/run/lab/nspawn";

/// Name space, pair, addresses, permanent neighbours: both need it. No `ip` process a step.
const STACK: &str = r#"set -e
ip netns add $1
ip -batch - <<END
link add site address 02:00:5e:00:53:0a type veth peer name dev0 address 02:00:5e:00:53:01 netns $1
address add HOST/24 dev site
neigh add SERVER lladdr 02:00:5e:00:53:01 dev site nud permanent
link set site up
END
ip -n $1 -batch - <<END
link set lo up
address add SERVER/24 dev dev0
neigh add HOST lladdr 02:00:5e:00:53:0a dev dev0 nud permanent
link set dev0 up
END
echo stack
"#;

/// The stack belongs to the host, so root of the user namespace may not have port 80 without the setting.
const BY_HAND: &str = r#"
ip netns exec $1 sh -c 'echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start'
exec nsenter --net=/run/netns/$1 unshare --mount --pid --fork --kill-child --uts --ipc --cgroup --user \
    --map-root-user nginx -e stderr -c DIR/nginx.conf
"#;

/// Without `--private-users`, which it does not take together with a stack that is there.
const NSPAWN: &str = r#"
exec systemd-nspawn --quiet --register=no --keep-unit --network-namespace-path=/run/netns/$1 --directory=TREE \
    --bind-ro=/usr --console=pipe nginx -e stderr -c /etc/nginx.conf
"#;

const REMOVE: &str = r#"
for pid in $(ip netns pids $1); do kill -9 $pid 2>/dev/null || true; done
ip link delete site
ip netns delete $1
"#;

/// What both ways need.
pub(super) struct Scripts {
    site: File,
    netlink: Netlink,
}

impl Scripts {
    pub(super) fn new() -> Result<Self> {
        own_cgroup().context("cannot make a cgroup for systemd-nspawn")?;
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make the site's namespace")?;
        let site = File::open("/proc/self/ns/net")?;
        run("ip link set lo up", "")?;
        fs::create_dir_all(format!("{DIR}/www"))?;
        fs::write(format!("{DIR}/www/index.html"), "by hand\n")?;
        fs::write(format!("{DIR}/nginx.conf"), nginx_conf(DIR))?;
        for dir in ["usr", "etc", "proc", "sys", "dev", "run", "var", "tmp", "srv/www"] {
            fs::create_dir_all(format!("{TREE}/{dir}"))?;
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{link}"), format!("{TREE}/{link}"))?;
        }
        fs::write(format!("{TREE}/etc/os-release"), "ID=bench\n")?;
        fs::write(format!("{TREE}/etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
        fs::write(format!("{TREE}/etc/group"), "root:x:0:\n")?;
        fs::write(format!("{TREE}/srv/www/index.html"), "nspawn\n")?;
        fs::write(format!("{TREE}/etc/nginx.conf"), nginx_conf("/srv"))?;
        for (name, last) in [("by-hand.sh", BY_HAND), ("nspawn.sh", NSPAWN), ("remove.sh", REMOVE)] {
            let stack = if name == "remove.sh" { "" } else { STACK };
            let text = format!("{stack}{last}")
                .replace("HOST", &HOST.to_string())
                .replace("SERVER", &SERVER.to_string())
                .replace("TREE", TREE)
                .replace("DIR", DIR);
            fs::write(format!("{DIR}/{name}"), text)?;
        }
        Ok(Self { site, netlink: Netlink::open()? })
    }

    /// Milliseconds of the script.
    pub(super) fn by_hand(&mut self, n: usize) -> Result<f64> {
        self.timed("by-hand.sh", &format!("hand-{n}"))
    }

    /// Milliseconds of the script that ends in nspawn.
    pub(super) fn nspawn(&mut self, n: usize) -> Result<f64> {
        self.timed("nspawn.sh", &format!("spawn-{n}"))
    }

    fn timed(&self, script: &str, name: &str) -> Result<f64> {
        setns(&self.site, CloneFlags::CLONE_NEWNET).context("cannot enter the site")?;
        let log = File::create(format!("{DIR}/log"))?;
        let mut command = Command::new("bash");
        command.arg(format!("{DIR}/{script}")).arg(name).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let started = Instant::now();
        let mut child = command.spawn().context("cannot run bash")?;
        let done = stands(&mut child).and_then(|()| self.netlink.running(index("site")?)).and_then(|()| get());
        let took = started.elapsed().as_secs_f64() * 1e3;
        let _ = run(&format!("bash {DIR}/remove.sh"), name);
        let _ = child.kill();
        let _ = child.wait();
        done.with_context(|| fs::read_to_string(format!("{DIR}/log")).unwrap_or_default())?;
        Ok(took)
    }
}

/// nspawn makes cgroups below its own, by their paths: it gets one of the world's, where it sees the world's only.
fn own_cgroup() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(Some("cgroup2"), CGROUPS, Some("cgroup2"), MsFlags::empty(), None::<&str>)?;
    fs::create_dir(format!("{CGROUPS}/scripts"))?;
    Ok(fs::write(format!("{CGROUPS}/scripts/cgroup.procs"), "0")?)
}

/// Waits until the script says that the stack stands: what is sent before that may be lost, and repeated a second later.
fn stands(child: &mut Child) -> Result<()> {
    let mut line = [0; 6];
    child.stdout.as_mut().context("no output")?.read_exact(&mut line).context("the script has ended")
}

fn run(command: &str, argument: &str) -> Result<()> {
    let mut words = command.split_whitespace();
    let program = words.next().context("no command")?;
    let status = Command::new(program)
        .args(words)
        .args(Some(argument).filter(|word| !word.is_empty()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {command}"))?;
    ensure!(status.success(), "{command} -> {status}");
    Ok(())
}
