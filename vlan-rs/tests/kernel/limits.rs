//! What a port may carry at most, over real devices: a flood ends at the port and disturbs no other, and a class of the
//! trunk's queueing discipline gets the frames of its port and no others. The class is made by `tc`.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use vlan_rs::{DropReason, PACKET_BATCH, PortConfig, RateLimit};

use crate::veth::{Pings, Side, port, two_rooms};
use crate::world::Netns;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_flood_ends_at_the_port", a_flood_ends_at_the_port),
    ("a_flood_from_the_trunk_ends_at_the_port", a_flood_from_the_trunk_ends_at_the_port),
    ("a_class_gets_its_ports_frames", a_class_gets_its_ports_frames),
];

const RATE: RateLimit = RateLimit { per_second: 2_000, burst: 1_000 };

/// Small packets as fast as one thread can for a second; how long it took and how many they were.
fn flood(from: &Netns, source: &str, to: &str) -> (f64, u64) {
    let socket = from.run(|| UdpSocket::bind((source, 0)).unwrap());
    socket.connect((to, 9)).unwrap();
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < Duration::from_secs(1) {
        for _ in 0..100 {
            // Nobody listens: the other side's "port unreachable" ends a send now and then.
            sent += u64::from(socket.send(&[0; 18]).is_ok());
        }
    }
    (start.elapsed().as_secs_f64(), sent)
}

/// Packets that passed are those of the rate and the burst; each processor may have a batch from before, and may have
/// taken one that it did not use.
fn rate_held(passed: u64, seconds: f64) {
    let most = f64::from(RATE.per_second) * seconds + f64::from(RATE.burst);
    let cpus = std::thread::available_parallelism().unwrap().get();
    let batches = f64::from(PACKET_BATCH) * (cpus + 1) as f64;
    let passed = passed as f64;
    assert!(passed <= most * 1.02 + batches && passed >= (most - batches) * 0.9, "{passed} passed, at most {most}");
}

fn limited(side: &mut Side, vid: u16, mac_end: u8) {
    let ifindex = side.netns.ifindex(&format!("p{vid}"));
    let config = PortConfig { packet_rate: RATE, ..port(ifindex, side.trunk, vid, mac_end) };
    side.put(&config);
}

fn a_flood_ends_at_the_port() {
    let (mut server, mut site) = two_rooms();
    let tenants = [600, 601].map(|vid| server.tenant(vid, 1));
    let hosts = [600, 601].map(|vid| site.tenant(vid, 10));
    hosts[0].sh("ping -c 1 -W 2 192.168.1.1");
    limited(&mut server, 600, 1);
    let pings = Pings::start(&hosts[1], "192.168.1.1");
    let before = server.counters(600);
    let (seconds, sent) = flood(&tenants[0], "192.168.1.1", "192.168.1.10");
    let after = server.counters(600);
    pings.none_lost(100);
    let (passed, dropped) = (after.tx_packets - before.tx_packets, after.drops[&DropReason::FloodTx]);
    assert!(sent > 20_000, "sent only {sent}");
    assert!(passed + dropped >= sent, "{passed} + {dropped} of {sent}");
    rate_held(passed, seconds);
    // The port is not closed for good.
    std::thread::sleep(Duration::from_millis(100));
    tenants[0].sh("ping -c 2 -i 0.1 -W 2 192.168.1.10");
    assert!(server.counters(601).drops.is_empty());
}

fn a_flood_from_the_trunk_ends_at_the_port() {
    let (mut server, mut site) = two_rooms();
    let tenants = [600, 601].map(|vid| server.tenant(vid, 1));
    let hosts = [600, 601].map(|vid| site.tenant(vid, 10));
    hosts[0].sh("ping -c 1 -W 2 192.168.1.1");
    limited(&mut server, 600, 1);
    let pings = Pings::start(&tenants[1], "192.168.1.10");
    let before = server.counters(600);
    let (seconds, sent) = flood(&hosts[0], "192.168.1.10", "192.168.1.1");
    let after = server.counters(600);
    pings.none_lost(100);
    assert!(sent > 20_000 && after.drops[&DropReason::FloodRx] > 0, "{sent} sent: {after:?}");
    rate_held(after.rx_packets - before.rx_packets, seconds);
    assert!(server.counters(601).drops.is_empty());
}

/// Packets the class 1:5 of the trunk and the whole discipline have sent.
fn through(side: &Side) -> (u64, u64) {
    let sent = |text: String| -> u64 {
        let words: Vec<&str> = text.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "pkt").unwrap();
        words[at - 1].parse().unwrap()
    };
    let class = sent(side.netns.sh("tc -s class show dev trunk classid 1:5"));
    (class, sent(side.netns.sh("tc -s qdisc show dev trunk root")))
}

fn a_class_gets_its_ports_frames() {
    let (mut server, mut site) = two_rooms();
    let tenants = [600, 601].map(|vid| server.tenant(vid, 1));
    let hosts = [600, 601].map(|vid| site.tenant(vid, 10));
    server.netns.sh("tc qdisc add dev trunk root handle 1: htb");
    server.netns.sh("tc class add dev trunk parent 1: classid 1:5 htb rate 1gbit");
    let ifindex = server.netns.ifindex("p600");
    server.put(&PortConfig { class: 0x1_0005, ..port(ifindex, server.trunk, 600, 1) });
    for host in &hosts {
        host.sh("ping -c 10 -i 0.01 -W 2 192.168.1.1");
    }
    let (class, all) = through(&server);
    assert!(class >= 10, "{class} packets in the class");
    assert_eq!(class, all, "frames of the other port, or of this one outside its class");
    // Without it the port's frames pass by the discipline again.
    server.put(&port(ifindex, server.trunk, 600, 1));
    hosts[0].sh("ping -c 10 -i 0.01 -W 2 192.168.1.1");
    assert_eq!(through(&server), (class, all));
    drop(tenants);
}
