"""What root inside a tenant tries against the wall. Needs nothing but python. One long file, because it is handed into
a tenant as one text.

calls [NAME...]      one line an attack: NAME and how it ended: OK, the name of an errno, or SIGNAL n
secrets DIR...       JSON: device, inode, size and hash of every file below that is not for everybody (on the host)
walk                 reads that JSON and the word WORD; JSON of what can be read of the whole tree
listen NAME          an abstract socket on which it waits until its input ends
abstract NAME        tries to connect to it
give PATH            hands sockets to whoever connects to PATH (on the host)
take PATH            uses sockets that it is handed there
frames DEV MACS      sends frames that are not its to send; prints how many of each kind
take-all WHAT        takes of something as much as it gets, prints how much, and keeps it until its input ends
settings             which settings of the network can be written
deep N               a directory within a directory, N times

Each attack runs in a child of its own and is written so that it harms nothing if the wall does not hold: what it sets
has the value that it had, what it mounts is mounted in a mount namespace of its own if it gets one, what it takes it
gives back by ending.
"""
import ctypes, errno, fcntl, hashlib, json, os, resource, signal, socket, stat, struct, sys, time

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

NR = dict(
    ptrace=101, mount=165, umount2=166, pivot_root=155, chroot=161, swapon=167, reboot=169, sethostname=170,
    init_module=175, acct=163, settimeofday=164, adjtimex=159, iopl=172, ioperm=173, quotactl=179, syslog=103,
    add_key=248, request_key=249, keyctl=250, unshare=272, kexec_load=246, perf_event_open=298, fanotify_init=300,
    name_to_handle_at=303, open_by_handle_at=304, clock_adjtime=305, setns=308, process_vm_readv=310, kcmp=312,
    finit_module=313, kexec_file_load=320, bpf=321, userfaultfd=323, io_uring_setup=425, open_tree=428,
    move_mount=429, fsopen=430, fspick=433, pidfd_open=434, clone3=435, pidfd_getfd=438, mount_setattr=442,
    quotactl_fd=443, listmount=458, open_tree_attr=467, clock_settime=227, mknod=133, prlimit64=302, clone=56, seccomp=317,
)

CLONE_NEWTIME, CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x80, 0x20000, 0x2000000, 0x4000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x8000000, 0x10000000, 0x20000000, 0x40000000
AT_FDCWD = -100


def call(name, *arguments):
    """The system call NAME; raises OSError."""
    converted = []
    for one in arguments:
        if isinstance(one, str):
            one = one.encode()
        converted.append(one if isinstance(one, (bytes, type(None))) or isinstance(one, ctypes._SimpleCData) else
                         ctypes.c_void_p(one) if isinstance(one, int) and one >= 0 else
                         ctypes.c_long(one) if isinstance(one, int) else ctypes.byref(one))
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(NR[name] if isinstance(name, str) else name), *converted)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


ATTACKS = {}


def attack(function):
    ATTACKS[function.__name__] = function
    return function


def write_same(path):
    """Writes what is there already."""
    with open(path, "rb") as file:
        value = file.read(4096)
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)


# Mounts. A bind mount of a directory over itself changes nothing that anybody sees.

@attack
def mount_bind():
    call("mount", "/mnt", "/mnt", None, 0x1000, None)
    call("umount2", "/mnt", 2)

@attack
def mount_tmpfs():
    call("mount", "x", "/mnt", "tmpfs", 0, None)
    call("umount2", "/mnt", 2)

@attack
def mount_proc():
    call("mount", "x", "/mnt", "proc", 0, None)
    call("umount2", "/mnt", 2)

@attack
def remount_writable():
    # Of /usr, which is the host's: MS_REMOUNT | MS_BIND without MS_RDONLY, with what else it has (nosuid, nodev).
    call("mount", None, "/usr", None, 0x20 | 0x1000 | 6, None)

@attack
def umount_mask():
    # A lazy unmount of what hides /proc/kallsyms.
    call("umount2", "/proc/kallsyms", 2)

@attack
def open_tree_clone():
    os.close(call("open_tree", AT_FDCWD, "/mnt", 1))

@attack
def move_mount():
    call("move_mount", AT_FDCWD, "/dev/shm", AT_FDCWD, "/mnt", 0)

@attack
def fsopen():
    os.close(call("fsopen", "tmpfs", 1))

@attack
def fspick():
    os.close(call("fspick", AT_FDCWD, "/", 0))

@attack
def mount_setattr():
    # No attribute is changed.
    call("mount_setattr", AT_FDCWD, "/", 0, (ctypes.c_uint64 * 4)(), 32)

