//! The programs that run in a world for as long as it stands: both daemons on the server and the gateways.
//!
//! The holder starts them and starts them again when they die, as a service manager would. A file
//! `/run/lab/hold/DAEMON` in the world keeps a dead one down until the file is removed.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::nodes;
use crate::plan::{Gateway, Kind, Options, SERVER_INNER_V4, SERVER_INNER_V6, SERVER_OUTER_V4, SERVER_OUTER_V6};
use crate::world::World;

/// The lab's own files inside a world (a private tmpfs).
pub const DIR: &str = "/run/lab";
/// State of `tenantd` inside a world: on the private tmpfs, so that nothing is left on the machine.
pub const STATE_DIR: &str = "/run/lab/state";
/// The instance both daemons run as.
pub const INSTANCE: &str = "main";

/// How long a daemon may take until it answers.
const START: Duration = Duration::from_secs(60);

/// One supervised program.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// Name of its log and of its hold file.
    pub name: String,
    /// Node it runs in.
    pub node: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Unix socket on which it accepts when it is up.
    socket: PathBuf,
}

/// The daemons of a plan, in the order they are started.
#[must_use]
pub fn of(options: &Options) -> Vec<Daemon> {
    let mut daemons = Vec::new();
    if options.server {
        daemons.push(tenantd());
        daemons.push(access_server());
    }
    if options.gateway == Gateway::Site {
        for site in options.sites().filter(|site| site.kind != Kind::Vxlan) {
            let mut argv = words(&["access-server", "site", "--lan", "lan0", "--wan", "wan0", "--local"]);
            argv.push(site.outer(options.outer));
            argv.extend(["--tunnel".into(), site.site_tunnel(options.outer)]);
            if options.inner.v4() {
                argv.extend(words(&["--server", SERVER_INNER_V4]));
            }
            if options.inner.v6() {
                argv.extend(words(&["--server", SERVER_INNER_V6]));
            }
            let name = site.gw();
            argv.extend(["--instance".into(), name.clone()]);
            let socket = format!("/run/access-server/{name}/api.sock").into();
            daemons.push(Daemon { name: name.clone(), node: name, argv, socket });
        }
    }
    daemons
}

fn tenantd() -> Daemon {
    Daemon {
        name: "tenantd".into(),
        node: "server".into(),
        argv: words(&["tenantd", "run", "--instance", INSTANCE, "--state-dir", STATE_DIR]),
        socket: format!("/run/tenantd/{INSTANCE}/api.sock").into(),
    }
}

fn access_server() -> Daemon {
    let (v4, v6) = (SERVER_OUTER_V4.to_string(), SERVER_OUTER_V6.to_string());
    Daemon {
        name: "access-server".into(),
        node: "server".into(),
        argv: words(&["access-server", "run", "--instance", INSTANCE, "--wan", "wan0", "--local", &v4, "--local", &v6]),
        socket: format!("/run/access-server/{INSTANCE}/api.sock").into(),
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

impl Daemon {
    /// Starts it in its node, output to `/run/lab/log/NAME`.
    ///
    /// # Errors
    /// The program is missing or the node is.
    pub fn start(&self) -> Result<Child> {
        let netns = File::open(nodes::netns_path(&self.node)).with_context(|| format!("no node {}", self.node))?;
        fs::create_dir_all(Path::new(DIR).join("log")).context("cannot make the log directory")?;
        let log = File::options().create(true).append(true).open(self.log()).context("cannot open the log")?;
        let (program, arguments) = self.argv.split_first().context("a daemon without a program")?;
        let mut command = Command::new(program);
        // Logs are read by people and by tests: no colours.
        command.env("NO_COLOR", "1");
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        // SAFETY: between fork and exec only setns(2) is called, which is one system call and allocates nothing.
        unsafe {
            command.pre_exec(move || Ok(setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?));
        }
        command.spawn().with_context(|| format!("cannot run {program} (built? cargo build --release --workspace)"))
    }

    /// Waits until it is up.
    ///
    /// # Errors
    /// It ended, or it does not answer in time: with the end of its log.
    pub fn wait_ready(&self, child: &mut Child) -> Result<()> {
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                bail!("{} ended with {status}; its last words:\n{}", self.name, self.last_words());
            }
            if UnixStream::connect(&self.socket).is_ok() {
                return Ok(());
            }
            let waited = started.elapsed();
            if waited > START {
                bail!(
                    "{} does not answer after {} s; its last words:\n{}",
                    self.name,
                    START.as_secs(),
                    self.last_words()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether a hold file keeps it down.
    #[must_use]
    pub fn is_held(&self) -> bool {
        Path::new(DIR).join("hold").join(&self.name).exists()
    }

    fn log(&self) -> PathBuf {
        Path::new(DIR).join("log").join(&self.name)
    }

    fn last_words(&self) -> String {
        let text = fs::read(self.log()).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(8)).map(|l| format!("  {l}\n")).collect()
    }
}

/// Process id of a daemon of this name in a world, if one runs. Without a process for each that is looked at: there may be
/// thousands.
///
/// # Errors
/// The world's /proc cannot be read.
pub fn pid(world: &World, daemon: &str) -> Result<Option<u32>> {
    let wanted = format!("{daemon}\0run\0");
    for entry in fs::read_dir(world.path("/proc"))? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has just ended cannot be read.
        if fs::read(entry.path().join("cmdline")).is_ok_and(|line| line.starts_with(wanted.as_bytes())) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn gateways_speak_to_the_server() {
        let options = Options { kinds: vec![Kind::Ipip, Kind::Vxlan], sites: 2, server: false, ..Options::default() };
        let daemons = of(&options);
        assert_eq!(daemons.len(), 1, "the vxlan gateway is the kernel's");
        let line = daemons.first().unwrap().argv.join(" ");
        assert_eq!(
            line,
            "access-server site --lan lan0 --wan wan0 --local 198.51.100.2 --tunnel ipip:203.0.113.1 \
             --server 192.168.1.1 --server fd00:192:168:1::1 --instance gw-a"
        );
    }
}
