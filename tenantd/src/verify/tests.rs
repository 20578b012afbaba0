//! Made-up kernels beside made-up tables: agreement, and each kind of drift found and named.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use stackmap::{GidRange, MacAddr, Segment, StackIndex, TrunkIndex, Vlan};
use vlan_rs::{Layer, PortConfig, RateLimit};

use super::facts::{Census, Device, Expected, Facts, Member, Place, SeatedInit, Seen, Stack};
use super::*;
use crate::access::{StatedRow, StatedTunnel};

const ME: i32 = 99;
const TRUNK: u32 = 2;

fn at(n: usize) -> Segment {
    Segment { trunk: TrunkIndex(0), vlan: vlan(n) }
}

fn rows(facts: &mut Facts) -> &mut Vec<StatedRow> {
    facts.access.get_mut(&TrunkIndex(0)).unwrap().as_mut().unwrap()
}

fn vlan(n: usize) -> Vlan {
    Vlan::new(600 + n as u16).unwrap()
}

fn mac(n: usize) -> MacAddr {
    MacAddr::new([2, 0, 0, 0, 0, n as u8 + 1]).unwrap()
}

fn port(n: usize) -> PortConfig {
    PortConfig {
        ifindex: 10 + n as u32,
        trunk: TRUNK,
        vid: vlan_rs::Vid::try_from(vlan(n).get()).unwrap(),
        mac: mac(n).octets(),
        gateway_mac: [2, 0, 0, 0, 1, 0],
        layer: Layer::Three,
        mtu: 1480,
        answer: Vec::new(),
        neighbour_rate: RateLimit::default(),
        packet_rate: vlan_rs::PACKET_RATE,
        class: 0,
    }
}

fn stated(n: usize) -> StatedRow {
    StatedRow {
        vlan: vlan(n),
        owner: "tenantd/main".into(),
        generation: 1,
        server_mac: mac(n),
        gateway_mac: mac(n),
        tunnels: vec![StatedTunnel {
            kind: "ipip".parse().unwrap(),
            remote: "198.51.100.2".parse().unwrap(),
            local: None,
            key: None,
            prefixes: Vec::new(),
        }],
    }
}

fn guard(n: usize) -> stack_guard::Row {
    let cgroup = stack_guard::Cgroup { id: 1000 + n as u64, level: 2 };
    let gids_start = GidRange::FIRST.get() + n as u32 * GidRange::LEN;
    stack_guard::Row { cookie: 50 + n as u64, cgroups: [cgroup].into(), gids_start, max_connections: None }
}

fn expected(n: usize) -> Expected {
    let rows: BTreeSet<String> = [format!("inet{n} <-> gid")].into();
    Expected {
        name: ["acme", "bcme", "ccme"][n].parse().unwrap(),
        stack: StackIndex(n as u32),
        ids: GidRange::new(guard(n).gids_start).unwrap(),
        at: Some(at(n)),
        device: format!("dev{n}"),
        mac: Some(mac(n)),
        owns_network: false,
        removing: false,
        failure: None,
        wanted_rows: rows.clone(),
        rows,
        cgroups: [(String::new(), format!("/t/tenant-{n}")), ("pids".into(), format!("/t/tenant-{n}"))].into(),
        init: Some(SeatedInit { pid: 100 + n as i32, inode: 70 + n as u64, cookie: 50 + n as u64 }),
        port: Some(PortConfig { ifindex: 0, mtu: 0, ..port(n) }),
        access: Some(stated(n)),
        guard: Some(guard(n)),
    }
}

fn member(n: usize, pid: i32) -> Member {
    Member {
        pid,
        start: 7,
        command: "nginx".into(),
        root: false,
        cgroups: BTreeMap::from([(n, 2)]),
        ids: [n].into(),
        other_ids: BTreeSet::new(),
        pid_ns: Some(n),
        places: [Place::Stack(n)].into(),
        sockets: vec![Seen { inode: 1000 + pid as u64, family: libc::AF_INET, place: Place::Stack(n) }],
    }
}