@attack
def open_tree_attr():
    os.close(call("open_tree_attr", AT_FDCWD, "/mnt", 1, (ctypes.c_uint64 * 4)(), 32))

@attack
def pivot_root():
    os.chdir("/")
    call("pivot_root", ".", ".")

@attack
def chroot_escape():
    # The way out of a chroot: a directory held open outside of it. Here it ends at the tenant's own root.
    outside = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.makedirs("/tmp/jail", exist_ok=True)
    os.chroot("/tmp/jail")
    os.fchdir(outside)
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    if not os.path.exists("/run/tenantd"):
        return "ESCAPED"
    if os.path.exists("/proc/kcore") and os.path.getsize("/proc/kcore"):
        return "ESCAPED"
    raise OSError(errno.EPERM, "still at home")

@attack
def open_by_handle():
    # Inode 2 is the root of an ext4: with this the container escape of 2014 read the host's shadow file.
    handle = struct.pack("IIII", 8, 1, 2, 0)
    fd = os.open("/etc/hosts", os.O_RDONLY)
    os.close(call("open_by_handle_at", fd, handle, os.O_RDONLY))

@attack
def name_to_handle():
    buffer = ctypes.create_string_buffer(struct.pack("I", 128) + bytes(140))
    call("name_to_handle_at", AT_FDCWD, "/usr", buffer, (ctypes.c_int * 1)(), 0)

# Namespaces.

def unshare(flag):
    call("unshare", flag)

@attack
def userns():
    unshare(CLONE_NEWUSER)

@attack
def userns_by_clone():
    pid = call("clone", CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)

@attack
def userns_by_clone3():
    arguments = (ctypes.c_uint64 * 11)()
    arguments[0], arguments[4] = CLONE_NEWUSER, signal.SIGCHLD
    pid = call("clone3", arguments, 88)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)

@attack
def netns():
    unshare(CLONE_NEWNET)

@attack
def mountns():
    unshare(CLONE_NEWNS)

@attack
def pidns():
    unshare(CLONE_NEWPID)

@attack
def cgroupns():
    unshare(CLONE_NEWCGROUP)

@attack
def timens():
    unshare(CLONE_NEWTIME)

def setns_of(pid, kind, flag):
    fd = os.open("/proc/%s/ns/%s" % (pid, kind), os.O_RDONLY)
    try:
        call("setns", fd, flag)
    finally:
        os.close(fd)

@attack
def setns_own_net():
    # Even to where it is: no setns at all.
    setns_of("self", "net", CLONE_NEWNET)

@attack
def setns_init_mnt():
    setns_of(1, "mnt", CLONE_NEWNS)

@attack
def setns_init_user():
    setns_of(1, "user", CLONE_NEWUSER)

@attack
def setns_pidfd():
    fd = call("pidfd_open", 1, 0)
    call("setns", fd, CLONE_NEWNET)

@attack
def nsfs_parent():
    # NS_GET_PARENT of the user namespace: the host's.
    fd = os.open("/proc/self/ns/user", os.O_RDONLY)
    fcntl.ioctl(fd, 0xb702)

@attack
def nsfs_owner():
    # NS_GET_USERNS of the pid namespace: the host's user namespace.
    fd = os.open("/proc/self/ns/pid", os.O_RDONLY)
    fcntl.ioctl(fd, 0xb701)

# Other processes.

@attack
def ptrace_init():
    call("ptrace", 16, 1, 0, 0)

@attack
def seize_init():
    call("ptrace", 0x4206, 1, 0, 0)

@attack
def read_memory_of_init():
    with open("/proc/1/maps") as file:
        if not file.read(1):
            raise OSError(errno.EPERM, "empty")

@attack
def vm_readv_init():
    buffer = ctypes.create_string_buffer(16)
    local = struct.pack("QQ", ctypes.addressof(buffer), 16)
    call("process_vm_readv", 1, local, 1, struct.pack("QQ", 0x400000, 16), 1, 0)

@attack
def init_root():
    os.listdir("/proc/1/root/")

@attack
def init_cwd():
    os.readlink("/proc/1/cwd")

@attack
def init_fds():
    os.listdir("/proc/1/fd")

@attack
def init_environment():
    open("/proc/1/environ", "rb").read()

@attack
def init_fd_by_pidfd():
    fd = call("pidfd_open", 1, 0)
    os.close(call("pidfd_getfd", fd, 3, 0))

@attack
def kcmp_init():
    call("kcmp", os.getpid(), 1, 0, 0, 0)

@attack
def other_processes():
    # Whoever is not below process 1 of this pid namespace cannot be named; 2 is a thread of the kernel on the host.
    if os.path.exists("/proc/2") and open("/proc/2/comm").read().strip() == "kthreadd":
        return "OK"
    raise OSError(errno.ESRCH, "not here")

