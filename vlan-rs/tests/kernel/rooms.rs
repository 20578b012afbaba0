//! The verbs: what they refuse, what they leave, and what another process finds.

use vlan_rs::{
    Change, DropReason, Layer, OpenError, OpenOptions, PortConfig, PortError, PortId, RateLimit, Room, TableError,
    TrunkConfig, TrunkError, TrunkMode, Verdict, discard,
};

use crate::veth::port;
use crate::world::{Netns, pin_dir};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("verbs_are_idempotent", verbs_are_idempotent),
    ("ports_are_read_back_as_they_were_put", ports_are_read_back_as_they_were_put),
    ("a_tag_has_one_port", a_tag_has_one_port),
    ("full_tables_are_named", full_tables_are_named),
    ("a_port_that_cannot_be_made_leaves_nothing", a_port_that_cannot_be_made_leaves_nothing),
    ("another_process_adopts_everything", another_process_adopts_everything),
    ("gone_devices_are_forgotten", gone_devices_are_forgotten),
    ("rows_of_half_a_put_are_removed", rows_of_half_a_put_are_removed),
    ("half_a_port_gives_way_to_another_device", half_a_port_gives_way_to_another_device),
    ("a_room_without_limits_is_adopted", a_room_without_limits_is_adopted),
    ("tables_of_another_namespace_are_refused", tables_of_another_namespace_are_refused),
    ("tables_of_another_layout_are_refused", tables_of_another_layout_are_refused),
    ("pins_need_a_bpffs", pins_need_a_bpffs),
];

/// A namespace with a trunk and ports that have no rows yet.
struct Devices {
    here: Netns,
    _there: Netns,
    trunk: u32,
    ports: [u32; 3],
}

fn devices() -> Devices {
    let (here, there) = (Netns::silent(), Netns::silent());
    let trunk = here.veth("trunk", &there, "far", 1500);
    let ports = [0, 1, 2].map(|n| here.veth(&format!("p{n}"), &there, &format!("d{n}"), 1400));
    Devices { here, _there: there, trunk, ports }
}

fn room_with_trunk(devices: &Devices, options: &OpenOptions) -> Room {
    let mut room = Room::open(options).unwrap();
    room.attach_trunk(&TrunkConfig::new(devices.trunk, TrunkMode::Peer)).unwrap();
    room
}

fn routed(ifindex: u32, trunk: u32, vid: u16, answer: &[&str]) -> PortConfig {
    let answer = answer.iter().map(|p| p.parse().unwrap()).collect();
    PortConfig { layer: Layer::Three, answer, ..port(ifindex, trunk, vid, 1) }
}

fn verbs_are_idempotent() {
    let d = devices();
    d.here.run(|| {
        let mut room = Room::open(&OpenOptions::new(pin_dir())).unwrap();
        let trunk = TrunkConfig::new(d.trunk, TrunkMode::Peer);
        assert_eq!(room.attach_trunk(&trunk).unwrap(), Change::Added);
        assert_eq!(room.attach_trunk(&trunk).unwrap(), Change::Unchanged);
        let plain = TrunkConfig { mode: TrunkMode::Plain, ..trunk };
        assert_eq!(room.attach_trunk(&plain).unwrap(), Change::Changed);
        let config = routed(d.ports[0], d.trunk, 600, &["10.0.0.0/8"]);
        assert_eq!(room.put_port(&config).unwrap(), Change::Added);
        assert_eq!(room.put_port(&config).unwrap(), Change::Unchanged);
        let longer = PortConfig { mtu: 1401, ..config.clone() };
        assert_eq!(room.put_port(&longer).unwrap(), Change::Changed);
        let refused = room.detach_trunk(d.trunk);
        assert!(matches!(refused, Err(TrunkError::HasPorts { ports: 1, .. })), "{refused:?}");
        for _ in 0..2 {
            room.delete_port(PortId::Tag(config.tag())).unwrap();
            room.delete_port(PortId::Ifindex(config.ifindex)).unwrap();
        }
        for _ in 0..2 {
            room.detach_trunk(d.trunk).unwrap();
        }
        assert_eq!((room.usage().ports, room.usage().answers, room.usage().trunks), (0, 0, 0));
        assert!(room.ports().unwrap().is_empty() && room.trunks().unwrap().is_empty());
        let filters = d.here.sh("tc filter show dev p0 ingress");
        assert!(filters.is_empty(), "{filters}");
    });
}

