//! Nothing of the host that is not for everybody is readable in a tenant, by whatever name; no mount, device or socket
//! of the host is there; no word of another tenant or of the host's processes is anywhere.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use system_tests::world::World;

use super::{ATTACK, NETWORK, OTHER, PLAIN, outside, undisturbed};

/// A word that exists in memory, file names and files of the host and of the other tenant only.
const WORD: &str = "canary-5f1e9d";
/// Where the attacker finds what is secret; it gets it as its input, so that the word is not in its own words.
const KNOWN: &str = "/run/lab/known.json";

/// Where there may be mounts in a tenant of the image `host`.
const MOUNTS: [&str; 12] = [
    "/",
    "/dev",
    "/dev/mqueue",
    "/dev/pts",
    "/dev/shm",
    "/proc",
    "/run",
    "/run/tenantd",
    "/run/tenantd/tenantd",
    "/sys",
    "/tmp",
    "/usr",
];
/// Beside those below /proc and /sys, which hide.
const FILES: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// All device nodes: null, zero, full, random, urandom, tty, the terminals' multiplexer.
const DEVICES: [&str; 7] = ["1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:2"];

/// Secrets where a tenant could see them if only a mode were overlooked: in the host's /usr. The world gets one of its
/// own for that, the machine's stays as it is.
pub(super) fn plant(world: &World) -> Result<()> {
    let script = format!(
        "mkdir -p /run/lab/usr/upper /run/lab/usr/work && \
         mount -t overlay overlay -o lowerdir=/usr,upperdir=/run/lab/usr/upper,workdir=/run/lab/usr/work /usr && \
         mkdir -p /usr/lib/canary/closed /usr/lib/canary/mount && cd /usr/lib/canary && \
         for f in owner group open closed/file; do echo '{WORD} in a file that is not for everybody' >$f; done && \
         chmod 600 owner && chmod 640 group && chmod 644 open closed/file && chmod 700 closed && \
         chown 0:42 group && mkfifo -m 666 pipe && mknod -m 666 kmsg c 1 11 && cp /bin/true set-id && chmod 4755 set-id && \
         echo open-to-everybody >open && \
         mount -t tmpfs tmpfs mount && echo '{WORD} in a mount of the host' >mount/file"
    );
    world.ok("server", &["sh", "-c", &script]).map(drop)
}

pub(super) fn check(world: &World) -> Result<()> {
    // The other tenant's words: in a file, a process' arguments and environment, a socket's name.
    let script = format!(
        "echo '{WORD} of another tenant' >/root/secret; echo '{WORD}' >/dev/shm/secret; echo '{WORD}' >/tmp/secret; \
         NAME={WORD} exec python3 -c 'import socket,time; s=socket.socket(1); s.bind(chr(0)+\"{WORD}\"); s.listen(); print(1,flush=True); time.sleep(600)'"
    );
    let mut other = world.spawn("server", &["tenantd", "exec", OTHER, "--", "sh", "-c", &script])?;
    // And the host's.
    let outside_words = format!(
        "echo '{WORD} of the daemon' >/run/lab/state/secret; chmod 600 /run/lab/state/secret; \
         NAME={WORD} exec python3 -c 'import socket,time; s=socket.socket(1); s.bind(chr(0)+\"{WORD}-host\"); s.listen(); print(1,flush=True); time.sleep(600)'"
    );
    let mut host = world.spawn("server", &["sh", "-c", &outside_words])?;
    for one in [&mut other, &mut host] {
        use std::io::Read as _;
        one.stdout().context("no output")?.read_exact(&mut [0; 1])?;
    }
    let tops = ["/etc", "/root", "/home", "/var", "/usr", "/opt", "/srv", "/boot", "/run"];
    let secrets: Value = serde_json::from_str(&outside(world, &[&["secrets"], &tops as &[_]].concat())?)?;
    let paths: BTreeSet<&str> =
        secrets.as_array().context("no list")?.iter().filter_map(|row| row[4].as_str()).collect();
    for known in [
        "/etc/shadow",
        "/usr/lib/canary/owner",
        "/usr/lib/canary/group",
        "/usr/lib/canary/closed/file",
        "/run/lab/state/secret",
    ] {
        ensure!(paths.contains(known), "{known} is not among the {} secrets", paths.len());
    }
    std::fs::write(world.path(KNOWN), json!({ "secrets": secrets, "word": WORD }).to_string())?;
    for tenant in [PLAIN, NETWORK] {
        let script = format!("exec tenantd exec {tenant} -- python3 -c \"$0\" walk <{KNOWN}");
        let said = undisturbed(world, "a walk", || world.ok("server", &["sh", "-c", &script, ATTACK]))?;
        judge(tenant, &serde_json::from_str(&said)?)?;
    }
    // The walk finds what is to be found: the same eyes, where nothing is hidden.
    let script = format!("exec tenantd exec {OTHER} -- python3 -c \"$0\" walk <{KNOWN}");
    let said: Value = serde_json::from_str(&world.ok("server", &["sh", "-c", &script, ATTACK])?)?;
    let found = strings(&said["canaries"]);
    for wanted in ["/root/secret", "/dev/shm/secret", "/tmp/secret"] {
        ensure!(found.contains(wanted), "a blind walk: {found:?}");
    }
    ensure!(found.iter().any(|path| path.ends_with("/cmdline")), "a walk that is blind in /proc: {found:?}");
    ensure!(found.iter().any(|path| path.ends_with("/net/unix")), "a walk that is blind in /proc/net: {found:?}");
    Ok(())
}

