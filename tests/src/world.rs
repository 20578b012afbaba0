//! A world as its maker holds it: the lab's `up`, a test, the bench.
//!
//! A [`World`] that is dropped is gone when `drop` returns, and one whose process dies goes too: the watcher sees the
//! connection close. [`World::keep`] makes it stand on its own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::holder;
use crate::plan::Options;
use crate::record::{self, Record};

/// A standing world.
pub struct World {
    /// How others find it.
    pub record: Record,
    maker: Option<UnixStream>,
}

/// The directory of the programs built together with the caller.
///
/// # Errors
/// The caller's own path cannot be read.
pub fn bin_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot find the own program")?;
    let dir = exe.parent().context("a program without a directory")?;
    // Tests are and examples are built one level deeper than the programs.
    let dir = if dir.ends_with("deps") || dir.ends_with("examples") { dir.parent().unwrap_or(dir) } else { dir };
    Ok(dir.to_path_buf())
}

/// A name for a world no other test uses.
#[must_use]
pub fn unique_name(stem: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let stem: String = stem.chars().take(10).collect();
    format!("{stem}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl World {
    /// Makes a world and waits until it stands. `say` is told of every step.
    ///
    /// # Errors
    /// Wrong options, not root, the name is taken, a program is missing, a step failed.
    pub fn up(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Self> {
        options.check().map_err(anyhow::Error::msg)?;
        if !nix::unistd::geteuid().is_root() {
            bail!("not root: network namespaces need root (sudo lab up ...)");
        }
        let (ours, theirs) = UnixStream::pair().context("cannot make a socket pair")?;
        let lab = bin_dir()?.join("lab");
        let mut watcher = Command::new(&lab)
            .arg("__hold")
            .arg(serde_json::to_string(options)?)
            .env("PATH", path())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            // Whoever waits for the end of our output must not wait for the world's end.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}", lab.display()))?;
        // The watcher outlives us when we keep the world: reap it from a thread, wherever it ends.
        std::thread::spawn(move || watcher.wait());
        let mut lines = BufReader::new(ours.try_clone()?);
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line).context("cannot hear the holder")? == 0 {
                bail!("the holder of the lab died while making it");
            }
            let line = line.trim_end();
            if line == holder::READY {
                break;
            } else if let Some(step) = line.strip_prefix(holder::STEP) {
                say(step);
            } else if let Some(why) = line.strip_prefix(holder::FAILED) {
                bail!("{}", why.replace("\\n", "\n"));
            }
        }
        // The watcher writes the record while the holder makes the world: either may be the first to be done.
        let written = eventually("the record of the lab", Duration::from_secs(30), || record::read(&options.name).ok());
        let record = written.or_else(|_| record::read(&options.name))?;
        Ok(Self { record, maker: Some(ours) })
    }

    /// Lets the world stand on its own; `lab down` ends it.
    ///
    /// # Errors
    /// It has just ended.
    pub fn keep(mut self) -> Result<()> {
        let mut maker = self.maker.take().context("kept already")?;
        maker.write_all(&[holder::KEEP]).context("the lab is gone")?;
        let mut line = String::new();
        BufReader::new(maker).read_line(&mut line).context("the lab is gone")?;
        Ok(())
    }

    /// What it was made of.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.record.options
    }

    /// A command in a node, ready to run.
    ///
    /// # Errors
    /// The own program directory is unknown.
    pub fn command(&self, node: &str, argv: &[&str]) -> Result<Command> {
        let mut command = Command::new(bin_dir()?.join("lab"));
        command.args(["exec", "--name", &self.record.options.name, node, "--"]).args(argv).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a command in a node and waits for it.
    ///
    /// # Errors
    /// It cannot be run. Its own failure is in the output.
    pub fn exec(&self, node: &str, argv: &[&str]) -> Result<Output> {
        self.command(node, argv)?.output().with_context(|| format!("cannot run {argv:?} on {node}"))
    }

    /// Runs a command that must succeed; returns its standard output.
    ///
    /// # Errors
    /// It failed: with all it said.
    pub fn ok(&self, node: &str, argv: &[&str]) -> Result<String> {
        let output = self.exec(node, argv)?;
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let err = String::from_utf8_lossy(&output.stderr);
            bail!("on {node}: {} -> {}\n{}{}", argv.join(" "), output.status, out, err.trim_end());
        }
        Ok(out)
    }

    /// Starts a command in a node; its output is piped. It ends with the value.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn spawn(&self, node: &str, argv: &[&str]) -> Result<Running> {
        self.spawn_to(node, argv, Stdio::piped())
    }

    /// As [`World::spawn`], with its standard output where the caller wants it: more than a pipe holds would stop a
    /// command that nobody reads yet.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn spawn_to(&self, node: &str, argv: &[&str], output: Stdio) -> Result<Running> {
        let child = self
            .command(node, argv)?
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {argv:?} on {node}"))?;
        Ok(Running { child: Some(child), what: argv.join(" ") })
    }

    /// A path of the world as the machine sees it.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.record.holder)).join(inside.trim_start_matches('/'))
    }

    /// What one wants to know of the server when something failed: status, counters, the ends of the logs.
    #[must_use]
    pub fn report(&self) -> String {
        let run = |argv: &[&str]| match self.exec("server", argv) {
            Ok(o) => format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr)),
            Err(e) => format!("{e:#}\n"),
        };
        let last = |daemon: &str| {
            let log = self.log(daemon);
            let lines: Vec<&str> = log.lines().collect();
            lines.iter().skip(lines.len().saturating_sub(12)).map(|l| format!("{l}\n")).collect::<String>()
        };
        let mut report = String::new();
        for argv in [&["tenantd", "status"] as &[&str], &["tenantd", "list"], &["access-server", "counters"]] {
            report += &format!("--- {}\n{}", argv.join(" "), run(argv));
        }
        for site in self.options().sites().take(4) {
            let gateway = site.gw();
            let argv = ["access-server", "counters", "--instance", &gateway];
            report += &format!("--- {}\n{}", argv.join(" "), run(&argv));
        }
        for daemon in ["tenantd", "access-server"] {
            report += &format!("--- log of {daemon}\n{}", last(daemon));
        }
        report
    }

    /// What a daemon wrote so far.
    #[must_use]
    pub fn log(&self, daemon: &str) -> String {
        let bytes = std::fs::read(self.path(&format!("{}/log/{daemon}", crate::daemons::DIR))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(maker) = self.maker.take() {
            drop(maker);
            if let Err(e) = holder::end(&self.record) {
                eprintln!("lab: {e:#}");
            }
        }
    }
}

