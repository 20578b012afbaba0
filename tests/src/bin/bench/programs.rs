//! Nanoseconds a packet of each BPF program on the product's path, by the kernel's own count.

use std::collections::BTreeMap;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libbpf_rs::libbpf_sys;
use libbpf_rs::query::ProgInfoIter;

use crate::flows;
use crate::netns::Netns;
use crate::rows::{self, Scene};
use crate::sample;

/// One program at its place.
pub(crate) struct Cost {
    /// Name and place.
    pub(crate) place: String,
    /// Median of the rounds.
    pub(crate) ns: f64,
}

/// Runs the small packets of the IPIP row both ways with run-time statistics on, which cost themselves some ten
/// nanoseconds a program: hence apart from the rounds.
pub(crate) fn measure(scene: &Scene, rounds: usize, duration: Duration) -> Result<Vec<Cost>> {
    let places = places(scene)?;
    let row = scene.rows.iter().find(|r| r.name == "ipip").context("no IPIP row")?;
    // SAFETY: a call without pointers; it returns a descriptor that is ours, or an error.
    let switched_on = unsafe {
        let fd = libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME);
        ensure!(fd >= 0, "BPF_ENABLE_STATS is refused: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    };
    let mut all: Vec<Vec<f64>> = vec![Vec::new(); places.len()];
    for _ in 0..rounds {
        let before = runs();
        flows::small_packets(&row.up(), duration)?;
        flows::small_packets(&row.down(), duration)?;
        let after = runs();
        for (values, (_, id)) in all.iter_mut().zip(&places) {
            let at = |runs: &BTreeMap<u32, (u64, u64)>| runs.get(id).copied().unwrap_or_default();
            let ((ns, count), (ns_before, count_before)) = (at(&after), at(&before));
            values.push((ns - ns_before) as f64 / (count - count_before) as f64);
        }
    }
    drop(switched_on);
    let costs = places.into_iter().zip(all);
    Ok(costs.map(|((place, _), values)| Cost { place, ns: sample::median(&values) }).collect())
}

/// Run time and number of runs of every program of the machine.
fn runs() -> BTreeMap<u32, (u64, u64)> {
    ProgInfoIter::default().map(|p| (p.id, (p.run_time_ns, p.run_cnt))).collect()
}

/// The programs in the order a packet meets them, up and back.
fn places(scene: &Scene) -> Result<Vec<(String, u32)>> {
    let server = Netns::node(&scene.world, "server")?;
    let room = rows::room(&scene.world)?;
    let vlan = scene.world.ok("server", &["tenantd", "show", "bench-ipip", "--json"])?;
    let vlan: serde_json::Value = serde_json::from_str(&vlan).context("tenantd show --json")?;
    let port = format!("p{}", vlan["vlan"]);
    let trunk = format!("trunk-{}", system_tests::daemons::INSTANCE);
    let wanted: [(&Netns, &str, &str, &str); 6] = [
        (&scene.gateway, "wire", "egress", "up: into the tunnel (bare gateway)"),
        (&server, "wan0", "ingress", "up: access server, out of the tunnel, tag"),
        (&room, "trunk", "ingress", "up: vlan-rs, tag to port"),
        (&room, &port, "ingress", "down: vlan-rs, port to tag"),
        (&server, &trunk, "ingress", "down: access server, tag off, into the tunnel"),
        (&scene.gateway, "wire", "ingress", "down: out of the tunnel (bare gateway)"),
    ];
    wanted.into_iter().map(|(netns, device, side, what)| Ok((what.to_owned(), program(netns, device, side)?))).collect()
}

/// Number of the program on a device.
fn program(netns: &Netns, device: &str, side: &str) -> Result<u32> {
    let output = netns.run(|| {
        Command::new("tc").args(["filter", "show", "dev", device, side]).output().context("cannot run tc (iproute2)")
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut words = text.split_whitespace();
    // "... direct-action not_in_hw id 123 name wan_ingress tag ..."
    words.find(|word| *word == "id");
    let id = words.next().with_context(|| format!("no program on {device} {side}: {text}"))?;
    id.parse().with_context(|| format!("program number {id:?}"))
}
