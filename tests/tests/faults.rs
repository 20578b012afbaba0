//! What goes wrong around the daemon: a full or read-only disk, no descriptors and no memory left, two daemons at once,
//! names that are taken, tenants of which somebody deleted a piece, directories and pins that vanish, a store that is lost or older than the machine. Each: words that name it, nothing
//! lost, no packet of a tenant, `status` says it, and all is well when the cause is gone.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use system_tests::plan::{Kind, Options};
use system_tests::world::{World, eventually};

use crate::floor::{explain, trial};
use crate::kill_points::ask::{ask, tenantd_socket};
use crate::kill_points::hand::{Hand, Started};
use crate::kill_points::stream::Stream;
use crate::kill_points::traces::{Traces, difference, traces};
use crate::kill_points::{NEEDS, with_quiet};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("faults::state_directory", NEEDS, || in_world("fltstate", state_directory)),
        trial("faults::descriptors", NEEDS, || in_world("fltfds", descriptors)),
        trial("faults::out_of_memory", NEEDS, || in_world("fltmem", out_of_memory)),
        trial("faults::pieces_deleted_by_hand", NEEDS, || in_world("fltpieces", pieces)),
        trial("faults::two_daemons_at_once", NEEDS, || in_world("flttwo", two_at_once)),
        trial("faults::names_and_pins", NEEDS, || in_world("fltnames", names_and_pins)),
        trial("faults::run_directory_emptied", NEEDS, || in_world("fltrun", run_directory_emptied)),
        trial("faults::store_lost_or_older", NEEDS, || in_world("fltlost", store_lost_or_older)),
        trial("faults::one_bad_row_stops_nobody_else", crate::store::NEEDS, || in_world("fltrow", bad_row)),
        trial("faults::only_what_is_shown_uses_the_wall_clock", &[], wall_clock),
    ]
}

/// One tenant that must not notice, and a site that has none yet.
fn in_world(stem: &str, test: fn(&World) -> Result<()>) -> Result<()> {
    let kinds = vec![Kind::Ipip, Kind::Ipip];
    let world = with_quiet(stem, Options { sites: 2, kinds, ..Options::default() })?;
    let check = || {
        let stream = Stream::start(&world, &world.options().site(0).host())?;
        test(&world)?;
        stream.unharmed().map(drop)
    };
    explain(&world, check())
}

fn sh(world: &World, script: &str) -> Result<String> {
    world.ok("server", &["sh", "-ec", script])
}

fn now(world: &World) -> Result<Traces> {
    traces(world, &["extra"])
}

/// The same once nothing is on its way any more: files are removed and stacks made ready after an answer.
fn settled(world: &World) -> Result<Traces> {
    let mut last = now(world)?;
    eventually("what was done has settled", Duration::from_secs(60), || {
        std::thread::sleep(Duration::from_millis(300));
        let next = now(world).ok()?;
        let before = std::mem::replace(&mut last, next);
        (before == last).then_some(before)
    })
}

fn becomes(world: &World, wanted: &Traces, when: &str) -> Result<()> {
    let same = || now(world).ok().filter(|found| found == wanted);
    match eventually(when, Duration::from_secs(60), same) {
        Ok(_) => Ok(()),
        Err(_) => bail!("{when}:\n{}", difference(wanted, &now(world)?)),
    }
}

fn add(name: &str, vlan: u16) -> Value {
    json!({"name": name, "vlan": vlan, "addresses": ["192.168.9.1/24"]})
}

/// The whole answer of a request that must be refused.
fn refused(world: &World, method: &'static str, path: &str, body: Value) -> Result<String> {
    let (status, answer) = ask(method, path).with(body).of(&tenantd_socket(world))?.context("the daemon ended")?;
    ensure!(status >= 400, "{method} {path}: {status} {answer}");
    Ok(answer.to_string())
}

fn status(world: &World) -> Result<Value> {
    ask("GET", "/v1/status").granted(&tenantd_socket(world))
}

