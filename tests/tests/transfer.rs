//! Bytes moved between a host and its server, for the tests that measure what becomes of long packets.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use system_tests::plan::Site;
use system_tests::world::{Running, World};

const TRANSFER: &str = include_str!("../peers/transfer.py");

/// Lets the tenant serve transfers.
pub(crate) fn serve_at_tenant(world: &World, site: &Site) -> Result<()> {
    let argv =
        ["tenantd", "add-service", &site.tenant(), "transfer", "--", "/usr/bin/python3", "-c", TRANSFER, "serve"];
    world.ok("server", &argv).map(drop)
}

/// Lets the host serve transfers.
pub(crate) fn serve_at_host(world: &World, site: &Site) -> Result<Running> {
    world.spawn(&site.host(), &["python3", "-c", TRANSFER, "serve"])
}

/// Moves `bytes` from the host to the server (`up`) or back (`down`); returns the time it took.
pub(crate) fn from_host(world: &World, site: &Site, verb: &str, server: &str, bytes: u64) -> Result<Duration> {
    let bytes = bytes.to_string();
    judge(&world.ok(&site.host(), &["timeout", "60", "python3", "-c", TRANSFER, verb, server, &bytes])?)
        .with_context(|| format!("{} {verb} {server}", site.host()))
}

/// The same with the tenant as the one who connects.
pub(crate) fn from_tenant(world: &World, site: &Site, verb: &str, host: &str, bytes: u64) -> Result<Duration> {
    let (tenant, bytes) = (site.tenant(), bytes.to_string());
    let argv = ["timeout", "60", "tenantd", "exec", &tenant, "--", "python3", "-c", TRANSFER, verb, host, &bytes];
    judge(&world.ok("server", &argv)?).with_context(|| format!("{tenant} {verb} {host}"))
}

fn judge(said: &str) -> Result<Duration> {
    let seconds = said.trim().strip_prefix("same ").with_context(|| format!("the bytes are not the same: {said}"))?;
    Ok(Duration::from_secs_f64(seconds.parse()?))
}

/// Runs a command in the tenant's stack with the rights of the machine's root (ethtool, capture).
pub(crate) fn in_stack(world: &World, site: &Site, argv: &[&str]) -> Result<String> {
    let status: Value = serde_json::from_str(&world.ok("server", &["tenantd", "status", &site.tenant(), "--json"])?)?;
    let pid = status["init_pid"].as_i64();
    ensure!(pid.is_some(), "no init_pid in {status}");
    let net = format!("--net=/proc/{}/ns/net", pid.unwrap_or_default());
    world.ok("server", &[&["nsenter", net.as_str()], argv].concat())
}
