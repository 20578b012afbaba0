//! Two rooms that face each other over one trunk, and tenants with identical addresses behind both.

use vlan_rs::{Layer, OpenOptions, PortConfig, RateLimit, Room, TrunkConfig, TrunkMode, Vid};

use crate::world::{Netns, pin_dir};

pub(crate) const TESTS: &[(&str, fn())] = &[(
    "tenants_with_identical_addresses",
    tenants_with_identical_addresses,
)];

const MTU: u32 = 1400;

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
    }
}

/// One end of the trunk with its room.
struct Side {
    netns: Netns,
    room: Room,
    trunk: u32,
}

fn side(netns: Netns, trunk: &str, mode: TrunkMode) -> Side {
    let trunk = netns.ifindex(trunk);
    let room = netns.run(|| {
        let mut room = Room::open(&OpenOptions::new(pin_dir())).unwrap();
        room.attach_trunk(&TrunkConfig::new(trunk, mode)).unwrap();
        room
    });
    Side { netns, room, trunk }
}

impl Side {
    /// A tenant with one address on one VLAN.
    fn tenant(&mut self, vid: u16, mac_end: u8, address: &str) -> Netns {
        let tenant = Netns::new();
        let ifindex = self.netns.veth(&format!("p{vid}"), &tenant, "dev0", MTU);
        tenant.ip(&format!(
            "link set dev0 address 02:00:00:00:00:{mac_end:02x}"
        ));
        tenant.ip(&format!("address add {address}/24 dev dev0"));
        let config = port(ifindex, self.trunk, vid, mac_end);
        self.netns.run(|| self.room.put_port(&config).unwrap());
        tenant
    }
}

fn two_rooms() -> (Side, Side) {
    let (server, site) = (Netns::silent(), Netns::silent());
    server.veth("trunk", &site, "trunk", 1500);
    (
        side(server, "trunk", TrunkMode::Peer),
        side(site, "trunk", TrunkMode::Peer),
    )
}

fn tenants_with_identical_addresses() {
    let (mut server, mut site) = two_rooms();
    let _servers = [600, 601].map(|vid| server.tenant(vid, 1, "192.168.1.1"));
    let hosts = [600, 601].map(|vid| site.tenant(vid, 10, "192.168.1.10"));
    for host in &hosts {
        host.sh("ping -c 3 -i 0.2 -W 1 192.168.1.1");
    }
    println!("{:#?}", server.room.counters().unwrap());
}
