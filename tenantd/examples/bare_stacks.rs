//! Stacks without an init, made by the product's own functions: a network namespace with its settings, a port in the patch
//! room, addresses and routes, a row in the data path. And the same by `ip` commands, as an operator would, to hold it
//! against. Prints JSON; `bench` runs it.
//!
//! `bare_stacks COUNT BY_HAND` (root). All of it is in namespaces of its own and ends with it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use stackmap::{MacAddr, MacRole, Segment, TrunkIndex, Vlan};
use tenantd::launch::bare;
use tenantd::net::link::{self, VethEnd};
use tenantd::net::ns::{Visitor, enter};
use tenantd::net::room::{PatchRoom, PortRow, port_name};
use tenantd::net::rtnl::Netlink;
use tenantd::net::stack::{self, StackAddress, StackPlan, StackRoute, Via};
use tenantd::trunks::TrunkSpec;

const MTU: u32 = 1480;
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
/// One namespace and one pair of devices, which the kernel keeps ready for the next ones, are left out of the figures.
const WARM: u16 = 20;

fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u16>());
    let count = numbers.next().context("bare_stacks COUNT BY_HAND")??;
    let by_hand = numbers.next().context("bare_stacks COUNT BY_HAND")??;
    ensure!(count + WARM <= Vlan::MAX, "at most {} stacks", Vlan::MAX - WARM);
    // Before there is a second thread.
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    for (kind, at) in [("tmpfs", "/run"), ("bpf", "/sys/fs/bpf")] {
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>).with_context(|| format!("{kind} at {at}"))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let found = runtime.block_on(run(count, by_hand))?;
    println!("{found}");
    Ok(())
}

async fn run(count: u16, by_hand: u16) -> Result<serde_json::Value> {
    let trunk = TrunkSpec {
        number: TrunkIndex::default(),
        name: "bare".into(),
        card: None,
        near: "trunk-bare".into(),
        access: "/run/none.sock".into(),
    };
    let none = BTreeSet::new();
    let room = PatchRoom::open(Path::new("/run/room"), Path::new("/sys/fs/bpf/bare"), &[trunk], &none).await?;
    let visitor = Visitor::start()?;
    let mut stacks = Vec::new();
    for vlan in 1..=WARM {
        stacks.push(one(&room, &visitor, Vlan::new(vlan)?).await?);
    }
    let (before, started, mut ours) = (kernel_memory()?, Instant::now(), Vec::new());
    for vlan in WARM + 1..=WARM + count {
        let each = Instant::now();
        stacks.push(one(&room, &visitor, Vlan::new(vlan)?).await?);
        ours.push(each.elapsed().as_secs_f64() * 1e3);
    }
    let rate = f64::from(count) / started.elapsed().as_secs_f64();
    let each = (kernel_memory()? - before) / f64::from(count);
    // Beside all of them, as the last of ours were.
    let (started, mut hand) = (Instant::now(), Vec::new());
    for number in 0..by_hand {
        let each = Instant::now();
        command_by_command(number)?;
        hand.push(each.elapsed().as_secs_f64() * 1e3);
    }
    let hand_rate = f64::from(by_hand) / started.elapsed().as_secs_f64();
    Ok(serde_json::json!({
        "count": count, "rate": rate, "by_hand_rate": hand_rate, "kernel_kib_each": each, "ours_ms": ours,
        "by_hand_ms": hand,
    }))
}

/// One stack; it lives as long as the descriptor.
async fn one(room: &PatchRoom, visitor: &Visitor, vlan: Vlan) -> Result<OwnedFd> {
    let at = Segment { trunk: TrunkIndex::default(), vlan };
    let mac = |role| MacAddr::derive("bare", at.trunk, at.vlan, role);
    let (server, gateway) = (mac(MacRole::Server), mac(MacRole::Gateway));
    let stack = visitor.run(bare::make).await??;
    let (end, near) = (stack.try_clone()?, port_name(at));
    let port = room.work(move |inside| {
        let far = VethEnd { name: "dev0", mac: Some(server), mtu: MTU };
        link::add_veth(&inside.netlink, VethEnd { name: &near, mac: None, mtu: MTU }, far, end.as_fd())?;
        link::find(&inside.netlink, &near)
    });
    let port = port.await?.context("the port is not there")?;
    let everywhere = StackRoute { to: "0.0.0.0/0".parse()?, via: Via::Port, source: None };
    let plan = StackPlan {
        addresses: [StackAddress { address: "192.168.1.1/24".parse()?, connected: false }].into(),
        routes: [
            StackRoute { to: "192.168.1.0/24".parse()?, source: Some(IpAddr::V4(ADDRESS)), ..everywhere },
            everywhere,
        ]
        .into(),
        gateway_mac: Some(gateway),
        mtu: MTU,
        link_local: false,
        shared: false,
    };
    let inside = stack.try_clone()?;
    let configured = visitor.run(move || {
        enter(inside.as_fd())?;
        let netlink = Netlink::open()?;
        let found = stack::read(&netlink, "dev0")?.context("the device is not there")?;
        Ok::<_, anyhow::Error>(stack::apply(&netlink, &found, &plan)?)
    });
    configured.await??;
    let answer = vec!["192.168.1.0/24".parse()?];
    let row =
        PortRow { ifindex: port.index, at, mac: server, gateway_mac: gateway, mtu: MTU, asks: false, answer, class: 0 };
    room.bind(row.config(room)?).await?;
    Ok(stack)
}

/// What the kernel holds, KiB.
fn kernel_memory() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let of = |key: &str| -> Result<f64> {
        let line = text.lines().find(|line| line.starts_with(key)).with_context(|| format!("no {key}"))?;
        Ok(line.split_whitespace().nth(1).context("no value")?.parse()?)
    };
    Ok(of("Slab:")? + of("Percpu:")? + of("KernelStack:")?)
}

/// The same by hand: a process a command.
fn command_by_command(number: u16) -> Result<()> {
    let (name, port) = (format!("hand{number}"), format!("h{number}"));
    let inside = ["-n", name.as_str()];
    ip(&["netns", "add", &name])?;
    ip(&["link", "add", &port, "type", "veth", "peer", "name", "dev0", "netns", &name])?;
    ip(&["link", "set", &port, "up"])?;
    ip(&[&inside[..], &["link", "set", "lo", "up"]].concat())?;
    ip(&[&inside[..], &["link", "set", "dev0", "mtu", "1480", "up"]].concat())?;
    ip(&[&inside[..], &["address", "add", "192.168.1.1/24", "dev", "dev0"]].concat())?;
    let neighbour = ["neigh", "add", "192.168.1.254", "lladdr", "02:00:5e:00:53:fe", "dev", "dev0", "nud", "permanent"];
    ip(&[&inside[..], &neighbour].concat())?;
    ip(&[&inside[..], &["route", "add", "default", "via", "192.168.1.254"]].concat())
}

fn ip(words: &[&str]) -> Result<()> {
    let done = Command::new("ip").args(words).stdin(Stdio::null()).output().context("cannot run ip (iproute2)")?;
    ensure!(done.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&done.stderr));
    Ok(())
}
