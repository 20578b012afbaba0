//! Reading the rows back out of the maps, also when a daemon died in the middle of a change.

use std::collections::{BTreeMap, HashMap};

use stackmap::{TunnelId, Vlan};

use super::map::MapError;
use super::maps::Maps;
use super::places::{Placed, Places, ends};
use super::skel::types;
use super::{TUNNELS_MAX, wire};
use crate::row::{TunnelRow, VlanRow};

/// What the maps hold, and what stands in them without belonging to a row.
struct Found {
    rows: BTreeMap<Vlan, Placed>,
    /// Path number of each tunnel.
    paths: HashMap<TunnelId, u32>,
    stray_numbers: Vec<u32>,
    stray_tunnels: Vec<types::tunnel_key>,
    stray_prefixes: Vec<types::prefix_key>,
    /// Prefixes that lead to a number the tunnel was about to get, with the number it has.
    early_prefixes: Vec<(types::prefix_key, u32)>,
    /// VLANs whose row refers to something that is not there, or is only begun.
    broken: Vec<Vlan>,
}

fn find(maps: &Maps) -> Result<Found, MapError> {
    let mut rows: BTreeMap<Vlan, (VlanRow, types::vlan_row)> = BTreeMap::new();
    let mut broken = Vec::new();
    for number in 1..=Vlan::MAX {
        let Some(value) = maps.vlans.get(&u32::from(number))? else { continue };
        let meta = maps.vlan_metas.get(&u32::from(number))?.unwrap_or_default();
        let present = value.flags & wire::VLAN_PRESENT != 0;
        let (row, vlan) = (wire::row(number, &value, &meta), Vlan::new(number));
        match (present, row, vlan) {
            (true, Some(row), Ok(vlan)) => drop(rows.insert(vlan, (row, value))),
            (true, None, Ok(vlan)) => broken.push(vlan),
            _ => {}
        }
    }

    // A tunnel is what the WAN side knows; a number nobody there refers to is the rest of a change.
    let mut tunnels: HashMap<u32, (TunnelRow, types::tunnel_out)> = HashMap::new();
    let mut stray_tunnels = Vec::new();
    for key in maps.tunnels.keys()? {
        let Some(value) = maps.tunnels.get(&key)? else { continue };
        let out = maps.tunnels_out.get(&value.index)?.filter(|out| out.vlan == value.vlan);
        let row = out.filter(|out| wire::tunnel_id(&out.id) == wire::tunnel_id(&key));
        let known = Vlan::new(value.vlan).is_ok_and(|vlan| rows.contains_key(&vlan));
        match row.and_then(|out| Some((wire::tunnel_row(&out)?, out))).filter(|_| known) {
            Some(tunnel) => drop(tunnels.insert(value.index, tunnel)),
            None => stray_tunnels.push(key),
        }
    }
    let mut stray_numbers = Vec::new();
    for index in 0..TUNNELS_MAX {
        if maps.tunnels_out.get(&index)?.is_some_and(|out| out.vlan != 0) && !tunnels.contains_key(&index) {
            stray_numbers.push(index);
        }
    }
    let live: HashMap<TunnelId, u32> = tunnels.iter().map(|(index, (tunnel, _))| (tunnel.id, *index)).collect();
    let (mut stray_prefixes, mut early_prefixes) = (Vec::new(), Vec::new());
    for key in maps.prefixes.keys()? {
        let Some(mut index) = maps.prefixes.get(&key)? else { continue };
        if stray_numbers.contains(&index) {
            let meant = maps.tunnels_out.get(&index)?.and_then(|out| live.get(&wire::tunnel_id(&out.id)?).copied());
            if let Some(meant) = meant {
                early_prefixes.push((key, meant));
                index = meant;
            }
        }
        let owner = tunnels.get_mut(&index).filter(|(_, out)| out.vlan == key.vlan);
        match owner.zip(wire::prefix(&key)) {
            Some(((tunnel, _), prefix)) => tunnel.prefixes.push(prefix),
            None => stray_prefixes.push(key),
        }
    }

    let mut paths = HashMap::new();
    let mut members: BTreeMap<Vlan, Vec<(TunnelRow, u32)>> = BTreeMap::new();
    for (index, (mut tunnel, out)) in tunnels {
        tunnel.prefixes.sort();
        paths.insert(tunnel.id, out.path);
        if let Ok(vlan) = Vlan::new(out.vlan) {
            members.entry(vlan).or_default().push((tunnel, index));
        }
    }
    let mut placed = BTreeMap::new();
    for (vlan, (mut row, value)) in rows {
        let mut tunnels = members.remove(&vlan).unwrap_or_default();
        tunnels.sort_by_key(|(tunnel, _)| tunnel.id);
        let indices: Vec<u32>;
        (row.tunnels, indices) = tunnels.into_iter().unzip();
        let leads_nowhere = |index: u32| index != wire::TUNNEL_NONE && !indices.contains(&index);
        let bare = row.tunnels.iter().any(|tunnel| tunnel.prefixes.is_empty());
        if leads_nowhere(value.single) || leads_nowhere(value.first_l2) || bare {
            broken.push(vlan);
        }
        placed.insert(vlan, Placed { row, indices });
    }
    Ok(Found { rows: placed, paths, stray_numbers, stray_tunnels, stray_prefixes, early_prefixes, broken })
}

/// Every whole row.
pub(super) fn rows(maps: &Maps) -> Result<Vec<VlanRow>, MapError> {
    Ok(find(maps)?.rows.into_values().map(|placed| placed.row).collect())
}

/// Reads the maps at start, clears away what a dead daemon left half done, and says which VLANs lost their row by that:
/// their owner puts them again.
pub(super) fn adopt(maps: &Maps) -> Result<(Places, Vec<Vlan>), MapError> {
    let found = find(maps)?;
    let mut places = Places::new(maps.tunnels_out.capacity(), maps.path_states.capacity());
    for key in &found.stray_tunnels {
        maps.tunnels.remove(key)?;
    }
    for (key, index) in &found.early_prefixes {
        maps.prefixes.put(key, index)?;
    }
    for key in &found.stray_prefixes {
        maps.prefixes.remove(key)?;
    }
    for index in &found.stray_numbers {
        maps.tunnels_out.put(index, &types::tunnel_out::default())?;
    }
    for (vlan, placed) in found.rows {
        for (tunnel, index) in placed.tunnels() {
            places.numbers.claim(index);
            places.bound.insert(tunnel.id, vlan);
            let path = found.paths.get(&tunnel.id).copied().unwrap_or_default();
            places.path_numbers.claim(path);
            places.paths.entry(ends(&tunnel.id)).or_insert((path, 0)).1 += 1;
        }
        places.rows.insert(vlan, placed);
    }
    for key in maps.paths.keys()? {
        let family = u8::try_from(key.family).unwrap_or(0);
        let ends = (wire::addr(family, key.remote), wire::addr(family, key.local));
        if !places.paths.contains_key(&ends) {
            maps.paths.remove(&key)?;
        }
    }
    for vlan in &found.broken {
        if let Some(placed) = places.rows.get(vlan).cloned() {
            super::write::delete(maps, &mut places, placed.row.vlan).map_err(|super::DeleteError::Map(e)| e)?;
        } else {
            maps.vlans.put(&u32::from(vlan.get()), &types::vlan_row::default())?;
        }
    }
    Ok((places, found.broken))
}
