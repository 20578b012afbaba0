//! Packets that are too long for the tunnel: the sender is told the right number, or user space cuts them.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use access_server::datapath::{Datapath, DropReason};
use stackmap::TunnelKind;

use crate::flows::{PATIENCE, addr, any, pattern, transfer, unexpected};
use crate::net::{inside, ip};
use crate::world::{HOST4, HOST6, SERVER4, SERVER6, Site, World, everything};

const IP_PMTUDISC_DONT: i32 = 0;
const IP_PMTUDISC_DO: i32 = 2;

fn option(socket: &UdpSocket, level: i32, name: i32, value: i32) {
    // SAFETY: the value is an int that lives through the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    assert_eq!(done, 0);
}

/// Sends UDP that must not be cut, longer than the tunnel takes; what the sender then knows of the path.
fn told_mtu(from: &str, to: &str, len: usize) -> Option<i32> {
    inside(from, || {
        let socket = UdpSocket::bind(addr(any(to), 0)).unwrap();
        let (level, discover, mtu) = if to.contains(':') {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_MTU)
        } else {
            (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_MTU)
        };
        option(&socket, level, discover, IP_PMTUDISC_DO);
        socket.connect(addr(to, 9)).unwrap();
        let payload = pattern(len);
        for _ in 0..500 {
            if socket.send(&payload).is_err_and(|e| e.raw_os_error() == Some(libc::EMSGSIZE)) {
                let (mut known, mut size) = (0i32, size_of::<i32>() as libc::socklen_t);
                // SAFETY: the place for the answer is an int of the size given.
                let got =
                    unsafe { libc::getsockopt(socket.as_raw_fd(), level, mtu, (&raw mut known).cast(), &raw mut size) };
                assert_eq!(got, 0);
                return Some(known);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    })
}

/// Hosts and tenants with 1,500 bytes on their links, tunnels that take less.
fn wide_ends(name: &str, sites: &[Site]) -> World {
    let mut world = World::new(name, sites);
    world.open();
    for site in sites {
        let row = world.row(&[(site, everything())]);
        world.dp().put_vlan(&row).unwrap();
        world.add_tenant(&row, 1500);
        world.add_our_gateway(site, 1500);
        ip(&format!("{}: neigh flush all", world.host(site)));
    }
    world
}

pub fn the_sender_is_told() {
    let sites = [
        Site::new(1, 600, TunnelKind::Ipip, false, None),
        Site::new(2, 601, TunnelKind::Gre, true, Some(3)),
        Site::new(3, 602, TunnelKind::Vxlan, false, Some(3)),
    ];
    let mut world = wide_ends("told", &sites);
    for (n, site) in sites.iter().enumerate() {
        let (ten, customer) = (world.tenant(site.vlan), world.host(site));
        let mtu = Some(site.inner_mtu() as i32);
        for (from, to) in [(&customer, SERVER4), (&customer, SERVER6), (&ten, HOST4), (&ten, HOST6)] {
            // A first packet finds the neighbours; the answer must come for a packet that is not waiting for one.
            inside(from, || UdpSocket::bind(addr(any(to), 0)).unwrap().send_to(b"?", addr(to, 9)).unwrap());
            std::thread::sleep(Duration::from_millis(50));
            let len = if to.contains(':') { 1452 } else { 1472 };
            assert_eq!(told_mtu(from, to, len), mtu, "{from} -> {to}");
        }
        let told = |datapath: &Datapath, vlan: u16| {
            let counters = datapath.counters().unwrap();
            counters.iter().find(|c| c.vlan == vlan).and_then(|c| c.drops.get(&DropReason::TooLong).copied())
        };
        assert!(told(world.dp(), site.vlan) >= Some(2));
        assert!(told(world.site_dp(n), 1) >= Some(2));
        // What was said holds for TCP too, both ways, at once.
        // A sender that has to find the length by itself needs seconds every time; a machine that stands still, now and
        // then.
        let quick = (0..5).any(|_| {
            let start = Instant::now();
            for (server, host) in [(SERVER4, HOST4), (SERVER6, HOST6)] {
                transfer(&customer, &ten, server, 1_000_000);
                transfer(&ten, &customer, host, 1_000_000);
            }
            start.elapsed() < Duration::from_secs(2)
        });
        assert!(quick, "4 MB took more than 2 s five times: {}", site.id());
    }
}

/// Full-size TCP from ends that were told nothing: MSS is lowered in passing.
pub fn tcp_starts_small_enough() {
    let site = Site::new(1, 600, TunnelKind::Gre, true, Some(3));
    let world = wide_ends("mss", &[site]);
    let (ten, customer) = (world.tenant(site.vlan), world.host(&site));
    for (server, host) in [(SERVER4, HOST4), (SERVER6, HOST6)] {
        transfer(&customer, &ten, server, 1_000_000);
        transfer(&ten, &customer, host, 1_000_000);
    }
    // Nobody had to be told.
    assert_eq!(unexpected(&world, site.vlan, &[DropReason::LinkScope, DropReason::ArpConsumed]), []);
}

/// IPv4 without DF: cut by user space on the way in and on the way out, put together by the receiver.
pub fn what_may_be_cut_is_cut() {
    let sites = [Site::new(1, 600, TunnelKind::Ipip, false, None), Site::new(2, 601, TunnelKind::Vxlan, true, Some(3))];
    let mut world = wide_ends("cut", &sites);
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = Vec::new();
    let mut run = |ns: &str, datapath: &Datapath| {
        let mut slow = inside(ns, || datapath.slow_path().unwrap());
        let stop = stop.clone();
        workers.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                slow.poll(Duration::from_millis(20)).unwrap();
            }
        }));
    };
    run(&world.srv.clone(), world.dp());
    for (n, site) in sites.iter().enumerate() {
        run(&world.gateway(site), world.site_dp(n));
    }
    for site in &sites {
        let (ten, customer) = (world.tenant(site.vlan), world.host(site));
        for (from, to, to_addr) in [(&customer, &ten, SERVER4), (&ten, &customer, HOST4)] {
            let receiver = inside(to, || UdpSocket::bind(addr(to_addr, 7003)).unwrap());
            receiver.set_read_timeout(Some(PATIENCE)).unwrap();
            let sender = inside(from, || UdpSocket::bind(addr("0.0.0.0", 0)).unwrap());
            option(&sender, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, IP_PMTUDISC_DONT);
            sender.send_to(b"first", addr(to_addr, 7003)).unwrap();
            let mut buffer = vec![0; 9000];
            receiver.recv_from(&mut buffer).unwrap();
            for len in [1472, 4000, 8000] {
                let sent = pattern(len);
                sender.send_to(&sent, addr(to_addr, 7003)).unwrap();
                let (got, _) = receiver.recv_from(&mut buffer).unwrap_or_else(|e| panic!("{from} {len}: {e}"));
                assert!(buffer[..got] == sent, "{from} {len}");
            }
        }
        let ok = [DropReason::LinkScope, DropReason::ArpConsumed, DropReason::FragSlowPath];
        assert_eq!(unexpected(&world, site.vlan, &ok), []);
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().unwrap();
    }
}
