//! Stacks, ports, tags, tunnels and guard rows against the tables. Pure.

use std::collections::{BTreeMap, BTreeSet};

use stackmap::{Segment, TrunkIndex};
use vlan_rs::PortConfig;

use super::Check;
use super::facts::{Device, Expected, Facts, Place};
use crate::access::StatedRow;
use crate::net::room::port_name;

/// The three tables against what is desired.
pub(super) fn tables(expected: &[Expected]) -> Check {
    let mut check = Check::new("tables");
    for tenant in expected {
        check.looked_at += tenant.rows.len();
        check.belong += tenant.wanted_rows.len();
        for row in tenant.wanted_rows.symmetric_difference(&tenant.rows) {
            let is = if tenant.rows.contains(row) { "a row that nobody asked for" } else { "no such row" };
            check.differ([tenant], format!("row {row}"), tenant.name.to_string(), is);
        }
        if let Some(failure) = tenant.failure.as_ref().filter(|_| !tenant.removing) {
            check.differ([tenant], "state", "as desired", format!("half done at {failure}"));
        }
    }
    check
}

/// Each stack is the namespace of its init, and nobody else's.
pub(super) fn stacks(expected: &[Expected], facts: &Facts) -> Check {
    let mut check = Check::new("stacks");
    let mut inodes: BTreeMap<u64, &Expected> = BTreeMap::new();
    for (number, tenant) in expected.iter().enumerate() {
        let subject = format!("stack {}", tenant.stack);
        let Some(stack) = facts.stacks.get(&number) else {
            if !tenant.removing {
                check.belong += 1;
                check.differ([tenant], subject, format!("stack of {}", tenant.name), "no init holds it");
            }
            continue;
        };
        check.looked_at += 1;
        check.belong += 1;
        if let Some(init) = tenant.init.filter(|init| (init.inode, init.cookie) != (stack.inode, stack.cookie)) {
            let table = format!("network namespace {} (cookie {})", init.inode, init.cookie);
            let is = format!("init {} is in {} (cookie {})", init.pid, stack.inode, stack.cookie);
            check.differ([tenant], subject.clone(), table, is);
        }
        if let Some(other) = inodes.insert(stack.inode, tenant) {
            let is = format!("network namespace {} is that of {} too", stack.inode, other.stack);
            check.differ([tenant, other], subject, "a network namespace each", is);
        }
    }
    check
}

/// Both ends of every port are each other's, and nothing else leads into a stack or lies in the patch room.
pub(super) fn ports(expected: &[Expected], facts: &Facts) -> Check {
    let mut check = Check::new("ports");
    check.looked_at = facts.room.len() + facts.stacks.values().map(|stack| stack.devices.len()).sum::<usize>();
    let mut known = BTreeSet::new();
    for (number, tenant) in expected.iter().enumerate() {
        let stack = facts.stacks.get(&number);
        let inside = stack.and_then(|stack| stack.devices.iter().find(|device| device.name == tenant.device));
        let leads_here = |device: &&Device| device.leads == Some(Place::Stack(number));
        if let Some(at) = tenant.at {
            let name = port_name(at);
            let near = facts.room.iter().find(|device| device.name == name);
            known.extend(near.map(|device| device.index));
            if !tenant.removing {
                check.belong += 1;
                let subject = format!("port {name}");
                let table = format!("({}, {}) <-> {at}", tenant.stack, tenant.device);
                if let Some(wrong) = pair(near, inside, number, expected) {
                    // The one that does lead there, under whatever name.
                    let others = facts.room.iter().filter(leads_here).filter(|device| device.name != name);
                    let hint = others.map(|device| format!("; {} leads there", device.name)).collect::<String>();
                    check.differ([tenant], subject.clone(), table, wrong + &hint);
                } else if let Some(device) = inside.filter(|device| tenant.mac.is_some() && device.mac != tenant.mac) {
                    let words = |mac: Option<stackmap::MacAddr>| mac.map_or_else(|| "none".into(), |m| m.to_string());
                    let table = format!("Ethernet address {}", words(tenant.mac));
                    check.differ([tenant], subject.clone(), table, words(device.mac));
                }
            }
        } else if !tenant.removing {
            check.belong += 1;
            if inside.is_none() {
                let table = format!("({}, {}): a card given whole", tenant.stack, tenant.device);
                check.differ([tenant], format!("card {}", tenant.device), table, "no such device in the stack");
            }
        }
        for device in stack.into_iter().flat_map(|stack| &stack.devices) {
            let own = device.name == tenant.device || (device.leads == Some(Place::Room));
            let card = !device.virtual_kind && !device.loopback;
            let foreign = device.leads.filter(|place| *place != Place::Room);
            // With a network of its own it may lead to where it likes inside; another's or the host's is not inside.
            let foreign = foreign.filter(|place| !tenant.owns_network || *place != Place::Elsewhere);
            if own || (foreign.is_none() && (!card || tenant.owns_network)) {
                continue;
            }
            let is = foreign.map_or_else(|| "a card".into(), |p| format!("its other end is {}", p.words(expected)));
            let table = format!("{} is all that leads into {}", tenant.device, tenant.stack);
            check.differ([tenant], format!("device {} in {}", device.name, tenant.stack), table, is);
        }
    }
    for device in &facts.room {
        if device.loopback || facts.trunks.values().any(|trunk| *trunk == device.index) || known.contains(&device.index)
        {
            continue;
        }
        let whose = match device.leads {
            Some(Place::Stack(number)) => expected.get(number),
            _ => None,
        };
        if whose.is_some_and(|tenant| tenant.removing) {
            continue;
        }
        let leads = device.leads.map_or_else(String::new, |place| format!(", its other end {}", place.words(expected)));
        let subject = format!("device {} in the patch room", device.name);
        check.differ(whose, subject, "the trunks and the tenants' ports", format!("it is there{leads}"));
    }
    check
}

