//! The store of a running daemon: backed up and restored while a customer's traffic goes on, refused what is no backup, lost
//! and brought back, taken to another host, held by somebody else. Read by sqlite3, which is not ours.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use system_tests::plan::{Kind, Options};
use system_tests::world::{World, eventually};

use crate::floor::{Need, explain, trial};
use crate::kill_points::ask::{ask, tenantd_socket};
use crate::kill_points::hand::Hand;
use crate::kill_points::stream::Stream;
use crate::kill_points::traces::{difference, traces};
use crate::kill_points::with_quiet;

pub(crate) const NEEDS: &[Need] = &[
    Need::Root,
    Need::Daemons,
    Need::Program("ip", "iproute2"),
    Need::Program("ping", "iputils-ping"),
    Need::Program("python3", "python3"),
    Need::Program("sqlite3", "sqlite3"),
];

const DATABASE: &str = "/run/lab/state/tenantd.db";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("store::backed_up_and_restored", NEEDS, || in_world("stbackup", backed_up_and_restored)),
        trial("store::lost_and_of_another_host", NEEDS, || in_world("sthost", lost_and_elsewhere)),
        trial("store::a_restore_is_whole_or_not_at_all", NEEDS, || in_world("stwhole", whole_or_not)),
        trial("store::held_and_asked", NEEDS, || in_world("stheld", held_and_asked)),
    ]
}

/// One tenant that must not notice.
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

/// Runs a script in the world's own directory: the machine's other directories belong to all worlds that stand.
fn sh(world: &World, script: &str) -> Result<String> {
    world.ok("server", &["sh", "-ec", &in_files(script)])
}

fn in_files(script: &str) -> String {
    format!("mkdir -p /run/lab/files; cd /run/lab/files; {script}")
}

