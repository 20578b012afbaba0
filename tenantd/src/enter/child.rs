//! The one who enters: a straight list of steps from the host's root to a user of the tenant, and what it may do then.
//!
//! The order is the point. What needs the host comes first (cgroups, limits, keyring); then all namespaces but the
//! user namespace, because they are the host's and only the host's root may enter them; then the user namespace, which
//! takes every capability over the host away; then the lists of `tenant_init::lock`, then the user. Only then is
//! anything of the tenant opened: by its own credentials.

use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, chdir, execve, pipe2, setgroups, setresgid, setresuid, setsid, write};
use tenant_init::lock;

use super::hold::Hold;
use super::people::{self, Person};

/// Where programs are looked for in a tenant; at the end the tenant's own `tenantd`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/tenantd";

/// Of the operator's environment: what describes his terminal and language, and nothing else.
const HANDED_ON: [&str; 8] =
    ["TERM", "COLORTERM", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_COLLATE", "LC_MESSAGES"];

/// statfs(2): `DEVPTS_SUPER_MAGIC` of linux/magic.h.
const DEVPTS: i64 = 0x1cd1;

/// Which step failed, and why.
#[derive(Debug)]
pub(crate) struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn at<E: fmt::Display>(step: &'static str) -> impl Fn(E) -> Failed {
    move |error| Failed(format!("{step}: {error}"))
}

/// A child on its way in.
pub(crate) struct Entry<'a> {
    hold: &'a Hold,
    person: Option<Person>,
    far: Vec<OwnedFd>,
}

impl<'a> Entry<'a> {
    pub(super) fn new(hold: &'a Hold) -> Self {
        Self { hold, person: None, far: Vec::new() }
    }

    /// The list.
    pub(super) fn go(&mut self, user: Option<&str>) -> Result<(), Failed> {
        let hold = self.hold;
        for procs in &hold.cgroups {
            write(procs, b"0").map_err(at("join the tenant's cgroups"))?;
        }
        limits(hold).map_err(at("take the tenant's limits"))?;
        killable().map_err(at("be killable when memory is short"))?;
        own_keyring().map_err(at("leave the session's keyring"))?;
        let namespaces =
            CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNS;
        setns(&hold.pidfd, namespaces).map_err(at("namespaces"))?;
        match setns(&hold.pidfd, CloneFlags::CLONE_NEWCGROUP) {
            // A kernel without them; init does without as well.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => return Err(at("cgroup namespace")(errno)),
        }
        chdir("/").map_err(at("the tenant's root directory"))?;
        setsid().map_err(at("a session of its own"))?;
        setns(&hold.pidfd, CloneFlags::CLONE_NEWUSER).map_err(at("user namespace"))?;
        become_user(Uid::from_raw(0), Gid::from_raw(0), &[]).map_err(at("the tenant's root"))?;
        lock::filter().map_err(at("system call filter"))?;
        lock::capabilities(hold.network).map_err(at("capabilities"))?;
        let person = people::find(user).map_err(Failed)?;
        become_user(person.uid, person.gid, &person.groups).map_err(at("the user's ids"))?;
        self.person = Some(person);
        Ok(())
    }

    /// A pseudo terminal of the tenant's own; its other side is for us.
    pub(super) fn terminal(&mut self) -> Result<Channel, Failed> {
        // Nobody in the tenant can change /dev, but a wrong terminal would be the operator's.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let step = "a terminal of the tenant (/dev/pts/ptmx)";
        let near = open("/dev/pts/ptmx", flags, Mode::empty()).map_err(at(step))?;
        let kind = nix::sys::statfs::fstatfs(&near).map_err(at(step))?.filesystem_type();
        if kind.0 != DEVPTS {
            return Err(Failed(format!("{step}: it is no devpts")));
        }
        let unlock: libc::c_int = 0;
        let fd = near.as_raw_fd();
        // SAFETY: system calls on a live descriptor and integer. TIOCGPTPEER opens the other side without a path.
        let far = unsafe {
            Errno::result(libc::ioctl(fd, libc::TIOCSPTLCK, &raw const unlock)).map_err(at(step))?;
            let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
            let far = Errno::result(libc::ioctl(fd, libc::TIOCGPTPEER, flags)).map_err(at(step))?;
            OwnedFd::from_raw_fd(far)
        };
        let copy = || far.try_clone().map_err(at(step));
        let channel = self.channel([copy()?, copy()?, copy()?], true)?;
        self.far.push(near);
        Ok(channel)
    }

