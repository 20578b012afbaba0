//! Two rooms that face each other over one trunk, and tenants with identical addresses behind both. Real devices, the
//! kernel's own stacks as senders and receivers, tcpdump as the witness on the trunk.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime};

use vlan_rs::{Counters, Layer, OpenOptions, PortConfig, RateLimit, Room, Tag, TrunkConfig, TrunkMode, Vid};

use crate::world::{Netns, pin_dir};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("tenants_with_identical_addresses", tenants_with_identical_addresses),
    ("transfers_are_identical_with_and_without_offloads", transfers_are_identical_with_and_without_offloads),
    ("the_trunk_carries_tags_only", the_trunk_carries_tags_only),
    ("a_layer_3_port_answers_arp_and_nd", a_layer_3_port_answers_arp_and_nd),
    ("a_trunk_without_peer_hops", a_trunk_without_peer_hops),
    ("replacing_programs_loses_nothing", replacing_programs_loses_nothing),
    ("another_layout_is_carried_over_and_loses_nothing", another_layout_is_carried_over_and_loses_nothing),
    ("changing_ports_loses_nothing", changing_ports_loses_nothing),
    ("a_new_port_counts_from_zero", a_new_port_counts_from_zero),
    ("two_rooms_share_a_trunk", two_rooms_share_a_trunk),
];

pub(crate) const MTU: u32 = 1400;

/// A layer 2 port.
pub(crate) fn port(ifindex: u32, trunk: u32, vid: u16, mac_end: u8) -> PortConfig {
    PortConfig {
        ifindex,
        trunk,
        vid: Vid::try_from(vid).unwrap(),
        mac: [2, 0, 0, 0, 0, mac_end],
        gateway_mac: [2, 0, 0, 0, 0xff, mac_end],
        layer: Layer::Two,
        mtu: MTU,
        answer: vec![],
        neighbour_rate: RateLimit::default(),
        packet_rate: vlan_rs::PACKET_RATE,
        class: 0,
    }
}

/// One end of the trunk with its room.
pub(crate) struct Side {
    pub(crate) netns: Netns,
    pub(crate) options: OpenOptions,
    pub(crate) room: Room,
    pub(crate) trunk: u32,
}

impl Side {
    pub(crate) fn new(netns: Netns, trunk: &str, mode: TrunkMode) -> Self {
        let trunk = netns.ifindex(trunk);
        let options = OpenOptions::new(pin_dir());
        let room = netns.run(|| {
            let mut room = Room::open(&options).unwrap();
            room.attach_trunk(&TrunkConfig::new(trunk, mode)).unwrap();
            room
        });
        Self { netns, options, room, trunk }
    }

    /// A tenant with a device, an IPv4 and an IPv6 address, and no port yet; the index of the room's end.
    pub(crate) fn inside(&self, vid: u16, mac_end: u8) -> (Netns, u32) {
        let tenant = Netns::new();
        let ifindex = self.netns.veth(&format!("p{vid}"), &tenant, "dev0", MTU);
        tenant.ip(&format!("link set dev0 address 02:00:00:00:00:{mac_end:02x}"));
        tenant.ip(&format!("address add 192.168.1.{mac_end}/24 dev dev0"));
        tenant.ip(&format!("address add fd00::{mac_end:x}/64 dev dev0 nodad"));
        (tenant, ifindex)
    }

    /// A tenant on a layer 2 port: 192.168.1.END and fd00::END (hexadecimal).
    pub(crate) fn tenant(&mut self, vid: u16, mac_end: u8) -> Netns {
        let (tenant, ifindex) = self.inside(vid, mac_end);
        self.put(&port(ifindex, self.trunk, vid, mac_end));
        tenant
    }

    pub(crate) fn put(&mut self, config: &PortConfig) {
        let Self { netns, room, .. } = self;
        netns.run(|| room.put_port(config).unwrap());
    }

    pub(crate) fn counters(&self, vid: u16) -> Counters {
        let tag = Tag { trunk: self.trunk, vid: Vid::try_from(vid).unwrap() };
        self.room.counters_of(tag).unwrap().unwrap()
    }
}

/// Both rooms, over a veth.
pub(crate) fn two_rooms() -> (Side, Side) {
    let (server, site) = (Netns::silent(), Netns::silent());
    server.veth("trunk", &site, "trunk", 1500);
    (Side::new(server, "trunk", TrunkMode::Peer), Side::new(site, "trunk", TrunkMode::Peer))
}

