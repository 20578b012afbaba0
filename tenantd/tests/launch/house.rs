//! What init makes before it starts anything.

use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;

use tenant_init::client::{Client, ClientError};
use tenant_init::house::Image;
use tenant_init::protocol::RefusalKind;
use tenantd::launch;

use crate::tenant::{SOON, Tenant, command, spec, status};

pub(crate) fn own_namespaces() {
    let mut tenant = Tenant::launch();
    let pid = tenant.launched.pid;
    for kind in ["net", "mnt", "pid", "ipc", "uts", "user", "cgroup"] {
        let inode = |pid: &str| std::fs::metadata(format!("/proc/{pid}/ns/{kind}")).unwrap().ino();
        assert_ne!(inode("self"), inode(&pid.to_string()), "{kind}");
    }
    let hello = tenant.client.hello(SOON).unwrap();
    assert_eq!(hello.netns, tenant.launched.netns_inode);
    assert_eq!((hello.name.as_str(), hello.ids, hello.processes), ("acme", tenant.ids(), 0));
    assert_eq!(tenant.client.peer_pid(), Some(pid));
    assert_eq!(tenant.output_of("hostname"), "acme");
    // Only its own processes, and they are where init can see them.
    assert_eq!(tenant.output_of("ls /proc | grep -c '^[0-9]'").parse::<u32>().unwrap(), 4, "init, sh, ls, grep");
}

pub(crate) fn init_is_small() {
    // A descriptor that a careless library opened without close-on-exec.
    let leak = std::fs::File::open("/etc/passwd").unwrap();
    nix::fcntl::fcntl(&leak, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let tenant = Tenant::launch();
    let pid = tenant.launched.pid;
    // What root of the tenant has, and nothing that reaches past it: no net_admin (12), net_raw (13), sys_module (16),
    // sys_rawio (17), sys_ptrace (19), sys_admin (21), mknod (27).
    let caps = u64::from_str_radix(&status(pid, "CapBnd"), 16).unwrap();
    for (set, wanted) in [("CapPrm", caps), ("CapEff", caps), ("CapInh", 0), ("CapAmb", 0)] {
        assert_eq!(u64::from_str_radix(&status(pid, set), 16).unwrap(), wanted, "{set}");
    }
    assert_eq!(caps, 0xb004_85ff, "{caps:x}");
    assert_eq!(status(pid, "Seccomp"), "2");
    assert_eq!(status(pid, "NoNewPrivs"), "0", "su and passwd go on to work");
    assert_eq!(status(pid, "Uid"), format!("{0} {0} {0} {0}", tenant.ids()));
    assert_eq!(status(pid, "Groups"), "");
    assert_eq!(status(pid, "Threads"), "1");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        files.push(std::fs::read_link(entry.unwrap().path()).unwrap().to_string_lossy().into_owned());
    }
    assert!(!files.iter().any(|file| file.contains("passwd")), "{files:?}");
    // /dev/null, twice the log, signalfd, control socket, one client, the directory of the logs.
    assert_eq!(files.len(), 7, "{files:?}");
}

pub(crate) fn own_names() {
    let mut tenant = Tenant::launch();
    let before = std::fs::read_to_string("/etc/hosts").unwrap();
    assert!(tenant.output_of("cat /etc/resolv.conf").ends_with("nameserver 192.168.1.53"));
    assert!(tenant.output_of("cat /etc/hosts").ends_with("\n192.168.1.1 acme"));
    launch::write_resolv_conf(&tenant.spec.state_dir, &["fd00::53".parse().unwrap()]).unwrap();
    launch::write_hosts(&tenant.spec.state_dir, &tenant.spec.name, &["10.0.0.7/8".parse().unwrap()]).unwrap();
    assert!(tenant.output_of("cat /etc/resolv.conf").ends_with("nameserver fd00::53"));
    assert!(tenant.output_of("cat /etc/hosts").ends_with("\n10.0.0.7 acme"));
    assert_eq!(std::fs::read_to_string("/etc/hosts").unwrap(), before, "the host's own");
    // The tenant reads them and does not write them.
    assert!(tenant.output_of("echo x >>/etc/hosts || echo refused").contains("refused"));
}