fn device(index: u32, name: &str, peer: u32, leads: Place) -> Device {
    let (peer, peer_ns, leads) = (Some(peer), Some(0), Some(leads));
    Device { index, name: name.into(), mac: None, loopback: false, virtual_kind: true, peer, peer_ns, leads }
}

/// Three tenants of which everything is right.
fn world() -> (Vec<Expected>, Facts) {
    let tenants: Vec<Expected> = (0..3).map(expected).collect();
    let mut facts = Facts::new(ME, BTreeMap::from([(TrunkIndex(0), TRUNK)]));
    facts.room.push(device(TRUNK, "trunk", 3, Place::Host));
    facts.room.push(Device { index: 1, name: "lo".into(), loopback: true, ..Device::default() });
    for n in 0..3 {
        let index = 10 + n as u32;
        facts.room.push(device(index, &format!("p{}", vlan(n)), 4, Place::Stack(n)));
        let inside = Device { mac: Some(mac(n)), ..device(4, &format!("dev{n}"), index, Place::Room) };
        let devices = vec![Device { index: 1, name: "lo".into(), loopback: true, ..Device::default() }, inside];
        facts.stacks.insert(n, Stack { inode: 70 + n as u64, cookie: 50 + n as u64, devices });
        facts.ports.push(port(n));
        facts.tags.insert(at(n), Some(port(n)));
        facts.guard.push(guard(n));
        facts.census.members.extend([member(n, 100 + n as i32), member(n, 200 + n as i32)]);
    }
    facts.access.insert(TrunkIndex(0), Ok((0..3).map(stated).collect()));
    // The daemon: netlink sockets in every stack.
    let sockets = (0..3).map(|n| Seen { inode: n as u64, family: libc::AF_NETLINK, place: Place::Stack(n) }).collect();
    facts.census.members.push(Member {
        pid: ME,
        root: true,
        places: [Place::Host].into(),
        sockets,
        ..Member::default()
    });
    facts.census.processes = 300;
    (tenants, facts)
}

/// Verifies after a change; `check`, tenants, and words of both sides.
#[track_caller]
fn finds(change: impl FnOnce(&mut Vec<Expected>, &mut Facts), check: &str, tenants: &[&str], words: &[&str]) {
    let (mut expected, mut facts) = world();
    change(&mut expected, &mut facts);
    let found = compare(&expected, &facts);
    assert!(!found.agree);
    let all: Vec<String> = found
        .checks
        .iter()
        .flat_map(|c| c.disagree.iter().map(|d| format!("{}: {d} {:?}", c.name, d.tenants)))
        .collect();
    let there = found.checks.iter().find(|c| c.name == check).unwrap();
    let hit = there.disagree.iter().any(|one| {
        let names: BTreeSet<String> = tenants.iter().map(|t| (*t).to_owned()).collect();
        one.tenants == names && words.iter().all(|word| one.to_string().contains(word))
    });
    assert!(hit, "{all:#?}");
    let others = found.checks.iter().filter(|c| c.name != check && !c.disagree.is_empty()).count();
    assert_eq!(others, 0, "one cause, one check: {all:#?}");
}

#[test]
fn all_agree_and_the_daemons_own_sockets_are_said() {
    let (expected, facts) = world();
    let found = compare(&expected, &facts);
    assert!(found.agree, "{found:#?}");
    let belong: Vec<usize> = found.checks.iter().map(|check| check.belong).collect();
    assert_eq!(belong, [3, 3, 6, 9, 3, 3, 3, 3]);
    assert_eq!(found.notes, ["3 sockets in stacks are the daemon's own (process 99)"]);
}

