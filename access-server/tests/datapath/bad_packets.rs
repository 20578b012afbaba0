//! Packet in, nothing out: every named drop, counted once, at the right VLAN, and nowhere else.

use access_server::datapath::DropReason;
use stackmap::TunnelKind;

use crate::bench::*;
use crate::craft::*;

/// Breaks one thing in an otherwise good frame.
fn broken(mut frame: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut frame);
    frame
}

/// The same in the outer IPv4 header, whose checksum then is right again.
fn broken4(frame: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = broken(frame, change);
    fix(&mut frame[14..]);
    frame
}

pub fn bad_outer_headers() {
    use DropReason as R;
    let mut bench = Bench::new("badout");
    let good = |bench: &Bench, site: usize| bench.outer(site, &inner_of(site, false)).frame();
    let wan = |bench: &mut Bench, frame: Vec<u8>, reason| bench.dropped("wan_ingress", &frame, 0, reason);
    let b = &mut bench;

    let mut stranger = b.outer(0, &inner4());
    stranger.src = "198.51.100.99".into();
    wan(b, stranger.frame(), R::UnknownTunnel);
    let mut other = b.outer(1, &inner_of(1, false));
    other.payload[7] = 99;
    wan(b, other.frame(), R::UnknownKey);
    other.payload = gre(0, IP4, None, &inner4().bytes()); // no key is another tunnel than key 0
    wan(b, other.frame(), R::UnknownKey);
    let kind = ip("198.51.1.2", "198.51.1.1", 17, &vxlan(1, &inner4().frame()));
    wan(b, kind.frame(), R::UnknownKey);

    wan(b, ip("198.51.2.2", "198.51.2.1", 47, &[0x20, 0]).frame(), R::OuterTruncated);
    wan(b, ip("198.51.2.2", "198.51.2.1", 47, &[0x20, 0, 8, 0, 0, 0]).frame(), R::OuterTruncated);
    wan(b, ip("198.51.3.2", "198.51.3.1", 17, &udp(1, 4789, &[8, 0, 0])).frame(), R::OuterTruncated);
    wan(b, broken4(good(b, 0), |f| f[14] = 0x55), R::OuterHeader);
    wan(b, broken(good(b, 0), |f| f[14] = 0x44), R::OuterHeader);
    wan(b, broken4(good(b, 0), |f| f[16..18].copy_from_slice(&2000u16.to_be_bytes())), R::OuterLength);
    wan(b, broken4(good(b, 0), |f| f[16..18].copy_from_slice(&0u16.to_be_bytes())), R::OuterLength);
    wan(b, broken4(good(b, 0), |f| f[16..18].copy_from_slice(&19u16.to_be_bytes())), R::OuterLength);
    wan(b, broken(good(b, 4), |f| f[18..20].copy_from_slice(&0u16.to_be_bytes())), R::OuterLength);
    wan(b, broken(good(b, 4), |f| f[18..20].copy_from_slice(&2000u16.to_be_bytes())), R::OuterLength);
    wan(b, broken(good(b, 3), |f| f[39] = 1), R::OuterLength); // UDP's length
    wan(b, broken(good(b, 0), |f| f[24] ^= 1), R::OuterChecksum);
    wan(b, broken4(good(b, 0), |f| f[20] = 0x20), R::OuterFragment);
    wan(b, broken4(good(b, 0), |f| f[21] = 9), R::OuterFragment);
    wan(b, broken4(good(b, 3), |f| f[20] = 0x20), R::OuterFragment);
    for (next, payload) in [(4, inner4().bytes()), (47, gre(0, IP4, None, &inner4().bytes())), (17, vxlan(5, &[0; 60]))]
    {
        let fragment = [&[next, 0, 0, 1, 0, 0, 0, 1][..], &payload].concat();
        wan(b, ip("2001:db8:4::2", "2001:db8:4::1", 44, &fragment).frame(), R::OuterFragment);
    }
    wan(b, b.outer(0, &inner4()).options(&[1, 1, 1, 0]).frame(), R::OuterOptions);
    let options = [&[4, 1, 4, 1, 4, 1, 0, 0, 1, 8, 0, 0, 0, 0, 0, 0][..], &inner4().bytes()].concat();
    wan(b, ip("2001:db8:4::2", "2001:db8:4::1", 60, &options).frame(), R::OuterOptions);
    for flags in [0xa000, 0x3000, 0x2001, 0x6000, 0x2800] {
        let payload = gre(flags, IP4, Some(7), &inner4().bytes());
        wan(b, ip("198.51.2.2", "198.51.2.1", 47, &payload).frame(), R::GreFlags);
    }
    let bridged = gre(0x2000, 0x6558, Some(7), &inner4().frame());
    wan(b, ip("198.51.2.2", "198.51.2.1", 47, &bridged).frame(), R::GreProtocol);
    wan(b, broken(good(b, 3), |f| f[42] = 0), R::VxlanHeader);
    wan(b, broken(good(b, 3), |f| f[43] = 0x80), R::VxlanHeader);
    wan(b, broken(good(b, 3), |f| f[49] = 1), R::VxlanHeader);
}

