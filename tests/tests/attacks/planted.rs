//! What a tenant leaves for the daemon and its operator to stumble on, and an init that has been taken over.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use system_tests::daemons::STATE_DIR;
use system_tests::world::{World, eventually};

use super::{NETWORK, OTHER, PLAIN, first_line, inside, status, undisturbed};

/// Directories within each other: enough that a program which recurses runs out of stack or descriptors.
const DEPTH: &str = "30000";

/// An init that answers anything: what it says, by its name.
const FAKE: &str = r#"
import json, os, socket, sys
path, kind = sys.argv[1:]
door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
os.path.exists(path) and os.unlink(path)
door.bind(path)
door.listen(64)
print("listening", flush=True)
while True:
    peer, _ = door.accept()
    pid = os.fork()
    if pid:
        peer.close()
        continue
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    while peer.recv(1 << 16):
        try:
            if kind == "garbage":
                peer.send(os.urandom(300))
            elif kind == "huge":
                peer.send(b"[" * 150000)
            elif kind == "wrong":
                peer.send(json.dumps({"v": 1, "id": 0, "hello": {"name": "tenant-c", "pid": 1, "netns": 1, "ready": True}}).encode())
            elif kind == "flood":
                for _ in range(100000):
                    peer.send(b'{"v":1}')
            # silence: nothing
        except OSError:
            break
    os._exit(0)
"#;

pub(super) fn check(world: &World) -> Result<()> {
    undisturbed(world, "signals to init", || signals(world))?;
    undisturbed(world, "links for cp", || copies(world))?;
    undisturbed(world, "a link in place of a log", || logs(world))?;
    undisturbed(world, "a pipe in place of passwd", || pipe(world))?;
    undisturbed(world, "deep directories", || deep(world))?;
    stopped(world)?;
    for kind in ["garbage", "huge", "wrong", "flood", "silence"] {
        fake(world, kind).with_context(|| format!("an init that answers with {kind}"))?;
    }
    Ok(())
}

/// Init is process 1: what it does not wait for does nothing to it. SIGTERM it does: it is how its root turns a server off,
/// and this one is started again.
fn signals(world: &World) -> Result<()> {
    let before = status(world, PLAIN)?["init_pid"].as_i64();
    let send = |signals: &str| {
        let all = format!("import os\nfor n in {signals}:\n  try: os.kill(1, n)\n  except OSError as e: print(n, e)");
        world.ok("server", &["tenantd", "exec", PLAIN, "--", "python3", "-c", &all])
    };
    send("set(range(1, 65)) - {15}")?;
    std::thread::sleep(Duration::from_millis(500));
    let now = status(world, PLAIN)?;
    ensure!(now["init_pid"].as_i64() == before && before.is_some(), "init was {before:?}: {now}");
    ensure!(now["state"] == "ready", "{now}");
    let _ = send("[15]");
    eventually("a new init", Duration::from_secs(60), || {
        let now = status(world, PLAIN).ok()?;
        (now["init_pid"].as_i64() != before && now["state"] == "ready").then_some(())
    })
}

/// `cp` follows links as the tenant does: inside.
fn copies(world: &World) -> Result<()> {
    let plant = "cd /root && ln -s /etc/shadow shadow && ln -s /proc/self/root/etc/shadow rooted && \
                 ln -s /proc/self/fd fds && ln -s /run/lab way && ln -s /proc/1/root init && echo done";
    ensure!(world.ok("server", &["tenantd", "exec", PLAIN, "--", "sh", "-c", plant])?.trim() == "done");
    let host = std::fs::read(world.path("/etc/shadow"))?;
    for name in ["shadow", "rooted", "init/etc/shadow", "fds/0", "fds/3", "fds/4", "fds/5", "way/state/tenantd.db"] {
        let _ = std::fs::remove_dir_all(world.path("/run/lab/copied"));
        let _ = std::fs::remove_file(world.path("/run/lab/copied"));
        let from = format!("{PLAIN}:/root/{name}");
        world.exec("server", &["timeout", "10", "tenantd", "cp", &from, "/run/lab/copied"])?;
        if let Ok(got) = std::fs::read(world.path("/run/lab/copied")) {
            ensure!(got != host, "{name} gave the host's shadow file");
            ensure!(!got.starts_with(b"SQLite"), "{name} gave the daemon's database");
        }
    }
    // Into the tenant: the link leads to a directory that is on the host, and not in the tenant.
    for name in ["way", "init/run/lab"] {
        let to = format!("{PLAIN}:/root/{name}/came-out");
        world.exec("server", &["timeout", "10", "tenantd", "cp", "/etc/hostname", &to])?;
        ensure!(!world.path("/run/lab/came-out").exists(), "{name} led out");
    }
    Ok(())
}

