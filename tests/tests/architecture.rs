//! Who may depend on whom: the leaves on nothing of ours, nobody on a program.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::floor::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("architecture::edges_between_our_crates", &[], edges),
        trial("architecture::leaves_are_pure", &[], leaves_are_pure),
    ]
}

/// What a crate of ours may use of ours. A crate that is not listed fails the test: decide first.
const ALLOWED: &[(&str, &[&str])] = &[
    ("fault-point", &[]),
    ("stackmap", &[]),
    ("vlan-rs", &[]),
    ("stack-guard", &[]),
    ("access-server", &["fault-point", "stackmap"]),
    ("tenant-init", &[]),
    // tenant-init as a library is only the protocol its program speaks.
    ("tenantd", &["fault-point", "stackmap", "vlan-rs", "stack-guard", "tenant-init"]),
    ("system-tests", &[]),
];

/// Crates with which a pure leaf would stop being pure.
const IMPURE: &[&str] =
    &["tokio", "nix", "libc", "socket2", "rtnetlink", "libbpf-rs", "rand", "hyper", "axum", "tracing"];

fn edges() -> Result<()> {
    let ours = dependencies()?;
    let names: BTreeSet<&str> = ours.keys().map(String::as_str).collect();
    for (name, uses) in &ours {
        let (_, allowed) = ALLOWED
            .iter()
            .find(|(n, _)| n == name)
            .with_context(|| format!("crate {name} has no rule in this test"))?;
        for used in uses.iter().filter(|u| names.contains(u.as_str())) {
            ensure!(allowed.contains(&used.as_str()), "{name} depends on {used}; it may depend on {allowed:?} only");
        }
    }
    Ok(())
}

fn leaves_are_pure() -> Result<()> {
    let ours = dependencies()?;
    let uses = ours.get("stackmap").context("no crate stackmap")?;
    let impure: Vec<&String> = uses.iter().filter(|u| IMPURE.contains(&u.as_str())).collect();
    ensure!(impure.is_empty(), "stackmap is pure, but uses {impure:?}");
    Ok(())
}

/// Crate of the workspace -> names of what it depends on (not counting what only its tests use).
fn dependencies() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("cannot run cargo metadata")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = |value: &Value| value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(list(&metadata["packages"])
        .iter()
        .map(|package| {
            let uses = list(&package["dependencies"]);
            (name(package), uses.iter().filter(|d| d["kind"].as_str() != Some("dev")).map(name).collect())
        })
        .collect())
}
