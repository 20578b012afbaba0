//! Real packets end to end: host - gateway - tunnel - access server - trunk - tenant.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use access_server::datapath::DropReason;
use stackmap::{TunnelKind, Vlan};

use crate::net::{exec, inside, ip};
use crate::world::{HOST4, HOST6, SERVER4, SERVER6, Site, World, everything};

/// How long what must come is waited for: no promise, only no waiting for ever.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn addr(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

pub fn any(ip: &str) -> &'static str {
    if ip.contains(':') { "::" } else { "0.0.0.0" }
}

/// Bytes that betray any loss, repetition or exchange.
pub fn pattern(len: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_u32;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            x as u8
        })
        .collect()
}

/// One TCP transfer from `from` to `to`, byte-identical.
pub fn transfer(from: &str, to: &str, ip: &str, len: usize) {
    let listener = inside(to, || TcpListener::bind(addr(ip, 7000)).unwrap());
    let sent = pattern(len);
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        got
    });
    inside(from, || {
        let mut stream = TcpStream::connect_timeout(&addr(ip, 7000), PATIENCE)
            .unwrap_or_else(|e| panic!("{from} -> {to} {ip}: {e}"));
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&sent).unwrap_or_else(|e| panic!("{from} -> {to} {ip}: {e}"));
    });
    assert!(receiver.join().unwrap() == sent, "{from} -> {to} {ip}: {len} bytes differ");
}

/// Echo server for UDP that answers with its own name until told `stop`.
fn name_server(ns: &str, ip: &str) -> std::thread::JoinHandle<()> {
    let socket = inside(ns, || UdpSocket::bind(addr(ip, 7001)).unwrap());
    socket.set_read_timeout(Some(2 * PATIENCE)).unwrap();
    let name = ns.to_owned();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            if &buffer[..len] == b"stop" {
                return;
            }
            socket.send_to(name.as_bytes(), peer).unwrap();
        }
    })
}