# The machine.

@attack
def set_clock():
    now = time.clock_gettime_ns(time.CLOCK_REALTIME)
    call("clock_settime", 0, struct.pack("qq", now // 10**9, now % 10**9))

@attack
def set_time_of_day():
    now = time.clock_gettime_ns(time.CLOCK_REALTIME)
    call("settimeofday", struct.pack("qq", now // 10**9, now % 10**9 // 1000), None)

@attack
def adjust_clock():
    # modes ADJ_FREQUENCY with the frequency that it has.
    buffer = ctypes.create_string_buffer(208)
    call("adjtimex", buffer)
    struct.pack_into("I", buffer, 0, 2)
    call("adjtimex", buffer)

@attack
def kernel_log():
    call("syslog", 10, None, 0)

@attack
def kernel_log_file():
    os.close(os.open("/proc/kmsg", os.O_RDONLY | os.O_NONBLOCK))

@attack
def kernel_log_device():
    os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))

@attack
def load_module():
    # No module: a kernel that looks at it says ENOEXEC.
    call("init_module", b"\0" * 64, 64, "")

@attack
def load_module_file():
    fd = os.open("/etc/hosts", os.O_RDONLY)
    call("finit_module", fd, "", 0)

@attack
def kexec():
    # Unloading what is not loaded; the wrong flag makes it end in EINVAL for who is asked.
    call("kexec_load", 0, 0, None, 0xf0000)

@attack
def reboot():
    # Wrong magic: EINVAL for whoever may.
    call("reboot", 0, 0, 0, None)

@attack
def swap_on():
    call("swapon", "/nothing", 0)

@attack
def accounting():
    call("acct", "/nothing/at/all")

@attack
def port_io():
    call("iopl", 0)

@attack
def port_io_range():
    call("ioperm", 0x80, 1, 0)

@attack
def quota():
    call("quotactl", 0x80000700, None, 0, None)

@attack
def quota_fd():
    fd = os.open("/", os.O_RDONLY)
    call("quotactl_fd", fd, 0x80000700, 0, ctypes.create_string_buffer(128))

@attack
def perf():
    # PERF_TYPE_SOFTWARE, CPU clock, of itself.
    attributes = struct.pack("IIQ", 1, 112, 0) + bytes(96)
    os.close(call("perf_event_open", attributes, 0, -1, -1, 0))

@attack
def userfault():
    os.close(call("userfaultfd", 0))

@attack
def fanotify():
    os.close(call("fanotify_init", 0, 0))

@attack
def uring():
    os.close(call("io_uring_setup", 1, ctypes.create_string_buffer(120)))

@attack
def bpf_load():
    # "return 0" as a socket filter.
    program = struct.pack("BBhi", 0xb7, 0, 0, 0) + struct.pack("BBhi", 0x95, 0, 0, 0)
    code, license = ctypes.create_string_buffer(program), ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack("IIQQ", 1, 2, ctypes.addressof(code), ctypes.addressof(license)) + bytes(96)
    os.close(call("bpf", 5, attributes, 120))

@attack
def bpf_enumerate():
    # BPF_PROG_GET_NEXT_ID: which programs there are, the guard's among them.
    call("bpf", 11, ctypes.create_string_buffer(120), 120)

@attack
def keyring():
    # A keyring of its own, which ends with it.
    call("keyctl", 1, None)

@attack
def key_added():
    call("add_key", "user", "mine", b"x", 1, -3)

@attack
def key_requested():
    call("request_key", "user", "nobody", None, 0)

@attack
def i386_calls():
    # int 0x80 with getpid's number: 32-bit calls have other numbers than the filter's.
    import mmap
    code = bytes.fromhex("b814000000cd80c3")
    memory = mmap.mmap(-1, 4096, prot=7)
    memory.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    if function() < 0:
        raise OSError(errno.ENOSYS, "refused")

@attack
def x32_calls():
    # setns by its x32 number, to where it is.
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    call(0x40000000 + 308, fd, CLONE_NEWNET)

# Devices, terminals.

def node(path, major, minor, kind=stat.S_IFCHR):
    try:
        os.mknod(path, kind | 0o600, os.makedev(major, minor))
    finally:
        if os.path.exists(path):
            os.unlink(path)

@attack
def make_kmsg():
    node("/tmp/kmsg", 1, 11)

@attack
def make_disk():
    node("/root/disk", 254, 0, stat.S_IFBLK)

@attack
def make_in_dev():
    # Its root is not the owner of /dev.
    open("/dev/mine", "w").close()
    os.unlink("/dev/mine")

@attack
def type_into_terminal():
    master, slave = os.openpty()
    fcntl.ioctl(slave, 0x5412, b"x")

@attack
def console():
    os.close(os.open("/dev/console", os.O_RDWR | os.O_NOCTTY))

# Settings of the kernel: what is there is written back.

def setting(name, path):
    def run():
        write_same(path)
    run.__name__ = name
    attack(run)

for name, path in [
    ("core_pattern", "/proc/sys/kernel/core_pattern"),
    ("panic", "/proc/sys/kernel/panic"),
    ("randomize", "/proc/sys/kernel/randomize_va_space"),
    ("hostname_setting", "/proc/sys/kernel/hostname"),
    ("overcommit", "/proc/sys/vm/overcommit_memory"),
    ("file_max", "/proc/sys/fs/file-max"),
    ("inotify_setting", "/proc/sys/fs/inotify/max_user_instances"),
    ("modprobe_setting", "/proc/sys/kernel/modprobe"),
    ("user_namespaces_setting", "/proc/sys/user/max_user_namespaces"),
    ("shmmax", "/proc/sys/kernel/shmmax"),
]:
    setting(name, path)

@attack
def sysrq():
    # Only opened: it has no letter that does nothing.
    os.close(os.open("/proc/sysrq-trigger", os.O_WRONLY))

@attack
def binfmt():
    os.close(os.open("/proc/sys/fs/binfmt_misc/register", os.O_WRONLY))

@attack
def uevent_helper():
    os.close(os.open("/sys/kernel/uevent_helper", os.O_WRONLY))

@attack
def sys_uevent():
    # "change" of the loopback device, which nobody listens to; only opened.
    os.close(os.open("/sys/class/net/lo/uevent", os.O_WRONLY))

@attack
def sys_online():
    os.close(os.open("/sys/devices/system/cpu/cpu0/uevent", os.O_WRONLY))

@attack
def cgroup_files():
    for base in ("/sys/fs/cgroup", "/sys/fs/bpf"):
        if os.path.exists(base):
            return "OK"
    raise OSError(errno.ENOENT, "not there")

@attack
def cgroup_mount():
    call("mount", "x", "/mnt", "cgroup2", 0, None)
    call("umount2", "/mnt", 2)

@attack
def set_host_name():
    name = os.uname().nodename.encode()
    call("sethostname", name, len(name))

@attack
def oom_exempt():
    with open("/proc/self/oom_score_adj", "r+") as file:
        now = int(file.read())
        file.seek(0)
        file.write(str(now - 1))

@attack
def real_time():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))