/// Both addresses of a neighbour answer.
fn ping_both(from: &Netns, mac_end: u8) {
    // Patience costs nothing where an answer comes; a device that has just come up may lose the first question.
    from.sh(&format!("ping -c 2 -i 0.1 -W 10 192.168.1.{mac_end}"));
    from.sh(&format!("ping -c 2 -i 0.1 -W 10 fd00::{mac_end:x}"));
}

/// A server that says who it is to each who connects, at the tenant's IPv4 and IPv6 address.
fn say(tenant: &Netns, text: &'static str) {
    for address in ["192.168.1.1", "fd00::1"] {
        let address: IpAddr = address.parse().unwrap();
        let listener = tenant.run(|| TcpListener::bind((address, 80)).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                stream.unwrap().write_all(text.as_bytes()).unwrap();
            }
        });
    }
}

/// What a server says, over a connection with a given source port: 5-tuples are the same in all tenants.
fn hear(host: &Netns, address: &str) -> String {
    let to: SocketAddr = (address.parse::<IpAddr>().unwrap(), 80).into();
    let from: SocketAddr = match to {
        SocketAddr::V4(_) => "192.168.1.10:4000".parse().unwrap(),
        SocketAddr::V6(_) => "[fd00::a]:4000".parse().unwrap(),
    };
    let mut stream = host.run(|| {
        let domain =
            if to.is_ipv4() { nix::sys::socket::AddressFamily::Inet } else { nix::sys::socket::AddressFamily::Inet6 };
        connect_from(domain, from, to)
    });
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn connect_from(domain: nix::sys::socket::AddressFamily, from: SocketAddr, to: SocketAddr) -> TcpStream {
    use nix::sys::socket::{SockFlag, SockType, SockaddrStorage, bind, connect, socket};
    let fd = socket(domain, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(fd.as_raw_fd(), &SockaddrStorage::from(from)).unwrap();
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
    TcpStream::from(fd)
}

fn tenants_with_identical_addresses() {
    let (mut server, mut site) = two_rooms();
    let servers = [600, 601].map(|vid| server.tenant(vid, 1));
    let hosts = [600, 601].map(|vid| site.tenant(vid, 10));
    for (tenant, text) in servers.iter().zip(["server of 600", "server of 601"]) {
        say(tenant, text);
    }
    for (host, text) in hosts.iter().zip(["server of 600", "server of 601"]) {
        ping_both(host, 1);
        assert_eq!(hear(host, "192.168.1.1"), text);
        assert_eq!(hear(host, "fd00::1"), text);
    }
    // A third VLAN has the same host and no server: silence, though two others would answer.
    let lonely = site.tenant(602, 10);
    assert!(
        !lonely
            .command("ping")
            .args(["-c", "2", "-i", "0.1", "-W", "1", "192.168.1.1"])
            .output()
            .unwrap()
            .status
            .success()
    );
    let all = server.room.counters().unwrap();
    assert!(all.trunks[&server.trunk].keys().eq(&[vlan_rs::DropReason::UnknownVlan]), "{all:?}");
}

/// Bytes that repeat nowhere near, from a small generator.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        u8::try_from(state >> 24).unwrap()
    };
    (0..length).map(|_| next()).collect()
}

/// Sends 20 MB from one to the other and compares.
fn transfer(from: &Netns, to: &Netns, to_address: &str) {
    let data = noise(20_000_000);
    let address: IpAddr = to_address.parse().unwrap();
    let listener = to.run(|| TcpListener::bind((address, 0)).unwrap());
    let target = listener.local_addr().unwrap();
    let mut stream = from.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(30)).unwrap());
    let received = std::thread::spawn(move || {
        let mut all = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut all).unwrap();
        all
    });
    stream.write_all(&data).unwrap();
    drop(stream);
    assert!(received.join().unwrap() == data, "{to_address}: bytes differ");
}

