//! Packet in, packet out: every way through the programs, byte for byte.

use access_server::datapath::DropReason;
use stackmap::TunnelKind;

use crate::bench::*;
use crate::craft::*;
use crate::world::{Site, everything};

pub fn from_the_wan_to_the_trunk() {
    let bench = Bench::new("pin");
    for site in [0, 1, 2, 3, 4, 5, 6] {
        for v6 in [false, true] {
            if v6 && (site == 1 || site == 2) {
                continue; // their prefixes are IPv4
            }
            let mut inner = inner_of(site, v6).tos(0xb8);
            if !v6 {
                inner = inner.options(&[1, 1, 1, 0]);
            }
            let outer = bench.outer(site, &inner);
            let out = bench.taken("wan_ingress", &outer.frame());
            let vlan = bench.sites[site].vlan;
            let routed = bench.sites[site].kind != TunnelKind::Vxlan;
            let expected = if routed { inner.clone().ttl(63) } else { inner.clone() };
            assert_eq!(out[14..], expected.bytes(), "site {site} v6 {v6}");
            let [high, low] = vlan.to_be_bytes();
            if routed {
                assert_eq!(out[..12], [2, 0, 0, 1, high, low, 2, 0, 0, 2, high, low]);
            } else {
                assert_eq!(out[..12], inner.frame()[..12]);
            }
            assert_eq!(out[12..14], inner.kind().to_be_bytes());
            // Trailing bytes behind the outer packet (Ethernet's minimum length) do no harm.
            bench.taken("wan_ingress", &[outer.frame(), vec![0; 20]].concat());
        }
    }
    // RFC 2473: the encapsulation limit that ip6tnl adds.
    let inner = inner4();
    let mut limited = bench.outer(4, &inner);
    limited.payload = [&[4, 0, 4, 1, 4, 1, 0, 0][..], &inner.bytes()].concat();
    limited.proto = 60;
    assert_eq!(bench.taken("wan_ingress", &limited.frame())[14..], inner.ttl(63).bytes());
    // ARP through VXLAN, as it is.
    for site in [3, 6] {
        let frame = eth(ARP, &arp(1, HOST, SERVER));
        let mut outer = bench.outer(site, &inner4());
        outer.payload = vxlan(5, &frame);
        assert_eq!(bench.taken("wan_ingress", &outer.frame())[..42], frame);
    }
}

pub fn congestion_marks() {
    let mut bench = Bench::new("ecn");
    // RFC 6040 figure 4: (outer, inner) -> inner; None is a drop. ECT(1) is 1, ECT(0) is 2, CE is 3.
    let table = [
        [Some(0), Some(1), Some(2), Some(3)],
        [Some(0), Some(1), Some(1), Some(3)],
        [Some(0), Some(1), Some(2), Some(3)],
        [None, Some(3), Some(3), Some(3)],
    ];
    for (outer, line) in table.iter().enumerate() {
        for (inner, expected) in line.iter().enumerate() {
            for (site, v6) in [(0, false), (0, true), (3, false), (4, true)] {
                let packet = inner_of(site, v6).tos(0x28 | inner as u8);
                // The provider's DSCP is another one and must not get in.
                let frame = bench.outer(site, &packet).tos(0xb8 | outer as u8).frame();
                let Some(expected) = expected else {
                    bench.dropped("wan_ingress", &frame, bench.sites[site].vlan, DropReason::EcnCeNotEct);
                    continue;
                };
                let ttl = if site == 3 { 64 } else { 63 };
                let out = bench.taken("wan_ingress", &frame);
                assert_eq!(out[14..], packet.tos(0x28 | expected).ttl(ttl).bytes(), "{outer} {inner} {site}");
            }
        }
    }
}

pub fn from_the_trunk_to_the_wan() {
    let bench = Bench::new("pout");
    for site in [0, 1, 2, 3, 4, 5, 6] {
        for v6 in [false, true] {
            if v6 && (site == 1 || site == 2) {
                continue;
            }
            // The way back: server to host.
            let mut inner = inner_of(site, v6).tos(0x2a);
            std::mem::swap(&mut inner.src, &mut inner.dst);
            let Site { vlan, kind, .. } = bench.sites[site];
            let out = bench.taken("trunk_ingress", &tagged(vlan, inner.kind(), &inner.bytes()));
            let carried = if kind == TunnelKind::Vxlan { inner.clone() } else { inner.clone().ttl(63) };
            let mut expected = bench.outer(site, &carried);
            std::mem::swap(&mut expected.src, &mut expected.dst);
            expected = expected.tos(0x2a).df();
            let mut got = out[14..].to_vec();
            let mut expected = expected.bytes();
            if bench.sites[site].outer6 {
                // The flow label follows the flow.
                got[1..4].copy_from_slice(&[0; 3]);
                expected[1..4].copy_from_slice(&[0; 3]);
                assert_eq!(out[14] << 4 | out[15] >> 4, 0x2a);
            }
            if kind == TunnelKind::Vxlan {
                let at = if bench.sites[site].outer6 { 40 } else { 20 };
                let port = u16::from_be_bytes([got[at], got[at + 1]]);
                assert!(port >= 49152, "{port}");
                got[at..at + 2].copy_from_slice(&expected[at..at + 2]);
            }
            assert_eq!(got, expected, "site {site} v6 {v6}");
        }
    }
    for site in [3, 6] {
        let frame = arp(1, SERVER, HOST);
        let out = bench.taken("trunk_ingress", &tagged(bench.sites[site].vlan, ARP, &frame));
        assert_eq!(out[out.len() - 42..], eth(ARP, &frame));
    }
}

