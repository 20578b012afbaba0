//! The same tests on the oldest kernel promised, Linux 6.1, which also has no BTF and no version 1 hierarchies:
//! user-mode-linux, whose root is this machine's file system, read only.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{keep, matrix};

pub(crate) const TESTS: &[(&str, fn())] = &[("linux_6_1_without_btf", linux_6_1_without_btf)];

/// Set in the foreign kernel.
const INSIDE: &str = "STACK_GUARD_FOREIGN";

/// Why it cannot run here.
pub(crate) fn unable() -> Option<&'static str> {
    if std::env::var_os(INSIDE).is_some() {
        return Some("is the foreign kernel");
    }
    let found = |program: &str| Path::new(program).exists();
    (!found("/usr/bin/linux.uml") || !found("/sbin/modprobe")).then_some("needs user-mode-linux and kmod")
}

/// All tests but those that need BTF, and this one, must be done and pass.
fn linux_6_1_without_btf() {
    let dir = std::env::temp_dir().join(format!("stack-guard-foreign-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let init = dir.join("init");
    let script = format!(
        "#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc none /proc; mount -t sysfs none /sys
mount -t cgroup2 none /sys/fs/cgroup; mount -t tmpfs none /tmp
mkdir -p /tmp/kernel/lib; ln -s /usr/lib/uml/modules /tmp/kernel/lib/modules; modprobe -d /tmp/kernel ipv6
mount -t hostfs none /mnt -o {dir}
{INSIDE}=1 /mnt/tests --color=never 2>&1
ls -d /sys/fs/cgroup/stack-guard-* 2>/dev/null
echo o >/proc/sysrq-trigger; sleep 10
",
        dir = dir.display()
    );
    std::fs::write(&init, script).unwrap();
    std::fs::set_permissions(&init, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::copy(std::env::current_exe().unwrap(), dir.join("tests")).unwrap();
    // In namespaces of its own, so that it ends as one when the time is over.
    let output = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "timeout", "900", "linux.uml"])
        .args(["mem=384M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"])
        .args(["con0=fd:0,fd:1", "con=null"])
        .arg(format!("init={}", init.display()))
        .env("TMPDIR", if Path::new("/dev/shm").is_dir() { Path::new("/dev/shm") } else { &dir })
        .env("HOME", &dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let console = String::from_utf8_lossy(&output.stdout);
    let end = console.lines().find(|line| line.starts_with("test result:")).unwrap_or("no result");
    let ignored = matrix::SEEING.len() + keep::SEEING.len() + TESTS.len();
    assert!(end.contains("ok. ") && end.contains(&format!("; {ignored} ignored;")), "{console}");
    assert!(!console.contains("/sys/fs/cgroup/stack-guard-"), "a cgroup was left behind: {console}");
}
