//! What stands where in the maps: which number each tunnel has, which VLAN owns it. Pure; read from the maps at start
//! and kept beside them, so that a change costs the same with one VLAN and with thousands.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use stackmap::{TunnelId, Vlan};

use crate::row::{TunnelRow, VlanRow};

/// A row with the numbers of its tunnels, in the same order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) row: VlanRow,
    pub(super) indices: Vec<u32>,
}

impl Placed {
    /// Each tunnel with its number.
    pub(super) fn tunnels(&self) -> impl Iterator<Item = (&TunnelRow, u32)> {
        self.row.tunnels.iter().zip(self.indices.iter().copied())
    }
}

/// The two ends of a path; tunnels with the same ends share it.
pub(super) type Ends = (IpAddr, IpAddr);

pub(super) fn ends(id: &TunnelId) -> Ends {
    (id.remote(), id.local())
}

/// Numbers 0..capacity, handed out in a circle: one that was freed comes back as late as possible, so no packet in
/// flight meets another tunnel under its number.
#[derive(Debug)]
pub(super) struct Numbers {
    used: HashSet<u32>,
    next: u32,
    capacity: u32,
}

impl Numbers {
    pub(super) fn new(capacity: u32) -> Self {
        Self { used: HashSet::new(), next: 0, capacity }
    }

    pub(super) fn free(&self) -> usize {
        self.capacity as usize - self.used.len()
    }

    pub(super) fn take(&mut self) -> Option<u32> {
        for _ in 0..self.capacity {
            let number = self.next;
            self.next = (self.next + 1) % self.capacity;
            if self.used.insert(number) {
                return Some(number);
            }
        }
        None
    }

    pub(super) fn claim(&mut self, number: u32) {
        self.used.insert(number);
        self.next = (number + 1) % self.capacity;
    }

    pub(super) fn release(&mut self, number: u32) {
        self.used.remove(&number);
    }
}

/// Everything placed.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) rows: BTreeMap<Vlan, Placed>,
    pub(super) bound: HashMap<TunnelId, Vlan>,
    pub(super) numbers: Numbers,
    pub(super) paths: HashMap<Ends, (u32, usize)>,
    pub(super) path_numbers: Numbers,
}

impl Places {
    pub(super) fn new(tunnels: u32, paths: u32) -> Self {
        Self {
            rows: BTreeMap::new(),
            bound: HashMap::new(),
            numbers: Numbers::new(tunnels),
            paths: HashMap::new(),
            path_numbers: Numbers::new(paths),
        }
    }

    /// The number of the path between two ends, and whether it is new. `None`: no place left.
    pub(super) fn use_path(&mut self, ends: Ends) -> Option<(u32, bool)> {
        if let Some((number, users)) = self.paths.get_mut(&ends) {
            *users += 1;
            return Some((*number, false));
        }
        let number = self.path_numbers.take()?;
        self.paths.insert(ends, (number, 1));
        Some((number, true))
    }

    /// One user less; returns the number when that was the last.
    pub(super) fn leave_path(&mut self, ends: Ends) -> Option<u32> {
        let (number, users) = self.paths.get_mut(&ends)?;
        let number = *number;
        *users -= 1;
        if *users > 0 {
            return None;
        }
        self.paths.remove(&ends);
        self.path_numbers.release(number);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_freed_number_comes_back_last() {
        let mut numbers = Numbers::new(4);
        assert_eq!(numbers.take(), Some(0));
        numbers.release(0);
        assert_eq!(
            [numbers.take(), numbers.take(), numbers.take(), numbers.take()],
            [Some(1), Some(2), Some(3), Some(0)]
        );
        assert_eq!((numbers.take(), numbers.free()), (None, 0));
    }

    #[test]
    fn tunnels_of_one_path_share_its_number() {
        let mut places = Places::new(8, 8);
        let ends = ("198.51.100.2".parse().unwrap(), "203.0.113.1".parse().unwrap());
        assert_eq!(places.use_path(ends), Some((0, true)));
        assert_eq!(places.use_path(ends), Some((0, false)));
        assert_eq!(places.leave_path(ends), None);
        assert_eq!(places.leave_path(ends), Some(0));
        assert_eq!(places.leave_path(ends), None);
    }
}
