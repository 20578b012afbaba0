//! Memory of the tenants that stand: what their processes have of it, shared pages divided by those who share them.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

/// Proportional set sizes.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// Tenants measured.
    pub(crate) tenants: usize,
    /// KiB an init.
    pub(crate) init_kib: f64,
    /// MiB of all processes of a tenant: init, nginx and its worker.
    pub(crate) tenant_mib: f64,
}

/// Of `count` tenants with a web server each. The world's own `/proc` has no other inits.
pub(super) fn measure(count: usize) -> Result<Memory> {
    let (mut init, mut all, mut inits) = (0.0, 0.0, 0_usize);
    for entry in fs::read_dir("/proc").context("cannot read /proc")?.flatten() {
        let dir = entry.path();
        let Ok(name) = fs::read_to_string(dir.join("comm")) else { continue };
        if !["tenant-init", "nginx"].contains(&name.trim()) {
            continue;
        }
        let Ok(rollup) = fs::read_to_string(dir.join("smaps_rollup")) else { continue };
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"));
        let pss: f64 = pss.with_context(|| format!("{} has no Pss", dir.display()))?.trim().parse()?;
        all += pss;
        if name.trim() == "tenant-init" {
            init += pss;
            inits += 1;
        }
    }
    ensure!(inits == count, "{inits} inits of {count} tenants are there");
    Ok(Memory { tenants: count, init_kib: init / count as f64, tenant_mib: all / 1024.0 / count as f64 })
}