pub fn bad_inner_packets() {
    use DropReason as R;
    let mut bench = Bench::new("badin");
    let b = &mut bench;
    let carry = |b: &Bench, site: usize, payload: &[u8]| {
        let mut outer = b.outer(site, &inner4());
        outer.payload = match b.sites[site].kind {
            TunnelKind::Ipip => payload.to_vec(),
            TunnelKind::Gre => gre(if site == 5 { 0 } else { 0x2000 }, IP4, b.sites[site].key, payload),
            TunnelKind::Vxlan => vxlan(5, &eth(IP4, payload)),
        };
        outer.frame()
    };
    let inner = inner4().bytes();
    for (site, vlan) in [(0, 600), (3, 602), (4, 603), (5, 604), (6, 605)] {
        let mut wan = |payload: &[u8], reason| b.dropped("wan_ingress", &carry(b, site, payload), vlan, reason);
        wan(&inner[..12], R::InnerTruncated);
        wan(&broken(inner.clone(), |p| p[0] = 0x65), R::InnerHeader);
        wan(&broken(inner.clone(), |p| p[0] = 0x43), R::InnerHeader);
        for len in [0u16, 19, 500, 65535] {
            let wrong = broken(inner.clone(), |p| {
                p[2..4].copy_from_slice(&len.to_be_bytes());
                fix(p);
            });
            wan(&wrong, R::InnerLength);
        }
        wan(&broken(inner.clone(), |p| p[8] ^= 3), R::InnerChecksum);
        let options = inner4().options(&[7, 7, 4, 0, 0, 0, 0, 0]).bytes();
        wan(&broken(options, |p| p[22] ^= 4), R::InnerChecksum);
    }
    // IPv6 inside.
    let six = |b: &Bench, packet: &[u8]| {
        let mut outer = b.outer(0, &inner6());
        outer.payload = packet.to_vec();
        outer.frame()
    };
    let inner = inner6().bytes();
    for (packet, reason) in [
        (inner[..30].to_vec(), R::InnerTruncated),
        (broken(inner.clone(), |p| p[0] = 0x45), R::InnerHeader),
        (broken(inner.clone(), |p| p[5] = 200), R::InnerLength),
        (broken(inner.clone(), |p| p[4..7].copy_from_slice(&[0, 0, 0])), R::InnerLength), // jumbogram
    ] {
        b.dropped("wan_ingress", &six(b, &packet), 600, reason);
    }
    // Frames.
    let frames = [
        (eth(0x8100, &[0, 5, 8, 0, 0x45, 0, 0, 0]), R::InnerTagged),
        (eth(0x88a8, &[0; 40]), R::InnerTagged),
        (eth(0x88cc, &[0; 40]), R::InnerEthertype),
        (eth(ARP, &[0; 20]), R::InnerTruncated),
        (vec![0; 10], R::InnerTruncated),
    ];
    for (frame, reason) in frames {
        let mut outer = b.outer(3, &inner4());
        outer.payload = vxlan(5, &frame);
        b.dropped("wan_ingress", &outer.frame(), 602, reason);
    }
    // Whose source is it?
    for (site, source, ok) in [
        (1, "10.1.2.3", true),
        (1, "10.2.2.3", false),
        (1, "10.1.9.3", false),
        (2, "10.1.9.3", true),
        (2, "10.3.0.1", false),
    ] {
        let mut inner = inner4();
        inner.src = source.into();
        let frame = b.outer(site, &inner).frame();
        if ok {
            b.taken("wan_ingress", &frame);
        } else {
            b.dropped("wan_ingress", &frame, 601, R::InnerSource);
        }
    }
    // An error whose time is up is not answered by an error.
    for error in [ip(HOST, SERVER, 1, &[3; 40]).ttl(1), ip(HOST_6, SERVER_6, 58, &[3; 60]).ttl(0)] {
        b.dropped("wan_ingress", &b.outer(0, &error).frame(), 600, R::TtlExpired);
    }
    for (from, to) in [
        ("169.254.0.1", SERVER),
        (HOST, "224.0.0.5"),
        (HOST, "255.255.255.255"),
        ("127.0.0.1", SERVER),
        ("fe80::1", SERVER_6),
        (HOST_6, "ff02::1"),
        ("::1", SERVER_6),
    ] {
        b.dropped("wan_ingress", &b.outer(0, &ip(from, to, 17, &udp(1, 2, b"x"))).frame(), 600, R::LinkScope);
    }
}

