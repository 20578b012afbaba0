//! Changing the maps under running traffic. First everything new is put where nothing refers to it yet, then what
//! refers to it is switched (each switch is one map entry, replaced whole), and last what nothing refers to any more is
//! removed. Entries of other VLANs, and of tunnels that stay as they are, are never touched.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;
use stackmap::{Layer, TunnelId, Vlan};

use super::map::MapError;
use super::maps::Maps;
use super::places::{Placed, Places, ends};
use super::skel::types;
use super::{DeleteError, PutError, wire};
use crate::fault;
use crate::row::{TunnelRow, VlanRow};

/// Whether a changed tunnel may be written over the old one: all that changed is one number, which the programs read at
/// once. Anything else could be read half old, half new, and gets a place of its own.
fn in_place(old: &TunnelRow, new: &TunnelRow) -> bool {
    old.next_hop == new.next_hop
}

/// Refuses what cannot be, before anything is touched.
fn check(places: &Places, row: &VlanRow) -> Result<(), PutError> {
    let mut prefixes = HashSet::<IpNet>::new();
    let mut ids = HashSet::<TunnelId>::new();
    for tunnel in &row.tunnels {
        if let Some(vlan) = places.bound.get(&tunnel.id).filter(|vlan| **vlan != row.vlan) {
            return Err(PutError::TunnelTaken { tunnel: tunnel.id, vlan: *vlan });
        }
        if !ids.insert(tunnel.id) {
            return Err(PutError::TunnelTwice { tunnel: tunnel.id });
        }
        for prefix in &tunnel.prefixes {
            if !prefixes.insert(*prefix) {
                return Err(PutError::PrefixTwice { prefix: *prefix });
            }
        }
    }
    // Every tunnel may need a new number while the old one is still in use; one path at most each.
    if row.tunnels.len() > places.numbers.free().min(places.path_numbers.free()) {
        return Err(PutError::Map(MapError::Full { table: "tunnels_out", capacity: super::TUNNELS_MAX }));
    }
    Ok(())
}

/// Makes the maps' row equal to `row`, which is ordered.
pub(super) fn put(maps: &Maps, places: &mut Places, row: VlanRow) -> Result<(), PutError> {
    check(places, &row)?;
    let old = places.rows.get(&row.vlan).cloned();
    if old.as_ref().is_some_and(|old| old.row == row) {
        return Ok(());
    }
    let vlan = row.vlan;
    let before: HashMap<TunnelId, (TunnelRow, u32)> =
        old.iter().flat_map(Placed::tunnels).map(|(t, index)| (t.id, (t.clone(), index))).collect();

    // Numbers: kept where the tunnel may be written over.
    let mut indices = Vec::with_capacity(row.tunnels.len());
    for tunnel in &row.tunnels {
        let kept = before.get(&tunnel.id).filter(|(old, _)| in_place(old, tunnel)).map(|(_, index)| *index);
        let index = match kept {
            Some(index) => index,
            None => places
                .numbers
                .take()
                .ok_or(PutError::Map(MapError::Full { table: "tunnels_out", capacity: super::TUNNELS_MAX }))?,
        };
        indices.push(index);
    }
    let placed = Placed { row, indices };
    // From here on a failure leaves the row half written; the caller reads the maps anew.
    let first_l2 = put_tunnels(maps, places, &placed)?;
    fault::point("put.tunnels");
    put_prefixes(maps, old.as_ref(), &placed)?;
    fault::point("put.prefixes");
    if old.is_none() {
        maps.vlan_metas.put(&u32::from(vlan.get()), &wire::vlan_meta(&placed.row))?;
    }
    let row_value = wire::vlan_row(&placed.row, &placed.indices, first_l2);
    maps.vlans.put(&u32::from(vlan.get()), &row_value)?;
    fault::point("put.row");
    for (tunnel, index) in placed.tunnels() {
        maps.tunnels.put(&wire::tunnel_key(&tunnel.id), &wire::tunnel_in(&placed.row, index))?;
        places.bound.insert(tunnel.id, vlan);
    }
    fault::point("put.keys");
    if let Some(old) = &old {
        remove_gone(maps, places, old, Some(&placed))?;
        fault::point("put.removed");
        // Last: whoever reads the new generation reads a whole row.
        maps.vlan_metas.put(&u32::from(vlan.get()), &wire::vlan_meta(&placed.row))?;
    }
    places.rows.insert(vlan, placed);
    Ok(())
}