pub fn not_ours() {
    let bench = Bench::new("alone");
    let local = "198.51.1.1";
    let inner = inner4().bytes();
    for frame in [
        ip("198.51.1.2", local, 6, &[0; 40]).frame(),
        ip("198.51.1.2", local, 17, &udp(4789, 53, b"dns")).frame(),
        ip("198.51.1.2", local, 50, &[0; 40]).frame(),
        ip("198.51.1.2", "203.0.113.77", 4, &inner).frame(),
        ip("198.51.1.2", "203.0.113.77", 47, &gre(0x8000, IP4, None, &inner)).frame(),
        ip("2001:db8:1::2", "2001:db8:77::1", 41, &inner6().bytes()).frame(),
        ip("2001:db8:1::2", "2001:db8:1::1", 58, &[128, 0, 0, 0, 0, 0, 0, 0]).frame(),
        ip("2001:db8:1::2", "2001:db8:1::1", 44, &[6, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]).frame(),
        ip("2001:db8:1::2", "2001:db8:1::1", 60, &[6, 0, 1, 4, 0, 0, 0, 0]).frame(),
        eth(ARP, &arp(1, "198.51.1.2", local)),
        // Good in all but the Ethernet address, which is another machine's.
        [&[2, 0, 0, 0, 0, 1][..], &bench.outer(0, &inner4()).frame()[6..]].concat(),
        eth(0x88cc, &[0; 50]),
    ] {
        bench.left_alone("wan_ingress", &frame);
    }
    bench.left_alone("trunk_inject", &tagged(600, IP4, &inner));
}

pub fn answers_to_servers() {
    let bench = Bench::new("answers");
    let gateway = [2, 0, 0, 2, 0x02, 0x58];
    let out = bench.taken("trunk_ingress", &tagged(600, ARP, &arp(1, SERVER, HOST)));
    let mut answer = arp(2, HOST, SERVER);
    answer[8..14].copy_from_slice(&gateway);
    answer[18..24].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    assert_eq!(out[..6], [2, 0, 0, 0, 0, 9]);
    assert_eq!(out[6..12], gateway);
    assert_eq!(out[14..42], answer);

    let out = bench.taken("trunk_ingress", &tagged(600, IP6, &solicitation(SERVER_6, HOST_6)));
    assert_eq!((out.len(), &out[..6], &out[6..12]), (86, &[2, 0, 0, 0, 0, 9][..], &gateway[..]));
    let back = ip(HOST_6, SERVER_6, 58, &out[54..]).ttl(255);
    assert_eq!(out[14..], back.bytes());
    assert_eq!(transport_sum(&back, 58, &out[54..]), 0);
    assert_eq!((out[54], out[58] & 0xe0), (136, 0x60));
    assert_eq!(out[78..86], [[2, 1].as_slice(), &gateway].concat());
}

