//! Frames by hand from a tenant's own packet socket, over a real veth: what a test run cannot take (whole IP headers
//! missing, super-packets near 64 KB), a hostile tenant's tags and addresses, and numbers that must add up.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use vlan_rs::{DropReason, Layer, PortConfig, RateLimit};

use crate::frames::*;
use crate::veth::{Side, port, two_rooms};
use crate::world::Netns;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("frames_without_whole_headers_are_named", frames_without_whole_headers_are_named),
    ("super_packets_leave_room_for_outer_headers", super_packets_leave_room_for_outer_headers),
    ("a_tenant_cannot_choose_its_tag_or_mac", a_tenant_cannot_choose_its_tag_or_mac),
    ("neighbour_rates_hold", neighbour_rates_hold),
    ("rubbish_is_dropped_and_the_next_ping_answered", rubbish_is_dropped_and_the_next_ping_answered),
];

/// `struct virtio_net_hdr` of `<linux/virtio_net.h>`: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
type VnetHeader = [u8; 10];
const GSO_TCPV4: u8 = 1;
const NEEDS_CHECKSUM: u8 = 1;

/// A packet socket that takes a virtio header before each frame.
struct PacketSocket(OwnedFd);

impl PacketSocket {
    fn open(netns: &Netns, device: &str) -> Self {
        let ifindex = netns.ifindex(device);
        netns.run(|| {
            // SAFETY: a call without pointers; what it returns is ours.
            let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
            assert!(fd >= 0, "packet socket: {}", std::io::Error::last_os_error());
            // SAFETY: a new descriptor that nobody else has.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            let on: libc::c_int = 1;
            // SAFETY: a value of the size given.
            let rc = unsafe {
                let value = std::ptr::from_ref(&on).cast();
                libc::setsockopt(
                    fd,
                    libc::SOL_PACKET,
                    libc::PACKET_VNET_HDR,
                    value,
                    size_of_val(&on) as libc::socklen_t,
                )
            };
            assert_eq!(rc, 0);
            let address = libc::sockaddr_ll {
                sll_family: libc::AF_PACKET as u16,
                sll_protocol: 0,
                sll_ifindex: ifindex.try_into().unwrap(),
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            };
            // SAFETY: an address of the size given.
            let rc = unsafe {
                let pointer = std::ptr::from_ref(&address).cast();
                libc::bind(fd, pointer, size_of_val(&address) as libc::socklen_t)
            };
            assert_eq!(rc, 0);
            Self(socket)
        })
    }

    fn send(&self, header: VnetHeader, frame: &[u8]) {
        let all = [&header[..], frame].concat();
        let sent = nix::sys::socket::send(self.0.as_raw_fd(), &all, nix::sys::socket::MsgFlags::empty());
        assert_eq!(sent, Ok(all.len()));
    }

    fn send_plain(&self, frame: &[u8]) {
        self.send([0; 10], frame);
    }
}

/// A tenant that says nothing by itself on VLAN 600, at the server's side.
fn quiet_tenant(server: &mut Side, change: impl FnOnce(PortConfig) -> PortConfig) -> (Netns, PacketSocket) {
    let tenant = Netns::silent();
    let ifindex = server.netns.veth("p600", &tenant, "dev0", 65_535);
    server.put(&change(port(ifindex, server.trunk, 600, 1)));
    let socket = PacketSocket::open(&tenant, "dev0");
    (tenant, socket)
}

/// Waits until the port's drops are exactly these.
fn drops_become(server: &Side, wanted: &[(DropReason, u64)]) {
    let end = Instant::now() + Duration::from_secs(30);
    let wanted = wanted.iter().copied().collect();
    while server.counters(600).drops != wanted && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(server.counters(600).drops, wanted);
}

fn frames_without_whole_headers_are_named() {
    let (mut server, _site) = two_rooms();
    let (_tenant, socket) = quiet_tenant(&mut server, |config| config);
    for (kind, packet) in [(IPV4, ipv4(60)), (IPV6, ipv6(17, v6(1, 1), v6(1, 10), &[0; 20]))] {
        let header = if kind == IPV4 { 20 } else { 40 };
        for length in 0..header {
            socket.send_plain(&eth(GATEWAY, TENANT, kind, &packet[..length]));
        }
    }
    drops_become(&server, &[(DropReason::Truncated, 60)]);
    assert_eq!(server.counters(600).tx_packets, 0);
}

/// A TCP super-packet of this length from the IP header on.
fn super_packet(length: usize) -> (VnetHeader, Vec<u8>) {
    let mut packet = ipv4_tcp(length);
    packet[20 + 12] = 5 << 4;
    let header_length = (14u8 + 20 + 20).to_le_bytes()[0];
    let gso_size = 1000u16.to_le_bytes();
    // Checksum from the TCP header (34) on, at its offset 16.
    let header = [NEEDS_CHECKSUM, GSO_TCPV4, header_length, 0, gso_size[0], gso_size[1], 34, 0, 16, 0];
    (header, eth(GATEWAY, TENANT, IPV4, &packet))
}