fn ports_are_read_back_as_they_were_put() {
    let d = devices();
    d.here.run(|| {
        let mut room = room_with_trunk(&d, &OpenOptions::new(pin_dir()));
        let all = vec![
            routed(d.ports[0], d.trunk, 1, &["0.0.0.0/0", "::/0", "fe80::1/128"]),
            PortConfig {
                neighbour_rate: RateLimit { per_second: 10, burst: 3 },
                packet_rate: RateLimit { per_second: 2000, burst: 500 },
                class: 0x7e4a_0ffe,
                ..port(d.ports[1], d.trunk, 4094, 7)
            },
            routed(d.ports[2], d.trunk, 600, &[]),
        ];
        for config in &all {
            room.put_port(config).unwrap();
        }
        let mut wanted = all.clone();
        wanted[0].answer.sort();
        assert_eq!(room.ports().unwrap(), wanted);
        let wide = RateLimit { per_second: 1_000_000_000, burst: 1_000 };
        room.put_port(&PortConfig { packet_rate: wide, ..all[2].clone() }).unwrap();
        assert_eq!(room.port(all[2].tag()).unwrap().unwrap().packet_rate, wide);
        room.put_port(&all[2]).unwrap();
        // Host bits go, order and repetition do not matter, and what went from a port is not answered any more.
        let config = routed(d.ports[0], d.trunk, 1, &["fd00::1/64", "10.1.2.3/8", "10.0.0.0/8"]);
        room.put_port(&config).unwrap();
        wanted[0].answer = ["10.0.0.0/8", "fd00::/64"].map(|p| p.parse().unwrap()).to_vec();
        assert_eq!(room.ports().unwrap(), wanted);
        assert_eq!(room.usage().answers, 2);
        // Another tag for the same device: the old one leads nowhere.
        let moved = PortConfig { vid: 2.try_into().unwrap(), ..config.clone() };
        room.put_port(&moved).unwrap();
        assert_eq!(room.counters_of(config.tag()).unwrap(), None);
        assert!(room.counters_of(moved.tag()).unwrap().is_some());
    });
}

fn a_tag_has_one_port() {
    let d = devices();
    d.here.run(|| {
        let mut room = room_with_trunk(&d, &OpenOptions::new(pin_dir()));
        room.put_port(&port(d.ports[0], d.trunk, 600, 1)).unwrap();
        let refused = room.put_port(&port(d.ports[1], d.trunk, 600, 1)).unwrap_err();
        assert_eq!(refused.to_string(), format!("vlan 600 on trunk {}: taken by port {}", d.trunk, d.ports[0]));
        let no_trunk = room.put_port(&port(d.ports[1], d.ports[2], 600, 1));
        assert!(matches!(no_trunk, Err(PortError::NoTrunk { .. })));
        for (change, text) in [
            (PortConfig { mtu: 67, ..port(d.ports[1], d.trunk, 1, 1) }, "mtu 67: must be in 68..=65535"),
            (
                PortConfig { mac: [1, 0, 0, 0, 0, 1], ..port(d.ports[1], d.trunk, 1, 1) },
                "mac 01:00:00:00:00:01: must be a unicast MAC address",
            ),
            (
                PortConfig { packet_rate: RateLimit { per_second: 999, burst: 99 }, ..port(d.ports[1], d.trunk, 1, 1) },
                "packet_rate.per_second 999: must be at least 1000",
            ),
            (
                PortConfig { answer: vec!["::/0".parse().unwrap()], ..port(d.ports[1], d.trunk, 1, 1) },
                "answer 1: a layer 2 port answers nothing itself",
            ),
        ] {
            assert_eq!(room.put_port(&change).unwrap_err().to_string(), text);
        }
        assert_eq!(room.usage().ports, 1);
    });
}

