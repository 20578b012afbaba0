//! Starting a program of a service: one straight list of steps in the child, each one system call and one named
//! error, reported to the parent through a pipe that `execve` closes.
//!
//! In: a service, one of its programs, who it runs as, where its output goes. Out: a process id, or which step failed
//! and why, before the requester gets its answer.

use std::convert::Infallible;
use std::ffi::{CString, NulError};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tenant_init::protocol::{Refusal, RefusalKind, ServiceSpec};

use crate::users::Identity;

/// Search path of every service, as login(1) of Debian sets it for root.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long (milliseconds) the steps may take before the child is given up: a dead file system must not hang init.
const STEPS_MS: u16 = 5_000;

/// A program to start.
pub(crate) struct Program<'a> {
    /// The service it belongs to: environment, directory, privileges.
    pub(crate) spec: &'a ServiceSpec,
    /// Program and arguments.
    pub(crate) words: &'a [String],
    /// Who it runs as.
    pub(crate) identity: &'a Identity,
    /// Standard output and error.
    pub(crate) output: BorrowedFd<'a>,
    /// What its processes are known by, see [`crate::members`].
    pub(crate) mark: Option<u64>,
}

/// The steps of the child in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Session,
    Signals,
    Mark,
    Groups,
    Gid,
    Input,
    Output,
    Errors,
    Bounding,
    Uid,
    Capabilities,
    NoNewPrivileges,
    Directory,
    Files,
    Exec,
}

const STEPS: [(Step, &str); 15] = [
    (Step::Session, "setsid"),
    (Step::Signals, "sigprocmask"),
    (Step::Mark, "setrlimit"),
    (Step::Groups, "setgroups"),
    (Step::Gid, "setresgid"),
    (Step::Input, "open /dev/null"),
    (Step::Output, "dup2 stdout"),
    (Step::Errors, "dup2 stderr"),
    (Step::Bounding, "capability bounding set"),
    (Step::Uid, "setresuid"),
    (Step::Capabilities, "capset"),
    (Step::NoNewPrivileges, "no_new_privs"),
    (Step::Directory, "chdir"),
    (Step::Files, "close_range"),
    (Step::Exec, "execve"),
];

/// Everything the child needs, made before the fork.
struct Prepared {
    programs: Vec<CString>,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    cwd: CString,
    /// `/` when the directory cannot be entered: nobody asked for it by name.
    cwd_or_root: bool,
    output: i32,
    mark: Option<u64>,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    /// Capabilities to keep, by their numbers; all when none is said.
    kept: Option<u64>,
    no_new_privileges: bool,
    report: i32,
    // What the pointers point into.
    _argv: Vec<CString>,
    _envp: Vec<CString>,
}

impl Program<'_> {
    /// Starts a program.
    ///
    /// # Errors
    /// A [`Refusal`] for field `command` when the program is not there or cannot be executed; otherwise one that
    /// names the step.
    pub(crate) fn spawn(&self) -> Result<i32, Refusal> {
        let command = self.words.first().map_or("", String::as_str);
        let failed = |step: &str, error: &io::Error| {
            Refusal::new(RefusalKind::Failed, "command", command, format!("{step}: {error}"))
        };
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|error| failed("pipe", &error.into()))?;
        let prepared = self.prepare(writer.as_raw_fd()).map_err(|error| failed("prepare", &io::Error::other(error)))?;
        // SAFETY: init has one thread, so the child may do whatever init may do; it never returns.
        let pid = match unsafe { libc::fork() } {
            0 => child(&prepared),
            -1 => return Err(failed("fork", &io::Error::last_os_error())),
            pid => pid,
        };
        drop(writer);
        match report(&reader) {
            Ok(None) => Ok(pid),
            Ok(Some((step, errno))) => {
                reap(pid);
                Err(refuse(command, step, errno))
            }
            Err(error) => {
                // SAFETY: plain system call; the child has not been reaped, so the pid is its.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                reap(pid);
                Err(failed("start", &error))
            }
        }
    }

    fn prepare(&self, report: i32) -> Result<Prepared, NulError> {
        let Program { spec, words, identity, output, mark } = self;
        let home = PathBuf::from(&identity.home);
        let mut env = vec![
            ("PATH".to_owned(), PATH.to_owned()),
            ("HOME".to_owned(), identity.home.clone()),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
            ("USER".to_owned(), identity.name.clone()),
            ("LOGNAME".to_owned(), identity.name.clone()),
            ("SHELL".to_owned(), identity.shell.clone()),
        ];
        env.retain(|(key, _)| !spec.env.contains_key(key));
        env.extend(spec.env.iter().map(|(key, value)| (key.clone(), value.clone())));
        let path = env.iter().find(|(key, _)| key == "PATH").map_or("", |(_, path)| path.as_str());

        let command = words.first().map_or("", String::as_str);
        let programs = if command.contains('/') {
            vec![CString::new(command)?]
        } else {
            path.split(':').map(|directory| CString::new(format!("{directory}/{command}"))).collect::<Result<_, _>>()?
        };
        let argv = words.iter().map(|word| CString::new(word.as_str())).collect::<Result<Vec<_>, _>>()?;
        let envp =
            env.iter().map(|(key, value)| CString::new(format!("{key}={value}"))).collect::<Result<Vec<_>, _>>()?;
        let cwd = spec.cwd.as_ref().unwrap_or(&home);
        Ok(Prepared {
            programs,
            argv: pointers(&argv),
            envp: pointers(&envp),
            cwd: CString::new(cwd.as_os_str().as_bytes())?,
            cwd_or_root: spec.cwd.is_none(),
            output: output.as_raw_fd(),
            mark: *mark,
            uid: identity.uid,
            gid: identity.gid,
            groups: identity.groups.clone(),
            kept: spec.capabilities.as_ref().map(|names| numbers(names)),
            no_new_privileges: !spec.new_privileges,
            report,
            _argv: argv,
            _envp: envp,
        })
    }
}