fn state_directory(world: &World) -> Result<()> {
    let socket = tenantd_socket(world);
    let quiet = world.options().site(0).tenant();
    // Full, for the store and for the tenants' files alike: they are one file system here.
    let before = settled(world)?;
    let tenant = ask("GET", format!("/v1/tenants/{quiet}")).granted(&socket)?;
    sh(world, "mount -o remount,size=$(( $(df --output=used -k /run/lab/state | tail -1) + 2048 ))k /run/lab/state")?;
    sh(world, "head -c 64M /dev/zero > /run/lab/state/filler || true")?;
    let said = refused(world, "POST", "/v1/tenants", add("extra", 700))?;
    ensure!(said.contains("full") || said.contains("No space"), "a full disk is told as {said}");
    let path = format!("/v1/tenants/{quiet}/addresses");
    let said = refused(world, "PUT", &path, json!(["192.168.1.1/24", "192.168.8.1/24"]))?;
    ensure!(said.contains("full") || said.contains("No space"), "a full disk is told as {said}");
    let same = ask("GET", format!("/v1/tenants/{quiet}")).granted(&socket)?;
    ensure!(same == tenant, "refused and changed all the same: {same}");
    let trouble = || -> Result<Value> { Ok(status(world)?["store"]["trouble"].clone()) };
    let said = trouble()?;
    ensure!(said.as_str().is_some_and(|words| words.contains("the disk is full")), "status tells of the store {said}");
    sh(world, "rm /run/lab/state/filler; mount -o remount,size=50% /run/lab/state")?;
    becomes(world, &before, "there is room again")?;
    ask("POST", "/v1/tenants").with(add("extra", 700)).granted(&socket)?;
    ask("DELETE", "/v1/tenants/extra?force=true").granted(&socket)?;
    ensure!(trouble()?.is_null(), "there is room, and status tells of {}", trouble()?);
    let before = settled(world)?;
    // Read-only, at the start.
    let hand = Hand::tenantd(world)?;
    // A mount above it: the tenants write through the one below.
    sh(world, "mount --bind /run/lab/state /run/lab/state; mount -o remount,bind,ro /run/lab/state")?;
    let mark = hand.log().len();
    ensure!(hand.start("")?.end(Duration::from_secs(60))? == 1, "a daemon without a place to write starts");
    let said = hand.log()[mark..].to_owned();
    ensure!(said.contains("/run/lab/state") && said.contains("Read-only"), "read-only is told as {said}");
    sh(world, "umount /run/lab/state")?;
    let _up = hand.up("")?;
    becomes(world, &before, "it can be written again")
}

