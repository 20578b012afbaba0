//! The cases of packet.rs: a frame, the program and device it comes to, and what must become of it.
//! Long, because it is a list.

use vlan_rs::{DropReason, Program};

use crate::frames::*;
use crate::packet::MTU;

/// Devices of the bench. Ports are two of the peer trunk and one of the plain trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    /// VLAN 600 on the peer trunk.
    Layer3,
    /// VLAN 601 on the peer trunk.
    Layer2,
    /// VLAN 600 on the plain trunk, layer 3.
    PlainPort,
    PeerTrunk,
    PlainTrunk,
    SharedTrunk,
}

/// Where a drop is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum At {
    Port(Device),
    Trunk(Device),
    Room,
}

#[derive(Debug, Clone)]
pub(crate) enum Expect {
    Drop(DropReason, At),
    Sent {
        device: Device,
        peer: bool,
        frame: Vec<u8>,
    },
    /// Left as it is to the next filter.
    Next,
}

#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) program: Program,
    pub(crate) device: Device,
    pub(crate) frame: Vec<u8>,
    pub(crate) gso_size: u32,
    /// How often the frame comes; the last time counts.
    pub(crate) times: u32,
    pub(crate) expect: Expect,
}

impl Case {
    fn gso(self, gso_size: u32) -> Self {
        Self { gso_size, ..self }
    }

    fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }

    /// Whose traffic counters a frame that passed is in; None: the port's own answer, which is not traffic.
    pub(crate) fn counted_at(&self) -> Option<Device> {
        match (&self.expect, self.program) {
            (Expect::Sent { device, .. }, Program::Trunk) => Some(*device),
            (Expect::Sent { device, .. }, Program::Port) if *device == self.device => None,
            _ => Some(self.device),
        }
    }
}

fn case(name: &'static str, program: Program, device: Device, frame: Vec<u8>, expect: Expect) -> Case {
    Case { name, program, device, frame, gso_size: 0, times: 1, expect }
}

/// A frame from a tenant that must be dropped.
fn refused(name: &'static str, device: Device, frame: Vec<u8>, reason: DropReason) -> Case {
    case(name, Program::Port, device, frame, Expect::Drop(reason, At::Port(device)))
}

/// A frame from a tenant that must go onto the trunk as it is.
fn passes(name: &'static str, device: Device, frame: Vec<u8>) -> Case {
    let (trunk, peer) =
        if device == Device::PlainPort { (Device::PlainTrunk, false) } else { (Device::PeerTrunk, true) };
    case(name, Program::Port, device, frame.clone(), Expect::Sent { device: trunk, peer, frame })
}

/// A frame from a tenant that the port answers.
fn answered(name: &'static str, frame: Vec<u8>, answer: Vec<u8>) -> Case {
    let device = Device::Layer3;
    case(name, Program::Port, device, frame, Expect::Sent { device, peer: false, frame: answer })
}

/// A frame from a trunk that must be dropped at a port.
fn kept_out(name: &'static str, vid: u16, frame: &[u8], reason: DropReason) -> Case {
    let port = if vid == 600 { Device::Layer3 } else { Device::Layer2 };
    let frame = tagged(DOT1Q, vid, frame);
    case(name, Program::Trunk, Device::PeerTrunk, frame, Expect::Drop(reason, At::Port(port)))
}

/// A frame from a trunk that belongs to no port.
fn nobodys(name: &'static str, device: Device, frame: Vec<u8>, reason: DropReason) -> Case {
    case(name, Program::Trunk, device, frame, Expect::Drop(reason, At::Trunk(device)))
}

/// A frame from a trunk that must come out of the port without its tag.
fn delivered(name: &'static str, trunk: Device, vid: u16, port: Device, frame: Vec<u8>) -> Case {
    let expect = Expect::Sent { device: port, peer: false, frame: frame.clone() };
    case(name, Program::Trunk, trunk, tagged(DOT1Q, vid, &frame), expect)
}

fn to_tenant(kind: u16, packet: &[u8]) -> Vec<u8> {
    eth(TENANT, GATEWAY, kind, packet)
}

fn from_tenant(kind: u16, packet: &[u8]) -> Vec<u8> {
    eth(GATEWAY, TENANT, kind, packet)
}

/// The packet with one byte changed.
fn with(mut packet: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    packet[at] = value;
    packet
}

const FULL: usize = MTU as usize;
const US: [u8; 4] = [192, 168, 1, 1];
const THEM: [u8; 4] = [192, 168, 1, 10];

