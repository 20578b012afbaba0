//! A tenant is a private server: its files, processes, users and name are its own; what it has written is there after a
//! restart, and after the machine's; an ephemeral one forgets.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use system_tests::daemons::STATE_DIR;
use system_tests::plan::{Kind, Options, SERVER_INNER_V4, Site};
use system_tests::tenants::{self, init_pid, sh};
use system_tests::traffic::{page, reachable, url};
use system_tests::world::{World, eventually};

use crate::floor::{TENANTS, explain, trial, with_tenants, world};
use crate::kill9::pid;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("private_server::files_are_its_own", TENANTS, || two("files", files)),
        trial("private_server::processes_and_name_are_its_own", TENANTS, || two("procs", processes)),
        trial("private_server::users_are_its_own", TENANTS, || two("users", users)),
        trial("private_server::a_restart_keeps_files_unless_ephemeral", TENANTS, || two("restart", restart)),
        trial("private_server::comes_up_after_a_reboot", TENANTS, reboot),
    ]
}

fn options() -> Options {
    Options { sites: 2, kinds: vec![Kind::Ipip, Kind::Gre], ..Options::default() }
}

fn two(stem: &str, check: impl FnOnce(&World, &str, &str) -> Result<()>) -> Result<()> {
    let world = with_tenants(stem, options())?;
    let (a, b) = (world.options().site(0).tenant(), world.options().site(1).tenant());
    explain(&world, check(&world, &a, &b))
}

fn refused(world: &World, tenant: &str, script: &str) -> Result<()> {
    let done = world.exec("server", &["tenantd", "exec", tenant, "--", "sh", "-c", script])?;
    ensure!(!done.status.success(), "{tenant} could do this: {script}: {}", String::from_utf8_lossy(&done.stdout));
    Ok(())
}

/// What root writes wherever it may is in no other tenant and nowhere on the server.
fn files(world: &World, a: &str, b: &str) -> Result<()> {
    let places = "/root /etc /srv /opt /home /var/lib /var/www/html /tmp /run /dev/shm";
    let mark = "the-mark-of-a";
    sh(world, a, &format!("for d in {places}; do echo mine >$d/{mark}; done; echo more >>/etc/motd; rm /etc/shells"))?;
    let find = format!("find / -path /proc -prune -o -name {mark} -print 2>/dev/null");
    ensure!(sh(world, a, &format!("{find} || true"))?.lines().count() == 10, "a does not see its own files");
    ensure!(sh(world, b, &format!("{find} || true"))?.is_empty(), "b sees files of a");
    sh(world, b, "test -e /etc/shells; ! grep -q more /etc/motd")?;
    // The same places of the server itself, whose root sees all.
    world.ok(
        "server",
        &["sh", "-ec", &format!("for d in {places}; do ! test -e $d/{mark}; done; test -e /etc/shells")],
    )?;
    // Programs are shared and nobody's to change.
    refused(world, a, "echo x >/usr/bin/the-mark-of-a")?;
    refused(world, a, "rm /usr/bin/true")?;
    refused(world, a, &format!("ls {STATE_DIR}"))?;
    // The state as the server has it is for root there only.
    let modes = world.ok("server", &["sh", "-c", &format!("stat -c %a {STATE_DIR}/tenants/{a}")])?;
    ensure!(modes.trim().ends_with("00"), "others may look into the state of a: {modes}");
    Ok(())
}

fn processes(world: &World, a: &str, b: &str) -> Result<()> {
    for (tenant, seconds) in [(a, "4711"), (b, "8150")] {
        world.ok("server", &["tenantd", "add-service", tenant, "sleeper", "--", "/bin/sleep", seconds])?;
    }
    for (tenant, own, other) in [(a, "sleep 4711", "sleep 8150"), (b, "sleep 8150", "sleep 4711")] {
        // One that has just been started may not have become its program yet.
        let mut seen = String::new();
        let _ = eventually("the sleeper sleeps", Duration::from_secs(30), || {
            seen = sh(world, tenant, "ps -eo args").ok()?;
            seen.contains(own).then_some(())
        });
        ensure!(seen.contains(own) && !seen.contains(other), "{tenant} sees {seen}");
        ensure!(seen.lines().count() < 12 && !seen.contains("tenantd run"), "{tenant} sees {seen}");
        ensure!(seen.contains("tenant-init"), "{tenant} sees {seen}");
        ensure!(sh(world, tenant, "hostname; cat /etc/hostname")? == format!("{tenant}\n{tenant}\n"), "its name");
        ensure!(sh(world, tenant, "id -u; cat /proc/1/comm")? == "0\ntenant-init\n", "its root");
        // System V objects: the other's segment of the same key is another one.
        sh(world, tenant, "ipcmk -M 4096 >/dev/null; test $(ipcs -m | grep -c 0x) = 1")?;
    }
    // Root inside is nobody outside.
    let show: Value = serde_json::from_str(&world.ok("server", &["tenantd", "show", a, "--json"])?)?;
    let first = show["gid"].as_u64().context("no gid")?;
    let uid = world.ok("server", &["sh", "-c", "for p in /proc/[0-9]*; do [ \"$(tr '\\0' ' ' <$p/cmdline)\" = '/bin/sleep 4711 ' ] && grep Uid: $p/status; done; true"])?;
    let ids: Vec<u64> = uid.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    ensure!(ids == [first; 4], "the server sees the sleeper of a as {uid:?}, not {first}");
    Ok(())
}

