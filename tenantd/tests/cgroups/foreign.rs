//! The same tests on a kernel that is laid out otherwise: user-mode-linux (6.1), whose root is this machine's file
//! system, read only, with an empty disk of its own. This machine's own layout cannot be changed: its hierarchies
//! belong to whoever started them.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::room::files;

/// Set in the foreign kernel: where a disk is mounted.
pub(crate) const FILES: &str = "TENANTD_TEST_FILES";

/// Why it cannot run here.
pub(crate) fn missing() -> Option<String> {
    let programs = ["/usr/bin/linux.uml", "/usr/bin/unshare", "/sbin/mkfs.ext4"];
    programs
        .into_iter()
        .find(|program| !Path::new(program).exists())
        .map(|program| format!("{program} is not installed"))
}

/// All controllers in version 2, as most hosts are today.
pub(crate) fn version_2() {
    run("mount -t cgroup2 none /sys/fs/cgroup", 0);
}

/// No version 2 at all.
pub(crate) fn version_1() {
    let mounts = "mount -t tmpfs none /sys/fs/cgroup
for c in cpu,cpuacct memory pids blkio; do mkdir /sys/fs/cgroup/$c; mount -t cgroup -o $c none /sys/fs/cgroup/$c; done";
    run(mounts, 0);
}

/// Boots, mounts, runs this program there; all its tests but `ignored` must be done.
fn run(mounts: &str, ignored: u32) {
    let dir = tempfile::Builder::new().prefix("foreign").tempdir_in(files()).unwrap();
    let (disk, init) = (dir.path().join("disk"), dir.path().join("init"));
    std::fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    let made = Command::new("/sbin/mkfs.ext4").arg("-q").arg(&disk).status().unwrap();
    assert!(made.success(), "mkfs.ext4");
    let script = format!(
        "#!/bin/sh
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev; mount -t tmpfs none /run
{mounts}
mkdir /run/disk; mount /dev/ubda /run/disk
{FILES}=/run/disk {} --color=never
find /sys/fs/cgroup -name 'tenantd-*'
echo o >/proc/sysrq-trigger; sleep 10
",
        std::env::current_exe().unwrap().display()
    );
    std::fs::write(&init, script).unwrap();
    std::fs::set_permissions(&init, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // In namespaces of its own, so that it ends as one when the time is over.
    let memory = if Path::new("/dev/shm").is_dir() { Path::new("/dev/shm") } else { dir.path() };
    let output = Command::new("/usr/bin/unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "timeout", "900", "linux.uml"])
        .args(["mem=512M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"])
        .args(["con0=fd:0,fd:1", "con=null"])
        .arg(format!("ubd0={}", disk.display()))
        .arg(format!("init={}", init.display()))
        .env("TMPDIR", memory)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let console = String::from_utf8_lossy(&output.stdout);
    let end = console.lines().find(|line| line.starts_with("test result:")).unwrap_or("no result");
    assert!(end.contains("ok. ") && end.contains(&format!("; {ignored} ignored;")), "{console}");
    assert!(!console.contains("/tenantd-"), "a cgroup was left behind: {console}");
}