/// Only an init that has been taken over can do this: the directory is not in the tenant.
fn logs(world: &World) -> Result<()> {
    let directory = format!("{STATE_DIR}/tenants/{PLAIN}/logs");
    let script = format!(
        "echo precious >/run/lab/precious && cd {directory} && mv web.log aside && ln -s /run/lab/precious web.log"
    );
    world.ok("server", &["sh", "-c", &script])?;
    let shown = world.exec("server", &["timeout", "30", "tenantd", "logs", PLAIN, "web"])?;
    ensure!(!String::from_utf8_lossy(&shown.stdout).contains("precious"), "the log led out");
    world.ok("server", &["sh", "-c", &format!("cd {directory} && rm web.log && mkfifo web.log")])?;
    let shown = world.exec("server", &["timeout", "30", "tenantd", "logs", PLAIN, "web"])?;
    ensure!(shown.status.code() != Some(124), "a pipe in place of a log is waited for");
    world.ok("server", &["sh", "-c", &format!("cd {directory} && rm web.log && mv aside web.log")]).map(drop)
}

/// The tenant's own passwd is read when it is entered: a pipe that nobody writes to must not hold the operator up.
fn pipe(world: &World) -> Result<()> {
    let plant = "cp /etc/passwd /etc/passwd.kept && mkfifo /etc/passwd.pipe && mv /etc/passwd.pipe /etc/passwd";
    world.ok("server", &["tenantd", "exec", PLAIN, "--", "sh", "-c", plant])?;
    for command in [
        &["tenantd", "exec", PLAIN, "--", "true"] as &[&str],
        &["tenantd", "exec", PLAIN, "--user", "nobody", "--", "true"],
    ] {
        let begun = Instant::now();
        let ended = world.exec("server", &[&["timeout", "30"], command].concat())?;
        ensure!(ended.status.code() != Some(124), "{command:?} hung {:?}", begun.elapsed());
    }
    let layer = format!("{STATE_DIR}/tenants/{PLAIN}/layer/upper/etc");
    // By its owner's hand it may not be possible any more.
    world.ok("server", &["sh", "-c", &format!("cd {layer} && mv passwd.kept passwd")])?;
    Ok(())
}

/// A tenant with a directory that is deeper than any stack is removed like any other.
fn deep(world: &World) -> Result<()> {
    world.ok("server", &["tenantd", "add-tenant", "deep", "--address", "192.168.8.1/24"])?;
    inside(world, "deep", &["deep", DEPTH])?;
    world.ok("server", &["tenantd", "remove-tenant", "deep", "--force"])?;
    let removed = world.path(&format!("{STATE_DIR}/removed"));
    eventually("its files are gone", Duration::from_secs(180), || {
        std::fs::read_dir(&removed).map_or(Some(()), |mut left| left.next().is_none().then_some(()))
    })
}

/// An init that says nothing holds up requests for its own tenant only.
fn stopped(world: &World) -> Result<()> {
    let pid = status(world, NETWORK)?["init_pid"].as_i64().context("no init")?.to_string();
    world.ok("server", &["kill", "-STOP", &pid])?;
    let waiting = world.spawn("server", &["timeout", "60", "tenantd", "restart-service", NETWORK, "web"])?;
    let answered = undisturbed(world, "an init that stands still", || others_are_served(world));
    world.ok("server", &["kill", "-CONT", &pid])?;
    drop(waiting);
    answered
}

fn others_are_served(world: &World) -> Result<()> {
    let probe = &["add-service", OTHER, "probe", "--", "/bin/sleep", "600"] as &[&str];
    for verb in [&["list"] as &[&str], probe, &["status", OTHER], &["remove-service", OTHER, "probe"]] {
        let begun = Instant::now();
        world.ok("server", &[&["timeout", "60", "tenantd"], verb].concat())?;
        ensure!(begun.elapsed() < Duration::from_secs(15), "{verb:?} took {:?}", begun.elapsed());
    }
    Ok(())
}

/// A daemon that starts anew finds something else than an init behind a tenant's control socket.
fn fake(world: &World, kind: &str) -> Result<()> {
    let socket = format!("/run/tenantd/{}/tenants/{PLAIN}.sock", system_tests::daemons::INSTANCE);
    let kept = format!("{socket}.kept");
    world.ok("server", &["mv", &socket, &kept])?;
    let (pretending, said) = first_line(world.spawn("server", &["python3", "-c", FAKE, &socket, kind])?)?;
    ensure!(said == "listening", "{said}");
    let old = super::daemon(world)?;
    world.ok("server", &["kill", "-9", old.trim()])?;
    eventually("a new daemon", Duration::from_secs(60), || {
        let now = super::daemon(world).ok()?;
        (now != old && world.ok("server", &["tenantd", "list"]).is_ok()).then_some(())
    })?;
    let served = others_are_served(world);
    drop(pretending);
    world.ok("server", &["mv", &kept, &socket])?;
    served?;
    ensure!(!world.log("tenantd").contains("panicked"), "{}", world.log("tenantd"));
    Ok(())
}
