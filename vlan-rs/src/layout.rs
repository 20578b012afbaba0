//! Tables that an older version pinned: what is pinned, and how its rows get into a table of this version.
//!
//! Rows grow at their end, and zero there means what was so before the field was: with this rule one way of carrying over
//! is right for every table. What cannot be said so gets a table of a new name; what changes its meaning in place raises
//! the layout's number, and neither side adopts the other's.
//!
//! Comes in: a pin and the table that is to be loaded. Goes out: the rows in the loaded table, and its pin in the old one's
//! place. Programs of the older version that are on devices go on with the old table until they are replaced; a kill at
//! any moment leaves every pin either old or new, and both are opened the same way.

use std::io;
use std::path::Path;

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapMut, MapType, OpenMapMut};

use crate::steps::passed;

/// A step of carrying a table over failed. The old table is still pinned, or the new one is whole.
#[derive(Debug, thiserror::Error)]
#[error("carry over the table {table}: {step}")]
pub struct CarryError {
    /// Name of the table.
    pub table: String,
    /// What was tried.
    pub step: &'static str,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// How a pinned table compares with this version's.
#[derive(Debug)]
pub(crate) enum Found {
    /// There is none.
    Absent,
    /// It is the same.
    Same(MapHandle),
    /// Its rows are shorter: an older version's.
    Older(MapHandle),
    /// It differs: name of what, there, here.
    Other(&'static str, u32, u32),
}

/// Looks at the pin of a table that is to be loaded.
pub(crate) fn look(map: &OpenMapMut<'_>, pin: &Path) -> Result<Found, libbpf_rs::Error> {
    let pinned = match MapHandle::from_pinned_path(pin) {
        Ok(pinned) => pinned,
        Err(e) if e.kind() == libbpf_rs::ErrorKind::NotFound => return Ok(Found::Absent),
        Err(e) => return Err(e),
    };
    let info = pinned.info()?.info;
    let fixed = [
        ("its type", info.type_, map.map_type().into()),
        ("the size of a key", info.key_size, map.key_size()),
        ("its flags", info.map_flags, map.map_flags()),
    ];
    Ok(match fixed.into_iter().find(|(_, there, here)| there != here) {
        Some((field, there, here)) => Found::Other(field, there, here),
        None if info.value_size == map.value_size() => Found::Same(pinned),
        None if info.value_size < map.value_size() && has_rows_to_carry(map.map_type()) => Found::Older(pinned),
        None => Found::Other("the size of a row", info.value_size, map.value_size()),
    })
}

/// Kinds whose rows can be read and written from here.
fn has_rows_to_carry(kind: MapType) -> bool {
    is_per_cpu(kind) || matches!(kind, MapType::Array | MapType::Hash | MapType::LruHash | MapType::LpmTrie)
}

fn is_per_cpu(kind: MapType) -> bool {
    matches!(kind, MapType::PercpuArray | MapType::PercpuHash)
}

impl CarryError {
    fn at(table: &MapMut<'_>, step: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { table: table.name().to_string_lossy().into_owned(), step, source: source.into() }
    }
}

/// Copies every row.
pub(crate) fn copy(old: &MapHandle, new: &MapMut<'_>) -> Result<(), CarryError> {
    rows(old, new).map_err(|e| CarryError::at(new, "copy the rows", e))
}

/// Puts the new table's pin in the old one's place.
pub(crate) fn replace_pin(new: &mut MapMut<'_>, pin: &Path) -> Result<(), CarryError> {
    // bpffs takes no name with a dot.
    let mut beside = pin.as_os_str().to_owned();
    beside.push("_new");
    let beside = Path::new(&beside);
    match std::fs::remove_file(beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(CarryError::at(new, "remove a leftover", e)),
        _ => {}
    }
    new.pin(beside).map_err(|e| CarryError::at(new, "pin the new table", e))?;
    passed("room.beside");
    std::fs::rename(beside, pin).map_err(|e| CarryError::at(new, "put it in the place of the old one", e))
}

/// What the programs count while this goes on is counted in the old table and not carried: some milliseconds of counts,
/// and no row.
fn rows(old: &MapHandle, new: &MapMut<'_>) -> Result<(), libbpf_rs::Error> {
    let length = new.value_size() as usize;
    let longer = |mut value: Vec<u8>| {
        value.resize(length, 0);
        value
    };
    for key in old.keys() {
        if is_per_cpu(old.map_type()) {
            let Some(values) = old.lookup_percpu(&key, MapFlags::ANY)? else { continue };
            // The rows of an array are all there, and most of them are blank.
            if values.iter().flatten().any(|byte| *byte != 0) {
                let values: Vec<_> = values.into_iter().map(longer).collect();
                new.update_percpu(&key, &values, MapFlags::ANY)?;
            }
        } else if let Some(value) = old.lookup(&key, MapFlags::ANY)?
            && (old.map_type() != MapType::Array || value.iter().any(|byte| *byte != 0))
        {
            new.update(&key, &longer(value), MapFlags::ANY)?;
        }
    }
    Ok(())
}
