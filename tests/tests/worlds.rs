//! The lab itself: worlds side by side do not see each other, and nothing of one outlives its holder.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::plan::{Gateway, Options};
use system_tests::record;
use system_tests::traffic::reachable;
use system_tests::world::{World, eventually};

use crate::floor::{WORLD, trial, world};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("worlds::outer_addresses_answer", WORLD, outer_addresses_answer),
        trial("worlds::two_stand_side_by_side", WORLD, two_stand_side_by_side),
        trial("worlds::a_killed_holder_leaves_nothing", WORLD, a_killed_holder_leaves_nothing),
        trial("worlds::a_dropped_world_leaves_nothing", WORLD, a_dropped_world_leaves_nothing),
    ]
}

fn bare() -> Options {
    Options { sites: 2, gateway: Gateway::None, server: false, ..Options::default() }
}

fn outer_addresses_answer() -> Result<()> {
    let world = world("outer", bare())?;
    for address in ["203.0.113.1", "2001:db8:ffff::1"] {
        reachable(&world, "gw-b", address, Duration::from_secs(30))?;
    }
    let elsewhere = world.exec("host-a", &["ping", "-c", "1", "-W", "1", "203.0.113.1"])?;
    ensure!(!elsewhere.status.success(), "a host reached the internet without a gateway");
    Ok(())
}

fn two_stand_side_by_side() -> Result<()> {
    let (first, second) = (world("side", bare())?, world("side", bare())?);
    let mark = |world: &World, text: &str| world.ok("server", &["sh", "-c", &format!("echo {text} > /run/mark")]);
    mark(&first, "first")?;
    mark(&second, "second")?;
    ensure!(first.ok("server", &["cat", "/run/mark"])? == "first\n", "one world's /run shows in the other");
    let processes = first.ok("server", &["sh", "-c", "ls -d /proc/[0-9]* | wc -l"])?;
    ensure!(processes.trim().parse::<u32>()? < 8, "a world sees {} processes", processes.trim());
    let taken = World::up(&Options { name: first.options().name.clone(), ..bare() }, &mut |_| {});
    ensure!(taken.is_err_and(|e| format!("{e:#}").contains("stands already")), "a name was taken twice");
    Ok(())
}

fn a_killed_holder_leaves_nothing() -> Result<()> {
    let before = traces()?;
    let world = world("killed", bare())?;
    let mut sleeper = world.spawn("host-a", &["sleep", "1000"]).map(Some)?;
    let record = world.record.clone();
    kill(Pid::from_raw(record.holder), Signal::SIGKILL)?;
    let path = record::path(&record.options.name);
    eventually("the record is removed", Duration::from_secs(60), || (!path.exists()).then_some(()))?;
    if let Some(sleeper) = sleeper.take() {
        ensure!(!sleeper.wait(Duration::from_secs(30))?.status.success(), "a process outlived its world");
    }
    // What is gone since was another's, who ended meanwhile.
    eventually("nothing is left", Duration::from_secs(60), || traces().ok()?.is_subset(&before).then_some(()))
}

fn a_dropped_world_leaves_nothing() -> Result<()> {
    let before = traces()?;
    let world = world("dropped", bare())?;
    let path = record::path(&world.options().name);
    drop(world);
    ensure!(!path.exists(), "{} is left", path.display());
    // What is gone since was another's, who ended meanwhile.
    eventually("nothing is left", Duration::from_secs(60), || traces().ok()?.is_subset(&before).then_some(()))
}

/// What a world could leave on the machine: mounts, devices of the first namespace, cgroups.
fn traces() -> Result<BTreeSet<String>> {
    let mut traces: BTreeSet<String> =
        std::fs::read_to_string("/proc/self/mounts")?.lines().map(str::to_owned).collect();
    for entry in std::fs::read_dir("/sys/class/net")? {
        traces.insert(format!("device {}", entry?.file_name().to_string_lossy()));
    }
    for cgroup in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids"] {
        for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
            traces.insert(format!("cgroup {}", entry.path().display()));
        }
    }
    // Other worlds may come and go beside this test.
    let own = format!("tenantd-lab-dropped-{}", std::process::id());
    let killed = format!("tenantd-lab-killed-{}", std::process::id());
    traces.retain(|t| !t.contains("tenantd-lab-") || t.contains(&own) || t.contains(&killed));
    Ok(traces)
}
