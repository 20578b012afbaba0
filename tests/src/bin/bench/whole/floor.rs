//! The floor: what a tenant with a web server takes at the least. One `clone3` with the same namespaces as a tenant
//! has, its ids mapped, a veth pair with address and permanent neighbours at both ends, nginx. No control, no files of
//! its own, no limits, no guard, nothing that lives on, nothing that is checked.
//!
//! A small program of its own (`bench __floor`), so that its `clone3` has few pages to copy. Each line it reads is one
//! tenant; it writes the time in milliseconds, with the tenant gone again.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, setns, unshare};

use super::netlink::{Batch, Netlink};
use super::site::{HOST, SERVER, get};

/// Where the configuration and what nginx writes lie.
pub(super) const DIR: &str = "/run/lab/floor";
/// Ids of the user namespace: none that a tenant of ours has here.
pub(super) const IDS: u32 = 2_000_027_648;
const NEAR_MAC: [u8; 6] = [2, 0, 0x5e, 0, 0x53, 0x0a];
const FAR_MAC: [u8; 6] = [2, 0, 0x5e, 0, 0x53, 0x01];
/// The first device that is made in a new namespace comes after `lo`.
const LO: i32 = 1;

/// The floor program as its caller sees it.
pub(super) struct Floor {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Floor {
    pub(super) fn start() -> Result<Self> {
        let own = std::env::current_exe().context("cannot find the own program")?;
        let mut child = Command::new(own).arg("__floor").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let ask = child.stdin.take().context("no standard input")?;
        let answers = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { child, ask, answers })
    }

    /// Milliseconds of one tenant.
    pub(super) fn tenant(&mut self) -> Result<f64> {
        writeln!(self.ask)?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        line.trim().parse().with_context(|| format!("bench __floor said {line:?}"))
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// nginx with nothing in its configuration that it can do without. `dir` is what it may write to.
pub(super) fn nginx_conf(dir: &str) -> String {
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {dir}/{kind}; "))
        .collect();
    format!(
        "daemon off;\nworker_processes 1;\nuser root;\npid {dir}/nginx.pid;\nerror_log stderr;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; {paths}\n server {{ listen 80; root {dir}/www; }} }}\n"
    )
}

/// The program: a tenant a line of standard input.
pub(crate) fn serve() -> Result<()> {
    // The site's end of the pairs is here.
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make the site's namespace")?;
    fs::create_dir_all(format!("{DIR}/www")).context("cannot make a directory")?;
    fs::write(format!("{DIR}/www/index.html"), "floor\n")?;
    fs::write(format!("{DIR}/nginx.conf"), nginx_conf(DIR))?;
    std::os::unix::fs::chown(DIR, Some(IDS), Some(IDS))?;
    let site = Site { here: File::open("/proc/self/ns/net")?, netlink: Netlink::open()? };
    let mut batch = Batch::default();
    batch.up(LO);
    site.netlink.ask(batch)?;
    let program = nginx()?;
    for line in io::stdin().lines() {
        line?;
        println!("{}", site.tenant(&program)?);
    }
    Ok(())
}

struct Site {
    here: File,
    netlink: Netlink,
}

impl Site {
    fn tenant(&self, program: &[CString]) -> Result<f64> {
        let started = Instant::now();
        let (pid, mut go) = clone(program)?;
        let made = self.connect(pid).and_then(|near| {
            go.write_all(b"!").context("cannot let nginx start")?;
            self.netlink.running(near)?;
            get()?;
            Ok((started.elapsed(), near))
        });
        // The pair first: with the namespace it would go at a time of the kernel's choosing.
        let removed = made.as_ref().map_or(Ok(()), |(_, near)| {
            let mut batch = Batch::default();
            batch.delete(*near);
            self.netlink.ask(batch).context("cannot remove the pair")
        });
        // SAFETY: system calls on a child of ours that nobody else waits for.
        unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
        let (took, _) = made?;
        removed?;
        Ok(took.as_secs_f64() * 1e3)
    }

    /// Maps the ids and makes the way between site and tenant; returns the index of the site's end.
    fn connect(&self, pid: i32) -> Result<i32> {
        for file in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{pid}/{file}"), format!("0 {IDS} 65536\n")).context("cannot map the ids")?;
        }
        let netns = File::open(format!("/proc/{pid}/ns/net"))?;
        let mut batch = Batch::default();
        batch.veth(("site", NEAR_MAC), ("dev0", FAR_MAC), netns.as_raw_fd());
        self.netlink.ask(batch).context("cannot make the pair")?;
        let near = index("site")?;
        let mut batch = Batch::default();
        batch.address(near, HOST);
        batch.neighbour(near, SERVER, FAR_MAC);
        batch.up(near);
        self.netlink.ask(batch).context("cannot set up the site")?;
        setns(&netns, CloneFlags::CLONE_NEWNET)?;
        let there = Netlink::open().and_then(|netlink| Ok((netlink, index("dev0")?)));
        setns(&self.here, CloneFlags::CLONE_NEWNET)?;
        let (netlink, far) = there?;
        let mut batch = Batch::default();
        batch.up(LO);
        batch.address(far, SERVER);
        batch.neighbour(far, HOST, NEAR_MAC);
        batch.up(far);
        netlink.ask(batch).context("cannot set up the tenant")?;
        Ok(near)
    }
}

pub(super) fn index(name: &str) -> Result<i32> {
    let index = nix::net::if_::if_nametoindex(name).with_context(|| format!("no device {name}"))?;
    Ok(i32::try_from(index)?)
}

/// Path and arguments of nginx.
fn nginx() -> Result<Vec<CString>> {
    let program =
        ["/usr/sbin/nginx", "/usr/local/sbin/nginx"].into_iter().find(|path| fs::exists(path).unwrap_or(false));
    let Some(program) = program else { bail!("no nginx (Debian package nginx-light)") };
    let conf = format!("{DIR}/nginx.conf");
    Ok([program, "-e", "stderr", "-c", &conf].iter().map(|word| CString::new(*word)).collect::<Result<_, _>>()?)
}

/// A child in namespaces of its own that becomes nginx when a byte comes through the pipe.
fn clone(program: &[CString]) -> Result<(i32, File)> {
    let (hold, go) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let (mut hold, go) = (File::from(hold), File::from(go));
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let argv: Vec<*const libc::c_char> = program.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect();
    let environment = [c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".as_ptr(), std::ptr::null()];
    // struct clone_args (linux/sched.h) up to its `tls`: flags, pidfd, child_tid, parent_tid, exit_signal, stack, size.
    let flags = libc::CLONE_NEWNET
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWCGROUP;
    let mut arguments = [0_u64; 8];
    arguments[0] = u64::from(flags.unsigned_abs());
    arguments[4] = libc::SIGCHLD as u64;
    // SAFETY: without a stack and without CLONE_VM this is a fork. This program has one thread; the child makes system
    // calls on what it has a copy of, and ends or becomes nginx.
    unsafe {
        let pid = libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments));
        if pid == 0 {
            let mut byte = [0];
            if hold.read(&mut byte).unwrap_or(0) == 1 {
                libc::setresgid(0, 0, 0);
                libc::setresuid(0, 0, 0);
                for fd in 0..3 {
                    libc::dup2(null.as_raw_fd(), fd);
                }
                libc::execve(argv[0], argv.as_ptr(), environment.as_ptr());
            }
            libc::_exit(127);
        }
        ensure!(pid > 0, "clone3: {}", io::Error::last_os_error());
        Ok((i32::try_from(pid)?, go))
    }
}
