//! `tenantd doctor` on this machine, beside a living daemon, and mending in namespaces of its own. `--fix` is never run
//! against the machine: what it mends here is a directory, with the sysctls of a user namespace bound into it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use system_tests::plan::Options;
use system_tests::tenants;
use system_tests::world::{World, bin_dir, eventually};

use crate::daemons::shell;
use crate::floor::{TENANTS, WORLD, explain, trial, world};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("doctor::tells_of_a_daemon", TENANTS, tells_of_a_daemon),
        trial("doctor::tells_of_a_machine", &[], tells_of_a_machine),
        trial("doctor::mends_a_namespace_of_its_own", WORLD, mends_a_namespace_of_its_own),
    ]
}

/// Descriptors that the doctor reckons with for each tenant.
const FILES_A_TENANT: u64 = 3;

/// The finding of this name.
fn finding<'a>(report: &'a Value, name: &str) -> Result<&'a Value> {
    let all = report["findings"].as_array().context("no findings")?;
    all.iter().find(|one| one["name"] == name).with_context(|| format!("no finding {name}"))
}

fn doctor(world: &World, more: &[&str]) -> Result<(Option<i32>, Value)> {
    let output = world.exec("server", &[&["tenantd", "--json", "doctor"], more].concat())?;
    let report =
        serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.code(), report))
}

/// Nothing is worse than a note: then, and only then, the code is 0.
fn code_is_right(code: Option<i32>, report: &Value) -> Result<()> {
    let all = report["findings"].as_array().context("no findings")?;
    let bad = all.iter().any(|one| one["severity"] == "warning" || one["severity"] == "error");
    ensure!(code == Some(i32::from(bad)), "exit code {code:?} for {report:#}");
    Ok(())
}

fn tells_of_a_daemon() -> Result<()> {
    let world = world("doctor", Options { sites: 2, ..Options::default() })?;
    explain(&world, beside_a_daemon(&world))
}

fn beside_a_daemon(world: &World) -> Result<()> {
    let descriptors = || -> Result<u64> {
        Ok(shell(world, "server", "ls /proc/$(cat /run/tenantd/main/lock)/fd | wc -l")?.trim().parse()?)
    };
    // A connection that was just closed has its descriptor a moment longer, and stacks are made ready beforehand.
    let mut last = descriptors()?;
    let before = eventually("nothing is opened or closed", Duration::from_secs(30), || {
        std::thread::sleep(Duration::from_millis(300));
        let next = descriptors().ok()?;
        let same = std::mem::replace(&mut last, next) == next;
        same.then_some(next)
    })?;
    let sites: Vec<_> = world.options().sites().collect();
    for site in &sites {
        tenants::add(world, site)?;
    }
    // What the doctor reckons with is no less than what is used.
    let most = FILES_A_TENANT * sites.len() as u64;
    let few = eventually("few descriptors", Duration::from_secs(10), || {
        descriptors().ok().filter(|now| now.saturating_sub(before) <= most).map(drop)
    });
    ensure!(few.is_ok(), "{} descriptors, before {before}, for {} tenants", descriptors()?, sites.len());
    let (code, report) = doctor(world, &["--state-dir", "/run/lab/state"])?;
    code_is_right(code, &report)?;
    ensure!(report["daemon"] == true && report["tenants"] == 16, "{report:#}");
    for name in ["leftovers", "disagreements", "half-done"] {
        ensure!(finding(&report, name)?["found"] == "none", "{report:#}");
    }
    ensure!(
        finding(&report, "access-server")?["severity"] == "ok" && finding(&report, "features")?["severity"] == "ok"
    );
    // What it read of the kernel is what others read.
    for (name, key) in [("pid-max", "kernel.pid_max"), ("threads-max", "kernel.threads-max")] {
        // Asked there: the highest process id is each pid namespace's own since Linux 6.14.
        let others = shell(world, "server", &format!("cat /proc/sys/{}", key.replace('.', "/")))?;
        ensure!(finding(&report, name)?["found"] == format!("{key} is {}", others.trim()), "{report:#}");
    }

    // A socket and a cgroup of a tenant that nobody knows.
    let ghosts = "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"/run/tenantd/main/tenants/ghost.sock\")'
for c in /sys/fs/cgroup /sys/fs/cgroup/unified; do test -d $c/tenantd-main && mkdir $c/tenantd-main/tenant-ghost; done; true";
    shell(world, "server", ghosts)?;
    let (code, report) = doctor(world, &["--state-dir", "/run/lab/state"])?;
    shell(
        world,
        "server",
        "rm /run/tenantd/main/tenants/ghost.sock; for c in /sys/fs/cgroup /sys/fs/cgroup/unified; do test -d $c/tenantd-main && rmdir $c/tenantd-main/tenant-ghost; done; true",
    )?;
    let left = finding(&report, "leftovers")?;
    ensure!(code == Some(1) && left["severity"] == "warning", "{left:#}");
    ensure!(left["fix"].as_array().is_some_and(|fix| fix.len() >= 2), "{left:#}");
    ensure!(left["found"].as_str().is_some_and(|words| words.contains("ghost.sock") && !words.contains("tenant-a")));

    // For many tenants the limits are others.
    let (_, many) = doctor(world, &["--tenants", "100000", "--state-dir", "/run/lab/state"])?;
    let needed = finding(&many, "mnt-namespaces")?["needed"].as_str().unwrap_or_default().to_owned();
    ensure!(needed.starts_with("200064 for 100000 tenants"), "{needed}");

    // Nothing answers: what only the daemon knows is said to be unknown.
    let output = world.exec("server", &["tenantd", "--instance", "nobody", "doctor"])?;
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(words.contains("leftovers: not known") && words.contains("tenantd run --instance nobody"), "{words}");
    Ok(())
}

