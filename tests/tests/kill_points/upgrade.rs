//! A new version of a daemon is killed at every place of its start while it takes over from the one that ran: the devices'
//! programs are exchanged one by one, and the tables' rows, which are longer in the new version, are carried over table by
//! table. Customers' traffic goes on over the programs and tables that are there at each moment.
//!
//! There is no next version yet: the word `longer` of a fault has this one take itself for it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use system_tests::world::World;

use super::hand::Hand;

/// The places of carrying one table over, in order.
const PLACES: [&str; 3] = ["copied", "beside", "carried"];

/// Size of a row of every pinned table, as bpftool tells it.
fn rows_of(world: &World, below: &str) -> Result<BTreeMap<String, u64>> {
    let script = "for pin in $(find \"$0\" -type f); do bpftool -j map show pinned $pin 2>/dev/null \
                  | sed \"s|^|$pin |\"; done; true";
    let mut sizes = BTreeMap::new();
    for line in world.ok("server", &["sh", "-c", script, below])?.lines() {
        let (pin, shown) = line.split_once(' ').context("a pin")?;
        // Programs and links are no tables.
        let Ok(shown) = serde_json::from_str::<Value>(shown) else { continue };
        if let Some(size) = shown["bytes_value"].as_u64() {
            sizes.insert(pin.to_owned(), size);
        }
    }
    ensure!(!sizes.is_empty(), "no tables below {below}");
    Ok(sizes)
}

/// Tables of which a row is 8 bytes longer than it was, or which are beside another one.
fn grown(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> Result<usize> {
    let mut grown = 0;
    for (pin, size) in now {
        match before.get(pin) {
            Some(old) if *size == old + 8 => grown += 1,
            Some(old) => ensure!(size == old, "{pin} had rows of {old} bytes and has such of {size}"),
            None => ensure!(pin.ends_with("_new"), "{pin} is new"),
        }
    }
    ensure!(before.keys().all(|pin| now.contains_key(pin)), "a table is gone: {before:?} {now:?}");
    Ok(grown)
}

/// Each of `tables` tables is carried over by a start that is killed right behind, after one that was killed when its rows
/// were copied and one that was killed when it lay beside the old one. Returns the kills.
pub(super) fn carried(world: &World, hand: &Hand<'_>, below: &str, prefix: &str, tables: usize) -> Result<usize> {
    let before = rows_of(world, below)?;
    for n in 1..=tables {
        for place in PLACES {
            let fault = format!("{prefix}.{place}:1:longer");
            hand.start(&fault)?.killed().with_context(|| format!("{fault}, table {n} of {tables}"))?;
        }
        let grown = grown(&before, &rows_of(world, below)?)?;
        ensure!(grown == n, "{n} starts carried {grown} tables over");
    }
    Ok(tables * PLACES.len())
}

/// Killed at each of these places and passes by the new version.
pub(super) fn taken_over(hand: &Hand<'_>, places: &[(&str, usize)]) -> Result<usize> {
    for (name, passes) in places {
        for n in 1..=*passes {
            hand.start(&format!("{name}:{n}:longer"))?.killed().with_context(|| format!("{name}, pass {n}"))?;
        }
    }
    Ok(places.iter().map(|(_, passes)| passes).sum())
}

/// Nothing is left to be carried over or lies beside: `log` is what the new version wrote when it started undisturbed.
pub(super) fn all_is_carried(world: &World, below: &str, log: &str) -> Result<()> {
    let late: Vec<&str> =
        log.lines().filter(|line| PLACES.iter().any(|place| line.ends_with(&format!(".{place}")))).collect();
    ensure!(late.is_empty(), "carried over without a kill: {late:?}");
    let beside: Vec<String> = rows_of(world, below)?.into_keys().filter(|pin| pin.ends_with("_new")).collect();
    ensure!(beside.is_empty(), "left beside: {beside:?}");
    Ok(())
}
