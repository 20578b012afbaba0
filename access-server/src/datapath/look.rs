//! Looking at the data path without changing it: how full its tables are, which programs are where, and what the maps say
//! of one address of one VLAN. The last is the programs' own look-up done again, at the same cost whatever the number of
//! rows; nothing in it comes from what this process remembers, but the words of the prefix, which a trie does not tell.

use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnet::IpNet;
use stackmap::Vlan;

use super::attach::{self, Side};
use super::skel::types;
use super::{Datapath, MapError, PathMtu, VlanCounters, counters, wire};
use crate::row::TunnelRow;

/// How full a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Its name.
    pub table: &'static str,
    /// Entries there are.
    pub used: u64,
    /// Entries there is place for.
    pub capacity: u64,
}

/// A program and a device it belongs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// The device's index.
    pub ifindex: u32,
    /// The program's name.
    pub program: &'static str,
    /// It is there.
    pub attached: bool,
}

/// What the maps say of a VLAN and of an address in it.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// The VLAN's row; none: frames with its tag are dropped (`unknown_vlan`).
    pub vlan: Option<VlanLook>,
    /// The tunnel behind which the address lies.
    pub site: Option<Site>,
    /// What the VLAN counted.
    pub counters: VlanCounters,
    /// What was counted that could be blamed on no VLAN.
    pub nobody: VlanCounters,
}

/// The row of a VLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VlanLook {
    /// The server's Ethernet address.
    pub server_mac: [u8; 6],
    /// The gateway's.
    pub gateway_mac: [u8; 6],
    /// One tunnel with everything behind it: no prefix is looked up.
    pub single: bool,
}

/// A tunnel as the maps hold it.
#[derive(Debug, Clone)]
pub struct Site {
    /// The tunnel; its prefixes are left out.
    pub tunnel: TunnelRow,
    /// The longest prefix that leads there.
    pub prefix: Option<IpNet>,
    /// The two ends are those of a path, be it with another kind or key: tells `unknown_key` from `unknown_tunnel`.
    pub path_known: bool,
    /// What was learned of its path.
    pub path_mtu: Option<PathMtu>,
    /// What becomes of packets that arrive in it; none: they are dropped (`unknown_tunnel`, `unknown_key`).
    pub arrival: Option<Arrival>,
}

/// The row of a tunnel on the WAN side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// VLAN onto which its packets are put.
    pub vlan: u16,
    /// Their source must lie behind this very tunnel.
    pub checks_source: bool,
    /// It is the tunnel behind which the address lies.
    pub is_this: bool,
    /// The server's Ethernet address.
    pub server_mac: [u8; 6],
}

impl Datapath {
    /// How full the tables are; drops count what was dropped at least once.
    #[must_use]
    pub fn fill(&self) -> Vec<Fill> {
        let maps = &self.loaded.maps;
        let prefixes = self.places.rows.values().flat_map(|placed| &placed.row.tunnels).map(|t| t.prefixes.len()).sum();
        let fill = |table, used: usize, capacity: u32| Fill { table, used: used as u64, capacity: capacity.into() };
        vec![
            fill("vlans", self.places.rows.len(), Vlan::MAX.into()),
            fill("tunnels", self.places.bound.len(), maps.tunnels.capacity()),
            fill("prefixes", prefixes, maps.prefixes.capacity()),
            fill("paths", self.places.paths.len(), maps.paths.capacity()),
        ]
    }

    /// Which programs are on their devices.
    #[must_use]
    pub fn attached(&self) -> Vec<Attached> {
        let any = self.loaded.maps.slow_path.as_fd();
        let [wan, inside, inject] = self.loaded.names;
        let wans = self.wans.iter().filter(|wan| **wan != self.inside).map(|ifindex| (*ifindex, wan, Side::Ingress));
        let inside = [(self.inside, inside, Side::Ingress), (self.inside, inject, Side::Egress)];
        let look = |(ifindex, program, side)| Attached {
            ifindex,
            program,
            attached: attach::is_attached(any, ifindex, side, self.handle),
        };
        wans.chain(inside).map(look).collect()
    }

    /// What the maps say of `address` in `vlan`.
    ///
    /// # Errors
    /// [`MapError`] when a map cannot be read.
    pub fn look(&self, vlan: Vlan, address: IpAddr) -> Result<Look, MapError> {
        let maps = &self.loaded.maps;
        let row = maps.vlans.get(&u32::from(vlan.get()))?.filter(|row| row.flags & wire::VLAN_PRESENT != 0);
        let mut look =
            Look { counters: counters::of(maps, vlan.get())?, nobody: counters::of(maps, 0)?, ..Look::default() };
        look.vlan = row.map(|row| VlanLook {
            server_mac: row.server_mac,
            gateway_mac: row.gateway_mac,
            single: row.flags & wire::VLAN_SINGLE != 0,
        });
        // What comes in does not ask for the VLAN's row: its tunnel is looked for without one too.
        let number = match row.filter(|row| row.flags & wire::VLAN_SINGLE != 0) {
            Some(row) => Some(row.single),
            None => maps.prefixes.get(&wire::prefix_key(vlan, &IpNet::from(address)))?,
        };
        let Some(number) = number else { return Ok(look) };
        let Some(out) = maps.tunnels_out.get(&number)?.filter(|out| out.vlan != 0) else { return Ok(look) };
        let Some(tunnel) = wire::tunnel_row(&out) else { return Ok(look) };
        let arrival = maps.tunnels.get(&wire::tunnel_key(&tunnel.id))?.map(|arrival| arrive(&arrival, number));
        let path_mtu = self.path_mtu(&tunnel.id)?;
        let path_known = maps.paths.get(&wire::path_key(&tunnel.id))?.is_some();
        look.site = Some(Site { path_mtu, path_known, prefix: self.prefix_of(vlan, address), arrival, tunnel });
        Ok(look)
    }

    fn prefix_of(&self, vlan: Vlan, address: IpAddr) -> Option<IpNet> {
        let tunnels = self.places.rows.get(&vlan).into_iter().flat_map(|placed| &placed.row.tunnels);
        let prefixes = tunnels.flat_map(|tunnel| &tunnel.prefixes).filter(|prefix| prefix.contains(&address));
        prefixes.max_by_key(|prefix| prefix.prefix_len()).copied()
    }
}

fn arrive(arrival: &types::tunnel_in, number: u32) -> Arrival {
    Arrival {
        vlan: arrival.vlan,
        checks_source: arrival.flags & wire::TUNNEL_CHECK_SOURCE != 0,
        is_this: arrival.index == number,
        server_mac: arrival.server_mac,
    }
}
