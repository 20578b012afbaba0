//! What a port may carry at most, over real devices: a flood ends at the port and disturbs no other, and a class of the
//! trunk's queueing discipline gets the frames of its port and no others. The class is made by `tc`.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use vlan_rs::{Counters, DropReason, PACKET_BATCH, PortConfig, RateLimit};

use crate::veth::{Pings, Side, port, two_rooms};
use crate::world::Netns;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_flood_ends_at_the_port", a_flood_ends_at_the_port),
    ("a_flood_from_the_trunk_ends_at_the_port", a_flood_from_the_trunk_ends_at_the_port),
    ("a_class_gets_its_ports_frames", a_class_gets_its_ports_frames),
];

const RATE: RateLimit = RateLimit { per_second: 2_000, burst: 1_000 };

struct Flood {
    start: Instant,
    /// How long it went on without being held up: in the rest nothing came that could have passed.
    sending: Duration,
    sent: u64,
}

/// Small packets as fast as one thread can for a second, and on to 20,000 where the machine is slow.
fn flood(from: &Netns, source: &str, to: &str) -> Flood {
    let socket = from.run(|| UdpSocket::bind((source, 0)).unwrap());
    socket.connect((to, 9)).unwrap();
    let start = Instant::now();
    let (mut sent, mut sending) = (0, Duration::ZERO);
    while start.elapsed() < Duration::from_secs(1) || (sent <= 20_000 && start.elapsed() < Duration::from_secs(30)) {
        let round = Instant::now();
        for _ in 0..100 {
            // Nobody listens: the other side's "port unreachable" ends a send now and then.
            sent += u64::from(socket.send(&[0; 18]).is_ok());
        }
        let took = round.elapsed();
        if took < Duration::from_millis(10) {
            sending += took;
        }
    }
    Flood { start, sending, sent }
}

impl Flood {
    /// The counters when all of it has come to the port, which may be a moment after the last was sent, or nothing has
    /// come for a second; and how long that took from the first on.
    fn arrived(&self, counters: impl Fn() -> (Counters, u64)) -> (Counters, f64) {
        let (mut last, mut seen) = (0, Instant::now());
        loop {
            let (now, counted) = counters();
            if counted != last {
                (last, seen) = (counted, Instant::now());
            }
            if counted >= self.sent || seen.elapsed() > Duration::from_secs(1) {
                return (now, (seen - self.start).as_secs_f64());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Packets that passed are those of the rate and the burst; each processor may have a batch from before, and may have
    /// taken one that it did not use.
    fn rate_held(&self, passed: u64, seconds: f64) {
        let within = |seconds: f64| f64::from(RATE.per_second) * seconds + f64::from(RATE.burst);
        let (least, most) = (within(self.sending.as_secs_f64()), within(seconds));
        let cpus = std::thread::available_parallelism().unwrap().get();
        let batches = f64::from(PACKET_BATCH) * (cpus + 1) as f64;
        let passed = passed as f64;
        assert!(
            passed <= most * 1.02 + batches && passed >= (least - batches) * 0.9,
            "{passed} passed, of {least} to {most}"
        );
    }
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
    hosts[0].sh("ping -c 1 -W 10 192.168.1.1");
    limited(&mut server, 600, 1);
    let pings = Pings::start(&hosts[1], "192.168.1.1");
    let before = server.counters(600);
    let flood = flood(&tenants[0], "192.168.1.1", "192.168.1.10");
    let (after, seconds) = flood.arrived(|| {
        let now = server.counters(600);
        let dropped = now.drops.get(&DropReason::FloodTx).copied().unwrap_or(0);
        let counted = now.tx_packets - before.tx_packets + dropped;
        (now, counted)
    });
    pings.none_lost(100);
    let (passed, dropped) = (after.tx_packets - before.tx_packets, after.drops[&DropReason::FloodTx]);
    assert!(flood.sent > 20_000, "sent only {}", flood.sent);
    assert!(passed + dropped >= flood.sent, "{passed} + {dropped} of {}", flood.sent);
    flood.rate_held(passed, seconds);
    // The port is not closed for good.
    std::thread::sleep(Duration::from_millis(100));
    tenants[0].sh("ping -c 2 -i 0.1 -W 10 192.168.1.10");
    assert!(server.counters(601).drops.is_empty());
}

fn a_flood_from_the_trunk_ends_at_the_port() {
    let (mut server, mut site) = two_rooms();
    let tenants = [600, 601].map(|vid| server.tenant(vid, 1));
    let hosts = [600, 601].map(|vid| site.tenant(vid, 10));
    hosts[0].sh("ping -c 1 -W 10 192.168.1.1");
    limited(&mut server, 600, 1);
    let pings = Pings::start(&tenants[1], "192.168.1.10");
    let before = server.counters(600);
    let flood = flood(&hosts[0], "192.168.1.10", "192.168.1.1");
    let (after, seconds) = flood.arrived(|| {
        let now = server.counters(600);
        let dropped = now.drops.get(&DropReason::FloodRx).copied().unwrap_or(0);
        let counted = now.rx_packets - before.rx_packets + dropped;
        (now, counted)
    });
    pings.none_lost(100);
    assert!(flood.sent > 20_000 && after.drops.contains_key(&DropReason::FloodRx), "{} sent: {after:?}", flood.sent);
    flood.rate_held(after.rx_packets - before.rx_packets, seconds);
    assert!(server.counters(601).drops.is_empty());
}

/// Packets the class 1:5 of the trunk and the whole discipline have sent, read while the class sends none: the tenants'
/// stacks tell their groups and look for routers when they like.
fn through(side: &Side) -> (u64, u64) {
    let sent = |text: String| -> u64 {
        let words: Vec<&str> = text.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "pkt").unwrap();
        words[at - 1].parse().unwrap()
    };
    let class = || sent(side.netns.sh("tc -s class show dev trunk classid 1:5"));
    for _ in 0..100 {
        let before = class();
        let all = sent(side.netns.sh("tc -s qdisc show dev trunk root"));
        if class() == before {
            return (before, all);
        }
    }
    panic!("the class is never at rest");
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
        host.sh("ping -c 10 -i 0.01 -W 10 192.168.1.1");
    }
    let (class, all) = through(&server);
    assert!(class >= 10, "{class} packets in the class");
    assert_eq!(class, all, "frames of the other port, or of this one outside its class");
    // Without it the port's frames pass by the discipline again.
    server.put(&port(ifindex, server.trunk, 600, 1));
    let before = through(&server);
    assert!(before >= (class, all));
    hosts[0].sh("ping -c 10 -i 0.01 -W 10 192.168.1.1");
    assert_eq!(through(&server), before);
    drop(tenants);
}
