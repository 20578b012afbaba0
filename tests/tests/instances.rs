//! Two instances side by side on one machine: same VLANs, same tenant names, same addresses, same VNIs. Each serves its
//! own sites, neither has the other's rows, and taking one away loses no packet of the other.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use system_tests::plan::{Gateway, Kind, Options, SERVER_INNER_V4, SERVER_INNER_V6, Site};
use system_tests::traffic::{Pinging, page, reachable, url};
use system_tests::world::{Running, World, eventually};

use crate::floor::{TENANTS, explain, trial, world};

/// Both ends of the tunnels of one instance.
struct Instance {
    name: &'static str,
    local: &'static str,
    wan: &'static str,
    /// Sites by number: the first over IPIP, the second over VXLAN.
    sites: [u16; 2],
}

const MAIN: Instance = Instance { name: "main", local: "203.0.113.1", wan: "wan0", sites: [0, 1] };
/// Beside it on the same WAN device.
const ONE_WAN: Instance = Instance { name: "two", local: "203.0.113.2", wan: "wan0", sites: [2, 3] };
/// Beside it on a WAN device of its own.
const OWN_WAN: Instance = Instance { name: "two", local: "192.0.2.1", wan: "wan1", sites: [2, 3] };

/// Tenants of each instance: name and VLAN are the same in both.
const TENANTS_OF_BOTH: [(&str, &str); 2] = [("acme", "600"), ("beta", "601")];
/// First group id of the second instance's tenants.
const SECOND_GIDS: usize = 160 * 65_536;
/// The VNI of both instances' VXLAN tunnels.
const VNI: &str = "1000";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("instances::on_one_wan_device", TENANTS, || side_by_side(&ONE_WAN)),
        trial("instances::on_a_wan_device_each", TENANTS, || side_by_side(&OWN_WAN)),
    ]
}

fn side_by_side(second: &Instance) -> Result<()> {
    let kinds = vec![Kind::Ipip, Kind::Vxlan];
    let world = world("inst", Options { sites: 4, kinds, gateway: Gateway::None, ..Options::default() })?;
    explain(&world, check(&world, second))
}

fn check(world: &World, second: &Instance) -> Result<()> {
    let sh = |node: &str, script: &str| world.ok(node, &["sh", "-ec", script]);
    match second.wan {
        "wan0" => drop(sh("server", &format!("ip address add {}/24 dev wan0", second.local))?),
        _ => second_wan(world, second)?,
    }
    let _daemons = start(world, second)?;
    let mut gateways = Vec::new();
    for instance in [&MAIN, second] {
        for number in 0..2 {
            add(world, instance, number)?;
            gateways.extend(gateway(world, instance, number)?);
        }
    }
    let both = [&MAIN, second];
    for instance in both {
        served(world, instance)?;
    }
    own_rows(world, &both)?;
    own_counters(world, &both)?;
    one_address_each(world)?;
    remove_first(world, second)
}

/// A second link between server and internet; the way to the second instance's sites is over it.
fn second_wan(world: &World, second: &Instance) -> Result<()> {
    let sites = second.sites.map(|n| world.options().site(n).outer_v4());
    let [first_site, other_site] = sites;
    let wan = second.wan;
    let local = second.local;
    // From the server's side: `ip` of the world finds the nodes by name.
    let script = format!(
        "ip link add {wan} type veth peer name server1 netns internet
        ip link set {wan} up; ip -n internet link set server1 up
        ip address add {local}/24 dev {wan}; ip -n internet address add 192.0.2.254/24 dev server1
        ip route add {first_site} via 192.0.2.254; ip route add {other_site} via 192.0.2.254"
    );
    world.ok("server", &["sh", "-ec", &script]).map(drop)
}

/// Starts both daemons of the second instance and waits until they know each other.
fn start(world: &World, second: &Instance) -> Result<[Running; 2]> {
    let name = second.name;
    let tenantd = ["tenantd", "run", "--instance", name, "--state-dir", "/run/lab/two"];
    let access = ["access-server", "run", "--instance", name, "--wan", second.wan, "--local", second.local];
    let daemons = [world.spawn("server", &tenantd)?, world.spawn("server", &access)?];
    let argv = ["tenantd", "--instance", name, "--json", "status"];
    let known = eventually("the second instance stands", Duration::from_secs(60), || {
        let status: Value = serde_json::from_str(&world.ok("server", &argv).ok()?).ok()?;
        (status["access"] == "connected").then_some(())
    });
    if let Err(e) = known {
        let said = daemons.map(|d| d.interrupt().map(|o| String::from_utf8_lossy(&o.stderr).into_owned()));
        anyhow::bail!("{e:#}; the daemons said {said:?}");
    }
    Ok(daemons)
}

