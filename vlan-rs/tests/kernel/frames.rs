//! Frames by hand, so that nothing of the programs under test is used to make or to read them.

pub(crate) type Mac = [u8; 6];

pub(crate) const TENANT: Mac = [2, 0, 0, 0, 0, 1];
pub(crate) const GATEWAY: Mac = [2, 0, 0, 0, 0xff, 1];
pub(crate) const STRANGER: Mac = [2, 9, 9, 9, 9, 9];
pub(crate) const BROADCAST: Mac = [0xff; 6];

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const DOT1Q: u16 = 0x8100;
pub(crate) const DOT1AD: u16 = 0x88a8;

pub(crate) type V6 = [u8; 16];

/// 2001:db8:0:NET::HOST
pub(crate) fn v6(net: u8, host: u8) -> V6 {
    [0x20, 1, 0x0d, 0xb8, 0, 0, 0, net, 0, 0, 0, 0, 0, 0, 0, host]
}

pub(crate) fn eth(destination: Mac, source: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &kind.to_be_bytes(), payload].concat()
}

/// Puts a tag behind the addresses.
pub(crate) fn tagged(kind: u16, vid: u16, frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &kind.to_be_bytes(), &vid.to_be_bytes(), &frame[12..]].concat()
}

/// An IPv4/UDP packet of this length from the IP header on.
pub(crate) fn ipv4(length: usize) -> Vec<u8> {
    let mut packet = vec![0; length];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&[192, 168, 1, 1]);
    packet[16..20].copy_from_slice(&[192, 168, 1, 10]);
    packet
}

/// The same with TCP inside, data offset 8 words.
pub(crate) fn ipv4_tcp(length: usize) -> Vec<u8> {
    let mut packet = ipv4(length);
    packet[9] = 6;
    packet[20 + 12] = 8 << 4;
    packet
}

pub(crate) fn ipv6(next_header: u8, source: V6, destination: V6, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0x60, 0, 0, 0][..], &length, &[next_header, 255], &source, &destination, payload].concat()
}

pub(crate) fn arp(operation: u8, sender_mac: Mac, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, operation][..], &sender_mac, &sender, &[0; 6], &target].concat()
}

/// RFC 4443 section 2.3, computed the long way.
pub(crate) fn icmpv6_checksum(source: V6, destination: V6, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let all = [&source[..], &destination, &length, &[0, 0, 0, 58], message].concat();
    let mut sum: u32 = all.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// An ICMPv6 message with its checksum, in IPv6.
pub(crate) fn icmpv6(kind: u8, source: V6, destination: V6, body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0][..], body].concat();
    let sum = icmpv6_checksum(source, destination, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv6(58, source, destination, &message)
}

/// A neighbour solicitation, with or without the source link-layer option.
pub(crate) fn solicitation(source: V6, target: V6, option: Option<Mac>) -> Vec<u8> {
    let option = option.map(|mac| [&[1, 1][..], &mac].concat()).unwrap_or_default();
    let mut group = [0; 16];
    group[..2].copy_from_slice(&[0xff, 2]);
    group[11..13].copy_from_slice(&[1, 0xff]);
    group[13..].copy_from_slice(&target[13..]);
    icmpv6(135, source, group, &[&[0; 4][..], &target, &option].concat())
}

/// The advertisement that answers it, RFC 4861 section 4.4: solicited, override, target link-layer option.
pub(crate) fn advertisement(target: V6, asker: V6, mac: Mac) -> Vec<u8> {
    icmpv6(136, target, asker, &[&[0x60, 0, 0, 0][..], &target, &[2, 1], &mac].concat())
}
