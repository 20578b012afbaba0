//! What a port costs: time of the verbs, and nanoseconds of each program a small packet.
//!
//! `cargo bench -p vlan-rs`, as root. Everything happens in namespaces of its own; run-time statistics are switched on
//! by `BPF_ENABLE_STATS`, for the life of one file descriptor, not by the sysctl.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
#[path = "../tests/kernel/world.rs"]
mod world;

use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use libbpf_rs::libbpf_sys;
use vlan_rs::{Layer, OpenOptions, PortConfig, PortId, Program, RateLimit, Room, TrunkConfig, TrunkMode, Vid};
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
        packet_rate: RateLimit { per_second: 100_000_000, burst: 10_000_000 },
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

fn main() {
    if let Some(why) = world::unable() {
        println!("not run: {why}");
        return;
    }
    world::leave_the_host();
    verbs();
    nanoseconds();
    // The receiving thread ends with the process.
}
