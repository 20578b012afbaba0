//! All maps of the data path, by name.

use std::collections::BTreeMap;
use std::path::Path;

use libbpf_rs::{MapCore, MapHandle, MapMut, OpenMapMut};

use super::layout::{self, CarryError, Found};
use super::map::Map;
use super::skel::{GatewayMaps, OpenGatewayMaps, types};
use super::{DatapathConfig, LayoutDifference, OpenError};
use crate::fault;

/// The pinned maps: the only record of what this access server does.
pub(super) struct Maps {
    pub(super) tunnels: Map<types::tunnel_key, types::tunnel_in>,
    pub(super) tunnels_out: Map<u32, types::tunnel_out>,
    pub(super) vlans: Map<u32, types::vlan_row>,
    pub(super) vlan_metas: Map<u32, types::vlan_meta>,
    pub(super) prefixes: Map<types::prefix_key, u32>,
    pub(super) paths: Map<types::path_key, u32>,
    pub(super) path_states: Map<u32, types::path_state>,
    pub(super) locals: Map<types::address, u8>,
    pub(super) servers: Map<types::address, u8>,
    pub(super) devices: Map<u32, u32>,
    pub(super) traffic: Map<u32, types::traffic>,
    pub(super) drops: Map<types::drop_key, u64>,
    pub(super) slow_path: MapHandle,
}

/// The maps that are pinned, before loading.
fn pinned<'a, 'obj>(maps: &'a mut OpenGatewayMaps<'obj>) -> [(&'static str, &'a mut OpenMapMut<'obj>); 14] {
    [
        ("tunnels", &mut maps.tunnels),
        ("tunnels_out", &mut maps.tunnels_out),
        ("vlans", &mut maps.vlans),
        ("vlan_metas", &mut maps.vlan_metas),
        ("prefixes", &mut maps.prefixes),
        ("paths", &mut maps.paths),
        ("path_states", &mut maps.path_states),
        ("locals", &mut maps.locals),
        ("servers", &mut maps.servers),
        ("devices", &mut maps.devices),
        ("traffic", &mut maps.traffic),
        ("drops", &mut maps.drops),
        ("buckets", &mut maps.buckets),
        ("slow_path", &mut maps.slow_path),
    ]
}

/// Names of the pins, to take them away.
pub(super) const PINS: [&str; 14] = [
    "tunnels",
    "tunnels_out",
    "vlans",
    "vlan_metas",
    "prefixes",
    "paths",
    "path_states",
    "locals",
    "servers",
    "devices",
    "traffic",
    "drops",
    "buckets",
    "slow_path",
];

/// Maps that an older version pinned, by name: their rows are carried over when the programs are loaded.
pub(super) type Older = BTreeMap<&'static str, MapHandle>;

/// Says where each map is pinned. Loading then adopts what is there; a map of another layout is refused here, because
/// the kernel would read beyond our values, but for one whose rows are shorter: it is an older version's.
pub(super) fn pin(maps: &mut OpenGatewayMaps<'_>, cfg: &DatapathConfig) -> Result<Older, OpenError> {
    let mut older = Older::new();
    for (name, map) in pinned(maps) {
        let path = cfg.pin_dir.join(name);
        if cfg.longer_rows.contains(&name) {
            let longer = map.value_size() + 8;
            map.set_value_size(longer).map_err(|source| OpenError::Pin { path: path.clone(), source })?;
        }
        let found = layout::look(map, &path).map_err(|source| OpenError::Pin { path: path.clone(), source })?;
        let refused = |what, found, expected| {
            let difference = LayoutDifference { what, found, expected };
            OpenError::Layout { table: name, path: path.clone(), difference }
        };
        match found {
            Found::Other(what, found, expected) => return Err(refused(what, found, expected)),
            Found::Same(there) | Found::Older(there) if differs_in_capacity(map, &there) => {
                return Err(refused("capacity", there.max_entries(), map.max_entries()));
            }
            Found::Older(there) => drop(older.insert(name, there)),
            Found::Absent | Found::Same(_) => {
                map.set_pin_path(&path).map_err(|source| OpenError::Pin { path, source })?
            }
        }
    }
    Ok(older)
}

/// libbpf gives a perf array as many places as there are CPUs when it loads it.
fn differs_in_capacity(map: &OpenMapMut<'_>, there: &MapHandle) -> bool {
    map.max_entries() != 0 && map.max_entries() != there.max_entries()
}

/// The maps that are pinned, when they are loaded.
fn loaded<'a, 'obj>(maps: &'a mut GatewayMaps<'obj>) -> [(&'static str, &'a mut MapMut<'obj>); 14] {
    [
        ("tunnels", &mut maps.tunnels),
        ("tunnels_out", &mut maps.tunnels_out),
        ("vlans", &mut maps.vlans),
        ("vlan_metas", &mut maps.vlan_metas),
        ("prefixes", &mut maps.prefixes),
        ("paths", &mut maps.paths),
        ("path_states", &mut maps.path_states),
        ("locals", &mut maps.locals),
        ("servers", &mut maps.servers),
        ("devices", &mut maps.devices),
        ("traffic", &mut maps.traffic),
        ("drops", &mut maps.drops),
        ("buckets", &mut maps.buckets),
        ("slow_path", &mut maps.slow_path),
    ]
}

/// Carries the rows of older maps over and puts the new maps' pins in their places. Programs on the devices go on with
/// the old ones until they are replaced.
pub(super) fn carry(maps: &mut GatewayMaps<'_>, older: &Older, dir: &Path) -> Result<(), CarryError> {
    let mut changed: Vec<_> =
        loaded(maps).into_iter().filter_map(|(name, map)| Some((older.get(name)?, dir.join(name), map))).collect();
    for (old, _, map) in &changed {
        layout::copy(old, map)?;
        fault::point("carry.copied");
    }
    for (_, path, map) in &mut changed {
        layout::replace_pin(map, path)?;
        fault::point("carry.carried");
    }
    Ok(())
}

impl Maps {
    pub(super) fn new(maps: &GatewayMaps<'_>) -> Result<Self, libbpf_rs::Error> {
        Ok(Self {
            tunnels: Map::new("tunnels", MapHandle::try_from(&maps.tunnels)?),
            tunnels_out: Map::new("tunnels_out", MapHandle::try_from(&maps.tunnels_out)?),
            vlans: Map::new("vlans", MapHandle::try_from(&maps.vlans)?),
            vlan_metas: Map::new("vlan_metas", MapHandle::try_from(&maps.vlan_metas)?),
            prefixes: Map::new("prefixes", MapHandle::try_from(&maps.prefixes)?),
            paths: Map::new("paths", MapHandle::try_from(&maps.paths)?),
            path_states: Map::new("path_states", MapHandle::try_from(&maps.path_states)?),
            locals: Map::new("locals", MapHandle::try_from(&maps.locals)?),
            servers: Map::new("servers", MapHandle::try_from(&maps.servers)?),
            devices: Map::new("devices", MapHandle::try_from(&maps.devices)?),
            traffic: Map::new("traffic", MapHandle::try_from(&maps.traffic)?),
            drops: Map::new("drops", MapHandle::try_from(&maps.drops)?),
            slow_path: MapHandle::try_from(&maps.slow_path)?,
        })
    }
}
