//! Sockets of another stack, by every route that leads to one.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use system_tests::world::World;

use super::{NETWORK, OTHER, PLAIN, holding, holding_outside, inside, outside, status, undisturbed};

pub(super) fn check(world: &World) -> Result<()> {
    abstract_names(world)?;
    // A place that may be shared, of the world alone.
    world.ok("server", &["mount", "-t", "tmpfs", "tmpfs", "/mnt"])?;
    for tenant in [PLAIN, NETWORK] {
        undisturbed(world, "handed sockets", || handed_over(world, tenant))?;
    }
    strangers(world)
}

/// A name in the abstract namespace of sockets is known in its own stack only.
fn abstract_names(world: &World) -> Result<()> {
    for (owner, others) in [(OTHER, [PLAIN, NETWORK]), (PLAIN, [OTHER, NETWORK])] {
        let (_listening, said) = holding(world, owner, &["listen", "attacked"])?;
        ensure!(said == "listening", "{said}");
        ensure!(inside(world, owner, &["abstract", "attacked"])?.trim() == "OK", "the control fails");
        for other in others {
            let how = inside(world, other, &["abstract", "attacked"])?;
            ensure!(how.trim() == "ECONNREFUSED", "{other} joined the socket of {owner}: {how}");
        }
        ensure!(outside(world, &["abstract", "attacked"])?.trim() == "ECONNREFUSED", "so did the host");
    }
    Ok(())
}

/// A process of the host hands its sockets to a tenant's through a shared directory. What has no connection yet gets
/// none; what is connected already works, which docs/threat.md names.
fn handed_over(world: &World, tenant: &str) -> Result<()> {
    let control: Value = serde_json::from_str(&inside(world, tenant, &["use"])?)?;
    let control = control.as_object().context("no table")?;
    ensure!(control.len() == 5 && control.values().all(|how| how == "OK"), "its own sockets: {control:?}");
    let directory = format!("/mnt/given-{tenant}");
    world.ok("server", &["tenantd", "share", &directory, tenant, "--create"])?;
    let (giving, said) = holding_outside(world, &["give", &format!("{directory}/door")])?;
    ensure!(said == "giving", "{said}");
    let said: Value =
        serde_json::from_str(&inside(world, tenant, &["take", &format!("/shared/given-{tenant}/door")])?)?;
    for (way, how) in said.as_object().context("no table")? {
        let expected = if way == "send_connected" { "OK" } else { "EPERM" };
        ensure!(how == expected, "{tenant}: {way} on a socket of the host: {how}");
    }
    giving.wait(Duration::from_secs(60))?;
    let guarded = status(world, tenant)?;
    ensure!(guarded["state"] == "ready", "{guarded}");
    world.ok("server", &["tenantd", "unshare", &directory, tenant]).map(drop)
}

/// Who belongs to no tenant gets no socket in a tenant's stack unless it is the host's root, and whoever has a tenant's
/// group gets none elsewhere.
fn strangers(world: &World) -> Result<()> {
    let other = status(world, OTHER)?;
    let (pid, gid) = (other["init_pid"].as_i64().context("no init")?, 524_288);
    let stack = format!("--net=/proc/{pid}/ns/net");
    let enter = |uid: &str, gid: &str| {
        world.ok("server", &["nsenter", &stack, "python3", "-c", super::ATTACK, "stranger", uid, gid])
    };
    ensure!(enter("0", "0")?.trim() == "OK OK", "the host's root");
    ensure!(enter("65534", "65534")?.trim() == "EPERM EPERM", "a user of the host in a tenant's stack");
    let first = gid.to_string();
    ensure!(outside(world, &["stranger", "65534", "65534"])?.trim() == "OK OK", "a user of the host at home");
    for uid in ["65534", &first] {
        let how = outside(world, &["stranger", uid, &first])?;
        ensure!(how.trim() == "EPERM EPERM", "uid {uid} with a tenant's group in the host's stack: {how}");
        let how = enter(uid, &first)?;
        ensure!(how.trim() == "EPERM EPERM", "uid {uid} with a tenant's group in another tenant's stack: {how}");
    }
    Ok(())
}
