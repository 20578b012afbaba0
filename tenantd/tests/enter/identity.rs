//! Who the entered process is, and what it has.

use std::collections::BTreeMap;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::itself::shown;
use crate::tenant::{Tenant, eventually};

/// Fields of /proc/PID/status.
fn fields(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim())).collect()
}

const WHO: [&str; 10] =
    ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Seccomp", "Seccomp_filters"];

pub(crate) fn root() {
    let mut tenant = Tenant::launch();
    let service = tenant.output_of("cat /proc/self/status; ls -l /proc/self/ns | sed 's/.*-> /ns:/'");
    let entered = tenant.said(&["sh", "-c", "cat /proc/self/status; ls -l /proc/self/ns | sed 's/.*-> /ns:/'"]);
    let (service_has, has) = (fields(&service), fields(&entered));
    assert_eq!(has["Uid"], "0\t0\t0\t0");
    for field in WHO {
        assert_eq!(has[field], service_has[field], "{field}");
    }
    assert_eq!(has["Seccomp"], "2");
    let namespaces =
        |text: &str| text.lines().filter(|line| line.starts_with("ns:")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(namespaces(&entered), namespaces(&service));
    assert!(namespaces(&entered).len() > 7, "{entered}");
    // What neither may: become more, see the host, make namespaces.
    let refused = tenant.said(&["python3", "-c", "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n\
        print(libc.mount(b'none', b'/mnt', b'tmpfs', 0, None), libc.unshare(0x10000000), libc.setns(0, 0), libc.syscall(250, 0))"]);
    assert_eq!(refused, "-1 -1 -1 -1");
    assert_eq!(tenant.said(&["hostname"]), "acme");
    assert_eq!(tenant.said(&["pwd"]), "/root");
    // Limits (but of the one by which init knows a service) and the readiness to be killed are init's, not the operator's.
    let limits = "grep -v locks /proc/self/limits; cat /proc/self/oom_score_adj";
    assert_eq!(tenant.said(&["sh", "-c", limits]), tenant.output_of(limits));
}

pub(crate) fn user() {
    let tenant = Tenant::launch();
    let has = |user| tenant.said(&["-u", user, "cat", "/proc/self/status"]);
    let daemon = has("daemon");
    let daemon = fields(&daemon);
    assert_eq!((daemon["Uid"], daemon["Gid"]), ("1\t1\t1\t1", "1\t1\t1\t1"));
    assert_eq!(daemon["CapPrm"], "0000000000000000");
    assert_eq!(daemon["CapEff"], "0000000000000000");
    assert_eq!(daemon["Groups"], "1");
    tenant.said(&[
        "sh",
        "-c",
        "echo 'ann:x:4000:4000::/var/tmp:/bin/sh' >>/etc/passwd; \
        echo 'staff2:x:77:bob,ann' >>/etc/group",
    ]);
    let ann = has("ann");
    assert_eq!(fields(&ann)["Groups"], "77 4000");
    assert_eq!(
        tenant.said(&["-u", "4000", "sh", "-c", "id -un; pwd; echo $HOME $USER; touch /etc/x || echo refused"]),
        "ann\n/var/tmp\n/var/tmp ann\nrefused"
    );
    assert_eq!(tenant.said(&["-u", "4711", "id", "-u"]), "4711");
}

pub(crate) fn unknown_user() {
    let tenant = Tenant::launch();
    for user in ["nobody-here", "65536", "4294967295"] {
        let output = tenant.enter(&["-u", user, "true"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
        assert!(shown(&output).contains("cannot enter tenant acme"), "{}", shown(&output));
    }
    // Whatever the tenant makes of its passwd, nobody waits for it and nobody comes out.
    tenant.said(&["sh", "-c", "mv /etc/passwd /etc/p; mkfifo /etc/passwd"]);
    let output = tenant.enter(&["true"]).output().unwrap();
    assert!(shown(&output).contains("no regular file"), "{}", shown(&output));
}

pub(crate) fn descriptors() {
    let tenant = Tenant::launch();
    // What a careless parent leaves open, and a terminal and files as standard descriptors.
    let file = std::fs::File::open("/etc/passwd").unwrap();
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let terminal = terminal();
    let out = tempfile::NamedTempFile::new().unwrap();
    let mut command = tenant.enter(&["sh", "-c", "for fd in /proc/self/fd/*; do readlink $fd; done; sleep 0.1"]);
    command.stdin(terminal.1).stdout(out.reopen().unwrap()).stderr(file.try_clone().unwrap());
    assert!(command.status().unwrap().success());
    let seen = std::fs::read_to_string(out.path()).unwrap();
    let seen: Vec<&str> = seen.lines().collect();
    assert_eq!(seen.iter().filter(|line| line.starts_with("pipe:[")).count(), 3, "{seen:?}");
    assert!(
        !seen.iter().any(|line| line.contains("passwd") || line.contains("pts") || line.contains("tmp")),
        "{seen:?}"
    );
    // The glob itself has the directory open, and the shell expands it before: no other.
    assert!(seen.len() <= 4, "{seen:?}");
}

/// Both sides of a terminal of the host.
fn terminal() -> (OwnedFd, OwnedFd) {
    let (mut near, mut far) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: fills two integers; the descriptors are new and ours.
    unsafe {
        assert_eq!(libc::openpty(&mut near, &mut far, none, std::ptr::null(), std::ptr::null()), 0);
        (OwnedFd::from_raw_fd(near), OwnedFd::from_raw_fd(far))
    }
}

pub(crate) fn environment() {
    let tenant = Tenant::launch();
    let mut command = tenant.enter(&["env"]);
    command.env("TERM", "xterm").env("LC_ALL", "C.UTF-8").env("SECRET", "x").env("LD_PRELOAD", "").env("PATH", "/no");
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = text.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    let allowed =
        ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "LC_ALL", "COLORTERM", "LANGUAGE", "LC_CTYPE"];
    assert!(names.iter().all(|name| allowed.contains(name)), "{text}");
    assert!(
        text.contains("TERM=xterm\n") && text.contains("LC_ALL=C.UTF-8\n") && text.contains("HOME=/root\n"),
        "{text}"
    );
    assert!(text.contains("PATH=/usr/local/sbin:") && text.contains("/bin:/run/tenantd\n"), "{text}");
}

pub(crate) fn cgroups() {
    let tenant = Tenant::launch();
    let init = tenant.launched.pid;
    // A cgroup of each version that is there, for init alone; it is ours and goes again.
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mut rooms = Vec::new();
    for mount in mounts.lines() {
        let fields: Vec<&str> = mount.split(' ').collect();
        let pids = fields[3].split(',').any(|option| option == "pids");
        if fields[2] == "cgroup2" || (fields[2] == "cgroup" && pids) {
            let room = std::path::Path::new(fields[1]).join(format!("enter-test-{}", std::process::id()));
            std::fs::create_dir(&room).unwrap();
            std::fs::write(room.join("cgroup.procs"), init.to_string()).unwrap();
            rooms.push(room);
        }
    }
    assert!(!rooms.is_empty());
    let mut child = tenant.enter(&["sleep", "1000"]).spawn().unwrap();
    let members = |room: &std::path::PathBuf| {
        let text = std::fs::read_to_string(room.join("cgroup.procs")).unwrap();
        let names = text.lines().map(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default());
        names.map(|name| name.trim().to_owned()).collect::<Vec<_>>()
    };
    let seen: Vec<_> = rooms
        .iter()
        .map(|room| {
            eventually("the command in the cgroup", || Some(members(room)).filter(|m| m.iter().any(|n| n == "sleep")))
        })
        .collect();
    // We ourselves stay where we are.
    let ours = std::fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    drop(tenant);
    for room in &rooms {
        eventually("the cgroup's end", || std::fs::remove_dir(room).ok());
    }
    assert!(!ours.contains("enter-test"), "{ours}");
    assert!(seen.iter().all(|members| members.len() == 2), "{seen:?}");
}

pub(crate) fn mistaken() {
    let mut tenant = Tenant::launch();
    // Not its init, though in its stack.
    tenant.sh("other", "exec sleep 1000");
    let child = tenant.children()[0];
    let init = tenant.launched.pid;
    tenant.launched.pid = child;
    let output = tenant.enter(&["true"]).output().unwrap();
    tenant.launched.pid = init;
    assert!(shown(&output).contains("is not the init of tenant acme: it is process"), "{}", shown(&output));
    // Its init by number, but with another stack than the daemon said.
    let inode = tenant.launched.netns_inode;
    tenant.launched.netns_inode += 1;
    let output = tenant.enter(&["true"]).output().unwrap();
    tenant.launched.netns_inode = inode;
    assert!(shown(&output).contains("it has network namespace"), "{}", shown(&output));
    assert_eq!(output.status.code(), Some(1));
}
