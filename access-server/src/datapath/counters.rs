//! What each VLAN carried and lost, summed over the CPUs.

use std::collections::BTreeMap;

use super::map::MapError;
use super::maps::Maps;
use super::skel::types;
use super::{DropReason, VlanCounters};

/// Places of the traffic map; VLAN 0 is in it for what no VLAN can be blamed for.
const PLACES: u16 = 4096;

pub(super) fn read(maps: &Maps, vlans: impl Iterator<Item = u16>) -> Result<Vec<VlanCounters>, MapError> {
    let mut all: BTreeMap<u16, VlanCounters> = BTreeMap::new();
    for vlan in vlans {
        all.insert(vlan, traffic(maps, vlan)?);
    }
    for key in maps.drops.keys()? {
        let (Some(reason), Some(count)) = (DropReason::from_number(key.reason), maps.drops.get(&key)?) else {
            continue;
        };
        let counters = all.entry(key.vlan).or_insert_with(|| VlanCounters { vlan: key.vlan, ..Default::default() });
        counters.drops.insert(reason, count);
    }
    Ok(all.into_values().collect())
}

/// Of one VLAN, at the same cost whatever the number of VLANs.
pub(super) fn of(maps: &Maps, vlan: u16) -> Result<VlanCounters, MapError> {
    let mut sum = traffic(maps, vlan)?;
    for reason in DropReason::ALL {
        if let Some(count) = maps.drops.get(&types::drop_key { vlan, reason: reason as u16 })? {
            sum.drops.insert(reason, count);
        }
    }
    Ok(sum)
}

fn traffic(maps: &Maps, vlan: u16) -> Result<VlanCounters, MapError> {
    let mut sum = VlanCounters { vlan, ..VlanCounters::default() };
    for cpu in maps.traffic.get_all_cpus(&u32::from(vlan))? {
        sum.rx_packets += cpu.rx_packets;
        sum.rx_bytes += cpu.rx_bytes;
        sum.tx_packets += cpu.tx_packets;
        sum.tx_bytes += cpu.tx_bytes;
    }
    Ok(sum)
}

/// A VLAN that is gone leaves no count to the next one that gets its number.
pub(super) fn clear(maps: &Maps, vlan: u16) -> Result<(), MapError> {
    debug_assert!(vlan < PLACES);
    maps.traffic.put_all_cpus(&u32::from(vlan), &types::traffic::default())?;
    for reason in DropReason::ALL {
        maps.drops.remove(&types::drop_key { vlan, reason: reason as u16 })?;
    }
    Ok(())
}