/// The words of a command that must fail.
fn refused(world: &World, script: &str) -> Result<String> {
    let output = world.exec("server", &["sh", "-ec", &in_files(script)])?;
    ensure!(!output.status.success(), "{script} succeeds: {}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn add(world: &World, name: &str, vlan: u16) -> Result<Value> {
    ask("POST", "/v1/tenants")
        .with(json!({"name": name, "vlan": vlan, "addresses": ["192.168.9.1/24"]}))
        .granted(&tenantd_socket(world))
}

/// What is desired, without numbers that only rise.
fn desired(world: &World) -> Result<String> {
    sh(world, "tenantd export")
}

fn backed_up_and_restored(world: &World) -> Result<()> {
    let now = || traces(world, &["extra", "later"]);
    // The first removal makes the directory of what was removed.
    add(world, "extra", 700)?;
    ask("DELETE", "/v1/tenants/extra?force=true").granted(&tenantd_socket(world))?;
    add(world, "extra", 700)?;
    let (wanted, before) = (desired(world)?, now()?);
    sh(world, "tenantd backup b.db && cp b.db c.db && tenantd backup b.db")?;
    let mode = sh(world, "stat -c %a b.db")?;
    ensure!(mode.trim() == "600", "a backup has mode {mode}");
    let read = sh(world, "sqlite3 b.db 'PRAGMA integrity_check; SELECT name FROM tenants WHERE name = \"extra\"'")?;
    ensure!(read.split_whitespace().eq(["ok", "extra"]), "sqlite3 reads {read}");
    let said = sh(world, "tenantd restore b.db")?;
    ensure!(said.contains("nothing to do"), "{said}");

    // One is changed, one is added, one is removed.
    sh(world, "tenantd set-address extra 192.168.8.1/24 192.168.7.1/24; tenantd set-dns extra 192.168.8.53")?;
    add(world, "later", 701)?;
    let changed = desired(world)?;
    let said = sh(world, "tenantd restore b.db --dry-run")?;
    ensure!(said.contains("change  extra: addresses, dns") && said.contains("remove  later"), "{said}");
    let said = refused(world, "tenantd restore b.db")?;
    ensure!(said.contains("later") && said.contains("--prune"), "a tenant that is not in the backup is told as {said}");
    ensure!(desired(world)? == changed, "a refused restore changes something");
    // What is no backup of ours, or not whole.
    for (make, words) in [
        ("head -c 8192 /dev/urandom > x.db", "no SQLite database"),
        ("head -c 20000 b.db > x.db", "backup"),
        ("rm -f x.db; sqlite3 x.db 'CREATE TABLE tenants (name, body)'", "no store of tenantd"),
        ("cp b.db x.db; sqlite3 x.db 'PRAGMA user_version = 99'", "schema 99"),
        (
            "cp b.db x.db; sqlite3 x.db \"UPDATE tenants SET body = replace(body, '192.168.9.1', '192.168.9.7')\"",
            "damaged",
        ),
        (
            "cp b.db x.db; sqlite3 x.db \"UPDATE meta SET value = replace(value, 'main', 'lab') WHERE key = 'home'\"",
            "--accept-store",
        ),
    ] {
        sh(world, make)?;
        let said = refused(world, "tenantd restore x.db --prune")?;
        ensure!(said.contains(words), "{make}: {said}");
    }
    ensure!(desired(world)? == changed, "a refused restore changes something");
    let said = sh(world, "tenantd restore b.db --prune")?;
    ensure!(said.contains("before-restore"), "{said}");
    let same = || Some(()).filter(|()| now().is_ok_and(|found| found == before));
    if eventually("the kernel follows", Duration::from_secs(60), same).is_err() {
        bail!("after the restore:\n{}", difference(&before, &now()?));
    }
    ensure!(desired(world)? == wanted, "after the restore {}", desired(world)?);
    // Added again when it was removed; and the way back from the restore is the copy made before it.
    sh(world, "tenantd remove-tenant extra --force && tenantd restore c.db")?;
    eventually("extra is back", Duration::from_secs(60), same)?;
    let kept = sh(world, &format!("sqlite3 {DATABASE}.before-restore 'SELECT name FROM tenants ORDER BY name'"))?;
    ensure!(kept.contains("later"), "what was there before is {kept}");
    let rows = sh(world, "tenantd audit extra")?;
    ensure!(rows.contains("restore") && rows.contains("set-address"), "{rows}");
    sh(world, "tenantd remove-tenant extra --force; rm [bcx].db")?;
    Ok(())
}

/// Killed before and after its one write, and on a disk that is full.
fn whole_or_not(world: &World) -> Result<()> {
    add(world, "extra", 700)?;
    add(world, "later", 701)?;
    let wanted = desired(world)?;
    sh(world, "tenantd backup b.db; tenantd set-address extra 192.168.8.1/24; tenantd set-dns later 192.168.8.53")?;
    let changed = desired(world)?;
    // Full: a backup is taken all the same, nothing is restored.
    sh(world, "mount -o remount,size=$(( $(df --output=used -k /run/lab/state | tail -1) + 64 ))k /run/lab/state")?;
    sh(world, "head -c 64M /dev/zero > /run/lab/state/filler || true")?;
    sh(world, "tenantd backup full.db && sqlite3 full.db 'PRAGMA integrity_check' && rm full.db")?;
    let said = refused(world, "tenantd restore b.db")?;
    ensure!(said.contains("full") || said.contains("No space"), "a full disk is told as {said}");
    sh(world, "rm /run/lab/state/filler; mount -o remount,size=50% /run/lab/state")?;
    ensure!(desired(world)? == changed, "a restore on a full disk changes something");
    let hand = Hand::tenantd(world)?;
    for (fault, expected) in [("store.put.before:1", &changed), ("store.put.after:1", &wanted)] {
        let up = hand.up(fault)?;
        let said = refused(world, "tenantd restore b.db")?;
        ensure!(said.contains("broke off"), "a daemon that was killed is told as {said}");
        up.killed()?;
        let _up = hand.up("")?;
        let found = desired(world)?;
        ensure!(found == *expected, "killed at {fault}: {found}");
    }
    let _up = hand.up("")?;
    let ready = || {
        let status = |name: &str| ask("GET", format!("/v1/tenants/{name}/status")).granted(hand.socket()).ok();
        ["extra", "later"].iter().all(|name| status(name).is_some_and(|s| s["state"] == "ready")).then_some(())
    };
    eventually("what was restored is so", Duration::from_secs(60), ready)?;
    let addresses = sh(world, "tenantd exec extra -- ip -4 -o address show dev dev1")?;
    ensure!(addresses.contains("192.168.9.1/24") && !addresses.contains("192.168.8.1"), "{addresses}");
    sh(world, "tenantd remove-tenant extra --force; tenantd remove-tenant later --force; rm b.db")?;
    Ok(())
}

fn lost_and_elsewhere(world: &World) -> Result<()> {
    let quiet = world.options().site(0).tenant();
    let before = traces(world, &[])?;
    sh(world, "tenantd backup b.db")?;
    // Lost altogether, and brought back while the daemon runs.
    let hand = Hand::tenantd(world)?;
    sh(world, &format!("rm {DATABASE}*"))?;
    let mut up = hand.up("")?;
    let status = ask("GET", "/v1/status").granted(hand.socket())?;
    let warning = status["store"]["warning"].as_str().context("no warning of another store")?;
    ensure!(warning.contains("another store") && status["orphans"].to_string().contains(&quiet), "{status}");
    sh(world, "tenantd restore b.db")?;
    let known = || {
        let status = ask("GET", "/v1/status").granted(hand.socket()).ok()?;
        let ready = ask("GET", format!("/v1/tenants/{quiet}/status")).granted(hand.socket()).ok()?["state"] == "ready";
        (status["orphans"] == json!([]) && status["waiting"] == 0 && ready).then_some(())
    };
    eventually("what was lost is known again", Duration::from_secs(60), known)?;
    // What was started to look at it may still be ending.
    let same = || traces(world, &[]).ok().filter(|found| *found == before).map(drop);
    if eventually("all is as before", Duration::from_secs(60), same).is_err() {
        bail!("a lost store that was restored:\n{}", difference(&before, &traces(world, &[])?));
    }
    up.signal(Signal::SIGTERM)?;
    // Until it has ended the store is its own.
    up.end(Duration::from_secs(60))?;
    drop(up);
    // The disk of another machine.
    let moved =
        "UPDATE meta SET value = replace(value, '\"instance\":\"main\"', '\"instance\":\"other\"') WHERE key = 'home'";
    sh(world, &format!("sqlite3 {DATABASE} \"PRAGMA journal_mode = WAL; {}\"", moved.replace('"', "\\\"")))?;
    let mark = hand.log().len();
    ensure!(hand.start("")?.end(Duration::from_secs(60))? == 1, "a store of another host is followed");
    let said = hand.log()[mark..].to_owned();
    ensure!(
        said.contains("instance other") && said.contains("--accept-store"),
        "another host's store is told as {said}"
    );
    let accepting = hand.and(&["--accept-store"]);
    let up = accepting.up("")?;
    let rows = sh(world, "tenantd audit --json")?;
    ensure!(rows.contains("accept-store") && rows.contains("other"), "{rows}");
    up.kill()?;
    // An older copy in its place, on the same run of the machine.
    sh(world, &format!("mkdir old; cp {DATABASE}* old"))?;
    let up = hand.up("")?;
    add(world, "extra", 700)?;
    ask("DELETE", "/v1/tenants/extra?force=true").granted(hand.socket())?;
    up.kill()?;
    sh(world, &format!("rm {DATABASE}*; mv old/tenantd.db* /run/lab/state; rmdir old"))?;
    let _up = hand.up("")?;
    let said = sh(world, "tenantd status")?;
    ensure!(said.contains("older than what was answered"), "{said}");
    sh(world, "rm -rf b.db /run/lab/state/tenants/extra")?;
    Ok(())
}

fn held_and_asked(world: &World) -> Result<()> {
    let socket = tenantd_socket(world);
    let quiet = world.options().site(0).tenant();
    // A foreign program that does not let go.
    let mut foreign =
        world.command("server", &["sqlite3", DATABASE])?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut words = foreign.stdin.take().context("no input")?;
    words.write_all(b"BEGIN IMMEDIATE; SELECT 'held';\n")?;
    let mut line = [0; 5];
    std::io::Read::read_exact(foreign.stdout.as_mut().context("no output")?, &mut line)?;
    let said = refused(world, "tenantd add-tenant extra --vlan 700 --address 192.168.9.1/24")?;
    ensure!(said.contains("another process holds a lock"), "a held store is told as {said}");
    let said = sh(world, "tenantd status")?;
    ensure!(said.contains("another process holds a lock"), "status says {said}");
    // Read it can be all the same.
    sh(world, "tenantd audit && tenantd backup b.db && rm b.db")?;
    drop(words);
    foreign.wait()?;
    add(world, "extra", 700)?;
    let status = ask("GET", "/v1/status").granted(&socket)?;
    ensure!(status["store"]["trouble"].is_null(), "{status}");
    // Who did what; from inside its own rows only, and what it may not do is in them.
    let inside = format!("tenantd exec {quiet} --");
    refused(world, &format!("{inside} tenantd remove-tenant extra --force"))?;
    refused(world, &format!("{inside} tenantd audit extra"))?;
    let own: Value = serde_json::from_str(&sh(world, &format!("{inside} tenantd audit --json"))?)?;
    let own = own.as_array().context("no rows")?;
    ensure!(own.iter().all(|row| row["tenant"] == quiet.as_str()), "a tenant reads {own:?}");
    let tried = own.iter().find(|row| row["origin"] == "tenant").context("what it tried is not told")?;
    ensure!(tried["verb"] == "remove-tenant" && tried["result"] == "refused", "{tried}");
    let made = own.iter().find(|row| row["verb"] == "add-tenant").context("who made it is not told")?;
    ensure!(made["uid"].is_null() && made["result"] == "done", "{made}");
    let all: Value = serde_json::from_str(&sh(world, "tenantd audit extra --json")?)?;
    let row = all.as_array().and_then(|rows| rows.iter().find(|row| row["result"] == "done")).context("no row")?;
    ensure!(row["uid"] == 0 && row["origin"] == "operator" && row["after"]["vlan"] == 700, "{row}");
    let count = sh(world, &format!("sqlite3 {DATABASE} \"SELECT count(*) FROM audit WHERE tenant = 'extra'\""))?;
    ensure!(count.trim().parse::<usize>()? >= 1, "sqlite3 counts {count}");
    ask("DELETE", "/v1/tenants/extra?force=true").granted(&socket)?;
    Ok(())
}