/// Writes the outer headers of every tunnel; returns the first of the layer 2 ones.
fn put_tunnels(maps: &Maps, places: &mut Places, placed: &Placed) -> Result<u32, PutError> {
    let mut next_l2 = wire::TUNNEL_NONE;
    let mut entries: Vec<_> = placed.tunnels().collect();
    entries.reverse();
    for (tunnel, index) in entries {
        let (path, new) = places
            .use_path(ends(&tunnel.id))
            .ok_or(PutError::Map(MapError::Full { table: "paths", capacity: super::TUNNELS_MAX }))?;
        if new {
            maps.path_states.put(&path, &types::path_state::default())?;
            maps.paths.put(&wire::path_key(&tunnel.id), &path)?;
        }
        let l2 = tunnel.id.kind().layer() == Layer::Two;
        let next = if l2 { next_l2 } else { wire::TUNNEL_NONE };
        maps.tunnels_out.put(&index, &wire::tunnel_out(placed.row.vlan, tunnel, path, next))?;
        if l2 {
            next_l2 = index;
        }
    }
    Ok(next_l2)
}

fn put_prefixes(maps: &Maps, old: Option<&Placed>, placed: &Placed) -> Result<(), MapError> {
    let before: HashMap<IpNet, u32> = old.map(prefixes_of).unwrap_or_default();
    for (prefix, index) in prefixes_of(placed) {
        if before.get(&prefix) != Some(&index) {
            maps.prefixes.put(&wire::prefix_key(placed.row.vlan, &prefix), &index)?;
        }
    }
    Ok(())
}

fn prefixes_of(placed: &Placed) -> HashMap<IpNet, u32> {
    placed.tunnels().flat_map(|(t, index)| t.prefixes.iter().map(move |p| (*p, index))).collect()
}

/// Removes what `old` has and `new` has not.
fn remove_gone(maps: &Maps, places: &mut Places, old: &Placed, new: Option<&Placed>) -> Result<(), MapError> {
    let kept_ids: HashSet<TunnelId> = new.iter().flat_map(|n| &n.row.tunnels).map(|t| t.id).collect();
    let kept_indices: HashSet<u32> = new.iter().flat_map(|n| &n.indices).copied().collect();
    let kept_prefixes = new.map(prefixes_of).unwrap_or_default();
    for tunnel in old.row.tunnels.iter().filter(|t| !kept_ids.contains(&t.id)) {
        maps.tunnels.remove(&wire::tunnel_key(&tunnel.id))?;
        places.bound.remove(&tunnel.id);
    }
    for prefix in prefixes_of(old).into_keys().filter(|p| !kept_prefixes.contains_key(p)) {
        maps.prefixes.remove(&wire::prefix_key(old.row.vlan, &prefix))?;
    }
    for index in old.indices.iter().filter(|i| !kept_indices.contains(i)) {
        maps.tunnels_out.put(index, &types::tunnel_out::default())?;
        places.numbers.release(*index);
    }
    // `put_tunnels` counted each tunnel of the new row as a user of its path.
    for tunnel in &old.row.tunnels {
        if places.leave_path(ends(&tunnel.id)).is_some() {
            maps.paths.remove(&wire::path_key(&tunnel.id))?;
        }
    }
    Ok(())
}

/// Removes a VLAN's row, its tunnels and its counters.
pub(super) fn delete(maps: &Maps, places: &mut Places, vlan: Vlan) -> Result<(), DeleteError> {
    let number = u32::from(vlan.get());
    if let Some(old) = places.rows.get(&vlan).cloned() {
        // No way in, then no way out, then what they led to.
        for tunnel in &old.row.tunnels {
            maps.tunnels.remove(&wire::tunnel_key(&tunnel.id))?;
        }
        fault::point("delete.keys");
        maps.vlans.put(&number, &types::vlan_row::default())?;
        fault::point("delete.row");
        remove_gone(maps, places, &old, None)?;
        fault::point("delete.removed");
        maps.vlan_metas.put(&number, &types::vlan_meta::default())?;
        places.rows.remove(&vlan);
    }
    super::counters::clear(maps, vlan.get())?;
    Ok(())
}