pub(crate) fn private_root() {
    let mounts = || {
        let all = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        all.lines().map(str::to_owned).filter(|line| line.contains("tenants") || line.contains("acme")).count()
    };
    let before = mounts();
    let mut tenant = Tenant::launch();
    assert_eq!(mounts(), before, "a mount of the tenant came out");
    let marker = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    assert!(!tenant.output_of("ls -A /tmp").contains(&*marker.path().file_name().unwrap().to_string_lossy()));
    assert_eq!(tenant.output_of("touch /tmp/mine /dev/shm/mine /run/mine /etc/mine /root/mine && echo done"), "done");
    for path in ["/tmp/mine", "/dev/shm/mine", "/run/mine", "/etc/mine", "/root/mine"] {
        assert!(!std::path::Path::new(path).exists(), "{path}");
    }
    // What it writes lies in its own layer, owned by its own ids.
    let written = tenant.spec.state_dir.join("layer/upper/root/mine");
    assert_eq!(std::fs::metadata(written).unwrap().uid(), tenant.ids());
    assert_eq!(tenant.output_of("stat -c %u:%g /root/mine /etc/passwd | tr '\\n' ' '"), "0:0 0:0");

    // Of mounts there are its own and no other, each at one place.
    let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", tenant.launched.pid)).unwrap();
    let at: Vec<&str> = table.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
    let known = ["/", "/usr", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/tmp", "/run"];
    for point in known {
        assert_eq!(at.iter().filter(|one| **one == point).count(), 1, "{point} in {table}");
    }
    let allowed = |one: &&&str| {
        known.contains(*one) || one.starts_with("/proc/") || one.starts_with("/sys/") || one.starts_with("/etc/")
    };
    assert_eq!(at.iter().filter(allowed).count(), at.len(), "{table}");
    // The host's own file systems are seen read-only, and nobody inside can mount.
    assert!(tenant.output_of("touch /usr/bin/x 2>&1").contains("Read-only"));
    let mounts = "mount -t tmpfs x /mnt || echo refused; umount /proc/sys || echo refused";
    assert_eq!(tenant.output_of(&format!("({mounts}) 2>/dev/null")), "refused\nrefused");
    assert_eq!(
        tenant.output_of("ls /dev | tr '\\n' ' '"),
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
    // The control socket is out of reach.
    let socket = tenant.spec.control_socket.display().to_string();
    assert_eq!(tenant.output_of(&format!("test -e {socket} || echo absent")), "absent");
    assert_eq!(std::fs::metadata(&tenant.spec.control_socket).unwrap().permissions().mode() & 0o777, 0o600);
}

/// The tenant has replaced what init mounts on by links that lead to the host's files, were they followed there.
pub(crate) fn links_in_the_way() {
    let root = tempfile::tempdir().unwrap();
    let spec = spec(root.path(), "acme");
    let upper = spec.state_dir.join("layer/upper");
    std::fs::create_dir_all(&upper).unwrap();
    let victim = root.path().join("victim");
    std::fs::create_dir(&victim).unwrap();
    std::fs::write(victim.join("hosts"), "precious").unwrap();
    for name in ["proc", "etc", "dev", "tmp", "run", "sys"] {
        std::os::unix::fs::symlink(&victim, upper.join(name)).unwrap();
    }
    let launched = launch::launch(&spec).unwrap();
    let hello = Client::connect(&spec.control_socket).unwrap().hello(SOON).unwrap();
    launch::end(&launched.pidfd, SOON).unwrap();
    assert!(hello.ready, "{hello:?}");
    assert_eq!(std::fs::read_to_string(victim.join("hosts")).unwrap(), "precious");
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 1, "nothing was made there");
    launch::forget(&spec.control_socket, &spec.state_dir).unwrap();
}

/// With its own stack to administer: the namespace is the tenant's, so addresses are its own to give.
pub(crate) fn own_network() {
    let root = tempfile::tempdir().unwrap();
    let spec = tenantd::launch::LaunchSpec { network: true, ..spec(root.path(), "acme") };
    let mut tenant = Tenant::from_spec(root, spec);
    assert_eq!(tenant.client.hello(SOON).unwrap().netns, tenant.launched.netns_inode);
    let own = tenant.output_of("ip link add dummy0 type veth && ip addr add 10.0.0.1/8 dev dummy0 && echo given");
    assert_eq!(own, "given");
    assert_eq!(tenant.output_of("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "0");
    assert_eq!(tenant.output_of("echo 1 >/proc/sys/net/ipv4/ip_forward && cat /proc/sys/net/ipv4/ip_forward"), "1");
    assert!(tenant.output_of("echo 1 >/proc/sys/kernel/panic || echo refused").contains("refused"));
    assert_eq!(tenant.output_of("ls /sys/class/net | tr '\\n' ' '"), "dummy0 lo veth0");
    let caps = u64::from_str_radix(&status(tenant.launched.pid, "CapBnd"), 16).unwrap();
    assert_eq!(caps, 0xb004_85ff | 1 << 11 | 1 << 12 | 1 << 13, "{caps:x}");
}

pub(crate) fn stack_settings() {
    let mut tenant = Tenant::launch();
    let settings = "cd /proc/sys/net; cat ipv4/ip_unprivileged_port_start ipv6/conf/default/accept_ra \
        ipv6/conf/default/accept_dad ipv6/conf/default/accept_redirects ipv4/conf/all/accept_redirects \
        ipv4/conf/default/send_redirects | tr -d '\\n'";
    assert_eq!(tenant.output_of(settings), "000000");
    assert_eq!(tenant.output_of("ls /sys/class/net"), "lo");
    let flags = tenant.output_of("cat /sys/class/net/lo/flags");
    assert_eq!(u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap() & 1, 1, "up");
    assert!(tenant.output_of("echo 1 >/proc/sys/net/ipv4/ip_forward || echo refused").contains("refused"));
}

pub(crate) fn failed_set_up() {
    let root = tempfile::tempdir().unwrap();
    let mut spec = spec(root.path(), "acme");
    spec.image = Image::Tree { root: root.path().join("not-there") };
    let launched = launch::launch(&spec).unwrap();
    let mut client = Client::connect(&spec.control_socket).unwrap();
    let hello = client.hello(SOON).unwrap();
    assert!(!hello.ready);
    assert!(hello.failed.unwrap().starts_with("root file system: "));
    let refusal = client.start(command("a", &["/bin/true"]), SOON).unwrap_err();
    assert!(matches!(&refusal, ClientError::Refused(why) if why.kind == RefusalKind::NotReady), "{refusal}");
    launch::end(&launched.pidfd, SOON).unwrap();
    launch::forget(&spec.control_socket, &spec.state_dir).unwrap();
    assert!(!spec.state_dir.exists());
}