fn question(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    eth(BROADCAST, TENANT, ARP, &arp(1, TENANT, sender, target))
}

fn solicit(source: V6, target: V6, option: Option<Mac>) -> Vec<u8> {
    let packet = solicitation(source, target, option);
    let group = [0x33, 0x33, packet[36], packet[37], packet[38], packet[39]];
    eth(group, TENANT, IPV6, &packet)
}

pub(crate) fn cases() -> Vec<Case> {
    let mut all = from_trunks();
    all.extend(packets_from_ports());
    all.extend(arp_from_ports());
    all.extend(nd_from_ports());
    all
}

fn from_trunks() -> Vec<Case> {
    use Device::{Layer2, Layer3, PeerTrunk, PlainPort, PlainTrunk, SharedTrunk};
    let plain = to_tenant(IPV4, &ipv4(100));
    let asked = eth(BROADCAST, GATEWAY, ARP, &arp(1, GATEWAY, THEM, US));
    let asked6 = eth([0x33, 0x33, 0xff, 0, 0, 1], GATEWAY, IPV6, &solicitation(v6(1, 10), v6(1, 1), Some(GATEWAY)));
    vec![
        delivered("trunk_ipv4", PeerTrunk, 600, Layer3, plain.clone()),
        delivered("trunk_ipv6", PeerTrunk, 600, Layer3, to_tenant(IPV6, &ipv6(17, v6(1, 10), v6(1, 1), &[0; 20]))),
        delivered("trunk_full_mtu", PeerTrunk, 600, Layer3, to_tenant(IPV4, &ipv4(FULL))),
        delivered("trunk_gso_fits", PeerTrunk, 600, Layer3, to_tenant(IPV4, &ipv4_tcp(3000))).gso(MTU - 52),
        delivered("trunk_layer_2", PeerTrunk, 601, Layer2, plain.clone()),
        delivered("trunk_same_vlan_on_another_trunk", PlainTrunk, 600, PlainPort, plain.clone()),
        delivered("trunk_broadcast", PeerTrunk, 601, Layer2, eth(BROADCAST, STRANGER, IPV4, &ipv4(60))),
        delivered("trunk_multicast", PeerTrunk, 601, Layer2, eth([1, 0, 0x5e, 0, 0, 1], STRANGER, IPV4, &ipv4(60))),
        delivered("trunk_arp", PeerTrunk, 600, Layer3, asked.clone()),
        delivered("trunk_nd", PeerTrunk, 600, Layer3, asked6.clone()),
        delivered("trunk_padded", PeerTrunk, 600, Layer3, to_tenant(IPV4, &[ipv4(30), vec![0; 16]].concat())),
        case("trunk_shared_passes_unknown", Program::Trunk, SharedTrunk, tagged(DOT1Q, 600, &plain), Expect::Next),
        case("trunk_shared_passes_untagged", Program::Trunk, SharedTrunk, plain.clone(), Expect::Next),
        nobodys(
            "trunk_shared_two_tags",
            SharedTrunk,
            tagged(DOT1Q, 600, &tagged(DOT1Q, 1, &plain)),
            DropReason::TwoTags,
        ),
        nobodys("trunk_untagged", PeerTrunk, plain.clone(), DropReason::Untagged),
        nobodys("trunk_service_tag", PeerTrunk, tagged(DOT1AD, 600, &plain), DropReason::ServiceTag),
        nobodys("trunk_two_tags", PeerTrunk, tagged(DOT1Q, 600, &tagged(DOT1Q, 601, &plain)), DropReason::TwoTags),
        nobodys("trunk_q_in_ad", PeerTrunk, tagged(DOT1Q, 600, &tagged(DOT1AD, 601, &plain)), DropReason::TwoTags),
        nobodys("trunk_unknown_vlan", PeerTrunk, tagged(DOT1Q, 602, &plain), DropReason::UnknownVlan),
        nobodys("trunk_vlan_0", PeerTrunk, tagged(DOT1Q, 0, &plain), DropReason::UnknownVlan),
        nobodys("trunk_vlan_of_another_trunk", PlainTrunk, tagged(DOT1Q, 601, &plain), DropReason::UnknownVlan),
        nobodys("trunk_half_a_tag", PeerTrunk, tagged(DOT1Q, 600, &plain)[..16].to_vec(), DropReason::Truncated),
        kept_out("trunk_half_an_ipv4_header", 600, &to_tenant(IPV4, &ipv4(100)[..19]), DropReason::Truncated),
        kept_out("trunk_half_an_ipv6_header", 600, &to_tenant(IPV6, &[0x60; 39]), DropReason::Truncated),
        kept_out("trunk_ip_version", 600, &to_tenant(IPV4, &with(ipv4(60), 0, 0x65)), DropReason::IpVersion),
        kept_out("trunk_ip_length", 600, &to_tenant(IPV4, &ipv4(60)[..59]), DropReason::IpTotalLength),
        kept_out("trunk_too_long", 600, &to_tenant(IPV4, &ipv4(FULL + 1)), DropReason::TooLong),
        kept_out("trunk_gso_too_long", 600, &to_tenant(IPV4, &ipv4_tcp(3000)), DropReason::TooLong).gso(MTU - 51),
        kept_out("trunk_other_mac", 600, &eth(STRANGER, GATEWAY, IPV4, &ipv4(60)), DropReason::DestinationMac),
        kept_out("trunk_arp_policed", 600, &asked, DropReason::ArpPoliced).times(3),
        kept_out("trunk_nd_policed", 601, &asked6, DropReason::NdPoliced).times(3),
        kept_out("trunk_hidden_nd_policed", 601, &behind_hop_by_hop(&asked6), DropReason::NdPoliced).times(3),
        kept_out("trunk_flood", 600, &to_tenant(IPV4, &ipv4(60)), DropReason::FloodRx).times(200),
    ]
}