#[test]
fn a_process_elsewhere() {
    let torn = |_: &mut Vec<Expected>, facts: &mut Facts| {
        facts.census.members[0].places = [Place::Stack(1)].into();
        facts.census.members[0].sockets.clear();
    };
    finds(torn, "processes", &["acme", "bcme"], &["process 100 (nginx", "in inet1 of bcme", "in the cgroups of acme"]);
    let thread = |_: &mut Vec<Expected>, facts: &mut Facts| {
        facts.census.members[0].places = [Place::Stack(0), Place::Host].into();
    };
    finds(thread, "processes", &["acme"], &["in the host's stack", "inet0 of acme <-> ids from 524288"]);
    let hierarchy = |_: &mut Vec<Expected>, facts: &mut Facts| {
        facts.census.members[0].cgroups = BTreeMap::from([(0, 1)]);
    };
    finds(hierarchy, "processes", &["acme"], &["in 1 of the 2 cgroups of acme"]);
    let group = |_: &mut Vec<Expected>, facts: &mut Facts| {
        facts.census.members[0].ids = [0, 2].into();
        facts.census.members[0].sockets.clear();
    };
    finds(group, "processes", &["acme", "ccme"], &["with ids of ccme"]);
    let ids = |_: &mut Vec<Expected>, facts: &mut Facts| {
        facts.census.members[0].other_ids = [0, 33].into();
    };
    finds(ids, "processes", &["acme"], &["with ids of no tenant (0 33)"]);
    let stranger = |_: &mut Vec<Expected>, facts: &mut Facts| {
        let plain = Member { pid: 500, ids: [1].into(), places: [Place::Host].into(), ..Member::default() };
        facts.census.members.push(plain);
    };
    finds(stranger, "processes", &["bcme"], &["process 500", "in no tenant's cgroups", "in no tenant's pid namespace"]);
    let visitor = |_: &mut Vec<Expected>, facts: &mut Facts| {
        let root = Member { pid: 500, root: true, places: [Place::Stack(1)].into(), ..Member::default() };
        facts.census.members.push(Member { other_ids: [0].into(), ..root });
    };
    finds(visitor, "processes", &["bcme"], &["process 500", "only its processes are there"]);
    let unseen =
        |_: &mut Vec<Expected>, facts: &mut Facts| facts.census.unseen.push(("process 5".into(), "EPERM".into()));
    finds(unseen, "processes", &[], &["process 5", "EPERM"]);
}

#[test]
fn root_on_its_way_in_and_stacks_made_inside_are_right() {
    let (expected, mut facts) = world();
    let root = Member { pid: 500, root: true, other_ids: [0].into(), ..Member::default() };
    let cgroups = BTreeMap::from([(1, 2)]);
    let sockets = vec![Seen { inode: 9, family: libc::AF_NETLINK, place: Place::Host }];
    let entering = Member { cgroups, places: [Place::Host].into(), sockets, ..root.clone() };
    facts.census.members.push(entering);
    facts.census.members.push(Member { pid: 501, pid_ns: Some(1), places: [Place::Stack(1)].into(), ..root });
    facts.census.members[0].places.insert(Place::Private(0));
    facts.census.members[0].sockets[0].place = Place::Private(0);
    let found = compare(&expected, &facts);
    assert!(found.agree, "{found:#?}");
    assert!(found.notes.contains(&"2 processes are root of the host inside a tenant, on their way in".to_owned()));
}