@attack
def nicer():
    os.nice(-1)

@attack
def more_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard + 1))

@attack
def lock_memory():
    # One page more than its own limit lets it.
    import mmap
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    memory = mmap.mmap(-1, 4096)
    if libc.mlock(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory))), 4096) < 0:
        number = ctypes.get_errno()
        raise OSError(number, "mlock")

# Who it is.

@attack
def gid_of_another():
    # The first id of the next tenant's range, which is not mapped here.
    os.setgroups([os.getgid() + 65536])

@attack
def gid_of_the_host():
    os.setgid(600000)

@attack
def uid_of_another():
    os.setuid(65536)

@attack
def chown_to_another():
    open("/tmp/gift", "w").close()
    os.chown("/tmp/gift", 65536, 65536)

@attack
def new_gid_map():
    # newgidmap of the image writes gid_map files: of which there is no new one to write.
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    try:
        with open("/proc/%d/gid_map" % pid, "w") as file:
            file.write("0 0 65536\n")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)

@attack
def ambient_admin():
    # PR_CAP_AMBIENT_RAISE of CAP_SYS_ADMIN.
    if libc.prctl(47, 2, 21, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "prctl")

@attack
def undrop_bounding():
    # PR_CAPBSET_READ: is CAP_SYS_ADMIN in it?
    if libc.prctl(23, 21, 0, 0, 0) != 1:
        raise OSError(errno.EPERM, "not in the bounding set")

@attack
def filter_gone():
    with open("/proc/self/status") as file:
        mode = [line.split()[1] for line in file if line.startswith("Seccomp:")]
    if mode == ["2"]:
        raise OSError(errno.EPERM, "filtered")

# Sockets.

def family(name, number, kind=socket.SOCK_DGRAM, protocol=0):
    def run():
        socket.socket(number, kind, protocol).close()
    run.__name__ = name
    attack(run)

