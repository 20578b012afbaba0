//! What a port costs: time of the verbs, and nanoseconds of each program a small packet. What a limit of packets a second
//! leaves to honest traffic, and what a flood leaves to a neighbour.
//!
//! `cargo bench -p vlan-rs`, as root. Everything happens in namespaces of its own; run-time statistics are switched on
//! by `BPF_ENABLE_STATS`, for the life of one file descriptor, not by the sysctl.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
#[path = "../tests/kernel/world.rs"]
mod world;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use libbpf_rs::libbpf_sys;
use vlan_rs::{
    Counters, DropReason, Layer, OpenOptions, PACKET_RATE, PortConfig, PortId, Program, RateLimit, Room, Tag,
    TrunkConfig, TrunkMode, Vid,
};
use world::{Netns, pin_dir};

const MTU: u32 = 1400;
const ROUNDS: usize = 5;
const PORTS: u16 = 200;

fn port(ifindex: u32, trunk: u32, vid: u16, mac_end: u8) -> PortConfig {
    PortConfig {
        ifindex,
        trunk,
        vid: Vid::try_from(vid).unwrap(),
        mac: [2, 0, 0, 0, 0, mac_end],
        gateway_mac: [2, 0, 0, 0, 0xff, mac_end],
        layer: Layer::Three,
        mtu: MTU,
        answer: ["0.0.0.0/0", "::/0"].map(|p| p.parse().unwrap()).to_vec(),
        neighbour_rate: RateLimit::default(),
        packet_rate: PACKET_RATE,
        class: 0,
    }
}

fn line(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_nanos() as f64 / 1000.0;
    println!("{name:40} p50 {:8.1} us   p99 {:8.1} us   n {}", at(50), at(99), times.len());
}

/// Times each call.
fn timed<T>(times: &mut Vec<Duration>, job: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = job();
    times.push(start.elapsed());
    result
}

fn verbs() {
    let (here, far, tenants) = (Netns::silent(), Netns::silent(), Netns::silent());
    let trunk = here.veth("trunk", &far, "trunk", 1500);
    here.run(|| {
        let options = OpenOptions::new(pin_dir());
        let mut open = Vec::new();
        let mut room = timed(&mut open, || Room::open(&options).unwrap());
        room.attach_trunk(&TrunkConfig::new(trunk, TrunkMode::Peer)).unwrap();
        let ports: Vec<u32> =
            (0..PORTS).map(|n| here.veth(&format!("p{n}"), &tenants, &format!("d{n}"), MTU)).collect();
        let (mut add, mut again, mut change, mut delete) = (vec![], vec![], vec![], vec![]);
        for (vid, &ifindex) in (1..).zip(&ports) {
            let config = port(ifindex, trunk, vid, 1);
            timed(&mut add, || room.put_port(&config).unwrap());
            timed(&mut again, || room.put_port(&config).unwrap());
            timed(&mut change, || room.put_port(&PortConfig { mtu: 1300, ..config }).unwrap());
        }
        let mut adopt = Vec::new();
        timed(&mut adopt, || Room::open(&options).unwrap());
        let mut counters = Vec::new();
        timed(&mut counters, || room.counters().unwrap());
        for &ifindex in &ports {
            timed(&mut delete, || room.delete_port(PortId::Ifindex(ifindex)).unwrap());
        }
        line("Room::open, new", open);
        line("Room::open, adopting 200 ports", adopt);
        line("put_port, new", add);
        line("put_port, unchanged", again);
        line("put_port, changed", change);
        line("counters of 200 ports", counters);
        line("delete_port", delete);
    });
}

/// Run-time and runs of a program so far.
fn statistics(room: &Room, program: Program) -> (u64, u64) {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut size = u32::try_from(size_of_val(&info)).unwrap();
    // SAFETY: a descriptor of a program, and a buffer of the size given.
    let rc = unsafe {
        libbpf_sys::bpf_obj_get_info_by_fd(
            room.program(program).as_raw_fd(),
            std::ptr::from_mut(&mut info).cast(),
            &mut size,
        )
    };
    assert_eq!(rc, 0);
    (info.run_time_ns, info.run_cnt)
}

