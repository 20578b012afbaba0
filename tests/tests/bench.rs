//! The bench runs, and every row of it gives numbers. How fast is not asked here: tests share their machine.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use system_tests::world::bin_dir;

use crate::floor::{Need, trial};

/// What the bench needs.
const BENCH: &[Need] = &[
    Need::Root,
    Need::Daemons,
    Need::Program("ip", "iproute2"),
    Need::Program("tc", "iproute2"),
    Need::Program("ping", "iputils-ping"),
    Need::Program("arping", "iputils-arping"),
    Need::Program("nginx", "nginx-light"),
    Need::Program("systemd-nspawn", "systemd-container"),
];

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("bench::every_row_gives_numbers", BENCH, every_row_gives_numbers)]
}

fn every_row_gives_numbers() -> Result<()> {
    let out = std::env::temp_dir().join(format!("tenantd-bench-{}", std::process::id()));
    let output = Command::new(bin_dir()?.join("bench")).args(["--smoke", "--out"]).arg(&out).output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "bench --smoke -> {}\n{said}", output.status);
    let file = std::fs::read_dir(&out)?.next().context("the bench wrote no file")??.path();
    let results: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
    std::fs::remove_dir_all(&out)?;
    for row in ["raw", "by-hand", "ipip", "gre", "vxlan", "lan-ipip"] {
        for measure in ["tcp1_up_gbits", "tcp4_down_gbits", "udp64_up_kpps", "udp64_down_kpps", "pingpong_p50_us"] {
            let value = results["rows"][row][measure]["median"].as_f64();
            ensure!(value.is_some_and(|v| v > 0.0), "row {row}: {measure} is {value:?}");
        }
    }
    let programs = results["bpf_ns_a_packet"].as_object().context("no BPF programs")?;
    ensure!(programs.len() == 12 && programs.values().all(|ns| ns.as_f64() > Some(0.0)), "BPF programs: {programs:?}");
    for who in ["ours", "by_hand"] {
        ensure!(results["add_tenant_ms"][who]["p50"].as_f64() > Some(0.0), "add-tenant {who} took no time");
    }
    for way in ["ours_ms", "floor_ms", "by_hand_ms", "nspawn_ms"] {
        ensure!(results["whole_tenant"][way]["p50"].as_f64() > Some(0.0), "a whole tenant took no time: {way}");
    }
    for what in ["start", "latency", "kept", "fresh"] {
        for side in [0, 1] {
            let first = results["one_tenant"][what][side][0].as_f64();
            ensure!(first > Some(0.0), "one tenant: {what} is {first:?}");
        }
    }
    for what in ["add_ms", "remove_ms", "change_ms", "restart_s", "packet_ns"] {
        let last = results["scale"]["curves"].as_array().and_then(|curves| curves.last()?[what].as_f64());
        ensure!(last > Some(0.0), "thousands of tenants: {what} is {last:?}");
    }
    let bare = &results["scale"]["bare"];
    ensure!(bare["rate"].as_f64() > Some(0.0) && bare["by_hand_rate"].as_f64() > Some(0.0), "stacks: {bare}");
    ensure!(results["whole_tenant"]["memory"]["init_kib"].as_f64() > Some(0.0), "init has no memory");
    Ok(())
}