/// The IPv6 packet of an Ethernet frame with eight bytes of hop-by-hop options (padding) before its upper layer.
fn behind_hop_by_hop(frame: &[u8]) -> Vec<u8> {
    let (eth, rest) = frame.split_at(14);
    let (header, upper) = rest.split_at(40);
    let mut header = header.to_vec();
    let length = u16::from_be_bytes([header[4], header[5]]) + 8;
    header[4..6].copy_from_slice(&length.to_be_bytes());
    let options = [std::mem::replace(&mut header[6], 0), 0, 1, 4, 0, 0, 0, 0];
    [eth, &header, &options, upper].concat()
}

/// A test run refuses IP frames from a port without a whole IP header: those are in raw.rs.
fn packets_from_ports() -> Vec<Case> {
    use Device::{Layer2, Layer3, PeerTrunk, PlainPort};
    let plain = from_tenant(IPV4, &ipv4(100));
    let udp6 = |length| ipv6(17, v6(1, 1), v6(1, 10), &vec![0; length]);
    let foreign = eth(GATEWAY, STRANGER, IPV4, &ipv4(60));
    let stranger =
        case("port_without_row", Program::Port, PeerTrunk, plain.clone(), Expect::Drop(DropReason::NoPort, At::Room));
    vec![
        passes("port_ipv4", Layer3, plain.clone()),
        refused("port_flood", Layer3, plain.clone(), DropReason::FloodTx).times(200),
        // Nothing is read of a flood's frames, also not what is wrong with them.
        refused("port_flood_of_wrong_frames", Layer3, foreign.clone(), DropReason::FloodTx).times(200),
        passes("port_ipv6", Layer3, from_tenant(IPV6, &udp6(20))),
        passes("port_layer_2", Layer2, plain.clone()),
        passes("port_plain_trunk", PlainPort, plain.clone()),
        passes("port_broadcast", Layer2, eth(BROADCAST, TENANT, IPV4, &ipv4(60))),
        passes("port_full_mtu", Layer3, from_tenant(IPV4, &ipv4(FULL))),
        passes("port_full_mtu_ipv6", Layer3, from_tenant(IPV6, &udp6(FULL - 40))),
        passes("port_gso_fits", Layer3, from_tenant(IPV4, &ipv4_tcp(3000))).gso(MTU - 52),
        passes("port_padded", Layer3, from_tenant(IPV4, &[ipv4(30), vec![0; 16]].concat())),
        passes("port_ipv4_options", Layer3, from_tenant(IPV4, &with(ipv4(60), 0, 0x4f))),
        stranger,
        refused("port_tagged", Layer3, tagged(DOT1Q, 600, &plain), DropReason::TaggedFromPort),
        refused("port_tagged_for_another", Layer3, tagged(DOT1Q, 601, &plain), DropReason::TaggedFromPort),
        refused("port_tagged_ad", Layer2, tagged(DOT1AD, 600, &plain), DropReason::TaggedFromPort),
        refused("port_source_mac", Layer3, foreign.clone(), DropReason::SourceMac),
        refused("port_source_mac_layer_2", Layer2, foreign, DropReason::SourceMac),
        refused("port_ethertype", Layer2, from_tenant(0x88cc, &[0; 50]), DropReason::Ethertype),
        refused("port_length_field", Layer2, from_tenant(38, &[0x42; 46]), DropReason::Ethertype),
        refused("port_half_an_arp", Layer2, from_tenant(ARP, &arp(1, TENANT, US, THEM)[..27]), DropReason::Truncated),
        refused(
            "port_icmpv6_without_type",
            Layer3,
            from_tenant(IPV6, &ipv6(58, v6(1, 1), v6(1, 10), &[])),
            DropReason::Truncated,
        ),
        refused("port_ipv4_says_6", Layer3, from_tenant(IPV4, &with(ipv4(60), 0, 0x65)), DropReason::IpVersion),
        refused("port_ipv6_says_4", Layer3, from_tenant(IPV6, &with(udp6(20), 0, 0x45)), DropReason::IpVersion),
        refused("port_ihl_4", Layer3, from_tenant(IPV4, &with(ipv4(60), 0, 0x44)), DropReason::IpHeaderLength),
        refused(
            "port_ihl_beyond_packet",
            Layer3,
            from_tenant(IPV4, &with(ipv4(59), 0, 0x4f)),
            DropReason::IpHeaderLength,
        ),
        refused("port_total_length_0", Layer3, from_tenant(IPV4, &with(ipv4(60), 3, 0)), DropReason::IpTotalLength),
        refused(
            "port_total_length_below_header",
            Layer3,
            from_tenant(IPV4, &with(ipv4(60), 3, 19)),
            DropReason::IpTotalLength,
        ),
        refused(
            "port_total_length_beyond_frame",
            Layer3,
            from_tenant(IPV4, &with(ipv4(60), 3, 61)),
            DropReason::IpTotalLength,
        ),
        refused(
            "port_payload_length_beyond_frame",
            Layer3,
            from_tenant(IPV6, &with(udp6(20), 5, 21)),
            DropReason::IpTotalLength,
        ),
        refused("port_too_long", Layer3, from_tenant(IPV4, &ipv4(FULL + 1)), DropReason::TooLong),
        refused("port_too_long_ipv6", Layer2, from_tenant(IPV6, &udp6(FULL - 39)), DropReason::TooLong),
        refused("port_gso_segments_too_long", Layer3, from_tenant(IPV4, &ipv4_tcp(3000)), DropReason::TooLong)
            .gso(MTU - 51),
    ]
}