/// A tenant and a host with static neighbours, one trunk between their rooms.
fn nanoseconds() {
    let (server, site, tenant, host) = (Netns::silent(), Netns::silent(), Netns::silent(), Netns::silent());
    let trunk = server.veth("trunk", &site, "trunk", 1500);
    let far_trunk = site.ifindex("trunk");
    let room_of = |netns: &Netns, trunk, inside: &Netns, mac_end, address: &str, other: (&str, u8)| {
        let ifindex = netns.veth("p600", inside, "dev0", MTU);
        inside.ip(&format!("link set dev0 address 02:00:00:00:00:{mac_end:02x}"));
        inside.ip(&format!("address add {address}/24 dev dev0"));
        inside.ip(&format!("neigh add {} dev dev0 lladdr 02:00:00:00:00:{:02x}", other.0, other.1));
        netns.run(|| {
            let mut room = Room::open(&OpenOptions::new(pin_dir())).unwrap();
            room.attach_trunk(&TrunkConfig::new(trunk, TrunkMode::Peer)).unwrap();
            room.put_port(&port(ifindex, trunk, 600, mac_end)).unwrap();
            room
        })
    };
    let room = room_of(&server, trunk, &tenant, 1, "192.168.1.1", ("192.168.1.10", 10));
    let far = room_of(&site, far_trunk, &host, 10, "192.168.1.10", ("192.168.1.1", 1));

    // SAFETY: a call without pointers; it returns a descriptor that is ours, or an error.
    let switched_on = unsafe {
        let fd = libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME);
        assert!(fd >= 0, "BPF_ENABLE_STATS");
        OwnedFd::from_raw_fd(fd)
    };
    let from = tenant.run(|| UdpSocket::bind("192.168.1.1:0").unwrap());
    let to = host.run(|| UdpSocket::bind("192.168.1.10:7").unwrap());
    let _drain = std::thread::spawn(move || while to.recv(&mut [0; 64]).is_ok() {});
    from.connect("192.168.1.10:7").unwrap();
    let mut rounds: [Vec<f64>; 2] = Default::default();
    for _ in 0..ROUNDS {
        let before = [statistics(&room, Program::Port), statistics(&far, Program::Trunk)];
        for _ in 0..200_000 {
            from.send(&[0; 18]).unwrap();
        }
        let after = [statistics(&room, Program::Port), statistics(&far, Program::Trunk)];
        for ((rounds, before), after) in rounds.iter_mut().zip(before).zip(after) {
            rounds.push((after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64);
        }
    }
    drop(switched_on);
    for (name, mut rounds) in ["port_ingress", "trunk_ingress"].into_iter().zip(rounds) {
        rounds.sort_by(f64::total_cmp);
        println!("{name:40} median {:.0} ns a small packet, {ROUNDS} rounds: {rounds:.0?}", rounds[ROUNDS / 2]);
    }
}

/// Two rooms, a trunk between them, and two tenants with their hosts.
struct Rooms {
    _netns: [Netns; 2],
    rooms: [Room; 2],
    ports: [u32; 2],
    trunk: u32,
    tenants: [Netns; 2],
    hosts: [Netns; 2],
}

fn rooms() -> Rooms {
    let (server, site) = (Netns::silent(), Netns::silent());
    let trunk = server.veth("trunk", &site, "trunk", 1500);
    let far_trunk = site.ifindex("trunk");
    let open = |netns: &Netns, trunk| {
        netns.run(|| {
            let mut room = Room::open(&OpenOptions::new(pin_dir())).unwrap();
            room.attach_trunk(&TrunkConfig::new(trunk, TrunkMode::Peer)).unwrap();
            room
        })
    };
    let mut rooms = [open(&server, trunk), open(&site, far_trunk)];
    let mut ports = [0; 2];
    let mut inhabitant = |side: usize, n: u16| {
        let (netns, trunk, mac_end, other) = [(&server, trunk, 1, 10), (&site, far_trunk, 10, 1)][side];
        let inside = Netns::silent();
        let ifindex = netns.veth(&format!("p{n}"), &inside, "dev0", MTU);
        inside.ip(&format!("link set dev0 address 02:00:00:00:00:{mac_end:02x}"));
        inside.ip(&format!("address add 192.168.1.{mac_end}/24 dev dev0"));
        inside.ip(&format!("neigh add 192.168.1.{other} dev dev0 lladdr 02:00:00:00:00:{other:02x}"));
        netns.run(|| rooms[side].put_port(&port(ifindex, trunk, 600 + n, mac_end)).unwrap());
        if side == 0 {
            ports[usize::from(n)] = ifindex;
        }
        inside
    };
    let tenants = [inhabitant(0, 0), inhabitant(0, 1)];
    let hosts = [inhabitant(1, 0), inhabitant(1, 1)];
    Rooms { _netns: [server, site], rooms, ports, trunk, tenants, hosts }
}