#[test]
fn a_socket_elsewhere() {
    let host = |_: &mut Vec<Expected>, facts: &mut Facts| facts.census.members[0].sockets[0].place = Place::Host;
    finds(host, "sockets", &["acme"], &["socket 1100 of process 100", "AF_INET socket in the host's stack"]);
    let passed = |_: &mut Vec<Expected>, facts: &mut Facts| facts.census.members[0].sockets[0].place = Place::Stack(1);
    finds(passed, "sockets", &["acme", "bcme"], &["in inet1 of bcme"]);
    let foreign = |_: &mut Vec<Expected>, facts: &mut Facts| {
        let seen = Seen { inode: 77, family: libc::AF_INET6, place: Place::Stack(2) };
        let holder = Member { pid: 500, sockets: vec![seen], places: [Place::Host].into(), ..Member::default() };
        // Two processes hold it: it is one socket.
        facts.census.members.extend([holder.clone(), Member { pid: 501, ..holder }]);
    };
    finds(foreign, "sockets", &["ccme"], &["socket 77 of process 500", "AF_INET6 socket in inet2 of ccme"]);
    let (expected, mut facts) = world();
    facts.census.members[0].sockets[0] = Seen { inode: 1, family: libc::AF_UNIX, place: Place::Host };
    let found = compare(&expected, &facts);
    assert!(found.agree && found.notes.iter().any(|note| note.starts_with("1 Unix sockets")), "{found:#?}");
}

#[test]
fn stacks() {
    let gone = |_: &mut Vec<Expected>, facts: &mut Facts| {
        facts.stacks.remove(&1);
        facts.room.retain(|device| device.name != "p601");
    };
    let (mut expected, mut facts) = world();
    gone(&mut expected, &mut facts);
    let found = compare(&expected, &facts);
    assert_eq!(found.checks[1].disagree[0].kernel, "no init holds it");
    let moved = |_: &mut Vec<Expected>, facts: &mut Facts| facts.stacks.get_mut(&1).unwrap().inode = 4;
    finds(moved, "stacks", &["bcme"], &["network namespace 71", "init 101 is in 4"]);
    let (mut expected, mut facts) = world();
    facts.stacks.get_mut(&1).unwrap().inode = 70;
    expected[1].init.as_mut().unwrap().inode = 70;
    let found = compare(&expected, &facts);
    assert_eq!(found.checks[1].disagree[0].kernel, "network namespace 70 is that of inet0 too");
}

#[test]
fn ports() {
    let renamed = |_: &mut Vec<Expected>, facts: &mut Facts| facts.room[3].name = "x".into();
    let (mut tenants, mut facts) = world();
    renamed(&mut tenants, &mut facts);
    let found = compare(&tenants, &facts);
    let first = &found.checks[4].disagree[0];
    assert_eq!(first.kernel, "no such device in the patch room; x leads there");
    assert_eq!((first.table.as_str(), first.subject.as_str()), ("(inet1, dev1) <-> vlan601", "port p601"));
    assert_eq!(found.checks[4].disagree[1].subject, "device x in the patch room");
    let inside = |_: &mut Vec<Expected>, facts: &mut Facts| {
        facts.stacks.get_mut(&1).unwrap().devices[1].name = "eth0".into();
    };
    finds(inside, "ports", &["bcme"], &["port p601", "no such device in the stack"]);
    let crossed = |_: &mut Vec<Expected>, facts: &mut Facts| {
        facts.room[2].leads = Some(Place::Stack(1));
        facts.room[3].leads = Some(Place::Stack(0));
    };
    finds(crossed, "ports", &["acme"], &["the other end of p600", "in inet1 of bcme"]);
    let address = |_: &mut Vec<Expected>, facts: &mut Facts| {
        facts.stacks.get_mut(&1).unwrap().devices[1].mac = Some(mac(7));
    };
    finds(address, "ports", &["bcme"], &["Ethernet address 02:00:00:00:00:02", "02:00:00:00:00:08"]);
    let back_door = |_: &mut Vec<Expected>, facts: &mut Facts| {
        facts.stacks.get_mut(&1).unwrap().devices.push(device(9, "veth9", 3, Place::Host));
    };
    finds(back_door, "ports", &["bcme"], &["device veth9 in inet1", "its other end is in the host's stack"]);
    let own = |expected: &mut Vec<Expected>, facts: &mut Facts| {
        expected[1].owns_network = true;
        facts.stacks.get_mut(&1).unwrap().devices.push(device(9, "veth9", 3, Place::Elsewhere));
        facts.stacks.get_mut(&1).unwrap().devices.push(device(8, "veth8", 3, Place::Stack(2)));
    };
    finds(own, "ports", &["bcme"], &["device veth8 in inet1", "in inet2 of ccme"]);
    let extra = |_: &mut Vec<Expected>, facts: &mut Facts| facts.room.push(device(40, "p999", 3, Place::Elsewhere));
    finds(extra, "ports", &[], &["device p999 in the patch room"]);
}