pub fn errors_to_senders() {
    let mut bench = Bench::new("errors");
    let told = |bench: &mut Bench, vlan: u16, packet: &Ip, reason: DropReason| {
        let frame = tagged(vlan, packet.kind(), &packet.bytes());
        let before = bench.counters();
        let (verdict, out) = bench.run("trunk_ingress", &frame);
        assert_eq!((verdict, news(&before, &bench.counters())), (REDIRECT, vec![(vlan, reason)]));
        assert_eq!(out[..12], [&frame[6..12], &frame[..6]].concat());
        out
    };
    for (vlan, mtu) in [(600, 1480u32), (602, 1450), (603, 1460), (604, 1456), (605, 1430)] {
        let long = ip(SERVER, HOST, 17, &udp(5, 6, &[7; 1460])).df();
        let out = told(&mut bench, vlan, &long, DropReason::TooLong);
        let quote = &long.bytes()[..128];
        let answer = ip(HOST, SERVER, 1, &out[34..]);
        assert_eq!(out[14..], answer.bytes());
        assert_eq!(out[34..36], [3, 4]);
        assert_eq!(out[38..42], mtu.to_be_bytes());
        assert_eq!((&out[42..], sum(&out[34..])), (quote, 0));

        let long = ip(SERVER_6, HOST_6, 17, &udp(5, 6, &[7; 1450]));
        let out = told(&mut bench, vlan, &long, DropReason::TooLong);
        let answer = ip(HOST_6, SERVER_6, 58, &out[54..]);
        assert_eq!(out[14..], answer.bytes());
        assert_eq!(out[54..56], [2, 0]);
        assert_eq!(out[58..62], mtu.to_be_bytes());
        assert_eq!((&out[62..], transport_sum(&answer, 58, &out[54..])), (&long.bytes()[..128], 0));
    }
    // Traceroute's packets, short as they are.
    let last = ip(SERVER, HOST, 17, &udp(5, 33434, &[0; 10])).ttl(1);
    let out = told(&mut bench, 600, &last, DropReason::TtlExpired);
    assert_eq!((&out[34..36], &out[42..], sum(&out[34..])), (&[11, 0][..], &last.bytes()[..28], 0));
    let last = ip(SERVER_6, HOST_6, 17, &udp(5, 33434, &[0; 32])).ttl(1);
    let out = told(&mut bench, 600, &last, DropReason::TtlExpired);
    let answer = ip(HOST_6, SERVER_6, 58, &out[54..]);
    assert_eq!((&out[54..56], transport_sum(&answer, 58, &out[54..])), (&[3, 0][..], 0));
}

/// Traceroute from the customer's side: the answer goes back through the tunnel.
pub fn errors_through_the_tunnel() {
    let bench = Bench::new("bounce");
    for site in [0, 1, 4, 5] {
        for v6 in [false, true] {
            if v6 && site == 1 {
                continue;
            }
            let mut last = inner_of(site, v6).ttl(1);
            last.payload = udp(5, 33434, &[0; 32]);
            let before = bench.counters();
            let (verdict, out) = bench.run("wan_ingress", &bench.outer(site, &last).frame());
            let vlan = bench.sites[site].vlan;
            assert_eq!((verdict, news(&before, &bench.counters())), (REDIRECT, vec![(vlan, DropReason::TtlExpired)]));
            let quote = if v6 { 64 } else { 52 };
            let icmp = out[out.len() - 8 - quote..].to_vec();
            let error = ip(&last.dst, &last.src, if v6 { 58 } else { 1 }, &icmp);
            let mut expected = bench.outer(site, &error).df();
            std::mem::swap(&mut expected.src, &mut expected.dst);
            let (mut got, mut expected) = (out[14..].to_vec(), expected.bytes());
            if bench.sites[site].outer6 {
                got[1..4].copy_from_slice(&[0; 3]);
                expected[1..4].copy_from_slice(&[0; 3]);
            }
            assert_eq!(got, expected, "site {site} v6 {v6}");
            assert_eq!(icmp[..2], if v6 { [3, 0] } else { [11, 0] });
            let right = if v6 { transport_sum(&error, 58, &icmp) } else { sum(&icmp) };
            assert_eq!((right, &icmp[8..]), (0, &last.bytes()[..quote]));
        }
    }
}

pub fn segment_size_is_lowered() {
    let bench = Bench::new("syn");
    // The option where it usually stands, behind padding (at an odd place), small enough already, and missing.
    let places: [(&[u8], u16); 4] = [
        (&[2, 4, 0x05, 0xb4, 1, 1, 1, 0], 0),
        (&[1, 2, 4, 0x05, 0xb4, 1, 1, 0], 1),
        (&[8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 2, 4, 0xff, 0xff], 12),
        (&[2, 4, 0x02, 0x00, 1, 1, 1, 0], 99),
    ];
    for (options, at) in places {
        for v6 in [false, true] {
            let (from, to) = if v6 { (SERVER_6, HOST_6) } else { (SERVER, HOST) };
            let mut out = ip(from, to, 6, &[]);
            out.payload = syn(&out, options);
            let mut into = ip(to, from, 6, &[]);
            into.payload = syn(&into, options);
            // IPIP over IPv4 takes 1,480.
            let mss: u16 = if v6 { 1420 } else { 1440 };
            let wan = bench.outer(0, &into).frame();
            let trunk = tagged(600, out.kind(), &out.bytes());
            for (program, frame, packet) in [("wan_ingress", wan, &into), ("trunk_ingress", trunk, &out)] {
                let got = bench.taken(program, &frame);
                let tcp = &got[got.len() - packet.payload.len()..];
                assert_eq!(transport_sum(packet, 6, tcp), 0, "{program} {options:x?}");
                let mut expected = packet.payload.clone();
                if at != 99 {
                    let at = 20 + usize::from(at) + 2;
                    expected[at..at + 2].copy_from_slice(&mss.to_be_bytes());
                    expected[16..18].copy_from_slice(&tcp[16..18]);
                }
                assert_eq!(tcp, expected, "{program}");
            }
        }
    }
}

