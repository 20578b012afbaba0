//! Nanoseconds a packet of each BPF program on the product's path, by the kernel's own count.

use std::collections::BTreeMap;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libbpf_rs::libbpf_sys;
use libbpf_rs::query::ProgInfoIter;

use crate::flows;
use crate::rows::{Place, Row};
use crate::sample;

/// One program at its place.
pub(crate) struct Cost {
    /// Name and place.
    pub(crate) place: String,
    /// Median of the rounds.
    pub(crate) ns: f64,
}

/// Runs the small packets of the rows that have programs both ways with run-time statistics on, which cost themselves
/// some ten nanoseconds a program: hence apart from the rounds.
pub(crate) fn measure(rows: &[Row], rounds: usize, duration: Duration) -> Result<Vec<Cost>> {
    // SAFETY: a call without pointers; it returns a descriptor that is ours, or an error.
    let _switched_on = unsafe {
        let fd = libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME);
        ensure!(fd >= 0, "BPF_ENABLE_STATS is refused: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    };
    let mut costs = Vec::new();
    for row in rows.iter().filter(|row| !row.programs.is_empty()) {
        let ids = row.programs.iter().map(program).collect::<Result<Vec<u32>>>()?;
        let mut all: Vec<Vec<f64>> = vec![Vec::new(); ids.len()];
        for _ in 0..rounds {
            let before = runs();
            flows::small_packets(&row.up(), duration)?;
            flows::small_packets(&row.down(), duration)?;
            let after = runs();
            for (values, id) in all.iter_mut().zip(&ids) {
                let at = |runs: &BTreeMap<u32, (u64, u64)>| runs.get(id).copied().unwrap_or_default();
                let ((ns, count), (ns_before, count_before)) = (at(&after), at(&before));
                values.push((ns - ns_before) as f64 / (count - count_before) as f64);
            }
        }
        let medians = row.programs.iter().zip(all);
        costs.extend(medians.map(|(place, values)| Cost { place: place.what.to_owned(), ns: sample::median(&values) }));
    }
    Ok(costs)
}

/// Run time and number of runs of every program of the machine.
fn runs() -> BTreeMap<u32, (u64, u64)> {
    ProgInfoIter::default().map(|p| (p.id, (p.run_time_ns, p.run_cnt))).collect()
}

/// Number of the program at its place.
fn program(place: &Place) -> Result<u32> {
    let Place { netns, device, side, .. } = place;
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