fn site(world: &World, instance: &Instance, number: usize) -> Result<Site> {
    Ok(world.options().site(*instance.sites.get(number).context("no such site")?))
}

/// Adds a tenant whose page names tenant and instance.
fn add(world: &World, instance: &Instance, number: usize) -> Result<()> {
    let (tenant, vlan) = TENANTS_OF_BOTH[number];
    let remote = site(world, instance, number)?.outer_v4();
    let key = if number == 0 { String::new() } else { format!(",key={VNI}") };
    let tunnel = format!("{}:{remote},local={}{key}", ["ipip", "vxlan"][number], instance.local);
    let (v4, v6) = (format!("{SERVER_INNER_V4}/24"), format!("{SERVER_INNER_V6}/64"));
    let mut argv = vec!["tenantd", "--instance", instance.name, "add-tenant", tenant, "--vlan", vlan];
    argv.extend(["--address", &v4, "--address", &v6, "--tunnel", &tunnel]);
    // The guard of each instance knows a process by its group ids, too: they are the one thing that must differ.
    let gid = (SECOND_GIDS + 65_536 * number).to_string();
    if instance.name != MAIN.name {
        argv.extend(["--gid", &gid]);
    }
    world.ok("server", &argv)?;
    let body = format!("body={}", body(instance, number));
    let web = ["add-service", tenant, "web", "--template", "nginx", "--set", &body];
    world.ok("server", &[&["tenantd", "--instance", instance.name], &web[..]].concat()).map(drop)
}

fn body(instance: &Instance, number: usize) -> String {
    format!("{} of instance {}", TENANTS_OF_BOTH[number].0, instance.name)
}

/// Starts the customer's gateway: ours for IPIP, the kernel's for VXLAN.
fn gateway(world: &World, instance: &Instance, number: usize) -> Result<Option<Running>> {
    let site = site(world, instance, number)?;
    let (gw, remote, local) = (site.gw(), instance.local, site.outer_v4().to_string());
    if number == 1 {
        let script = format!(
            "ip link add br0 type bridge forward_delay 0
            ip link add tun0 type vxlan id {VNI} local {local} remote {remote} dstport 4789
            ip link set lan0 master br0; ip link set tun0 master br0; ip link set tun0 up; ip link set br0 up"
        );
        world.ok(&gw, &["sh", "-ec", &script])?;
        return Ok(None);
    }
    let tunnel = format!("ipip:{remote}");
    let mut argv =
        vec!["access-server", "site", "--instance", &gw, "--lan", "lan0", "--wan", "wan0", "--local", &local];
    argv.extend(["--tunnel", &tunnel, "--server", SERVER_INNER_V4, "--server", SERVER_INNER_V6]);
    world.spawn(&gw, &argv).map(Some)
}

/// Each host is served by its own tenant of its own instance.
fn served(world: &World, instance: &Instance) -> Result<()> {
    for number in 0..2 {
        let host = site(world, instance, number)?.host();
        for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
            reachable(world, &host, server, Duration::from_secs(30))?;
            let got = page(world, &host, &url("http", server), &[])?;
            ensure!(got.trim() == body(instance, number), "{host} asked {server} and was served {got:?}");
        }
    }
    Ok(())
}

/// Same names and VLANs in both; of the tunnels each has its own only, and so has the kernel's table.
fn own_rows(world: &World, instances: &[&Instance; 2]) -> Result<()> {
    for (instance, other) in [(instances[0], instances[1]), (instances[1], instances[0])] {
        let map = world.ok("server", &["tenantd", "--instance", instance.name, "map"])?;
        let rows = world.ok("server", &["access-server", "list", "--instance", instance.name])?;
        for (tenant, vlan) in TENANTS_OF_BOTH {
            ensure!(map.contains(tenant) && map.contains(vlan), "instance {} has no {tenant}: {map}", instance.name);
        }
        for (text, what) in [(&map, "tenantd"), (&rows, "access-server")] {
            for number in 0..2 {
                let own = site(world, instance, number)?.outer_v4();
                let foreign = site(world, other, number)?.outer_v4();
                ensure!(text.contains(&format!("({own}, {}", instance.local)), "{what} lacks {own}: {text}");
                ensure!(!text.contains(&format!("({foreign},")), "{what} has the other's {foreign}: {text}");
            }
        }
    }
    Ok(())
}

