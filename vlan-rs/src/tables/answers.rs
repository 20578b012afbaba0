//! For which addresses a layer 3 port answers ARP and ND: `src/bpf/answers.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::skel::types::answer_key;
use crate::tables::{Row, Table, TableError};

// SAFETY: plain numbers; the size asserted in answers.h leaves no room for padding.
unsafe impl Row for answer_key {}

/// Bits of the key before the address.
const FIXED_BITS: u32 = 64;
const IPV4: u32 = 4;
const IPV6: u32 = 6;

/// Longest prefix by (port, family, address); values say nothing.
pub(crate) type Answers = Table<answer_key, u32>;

fn key_of(port: u32, prefix: &IpNet) -> answer_key {
    let mut address = [0; 16];
    let family = match prefix.network() {
        IpAddr::V4(v4) => {
            address[..4].copy_from_slice(&v4.octets());
            IPV4
        }
        IpAddr::V6(v6) => {
            address = v6.octets();
            IPV6
        }
    };
    answer_key { prefix_length: FIXED_BITS + u32::from(prefix.prefix_len()), port, family, address }
}

fn prefix_of(key: &answer_key) -> Option<IpNet> {
    let length = u8::try_from(key.prefix_length.checked_sub(FIXED_BITS)?).ok()?;
    let address = match key.family {
        IPV4 => {
            let [a, b, c, d, ..] = key.address;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        IPV6 => IpAddr::V6(Ipv6Addr::from(key.address)),
        _ => return None,
    };
    IpNet::new(address, length).ok()
}

/// Makes the port answer for `wanted` instead of `present`; what is in both is never absent meanwhile.
pub(crate) fn replace(table: &Answers, port: u32, present: &[IpNet], wanted: &[IpNet]) -> Result<(), TableError> {
    for prefix in present.iter().filter(|prefix| !wanted.contains(prefix)) {
        table.remove(&key_of(port, prefix))?;
    }
    for prefix in wanted.iter().filter(|prefix| !present.contains(prefix)) {
        table.put(&key_of(port, prefix), &1)?;
    }
    Ok(())
}

/// Every (port, prefix).
pub(crate) fn dump(table: &Answers) -> Result<Vec<(u32, IpNet)>, TableError> {
    Ok(table.rows()?.iter().filter_map(|(key, _)| Some((key.port, prefix_of(key)?))).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_and_prefixes_go_both_ways() {
        for text in ["0.0.0.0/0", "192.168.1.0/24", "10.0.0.1/32", "::/0", "2001:db8::/64", "fe80::1/128"] {
            let prefix: IpNet = text.parse().unwrap();
            let key = key_of(7, &prefix);
            assert_eq!((key.port, prefix_of(&key)), (7, Some(prefix)));
        }
    }
}