fn path() -> String {
    let dir = bin_dir().unwrap_or_default();
    format!("{}:{}", dir.display(), crate::enter::path_with_binaries())
}

/// A command that runs in a node.
pub struct Running {
    child: Option<Child>,
    what: String,
}

impl Running {
    /// Its standard output, to be read while it runs; it can be taken once.
    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.as_mut()?.stdout.take()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs after `limit` (then it is ended), or it cannot be waited for.
    pub fn wait(mut self, limit: Duration) -> Result<Output> {
        let mut child = self.child.take().context("waited for already")?;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
        drop(child.stdin.take());
        let (done, timer) = std::sync::mpsc::channel::<()>();
        let guard = std::thread::spawn(move || {
            let late = timer.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
            if late {
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            late
        });
        let output = child.wait_with_output().with_context(|| format!("cannot wait for {}", self.what))?;
        drop(done);
        if guard.join().unwrap_or(false) {
            bail!("{} did not end within {limit:?}; it said {}", self.what, String::from_utf8_lossy(&output.stdout));
        }
        Ok(output)
    }

    /// Whether the command, which was started long ago, waits for something to do at this moment.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let own = self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok());
        let sleeps = |pid: i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The name in field 2 may hold blanks and parentheses: the state follows its last parenthesis.
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('S'))
        };
        own.is_some_and(|own| descendants(own).into_iter().all(sleeps))
    }

    /// Interrupts it as Ctrl-C would and waits: for ping, tcpdump and their like, which then print their sums.
    ///
    /// # Errors
    /// It does not end within 60 s.
    pub fn interrupt(self) -> Result<Output> {
        if let Some(child) = &self.child {
            let own = i32::try_from(child.id())?;
            for pid in descendants(own) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGINT);
            }
        }
        self.wait(Duration::from_secs(60))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The direct children of a process.
fn descendants(pid: i32) -> Vec<i32> {
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|p| p.parse().ok())
        .collect()
}

/// Asks again and again until `probe` has an answer. Time in which this thread was not let run does not count, and a
/// question that took long is followed by another one: the last one is asked when `limit` is over.
///
/// # Errors
/// `what` did not come true within `limit`.
pub fn eventually<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    const PAUSE: Duration = Duration::from_millis(20);
    let mut until = Instant::now() + limit;
    loop {
        let asked = Instant::now();
        if let Some(answer) = probe() {
            return Ok(answer);
        }
        if asked > until {
            bail!("{what}: not within {limit:?}");
        }
        let paused = Instant::now();
        std::thread::sleep(PAUSE);
        // A machine that stands still for a second keeps whoever is waited for from working, too.
        until += paused.elapsed().saturating_sub(PAUSE);
    }
}