/// Users, passwords and the programs that change them: su and passwd gain privileges inside.
fn users(world: &World, a: &str, b: &str) -> Result<()> {
    let before = std::fs::read("/etc/shadow")?;
    sh(
        world,
        a,
        "useradd --create-home --shell /bin/bash kim; printf 'kim:first-Word7\\nroot:root-Word7\\n' | chpasswd",
    )?;
    ensure!(sh(world, a, "su kim -c 'id -u; id -un; pwd; cd; pwd'")?.ends_with("/home/kim\n"), "the home of kim");
    refused(world, a, "su kim -c 'cat /etc/shadow'")?;
    refused(world, a, "su kim -c 'echo wrong | su root -c id'")?;
    let root = "su kim -c 'echo root-Word7 | su root -c \"id -u\"'";
    ensure!(sh(world, a, root)?.trim() == "0", "su asks for the password of this tenant's root");
    let change = "su kim -c \"printf 'first-Word7\\nsecond-Word8\\nsecond-Word8\\n' | passwd\"";
    sh(world, a, change).context("kim changes the password")?;
    sh(world, a, "su nobody -s /bin/sh -c 'echo second-Word8 | su kim -c true'")?;
    refused(world, a, "su nobody -s /bin/sh -c 'echo first-Word7 | su kim -c true'")?;
    // The other tenant has none of them, and its own kim is another one.
    refused(world, b, "id kim")?;
    refused(world, b, "su nobody -s /bin/sh -c 'echo root-Word7 | su root -c true'")?;
    sh(world, b, "useradd --create-home kim; echo kim:other-Word9 | chpasswd")?;
    refused(world, b, "su nobody -s /bin/sh -c 'echo second-Word8 | su kim -c true'")?;
    ensure!(std::fs::read("/etc/shadow")? == before, "a tenant changed the passwords of the server");
    Ok(())
}

fn restart(world: &World, a: &str, b: &str) -> Result<()> {
    world.ok("server", &["tenantd", "remove-tenant", b, "--force"])?;
    let mut again = tenants::add_tenant(world.options(), &world.options().site(1));
    again.push("--ephemeral".into());
    world.ok("server", &again.iter().map(String::as_str).collect::<Vec<_>>())?;
    tenants::add_services(world, &world.options().site(1))?;
    let write = "echo kept >/root/file; rm /etc/shells; useradd -m kim; echo gone >/tmp/file; echo gone >/run/file";
    let pids = [a, b].map(|tenant| sh(world, tenant, write).and_then(|_| init_pid(world, tenant)));
    for (tenant, old) in [a, b].into_iter().zip(pids) {
        world.ok("server", &["tenantd", "restart-tenant", tenant])?;
        ensure!(init_pid(world, tenant)? != old?, "{tenant} was not started again");
        sh(world, tenant, "! test -e /tmp/file; ! test -e /run/file")?;
    }
    sh(world, a, "test \"$(cat /root/file)\" = kept; ! test -e /etc/shells; id kim; test -d /home/kim")?;
    sh(world, b, "! test -e /root/file; test -e /etc/shells; ! id kim 2>/dev/null")?;
    served(world)
}

/// Every site reaches its own tenant's page.
fn served(world: &World) -> Result<()> {
    for site in world.options().sites() {
        reachable(world, &site.host(), SERVER_INNER_V4, Duration::from_secs(30))?;
        let web = url("http", SERVER_INNER_V4);
        let got = eventually("a page", Duration::from_secs(30), || page(world, &site.host(), &web, &[]).ok())?;
        ensure!(got.trim() == tenants::page(&site), "{} was served {got:?}", site.host());
    }
    Ok(())
}

/// A file of the machine that goes with the value.
struct Saved(PathBuf);