pub fn bad_frames_on_the_trunk() {
    use DropReason as R;
    let mut bench = Bench::new("badtrunk");
    let b = &mut bench;
    let inner = ip(SERVER, HOST, 17, &udp(5, 6, b"hello"));
    let trunk = |b: &mut Bench, frame: Vec<u8>, vlan, reason| b.dropped("trunk_ingress", &frame, vlan, reason);
    trunk(b, inner.frame(), 0, R::Untagged);
    trunk(b, tagged(999, IP4, &inner.bytes()), 0, R::UnknownVlan);
    trunk(b, tagged(0, IP4, &inner.bytes()), 0, R::UnknownVlan);
    trunk(b, tagged(600, 0x8100, &tagged(601, IP4, &inner.bytes())[14..]), 600, R::TwoTags);
    trunk(b, eth(0x88a8, &tagged(600, IP4, &inner.bytes())[14..]), 0, R::TagType);
    trunk(b, tagged(600, 0x88cc, &[0; 40]), 600, R::Ethertype);
    trunk(b, tagged(601, IP4, &inner.bytes()), 601, R::NoSite);
    trunk(b, tagged(606, IP4, &inner.bytes()), 606, R::NoNextHop);
    trunk(b, tagged(600, IP4, &inner.bytes()[..10]), 600, R::InnerTruncated);
    trunk(b, tagged(600, IP4, &broken(inner.bytes(), |p| p[10] ^= 1)), 600, R::InnerChecksum);
    trunk(b, tagged(600, IP4, &ip(SERVER, "224.0.0.251", 17, &[0; 8]).bytes()), 600, R::LinkScope);
    trunk(b, tagged(600, IP6, &ip("fe80::2", HOST_6, 17, &[0; 8]).bytes()), 600, R::LinkScope);
    trunk(b, tagged(600, ARP, &arp(2, SERVER, HOST)), 600, R::ArpConsumed);
    trunk(b, tagged(600, ARP, &arp(1, SERVER, SERVER)), 600, R::ArpConsumed);
    trunk(b, tagged(600, ARP, &arp(1, "0.0.0.0", HOST)), 600, R::ArpConsumed);
    trunk(b, tagged(600, IP6, &solicitation("::", HOST_6)), 600, R::ArpConsumed);
    trunk(b, tagged(600, ARP, &[0; 12]), 600, R::ArpMalformed);
    trunk(b, tagged(601, ARP, &arp(1, "10.9.9.9", "10.3.0.1")), 601, R::NoSite);

    let long = ip(SERVER, HOST, 17, &udp(5, 6, &[7; 1460]));
    // Nobody listens to the slow path here.
    trunk(b, tagged(600, IP4, &long.bytes()), 600, R::FragLost);
    b.dropped_gso("trunk_ingress", &tagged(600, IP4, &long.bytes()), 1470, 600, R::FragGso);
    // An error about an error is not sent.
    let error = ip(SERVER, HOST, 1, &[[3, 4, 0, 0].as_slice(), &[0; 1480]].concat()).df();
    trunk(b, tagged(600, IP4, &error.bytes()), 600, R::TooLong);
    let question = tagged(600, ARP, &arp(1, SERVER, HOST));
    let exhausted = |b: &mut Bench, frame: &[u8], reason| {
        let limit = (0..2000).find(|_| {
            let before = b.counters();
            b.run("trunk_ingress", frame);
            news(&before, &b.counters()).contains(&(600, reason))
        });
        assert!(limit.is_some_and(|n| n > 50), "{reason}: {limit:?}");
    };
    exhausted(b, &question, R::ArpRate);
    exhausted(b, &tagged(600, IP4, &long.clone().df().bytes()), R::TooLongRate);
    exhausted(b, &tagged(600, IP4, &long.bytes()), R::FragRate);
    // Another tenant still has all of its own.
    b.taken("trunk_ingress", &tagged(603, ARP, &arp(1, SERVER, HOST)));
}

/// Every reason of the list is met by a test here, or named with the reason why it cannot be.
pub fn every_reason_is_tested() {
    use DropReason as R;
    let elsewhere = [
        R::FragSlowPath,    // path_mtu.rs: needs the user-space half
        R::Reencapsulation, // the fallback takes all we know
        R::EncapFailed,     // out of memory
        R::DecapFailed,     // out of memory
        R::OuterOverflow,   // a test run takes no packet of 64 KB
    ];
    let source = [include_str!("packets.rs"), include_str!("bad_packets.rs"), include_str!("path_mtu.rs")].concat();
    for reason in R::ALL {
        let named = source.matches(&format!("::{reason:?}")).count();
        assert!(named > 0 || elsewhere.contains(&reason), "no test for {reason}");
    }
}