fn descriptors(world: &World) -> Result<()> {
    let hand = Hand::tenantd(world)?;
    let up = hand.up("")?;
    ask("POST", "/v1/tenants").with(add("extra", 700)).granted(hand.socket())?;
    ask("DELETE", "/v1/tenants/extra?force=true").granted(hand.socket())?;
    let before = settled(world)?;
    let pid = up.pid()?;
    let limit = |soft: &str| -> Result<()> {
        let output = std::process::Command::new("prlimit")
            .args(["--pid", &pid.to_string(), &format!("--nofile={soft}:")])
            .output()?;
        ensure!(output.status.success(), "prlimit: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    // The descriptor of the last answer is closed a moment after it.
    let mut used = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    used = eventually("nothing is opened or closed", Duration::from_secs(30), || {
        std::thread::sleep(Duration::from_millis(300));
        let next = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
        let same = std::mem::replace(&mut used, next) == next;
        same.then_some(next)
    })?;
    limit(&(used + 3).to_string())?;
    let said = refused(world, "POST", "/v1/tenants", add("extra", 700))?;
    ensure!(said.contains("Too many open files"), "no descriptors left is told as {said}");
    limit("4096")?;
    becomes(world, &before, "there are descriptors again")?;
    ask("POST", "/v1/tenants").with(add("extra", 700)).granted(hand.socket())?;
    ask("DELETE", "/v1/tenants/extra?force=true").granted(hand.socket())?;
    becomes(world, &before, "an add afterwards, taken back")
}

/// The daemon alone has this little memory more than it has taken already, in KiB: from what ends an add at its first step to
/// what is enough.
const MEMORY: [u32; 9] = [64, 96, 128, 192, 256, 384, 512, 1024, 16384];

/// The kernel ends the daemon in the middle of an add, wherever it asks for a page too many.
fn out_of_memory(world: &World) -> Result<()> {
    let hand = Hand::tenantd(world)?;
    let up = hand.up("")?;
    ask("POST", "/v1/tenants").with(add("extra", 700)).granted(hand.socket())?;
    ask("DELETE", "/v1/tenants/extra?force=true").granted(hand.socket())?;
    let before = settled(world)?;
    up.kill()?;
    let version1 = world.path("/sys/fs/cgroup/memory").exists();
    let (dir, limit) = match version1 {
        true => ("/sys/fs/cgroup/memory/little", "memory.limit_in_bytes"),
        false => ("/sys/fs/cgroup/little", "memory.max"),
    };
    let mut ends = Vec::new();
    let mut enough = 0;
    for kib in MEMORY {
        let mark = hand.log().len();
        let mut up = hand.up("record:asked")?;
        let pid = crate::kill9::pid(world, "tenantd")?.context("no tenantd")?;
        // What it has already stays where it is counted: the limit is for what comes.
        sh(world, &format!("mkdir {dir}; echo {kib}K >{dir}/{limit}; echo {pid} >{dir}/cgroup.procs"))?;
        let answer = ask("POST", "/v1/tenants").with(add("extra", 700)).of(hand.socket())?;
        match answer {
            None => {
                let code = up.end(Duration::from_secs(60))?;
                ensure!(code == 137, "with {kib} KiB the daemon ends with {code}");
                let log = hand.log();
                let last = log[mark..].lines().filter_map(|line| line.strip_prefix("fault-point ")).next_back();
                ends.push(format!("{kib} KiB: after {}", last.unwrap_or("nothing")));
            }
            Some((status, answer)) => {
                // What was refused is told with words; it need not be the daemon that the kernel ends.
                ensure!(status < 500 || answer.to_string().contains("emory"), "with {kib} KiB: {status} {answer}");
                enough += 1;
                up.kill()?;
            }
        }
        eventually("its cgroup is empty", Duration::from_secs(60), || sh(world, &format!("rmdir {dir}")).ok())?;
        let up = hand.up("")?;
        let there = ask("GET", "/v1/tenants/extra").of(hand.socket())?.is_some_and(|(status, _)| status == 200);
        if there {
            eventually("what was recorded is done", Duration::from_secs(60), || {
                let status = ask("GET", "/v1/tenants/extra/status").granted(hand.socket()).ok()?;
                (status["state"] == "ready").then_some(())
            })?;
            ask("DELETE", "/v1/tenants/extra?force=true").granted(hand.socket())?;
        }
        becomes(world, &before, &format!("after an add with {kib} KiB"))?;
        up.kill()?;
    }
    println!("ended by the kernel {ends:?}");
    let inside = ends.iter().filter(|end| !end.ends_with("nothing")).count();
    ensure!(inside >= 2, "the kernel ended no add in its middle: {ends:?}");
    ensure!(enough >= 1, "16 MiB are not enough for an add");
    let _up = hand.up("")?;
    Ok(())
}

/// Pieces of a living tenant that somebody deletes while no daemon runs, and how: the next start puts them back.
const PIECES: [(&str, &str); 7] = [
    ("its port", "$ROOM ip link del p700"),
    ("its port's program", "$ROOM tc qdisc del dev p700 clsact"),
    ("its address", "nsenter -t $INIT -n ip address flush dev $DEV scope global"),
    (
        "its row at the access server",
        "$ASK 'http://t/v1/vlans/700' -o /run/lab/row; owner=$(python3 -c 'import json; \
         print(json.load(open(\"/run/lab/row\"))[\"owner\"])'); $ASK -X DELETE \"http://t/v1/vlans/700?owner=$owner\"",
    ),
    ("the sockets of its own API", "rm -r /run/tenantd/main/tenants/extra.api"),
    ("its name servers", "rm /run/lab/state/tenants/extra/etc/resolv.conf"),
    (
        "its cgroups",
        "for d in $(find /sys/fs/cgroup -depth -type d -path '*/tenant-extra*'); do for p in $(cat $d/cgroup.procs); do \
         for up in .. ../.. ../../..; do echo $p >$d/$up/cgroup.procs 2>/dev/null && break; done; done; rmdir $d; done",
    ),
];

fn pieces(world: &World) -> Result<()> {
    let hand = Hand::tenantd(world)?;
    let mut up = hand.up("")?;
    let site = world.options().site(1);
    let body = json!({"name": "extra", "vlan": 700, "addresses": ["192.168.1.1/24"], "dns": ["192.168.1.53"],
                      "tunnels": [site.server_tunnel(world.options().outer)], "limits": {"processes": 300, "memory": "300M"}});
    ask("POST", "/v1/tenants").with(body).granted(hand.socket())?;
    let nap = json!({"name": "nap", "command": ["/bin/sleep", "7000000"]});
    ask("POST", "/v1/tenants/extra/services").with(nap).granted(hand.socket())?;
    let shown = ask("GET", "/v1/tenants/extra").granted(hand.socket())?;
    let device = shown["device"].as_str().context("no device")?.to_owned();
    let before = settled(world)?;
    let of_extra = || ask("GET", "/v1/tenants/extra/status").granted(hand.socket());
    for (piece, script) in PIECES {
        let init = of_extra()?["init_pid"].as_i64().context("no init")?;
        up.kill()?;
        let names = format!(
            "INIT={init}; DEV={device}; ROOM='nsenter --net=/run/tenantd/main/patchroom'; \
             ASK='curl -sf --unix-socket /run/access-server/main/api.sock'"
        );
        sh(world, &format!("{names}; {script}")).with_context(|| format!("delete {piece}"))?;
        up = hand.up("")?;
        becomes(world, &before, &format!("without {piece}"))?;
        let now = of_extra()?["init_pid"].as_i64();
        ensure!(now == Some(init), "{piece}: another init, {now:?} instead of {init}");
    }
    ask("DELETE", "/v1/tenants/extra?force=true").granted(hand.socket())?;
    Ok(())
}

/// At the same moment, with one run directory and with several: one lives, the others say who.
fn two_at_once(world: &World) -> Result<()> {
    let before = settled(world)?;
    let hand = Hand::tenantd(world)?;
    let mut lives = None;
    // One with another run directory holds the store for as long as it takes to see that it is not wanted; where that is
    // longer than those with the right one wait (3 s), all have ended, each with words. Then again.
    for _ in 0..3 {
        lives = one_of_four(&hand)?;
        if lives.is_some() {
            break;
        }
    }
    drop(lives.context("nobody lives, three times")?);
    sh(world, "rm -rf /run/tenantd/other*")?;
    let _up = hand.up("")?;
    becomes(world, &before, "one of four")
}

/// Starts four; the one that lives, unless all have ended. All that ended have said who runs.
fn one_of_four(hand: &Hand<'_>) -> Result<Option<Started>> {
    let mark = hand.log().len();
    let mut alive = Vec::new();
    for n in 0..4 {
        let (dir, socket) = (format!("/run/tenantd/other{n}"), format!("/run/tenantd/other{n}/api.sock"));
        let mut argv = vec!["tenantd", "run", "--instance", "main", "--state-dir", "/run/lab/state"];
        if n % 2 == 1 {
            argv.extend(["--run-dir", &dir, "--socket", &socket]);
        }
        alive.push((n, hand.other(&argv, "/run/tenantd/main/api.sock").start("")?));
    }
    // Until three have ended; the one that is left must go on.
    let mut codes = Vec::new();
    let mut ended = |codes: &mut Vec<i32>| {
        alive.retain_mut(|(_, one)| match one.end(Duration::from_millis(50)) {
            Ok(code) => {
                codes.push(code);
                false
            }
            Err(_) => true,
        });
        codes.len() >= 3
    };
    let three = eventually("three have ended", Duration::from_secs(60), || ended(&mut codes).then_some(()));
    std::thread::sleep(Duration::from_secs(3));
    ended(&mut codes);
    ensure!(codes.iter().all(|code| *code == 1), "the daemons too many ended with {codes:?}");
    let said = hand.log()[mark..].to_owned();
    ensure!(three.is_ok(), "{} daemons of one instance live:\n{said}", alive.len());
    let told = said.lines().filter(|line| line.contains("another tenantd") || line.contains("another --run-dir"));
    ensure!(told.count() == codes.len(), "{} were to say who runs:\n{said}", codes.len());
    let Some((n, last)) = alive.pop() else { return Ok(None) };
    // One with another run directory never finds the patch room: it must not have won over the inhabited one.
    ensure!(n % 2 == 0 || said.contains("another --run-dir"), "the one with another run directory runs");
    Ok(Some(last))
}

fn names_and_pins(world: &World) -> Result<()> {
    let socket = tenantd_socket(world);
    let room = "nsenter --net=/run/tenantd/main/patchroom";
    ask("POST", "/v1/tenants").with(add("extra", 700)).granted(&socket)?;
    ask("DELETE", "/v1/tenants/extra?force=true").granted(&socket)?;
    let before = settled(world)?;
    // A device of a port's name that is not ours: it stays, the add says what is in the way and is taken back.
    sh(world, &format!("{room} ip link add p700 type veth peer name somebody"))?;
    let said = refused(world, "POST", "/v1/tenants", add("extra", 700))?;
    ensure!(said.contains("device p700 in the patch room is not ours"), "a foreign p700 is told as {said}");
    sh(world, &format!("{room} ip link del p700"))?;
    becomes(world, &before, "the add beside a foreign p700 is taken back")?;
    ask("POST", "/v1/tenants").with(add("extra", 700)).granted(&socket)?;
    ask("DELETE", "/v1/tenants/extra?force=true").granted(&socket)?;
    becomes(world, &before, "a foreign p700")?;
    // A device of the trunk's name, in a namespace that is not ours: it stays, and the start is refused.
    sh(world, "ip link add trunk-x type veth peer name somebody")?;
    let output = world.exec("server", &["tenantd", "run", "--instance", "x", "--state-dir", "/run/lab/x"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.contains("trunk-x"), "{}: {said}", output.status);
    sh(
        world,
        "ip link show trunk-x >/dev/null && ip link del trunk-x; rm -rf /run/lab/x /run/tenantd/x; rmdir /sys/fs/bpf/tenantd/x",
    )?;
    becomes(world, &before, "a foreign trunk-x")?;
    // The patch room's pin: without it the room ends with the daemon, and every tenant's port with the room.
    // Within 6 s in one of three times: the machine may stand still for others meanwhile.
    let mut took = Vec::new();
    while took.len() < 3 && took.last().is_none_or(|last| *last > Duration::from_secs(6)) {
        sh(world, "umount --lazy /run/tenantd/main/patchroom")?;
        let begun = Instant::now();
        eventually("the patch room is pinned again", Duration::from_secs(60), || {
            sh(world, &format!("{room} ip link show trunk")).ok()
        })?;
        took.push(begun.elapsed());
    }
    ensure!(took.iter().any(|one| *one <= Duration::from_secs(6)), "the patch room was pinned again after {took:?}");
    becomes(world, &before, "the patch room is pinned again")?;
    let hand = Hand::tenantd(world)?;
    // bpffs read-only.
    sh(world, "mount -o remount,ro /sys/fs/bpf")?;
    let mark = hand.log().len();
    let code = hand.start("")?.end(Duration::from_secs(60));
    sh(world, "mount -o remount,rw /sys/fs/bpf")?;
    let said = hand.log()[mark..].to_owned();
    ensure!(code? == 1 && said.contains("Read-only"), "a read-only bpffs is told as {said}");
    let _up = hand.up("")?;
    becomes(world, &before, "bpffs can be written again")
}

fn run_directory_emptied(world: &World) -> Result<()> {
    let quiet = world.options().site(0).tenant();
    let before = settled(world)?;
    let hand = Hand::tenantd(world)?;
    sh(world, "cd /run/tenantd/main && rm -rf tenants lock api.sock")?;
    let _up = hand.up("")?;
    let words = eventually("status says it", Duration::from_secs(60), || {
        let status = ask("GET", format!("/v1/tenants/{quiet}/status")).granted(hand.socket()).ok()?;
        status["cause"].as_str().filter(|cause| cause.contains("restart-tenant")).map(str::to_owned)
    })?;
    ensure!(words.contains(&format!("{quiet}.sock")), "{words}");
    let init = before.keys().find(|line| line.starts_with(&format!("tenant {quiet} has init"))).context("no init")?;
    let pid = init.split(' ').nth(4).context("no pid")?;
    ensure!(world.path(&format!("/proc/{pid}")).exists(), "its init was ended");
    ensure!(status(world)?["half_done"] == json!([quiet]), "{}", status(world)?);
    Ok(())
}

fn store_lost_or_older(world: &World) -> Result<()> {
    let quiet = world.options().site(0).tenant();
    ask("POST", "/v1/tenants").with(add("extra", 700)).granted(&tenantd_socket(world))?;
    ask("DELETE", "/v1/tenants/extra?force=true").granted(&tenantd_socket(world))?;
    let before = settled(world)?;
    let hand = Hand::tenantd(world)?;
    // Lost.
    sh(world, "mkdir /run/lab/kept; mv /run/lab/state/tenantd.db* /run/lab/kept")?;
    let mut up = hand.up("")?;
    let orphans = status(world)?["orphans"].to_string();
    ensure!(orphans.contains(&quiet) && orphans.contains("remove-tenant"), "an unknown tenant is told as {orphans}");
    let said = refused(world, "POST", "/v1/tenants", add("extra", 600))?;
    ensure!(said.contains(&quiet), "its VLAN is told as {said}");
    let said = refused(world, "POST", "/v1/tenants", add(&quiet, 701))?;
    ensure!(said.contains(&quiet) && said.contains("taken"), "its name is told as {said}");
    let said = refused(world, "DELETE", &format!("/v1/tenants/{quiet}"), Value::Null)?;
    ensure!(said.contains("running processes"), "{said}");
    // Another one is made beside it, with keys of its own.
    ask("POST", "/v1/tenants")
        .with(json!({"name": "extra", "addresses": ["192.168.9.1/24"]}))
        .granted(hand.socket())?;
    ask("DELETE", "/v1/tenants/extra?force=true").granted(hand.socket())?;
    // To its end: the store is exchanged below, and the next one must not meet it.
    up.signal(Signal::SIGTERM)?;
    up.end(Duration::from_secs(60))?;
    drop(up);
    sh(world, "mv /run/lab/kept/tenantd.db* /run/lab/state; rmdir /run/lab/kept")?;
    let up = hand.up("")?;
    becomes(world, &before, "the store is back")?;
    // Older: of a time when `early` had the VLAN and the ids that `late` has now.
    ask("POST", "/v1/tenants").with(add("early", 700)).granted(hand.socket())?;
    up.kill()?;
    sh(world, "mkdir /run/lab/old; cp /run/lab/state/tenantd.db* /run/lab/old")?;
    let up = hand.up("")?;
    ask("DELETE", "/v1/tenants/early?force=true").granted(hand.socket())?;
    ask("POST", "/v1/tenants").with(add("late", 700)).granted(hand.socket())?;
    let late = ask("GET", "/v1/tenants/late/status").granted(hand.socket())?;
    up.kill()?;
    sh(world, "rm /run/lab/state/tenantd.db*; mv /run/lab/old/tenantd.db* /run/lab/state; rmdir /run/lab/old")?;
    let up = hand.up("")?;
    let waits = eventually("early waits", Duration::from_secs(60), || {
        let status = ask("GET", "/v1/tenants/early/status").granted(hand.socket()).ok()?;
        status["cause"].as_str().filter(|cause| cause.contains("late lives")).map(str::to_owned)
    });
    waits.with_context(|| {
        ask("GET", "/v1/tenants/early/status").granted(hand.socket()).map_or_else(|e| e.to_string(), |s| s.to_string())
    })?;
    let init = late["init_pid"].as_i64().context("late has no init")?;
    ensure!(world.path(&format!("/proc/{init}")).exists(), "late was ended");
    ask("DELETE", "/v1/tenants/late?force=true").granted(hand.socket())?;
    eventually("early comes back", Duration::from_secs(60), || {
        let status = ask("GET", "/v1/tenants/early/status").granted(hand.socket()).ok()?;
        (status["state"] == "ready").then_some(())
    })?;
    ask("DELETE", "/v1/tenants/early?force=true").granted(hand.socket())?;
    sh(world, "rm -rf /run/lab/state/tenants/late")?;
    becomes(world, &before, "all is taken back")?;
    drop(up);
    Ok(())
}

/// A bit that turned in a row: its tenant lives on as it is, the others are there and can be changed.
fn bad_row(world: &World) -> Result<()> {
    let database = |sql: &str| sh(world, &format!("sqlite3 /run/lab/state/tenantd.db \"{sql}\""));
    let socket = tenantd_socket(world);
    for (name, vlan) in [("extra", 700), ("other", 701)] {
        ask("POST", "/v1/tenants").with(add(name, vlan)).granted(&socket)?;
    }
    let init = || -> Result<Value> { Ok(ask("GET", "/v1/tenants/extra/status").granted(&socket)?["init_pid"].clone()) };
    let lives = init()?;
    sh(world, "tenantd backup /run/lab/kept.db")?;
    let hand = Hand::tenantd(world)?;
    database("UPDATE tenants SET body = replace(body, '192.168.9.1', '192.168.9.3') WHERE name = 'extra'")?;
    let up = hand.up("")?;
    let told = status(world)?;
    let words = told["bad_rows"][0].as_str().unwrap_or_default();
    ensure!(words.starts_with("extra: ") && words.contains("checksum") && told["tenants"] == 2, "{told}");
    let (path, addresses) = ("/v1/tenants/other/addresses", json!(["192.168.9.2/24"]));
    ask("PUT", path).with(addresses.clone()).granted(&socket)?;
    // What the row would say nobody knows, so nothing is changed of it, and nobody else gets what its tenant has.
    for (method, path, body) in [
        ("PUT", "/v1/tenants/extra/addresses", addresses),
        ("GET", "/v1/tenants/extra", Value::Null),
        ("POST", "/v1/tenants", add("extra", 702)),
        ("DELETE", "/v1/tenants/extra", Value::Null),
    ] {
        let said = refused(world, method, path, body)?;
        ensure!(said.contains("bad-row") && said.contains("restore a backup"), "{method} {path}: {said}");
    }
    let said = refused(world, "POST", "/v1/tenants", add("third", 700))?;
    ensure!(said.contains("extra"), "its VLAN is told as {said}");
    let said = sh(world, "tenantd status")?;
    ensure!(said.contains("bad row") && said.contains("extra: "), "{said}");
    // A backup is brought back over it, and over what lives of it.
    sh(world, "tenantd restore /run/lab/kept.db")?;
    ensure!(status(world)?["bad_rows"] == json!([]), "{}", status(world)?);
    eventually("it is ready", Duration::from_secs(20), || {
        let status = ask("GET", "/v1/tenants/extra/status").granted(&socket).ok()?;
        (status["state"] == "ready").then_some(())
    })?;
    ensure!(init()? == lives, "its init was {lives}, now it is {}", init()?);
    up.signal(Signal::SIGTERM)?;
    drop(up);
    // Given up: what lives of it ends, and its row is gone.
    database("UPDATE tenants SET sum = 'x' WHERE name = 'extra'")?;
    let up = hand.up("")?;
    ensure!(world.path(&format!("/proc/{lives}")).exists(), "its init was ended");
    ask("DELETE", "/v1/tenants/extra?force=true").granted(&socket)?;
    ensure!(status(world)?["bad_rows"] == json!([]), "{}", status(world)?);
    ensure!(!world.path(&format!("/proc/{lives}")).exists(), "its init lives");
    ask("DELETE", "/v1/tenants/other?force=true").granted(&socket)?;
    drop(up);
    let rows = database("SELECT name FROM tenants")?;
    ensure!(rows.trim() == world.options().site(0).tenant(), "{rows}");
    sh(world, "rm -rf /run/lab/state/tenants/extra /run/lab/kept.db")?;
    Ok(())
}

/// Where a program may look at a clock that can be set: what is shown, and what a file is dated with. Everything that is
/// decided by time goes by clocks that only go forward.
const WALL_CLOCK: [&str; 7] = [
    "access-server/src/daemon.rs",
    "tenantd/src/commands/top.rs",
    "tenantd/src/doctor/facts.rs",
    "tenantd/src/images/import.rs",
    "tenantd/src/images/manifest.rs",
    "tenantd/src/owner/stored.rs",
    "tenantd/src/verify/look.rs",
];

fn wall_clock() -> Result<()> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no root")?;
    let mut found = Vec::new();
    let crates = ["access-server", "fault-point", "stack-guard", "stackmap", "tenant-init", "tenantd", "vlan-rs"];
    let mut dirs: Vec<_> = crates.iter().map(|name| root.join(name).join("src")).collect();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            if path.ends_with("tests.rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            if ["SystemTime::now", "UtcDateTime::now", "CLOCK_REALTIME", "gettimeofday"]
                .iter()
                .any(|word| text.contains(word))
            {
                found.push(path.strip_prefix(root)?.display().to_string());
            }
        }
    }
    let news: Vec<_> = found.iter().filter(|path| !WALL_CLOCK.contains(&path.as_str())).collect();
    ensure!(
        news.is_empty(),
        "the wall clock decides in {news:?}? Only what is shown may use it; then list the file here"
    );
    Ok(())
}