fn arp_from_ports() -> Vec<Case> {
    use Device::{Layer2, Layer3};
    let reply = eth(GATEWAY, TENANT, ARP, &arp(2, TENANT, US, THEM));
    let padded = [question(US, THEM), vec![0; 18]].concat();
    let mut answer = eth(TENANT, GATEWAY, ARP, &arp(2, GATEWAY, THEM, US));
    answer[32..38].copy_from_slice(&TENANT);
    let padded_answer = [answer.clone(), vec![0; 18]].concat();
    let malformed = |at: usize, value| with(question(US, THEM), 14 + at, value);
    vec![
        answered("port_arp_answered", question(US, THEM), answer.clone()),
        answered("port_arp_padded", padded, padded_answer),
        answered("port_arp_burst", question(US, THEM), answer).times(2),
        passes("port_arp_reply", Layer3, reply.clone()),
        passes("port_arp_layer_2", Layer2, question(US, THEM)),
        passes("port_arp_announcement_layer_2", Layer2, question(US, US)),
        passes("port_arp_probe_layer_2", Layer2, question([0; 4], US)),
        refused("port_arp_rate", Layer3, question(US, THEM), DropReason::ArpRate).times(3),
        refused("port_arp_replies_policed", Layer3, reply, DropReason::ArpPoliced).times(3),
        refused("port_arp_policed", Layer2, question(US, THEM), DropReason::ArpPoliced).times(3),
        refused("port_arp_probe", Layer3, question([0; 4], US), DropReason::ArpSilent),
        refused("port_arp_announcement", Layer3, question(US, US), DropReason::ArpSilent),
        refused("port_arp_outside", Layer3, question(US, [192, 168, 2, 1]), DropReason::ArpOutside),
        refused("port_arp_for_broadcast", Layer3, question(US, [255; 4]), DropReason::ArpOutside),
        refused(
            "port_arp_other_sender",
            Layer2,
            eth(BROADCAST, TENANT, ARP, &arp(1, STRANGER, US, THEM)),
            DropReason::SourceMac,
        ),
        refused("port_arp_hardware", Layer2, malformed(1, 6), DropReason::ArpMalformed),
        refused("port_arp_protocol", Layer2, malformed(2, 0x86), DropReason::ArpMalformed),
        refused("port_arp_hardware_length", Layer3, malformed(4, 8), DropReason::ArpMalformed),
        refused("port_arp_protocol_length", Layer3, malformed(5, 16), DropReason::ArpMalformed),
        refused("port_arp_operation", Layer3, malformed(7, 3), DropReason::ArpMalformed),
    ]
}

