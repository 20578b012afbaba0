//! Hardware addresses, and how both ends of a trunk agree on them without asking.

use std::fmt;
use std::str::FromStr;

use crate::text::serde_as_text;
use crate::{Invalid, TrunkIndex, Vlan};

/// A unicast, non-zero Ethernet address, written `02:12:34:56:00:01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr([u8; 6]);

/// Whose address on a VLAN is derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MacRole {
    /// The tenant's port.
    Server,
    /// The permanent neighbour of the tenant's stack, the source of decapsulated packets.
    Gateway,
}

impl MacAddr {
    /// Checks six octets.
    ///
    /// # Errors
    /// [`Invalid`] for a multicast (broadcast too) or all-zero address.
    pub fn new(octets: [u8; 6]) -> Result<Self, Invalid> {
        let mac = Self(octets);
        if octets[0] & 1 == 1 {
            return Err(Invalid::new("mac", mac, "must not be a multicast address"));
        }
        if octets == [0; 6] {
            return Err(Invalid::new("mac", mac, "must not be all zero"));
        }
        Ok(mac)
    }

    /// The address both daemons use for `role` on (trunk, VLAN) of `instance`.
    ///
    /// Octets: `02` (locally administered, unicast), three octets of a hash of instance and trunk,
    /// then 4 bits role (1 server, 2 gateway) and 12 bits VLAN. So no two addresses of one trunk
    /// are the same, and trunks differ by the hash. The hash is FNV-1a, 64 bits
    /// (draft-eastlake-fnv), over the instance's bytes, a zero byte and the trunk big-endian,
    /// folded by XOR of its low 24, middle 24 and high 16 bits. The form is part of the contract
    /// between two machines: do not change it.
    #[must_use]
    pub fn derive(instance: &str, trunk: TrunkIndex, vlan: Vlan, role: MacRole) -> Self {
        let trunk = trunk.get().to_be_bytes();
        let bytes = instance.bytes().chain([0]).chain(trunk);
        let hash = fnv1a_64(bytes);
        let [_, a, b, c] = ((hash ^ (hash >> 24) ^ (hash >> 48)) as u32 & 0x00ff_ffff).to_be_bytes();
        let role: u8 = match role {
            MacRole::Server => 1,
            MacRole::Gateway => 2,
        };
        let [high, low] = vlan.get().to_be_bytes();
        Self([0x02, a, b, c, role << 4 | high, low])
    }

    /// The six octets as they stand in a frame.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }
}

/// FNV-1a, 64 bits.
fn fnv1a_64(bytes: impl Iterator<Item = u8>) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    bytes.fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

impl FromStr for MacAddr {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        let bad = || Invalid::new("mac", s, "must be six pairs of hex digits with colons between");
        let mut octets = [0; 6];
        let mut pairs = s.split(':');
        for octet in &mut octets {
            let pair = pairs.next().ok_or_else(bad)?;
            if pair.len() != 2 || !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *octet = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        if pairs.next().is_some() {
            return Err(bad());
        }
        Self::new(octets)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

serde_as_text!(MacAddr);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_hash_is_fnv1a_64() {
        // Vectors of draft-eastlake-fnv, appendix.
        assert_eq!(fnv1a_64(b"".iter().copied()), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a_64(b"a".iter().copied()), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a_64(b"foobar".iter().copied()), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn derived_addresses_of_a_trunk_are_all_different() {
        let mut seen = std::collections::BTreeSet::new();
        for id in 1..=Vlan::MAX {
            for role in [MacRole::Server, MacRole::Gateway] {
                let mac = MacAddr::derive("main", TrunkIndex(0), Vlan::new(id).unwrap(), role);
                assert_eq!(mac.octets()[0], 0x02);
                assert!(seen.insert(mac), "{mac} twice");
            }
        }
    }

    #[test]
    fn instance_and_trunk_change_the_address() {
        let vlan = Vlan::new(600).unwrap();
        let at = |instance, trunk| MacAddr::derive(instance, TrunkIndex(trunk), vlan, MacRole::Server);
        assert_ne!(at("main", 0), at("main", 1));
        assert_ne!(at("main", 0), at("other", 0));
    }

    #[test]
    fn refuses_what_is_no_unicast_address() {
        for s in ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00"] {
            assert_eq!(s.parse::<MacAddr>().unwrap_err().value, s);
        }
        for s in ["", "02:00:00:00:00", "02:00:00:00:00:00:00", "2:0:0:0:0:1", "02-00-00-00-00-01", "+2:00:00:00:00:01"]
        {
            assert_eq!(s.parse::<MacAddr>().unwrap_err().field, "mac", "{s}");
        }
    }
}