family("vsock", 40, socket.SOCK_STREAM)
family("alg", 38, socket.SOCK_SEQPACKET)
family("bluetooth", 31, socket.SOCK_RAW, 1)
family("xdp", 44, socket.SOCK_RAW)
family("tipc", 30, socket.SOCK_SEQPACKET)
family("key_management", 15, socket.SOCK_RAW, 2)
family("packet_socket", 17, socket.SOCK_RAW, 0x300)
family("packet_socket_cooked", 17, socket.SOCK_DGRAM, 0x300)
family("raw_ip", socket.AF_INET, socket.SOCK_RAW, 255)
family("raw_ip6", socket.AF_INET6, socket.SOCK_RAW, 255)
family("device_events", 16, socket.SOCK_RAW, 15)
family("process_events", 16, socket.SOCK_DGRAM, 11)

def netlink(kind, flags, body, protocol=0):
    """Sends one request with an acknowledgement; raises what the kernel answers."""
    with socket.socket(16, socket.SOCK_RAW, protocol) as link:
        link.settimeout(15)
        link.send(struct.pack("IHHII", 16 + len(body), kind, flags | 5, 1, 0) + body)
        while True:
            answer = link.recv(65536)
            length, what = struct.unpack_from("IH", answer)
            if what == 2:
                error = -struct.unpack_from("i", answer, 16)[0]
                if error:
                    raise OSError(error, os.strerror(error))
                return answer
            if what == 3:
                # The end of a list tells of an error too.
                error = -struct.unpack_from("i", answer, 16)[0] if length >= 20 else 0
                if error:
                    raise OSError(error, os.strerror(error))
                return answer
            if what not in (2, 3) and not flags & 0x300:
                return answer