/// Capabilities as bits by their numbers.
fn numbers(names: &[String]) -> u64 {
    let known = names.iter().filter_map(|name| format!("CAP_{}", name.to_ascii_uppercase()).parse().ok());
    known.fold(0, |all, capability: caps::Capability| all | capability.bitmask())
}

fn pointers(words: &[CString]) -> Vec<*const libc::c_char> {
    words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect()
}

/// The child: from here on every line is one privileged step.
fn child(prepared: &Prepared) -> ! {
    let Err((step, errno)) = steps(prepared);
    let mut message = [step as u8, 0, 0, 0, 0];
    message[1..].copy_from_slice(&errno.to_ne_bytes());
    // SAFETY: plain system calls on a buffer that lives here; _exit runs no destructor of the parent's image.
    unsafe {
        libc::write(prepared.report, message.as_ptr().cast(), message.len());
        libc::_exit(127)
    }
}

/// One step: the result of its system call, or its name with the error number.
fn step(step: Step, result: libc::c_int) -> Result<libc::c_int, (Step, i32)> {
    if result < 0 { Err((step, Errno::last_raw())) } else { Ok(result) }
}

/// Runs the steps; returns only with the one that failed.
fn steps(prepared: &Prepared) -> Result<Infallible, (Step, i32)> {
    let (uid, gid) = (prepared.uid, prepared.gid);
    // SAFETY: plain system calls; every pointer is into `prepared`, which outlives them.
    unsafe {
        step(Step::Session, libc::setsid())?;
        step(Step::Signals, default_signals())?;
        if let Some(mark) = prepared.mark {
            let limit = libc::rlimit { rlim_cur: mark, rlim_max: mark };
            step(Step::Mark, libc::setrlimit(libc::RLIMIT_LOCKS, &limit))?;
        }
        step(Step::Groups, libc::setgroups(prepared.groups.len(), prepared.groups.as_ptr()))?;
        step(Step::Gid, libc::setresgid(gid, gid, gid))?;
        let null = step(Step::Input, libc::open(c"/dev/null".as_ptr(), libc::O_RDWR))?;
        step(Step::Input, libc::dup2(null, 0))?;
        step(Step::Output, libc::dup2(prepared.output, 1))?;
        step(Step::Errors, libc::dup2(prepared.output, 2))?;
        if let Some(kept) = prepared.kept {
            step(Step::Bounding, bound(kept))?;
            if uid != 0 && kept != 0 {
                step(Step::Bounding, libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0))?;
            }
        }
        // Leaving uid 0 empties the permitted, effective and ambient sets unless the line above keeps the first.
        step(Step::Uid, libc::setresuid(uid, uid, uid))?;
        if let Some(kept) = prepared.kept.filter(|kept| uid != 0 && *kept != 0) {
            step(Step::Capabilities, hand_down(kept))?;
        }
        if prepared.no_new_privileges {
            step(Step::NoNewPrivileges, libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        }
        libc::umask(0o022);
        let entered = libc::chdir(prepared.cwd.as_ptr());
        if entered < 0 && prepared.cwd_or_root {
            step(Step::Directory, libc::chdir(c"/".as_ptr()))?;
        } else {
            step(Step::Directory, entered)?;
        }
        // The report pipe has to live until execve: everything is only marked.
        step(Step::Files, close_on_exec_from_3())?;
    }
    let mut errno = libc::ENOENT;
    for program in &prepared.programs {
        // SAFETY: as above; the arrays end with a null pointer.
        unsafe { libc::execve(program.as_ptr(), prepared.argv.as_ptr(), prepared.envp.as_ptr()) };
        // As execvp(3): a directory without the program is passed over, a refusal is remembered.
        match Errno::last_raw() {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => errno = libc::EACCES,
            other => return Err((Step::Exec, other)),
        }
    }
    Err((Step::Exec, errno))
}

