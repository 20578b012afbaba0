//! The child between `clone` and `execve`: system calls only, in one straight list.
//!
//! In: everything already made by the parent (strings, descriptors). Out: a process id and its pidfd, or the name of
//! the step that failed. The child runs in the parent's memory (`CLONE_VM | CLONE_VFORK`) on a stack of its own while
//! the calling thread stands still, so it reports by writing two numbers.

use std::ffi::{CStr, CString, c_int, c_void};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use tenant_init::house::{Absent, LAYER_FD, PING_GROUPS, SETTINGS};

/// Where init finds the control socket.
pub(super) const CONTROL_FD: i32 = 3;
/// Where init finds what its house is made from.
pub(super) const HOUSE_FD: i32 = 4;

/// Namespaces that stay the host's: nobody in the tenant mounts anything. Those that are the tenant's are made by
/// init, inside the tenant's user namespace.
const NAMESPACES: c_int = libc::CLONE_NEWNS | libc::CLONE_NEWPID;

/// The child has the daemon's memory and descriptors until it takes a table of its own and is another program.
const SHARED: c_int = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES;

/// Bytes; the child's list needs some hundreds.
const STACK: usize = 64 * 1024;

/// What failed.
#[derive(Debug)]
pub(super) enum Failure {
    Prepare(&'static str, io::Error),
    Clone(io::Error),
    Step(&'static str, io::Error),
    Exec(io::Error),
}

/// The steps by number; 0 means that none failed.
const STEPS: [&str; 11] = [
    "",
    "setsid",
    "sysctl",
    "dup2",
    "close_range",
    "umask",
    "chdir",
    "execve",
    "setrlimit",
    "join cgroup",
    "unshare descriptors",
];
const SETSID: i32 = 1;
const SYSCTL: i32 = 2;
const DUP2: i32 = 3;
const CLOSE: i32 = 4;
const CHDIR: i32 = 6;
const EXECVE: i32 = 7;
const RLIMIT: i32 = 8;
const CGROUP: i32 = 9;
const TABLE: i32 = 10;

/// Descriptors a tenant's process may have without asking for more: what a login gives. The daemon's own limit is higher,
/// and programs that go through all possible descriptors would suffer from it.
const FILES: libc::rlim_t = 1024;

/// What parent and child share.
struct Shared {
    program: *const libc::c_char,
    argv: *const *const libc::c_char,
    /// Written into `ping_group_range` of a stack that is the host's; null when the tenant makes its own.
    ping_groups: *const libc::c_char,
    /// Files `tasks` of the tenant's cgroups of version 1.
    tasks: *const i32,
    tasks_len: usize,
    /// Ends up as 0, 1 and 2, [`CONTROL_FD`] and [`HOUSE_FD`].
    null: i32,
    log: i32,
    control: i32,
    house: i32,
    /// Ends up as [`LAYER_FD`], unless it is -1.
    layer: i32,
    /// What is to be inherited lies below this number.
    bound: i32,
    failed_step: AtomicI32,
    errno: AtomicI32,
}

/// What a child is made from.
pub(super) struct Birth<'a> {
    pub(super) program: &'a CString,
    pub(super) argv: &'a [CString],
    /// /dev/null, the log, the control socket, the house: like all descriptors here but `unified` numbered above
    /// [`LAYER_FD`] and below `bound`.
    pub(super) inherited: &'a [i32; 4],
    /// Descriptors from this number on are not copied.
    pub(super) bound: i32,
    /// `FIRST LAST` of the tenant's groups, when the stack is made here and stays the host's.
    pub(super) ping_groups: Option<&'a CString>,
    /// Directory of the tenant's cgroup of version 2, joined by being born in it.
    pub(super) unified: Option<i32>,
    /// The mount of the tenant's layer, where it is a file system of its own.
    pub(super) layer: Option<i32>,
    /// Files `tasks` of its cgroups of version 1; the child writes itself into them.
    pub(super) tasks: &'a [i32],
}

/// Makes the process.
pub(super) fn clone_and_exec(birth: &Birth<'_>) -> Result<(i32, OwnedFd), Failure> {
    let pointers: Vec<*const libc::c_char> = birth.argv.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect();
    let [null, log, control, house] = *birth.inherited;
    let stack_flag = if birth.ping_groups.is_some() { libc::CLONE_NEWNET } else { 0 };
    let shared = Shared {
        program: birth.program.as_ptr(),
        argv: pointers.as_ptr(),
        ping_groups: birth.ping_groups.map_or(ptr::null(), |text| text.as_ptr()),
        tasks: birth.tasks.as_ptr(),
        tasks_len: birth.tasks.len(),
        house,
        layer: birth.layer.unwrap_or(-1),
        null,
        log,
        control,
        bound: birth.bound,
        failed_step: AtomicI32::new(0),
        errno: AtomicI32::new(0),
    };
    let stack = Stack::new().map_err(|error| Failure::Prepare("mmap", error))?;
    let mut pidfd: c_int = -1;
    // A handler that ran in the child would run on our memory. The child keeps the mask; init sets its own.
    let mask = Masked::new().map_err(|error| Failure::Prepare("sigmask", error))?;
    let mut arguments = CloneArguments {
        flags: (NAMESPACES | stack_flag | SHARED | libc::CLONE_PIDFD) as u64,
        pidfd: ptr::from_mut(&mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.base() as u64,
        stack_size: STACK as u64,
        ..CloneArguments::default()
    };
    if let Some(directory) = birth.unified {
        arguments.flags |= INTO_CGROUP;
        arguments.cgroup = u64::from(directory.unsigned_abs());
    }
    // SAFETY: the child gets a stack of its own and, by CLONE_VFORK, this thread stands still until it has left our
    // memory, so `shared` and all it points to outlive it. `run` makes system calls only and does not return.
    let pid = unsafe { clone3(&arguments, run, ptr::from_ref(&shared).cast_mut().cast::<c_void>()) };
    drop(mask);
    let pid = pid.map_err(Failure::Clone)?;
    // SAFETY: clone stored a new descriptor here.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let step = shared.failed_step.load(Ordering::Acquire);
    if step == 0 {
        return Ok((pid, pidfd));
    }
    // SAFETY: plain system call; the child has ended and nobody else waits for it.
    while unsafe { libc::waitpid(pid, ptr::null_mut(), 0) } < 0 && Errno::last() == Errno::EINTR {}
    let cause = io::Error::from_raw_os_error(shared.errno.load(Ordering::Acquire));
    Err(match step {
        EXECVE => Failure::Exec(cause),
        _ => Failure::Step(usize::try_from(step).ok().and_then(|step| STEPS.get(step)).unwrap_or(&"?"), cause),
    })
}

/// `struct clone_args` of linux/sched.h, as of Linux 5.7.
#[derive(Default)]
#[repr(C)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Born in a cgroup of version 2 (5.7): being moved there later waits for an RCU grace period, 8 ms and more.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// `clone3(2)`, for which the C library has no wrapper; the child calls `run(argument)` on its own stack.
///
/// # Safety
/// `run` must not return, and with CLONE_VM everything it uses must outlive it.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(
    arguments: &CloneArguments,
    run: extern "C" fn(*mut c_void) -> c_int,
    argument: *mut c_void,
) -> io::Result<i32> {
    let result: i64;
    // SAFETY: in the parent only rax, rcx and r11 change. The child starts with the stack of `arguments`, which is
    // aligned to 16 bytes, and never comes to the end of this block.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") arguments,
            in("rsi") size_of::<CloneArguments>(),
            in("r12") argument,
            in("r13") run,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    match result {
        0.. => i32::try_from(result).map_err(io::Error::other),
        errno => Err(io::Error::from_raw_os_error(i32::try_from(-errno).unwrap_or(libc::EINVAL))),
    }
}

/// The child. It ends here or in another program.
extern "C" fn run(shared: *mut c_void) -> c_int {
    // SAFETY: the parent passed a `Shared` and stands still.
    let shared = unsafe { &*shared.cast::<Shared>() };
    let step = steps(shared);
    shared.errno.store(Errno::last_raw(), Ordering::Release);
    shared.failed_step.store(step, Ordering::Release);
    // SAFETY: _exit runs no destructor of the parent's.
    unsafe { libc::_exit(127) }
}

/// The list. Returns the number of the step that failed, with its cause in errno.
fn steps(shared: &Shared) -> i32 {
    // SAFETY: system calls on descriptors and strings that outlive them.
    unsafe {
        // Before anything else: until then a descriptor that is opened or closed here is the daemon's. By number: the
        // wrapper is missing in older C libraries.
        if libc::syscall(libc::SYS_close_range, shared.bound, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE) < 0 {
            return TABLE;
        }
        if libc::setsid() < 0 {
            return SETSID;
        }
        for index in 0..shared.tasks_len {
            if libc::write(*shared.tasks.add(index), c"0".as_ptr().cast(), 1) < 0 {
                return CGROUP;
            }
        }
        if !shared.ping_groups.is_null() && !settings(CStr::from_ptr(shared.ping_groups)) {
            return SYSCTL;
        }
        let places = [
            (shared.null, 0),
            (shared.log, 1),
            (shared.log, 2),
            (shared.control, CONTROL_FD),
            (shared.house, HOUSE_FD),
        ];
        for (from, to) in places {
            if libc::dup2(from, to) < 0 {
                return DUP2;
            }
        }
        let mut last = HOUSE_FD;
        if shared.layer >= 0 {
            if libc::dup2(shared.layer, LAYER_FD) < 0 {
                return DUP2;
            }
            last = LAYER_FD;
        }
        if libc::syscall(libc::SYS_close_range, last + 1, libc::c_uint::MAX, 0) < 0 {
            return CLOSE;
        }
        let mut files = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut files) < 0 {
            return RLIMIT;
        }
        files.rlim_cur = files.rlim_max.min(FILES);
        if libc::setrlimit(libc::RLIMIT_NOFILE, &files) < 0 {
            return RLIMIT;
        }
        libc::umask(0o022);
        if libc::chdir(c"/".as_ptr()) < 0 {
            return CHDIR;
        }
        let environment = [c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".as_ptr(), ptr::null()];
        libc::execve(shared.program, shared.argv, environment.as_ptr());
        EXECVE
    }
}

/// Writes the settings of a new stack through a proc of its own, which init will find again.
///
/// # Safety
/// None: system calls on strings that live here.
unsafe fn settings(ping_groups: &CStr) -> bool {
    // SAFETY: system calls on live strings and descriptors of our own.
    unsafe {
        let context = libc::syscall(libc::SYS_fsopen, c"proc".as_ptr(), 1) as c_int;
        if context < 0 {
            return false;
        }
        let nothing = ptr::null::<libc::c_char>();
        // FSCONFIG_CMD_CREATE of linux/mount.h.
        let made = libc::syscall(libc::SYS_fsconfig, context, 6, nothing, nothing, 0) == 0;
        let proc = if made { libc::syscall(libc::SYS_fsmount, context, 1, 0) as c_int } else { -1 };
        if proc < 0 {
            return false;
        }
        let fine = |absent| absent == Absent::IsFine && Errno::last_raw() == libc::ENOENT;
        let all = SETTINGS.iter().all(|(path, value, absent)| write(proc, path, value) || fine(*absent));
        // Both descriptors end with the others.
        all && write(proc, PING_GROUPS, ping_groups.to_bytes())
    }
}

fn write(directory: c_int, path: &CStr, value: &[u8]) -> bool {
    // SAFETY: system calls on a live string and slice.
    unsafe {
        let file = libc::openat(directory, path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file < 0 {
            return false;
        }
        let written = libc::write(file, value.as_ptr().cast(), value.len());
        let errno = Errno::last_raw();
        libc::close(file);
        Errno::set_raw(errno);
        written >= 0
    }
}

/// Memory for the child's stack with a page below it that must not be touched.
struct Stack(*mut c_void);

/// Bytes of the page below the stack.
const GUARD: usize = 4096;

impl Stack {
    fn new() -> io::Result<Stack> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a new mapping somewhere.
        let base =
            unsafe { libc::mmap(ptr::null_mut(), GUARD + STACK, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Stack(base);
        // SAFETY: the first page of our own mapping.
        if unsafe { libc::mprotect(base, GUARD, libc::PROT_NONE) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stack)
    }

    /// Its lowest byte.
    fn base(&self) -> *mut c_void {
        // SAFETY: within the mapping.
        unsafe { self.0.byte_add(GUARD) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: our own mapping; the child has left it.
        unsafe { libc::munmap(self.0, GUARD + STACK) };
    }
}

/// All signals blocked for this thread, until dropped.
struct Masked(libc::sigset_t);

impl Masked {
    fn new() -> io::Result<Masked> {
        // SAFETY: system calls on sets that live here.
        unsafe {
            let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&mut all);
            match libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before) {
                0 => Ok(Masked(before)),
                errno => Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        // SAFETY: system call on a set that lives here.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, ptr::null_mut()) };
    }
}