    /// Three pipes that belong to the tenant's user, so that it can open /dev/stdout again; our ends are for us.
    ///
    /// Never our own descriptors, even when they are no terminals: a descriptor of a file is a way to its file system
    /// (seek, read what was meant to be written, lock, map), and one of a socket is a voice.
    pub(super) fn pipes(&mut self) -> Result<Channel, Failed> {
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(at("pipes"));
        let ((input, feed), (out, output), (err, errors)) = (pipe()?, pipe()?, pipe()?);
        let channel = self.channel([input, output, errors], false)?;
        self.far.extend([feed, out, err]);
        Ok(channel)
    }

    /// A pipe to us and one from us, for work that is ours.
    pub(super) fn talk(&mut self) -> Result<(File, File), Failed> {
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(at("pipes"));
        let ((listen, feed), (hear, speak)) = (pipe()?, pipe()?);
        self.far.extend([feed, hear]);
        Ok((listen.into(), speak.into()))
    }

    fn channel(&self, ends: [OwnedFd; 3], tty: bool) -> Result<Channel, Failed> {
        let person = self.person.clone().ok_or_else(|| Failed("nobody to be".to_owned()))?;
        Ok(Channel { person, ends, tty })
    }

    pub(super) fn far_ends(&self) -> Vec<RawFd> {
        self.far.iter().map(AsRawFd::as_raw_fd).collect()
    }

    pub(super) fn close_far_ends(&mut self) {
        self.far.clear();
    }
}

/// All three ids. Not dumpable afterwards: until it becomes a program of the tenant, this is a copy of the host's.
fn become_user(uid: Uid, gid: Gid, groups: &[Gid]) -> nix::Result<()> {
    setgroups(groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    nix::sys::prctl::set_dumpable(false)
}

/// What init has, as far as we may give it: raising a limit is not needed to enter.
fn limits(hold: &Hold) -> nix::Result<()> {
    for (resource, soft, hard) in &hold.limits {
        let mut ours = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: system calls on structures that live here.
        unsafe {
            Errno::result(libc::prlimit(0, *resource, std::ptr::null(), &mut ours))?;
            let hard = (*hard).min(ours.rlim_max);
            let new = libc::rlimit { rlim_cur: (*soft).min(hard), rlim_max: hard };
            Errno::result(libc::prlimit(0, *resource, &new, std::ptr::null_mut()))?;
        }
    }
    Ok(())
}

/// An operator who came by sshd may be exempt from being killed; a tenant's process is not.
fn killable() -> io::Result<()> {
    let path = "/proc/self/oom_score_adj";
    if fs::read_to_string(path)?.starts_with('-') { fs::write(path, "0") } else { Ok(()) }
}

/// A new, empty keyring in place of the operator's.
fn own_keyring() -> nix::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_ulong = 1;
    // SAFETY: plain system call; null means a new keyring without a name.
    match Errno::result(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0_usize) }) {
        Ok(_) | Err(Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// What a program of the tenant gets as its first three descriptors.
pub(crate) struct Channel {
    person: Person,
    ends: [OwnedFd; 3],
    tty: bool,
}

impl Channel {
    /// Becomes the program, or the user's login shell. Returns only why it could not: 127 not found, 126 otherwise.
    pub(super) fn execute(self, program: Option<Vec<CString>>) -> i32 {
        let Channel { person, ends, tty } = self;
        if let Err(Failed(step)) = stand(&person, &ends, tty) {
            return complain(126, &step);
        }
        // Numbers 0 to 2 stay.
        drop(ends);
        let environment = environment(&person);
        let Some(argv) = program else { return login(&person, &environment) };
        match execute(&argv, &environment) {
            Errno::ENOENT => complain(127, &format!("{:?}: command not found in the tenant", argv[0])),
            errno => complain(126, &format!("{:?}: cannot be executed: {errno}", argv[0])),
        }
    }
}

fn complain(code: i32, text: &str) -> i32 {
    eprintln!("tenantd: {text}");
    code
}

/// Descriptors, terminal, directory and signals as a program expects them.
fn stand(person: &Person, ends: &[OwnedFd; 3], tty: bool) -> Result<(), Failed> {
    for (end, number) in ends.iter().zip(0..) {
        // SAFETY: plain system calls on a live descriptor; what 0 to 2 were is the operator's and goes.
        Errno::result(unsafe { libc::dup2(end.as_raw_fd(), number) }).map_err(at("standard descriptors"))?;
    }
    if tty {
        // SAFETY: plain system call.
        Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }).map_err(at("controlling terminal"))?;
    }
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    // A home that is not there is no reason to stay out.
    let _ = chdir(person.home.as_str());
    // After the ids, which clear it: the command does not outlive us, whatever ends us.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(at("tie it to our life"))?;
    // SAFETY: plain system call without pointers.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(closed).map_err(at("close further descriptors"))?;
    default_signals().map_err(at("signals"))
}

