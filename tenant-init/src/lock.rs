//! What init gives up for itself and for everything that it will ever start: capabilities and system calls. Whoever
//! enters a tenant from outside gives up the same, from the same lists.

use std::io;

use caps::{CapSet, Capability, CapsHashSet};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// What root inside a tenant has, over the tenant's own files and processes only: what standard servers ask for. Nothing
/// that mounts, traces processes of others, makes device nodes, or changes a stack that is the host's.
const KEPT: [Capability; 15] = [
    Capability::CAP_AUDIT_WRITE,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_IPC_OWNER,
    Capability::CAP_KILL,
    Capability::CAP_LEASE,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_CHROOT,
];

/// And when it administers its own stack.
const NETWORK: [Capability; 3] = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_BROADCAST, Capability::CAP_NET_RAW];

/// Leaves what is kept in the permitted, effective and bounding sets, and nothing in the others. The order matters:
/// the bounding set needs CAP_SETPCAP, which is kept, but the rest goes last. `network` is said of a tenant that
/// administers its own stack.
///
/// # Errors
/// The first system call that fails.
pub fn capabilities(network: bool) -> io::Result<()> {
    let mut kept: CapsHashSet = KEPT.into_iter().collect();
    if network {
        kept.extend(NETWORK);
    }
    caps::clear(None, CapSet::Ambient).map_err(io::Error::other)?;
    caps::clear(None, CapSet::Inheritable).map_err(io::Error::other)?;
    // By number until the kernel knows no more: a newer kernel has capabilities that no list of ours names.
    for number in 0..64_u8 {
        if kept.iter().any(|one| one.index() == number) {
            continue;
        }
        // SAFETY: plain system call.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
        match io::Error::last_os_error() {
            _ if dropped == 0 => {}
            error if error.raw_os_error() == Some(libc::EINVAL) && number > 0 => break,
            error => return Err(error),
        }
    }
    caps::set(None, CapSet::Effective, &kept).map_err(io::Error::other)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(io::Error::other)
}

/// `open_tree_attr` of Linux 6.15: `open_tree` under another number. One number on all architectures.
const OPEN_TREE_ATTR: libc::c_long = 467;

/// System calls that no standard server needs and that reach the kernel rather than the tenant: they fail with EPERM.
const REFUSED: [libc::c_long; 45] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_userfaultfd,
];

/// Namespaces that a tenant's process may not make: each is more of the kernel within reach.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// Address families of a tenant's sockets: local, IPv4, IPv6, netlink, packet (which the stack's owner decides about).
/// Others reach past the stack (vsock: the machine's hypervisor) or are old and little looked at.
const FAMILIES: [i32; 5] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET];

/// Netlink of a tenant: routes, messages between processes, sock_diag, IPsec, audit (which PAM asks for), netfilter,
/// generic. The others are not of a network namespace: NETLINK_KOBJECT_UEVENT tells every stack that is the host's of
/// the host's devices, NETLINK_CONNECTOR of processes.
const NETLINKS: [i32; 7] = [
    libc::NETLINK_ROUTE,
    libc::NETLINK_USERSOCK,
    libc::NETLINK_INET_DIAG,
    libc::NETLINK_XFRM,
    libc::NETLINK_AUDIT,
    libc::NETLINK_NETFILTER,
    libc::NETLINK_GENERIC,
];

/// Installs the filter for the calling thread and its children. No new privileges is not set with it: the caller has
/// CAP_SYS_ADMIN in its user namespace at this point, and su and passwd must go on to work.
///
/// # Errors
/// A rule that cannot be compiled, or a filter that the kernel does not take.
pub fn filter() -> io::Result<()> {
    install(&refusing(REFUSED.iter().map(|call| (*call, Vec::new())).collect(), libc::EPERM)?)?;
    let mut conditions = vec![
        (libc::SYS_unshare, any_namespace()?),
        (libc::SYS_clone, any_namespace()?),
        // TIOCSTI and TIOCLINUX type into somebody else's terminal.
        (libc::SYS_ioctl, vec![equal(1, u64::from(libc::TIOCSTI as u32))?, equal(1, 0x541c)?]),
    ];
    let mut family = Vec::new();
    for one in FAMILIES {
        family.push(compare(0, SeccompCmpOp::Ne, one.unsigned_abs().into())?);
    }
    let mut netlink = vec![compare(0, SeccompCmpOp::Eq, libc::AF_NETLINK.unsigned_abs().into())?];
    for one in NETLINKS {
        netlink.push(compare(2, SeccompCmpOp::Ne, one.unsigned_abs().into())?);
    }
    let sockets = [family, netlink].map(|all| SeccompRule::new(all).map_err(io::Error::other));
    conditions.push((libc::SYS_socket, sockets.into_iter().collect::<io::Result<_>>()?));
    install(&refusing(conditions, libc::EPERM)?)?;
    // Numbers of the x32 ABI are other numbers for the same calls.
    install(&vec![
        statement(0x20, 0, 0, 0),
        statement(0x35, 0, 1, 0x4000_0000),
        statement(0x06, 0, 0, 0x0005_0000 | libc::ENOSYS.unsigned_abs()),
        statement(0x06, 0, 0, 0x7fff_0000),
    ])?;
    // Its flags are in memory, where a filter cannot look: the C library falls back to clone.
    install(&refusing(vec![(libc::SYS_clone3, Vec::new())], libc::ENOSYS)?)
}

/// Classic BPF (linux/filter.h): load the number, jump when greater or equal, return.
fn statement(code: u16, jt: u8, jf: u8, k: u32) -> seccompiler::sock_filter {
    seccompiler::sock_filter { code, jt, jf, k }
}

fn any_namespace() -> io::Result<Vec<SeccompRule>> {
    let mut rules = Vec::new();
    for bit in (0..64).map(|bit| 1_u64 << bit).filter(|bit| NAMESPACES & bit != 0) {
        let set = compare(0, SeccompCmpOp::MaskedEq(bit), bit)?;
        rules.push(SeccompRule::new(vec![set]).map_err(io::Error::other)?);
    }
    Ok(rules)
}

fn equal(argument: u8, value: u64) -> io::Result<SeccompRule> {
    SeccompRule::new(vec![compare(argument, SeccompCmpOp::Eq, value)?]).map_err(io::Error::other)
}

fn compare(argument: u8, how: SeccompCmpOp, value: u64) -> io::Result<SeccompCondition> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value).map_err(io::Error::other)
}

fn refusing(rules: Vec<(libc::c_long, Vec<SeccompRule>)>, errno: i32) -> io::Result<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let refused = SeccompAction::Errno(errno.unsigned_abs());
    let filter = SeccompFilter::new(rules.into_iter().collect(), SeccompAction::Allow, refused, arch);
    filter.and_then(TryInto::try_into).map_err(io::Error::other)
}

fn install(program: &BpfProgram) -> io::Result<()> {
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // By hand: the library's own function sets no_new_privs first.
    // SAFETY: the program outlives the call, and sock_filter of the library has the kernel's layout.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