fn nd_from_ports() -> Vec<Case> {
    use Device::{Layer2, Layer3};
    let (us, them) = (v6(1, 1), v6(1, 10));
    let group = |host| [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host];
    let link = |kind, host| eth([0x33, 0x33, 0, 0, 0, host], TENANT, IPV6, &icmpv6(kind, us, group(host), &[0; 20]));
    let ask = solicit(us, them, Some(TENANT));
    let told = eth(TENANT, GATEWAY, IPV6, &advertisement(them, us, GATEWAY));
    let advertise = from_tenant(IPV6, &advertisement(us, them, TENANT));
    // RFC 3810: router alert in a hop-by-hop header, then the report.
    let report = [&[58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 0][..]].concat();
    let report = eth([0x33, 0x33, 0, 0, 0, 22], TENANT, IPV6, &ipv6(0, us, group(22), &report));
    let echo = from_tenant(IPV6, &icmpv6(128, us, them, &[0; 4]));
    let options = from_tenant(IPV6, &ipv6(0, us, them, &[&[17, 0, 1, 4, 0, 0, 0, 0][..], &[0; 20]].concat()));
    vec![
        answered("port_nd_answered", ask.clone(), told.clone()),
        answered("port_nd_without_option", solicit(us, them, None), told.clone()),
        answered("port_nd_long_options", solicit_long(us, them), told),
        passes("port_nd_advertisement", Layer3, advertise.clone()),
        passes("port_nd_layer_2", Layer2, ask.clone()),
        passes("port_rs_layer_2", Layer2, link(133, 2)),
        passes("port_mld_layer_2", Layer2, report.clone()),
        passes("port_echo", Layer3, echo),
        passes("port_hop_by_hop", Layer3, options),
        refused("port_nd_rate", Layer3, ask.clone(), DropReason::NdRate).times(3),
        refused("port_nd_policed", Layer2, ask.clone(), DropReason::NdPoliced).times(3),
        refused("port_advertisements_policed", Layer3, advertise, DropReason::NdPoliced).times(3),
        refused("port_nd_duplicate_probe", Layer3, solicit([0; 16], us, None), DropReason::NdSilent),
        refused("port_nd_own_address", Layer3, solicit(us, us, Some(TENANT)), DropReason::NdSilent),
        refused("port_nd_outside", Layer3, solicit(us, v6(2, 1), Some(TENANT)), DropReason::NdOutside),
        refused("port_nd_hop_limit", Layer3, with(ask.clone(), 14 + 7, 64), DropReason::NdMalformed),
        refused("port_nd_code", Layer3, with(ask.clone(), 14 + 40 + 1, 1), DropReason::NdMalformed),
        refused("port_nd_short", Layer3, nd_short(us, them), DropReason::NdMalformed),
        refused("port_nd_multicast_target", Layer3, with(ask, 14 + 40 + 8, 0xff), DropReason::NdMalformed),
        refused("port_rs", Layer3, link(133, 2), DropReason::LinkLocalScope),
        refused("port_ra", Layer3, link(134, 1), DropReason::LinkLocalScope),
        refused("port_redirect", Layer3, link(137, 1), DropReason::LinkLocalScope),
        refused("port_mld_1", Layer3, link(131, 22), DropReason::LinkLocalScope),
        refused("port_mld_2", Layer3, report, DropReason::LinkLocalScope),
    ]
}

/// A solicitation that ends within its target.
fn nd_short(source: V6, target: V6) -> Vec<u8> {
    from_tenant(IPV6, &icmpv6(135, source, target, &[0; 19]))
}

/// A solicitation with a nonce option (RFC 3971) behind the usual one: longer than its answer.
fn solicit_long(source: V6, target: V6) -> Vec<u8> {
    let body = [&[0; 4][..], &target, &[1, 1], &TENANT, &[14, 1, 1, 2, 3, 4, 5, 6]].concat();
    eth(GATEWAY, TENANT, IPV6, &icmpv6(135, source, target, &body))
}