fn super_packets_leave_room_for_outer_headers() {
    let (mut server, _site) = two_rooms();
    let (_tenant, socket) = quiet_tenant(&mut server, |config| config);
    // 65,535 less 80 for the outer headers is the longest that goes on. (The sender's device cuts what is longer than
    // its gso_max_size of 65,536 with its Ethernet header, so there is a window of a few bytes to see this.)
    let (header, frame) = super_packet(65_455);
    socket.send(header, &frame);
    let end = Instant::now() + Duration::from_secs(30);
    while server.counters(600) == vlan_rs::Counters::default() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    drops_become(&server, &[]);
    let (header, frame) = super_packet(65_456);
    socket.send(header, &frame);
    drops_become(&server, &[(DropReason::GsoTooLong, 1)]);
    let counters = server.counters(600);
    assert_eq!((counters.tx_packets, counters.tx_bytes), (1, 65_455 + 14));
}

fn a_tenant_cannot_choose_its_tag_or_mac() {
    let (mut server, mut site) = two_rooms();
    let (_tenant, socket) = quiet_tenant(&mut server, |config| config);
    let _victim = site.tenant(601, 10);
    let before = site.counters(601).rx_packets;
    let plain = eth(BROADCAST, TENANT, IPV4, &ipv4(60));
    for _ in 0..10 {
        socket.send_plain(&tagged(DOT1Q, 601, &plain));
        socket.send_plain(&tagged(DOT1AD, 601, &plain));
        socket.send_plain(&tagged(DOT1Q, 600, &tagged(DOT1Q, 601, &plain)));
        socket.send_plain(&eth(BROADCAST, STRANGER, IPV4, &ipv4(60)));
        socket.send_plain(&eth(BROADCAST, TENANT, ARP, &arp(2, STRANGER, [192, 168, 1, 1], [192, 168, 1, 10])));
    }
    drops_become(&server, &[(DropReason::TaggedFromPort, 30), (DropReason::SourceMac, 20)]);
    assert_eq!(server.counters(600).tx_packets, 0);
    assert_eq!(site.counters(601).rx_packets, before);
}

fn neighbour_rates_hold() {
    let (mut server, _site) = two_rooms();
    let (_tenant, socket) = quiet_tenant(&mut server, |config| PortConfig {
        layer: Layer::Three,
        answer: vec!["192.168.1.0/24".parse().unwrap()],
        neighbour_rate: RateLimit { per_second: 50, burst: 20 },
        ..config
    });
    let question = eth(BROADCAST, TENANT, ARP, &arp(1, TENANT, [192, 168, 1, 1], [192, 168, 1, 10]));
    let start = Instant::now();
    let mut sent = 0u64;
    // What a bucket answers to questions at these times: when nobody asks, because the machine stands still, it is full
    // after a while and gets no fuller.
    let (mut tokens, mut last, mut least) = (20.0f64, start, -5.0);
    while start.elapsed() < Duration::from_secs(1) || sent <= 200 {
        let now = Instant::now();
        tokens = (tokens + 50.0 * (now - last).as_secs_f64()).min(20.0);
        last = now;
        if tokens >= 1.0 {
            tokens -= 1.0;
            least += 1.0;
        }
        socket.send_plain(&question);
        sent += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    // Not yet looked at is not dropped either.
    let end = start + Duration::from_secs(30);
    loop {
        let most = 20.0 + 50.0 * start.elapsed().as_secs_f64() + 2.0;
        let dropped = server.counters(600).drops.get(&DropReason::ArpRate).copied().unwrap_or(0);
        let answered = (sent - dropped) as f64;
        if answered <= most || Instant::now() > end {
            assert!((least..=most).contains(&answered), "{answered} answers, of {least} to {most}");
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// 20,000 frames of chance: nothing but their count may come of them.
fn rubbish_is_dropped_and_the_next_ping_answered() {
    let (mut server, mut site) = two_rooms();
    let (tenant, socket) = quiet_tenant(&mut server, |config| config);
    let host = site.tenant(600, 10);
    let mut state = 0x2545_f491_u32;
    let mut next = |below: u32| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state % below
    };
    let before = server.counters(600);
    for _ in 0..20_000 {
        let kind = [IPV4, IPV6, ARP, DOT1Q, DOT1AD, 0x88cc][next(6) as usize];
        // The kernel itself drops a tagged frame without 6 bytes more, before any filter sees it.
        let least = if matches!(kind, DOT1Q | DOT1AD) { 6 } else { 0 };
        let mut payload: Vec<u8> = (0..least + next(114)).map(|_| next(256) as u8).collect();
        // Half of them get a likely first byte and, for IPv6, ICMPv6 as next header.
        if let Some(first) = payload.first_mut().filter(|_| next(2) == 0) {
            *first = if kind == IPV4 { 0x45 } else { 0x60 };
        }
        if let Some(header) = payload.get_mut(6).filter(|_| kind == IPV6 && next(2) == 0) {
            *header = 58;
        }
        socket.send_plain(&eth(BROADCAST, TENANT, kind, &payload));
    }
    let total = |side: &Side| {
        let counters = side.counters(600);
        counters.tx_packets + counters.drops.values().sum::<u64>()
    };
    let end = Instant::now() + Duration::from_secs(30);
    let sum_before = before.tx_packets + before.drops.values().sum::<u64>();
    while total(&server) < sum_before + 20_000 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(total(&server) >= sum_before + 20_000, "{:?}", server.counters(600));
    tenant.ip("link set dev dev0 address 02:00:00:00:00:01");
    tenant.ip("address add 192.168.1.1/24 dev dev0");
    host.sh("ping -c 1 -W 10 192.168.1.1");
}