fn judge(tenant: &str, said: &Value) -> Result<()> {
    ensure!(said["read"].as_u64() > Some(5000), "{tenant}: read only {}", said["read"]);
    // The host keeps the tenant's own files where nobody else sees them either.
    let own = format!("{}/tenants/{tenant}/", system_tests::daemons::STATE_DIR);
    let leaks: Vec<&str> =
        strings(&said["leaks"]).into_iter().filter(|leak| !leak.contains(&own) && !alike(leak)).collect();
    ensure!(leaks.is_empty(), "{tenant} reads what is not for everybody: {leaks:?}");
    ensure!(strings(&said["canaries"]).is_empty(), "{tenant} sees words of others in {}", said["canaries"]);
    let refused = strings(&said["refused_usr"]);
    for path in ["/usr/lib/canary/owner", "/usr/lib/canary/group"] {
        ensure!(refused.contains(path), "{tenant} was not refused {path}");
    }
    let sockets = strings(&said["sockets"]);
    ensure!(sockets == ["/run/tenantd/api.sock"].into(), "{tenant} sees sockets {sockets:?}");
    for (path, device) in said["devices"].as_object().context("no devices")? {
        let device = device.as_str().unwrap_or_default();
        let known =
            device.split_once(' ').is_some_and(|(number, _)| DEVICES.contains(&number) || number.starts_with("136:"));
        // A node of the host's /usr is seen, and does not open.
        let inert = path == "/usr/lib/canary/kmsg" && device == "1:11 EACCES";
        ensure!((path.starts_with("/dev/") && known) || inert, "{tenant} has the device {path} ({device})");
    }
    ensure!(said["devices"]["/usr/lib/canary/kmsg"] == "1:11 EACCES", "{tenant}: the planted device is not seen");
    for mount in strings(&said["mounts"]) {
        let known = MOUNTS.contains(&mount)
            || FILES.contains(&mount)
            || mount.starts_with("/proc/")
            || mount.starts_with("/sys/")
            || mount.starts_with("/usr/bin/")
            || mount.starts_with("/usr/sbin/");
        ensure!(known, "{tenant} has a mount at {mount}");
    }
    Ok(())
}

/// Two tenants may well have the same name servers.
fn alike(leak: &str) -> bool {
    leak.starts_with("/etc/resolv.conf has the content of ") && leak.ends_with("/etc/resolv.conf")
}

fn strings(list: &Value) -> BTreeSet<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}