impl Drop for Saved {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// All that survives is the state directory: processes, namespaces, maps, cgroups and devices of the second world are new
/// ones. Nothing ended in an orderly way before.
fn reboot() -> Result<()> {
    let saved = Saved(std::env::temp_dir().join(format!("tenantd-test-reboot-{}.tar", std::process::id())));
    let first = world("boot", options())?;
    explain(&first, lose_power(&first, &saved))?;
    drop(first);
    let second = world("boot", options())?;
    explain(&second, boot(&second, &saved))
}

fn lose_power(world: &World, saved: &Saved) -> Result<()> {
    let sites: Vec<Site> = world.options().sites().collect();
    for (site, more) in
        sites.iter().zip([["--limit=memory=300M", "--limit=processes=100"], ["--ephemeral", "--limit=cpu=1.5"]])
    {
        let mut argv = tenants::add_tenant(world.options(), site);
        argv.extend(more.map(String::from));
        world.ok("server", &argv.iter().map(String::as_str).collect::<Vec<_>>())?;
        tenants::add_services(world, site)?;
        sh(
            world,
            &site.tenant(),
            "echo kept >/root/file; useradd -m kim; rm /etc/shells; echo new >/var/www/html/second.html",
        )?;
    }
    served(world)?;
    let mut kill = "touch /run/lab/hold/tenantd /run/lab/hold/access-server; kill -9".to_owned();
    for daemon in ["tenantd", "access-server"] {
        kill += &format!(" {}", pid(world, daemon)?.context("a daemon that does not run")?);
    }
    let mut inits = Vec::new();
    for site in &sites {
        inits.push(init_pid(world, &site.tenant())?.to_string());
    }
    // Init's end is that of all its processes; one that still ends may write what is read below.
    let inits = inits.join(" ");
    kill += &format!(
        " {inits}; for p in {inits}; do n=0; while [ -e /proc/$p ] && [ $n -lt 500 ]; do sleep 0.02; n=$((n+1)); done; done"
    );
    world.ok("server", &["sh", "-ec", &kill])?;
    let tar =
        ["tar", "--numeric-owner", "--sparse", "--xattrs", "--xattrs-include=*", "-C", STATE_DIR, "-cpf", "-", "."];
    let status = world.command("server", &tar)?.stdout(File::create(&saved.0)?).status()?;
    ensure!(status.success(), "tar: {status}");
    Ok(())
}

fn boot(world: &World, saved: &Saved) -> Result<()> {
    let old = pid(world, "tenantd")?.context("no tenantd")?;
    let clear = format!(
        "touch /run/lab/hold/tenantd; kill -9 {old}; while [ -e /proc/{old}/exe ]; do sleep 0.01; done; find {STATE_DIR} -mindepth 1 -delete"
    );
    world.ok("server", &["sh", "-ec", &clear])?;
    let tar = ["tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", STATE_DIR, "-xpf", "-"];
    let status = world.command("server", &tar)?.stdin(File::open(&saved.0)?).status()?;
    ensure!(status.success(), "tar: {status}");
    world.ok("server", &["rm", "/run/lab/hold/tenantd"])?;
    let sites: Vec<Site> = world.options().sites().collect();
    for site in &sites {
        let tenant = site.tenant();
        let ready = |status: &Value| status["state"] == "ready";
        eventually(&format!("{tenant} is ready"), Duration::from_secs(60), || {
            let text = world.ok("server", &["tenantd", "status", &tenant, "--json"]).ok()?;
            serde_json::from_str::<Value>(&text).ok().filter(ready).map(drop)
        })?;
    }
    served(world)?;
    let (a, b) = (sites[0].tenant(), sites[1].tenant());
    sh(world, &a, "test \"$(cat /root/file)\" = kept; id kim; test -d /home/kim; ! test -e /etc/shells")?;
    sh(world, &b, "! test -e /root/file; ! id kim 2>/dev/null; test -e /etc/shells")?;
    let web = format!("http://{SERVER_INNER_V4}/second.html");
    ensure!(page(world, &sites[0].host(), &web, &[])?.trim() == "new", "the site's own page");
    ensure!(page(world, &sites[1].host(), &web, &[]).is_err(), "an ephemeral tenant remembers");
    for (tenant, name, value) in [(&a, "memory", 300 << 20), (&a, "processes", 100)] {
        let show: Value = serde_json::from_str(&world.ok("server", &["tenantd", "show", tenant, "--json"])?)?;
        ensure!(show["limits"][name].as_u64() == Some(value), "{name} of {tenant} is {}", show["limits"]);
    }
    Ok(())
}