fn full_tables_are_named() {
    let d = devices();
    d.here.run(|| {
        let mut room = room_with_trunk(&d, &OpenOptions { max_ports: 2, ..OpenOptions::new(pin_dir()) });
        room.put_port(&routed(d.ports[0], d.trunk, 600, &[])).unwrap();
        room.put_port(&routed(d.ports[1], d.trunk, 601, &[])).unwrap();
        let refused = room.put_port(&routed(d.ports[2], d.trunk, 602, &[])).unwrap_err();
        assert_eq!(refused.to_string(), "the room is full: it has place for 2 ports");
        let many: Vec<String> = (0..33).map(|n| format!("10.{n}.0.0/16")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let refused = room.put_port(&routed(d.ports[1], d.trunk, 601, &many)).unwrap_err();
        assert!(matches!(refused, PortError::Table(TableError::Full { capacity: 32, .. })), "{refused}");
        // Nothing changed by the refusals; 32 do fit, and so does a change of a full table.
        assert_eq!((room.usage().ports, room.usage().answers), (2, 0));
        room.put_port(&routed(d.ports[1], d.trunk, 601, &many[..32])).unwrap();
        room.put_port(&routed(d.ports[1], d.trunk, 603, &many[1..])).unwrap();
        room.delete_port(PortId::Ifindex(d.ports[0])).unwrap();
        room.put_port(&routed(d.ports[2], d.trunk, 602, &[])).unwrap();
    });
}

fn a_port_that_cannot_be_made_leaves_nothing() {
    let d = devices();
    d.here.run(|| {
        let mut room = room_with_trunk(&d, &OpenOptions::new(pin_dir()));
        let absent = routed(4_000, d.trunk, 600, &["::/0"]);
        let refused = room.put_port(&absent);
        assert!(matches!(&refused, Err(PortError::Filter(e)) if e.ifindex == 4_000), "{refused:?}");
        assert!(room.ports().unwrap().is_empty());
        assert_eq!((room.usage().ports, room.usage().answers), (0, 0));
        assert_eq!(room.counters_of(absent.tag()).unwrap(), None);
        room.put_port(&routed(d.ports[0], d.trunk, 600, &["::/0"])).unwrap();
    });
}

fn another_process_adopts_everything() {
    let d = devices();
    d.here.run(|| {
        let options = OpenOptions { max_ports: 100, ..OpenOptions::new(pin_dir()) };
        let mut first = room_with_trunk(&d, &options);
        for (vid, &ifindex) in (600..).zip(&d.ports) {
            first.put_port(&routed(ifindex, d.trunk, vid, &["10.0.0.0/8"])).unwrap();
        }
        let (ports, trunks) = (first.ports().unwrap(), first.trunks().unwrap());
        drop(first);
        // The pinned size stays, whatever the new process would choose.
        let mut second = Room::open(&OpenOptions { max_ports: 7, ..options }).unwrap();
        assert_eq!((second.ports().unwrap(), second.trunks().unwrap()), (ports.clone(), trunks));
        assert_eq!((second.usage().ports, second.usage().max_ports, second.usage().answers), (3, 100, 3));
        assert_eq!(second.adoption().replaced, [&[d.trunk][..], &d.ports].concat());
        for config in &ports {
            assert_eq!(second.put_port(config).unwrap(), Change::Unchanged);
        }
    });
}

fn gone_devices_are_forgotten() {
    let d = devices();
    d.here.run(|| {
        let options = OpenOptions::new(pin_dir());
        let mut first = room_with_trunk(&d, &options);
        for (vid, &ifindex) in (600..).zip(&d.ports) {
            first.put_port(&routed(ifindex, d.trunk, vid, &["10.0.0.0/8"])).unwrap();
        }
        d.here.ip("link delete p1");
        // Without the device: still a row, and its removal succeeds.
        d.here.ip("link delete p2");
        first.delete_port(PortId::Ifindex(d.ports[2])).unwrap();
        drop(first);
        let second = Room::open(&options).unwrap();
        assert_eq!(second.adoption().gone, [d.ports[1]]);
        assert_eq!(second.ports().unwrap().iter().map(|port| port.ifindex).collect::<Vec<_>>(), [d.ports[0]]);
        assert_eq!(second.usage().answers, 1);
    });
}

/// What a process leaves that was killed after the port's row and before the tag's, or between two rows of a change.
fn rows_of_half_a_put_are_removed() {
    use libbpf_rs::{MapCore as _, MapFlags, MapHandle};
    let d = devices();
    d.here.run(|| {
        let options = OpenOptions::new(pin_dir());
        let mut first = room_with_trunk(&d, &options);
        first.put_port(&routed(d.ports[0], d.trunk, 600, &["10.0.0.0/8"])).unwrap();
        let tags = MapHandle::from_pinned_path(options.pin_dir.join("ports_by_tag")).unwrap();
        let key = |vid: u16| [&d.trunk.to_ne_bytes()[..], &vid.to_ne_bytes(), &[0; 2]].concat();
        let row = tags.lookup(&key(600), MapFlags::ANY).unwrap().unwrap();
        // A tag that leads to a port which does not know of it must not deliver another VLAN's frames.
        tags.update(&key(601), &row, MapFlags::ANY).unwrap();
        // An answer of a port that is not there.
        let answers = MapHandle::from_pinned_path(options.pin_dir.join("answers")).unwrap();
        let mut stray = answers.keys().next().unwrap();
        stray[4..8].copy_from_slice(&d.ports[1].to_ne_bytes());
        answers.update(&stray, &1u32.to_ne_bytes(), MapFlags::ANY).unwrap();
        drop(first);
        let second = Room::open(&options).unwrap();
        assert!(tags.lookup(&key(601), MapFlags::ANY).unwrap().is_none());
        assert!(tags.lookup(&key(600), MapFlags::ANY).unwrap().is_some());
        assert_eq!(answers.keys().count(), 1);
        assert_eq!(second.usage().answers, 1);
    });
}

/// What a process leaves that was killed between a port's tag and its row, whose device goes after the next one has come.
fn half_a_port_gives_way_to_another_device() {
    use libbpf_rs::{MapCore as _, MapHandle};
    let d = devices();
    d.here.run(|| {
        let options = OpenOptions::new(pin_dir());
        let mut first = room_with_trunk(&d, &options);
        first.put_port(&routed(d.ports[0], d.trunk, 600, &["10.0.0.0/8"])).unwrap();
        let tags = MapHandle::from_pinned_path(options.pin_dir.join("ports_by_tag")).unwrap();
        tags.delete(&[&d.trunk.to_ne_bytes()[..], &600u16.to_ne_bytes(), &[0; 2]].concat()).unwrap();
        drop(first);
        let mut second = Room::open(&options).unwrap();
        d.here.ip("link delete p0");
        let config = routed(d.ports[1], d.trunk, 600, &["10.0.0.0/8"]);
        assert_eq!(second.put_port(&config).unwrap(), Change::Added);
        assert_eq!(second.ports().unwrap(), [config]);
        assert_eq!(second.usage().answers, 1);
    });
}

/// What a version left that knew no limits: no such table. Its ports go on without, until they are put again.
fn a_room_without_limits_is_adopted() {
    let d = devices();
    d.here.run(|| {
        let options = OpenOptions::new(pin_dir());
        let mut first = room_with_trunk(&d, &options);
        let config = routed(d.ports[0], d.trunk, 600, &["10.0.0.0/8"]);
        first.put_port(&config).unwrap();
        drop(first);
        std::fs::remove_file(options.pin_dir.join("limits_by_slot")).unwrap();
        let mut second = Room::open(&options).unwrap();
        assert!(second.adoption().failed.is_empty());
        let found = second.port(config.tag()).unwrap().unwrap();
        assert_eq!((found.class, found.packet_rate.per_second), (0, u32::MAX));
        assert_eq!(PortConfig { packet_rate: config.packet_rate, ..found }, config);
        assert_eq!(second.put_port(&config).unwrap(), Change::Changed);
        assert_eq!(second.put_port(&config).unwrap(), Change::Unchanged);
        assert_eq!(second.ports().unwrap(), [config]);
    });
}

fn tables_of_another_namespace_are_refused() {
    let d = devices();
    let options = OpenOptions::new(pin_dir());
    d.here.run(|| drop(room_with_trunk(&d, &options)));
    let other = Netns::silent();
    other.run(|| {
        let refused = Room::open(&options);
        assert!(matches!(refused, Err(OpenError::OtherNamespace { .. })), "{refused:?}");
        discard(&options.pin_dir).unwrap();
        discard(&options.pin_dir).unwrap();
        let room = Room::open(&options).unwrap();
        assert!(room.ports().unwrap().is_empty());
        assert_eq!(room.last_verdict().unwrap(), None::<Verdict>);
        assert_eq!(room.counters().unwrap().room.get(&DropReason::NoPort), None);
    });
}

fn tables_of_another_layout_are_refused() {
    let here = Netns::silent();
    here.run(|| {
        let options = OpenOptions::new(pin_dir());
        std::fs::create_dir_all(&options.pin_dir).unwrap();
        let pin = options.pin_dir.join("trunks");
        let create = libbpf_rs::libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_rs::libbpf_sys::bpf_map_create_opts>().try_into().unwrap(),
            ..Default::default()
        };
        let kind = libbpf_rs::MapType::Hash;
        let mut other = libbpf_rs::MapHandle::create(kind, Some("trunks"), 4, 12, 64, &create).unwrap();
        other.pin(&pin).unwrap();
        let refused = Room::open(&options).unwrap_err();
        assert!(
            matches!(&refused, OpenError::Layout { field: "the size of a row", pinned: 12, ours: 8, .. }),
            "{refused}"
        );
    });
}

fn pins_need_a_bpffs() {
    let here = Netns::silent();
    here.run(|| {
        let dir = std::env::temp_dir().join("vlan-rs-no-bpffs");
        let refused = Room::open(&OpenOptions::new(&dir));
        assert!(matches!(refused, Err(OpenError::NotBpffs { .. })), "{refused:?}");
        assert!(!dir.exists());
    });
}