def attribute(kind, value):
    return struct.pack("HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

@attack
def link_up():
    # RTM_NEWLINK: loopback up, which it is.
    netlink(16, 0, struct.pack("BBHiII", 0, 0, 0, socket.if_nametoindex("lo"), 1, 1))

@attack
def link_made():
    body = struct.pack("BBHiII", 0, 0, 0, 0, 0, 0) + attribute(3, b"attack0\0")
    netlink(16, 0x600, body + attribute(18, attribute(1, b"veth\0")))
    netlink(17, 0, struct.pack("BBHiII", 0, 0, 0, socket.if_nametoindex("attack0"), 0, 0))

@attack
def address_given():
    body = struct.pack("BBBBI", 2, 32, 0, 0, socket.if_nametoindex("lo")) + attribute(2, bytes([127, 9, 9, 9]))
    netlink(20, 0x600, body)
    netlink(21, 0, body)

@attack
def link_in_the_room():
    # The port's other end is in the patch room: a device made there by the peer's namespace id (IFLA_LINK_NETNSID).
    body = struct.pack("BBHiII", 0, 0, 0, 0, 0, 0) + attribute(3, b"attack0\0") + attribute(37, struct.pack("i", 0))
    netlink(16, 0x600, body + attribute(5, struct.pack("I", 1)) + attribute(18, attribute(1, b"macvlan\0")))

@attack
def look_into_the_room():
    # RTM_GETLINK with IFLA_TARGET_NETNSID.
    netlink(18, 0x300, struct.pack("BBHiII", 0, 0, 0, 0, 0, 0) + attribute(46, struct.pack("i", 0)))

@attack
def move_device_to_init():
    # IFLA_NET_NS_PID of process 1, where it is already.
    device = [name for _, name in socket.if_nameindex() if name.startswith("dev")][0]
    body = struct.pack("BBHiII", 0, 0, 0, socket.if_nametoindex(device), 0, 0) + attribute(19, struct.pack("I", 1))
    netlink(16, 0, body)

@attack
def nft_table():
    batch = lambda kind: struct.pack("IHHII", 20, kind, 1, 0, 0) + struct.pack("BBH", 0, 0, 0x0a00)
    body = struct.pack("BBH", 2, 0, 0) + attribute(1, b"attack\0")
    with socket.socket(16, socket.SOCK_RAW, 12) as link:
        link.settimeout(15)
        message = struct.pack("IHHII", 16 + len(body), 0x0a00, 0x405, 1, 0) + body
        link.send(batch(16) + message + batch(17))
        answer = link.recv(65536)
        error = -struct.unpack_from("i", answer, 16)[0]
        if error:
            raise OSError(error, os.strerror(error))


def run(name):
    """The attack in a child of its own; how it ended."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        signal.alarm(20)
        try:
            said = ATTACKS[name]() or "OK"
        except OSError as error:
            said = errno.errorcode.get(error.errno, str(error))
        except ValueError as error:
            said = "ValueError"
        except BaseException as error:
            said = "%s: %s" % (type(error).__name__, error)
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    said = os.read(reading, 4096).decode()
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    return "SIGNAL %d" % os.WTERMSIG(status) if os.WIFSIGNALED(status) else said



# What the tree shows.

def verb_secrets(*tops):
    found, sizes = [], {}
    for top in tops:
        for where, directories, names in os.walk(top):
            # What lies deeper lies below what is looked at.
            if where.count("/") >= 6:
                directories.clear()
            try:
                hidden = where != top and any(not os.stat(p).st_mode & 1 for p in parents(top, where))
            except OSError:
                # It has just been removed.
                continue
            for name in names:
                path = os.path.join(where, name)
                try:
                    status = os.lstat(path)
                    if not stat.S_ISREG(status.st_mode) or (status.st_mode & 4 and not hidden):
                        continue
                    digest = None
                    # A few bytes are in many files.
                    if 32 <= status.st_size < 1 << 20:
                        digest = content_of(path)
                        sizes.setdefault(status.st_size, set()).add(digest)
                except OSError:
                    continue
                found.append([status.st_dev, status.st_ino, status.st_size, digest, path])
    # What is in a file for everybody as well is no secret.
    public = set()
    for top in tops:
        for where, directories, names in os.walk(top):
            directories[:] = [d for d in directories if for_everybody(os.path.join(where, d))]
            for name in names:
                path = os.path.join(where, name)
                try:
                    status = os.lstat(path)
                    if stat.S_ISREG(status.st_mode) and status.st_mode & 4 and status.st_size in sizes:
                        public.add(content_of(path))
                except OSError:
                    pass
    print(json.dumps([row[:3] + [None if row[3] in public else row[3], row[4]] for row in found]))

def for_everybody(directory):
    try:
        return os.lstat(directory).st_mode & 1
    except OSError:
        return False

def content_of(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()

def parents(top, path):
    while path != os.path.dirname(top) and path != "/":
        yield path
        path = os.path.dirname(path)

class TooLong(Exception):
    pass

def read_some(path, most):
    """At most so many bytes; a file that has nothing to say yet is left after a moment."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        parts, left = [], most
        while left > 0:
            part = os.read(fd, min(left, 1 << 20))
            if not part:
                break
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    finally:
        os.close(fd)

def verb_walk():
    def late(*_):
        raise TooLong
    signal.signal(signal.SIGALRM, late)
    known = json.load(sys.stdin)
    word = known["word"].encode()
    inodes = {(dev, ino): path for dev, ino, _, _, path in known["secrets"]}
    sizes = {}
    for _, _, size, digest, path in known["secrets"]:
        if digest:
            sizes.setdefault(size, {})[digest] = path
    own = "/proc/%d" % os.getpid()
    said = dict(read=0, refused=0, refused_usr=[], leaks=[], devices={}, sockets=[], canaries=[])
    pending = ["/"]
    while pending:
        where = pending.pop()
        try:
            entries = list(os.scandir(where))
        except OSError:
            said["refused"] += 1
            continue
        for entry in entries:
            path = entry.path
            if path.startswith((own, "/proc/self", "/proc/thread-self")) or "/task/" in path:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            kind = stat.S_IFMT(status.st_mode)
            if kind == stat.S_IFDIR:
                pending.append(path)
            elif kind == stat.S_IFLNK and path.startswith("/proc/"):
                # Links of /proc lead to files themselves, not to paths.
                try:
                    os.listdir(path + "/") if os.path.isdir(path) else None
                    target = os.stat(path)
                    if (target.st_dev, target.st_ino) in inodes:
                        said["leaks"].append("%s -> %s" % (path, inodes[target.st_dev, target.st_ino]))
                except OSError:
                    said["refused"] += 1
            elif kind in (stat.S_IFCHR, stat.S_IFBLK):
                try:
                    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))
                    how = "OK"
                except OSError as error:
                    how = errno.errorcode[error.errno]
                said["devices"][path] = "%d:%d %s" % (os.major(status.st_rdev), os.minor(status.st_rdev), how)
            elif kind == stat.S_IFSOCK:
                said["sockets"].append(path)
            elif kind == stat.S_IFREG:
                special = path.startswith(("/proc/", "/sys/"))
                signal.setitimer(signal.ITIMER_REAL, 2)
                try:
                    if special:
                        content = read_some(path, 1 << 20)
                    elif status.st_size in sizes or not path.startswith("/usr/"):
                        content = read_some(path, 1 << 26)
                    else:
                        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
                        content = b""
                    said["read"] += 1
                except OSError:
                    said["refused"] += 1
                    if path.startswith("/usr/"):
                        said["refused_usr"].append(path)
                    continue
                except TooLong:
                    said["refused"] += 1
                    continue
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                if (status.st_dev, status.st_ino) in inodes:
                    said["leaks"].append("%s is %s" % (path, inodes[status.st_dev, status.st_ino]))
                if len(content) in sizes:
                    same = sizes[len(content)].get(hashlib.sha256(content).hexdigest())
                    if same:
                        said["leaks"].append("%s has the content of %s" % (path, same))
                if word in content:
                    said["canaries"].append(path)
    with open("/proc/self/mountinfo") as file:
        said["mounts"] = sorted(line.split()[4] for line in file)
    print(json.dumps(said))

