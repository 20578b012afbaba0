//! What init makes before it starts anything.

use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;

use tenant_init::client::{Client, ClientError};
use tenant_init::protocol::RefusalKind;
use tenantd::launch;

use crate::tenant::{SOON, Tenant, command, spec, status};

pub(crate) fn own_namespaces() {
    let mut tenant = Tenant::launch();
    let pid = tenant.launched.pid;
    for kind in ["net", "mnt", "pid", "ipc", "uts"] {
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
    // kill, setgid, setuid: bits 5, 6 and 7.
    assert_eq!(status(pid, "CapPrm"), "00000000000000e0");
    assert_eq!(status(pid, "CapEff"), "00000000000000e0");
    for set in ["CapInh", "CapBnd", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    assert_eq!(status(pid, "Threads"), "1");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        files.push(std::fs::read_link(entry.unwrap().path()).unwrap().to_string_lossy().into_owned());
    }
    assert!(!files.iter().any(|file| file.contains("passwd")), "{files:?}");
    // /dev/null, twice the log, signalfd, control socket, one client.
    assert_eq!(files.len(), 6, "{files:?}");
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

pub(crate) fn private_mounts() {
    let mounts = || {
        let all = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        all.lines().map(str::to_owned).filter(|line| line.contains("tenants") || line.contains("acme")).count()
    };
    let before = mounts();
    let mut tenant = Tenant::launch();
    assert_eq!(mounts(), before, "a mount of the tenant came out");
    let marker = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    assert!(!tenant.output_of("ls -A /tmp").contains(&*marker.path().file_name().unwrap().to_string_lossy()));
    assert_eq!(tenant.output_of("ls -A /dev/shm /run | grep -v : | tr -d '\\n'").split('/').count(), 1);
    assert_eq!(tenant.output_of("touch /tmp/mine /dev/shm/mine /run/mine && echo done"), "done");
    assert!(!std::path::Path::new("/tmp/mine").exists() && !std::path::Path::new("/dev/shm/mine").exists());

    // The neighbours' directories are not there; the own one is, with the own home to write in.
    let neighbours = tenant.spec.state_dir.parent().unwrap().to_owned();
    std::fs::create_dir_all(neighbours.join("other")).unwrap();
    assert_eq!(tenant.output_of(&format!("ls {}", neighbours.display())), "acme");
    assert_eq!(tenant.output_of("pwd"), tenant.spec.state_dir.join("home").to_string_lossy());
    assert_eq!(tenant.output_of("touch file && stat -c %u:%g file"), format!("{0}:{0}", tenant.ids()));
    assert_eq!(std::fs::metadata(tenant.spec.state_dir.join("home/file")).unwrap().uid(), tenant.ids());
    let refused = tenant.output_of("ls ../logs; touch ../x; cat ../init.log; echo end");
    assert_eq!(refused.matches("Permission denied").count(), 3, "{refused}");
    // Each of ours is there once: nothing of the host's is kept alive below it.
    let table = tenant.output_of("cut -d' ' -f2 /proc/self/mounts | sort");
    for point in ["/proc", "/sys", "/run", "/tmp", "/dev/shm"] {
        let here: Vec<_> =
            table.lines().filter(|line| line.starts_with(&format!("{point}/")) || *line == point).collect();
        let ours = |line: &&&str| ***line == *point || line.starts_with(&*neighbours.to_string_lossy());
        assert_eq!(here.len(), here.iter().filter(ours).count(), "{table}");
        assert_eq!(here.iter().filter(|line| **line == point).count(), 1, "{table}");
    }
    // The control socket is out of reach.
    let socket = tenant.spec.control_socket.display().to_string();
    assert_eq!(tenant.output_of(&format!("test -e {socket} || echo absent")), "absent");
    assert_eq!(std::fs::metadata(&tenant.spec.control_socket).unwrap().permissions().mode() & 0o777, 0o600);
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
    // Directly below the root: init refuses to cover what is there.
    let directory = format!("/tenantd-test-{}", std::process::id());
    spec.state_dir = directory.into();
    let launched = launch::launch(&spec).unwrap();
    let mut client = Client::connect(&spec.control_socket).unwrap();
    let hello = client.hello(SOON).unwrap();
    assert!(!hello.ready);
    assert!(hello.failed.unwrap().starts_with("state directory: "));
    let refusal = client.start(command("a", &["/bin/true"]), SOON).unwrap_err();
    assert!(matches!(&refusal, ClientError::Refused(why) if why.kind == RefusalKind::NotReady), "{refusal}");
    launch::end(&launched.pidfd, SOON).unwrap();
    launch::forget(&spec.control_socket, &spec.state_dir).unwrap();
    assert!(!spec.state_dir.exists());
}
