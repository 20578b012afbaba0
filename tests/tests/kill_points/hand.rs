//! A daemon of a world in the test's own hand instead of the world's: started with a fault point armed, ended, waited for.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::daemons;
use system_tests::world::{World, eventually};

/// How long a daemon may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which daemon, and how it is started.
#[derive(Clone)]
pub(crate) struct Hand<'a> {
    world: &'a World,
    name: String,
    argv: Vec<String>,
    variable: &'static str,
    socket: PathBuf,
}

impl<'a> Hand<'a> {
    /// Takes the world's tenantd into the hand: it does not run until it is started.
    pub(crate) fn tenantd(world: &'a World) -> Result<Self> {
        Self::take(world, "tenantd", "TENANTD_FAULT", "/run/tenantd/main/api.sock")
    }

    /// Takes the world's access server.
    pub(crate) fn access_server(world: &'a World) -> Result<Self> {
        Self::take(world, "access-server", "ACCESS_SERVER_FAULT", "/run/access-server/main/api.sock")
    }

    fn take(world: &'a World, name: &str, variable: &'static str, socket: &str) -> Result<Self> {
        let daemon = daemons::of(world.options()).into_iter().find(|d| d.name == name).context("no such daemon")?;
        File::create(world.path(&format!("{}/hold/{name}", daemons::DIR)))?;
        let pid = crate::kill9::pid(world, name)?.context("it does not run")?;
        world.ok("server", &["kill", "-9", &pid.to_string()])?;
        let gone = || UnixStream::connect(world.path(socket)).is_err().then_some(());
        eventually(&format!("{name} is gone"), PATIENCE, gone)?;
        Ok(Self { world, name: name.to_owned(), argv: daemon.argv, variable, socket: world.path(socket) })
    }

    /// Another instance than the world's, with more words on its command line.
    pub(crate) fn other(&self, argv: &[&str], socket: &str) -> Self {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        Self { argv, socket: self.world.path(socket), ..self.clone() }
    }

    /// The same with more words at the end of its command line.
    pub(crate) fn and(&self, words: &[&str]) -> Self {
        let argv = self.argv.iter().cloned().chain(words.iter().map(|word| (*word).to_owned())).collect();
        Self { argv, ..self.clone() }
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> &PathBuf {
        &self.socket
    }

    /// The file it writes its words to.
    pub(crate) fn log(&self) -> String {
        self.world.log(&self.name)
    }

    /// Starts it, with `fault` armed unless it is empty.
    pub(crate) fn start(&self, fault: &str) -> Result<Started> {
        let path = self.world.path(&format!("{}/log/{}", daemons::DIR, self.name));
        let log = File::options().create(true).append(true).open(path)?;
        let argv: Vec<&str> = self.argv.iter().map(String::as_str).collect();
        let mut command: Command = self.world.command("server", &argv)?;
        command.env("NO_COLOR", "1").env_remove(self.variable);
        if !fault.is_empty() {
            command.env(self.variable, fault);
        }
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(Started { child, socket: self.socket.clone(), fault: fault.to_owned() })
    }

    /// Starts it and waits until it answers.
    pub(crate) fn up(&self, fault: &str) -> Result<Started> {
        let mut started = self.start(fault)?;
        if let Err(error) = started.ready() {
            let log = self.log();
            let last: Vec<&str> = log.lines().rev().take(6).collect();
            bail!("{error:#}; its last words, newest first: {last:#?}");
        }
        Ok(started)
    }
}

/// A daemon that was started; it ends with the value.
pub(crate) struct Started {
    child: Child,
    socket: PathBuf,
    fault: String,
}

impl Started {
    /// Waits until it answers.
    pub(crate) fn ready(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while UnixStream::connect(&self.socket).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("the daemon with {:?} ended with {status} before it answered", self.fault);
            }
            ensure!(Instant::now() < until, "the daemon with {:?} does not answer", self.fault);
            std::thread::sleep(Duration::from_millis(4));
        }
        Ok(())
    }

    /// Its process id on the machine.
    pub(crate) fn pid(&self) -> Result<Pid> {
        let own = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children"))?;
        let pid = children.split_whitespace().next().context("the daemon has no process")?;
        Ok(Pid::from_raw(pid.parse()?))
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid()?, signal)?)
    }

    /// Waits for its end; the code as a shell tells it, 137 after a kill.
    pub(crate) fn end(&mut self, patience: Duration) -> Result<i32> {
        let until = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return status.code().context("`lab exec` was killed");
            }
            ensure!(Instant::now() < until, "the daemon with {:?} did not end within {patience:?}", self.fault);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for its end at its fault point.
    pub(crate) fn killed(mut self) -> Result<()> {
        let code = self.end(PATIENCE)?;
        ensure!(code == 137, "the daemon with {:?} ended with {code} instead of being killed", self.fault);
        Ok(())
    }

    /// Kills it, as nobody expects.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.end(PATIENCE).map(drop)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let daemon = self.pid();
        // The daemon has the end of `lab exec` as its death signal.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // It has been told to die, not died: until then it holds the locks that the next one asks for. Whether somebody
        // reaps it is the machine's affair: a process of which one thread is left, a zombie, holds nothing.
        let until = Instant::now() + PATIENCE;
        while daemon.as_ref().is_ok_and(|pid| lives(*pid)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Whether a process still holds something.
fn lives(pid: Pid) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let zombie = stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'));
    !zombie || std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1)
}
