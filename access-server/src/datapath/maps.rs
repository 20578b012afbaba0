//! All maps of the data path, by name.

use std::path::Path;

use libbpf_rs::{MapHandle, MapInfo, OpenMapMut};

use super::map::Map;
use super::skel::{GatewayMaps, OpenGatewayMaps, types};
use super::{LayoutDifference, OpenError};

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

/// Says where each map is pinned. Loading then adopts what is there; a map of another layout is refused here, because
/// the kernel would read beyond our values.
pub(super) fn pin(maps: &mut OpenGatewayMaps<'_>, dir: &Path) -> Result<(), OpenError> {
    for (name, map) in pinned(maps) {
        let path = dir.join(name);
        if path.exists() {
            check(name, map, &path)?;
        }
        map.set_pin_path(&path).map_err(|source| OpenError::Pin { path, source })?;
    }
    Ok(())
}

fn check(name: &'static str, map: &OpenMapMut<'_>, path: &Path) -> Result<(), OpenError> {
    let unreadable = |source| OpenError::Pin { path: path.to_owned(), source };
    let handle = MapHandle::from_pinned_path(path).map_err(unreadable)?;
    let found = MapInfo::new(std::os::fd::AsFd::as_fd(&handle)).map_err(unreadable)?;
    let differs = [
        ("type", found.map_type() as u32, map.map_type() as u32),
        ("key size", found.info.key_size, map.key_size()),
        ("value size", found.info.value_size, map.value_size()),
        // libbpf gives a perf array as many places as there are CPUs when it loads it.
        (
            "capacity",
            found.info.max_entries,
            if map.max_entries() == 0 { found.info.max_entries } else { map.max_entries() },
        ),
        ("flags", found.info.map_flags, map.map_flags()),
    ];
    match differs.into_iter().find(|(_, found, expected)| found != expected) {
        None => Ok(()),
        Some((what, found, expected)) => Err(OpenError::Layout {
            table: name,
            path: path.to_owned(),
            difference: LayoutDifference { what, found, expected },
        }),
    }
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