/// Packets of one instance's sites count in that instance only, and nothing is dropped.
fn own_counters(world: &World, instances: &[&Instance; 2]) -> Result<()> {
    for (instance, other) in [(instances[0], instances[1]), (instances[1], instances[0])] {
        let host = site(world, instance, 0)?.host();
        // The last words of connections that have just ended are counted, too.
        let look = || Some((counters(world, other).ok()?, counters(world, instance).ok()?));
        let (before, own) = eventually("nothing is counted any more", Duration::from_secs(30), || {
            let first = look()?;
            std::thread::sleep(Duration::from_millis(500));
            (look()? == first).then_some(first)
        })?;
        let sent = u64::from(Pinging::start(world, &host, SERVER_INNER_V4, 50)?.all_answered()?.sent);
        ensure!(counters(world, other)? == before, "pings of {host} count in instance {}", other.name);
        let _ = eventually("all are counted", Duration::from_secs(10), || {
            (counters(world, instance).ok()?.0 - own.0 >= sent).then_some(())
        });
        let counted = counters(world, instance)?.0 - own.0;
        ensure!(counted == sent, "{sent} pings of {host} count as {counted} in instance {}", instance.name);
    }
    Ok(())
}

/// Packets from the site of VLAN 600, and all packets that belong to no VLAN (with what was dropped of them).
fn counters(world: &World, instance: &Instance) -> Result<(u64, String)> {
    let text = world.ok("server", &["access-server", "counters", "--json", "--instance", instance.name])?;
    let rows: Vec<Value> = serde_json::from_str(&text)?;
    let row = |vlan: u64| rows.iter().find(|r| r["vlan"] == vlan).cloned().unwrap_or_default();
    Ok((row(600)["rx_packets"].as_u64().context("no counter of VLAN 600")?, row(0).to_string()))
}

/// A third instance that wants the address or the trunk of the first is refused, and no packet is lost.
fn one_address_each(world: &World) -> Result<()> {
    let host = site(world, &MAIN, 0)?.host();
    let ping = Pinging::start(world, &host, SERVER_INNER_V4, 100)?;
    for (local, trunk, words) in [
        (MAIN.local, "third0", ["203.0.113.1", "instance main", "detach"]),
        ("203.0.113.3", "trunk-main", ["trunk", "instance main", "detach"]),
    ] {
        world
            .ok("server", &["sh", "-ec", "ip link add third0 up type veth peer name third1; ip link set third1 up"])?;
        world.ok("server", &["ip", "address", "replace", "203.0.113.3/32", "dev", "wan0"])?;
        let argv = ["access-server", "run", "--instance", "third", "--wan", "wan0", "--local", local, "--trunk", trunk];
        let output = world.spawn("server", &argv)?.wait(Duration::from_secs(60))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{argv:?} ended with {}: {said}", output.status);
        let missing: Vec<_> = words.iter().filter(|word| !said.contains(**word)).collect();
        ensure!(missing.is_empty(), "{argv:?} does not say {missing:?}: {said}");
        world.ok("server", &["ip", "link", "del", "third0"])?;
    }
    let pins = world.ok("server", &["ls", "/sys/fs/bpf/access-server"])?;
    ensure!(!pins.contains("third"), "an instance that was refused left pins: {pins}");
    ping.all_answered().map(drop)
}

/// Removes tenants, daemons and data path of the first instance while pings go through the second.
fn remove_first(world: &World, second: &Instance) -> Result<()> {
    let mut pings = Vec::new();
    for number in 0..2 {
        let host = site(world, second, number)?.host();
        for server in [SERVER_INNER_V4, SERVER_INNER_V6] {
            pings.push(Pinging::start(world, &host, server, 250)?);
        }
    }
    for (tenant, _) in TENANTS_OF_BOTH {
        world.ok("server", &["tenantd", "remove-tenant", tenant, "--force"])?;
    }
    for daemon in ["tenantd", "access-server"] {
        std::fs::write(world.path(&format!("/run/lab/hold/{daemon}")), "")?;
        let end = format!(
            "for d in /proc/[0-9]*; do tr '\\0' ' ' <$d/cmdline 2>/dev/null | grep -q '^{daemon} run --instance main ' \
             && kill ${{d#/proc/}}; done; true"
        );
        world.ok("server", &["sh", "-c", &end])?;
    }
    eventually("the data path of the first instance is detached", Duration::from_secs(60), || {
        world.ok("server", &["access-server", "detach", "--instance", "main"]).ok()
    })?;
    for ping in pings {
        ping.all_answered()?;
    }
    let pins = world.ok("server", &["ls", "/sys/fs/bpf/access-server"])?;
    ensure!(!pins.contains("main") && pins.contains(second.name), "pins are left or lost: {pins}");
    for number in 0..2 {
        let host = site(world, &MAIN, number)?.host();
        let alone = world.exec(&host, &["ping", "-q", "-c", "1", "-W", "1", SERVER_INNER_V4])?;
        ensure!(!alone.status.success(), "{host} is answered by an instance that is gone");
    }
    served(world, second)
}
