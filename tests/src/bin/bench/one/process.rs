//! The start of a process: a request to the tenant's init until its program is executed, against `fork` and `exec` on the
//! host by a program of about init's size.

use std::ffi::CString;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket};
use serde_json::{Value, json};
use system_tests::daemons::INSTANCE;

/// What is started: something that stays until it is ended.
const PROGRAM: &str = "/usr/bin/sleep";

/// A connection to a tenant's init.
pub(super) struct Init(OwnedFd);

impl Init {
    pub(super) fn connect(tenant: &str) -> Result<Self> {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        let path = format!("/run/tenantd/{INSTANCE}/tenants/{tenant}.sock");
        connect(socket.as_raw_fd(), &UnixAddr::new(path.as_str())?)
            .with_context(|| format!("cannot connect to {path}"))?;
        Ok(Self(socket))
    }

    /// Microseconds of one start; the process is ended again.
    pub(super) fn start(&self) -> Result<f64> {
        let start = json!({"do": "start", "service": {"name": "timed", "argv": [PROGRAM, "1000"]}});
        let started = Instant::now();
        let reply = self.ask(&start)?;
        let took = started.elapsed().as_secs_f64() * 1e6;
        ensure!(reply["is"] == "started", "init answers {reply}");
        let reply = self.ask(&json!({"do": "remove", "name": "timed", "timeout_ms": 1000}))?;
        ensure!(reply["is"] == "done", "init answers {reply}");
        Ok(took)
    }

    fn ask(&self, request: &Value) -> Result<Value> {
        let message = json!({"protocol": 1, "id": 1, "request": request}).to_string();
        send(self.0.as_raw_fd(), message.as_bytes(), MsgFlags::empty())?;
        let mut answer = vec![0; 65_536];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        answer.truncate(length);
        Ok(serde_json::from_slice::<Value>(&answer)?["reply"].take())
    }
}

/// The program of `bench __fork` as its caller sees it.
pub(super) struct Alone {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Alone {
    pub(super) fn start() -> Result<Self> {
        let own = std::env::current_exe().context("cannot find the own program")?;
        let mut child = Command::new(own).arg("__fork").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let ask = child.stdin.take().context("no standard input")?;
        let answers = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { child, ask, answers })
    }

    /// Microseconds of one `fork` and `exec`.
    pub(super) fn process(&mut self) -> Result<f64> {
        writeln!(self.ask)?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        line.trim().parse().with_context(|| format!("bench __fork said {line:?}"))
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `bench __fork`: a process a line of standard input.
pub(crate) fn alone() -> Result<()> {
    let words = [CString::new(PROGRAM)?, CString::new("1000")?];
    let argv = [words[0].as_ptr(), words[1].as_ptr(), std::ptr::null()];
    for line in io::stdin().lines() {
        line?;
        let started = Instant::now();
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        // SAFETY: this program has one thread; the child makes system calls and ends or becomes another program.
        let pid = unsafe {
            let pid = libc::fork();
            if pid == 0 {
                libc::execve(argv[0], argv.as_ptr(), [std::ptr::null()].as_ptr());
                libc::_exit(127);
            }
            pid
        };
        drop(writer);
        // The end of the pipe: the program is executed.
        nix::unistd::read(&reader, &mut [0])?;
        let took = started.elapsed().as_secs_f64() * 1e6;
        ensure!(pid > 0, "fork: {}", io::Error::last_os_error());
        // SAFETY: system calls on a child of ours that nobody else waits for.
        unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
        println!("{took}");
    }
    Ok(())
}