/// What is wrong with a pair.
fn pair(near: Option<&Device>, inside: Option<&Device>, number: usize, expected: &[Expected]) -> Option<String> {
    let Some(near) = near else { return Some("no such device in the patch room".into()) };
    let Some(inside) = inside else { return Some("no such device in the stack".into()) };
    let words = |device: &Device| device.leads.map_or_else(|| "nowhere".into(), |place| place.words(expected));
    let there = near.leads == Some(Place::Stack(number)) && near.peer == Some(inside.index);
    let back = inside.leads == Some(Place::Room) && inside.peer == Some(near.index);
    if there && back {
        return None;
    }
    let number = |device: &Device| device.peer.map_or_else(|| "none".into(), |peer| peer.to_string());
    Some(format!(
        "the other end of {} (device {}) is device {} {}, that of {} (device {}) is device {} {}",
        near.name,
        near.index,
        number(near),
        words(near),
        inside.name,
        inside.index,
        number(inside),
        words(inside)
    ))
}

fn port_words(port: &PortConfig) -> String {
    let mac = |octets: [u8; 6]| octets.map(|octet| format!("{octet:02x}")).join(":");
    let (own, gateway) = (mac(port.mac), mac(port.gateway_mac));
    let (device, tag, class) = (port.ifindex, port.tag(), port.class);
    let answers = port.answer.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    format!(
        "device {device} <-> {tag}, MAC {own}, gateway {gateway}, {:?}, class {class:x}, answers {answers}",
        port.layer
    )
}

/// The data path's rows, by device and by tag, against the lower table.
pub(super) fn tags(expected: &[Expected], facts: &Facts) -> Check {
    let mut check = Check::new("tags");
    check.looked_at = facts.ports.len();
    let mut owners = BTreeMap::new();
    for tenant in expected {
        let (Some(at), Some(wanted)) = (tenant.at, &tenant.port) else { continue };
        owners.insert((wanted.trunk, wanted.vid.get()), (at, tenant));
        if tenant.removing {
            continue;
        }
        check.belong += 1;
        let subject = format!("tag {at}");
        let device = facts.room.iter().find(|device| device.name == port_name(at)).map(|device| device.index);
        let row = facts.ports.iter().find(|row| row.tag() == wanted.tag() && Some(row.ifindex) == device);
        let Some(row) = row else {
            let table = format!("({}, {}) <-> {at}", tenant.stack, tenant.device);
            let is = match facts.ports.iter().find(|row| row.tag() == wanted.tag()) {
                Some(row) => format!("the row is of another device: {}", port_words(row)),
                None => "no row of the data path has the tag".into(),
            };
            check.differ([tenant], subject, table, is);
            continue;
        };
        // The MTU follows the path, which the tables do not say.
        let wanted = PortConfig { ifindex: row.ifindex, mtu: row.mtu, ..wanted.clone() };
        if *row != wanted {
            check.differ([tenant], subject.clone(), port_words(&wanted), port_words(row));
        }
        match facts.tags.get(&at) {
            Some(Some(by_tag)) if by_tag.ifindex == row.ifindex => {}
            Some(Some(by_tag)) => {
                let is = format!("frames with the tag go to device {}", by_tag.ifindex);
                check.differ([tenant], subject, format!("device {}", row.ifindex), is);
            }
            _ => check.differ([tenant], subject, format!("device {}", row.ifindex), "frames with the tag go nowhere"),
        }
    }
    let mut tags = BTreeMap::new();
    for row in &facts.ports {
        let (trunk, vid) = (row.trunk, row.vid.get());
        let (at, whose) = owners.get(&(trunk, vid)).copied().unzip();
        let number = facts.trunks.iter().find(|(_, device)| **device == trunk).map(|(number, _)| number.get());
        let of = match number {
            Some(0) => String::new(),
            Some(number) => format!("trunk{number}/"),
            None => format!("device {trunk}, "),
        };
        let subject = at.map_or_else(|| format!("tag {of}vlan{vid}"), |at| format!("tag {at}"));
        if let Some(other) = tags.insert((trunk, vid), row.ifindex) {
            let is = format!("devices {other} and {} have it", row.ifindex);
            check.differ(whose, subject, "one port a tag", is);
        } else if whose.is_none() {
            check.differ([], subject, "no tenant has it", port_words(row));
        }
    }
    check
}

