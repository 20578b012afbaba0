//! Real packets end to end: host - gateway - tunnel - access server - trunk - tenant.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use access_server::datapath::DropReason;
use stackmap::{TunnelKind, Vlan};

use crate::net::{enter, inside};
use crate::world::{HOST4, HOST6, SERVER4, SERVER6, Site, World, everything};

fn addr(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// Bytes that betray any loss, repetition or exchange.
fn pattern(len: usize) -> Vec<u8> {
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
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        got
    });
    inside(from, || {
        let mut stream = TcpStream::connect_timeout(&addr(ip, 7000), Duration::from_secs(3)).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(&sent).unwrap();
    });
    assert!(receiver.join().unwrap() == sent, "{len} bytes differ");
}

/// Echo server for UDP that answers with its own name; returns when told `stop`.
fn name_server(ns: &str, ip: &str) -> std::thread::JoinHandle<()> {
    let socket = inside(ns, || UdpSocket::bind(addr(ip, 7001)).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
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
        let any = if ip.contains(':') { "::" } else { "0.0.0.0" };
        let socket = UdpSocket::bind(addr(any, 7002)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        for _ in 0..6 {
            socket.send_to(b"who", addr(ip, 7001)).unwrap();
            let mut buffer = [0; 64];
            if let Ok((len, _)) = socket.recv_from(&mut buffer) {
                return Some(String::from_utf8_lossy(&buffer[..len]).into_owned());
            }
        }
        None
    })
}

/// Two customers with the same addresses, one behind our gateway (IPIP), one behind the kernel's vxlan device: each
/// reaches its own server, and each server its own host.
pub fn same_addresses_different_worlds() {
    let a = Site { number: 1, vlan: 600, kind: TunnelKind::Ipip, outer6: false, key: None, mtu: 1500 };
    let b = Site { number: 2, vlan: 601, kind: TunnelKind::Vxlan, outer6: false, key: Some(77), mtu: 1500 };
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
            let pull = name_server(&ten, server);
            assert_eq!(ask(&customer, server).as_deref(), Some(ten.as_str()), "pull {server}");
            let push = name_server(&customer, host);
            assert_eq!(ask(&ten, host).as_deref(), Some(customer.as_str()), "push {host}");
            for (from, ip) in [(&customer, server), (&ten, host)] {
                inside(from, || {
                    let any = if ip.contains(':') { "::" } else { "0.0.0.0" };
                    UdpSocket::bind(addr(any, 0)).unwrap().send_to(b"stop", addr(ip, 7001)).unwrap();
                });
            }
            pull.join().unwrap();
            push.join().unwrap();
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
        let unexpected: Vec<_> = c.drops.keys().filter(|r| **r != DropReason::LinkScope).collect();
        assert!(unexpected.is_empty(), "{c:?}");
    }
    world.dp().delete_vlan(Vlan::new(600).unwrap()).unwrap();
    world.dp().delete_vlan(Vlan::new(600).unwrap()).unwrap();
    assert_eq!(world.dp().dump().unwrap().len(), 1);
    let _ = enter;
}
