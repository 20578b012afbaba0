//! Daemons that a test starts itself: where the world has none, or where they stand in other places than usual.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use system_tests::daemons::{DIR, STATE_DIR};
use system_tests::plan::{Outer, Site};
use system_tests::world::{Running, World, eventually};

/// Where the access server of the tests listens.
pub(crate) const ACCESS: &str = "unix:///run/access-server/main/api.sock";

/// What one daemon is.
pub(crate) struct Daemon {
    /// Name of its log, as the world's report reads it.
    name: String,
    node: String,
    argv: Vec<String>,
    /// Its API.
    socket: String,
}

impl Daemon {
    /// `tenantd run` on a trunk that is a card, with state where the world's own would have it.
    pub(crate) fn tenantd(trunk: &str, access: &str) -> Self {
        let line = format!("tenantd run --state-dir {STATE_DIR} --trunk {trunk} --access {access}");
        Self::new("tenantd", "server", &line, "/run/tenantd/main/api.sock")
    }

    /// `access-server run` on the server's WAN and a trunk that is a card.
    pub(crate) fn access_server(trunk: &str) -> Self {
        let line = format!("access-server run --wan wan0 --local 203.0.113.1 --local 2001:db8:ffff::1 --trunk {trunk}");
        Self::new("access-server", "server", &line, "/run/access-server/main/api.sock")
    }

    /// `access-server site` on the site's gateway, for `servers`.
    pub(crate) fn site(site: &Site, servers: &[&str]) -> Self {
        let name = site.gw();
        let (local, tunnel) = (site.outer_v4(), site.site_tunnel(Outer::V4));
        let line = format!(
            "access-server site --instance {name} --lan lan0 --wan wan0 --local {local} --tunnel {tunnel} --server {}",
            servers.join(" --server ")
        );
        Self::new(&name, &name, &line, &format!("/run/access-server/{name}/api.sock"))
    }

    /// Any line, with the socket on which it answers.
    pub(crate) fn new(name: &str, node: &str, line: &str, socket: &str) -> Self {
        let argv = line.split(' ').map(str::to_owned).collect();
        Self { name: name.into(), node: node.into(), argv, socket: socket.into() }
    }

    /// The same with more words on its command line.
    pub(crate) fn with(mut self, words: &str) -> Self {
        self.argv.extend(words.split(' ').map(str::to_owned));
        self
    }

    /// The same in another network namespace than the node's.
    pub(crate) fn within(mut self, netns: &str) -> Self {
        self.argv.splice(0..0, ["nsenter".to_owned(), format!("--net={netns}")]);
        self
    }

    /// Starts it and waits until it accepts.
    pub(crate) fn start(&self, world: &World) -> Result<Running> {
        // What a killed predecessor left would look like a daemon that is up; a connection to it is refused.
        let (log, pid) = (format!("{DIR}/log/{}", self.name), self.pid_file());
        let script = format!("mkdir -p {DIR}/log; echo $$ >{pid}; exec \"$@\" >>{log} 2>&1");
        let mut argv = vec!["env", "NO_COLOR=1", "sh", "-c", &script, "sh"];
        argv.extend(self.argv.iter().map(String::as_str));
        let running = world.spawn(&self.node, &argv)?;
        let socket = world.path(&self.socket);
        let up = eventually(&format!("{} is up", self.name), Duration::from_secs(60), || {
            UnixStream::connect(&socket).ok().map(drop)
        });
        up.with_context(|| world.log(&self.name))?;
        Ok(running)
    }

    /// Ends it without a warning, as the kernel does when memory runs out.
    pub(crate) fn kill(&self, world: &World, running: Running) -> Result<()> {
        world.ok(&self.node, &["sh", "-ec", &format!("kill -9 $(cat {})", self.pid_file())])?;
        let ended = running.wait(Duration::from_secs(60))?;
        ensure!(!ended.status.success(), "{} was killed and ended with success", self.name);
        Ok(())
    }

    fn pid_file(&self) -> String {
        format!("{DIR}/{}.pid", self.name)
    }
}

/// Runs a shell script that must succeed.
pub(crate) fn shell(world: &World, node: &str, script: &str) -> Result<String> {
    world.ok(node, &["sh", "-ec", script])
}

/// Starts the small web server of the tests, which says `mark`, and waits until it answers.
pub(crate) fn web(world: &World, node: &str, mark: &str) -> Result<Running> {
    let running = world.spawn(node, &["python3", "-c", WEB, mark])?;
    eventually(&format!("the web server of {node}"), Duration::from_secs(60), || {
        world.ok(node, &["curl", "-sS", "-g", "--max-time", "1", "http://[::1]/"]).ok()
    })?;
    Ok(running)
}

/// The small web server's source, for places where `web` does not reach.
pub(crate) const WEB: &str = include_str!("../peers/web.py");

/// The kernel's vxlan devices in a node, each bridged with a LAN device: LAN and VNI of each.
pub(crate) fn vxlan_gateway(world: &World, node: &str, lans: &[(&str, u32)], local: &str) -> Result<()> {
    let mut script = String::new();
    for (lan, vni) in lans {
        script += &format!(
            "ip link add br{vni} type bridge forward_delay 0 mcast_snooping 0
ip link add vx{vni} type vxlan id {vni} local {local} remote 203.0.113.1 dstport 4789
ip link set {lan} master br{vni} up
ip link set vx{vni} master br{vni} up
ip link set br{vni} up
"
        );
    }
    shell(world, node, &script).map(drop)
}