fn program() -> Result<std::path::PathBuf> {
    Ok(bin_dir()?.join("tenantd"))
}

/// A machine as a directory, as a rescue mount would be.
fn machine(root: &Path) -> Result<()> {
    for (path, text) in [
        ("proc/sys/kernel/osrelease", "5.4.0\n"),
        ("proc/sys/kernel/pid_max", "4194304\n"),
        ("proc/self/status", "CapEff:\t000001ffffffffff\n"),
        ("etc/network/interfaces", "auto trunk-main\n"),
    ] {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().context("no directory")?)?;
        std::fs::write(path, text)?;
    }
    Ok(())
}

fn tells_of_a_machine() -> Result<()> {
    let root = tempfile::tempdir()?;
    machine(root.path())?;
    let output = Command::new(program()?).args(["doctor", "--root"]).arg(root.path()).output()?;
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(1), "{words}");
    for line in ["ERROR: kernel: Linux 5.4.0", "WARNING: manager-ifupdown: would manage trunk-main", "mend: "] {
        ensure!(words.contains(line), "{line} is missing:\n{words}");
    }
    let refused = Command::new(program()?).args(["doctor", "--tenants", "-1"]).output()?;
    ensure!(refused.status.code() == Some(2));
    Ok(())
}

fn mends_a_namespace_of_its_own() -> Result<()> {
    let root = tempfile::tempdir()?;
    machine(root.path())?;
    std::fs::create_dir_all(root.path().join("proc/sys/user"))?;
    let machine = || -> Result<Vec<String>> {
        let keys = ["user/max_net_namespaces", "kernel/pid_max"];
        keys.iter().map(|key| Ok(std::fs::read_to_string(Path::new("/proc/sys").join(key))?)).collect()
    };
    let before = machine()?;
    // Sysctls below user/ belong to the user namespace that looks at them. With its own root, or they would be another
    // machine's, for which the kernel that runs is not set.
    let script = "set -e
mount --bind /proc/sys/user \"$1\"/proc/sys/user
echo 70 >/proc/sys/user/max_net_namespaces
\"$2\" --json doctor --root \"$1\" --tenants 100 --fix >\"$1\"/refused || true
grep -q 'of the kernel that runs now' \"$1\"/refused
[ \"$(cat /proc/sys/user/max_net_namespaces)\" = 70 ]
for dir in usr lib lib64; do
    mkdir -p \"$1/$dir\"
    mount --rbind \"/$dir\" \"$1/$dir\"
done
ln -s /program \"$1\"/proc/self/exe
touch \"$1\"/program
mount --bind \"$2\" \"$1\"/program
chroot \"$1\" /program --json doctor --tenants 100 --fix || true
cat /proc/sys/user/max_net_namespaces";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh"])
        .arg(root.path())
        .arg(program()?)
        .output()?;
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{words}{}", String::from_utf8_lossy(&output.stderr));
    let mut lines = words.lines();
    let report: Value = serde_json::from_str(lines.next().unwrap_or_default())?;
    ensure!(lines.next() == Some("164"), "the kernel's value: {words}");
    ensure!(finding(&report, "net-namespaces")?["severity"] == "ok", "{report:#}");
    let mended = report["mended"].as_array().context("nothing was mended")?;
    ensure!(mended.len() == 2 && mended.iter().all(|one| one["error"].is_null()), "{mended:#?}");
    let kept = std::fs::read_to_string(root.path().join("etc/sysctl.d/90-tenantd.conf"))?;
    ensure!(kept.ends_with("user.max_net_namespaces = 164\n"), "{kept}");
    ensure!(machine()? == before, "the machine's own settings have changed");
    Ok(())
}