impl Rooms {
    /// The packet rate of the first tenant's port; the site's port has none.
    fn limit(&mut self, packet_rate: RateLimit) {
        let config = PortConfig { packet_rate, ..port(self.ports[0], self.trunk, 600, 1) };
        let Self { _netns: [netns, _], rooms: [room, _], .. } = self;
        netns.run(|| room.put_port(&config).unwrap());
    }

    fn counters(&self) -> Counters {
        let tag = Tag { trunk: self.trunk, vid: Vid::try_from(600).unwrap() };
        self.rooms[0].counters_of(tag).unwrap().unwrap()
    }
}

/// What a second tenant's small packets there and back take while the first one floods with two threads.
fn floods() {
    let mut all = rooms();
    let echo = all.hosts[1].run(|| UdpSocket::bind("192.168.1.10:7").unwrap());
    std::thread::spawn(move || {
        let mut packet = [0; 64];
        while let Ok((length, from)) = echo.recv_from(&mut packet) {
            let _ = echo.send_to(&packet[..length], from);
        }
    });
    let asks = all.tenants[1].run(|| UdpSocket::bind("192.168.1.1:0").unwrap());
    asks.connect("192.168.1.10:7").unwrap();
    asks.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let kilo = |n: u32| RateLimit { per_second: n * 1000, burst: n * 100 };
    for (name, threads, limit) in [
        ("there and back, no flood", 0, PACKET_RATE),
        ("  flood, no limit", 2, kilo(100_000)),
        ("  flood, the usual limit", 2, PACKET_RATE),
        ("  flood, 50,000 a second", 2, kilo(50)),
        ("  flood, 10,000 a second", 2, kilo(10)),
    ] {
        all.limit(limit);
        let before = all.counters();
        let start = Instant::now();
        let end = start + Duration::from_secs(3);
        let flooders: Vec<_> = (0..threads)
            .map(|_| {
                let socket = all.tenants[0].run(|| UdpSocket::bind("192.168.1.1:0").unwrap());
                socket.connect("192.168.1.10:9").unwrap();
                std::thread::spawn(move || {
                    while Instant::now() < end {
                        for _ in 0..100 {
                            let _ = socket.send(&[0; 18]);
                        }
                    }
                })
            })
            .collect();
        let mut times = Vec::new();
        while Instant::now() < end {
            timed(&mut times, || {
                let _ = asks.send(&[0; 18]);
                let _ = asks.recv(&mut [0; 64]);
            });
            std::thread::sleep(Duration::from_micros(500));
        }
        for flooder in flooders {
            flooder.join().unwrap();
        }
        let (after, seconds) = (all.counters(), start.elapsed().as_secs_f64());
        line(name, times);
        let dropped = |c: &Counters| c.drops.get(&DropReason::FloodTx).copied().unwrap_or_default();
        let rate = |n: u64| n as f64 / seconds / 1000.0;
        println!(
            "    passed {:.0} thousand a second, dropped {:.0}",
            rate(after.tx_packets - before.tx_packets),
            rate(dropped(&after) - dropped(&before))
        );
    }
}

/// What honest traffic needs: TCP as fast as it goes, under the usual limit.
fn bulk() {
    let all = rooms();
    let listener = all.hosts[0].run(|| TcpListener::bind("192.168.1.10:80").unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 1 << 20];
        while stream.read(&mut buffer).is_ok_and(|n| n > 0) {}
    });
    let mut stream = all.tenants[0].run(|| TcpStream::connect("192.168.1.10:80").unwrap());
    for offloads in ["on", "off"] {
        all.tenants[0].sh(&format!("ethtool -K dev0 tso {offloads} gso {offloads}"));
        let (before, start) = (all.counters(), Instant::now());
        while start.elapsed() < Duration::from_secs(3) {
            stream.write_all(&[0; 1 << 17]).unwrap();
        }
        let (after, seconds) = (all.counters(), start.elapsed().as_secs_f64());
        let rate = |n: u64| n as f64 / seconds / 1000.0;
        println!(
            "TCP bulk, super-packets {offloads:3}: {:.1} Gbit/s, {:.0} thousand packets a second out, {:.0} in, drops {:?}",
            rate(after.tx_bytes - before.tx_bytes) * 8.0 / 1e6,
            rate(after.tx_packets - before.tx_packets),
            rate(after.rx_packets - before.rx_packets),
            after.drops
        );
    }
}

fn main() {
    if let Some(why) = world::unable() {
        println!("not run: {why}");
        return;
    }
    world::leave_the_host();
    verbs();
    nanoseconds();
    bulk();
    floods();
    // The receiving thread ends with the process.
}