/// The rows of every trunk's access server against the access table.
pub(super) fn tunnels(expected: &[Expected], facts: &Facts) -> Check {
    let mut check = Check::new("tunnels");
    for (trunk, rows) in &facts.access {
        let on: Vec<&Expected> = expected.iter().filter(|t| t.at.is_some_and(|at| at.trunk == *trunk)).collect();
        tunnels_of(*trunk, &on, rows, &mut check);
    }
    check
}

fn tunnels_of(trunk: TrunkIndex, on: &[&Expected], rows: &Result<Vec<StatedRow>, String>, check: &mut Check) {
    let subject = |row: &StatedRow| format!("tunnels of {}", Segment { trunk, vlan: row.vlan });
    let wanted = on.iter().filter(|tenant| !tenant.removing).filter_map(|t| Some((*t, t.access.as_ref()?)));
    let rows = match rows {
        Ok(rows) => rows,
        Err(why) => {
            for (tenant, row) in wanted {
                check.belong += row.tunnels.len();
                check.differ([tenant], subject(row), row.words(), format!("not known: {why}"));
            }
            return;
        }
    };
    check.looked_at += rows.iter().map(|row| row.tunnels.len()).sum::<usize>();
    let stated: BTreeMap<u16, &StatedRow> = rows.iter().map(|row| (row.vlan.get(), row)).collect();
    for (tenant, row) in wanted {
        check.belong += row.tunnels.len();
        match stated.get(&row.vlan.get()) {
            Some(there) if there.is_as(row) => {}
            Some(there) => check.differ([tenant], subject(row), row.words(), there.words()),
            None => check.differ([tenant], subject(row), row.words(), "the access server has no row of ours"),
        }
    }
    for row in rows {
        let known = on.iter().copied().find(|t| t.at.is_some_and(|at| at.vlan == row.vlan));
        if known.is_some_and(|tenant| tenant.access.is_some() || tenant.removing) {
            continue;
        }
        check.differ(known, subject(row), "none", row.words());
    }
}

fn guard_words(row: &stack_guard::Row) -> String {
    let cgroups: Vec<String> = row.cgroups.iter().map(|cgroup| cgroup.id.to_string()).collect();
    let most = row.max_connections.map_or_else(|| "any number of".into(), |most| format!("at most {most}"));
    format!("cookie {} <-> gids from {}, cgroups {}, {most} connections", row.cookie, row.gids_start, cgroups.join(" "))
}

/// The guard's rows against the upper table.
pub(super) fn guard(expected: &[Expected], facts: &Facts) -> Check {
    let mut check = Check::new("guard");
    check.looked_at = facts.guard.len();
    let mut cookies = BTreeSet::new();
    for tenant in expected.iter().filter(|tenant| !tenant.removing) {
        let Some(wanted) = &tenant.guard else { continue };
        check.belong += 1;
        cookies.insert(wanted.cookie);
        let subject = format!("guard of {}", tenant.stack);
        let by_cookie = facts.guard.iter().find(|row| row.cookie == wanted.cookie);
        let found = by_cookie.or_else(|| facts.guard.iter().find(|row| row.gids_start == wanted.gids_start));
        match found {
            Some(row) if row == wanted => {}
            Some(row) => check.differ([tenant], subject, guard_words(wanted), guard_words(row)),
            None => check.differ([tenant], subject, guard_words(wanted), "the guard has no such row"),
        }
    }
    for row in facts.guard.iter().filter(|row| !cookies.contains(&row.cookie)) {
        let known = expected.iter().find(|tenant| tenant.ids.get() == row.gids_start);
        if known.is_some_and(|tenant| tenant.removing || tenant.guard.is_some()) {
            continue;
        }
        check.differ(known, format!("guard of cookie {}", row.cookie), "no stack has it", guard_words(row));
    }
    check
}
