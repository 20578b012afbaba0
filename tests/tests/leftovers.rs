//! Removing a tenant leaves nothing behind: no namespace, device, map row, process, mount, cgroup, file.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;
use system_tests::plan::{Kind, Options};
use system_tests::tenants;
use system_tests::world::{World, eventually};

use crate::floor::{TENANTS, explain, trial, world};

/// One line a thing. Pids and times differ from run to run and are left out.
const TRACES: &str = r#"
for ns in net mnt pid uts ipc user cgroup; do
  readlink /proc/[0-9]*/ns/$ns 2>/dev/null | sort -u | sed "s/^/namespace /"
done
nsenter --net=/run/tenantd/main/patchroom ip -o link | sed 's/^[0-9]*: /device /; s/[@:].*//'
ip -o link | sed 's/^[0-9]*: /device of the server /; s/[@:].*//'
for d in /proc/[0-9]*; do tr '\0' ' ' <$d/cmdline 2>/dev/null | cut -c1-60 | sed 's/^/process /'; echo; done | grep -vE 'process (sh |ls |sed |grep |tr |cut |$)' | grep .
sed 's/^/mount /' /proc/1/mounts
find /sys/fs/cgroup -mindepth 2 -type d 2>/dev/null | sed 's/^/cgroup /'
find /sys/fs/bpf /run/tenantd /run/access-server | sed 's/^/path /'
find /run/lab/state | grep -v 'tenantd.db' | sed 's/^/state /'
"#;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("leftovers::a_removed_tenant_leaves_nothing", TENANTS, nothing_is_left)]
}

fn nothing_is_left() -> Result<()> {
    let kinds = vec![Kind::Ipip, Kind::Vxlan];
    let world = world("left", Options { sites: 2, kinds, ..Options::default() })?;
    explain(&world, check(&world))
}

fn check(world: &World) -> Result<()> {
    let sites: Vec<_> = world.options().sites().collect();
    let all = |what: &str| -> Result<()> {
        for site in &sites {
            if what == "add" {
                tenants::add(world, site)?;
            } else {
                world.ok("server", &["tenantd", "remove-tenant", &site.tenant(), "--force"])?;
            }
        }
        Ok(())
    };
    // The first round may make what stays for all (directories, maps).
    all("add")?;
    all("remove")?;
    let before = settled(world)?;
    all("add")?;
    let during = traces(world)?;
    for kind in ["namespace", "device", "process", "path"] {
        let count = |traces: &BTreeMap<String, usize>| -> usize {
            traces.iter().filter(|(t, _)| t.starts_with(kind)).map(|(_, n)| n).sum()
        };
        ensure!(count(&during) > count(&before), "two tenants show no {kind}: this test looks in the wrong place");
    }
    all("remove")?;
    let same = eventually("all is as before", Duration::from_secs(30), || {
        traces(world).ok().filter(|after| *after == before).map(drop)
    });
    if same.is_err() {
        let after = traces(world)?;
        let news: Vec<_> = after.iter().filter(|(t, n)| before.get(*t) != Some(n)).collect();
        let lost: Vec<_> = before.iter().filter(|(t, n)| after.get(*t) != Some(n)).collect();
        bail!("left: {news:#?}\ngone: {lost:#?}");
    }
    for argv in [&["tenantd", "list", "--json"] as &[&str], &["access-server", "list", "--json"]] {
        let text = world.ok("server", argv)?;
        ensure!(!text.contains("600") && !text.contains("tenant-a"), "{argv:?} still says {text}");
    }
    Ok(())
}

/// What there is when nothing changes any more: the kernel takes away what was removed in its own time.
fn settled(world: &World) -> Result<BTreeMap<String, usize>> {
    let (mut before, mut same) = (traces(world)?, 0);
    eventually("the world stands still", Duration::from_secs(60), || {
        std::thread::sleep(Duration::from_millis(500));
        let now = traces(world).ok()?;
        same = if now == before { same + 1 } else { 0 };
        before = now;
        (same == 3).then_some(())
    })?;
    Ok(before)
}

fn traces(world: &World) -> Result<BTreeMap<String, usize>> {
    let mut traces = BTreeMap::new();
    for line in world.ok("server", &["sh", "-c", TRACES])?.lines() {
        *traces.entry(line.to_owned()).or_default() += 1;
    }
    Ok(traces)
}