/// Default handlers and an empty mask, whatever the operator ignores.
fn default_signals() -> nix::Result<()> {
    // handler, flags, restorer and mask of the kernel's own structure.
    let default = [0_u64; 4];
    // SAFETY: plain system calls on data that lives here. By number, because the C library keeps 32 and 33 to itself;
    // SIGKILL and SIGSTOP cannot be set and need not be.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u8>(), 8_usize);
        }
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut none);
        Errno::result(libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut())).map(drop)
    }
}

fn environment(person: &Person) -> Vec<CString> {
    let shell = person.shell.as_deref().unwrap_or("/bin/sh");
    let mut variables = vec![
        format!("PATH={PATH}"),
        format!("HOME={}", person.home),
        format!("USER={}", person.name),
        format!("LOGNAME={}", person.name),
        format!("SHELL={shell}"),
    ];
    for name in HANDED_ON {
        variables.extend(std::env::var(name).ok().map(|value| format!("{name}={value}")));
    }
    if !variables.iter().any(|variable| variable.starts_with("LANG=")) {
        variables.push("LANG=C.UTF-8".to_owned());
    }
    variables.into_iter().filter_map(|variable| CString::new(variable).ok()).collect()
}

/// The shell that passwd says; bash or else sh where it says none.
fn login(person: &Person, environment: &[CString]) -> i32 {
    let shells = match &person.shell {
        Some(shell) => vec![shell.as_str()],
        None => vec!["/bin/bash", "/bin/sh"],
    };
    let mut why = Errno::ENOENT;
    for shell in &shells {
        let name = shell.rsplit('/').next().unwrap_or(shell);
        // The hyphen makes it a login shell.
        let (Ok(path), Ok(zeroth)) = (CString::new(*shell), CString::new(format!("-{name}"))) else { continue };
        why = replace(&path, &[zeroth], environment);
    }
    let code = if why == Errno::ENOENT { 127 } else { 126 };
    complain(code, &format!("the shell {:?} of {:?} cannot be executed: {why}", shells[0], person.name))
}

/// Searches the tenant's directories, not the operator's; as execvp(3), a directory without the program is passed over
/// and a refusal is remembered. Returns only why it could not.
fn execute(command: &[CString], environment: &[CString]) -> Errno {
    let name = command[0].to_string_lossy();
    if name.is_empty() {
        return Errno::ENOENT;
    }
    let programs = match name.contains('/') {
        true => vec![name.to_string()],
        false => PATH.split(':').map(|dir| format!("{dir}/{name}")).collect(),
    };
    let mut refusal = Errno::ENOENT;
    for program in programs.into_iter().filter_map(|p| CString::new(p).ok()) {
        match replace(&program, command, environment) {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => refusal = Errno::EACCES,
            errno => return errno,
        }
    }
    refusal
}

fn replace(program: &CStr, argv: &[CString], environment: &[CString]) -> Errno {
    match execve(program, argv, environment) {
        Err(errno) => errno,
        Ok(never) => match never {},
    }
}

/// Gives up the operator's descriptors altogether, for work of ours in the tenant: a link of the tenant into
/// /proc/self/fd must lead to nothing of his. `kept` stay open.
pub(super) fn let_go(kept: [&File; 2]) -> io::Result<()> {
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    for number in 0..3 {
        // SAFETY: plain system call on a live descriptor.
        Errno::result(unsafe { libc::dup2(null.as_raw_fd(), number) })?;
    }
    let mut kept: Vec<i32> = kept.iter().map(|file| file.as_fd().as_raw_fd()).collect();
    kept.sort_unstable();
    let mut from = 3;
    for fd in kept.into_iter().chain([i32::MAX]) {
        if fd > from {
            // SAFETY: plain system call. What is closed here belongs to copies of the parent's values, which this
            // process never drops: it ends with _exit.
            Errno::result(unsafe { libc::syscall(libc::SYS_close_range, from, fd - 1, 0) })?;
        }
        from = fd.saturating_add(1);
    }
    std::mem::forget(null);
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    default_signals()?;
    Ok(())
}