/// Drops everything but `kept` from the bounding set.
fn bound(kept: u64) -> i32 {
    for number in 0..64_u64 {
        // SAFETY: plain system calls. Reading fails at the first number that the kernel does not know.
        unsafe {
            match libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) {
                1 if kept & (1 << number) == 0 => {
                    if libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) < 0 {
                        return -1;
                    }
                }
                0 | 1 => {}
                _ => return 0,
            }
        }
    }
    0
}

/// Gives `kept`, as far as it is permitted, to the program that a user other than root is about to execute.
fn hand_down(kept: u64) -> i32 {
    // include/uapi/linux/capability.h: version 3, two words of effective, permitted and inheritable each.
    let header = [0x2008_0522_u32, 0];
    let mut sets = [[0_u32; 3]; 2];
    let halves = [kept as u32, (kept >> 32) as u32];
    // SAFETY: plain system calls on data that lives here.
    unsafe {
        if libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) < 0 {
            return -1;
        }
        for (set, half) in sets.iter_mut().zip(halves) {
            let permitted = set[1] & half;
            *set = [permitted; 3];
        }
        if libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) < 0 {
            return -1;
        }
        for number in 0..64_usize {
            let permitted = sets[number / 32][1] & (1 << (number % 32)) != 0;
            if permitted && libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, number, 0, 0) < 0 {
                return -1;
            }
        }
    }
    0
}

/// Default handlers and an empty mask: init blocks signals for its signalfd, Rust ignores SIGPIPE, and whoever
/// started the daemon may ignore what he likes.
fn default_signals() -> i32 {
    // handler, flags, restorer and mask of the kernel's own structure.
    let default = [0_u64; 4];
    // SAFETY: plain system calls on data that lives here. By number, because the C library keeps 32 and 33 to itself.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u8>(), 8_usize);
        }
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut())
    }
}

fn close_on_exec_from_3() -> i32 {
    // SAFETY: plain system call. By number: the wrapper is missing in older C libraries.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_uint) };
    i32::try_from(result).unwrap_or(-1)
}

/// None when `execve` closed the pipe; the failed step otherwise.
fn report(reader: &OwnedFd) -> io::Result<Option<(Step, i32)>> {
    loop {
        match poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], PollTimeout::from(STEPS_MS)) {
            Ok(0) => return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut message = [0_u8; 5];
    let length = nix::unistd::read(reader, &mut message)?;
    if length == 0 {
        return Ok(None);
    }
    let [number, errno @ ..] = message;
    let step = STEPS.iter().find(|(step, _)| *step as u8 == number);
    match step {
        Some((step, _)) if length == 5 => Ok(Some((*step, i32::from_ne_bytes(errno)))),
        _ => Err(io::Error::from_raw_os_error(libc::EPROTO)),
    }
}

fn refuse(command: &str, step: Step, errno: i32) -> Refusal {
    let cause = io::Error::from_raw_os_error(errno);
    let name = STEPS.iter().find(|(one, _)| *one == step).map_or("?", |(_, name)| name);
    let (kind, rule) = match (step, errno) {
        (Step::Exec, libc::ENOENT | libc::ENOTDIR) => {
            (RefusalKind::Command, format!("the program is not found in the tenant ({cause})"))
        }
        (Step::Exec, libc::EACCES | libc::EISDIR | libc::ENOEXEC | libc::EPERM) => {
            (RefusalKind::Command, format!("the program is not executable for the tenant's user ({cause})"))
        }
        _ => (RefusalKind::Failed, format!("{name}: {cause}")),
    };
    Refusal::new(kind, "command", command, rule)
}

fn reap(pid: i32) {
    let mut status = 0;
    loop {
        // SAFETY: plain system call on a variable that lives here.
        let result = unsafe { libc::waitpid(pid, &mut status, 0) };
        if result >= 0 || Errno::last() != Errno::EINTR {
            return;
        }
    }
}