pub fn what_routers_say() {
    let mut bench = Bench::new("learn");
    let say4 = |bench: &Bench, mtu: u16, quoted: &Ip| {
        let mut icmp = vec![3, 4, 0, 0, 0, 0];
        icmp.extend(mtu.to_be_bytes());
        icmp.extend(&quoted.bytes()[..28]);
        bench.left_alone("wan_ingress", &ip("192.0.2.1", &quoted.src, 1, &icmp).frame());
    };
    let say6 = |bench: &Bench, mtu: u32, quoted: &Ip| {
        let mut icmp = vec![2, 0, 0, 0];
        icmp.extend(mtu.to_be_bytes());
        icmp.extend(&quoted.bytes()[..200]);
        bench.left_alone("wan_ingress", &ip("2001:db8:99::1", &quoted.src, 58, &icmp).frame());
    };
    let sent = |bench: &Bench, site: usize| {
        let mut sent = bench.outer(site, &ip(HOST, SERVER, 17, &[0; 1400]));
        std::mem::swap(&mut sent.src, &mut sent.dst);
        sent
    };
    let known = |bench: &mut Bench, site: usize| {
        let id = bench.sites[site].id();
        bench.world.dp().path_mtu(&id).unwrap().map(|p| (p.outer, p.inner))
    };
    // Never above what was sent, never for a path that is not ours, never for what is no tunnel.
    let quoted = sent(&bench, 0);
    say4(&bench, 1450, &quoted);
    let mut foreign = quoted.clone();
    foreign.dst = "198.51.100.99".into();
    say4(&bench, 1300, &foreign);
    let mut plain = quoted.clone();
    plain.proto = 6;
    say4(&bench, 1300, &plain);
    assert_eq!(known(&mut bench, 0), None);
    say4(&bench, 1400, &quoted);
    assert_eq!(known(&mut bench, 0), Some((1400, 1380)));
    say4(&bench, 1410, &quoted); // not raised
    assert_eq!(known(&mut bench, 0), Some((1400, 1380)));
    say4(&bench, 100, &quoted); // RFC 791's least
    assert_eq!(known(&mut bench, 0), Some((576, 556)));
    // And is obeyed: the sender hears the new number.
    let long = ip(SERVER, HOST, 17, &[0; 600]).df();
    let (_, out) = bench.run("trunk_ingress", &tagged(600, IP4, &long.bytes()));
    assert_eq!(out[38..42], 556u32.to_be_bytes());
    // Two tunnels of one path, one VXLAN port quoted: both know.
    say4(&bench, 1300, &sent(&bench, 1));
    assert_eq!(known(&mut bench, 2), Some((1300, 1272)));
    let mut vxlan = sent(&bench, 3);
    say4(&bench, 1300, &vxlan);
    assert_eq!(known(&mut bench, 3), Some((1300, 1250)));
    // Our own destination port is what makes it VXLAN.
    vxlan.payload[2..4].copy_from_slice(&53u16.to_be_bytes());
    say4(&bench, 1200, &vxlan);
    assert_eq!(known(&mut bench, 3), Some((1300, 1250)));
    let quoted = sent(&bench, 4);
    say6(&bench, 1380, &quoted);
    assert_eq!(known(&mut bench, 4), Some((1380, 1340)));
    say6(&bench, 600, &quoted);
    assert_eq!(known(&mut bench, 4), Some((1280, 1240)));
    // IPv6 inside never goes below 1,280 (RFC 8200).
    let six = ip(SERVER_6, HOST_6, 17, &[0; 1240]);
    bench.taken("trunk_ingress", &tagged(603, IP6, &six.bytes()));
    // A changed tunnel on the same path keeps what is known; a path nobody uses is forgotten.
    let mut row = bench.world.row(&[(&bench.sites[4], everything())]);
    row.tunnels[0].next_hop.as_mut().unwrap().via = "2001:db8:4::77".parse().unwrap();
    bench.world.dp().put_vlan(&row).unwrap();
    assert_eq!(known(&mut bench, 4), Some((1280, 1240)));
    bench.world.dp().delete_vlan(row.vlan).unwrap();
    assert_eq!(known(&mut bench, 4), None);
}
