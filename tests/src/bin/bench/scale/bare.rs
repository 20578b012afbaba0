//! Stacks without an init.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::floors::{Bound, Floor};
use crate::report;

/// What `bare_stacks` found.
#[derive(Deserialize)]
pub(super) struct Bare {
    count: u32,
    /// Stacks a second.
    rate: f64,
    by_hand_rate: f64,
    /// Kernel memory.
    kernel_kib_each: f64,
    ours_ms: Vec<f64>,
    by_hand_ms: Vec<f64>,
}

/// Runs it.
pub(super) fn measure(smoke: bool) -> Result<Bare> {
    let own = std::env::current_exe().context("cannot find the own program")?;
    let program = own.with_file_name("examples").join("bare_stacks");
    let counts = if smoke { ["20", "3"] } else { ["4000", "60"] };
    let done = Command::new(&program).args(counts).output().with_context(|| {
        format!("cannot run {}; build it with: cargo build --release -p tenantd --examples", program.display())
    })?;
    ensure!(done.status.success(), "bare_stacks: {}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).context("bare_stacks said something else")
}

impl Bare {
    pub(super) fn lines(&self) -> Vec<String> {
        vec![
            format!("{:56} {:>8} {:>8} {:>8} {:>4}", "Stacks without an init, ms", "p50", "p99", "max", "n"),
            report::times_line("tenantd's functions", &self.ours_ms),
            report::times_line("by hand, an `ip` process a step", &self.by_hand_ms),
            format!(
                "{} at {:.0} a second, {:.1} times the rate by hand; kernel memory {:.0} KiB each",
                self.count,
                self.rate,
                self.rate / self.by_hand_rate,
                self.kernel_kib_each
            ),
        ]
    }

    pub(super) fn floors(&self) -> Vec<Floor> {
        let floor = |what: &str, value, bound| Floor { what: what.into(), value, bound };
        vec![
            floor("stacks without an init, rate, of by hand", self.rate / self.by_hand_rate, Bound::AtLeast(10.0)),
            floor("stack without an init, kernel memory, KiB", self.kernel_kib_each, Bound::AtMost(350.0)),
        ]
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "count": self.count, "rate": self.rate, "by_hand_rate": self.by_hand_rate,
            "kernel_kib_each": self.kernel_kib_each, "ours_ms": report::times(&self.ours_ms),
            "by_hand_ms": report::times(&self.by_hand_ms),
        })
    }
}