# Sockets of others.

def verb_listen(name):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name)
        listener.listen()
        print("listening", flush=True)
        sys.stdin.read()

def ended(function, *arguments):
    """How a call ended."""
    try:
        function(*arguments)
        return "OK"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))

def verb_abstract(name):
    with socket.socket(socket.AF_UNIX) as client:
        print(ended(client.connect, "\0" + name))

def verb_give(path):
    """One TCP, one UDP socket and one TCP socket that is connected, all of this stack."""
    if os.path.exists(path):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX) as door, socket.socket() as listener:
        door.bind(path)
        # Of an id that tenants have in shared directories: what is others' is out of their reach there.
        os.chown(path, 0x70000000, 0x70000000)
        door.listen()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        connected = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        print("giving", flush=True)
        taker, _ = door.accept()
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp, socket.socket(socket.AF_INET6) as six:
            port = str(listener.getsockname()[1]).encode()
            socket.send_fds(taker, [port], [s.fileno() for s in (tcp, udp, six, connected)])
            taker.recv(1)
        far.setblocking(False)
        try:
            print("came out:", far.recv(100).decode(), flush=True)
        except BlockingIOError:
            print("nothing came out", flush=True)

def use(tcp, udp, six, port):
    """What can be done with unconnected sockets of a foreign stack; each name with how it ended."""
    said = {
        "bind": ended(tcp.bind, ("127.0.0.1", 0)),
        "connect": ended(tcp.connect, ("127.0.0.1", port)),
        "bind6": ended(six.bind, ("::1", 0)),
        "sendto": ended(udp.sendto, b"x", ("127.0.0.1", port)),
        "connect_udp": ended(udp.connect, ("127.0.0.1", port)),
    }
    return said

def verb_take(path):
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(path)
        port, fds, _, _ = socket.recv_fds(door, 100, 4)
        tcp, udp, six, connected = (socket.socket(fileno=fd) for fd in fds)
        said = use(tcp, udp, six, int(port))
        said["send_connected"] = ended(connected.send, b"from a tenant")
        print(json.dumps(said))
        door.send(b"!")

def verb_use():
    """The control: the same with sockets of its own stack."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        tcp, udp, six = socket.socket(), socket.socket(type=socket.SOCK_DGRAM), socket.socket(socket.AF_INET6)
        print(json.dumps(use(tcp, udp, six, listener.getsockname()[1])))

def verb_stranger(uid, gid):
    """Whether a process of these ids gets a socket where it stands."""
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))
    print(ended(lambda: socket.socket().close()), ended(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()))

# Frames.

def verb_frames(device, own, macs, count="20"):
    """As `hostile.py`, but by the tenant's own root: the words are what the port should count."""
    mac = lambda text: bytes.fromhex(text.replace(":", ""))
    own, others, gateway, count = mac(own), [mac(m) for m in macs.split(",")], b"\x02\0\x5e\0\x53\x0a", int(count)
    address = lambda text: socket.inet_aton(text)
    payload = b"<<forged>>" * 4
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), 7, 0, 64, 17, 0) + address("192.168.1.1") + address("192.168.1.10")
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xffff) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xffff) + head[12:]
    packet = head + struct.pack("!HHHH", 4000, 7, 8 + len(payload), 0) + payload
    ethernet = lambda source, kind, body: gateway + source + struct.pack("!H", kind) + body
    tag = lambda vlan, kind, body: struct.pack("!HH", vlan, kind) + body
    arp = lambda sender: struct.pack("!HHBBH", 1, 0x800, 6, 4, 2) + sender + address("192.168.1.10") + gateway + address("192.168.1.1")
    advert = lambda kind, body: struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + socket.inet_pton(10, "fe80::1") + \
        socket.inet_pton(10, "ff02::1") + body
    kinds = {
        "tag": [ethernet(own, 0x8100, tag(v, 0x800, packet)) for v in (600, 601, 602)],
        "two_tags": [ethernet(own, k, tag(601, 0x8100, tag(v, 0x800, packet))) for v in (600, 602) for k in (0x8100, 0x88a8)],
        "mac": [ethernet(m, 0x800, packet) for m in others],
        "arp": [ethernet(own, 0x806, arp(m)) for m in others],
        "arp_mac": [ethernet(m, 0x806, arp(m)) for m in others],
        "nd": [ethernet(m, 0x86dd, advert(136, struct.pack("!BBHI", 136, 0, 0, 0x20000000) + socket.inet_pton(10, "fe80::1"))) for m in others],
        "ra": [ethernet(m, 0x86dd, advert(134, struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0))) for m in others],
    }
    with socket.socket(17, socket.SOCK_RAW, 0x300) as out:
        out.bind((device, 0))
        sent = {}
        for name, frames in kinds.items():
            for n in range(count):
                out.send(frames[n % len(frames)])
            sent[name] = count
    print(json.dumps(sent))