/// Asks who is at `ip`, from a fixed port, so that all 5-tuples are the same.
fn ask(from: &str, ip: &str) -> Option<String> {
    inside(from, || {
        let socket = UdpSocket::bind(addr(any(ip), 7002)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        for _ in 0..60 {
            socket.send_to(b"who", addr(ip, 7001)).unwrap();
            let mut buffer = [0; 64];
            if let Ok((len, _)) = socket.recv_from(&mut buffer) {
                return Some(String::from_utf8_lossy(&buffer[..len]).into_owned());
            }
        }
        None
    })
}

/// Who answers at `server` to `from` must be `to`.
pub fn reaches(from: &str, to: &str, server: &str) {
    let answers = name_server(to, server);
    assert_eq!(ask(from, server).as_deref(), Some(to), "{from} asks {server}");
    inside(to, || UdpSocket::bind(addr(any(server), 0)).unwrap().send_to(b"stop", addr(server, 7001)).unwrap());
    answers.join().unwrap();
}

/// Drops of a VLAN other than those named.
pub fn unexpected(world: &World, vlan: u16, expected: &[DropReason]) -> Vec<(DropReason, u64)> {
    let counters = world.datapath.as_ref().unwrap().counters().unwrap();
    let of = counters.into_iter().filter(|c| c.vlan == vlan).flat_map(|c| c.drops);
    of.filter(|(reason, _)| !expected.contains(reason)).collect()
}

/// Two customers with the same addresses, one behind our gateway (IPIP), one behind the kernel's vxlan device: each
/// reaches its own server, and each server its own host.
pub fn same_addresses_different_worlds() {
    let a = Site::new(1, 600, TunnelKind::Ipip, false, None);
    let b = Site::new(2, 601, TunnelKind::Vxlan, false, Some(77));
    let mut world = World::new("same", &[a, b]);
    world.open();
    let (row_a, row_b) = (world.row(&[(&a, everything())]), world.row(&[(&b, everything())]));
    world.dp().put_vlan(&row_a).unwrap();
    world.dp().put_vlan(&row_b).unwrap();
    world.add_tenant(&row_a, a.inner_mtu());
    world.add_tenant(&row_b, b.inner_mtu());
    world.add_our_gateway(&a, 1480);
    world.add_kernel_gateway(&b, 1450);

    for (server, host) in [(SERVER4, HOST4), (SERVER6, HOST6)] {
        for site in [&a, &b] {
            let (ten, customer) = (world.tenant(site.vlan), world.host(site));
            reaches(&customer, &ten, server);
            reaches(&ten, &customer, host);
            transfer(&customer, &ten, server, 2_000_000);
            transfer(&ten, &customer, host, 2_000_000);
        }
    }
    assert_eq!(world.dp().dump().unwrap(), [row_a, row_b]);
    let counters = world.dp().counters().unwrap();
    for vlan in [600, 601] {
        let c = counters.iter().find(|c| c.vlan == vlan).unwrap();
        assert!(c.rx_packets > 100 && c.rx_bytes > 4_000_000, "{c:?}");
        assert!(c.tx_packets > 100 && c.tx_bytes > 4_000_000, "{c:?}");
        assert_eq!(unexpected(&world, vlan, &[DropReason::LinkScope, DropReason::ArpConsumed]), []);
    }
    world.dp().delete_vlan(Vlan::new(600).unwrap()).unwrap();
    world.dp().delete_vlan(Vlan::new(600).unwrap()).unwrap();
    assert_eq!(world.dp().dump().unwrap().len(), 1);
}

/// Every kind, both outer families.
fn all_kinds() -> Vec<Site> {
    let kinds = [
        (TunnelKind::Ipip, None),
        (TunnelKind::Gre, None),
        (TunnelKind::Gre, Some(0xdead_beef)),
        (TunnelKind::Vxlan, Some(0x00ab_cdef)),
    ];
    let both = kinds.into_iter().flat_map(|(kind, key)| [(kind, key, false), (kind, key, true)]);
    both.zip(1..).map(|((kind, key, outer6), n)| Site::new(n, 600 + u16::from(n), kind, outer6, key)).collect()
}

fn transfers_of_every_kind(name: &str, offloads: bool) {
    let sites = all_kinds();
    let mut world = World::new(name, &sites);
    world.open();
    for site in &sites {
        let row = world.row(&[(site, everything())]);
        world.dp().put_vlan(&row).unwrap();
        world.add_tenant(&row, site.inner_mtu());
        world.add_our_gateway(site, site.inner_mtu());
        if !offloads {
            for (ns, dev) in [(world.host(site), "eth0"), (world.tenant(site.vlan), "dev0")] {
                exec(&ns, &format!("ethtool -K {dev} tso off gso off gro off tx off rx off"));
            }
        }
    }
    for site in &sites {
        let (ten, customer) = (world.tenant(site.vlan), world.host(site));
        for (server, host) in [(SERVER4, HOST4), (SERVER6, HOST6)] {
            transfer(&customer, &ten, server, 20_000_000);
            transfer(&ten, &customer, host, 20_000_000);
        }
        assert_eq!(unexpected(&world, site.vlan, &[DropReason::LinkScope, DropReason::ArpConsumed]), []);
    }
}

pub fn every_kind_with_offloads() {
    transfers_of_every_kind("on", true);
}

pub fn every_kind_without_offloads() {
    transfers_of_every_kind("off", false);
}

/// The kernel's vxlan device as the customer's gateway, IPv4 and IPv6 outside, ARP and ND through the tunnel.
pub fn kernel_vxlan_both_families() {
    let sites =
        [Site::new(1, 700, TunnelKind::Vxlan, false, Some(1)), Site::new(2, 701, TunnelKind::Vxlan, true, Some(1))];
    let mut world = World::new("kvx", &sites);
    world.open();
    for site in &sites {
        let row = world.row(&[(site, everything())]);
        world.dp().put_vlan(&row).unwrap();
        world.add_tenant(&row, site.inner_mtu());
        world.add_kernel_gateway(site, site.inner_mtu());
        let (ten, customer) = (world.tenant(site.vlan), world.host(site));
        for (server, host) in [(SERVER4, HOST4), (SERVER6, HOST6)] {
            transfer(&customer, &ten, server, 20_000_000);
            transfer(&ten, &customer, host, 20_000_000);
        }
        assert_eq!(unexpected(&world, site.vlan, &[]), []);
    }
}

/// A path of 1,400 bytes between the gateways: the router's ICMP error lowers the tunnel's MTU, and TCP gets through.
pub fn a_router_says_too_long() {
    for outer6 in [false, true] {
        let site = Site::new(1, 800, TunnelKind::Gre, outer6, Some(5));
        let mut world = World::new(if outer6 { "rt6" } else { "rt4" }, &[]);
        world.routed_link(&site, 1400);
        world.open();
        let mut row = world.row(&[(&site, everything())]);
        row.tunnels[0].next_hop.as_mut().unwrap().via = site.router();
        world.dp().put_vlan(&row).unwrap();
        world.add_tenant(&row, site.inner_mtu());
        world.add_our_gateway(&site, 1400);
        let (ten, customer) = (world.tenant(site.vlan), world.host(&site));
        assert_eq!(world.dp().path_mtu(&site.id()).unwrap(), None);
        // The host's own segments fit; what the server sends does not, until the router has spoken.
        ip(&format!("{customer}: link set eth0 mtu 9000"));
        let long = pattern(site.inner_mtu() as usize - 48);
        inside(&ten, || {
            let socket = UdpSocket::bind(addr("0.0.0.0", 0)).unwrap();
            socket.send_to(&long, addr(HOST4, 9)).unwrap();
        });
        // The packet and the router's word may be a while under way.
        let end = Instant::now() + PATIENCE;
        let learned = loop {
            match world.dp().path_mtu(&site.id()).unwrap() {
                Some(learned) => break learned,
                None => assert!(Instant::now() < end, "nothing learned"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(learned.outer, 1400);
        assert_eq!(learned.inner, access_server::mtu::inner(&site.id(), 1400));
        assert!(learned.age < PATIENCE);
        for host in [HOST4, HOST6] {
            transfer(&ten, &customer, host, 1_000_000);
        }
    }
}
