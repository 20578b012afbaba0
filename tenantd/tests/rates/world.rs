//! Two patch rooms that face each other over a trunk, as the server's and a site's, and what is behind their ports: all
//! in namespaces without names that end with the test. Devices are made as tenantd makes them.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;
use tenantd::net::link::{self, VethEnd};
use tenantd::net::ns::NetNs;
use tenantd::net::rtnl::Netlink;
use vlan_rs::{Layer, OpenOptions, PACKET_RATE, PortConfig, RateLimit, Room, TrunkConfig, TrunkMode, Vid};

const BPFFS: &str = "/sys/fs/bpf";
pub(crate) const MTU: u32 = 1400;

/// Before any thread is started: a mount namespace with a bpffs of its own, and a network namespace that is not the host's.
pub(crate) fn leave_the_host() {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), none).unwrap();
}

/// A network namespace held by its descriptor.
pub(crate) struct Place {
    fd: OwnedFd,
    pub(crate) netlink: Netlink,
}

impl Place {
    /// Loopback up; without IPv6 on devices where nothing should speak by itself.
    pub(crate) fn new(speaks_ipv6: bool) -> Self {
        let made = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            for which in ["all", "default"].iter().filter(|_| !speaks_ipv6) {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1").unwrap();
            }
            OwnedFd::from(std::fs::File::open("/proc/thread-self/ns/net").unwrap())
        });
        let fd = made.join().unwrap();
        let netlink = NetNs::from(fd.try_clone().unwrap()).netlink().unwrap();
        let place = Self { fd, netlink };
        place.sh("ip link set dev lo up");
        place
    }

    /// Runs `job` on a thread in here.
    pub(crate) fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        NetNs::from(self.fd.try_clone().unwrap()).run(job).unwrap()
    }

    /// A command that will run in here, and end with the thread that starts it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let fd = self.fd.try_clone().unwrap();
        // SAFETY: prctl(2) and setns(2) alone, which are async-signal-safe; the descriptor lives as long as the closure.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                Ok(setns(fd.as_fd(), CloneFlags::CLONE_NEWNET)?)
            });
        }
        command
    }

    /// Runs a command line to its end; panics when it fails.
    pub(crate) fn sh(&self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = self.command(words[0]).args(&words[1..]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{line}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Makes a veth from here into another place, both ends up; the index of the end here.
    pub(crate) fn veth(&self, near: &str, other: &Place, far: &str, mtu: u32) -> u32 {
        let end = |name| VethEnd { name, mac: None, mtu };
        link::add_veth(&self.netlink, end(near), end(far), other.fd.as_fd()).unwrap();
        other.sh(&format!("ip link set dev {far} up"));
        self.index(near)
    }

    pub(crate) fn index(&self, name: &str) -> u32 {
        link::find(&self.netlink, name).unwrap().unwrap().index
    }
}

/// A room with its trunk and, behind one port a VLAN, what has the addresses 192.168.1.END and fd00::END.
pub(crate) struct Side {
    pub(crate) place: Place,
    pub(crate) room: Room,
    pub(crate) trunk: u32,
    end: u8,
}

impl Side {
    fn new(place: Place, end: u8) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let options = OpenOptions::new(PathBuf::from(format!("{BPFFS}/rates{}", NEXT.fetch_add(1, Ordering::Relaxed))));
        let trunk = place.index("trunk");
        let room = place.run(|| {
            let mut room = Room::open(&options).unwrap();
            room.attach_trunk(&TrunkConfig::new(trunk, TrunkMode::Peer)).unwrap();
            room
        });
        Self { place, room, trunk, end }
    }

    /// What a port of this VLAN is set to.
    pub(crate) fn config(&self, vid: u16, class: u32) -> PortConfig {
        PortConfig {
            ifindex: self.place.index(&format!("p{vid}")),
            trunk: self.trunk,
            vid: Vid::try_from(vid).unwrap(),
            mac: [2, 0, 0, 0, 0, self.end],
            gateway_mac: [2, 0, 0, 0, 0xff, self.end],
            layer: Layer::Two,
            mtu: MTU,
            answer: vec![],
            neighbour_rate: RateLimit::default(),
            packet_rate: PACKET_RATE,
            class,
        }
    }

    pub(crate) fn put(&mut self, config: &PortConfig) {
        let Self { place, room, .. } = self;
        place.run(|| room.put_port(config).unwrap());
    }

    /// A port, and who is behind it.
    pub(crate) fn inhabitant(&mut self, vid: u16) -> Place {
        let inside = Place::new(true);
        self.place.veth(&format!("p{vid}"), &inside, "eth0", MTU);
        let end = self.end;
        inside.sh(&format!("ip link set dev eth0 address 02:00:00:00:00:{end:02x}"));
        inside.sh(&format!("ip address add 192.168.1.{end}/24 dev eth0"));
        inside.sh(&format!("ip address add fd00::{end:x}/64 dev eth0 nodad"));
        let config = self.config(vid, 0);
        self.put(&config);
        inside
    }
}

/// The server's room and a site's.
pub(crate) fn two_rooms() -> (Side, Side) {
    let (server, site) = (Place::new(false), Place::new(false));
    server.veth("trunk", &site, "trunk", 9216);
    (Side::new(server, 1), Side::new(site, 10))
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Bytes of Ethernet frames that came to somebody behind a port, counted by the kernel.
pub(crate) fn arrived(place: &Place) -> u64 {
    let report: Value = serde_json::from_str(&place.sh("ip -json -statistics link show dev eth0")).unwrap();
    report[0]["stats64"]["rx"]["bytes"].as_u64().unwrap()
}

/// iperf3 at work.
pub(crate) struct Flow {
    client: Child,
    server: Server,
    reader: std::thread::JoinHandle<usize>,
}

impl Flow {
    /// From one place to another's address, the first second left out.
    #[allow(clippy::zombie_processes, reason = "waited for in finish(); a test that fails ends it with its thread")]
    pub(crate) fn start(from: &Place, to: &Place, address: &str, words: &str) -> Self {
        let mut command = to.command("iperf3");
        let mut server = Server(command.args(["-s", "-1", "--forceflush"]).stdout(Stdio::piped()).spawn().unwrap());
        let mut said = BufReader::new(server.0.stdout.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().contains("Server listening")));
        // It goes on writing: somebody must read.
        let reader = std::thread::spawn(move || said.count());
        let mut command = from.command("timeout");
        command.args(["60", "iperf3", "-J", "-O", "1", "-c", address]).args(words.split_whitespace());
        let client = command.stdout(Stdio::piped()).spawn().unwrap();
        Self { client, server, reader }
    }

    /// Bits a second of payload that the receiving iperf3 got.
    pub(crate) fn finish(self) -> f64 {
        let output = self.client.wait_with_output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        drop(self.server);
        self.reader.join().unwrap();
        report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or_else(|| panic!("iperf3: {report}"))
    }
}

/// A whole run.
pub(crate) fn iperf(from: &Place, to: &Place, address: &str, words: &str) -> f64 {
    Flow::start(from, to, address, words).finish()
}