#[test]
fn tags() {
    let lost = |_: &mut Vec<Expected>, facts: &mut Facts| {
        facts.ports.remove(1);
        facts.tags.insert(at(1), None);
    };
    finds(lost, "tags", &["bcme"], &["tag vlan601", "no row of the data path has the tag"]);
    let way_in = |_: &mut Vec<Expected>, facts: &mut Facts| drop(facts.tags.insert(at(1), None));
    finds(way_in, "tags", &["bcme"], &["device 11", "frames with the tag go nowhere"]);
    let stolen = |_: &mut Vec<Expected>, facts: &mut Facts| drop(facts.tags.insert(at(1), Some(port(2))));
    finds(stolen, "tags", &["bcme"], &["device 11", "frames with the tag go to device 12"]);
    let address = |_: &mut Vec<Expected>, facts: &mut Facts| facts.ports[1].mac = [2, 9, 9, 9, 9, 9];
    finds(address, "tags", &["bcme"], &["MAC 02:00:00:00:00:02", "MAC 02:09:09:09:09:09"]);
    let twice = |_: &mut Vec<Expected>, facts: &mut Facts| facts.ports.push(PortConfig { ifindex: 44, ..port(1) });
    finds(twice, "tags", &["bcme"], &["one port a tag", "devices 11 and 44"]);
    let nobodys = |_: &mut Vec<Expected>, facts: &mut Facts| facts.ports.push(PortConfig { ifindex: 44, ..port(9) });
    finds(nobodys, "tags", &[], &["tag vlan609", "no tenant has it"]);
}

#[test]
fn tunnels() {
    let lost = |_: &mut Vec<Expected>, facts: &mut Facts| {
        drop(facts.access.insert(TrunkIndex(0), Ok(vec![stated(0), stated(2)])))
    };
    finds(lost, "tunnels", &["bcme"], &["ipip:198.51.100.2", "no row of ours"]);
    let changed = |_: &mut Vec<Expected>, facts: &mut Facts| {
        rows(facts)[1].tunnels[0].remote = "198.51.100.66".parse().unwrap();
    };
    finds(changed, "tunnels", &["bcme"], &["ipip:198.51.100.2", "ipip:198.51.100.66"]);
    let extra = |_: &mut Vec<Expected>, facts: &mut Facts| rows(facts).push(stated(9));
    finds(extra, "tunnels", &[], &["tunnels of vlan609"]);
    let away = |expected: &mut Vec<Expected>, facts: &mut Facts| {
        expected.truncate(1);
        *facts = world().1;
        facts.stacks = HashMap::from([(0, facts.stacks.remove(&0).unwrap())]);
        facts.room.truncate(3);
        facts.ports.truncate(1);
        facts.guard.truncate(1);
        facts.census = Census::default();
        facts.access.insert(TrunkIndex(0), Err("cannot be reached".into()));
    };
    finds(away, "tunnels", &["acme"], &["not known: cannot be reached"]);
}