fn transfers_are_identical_with_and_without_offloads() {
    let (mut server, mut site) = two_rooms();
    let (tenant, host) = (server.tenant(600, 1), site.tenant(600, 10));
    for (round, switch) in ["on", "off"].into_iter().enumerate() {
        for inside in [&tenant, &host] {
            inside.sh(&format!("ethtool -K dev0 tso {switch} gso {switch} gro {switch} tx {switch} rx {switch}"));
        }
        let before = server.counters(600);
        for (from, to, end) in [(&tenant, &host, 10), (&host, &tenant, 1)] {
            transfer(from, to, &format!("192.168.1.{end}"));
            transfer(from, to, &format!("fd00::{end:x}"));
        }
        let after = server.counters(600);
        let size = (after.tx_bytes - before.tx_bytes) / (after.tx_packets - before.tx_packets);
        assert_eq!(size > u64::from(MTU), round == 0, "{size} bytes a packet with offloads {switch}");
        assert!(after.drops.is_empty(), "{after:?}");
    }
}

/// A process that ends with its owner.
pub(crate) struct Owned(pub(crate) Child);

impl Owned {
    /// Tells it to stop, as Ctrl-C does.
    fn interrupt(&self) {
        let id = nix::unistd::Pid::from_raw(self.0.id().try_into().unwrap());
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGINT).unwrap();
    }

    /// As [`Self::interrupt`], and waits for its end. Somebody must be reading what it says.
    fn signal_and_wait(mut self) {
        self.interrupt();
        self.0.wait().unwrap();
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// tcpdump on a device, ready to see.
pub(crate) struct Capture {
    child: Owned,
    lines: Receiver<String>,
}

impl Capture {
    pub(crate) fn start(netns: &Netns, device: &str) -> Self {
        let mut child = netns
            .command("tcpdump")
            .args(["-i", device, "-n", "-e", "-l", "-Q", "in", "--immediate-mode"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut child = Owned(child);
        assert!(said.any(|line| line.unwrap().contains("listening on")), "tcpdump");
        let output = BufReader::new(child.0.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Self { child, lines }
    }

    /// Waits until it has told, in one line each, of all that these ask for (the words of one must be in one line), which
    /// may be a while after the frames passed; then ends it and returns its lines. What is not told in time is left to
    /// the caller to miss.
    pub(crate) fn lines(self, wanted: &[&[&str]]) -> Vec<String> {
        let Self { child, lines } = self;
        let end = Instant::now() + Duration::from_secs(20);
        let mut all: Vec<String> = Vec::new();
        let told = |all: &[String], words: &[&str]| all.iter().any(|line| words.iter().all(|word| line.contains(word)));
        while !wanted.iter().all(|&words| told(&all, words)) {
            let Ok(line) = lines.recv_timeout(end.saturating_duration_since(Instant::now())) else { break };
            all.push(line);
        }
        // And what must not be there has its time to come.
        std::thread::sleep(Duration::from_millis(100));
        child.signal_and_wait();
        all.extend(lines);
        all.retain(|line| !line.is_empty());
        all
    }
}

fn the_trunk_carries_tags_only() {
    let (mut server, mut site) = two_rooms();
    let tenants = [600, 601].map(|vid| server.tenant(vid, 1));
    let hosts = [600, 601].map(|vid| site.tenant(vid, 10));
    let captures = [Capture::start(&site.netns, "trunk"), Capture::start(&server.netns, "trunk")];
    for host in &hosts {
        ping_both(host, 1);
    }
    for capture in captures {
        let tags = [600, 601]
            .map(|vid| format!("ethertype 802.1Q (0x8100), length 102: vlan {vid}, p 0, ethertype IPv4 (0x0800)"));
        let lines = capture.lines(&[&[tags[0].as_str()], &[tags[1].as_str()]]);
        for tag in &tags {
            assert!(lines.iter().any(|line| line.contains(tag)), "no ping as {tag}: {lines:#?}");
        }
        let strange: Vec<_> = lines.iter().filter(|l| !l.contains("vlan 600,") && !l.contains("vlan 601,")).collect();
        assert!(strange.is_empty(), "{strange:#?}");
    }
    drop(tenants);
}

/// Both sides routed: each tenant asks by ARP and ND for an address that is only behind the other room, and its own
/// port answers. Nothing of it is on the trunk.
fn a_layer_3_port_answers_arp_and_nd() {
    let (mut server, mut site) = two_rooms();
    let mut inside = Vec::new();
    for (side, end, other) in [(&mut server, 1, 10), (&mut site, 10, 1)] {
        let (tenant, ifindex) = side.inside(600, end);
        let config = PortConfig {
            layer: Layer::Three,
            // The other side's port takes frames for its tenant only: the gateway is that tenant, seen from here.
            gateway_mac: [2, 0, 0, 0, 0, other],
            answer: ["192.168.1.0/24", "fd00::/64"].map(|p| p.parse().unwrap()).to_vec(),
            ..port(ifindex, side.trunk, 600, end)
        };
        side.put(&config);
        inside.push(tenant);
    }
    let capture = Capture::start(&site.netns, "trunk");
    ping_both(&inside[0], 10);
    ping_both(&inside[1], 1);
    let known = inside[0].sh("ip neigh show dev dev0");
    for address in ["192.168.1.10", "fd00::a"] {
        let entry = format!("{address} lladdr 02:00:00:00:00:0a");
        assert!(known.contains(&entry), "{known}");
    }
    let lines = capture.lines(&[&["ICMP6, echo request"]]);
    assert!(lines.iter().any(|line| line.contains("ICMP6, echo request")), "{lines:#?}");
    let asked: Vec<_> = lines.iter().filter(|l| l.contains("ARP") || l.contains("neighbor")).collect();
    assert!(asked.is_empty(), "{asked:#?}");
    // Addresses that no prefix covers stay unknown, and are counted.
    inside[0].ip("route add 10.0.0.0/8 dev dev0");
    assert!(!inside[0].command("ping").args(["-c", "1", "-W", "1", "10.1.1.1"]).output().unwrap().status.success());
    assert!(server.counters(600).drops[&vlan_rs::DropReason::ArpOutside] > 0);
}

/// A trunk that is no veth of ours: plain redirects, through a bridge as a switch would.
fn a_trunk_without_peer_hops() {
    let (server, site, switch) = (Netns::silent(), Netns::silent(), Netns::silent());
    switch.ip("link add br0 type bridge");
    switch.ip("link set dev br0 up");
    for (side, name) in [(&server, "a"), (&site, "b")] {
        side.veth("trunk", &switch, name, 1500);
        switch.ip(&format!("link set dev {name} master br0"));
    }
    let mut server = Side::new(server, "trunk", TrunkMode::Plain);
    let mut site = Side::new(site, "trunk", TrunkMode::Plain);
    let (tenant, host) = (server.tenant(600, 1), site.tenant(600, 10));
    ping_both(&host, 1);
    transfer(&tenant, &host, "192.168.1.10");
    assert!(server.counters(600).drops.is_empty());
}

/// A ping every 2 ms until it is told to stop, and what has been answered.
pub(crate) struct Pings {
    child: Owned,
    said: BufReader<ChildStdout>,
    /// The numbers ping gave them, from 1 on.
    answered: Vec<u32>,
}

impl Pings {
    /// Neighbours are known before it starts, and it runs.
    pub(crate) fn start(host: &Netns, address: &str) -> Self {
        host.sh(&format!("ping -c 2 -i 0.1 -W 10 {address}"));
        let mut command = host.command("ping");
        // With the time of each answer. It ends after a minute and a half, so that nobody waits for ever for one.
        let command = command.args(["-D", "-w", "90", "-i", "0.002", address]);
        let mut child = Owned(command.stdout(Stdio::piped()).spawn().unwrap());
        let output = child.0.stdout.take().unwrap();
        // It must not have to wait for its reader, who comes at the end.
        // SAFETY: a call without pointers.
        let size = unsafe { libc::fcntl(output.as_raw_fd(), libc::F_SETPIPE_SZ, 1 << 20) };
        assert!(size >= 1 << 20, "{}", std::io::Error::last_os_error());
        let mut pings = Self { child, said: BufReader::new(output), answered: vec![] };
        while pings.answered.len() < 50 {
            assert!(pings.next_answer().is_some(), "no answers");
        }
        pings
    }

    /// The time of the next answer, as seconds since 1970; none: ping has ended.
    fn next_answer(&mut self) -> Option<f64> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.said.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            let number = line.split_once("icmp_seq=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
            let time = line.strip_prefix('[').and_then(|rest| rest.split_once(']')?.0.parse().ok());
            if let (true, Some(number), Some(time)) = (line.contains("bytes from"), number, time) {
                self.answered.push(number);
                return Some(time);
            }
        }
    }

    /// Whatever was done until now: pings are answered after it, and none before the last answer was lost. Those after
    /// it are under way when ping is told to stop, and not lost: there is one, or some where the machine stands still.
    /// `at_least`: how many must have been answered, or the traffic was none.
    pub(crate) fn none_lost(mut self, at_least: usize) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        loop {
            let time = self.next_answer().unwrap_or_else(|| panic!("no more answers after {}", self.answered.len()));
            if time > now && self.answered.len() >= at_least {
                break;
            }
        }
        self.child.interrupt();
        while self.next_answer().is_some() {}
        self.answered.sort_unstable();
        let lost: Vec<_> = (1u32..).zip(&self.answered).filter(|(wanted, found)| wanted != *found).take(1).collect();
        assert!(lost.is_empty(), "the first lost, and the next answered: {lost:?} of {}", self.answered.len());
    }
}

fn replacing_programs_loses_nothing() {
    let (mut server, mut site) = two_rooms();
    let (_tenant, host) = (server.tenant(600, 1), site.tenant(600, 10));
    let pings = Pings::start(&host, "192.168.1.1");
    for _ in 0..20 {
        for side in [&mut server, &mut site] {
            let Side { netns, options, room, .. } = side;
            // The old process's room goes as a killed process's does: it has nothing to do at its end.
            *room = netns.run(|| Room::open(options).unwrap());
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(room.adoption().replaced.len(), 2);
            assert!(room.adoption().failed.is_empty() && room.adoption().gone.is_empty());
        }
    }
    pings.none_lost(100);
    assert!(server.counters(600).drops.is_empty());
}

/// All whose rows the programs only read or change in place: those a later version may make longer.
const TABLES: &[&str] = &[
    "room",
    "ports_by_tag",
    "ports_by_ifindex",
    "trunks",
    "answers",
    "traffic_by_slot",
    "rates_by_slot",
    "limits_by_slot",
];

/// The next version has longer rows. It comes, once after having been killed half-way, takes everything over, and the
/// version before refuses what it does not know; all under traffic.
fn another_layout_is_carried_over_and_loses_nothing() {
    let (mut server, mut site) = two_rooms();
    let (_tenant, host) = (server.tenant(600, 1), site.tenant(600, 10));
    ping_both(&host, 1);
    let pings = Pings::start(&host, "192.168.1.1");
    for side in [&mut server, &mut site] {
        let Side { netns, options, room, .. } = side;
        let (ports, trunks, counted) = (room.ports().unwrap(), room.trunks().unwrap(), room.counters().unwrap());
        let old = options.clone();
        let mut reopened = |tables: &'static [&'static str]| {
            options.longer_rows = tables;
            // The old process's room goes as a killed process's does: it has nothing to do at its end.
            *room = netns.run(|| Room::open(options).unwrap());
            assert_eq!(room.adoption().replaced.len(), 2);
            assert!(room.adoption().failed.is_empty() && room.adoption().gone.is_empty());
            assert_eq!((room.ports().unwrap(), room.trunks().unwrap()), (ports.clone(), trunks.clone()));
            let now = room.counters().unwrap();
            for (tag, before) in &counted.ports {
                assert!(now.ports[tag].rx_packets >= before.rx_packets, "{now:?} {counted:?}");
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        // What a version that was killed between two tables leaves: one carried over, one made and not yet in its place.
        reopened(&TABLES[1..2]);
        let half = libbpf_rs::MapHandle::from_pinned_path(old.pin_dir.join("ports_by_tag")).unwrap();
        let mut leftover = half;
        leftover.pin(old.pin_dir.join("trunks_new")).unwrap();
        reopened(TABLES);
        assert!(!old.pin_dir.join("trunks_new").exists());
        // Once more: nothing to carry.
        reopened(TABLES);
        for table in TABLES {
            let pin = old.pin_dir.join(table);
            let shown = netns.sh(&format!("bpftool -j map show pinned {}", pin.display()));
            let longer = match *table {
                "ports_by_tag" => 40,
                "ports_by_ifindex" => 48,
                _ => continue,
            };
            assert!(shown.contains(&format!("\"bytes_value\":{longer}")), "{shown}");
        }
        let refused = netns.run(|| Room::open(&old).unwrap_err());
        assert!(matches!(&refused, vlan_rs::OpenError::Layout { .. }), "{refused}");
        assert!(refused.to_string().contains("newer"), "{refused}");
    }
    // The port still works for whoever writes it: a change through the longer rows.
    let own = server.netns.ifindex("p600");
    let config = PortConfig { mtu: MTU - 1, ..port(own, server.trunk, 600, 1) };
    server.put(&config);
    assert_eq!(server.room.ports().unwrap(), [config]);
    pings.none_lost(50);
    assert!(server.counters(600).drops.is_empty());
}

fn changing_ports_loses_nothing() {
    let (mut server, mut site) = two_rooms();
    let (_tenant, host) = (server.tenant(600, 1), site.tenant(600, 10));
    let pings = Pings::start(&host, "192.168.1.1");
    let own = server.netns.ifindex("p600");
    for round in 0..20u16 {
        // A neighbour comes, changes and goes.
        let (_other, ifindex) = server.inside(700 + round, 1);
        server.put(&port(ifindex, server.trunk, 700 + round, 1));
        let Side { netns, room, .. } = &mut server;
        netns.run(|| room.delete_port(vlan_rs::PortId::Ifindex(ifindex)).unwrap());
        // The port itself changes in place.
        let config = port(own, server.trunk, 600, 1);
        server.put(&PortConfig { mtu: MTU - u32::from(round % 2), ..config });
    }
    pings.none_lost(100);
}

/// Two instances on one trunk, each with its handle; frames that are not ours go on to the other's program.
fn two_rooms_share_a_trunk() {
    let (server, site) = (Netns::silent(), Netns::silent());
    server.veth("trunk", &site, "trunk", 1500);
    let mut site = Side::new(site, "trunk", TrunkMode::Peer);
    let hosts = [600, 601].map(|vid| site.tenant(vid, 10));
    let mut first = Side::new(server, "trunk", TrunkMode::Peer);
    let trunk = TrunkConfig { unknown: vlan_rs::UnknownTag::Pass, ..TrunkConfig::new(first.trunk, TrunkMode::Peer) };
    let Side { netns, room, .. } = &mut first;
    let mut second = netns.run(|| {
        room.attach_trunk(&trunk).unwrap();
        let mut second = Room::open(&OpenOptions { filter_handle: 2, ..OpenOptions::new(pin_dir()) }).unwrap();
        second.attach_trunk(&trunk).unwrap();
        second
    });
    let _tenant = first.tenant(600, 1);
    let (_other, ifindex) = first.inside(601, 1);
    let config = port(ifindex, first.trunk, 601, 1);
    first.netns.run(|| second.put_port(&config).unwrap());
    for host in &hosts {
        ping_both(host, 1);
    }
    assert_eq!(first.room.ports().unwrap().len(), 1);
    // The end of one does not touch the other.
    first.netns.run(|| {
        second.delete_port(vlan_rs::PortId::Ifindex(ifindex)).unwrap();
        second.detach_trunk(trunk.ifindex).unwrap();
    });
    ping_both(&hosts[0], 1);
}

fn a_new_port_counts_from_zero() {
    let (mut server, mut site) = two_rooms();
    let (tenant, host) = (server.tenant(600, 1), site.tenant(600, 10));
    ping_both(&host, 1);
    // Another MAC address than its port's: refused, and counted.
    tenant.ip("link set dev dev0 address 02:00:00:00:00:99");
    tenant.command("ping").args(["-c", "1", "-W", "1", "192.168.1.10"]).output().unwrap();
    let old = server.counters(600);
    assert!(old.rx_packets > 0 && old.tx_packets > 0 && old.drops[&vlan_rs::DropReason::SourceMac] > 0, "{old:?}");
    // Nothing speaks any more on either side (stacks look for routers and tell their groups when they like), so that
    // what is counted next would be the old port's.
    tenant.ip("link set dev dev0 down");
    host.ip("link set dev dev0 down");
    let pin = server.options.pin_dir.join("drops_by_slot");
    let rows = || libbpf_rs::MapCore::keys(&libbpf_rs::MapHandle::from_pinned_path(&pin).unwrap()).count();
    assert_eq!(rows(), 1);
    let config = port(server.netns.ifindex("p600"), server.trunk, 600, 1);
    let Side { netns, room, .. } = &mut server;
    netns.run(|| room.delete_port(vlan_rs::PortId::Tag(config.tag())).unwrap());
    assert_eq!(rows(), 0);
    server.put(&config);
    assert_eq!(server.counters(600), Counters::default());
}
