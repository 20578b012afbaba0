//! Looking at a room from beside its owner: counters of all ports at once, and one port row by row as frames meet it.
//! Nothing here is remembered and nothing is written.

use crate::config::PortConfig;
use crate::pins::Loaded;
use crate::room::{Program, ROOM_SLOT, Room, RoomCounters};
use crate::tables::counters::{self, Counters, Drops, DropsBySlot, TrafficBySlot};
use crate::tables::{TableError, limits, ports, trunks};
use crate::vid::Tag;

/// Reads the counters of a room, on any thread and without its owner.
#[derive(Debug)]
pub struct CounterReader {
    by_ifindex: ports::ByIfindex,
    trunks: trunks::Trunks,
    traffic: TrafficBySlot,
    drops: DropsBySlot,
}

impl CounterReader {
    pub(crate) fn new(loaded: &Loaded) -> Result<Self, TableError> {
        Ok(Self {
            by_ifindex: loaded.by_ifindex.again()?,
            trunks: loaded.trunks.again()?,
            traffic: loaded.traffic.again()?,
            drops: loaded.drops.again()?,
        })
    }

    /// Counters of everything. Ports that come and go meanwhile may be missing or counted with their predecessor's slot.
    ///
    /// # Errors
    /// The table that cannot be read.
    pub fn counters(&self) -> Result<RoomCounters, TableError> {
        let mut all = RoomCounters { room: counters::drops_of(&self.drops, ROOM_SLOT)?, ..RoomCounters::default() };
        for (ifindex, row) in self.by_ifindex.rows()? {
            if let Some(port) = ports::config_of(ifindex, &row) {
                all.ports.insert(port.tag(), counters::of_slot(&self.traffic, &self.drops, row.slot)?);
            }
        }
        for (ifindex, row) in self.trunks.rows()? {
            all.trunks.insert(ifindex, counters::drops_of(&self.drops, row.slot)?);
        }
        Ok(all)
    }
}

/// One port as frames meet it: the two rows and the two programs, whether or not they fit each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortLook {
    /// Where frames with the tag go; none: they are of no port (`unknown_vlan`).
    pub to_port: Option<TagLook>,
    /// What frames from the device are; none: they are dropped (`no_port`).
    pub from_port: Option<PortConfig>,
    /// The trunk has a row, and a program where ours is.
    pub trunk_attached: bool,
    /// The port's device has a program where ours is.
    pub port_attached: bool,
    /// What the port counted.
    pub counters: Counters,
    /// What the trunk counted of frames that are of no port.
    pub trunk_drops: Drops,
    /// What the room counted of devices without a row.
    pub room_drops: Drops,
}

/// The row of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagLook {
    /// Interface index of the port.
    pub port: u32,
    /// The only unicast Ethernet address let through.
    pub mac: [u8; 6],
    /// Longest packet in bytes.
    pub mtu: u32,
}

impl Room {
    /// A reader of the counters for another thread.
    ///
    /// # Errors
    /// A descriptor of a table cannot be had.
    pub fn counter_reader(&self) -> Result<CounterReader, TableError> {
        CounterReader::new(self.loaded())
    }

    /// One port, by its tag for one direction and by its device for the other, at the same cost whatever the number of
    /// ports.
    ///
    /// # Errors
    /// The table that cannot be read.
    pub fn look(&self, tag: Tag, device: Option<u32>) -> Result<PortLook, TableError> {
        let loaded = self.loaded();
        let to_port = loaded.by_tag.get(&ports::key_of(tag))?;
        let trunk = loaded.trunks.get(&tag.trunk)?;
        let mut look = PortLook {
            to_port: to_port.map(|row| TagLook { port: row.port, mac: row.mac, mtu: row.mtu }),
            trunk_attached: trunk.is_some() && self.is_attached(Program::Trunk, tag.trunk).unwrap_or(false),
            port_attached: device.is_some_and(|device| self.is_attached(Program::Port, device).unwrap_or(false)),
            room_drops: counters::drops_of(&loaded.drops, ROOM_SLOT)?,
            ..PortLook::default()
        };
        if let Some(trunk) = trunk {
            look.trunk_drops = counters::drops_of(&loaded.drops, trunk.slot)?;
        }
        let mut slot = to_port.map(|row| row.slot);
        if let Some(device) = device
            && let Some(row) = loaded.by_ifindex.get(&device)?
        {
            look.from_port = ports::config_of(device, &row);
            if let Some(port) = &mut look.from_port {
                limits::read(&loaded.limits, row.slot, port)?;
            }
            slot = slot.or(Some(row.slot));
        }
        if let Some(slot) = slot {
            look.counters = counters::of_slot(&loaded.traffic, &loaded.drops, slot)?;
        }
        Ok(look)
    }
}