#[test]
fn the_same_vlan_on_another_trunk_is_another_one() {
    const SECOND: u32 = 3;
    let there = Segment { trunk: TrunkIndex(1), ..at(0) };
    // The second tenant's VLAN is the first one's number, on the second trunk.
    let moved = |expected: &mut Vec<Expected>, facts: &mut Facts| {
        let row = PortConfig { trunk: SECOND, vid: port(0).vid, ..port(1) };
        expected[1].at = Some(there);
        expected[1].port = Some(PortConfig { ifindex: 0, mtu: 0, ..row.clone() });
        expected[1].access = Some(StatedRow { vlan: vlan(0), ..stated(1) });
        facts.trunks.insert(there.trunk, SECOND);
        facts.room.push(device(SECOND, "trunk-1", 4, Place::Host));
        facts.room.iter_mut().filter(|d| d.name == format!("p{}", vlan(1))).for_each(|d| d.name = "p1-600".into());
        facts.ports.iter_mut().filter(|found| found.ifindex == row.ifindex).for_each(|found| *found = row.clone());
        facts.tags.insert(there, Some(row));
        rows(facts).remove(1);
        facts.access.insert(there.trunk, Ok(vec![StatedRow { vlan: vlan(0), ..stated(1) }]));
    };
    let (mut expected, mut facts) = world();
    moved(&mut expected, &mut facts);
    let found = compare(&expected, &facts);
    assert!(found.checks.iter().all(|check| check.disagree.is_empty()), "{found:?}");
    let swapped = |expected: &mut Vec<Expected>, facts: &mut Facts| {
        moved(expected, facts);
        let one = facts.access.remove(&TrunkIndex(0));
        let other = facts.access.remove(&there.trunk);
        facts.access.extend([(TrunkIndex(0), other.unwrap()), (there.trunk, one.unwrap())]);
    };
    finds(swapped, "tunnels", &["acme"], &["tunnels of vlan600"]);
}

#[test]
fn guards() {
    let lost = |_: &mut Vec<Expected>, facts: &mut Facts| drop(facts.guard.remove(1));
    finds(lost, "guard", &["bcme"], &["guard of inet1", "cookie 51 <-> gids from 589824", "no such row"]);
    let cgroup = |_: &mut Vec<Expected>, facts: &mut Facts| facts.guard[1].cgroups.clear();
    finds(cgroup, "guard", &["bcme"], &["cgroups 1001", "cgroups ,"]);
    let extra = |_: &mut Vec<Expected>, facts: &mut Facts| facts.guard.push(guard(9));
    finds(extra, "guard", &[], &["guard of cookie 59"]);
}

#[test]
fn tables_themselves() {
    let half = |expected: &mut Vec<Expected>, _: &mut Facts| expected[1].failure = Some("port: no".into());
    finds(half, "tables", &["bcme"], &["half done at port: no"]);
    let lost = |expected: &mut Vec<Expected>, _: &mut Facts| expected[1].rows.clear();
    finds(lost, "tables", &["bcme"], &["row inet1 <-> gid", "no such row"]);
}

#[test]
fn what_goes_away_is_no_drift() {
    let (mut expected, mut facts) = world();
    facts.stacks.remove(&1);
    facts.room.retain(|device| device.name != "p601");
    facts.ports.remove(1);
    facts.tags.insert(at(1), None);
    rows(&mut facts).remove(1);
    facts.guard.remove(1);
    facts.census.members.retain(|member| !member.ids.contains(&1));
    expected[1].removing = true;
    expected[1].init = None;
    assert!(compare(&expected, &facts).agree, "{:#?}", compare(&expected, &facts));
}

#[test]
fn only_what_stays_counts_and_of_one_tenant_only_its_own() {
    let (expected, mut facts) = world();
    let right = compare(&expected, &facts);
    facts.census.members[0].other_ids = [33].into();
    facts.guard.remove(2);
    let first = compare(&expected, &facts);
    assert_eq!(first.words().len(), 2);
    assert!(steady(&right, first.clone()).agree, "the first look saw nothing of it");
    let still = steady(&first, first.clone());
    assert_eq!((still.rounds, still.agree, still.words().len()), (2, false, 2));
    // Another process got the number.
    facts.census.members[0].start = 8;
    let other = steady(&first, compare(&expected, &facts));
    assert_eq!(other.words().len(), 1);
    assert_eq!(first.clone().only("acme").words().len(), 1);
    assert!(first.only("bcme").agree);
}