# As much as there is.

def processes():
    """Children that wait; the limit is read back first: without one there is no bomb."""
    limit = 20000
    kept = []
    while len(kept) < limit:
        try:
            pid = os.fork()
        except OSError as error:
            return kept, error
        if pid == 0:
            # Whoever ends this program by a signal ends them too (PR_SET_PDEATHSIG).
            libc.prctl(1, 9)
            if os.getppid() != 1:
                signal.pause()
            os._exit(0)
        kept.append(pid)
    return kept, None

def files(directory):
    """Empty files, removed in the end."""
    def run():
        os.makedirs(directory, exist_ok=True)
        kept, error = taker(lambda n: os.close(os.open("%s/%d" % (directory, n), os.O_CREAT | os.O_WRONLY)), 300000)()
        for n in range(len(kept)):
            os.unlink("%s/%d" % (directory, n))
        return kept, error
    return run

def taker(one, most):
    def run():
        kept = []
        while len(kept) < most:
            try:
                kept.append(one(len(kept)))
            except OSError as error:
                return kept, error
        return kept, None
    return run

HELD = []

def filled(path, most):
    def run():
        kept, chunk = [], bytes(1 << 20)
        with open(path, "wb", 0) as file:
            try:
                while len(kept) < most:
                    # Only part of it is the same as no space.
                    if file.write(chunk) < len(chunk):
                        raise OSError(errno.ENOSPC, "part")
                    kept.append(None)
            except OSError as error:
                return kept, error
            finally:
                # It stays taken until the file is closed, which is when this program ends.
                HELD.append(os.open(path, os.O_RDONLY))
                os.unlink(path)
        return kept, None
    return run

def inotify(_):
    fd = libc.inotify_init1(0)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "inotify")
    return fd

def terminal(_):
    return os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)

def queue(n):
    libc.mq_open.restype = ctypes.c_int
    fd = libc.mq_open(b"/attack%d" % n, os.O_RDWR | os.O_CREAT, 0o600, None)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "mq_open")
    return fd

def timer(_):
    made = ctypes.c_int()
    event = struct.pack("qii", 0, 10, 0) + bytes(48)
    if libc.syscall(222, 0, event, ctypes.byref(made)) < 0:
        raise OSError(ctypes.get_errno(), "timer_create")
    return made.value

WHAT = {
    "processes": processes,
    "shm": filled("/dev/shm/attack", 4096),
    "tmp": filled("/tmp/attack", 4096),
    "run": filled("/run/attack", 4096),
    "disk": filled("/var/tmp/attack", 4096),
    "inodes": files("/var/tmp/many"),
    "shm_inodes": files("/dev/shm/many"),
    "inotify": taker(inotify, 900),
    "terminals": taker(terminal, 900),
    "queues": taker(queue, 900),
    "timers": taker(timer, 300000),
}

def verb_take_all(what):
    kept, error = WHAT[what]()
    how = errno.errorcode.get(error.errno, str(error)) if error else "none"
    print(json.dumps(dict(taken=len(kept), ended=how)), flush=True)
    sys.stdin.read()
    if what == "processes":
        for pid in kept:
            os.kill(pid, 9)
        for pid in kept:
            os.waitpid(pid, 0)

def verb_settings():
    """Opened for writing only; nothing is written."""
    found = []
    for where, _, files in os.walk("/proc/sys"):
        for name in files:
            try:
                os.close(os.open(os.path.join(where, name), os.O_WRONLY))
                found.append(os.path.join(where, name))
            except OSError:
                pass
    print(json.dumps(found))

def verb_deep(count):
    os.makedirs("/var/tmp/deep")
    os.chdir("/var/tmp/deep")
    for _ in range(int(count)):
        os.mkdir("d")
        fd = os.open("d", os.O_PATH)
        os.fchdir(fd)
        os.close(fd)


def main():
    verb, arguments = sys.argv[1], sys.argv[2:]
    if verb == "calls":
        for name in arguments or ATTACKS:
            print(name, run(name), flush=True)
    else:
        globals()["verb_" + verb.replace("-", "_")](*arguments)


if __name__ == "__main__":
    main()
