//! The core alone, and the core against a table that refuses wrong orders.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;

use super::*;
use crate::table::Table;
use crate::table::fake::FakeTable;

fn settings() -> Settings {
    Settings {
        instance: "main".into(),
        locals: vec!["203.0.113.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        wan_mtu: 1500,
        trunk_mtu: 1500,
    }
}

fn owner(name: &str) -> Owner {
    name.parse().unwrap()
}

fn request(vlan: u16, tunnels: &[&str]) -> RowRequest {
    RowRequest {
        vlan: Vlan::new(vlan).unwrap(),
        owner: owner("tenantd/main"),
        generation: Generation(1),
        origin: Origin::Operator,
        lifetime_s: None,
        server_mac: None,
        gateway_mac: None,
        tunnels: tunnels.iter().map(|spec| spec.parse().unwrap()).collect(),
    }
}

/// Applies a plan to a table that checks the order, as the shell does.
fn apply(gateway: &mut Gateway, table: &mut FakeTable, plan: Plan) {
    for step in plan.steps {
        match &step {
            Step::Delete(vlan) => table.delete(*vlan).unwrap(),
            Step::Put(row) => table.put(row).unwrap(),
        }
        gateway.done(step);
    }
    assert_eq!(gateway.rows().cloned().collect::<Vec<_>>(), table.dump().unwrap());
}

fn path(via: &str, mtu: u32) -> Option<Path> {
    Some(Path { next_hop: NextHop { ifindex: 2, via: via.parse().unwrap() }, mtu })
}

#[test]
fn a_row_is_resolved_whole() {
    let mut gateway = Gateway::new(settings());
    let asked = request(600, &["gre:198.51.100.2,key=7,prefix=192.168.1.0/24"]);
    let ends = gateway.unknown_ends(&asked.tunnels[0]).unwrap();
    assert_eq!(ends, ("203.0.113.1".parse().unwrap(), "198.51.100.2".parse().unwrap()));
    gateway.learn(ends, path("203.0.113.254", 1400));
    assert_eq!(gateway.unknown_ends(&asked.tunnels[0]), None);

    let plan = gateway.put(0, &asked).unwrap();
    let [Step::Put(row)] = &plan.steps[..] else { panic!("{plan:?}") };
    assert_eq!(row.tunnels[0].mtu, 1400 - 28);
    assert_eq!(row.tunnels[0].next_hop.unwrap().via.to_string(), "203.0.113.254");
    assert_eq!(row.server_mac, MacAddr::derive("main", TrunkIndex(0), asked.vlan, MacRole::Server));
    assert_eq!(row.gateway_mac, MacAddr::derive("main", TrunkIndex(0), asked.vlan, MacRole::Gateway));
    assert_eq!(plan.added, [asked.vlan]);
}

#[test]
fn without_a_route_the_wan_mtu_counts_and_the_trunk_bounds_all() {
    let gateway = Gateway::new(Settings { wan_mtu: 9000, trunk_mtu: 1500, ..settings() });
    let plan = gateway.put(0, &request(1, &["ipip:198.51.100.2"])).unwrap();
    let [Step::Put(row)] = &plan.steps[..] else { panic!("{plan:?}") };
    assert_eq!((row.tunnels[0].mtu, row.tunnels[0].next_hop), (1500, None));
}

#[test]
fn the_same_request_again_plans_nothing() {
    let (mut gateway, mut table) = (Gateway::new(settings()), FakeTable::default());
    let asked = request(600, &["vxlan:198.51.100.9,key=9,prefix=10.0.0.0/8", "ipip:198.51.100.2"]);
    let plan = gateway.put(0, &asked).unwrap();
    apply(&mut gateway, &mut table, plan);
    assert_eq!(gateway.put(5, &asked).unwrap(), Plan::default());
    assert_eq!(gateway.replace_all(5, &asked.owner, std::slice::from_ref(&asked)).unwrap(), Plan::default());
}

#[test]
fn two_rows_of_an_owner_swap_their_tunnels() {
    let (mut gateway, mut table) = (Gateway::new(settings()), FakeTable::default());
    let me = owner("tenantd/main");
    let before = [request(600, &["ipip:198.51.100.1"]), request(601, &["ipip:198.51.100.2"])];
    let plan = gateway.replace_all(0, &me, &before).unwrap();
    apply(&mut gateway, &mut table, plan);
    let after = [request(600, &["ipip:198.51.100.2"]), request(601, &["ipip:198.51.100.1"])];
    let plan = gateway.replace_all(0, &me, &after).unwrap();
    assert_eq!((plan.added.len(), plan.changed.len(), plan.removed.len()), (0, 2, 0));
    apply(&mut gateway, &mut table, plan);
    assert_eq!(gateway.row(before[0].vlan).unwrap().tunnels[0].id.remote().to_string(), "198.51.100.2");
    // The index follows: either tunnel is still taken for anybody else.
    let thief = RowRequest { owner: owner("x"), ..request(700, &["ipip:198.51.100.1"]) };
    assert!(matches!(gateway.put(0, &thief), Err(Refusal::TunnelBound { vlan, .. }) if vlan.get() == 601));
}

#[test]
fn replace_all_touches_nobody_elses_rows() {
    let (mut gateway, mut table) = (Gateway::new(settings()), FakeTable::default());
    let other = RowRequest { owner: owner("operator"), ..request(900, &["ipip:198.51.100.9"]) };
    let plan = gateway.put(0, &other).unwrap();
    apply(&mut gateway, &mut table, plan);
    let me = owner("tenantd/main");
    let taken = gateway.replace_all(0, &me, &[request(600, &["ipip:198.51.100.9"])]);
    assert!(matches!(taken, Err(Refusal::TunnelBound { .. })));
    let theirs = gateway.replace_all(0, &me, &[request(900, &[])]);
    assert!(matches!(theirs, Err(Refusal::OwnedByOther { .. })));
    let plan = gateway.replace_all(0, &me, &[]).unwrap();
    assert_eq!(plan, Plan::default());
}

#[test]
fn rows_end_when_their_time_is_over_and_may_be_renewed() {
    let (mut gateway, mut table) = (Gateway::new(settings()), FakeTable::default());
    let asked = RowRequest { lifetime_s: Some(10), ..request(600, &["ipip:198.51.100.1"]) };
    let plan = gateway.put(100, &asked).unwrap();
    apply(&mut gateway, &mut table, plan);
    assert_eq!(gateway.next_expiry(), Some(110));
    assert_eq!(gateway.expire(109), Plan::default());
    let plan = gateway.put(105, &asked).unwrap();
    apply(&mut gateway, &mut table, plan);
    assert_eq!(gateway.expire(110), Plan::default());
    let plan = gateway.expire(115);
    assert_eq!(plan.removed, [asked.vlan]);
    apply(&mut gateway, &mut table, plan);
    assert_eq!(gateway.next_expiry(), None);
}

#[test]
fn rows_follow_the_network() {
    let (mut gateway, mut table) = (Gateway::new(settings()), FakeTable::default());
    for (vlan, remote) in [(600, "198.51.100.1"), (601, "198.51.100.2")] {
        let plan = gateway.put(0, &request(vlan, &[&format!("ipip:{remote}")])).unwrap();
        apply(&mut gateway, &mut table, plan);
    }
    let ends = |remote: &str| ("203.0.113.1".parse().unwrap(), remote.parse().unwrap());
    let paths = HashMap::from([(ends("198.51.100.1"), path("203.0.113.254", 1500)), (ends("198.51.100.2"), None)]);
    let plan = gateway.repath(paths.clone(), 1500, 1500);
    assert_eq!(plan.changed.iter().map(|vlan| vlan.get()).collect::<Vec<_>>(), [600]);
    apply(&mut gateway, &mut table, plan);
    // A smaller WAN changes the row without a route only; its path has an MTU of its own.
    let plan = gateway.repath(paths, 1400, 1500);
    assert_eq!(plan.changed.iter().map(|vlan| vlan.get()).collect::<Vec<_>>(), [601]);
}

#[test]
fn a_tunnel_comes_and_goes_alone() {
    let (mut gateway, mut table) = (Gateway::new(settings()), FakeTable::default());
    let (me, vlan) = (owner("operator"), Vlan::new(600).unwrap());
    let spec = |text: &str| text.parse::<TunnelSpec>().unwrap();
    for text in ["ipip:198.51.100.1,prefix=10.1.0.0/16", "gre:198.51.100.1,prefix=10.2.0.0/16"] {
        let plan = gateway.put_tunnel(vlan, &me, &spec(text)).unwrap();
        apply(&mut gateway, &mut table, plan);
    }
    let changed = spec("ipip:198.51.100.1,prefix=10.3.0.0/16");
    let plan = gateway.put_tunnel(vlan, &me, &changed).unwrap();
    apply(&mut gateway, &mut table, plan);
    assert_eq!(gateway.row(vlan).unwrap().tunnels.len(), 2);
    assert!(gateway.put_tunnel(vlan, &me, &spec("ipip:198.51.100.3,prefix=10.3.0.0/16")).is_err(), "prefix is taken");
    assert!(gateway.delete_tunnel(vlan, &owner("x"), &changed).is_err());
    for (text, left) in [("ipip:198.51.100.1", 1), ("gre:198.51.100.1", 0), ("gre:198.51.100.1", 0)] {
        let plan = gateway.delete_tunnel(vlan, &me, &spec(text)).unwrap();
        apply(&mut gateway, &mut table, plan);
        assert_eq!(gateway.row(vlan).map_or(0, |row| row.tunnels.len()), left);
    }
}

/// One change, drawn from a small world so that changes collide often.
#[derive(Debug, Clone)]
enum Change {
    Put(RowRequest),
    Delete(Vlan, Owner),
    Replace(Owner, Vec<RowRequest>),
    PutTunnel(Vlan, Owner, TunnelSpec),
    Restart,
}

fn vlans() -> impl Strategy<Value = Vlan> {
    (1_u16..5).prop_map(|vlan| Vlan::new(vlan).unwrap())
}

fn owners() -> impl Strategy<Value = Owner> {
    prop_oneof![Just(owner("a")), Just(owner("b"))]
}

fn tunnels() -> impl Strategy<Value = TunnelSpec> {
    (prop_oneof![Just("ipip"), Just("gre")], 1_u8..4, 0_u8..3)
        .prop_map(|(kind, host, net)| format!("{kind}:198.51.100.{host},prefix=10.{net}.0.0/16").parse().unwrap())
}

fn rows() -> impl Strategy<Value = RowRequest> {
    (vlans(), owners(), 0_u64..3, prop::option::of(1_u64..5), prop::collection::vec(tunnels(), 0..3)).prop_map(
        |(vlan, owner, generation, lifetime_s, tunnels)| RowRequest {
            vlan,
            owner,
            generation: Generation(generation),
            origin: Origin::Registered,
            lifetime_s,
            server_mac: None,
            gateway_mac: None,
            tunnels,
        },
    )
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => rows().prop_map(Change::Put),
        1 => (vlans(), owners()).prop_map(|(vlan, owner)| Change::Delete(vlan, owner)),
        3 => (owners(), prop::collection::vec(rows(), 0..4)).prop_map(|(owner, mut rows)| {
            rows.iter_mut().for_each(|row| row.owner = owner.clone());
            Change::Replace(owner, rows)
        }),
        2 => (vlans(), owners(), tunnels()).prop_map(|(v, o, t)| Change::PutTunnel(v, o, t)),
        1 => Just(Change::Restart),
    ]
}

proptest! {
    /// Whatever is asked in whatever order: every admitted plan can be applied step by step to a table that refuses one
    /// tunnel on two VLANs, afterwards core and table agree, nobody's row was changed by another owner, and the same
    /// request again plans nothing.
    #[test]
    fn plans_can_always_be_applied(changes in prop::collection::vec(changes(), 1..40)) {
        let (mut gateway, mut table) = (Gateway::new(settings()), FakeTable::default());
        for (now, change) in changes.into_iter().enumerate() {
            let now = now as u64;
            let before: Vec<VlanRow> = table.dump().unwrap();
            let ended = gateway.expire(now);
            let ended_rows = ended.removed.clone();
            apply(&mut gateway, &mut table, ended);
            let (who, plan) = match &change {
                Change::Put(row) => (Some(row.owner.clone()), gateway.put(now, row)),
                Change::Delete(vlan, owner) => (Some(owner.clone()), gateway.delete(*vlan, owner)),
                Change::Replace(owner, rows) => (Some(owner.clone()), gateway.replace_all(now, owner, rows)),
                Change::PutTunnel(vlan, owner, spec) => (Some(owner.clone()), gateway.put_tunnel(*vlan, owner, spec)),
                Change::Restart => {
                    gateway = Gateway::new(settings());
                    gateway.adopt(table.dump().unwrap());
                    (None, Ok(Plan::default()))
                }
            };
            let Ok(plan) = plan else { continue };
            apply(&mut gateway, &mut table, plan);
            let again = match &change {
                Change::Put(row) => gateway.put(now, row),
                Change::Delete(vlan, owner) => gateway.delete(*vlan, owner),
                Change::Replace(owner, rows) => gateway.replace_all(now, owner, rows),
                Change::PutTunnel(vlan, owner, spec) => gateway.put_tunnel(*vlan, owner, spec),
                Change::Restart => Ok(Plan::default()),
            };
            prop_assert_eq!(again.unwrap(), Plan::default());
            let after = table.dump().unwrap();
            for row in before.iter().filter(|row| Some(&row.owner) != who.as_ref() && !ended_rows.contains(&row.vlan)) {
                prop_assert!(after.contains(row), "row of {} changed", row.owner);
            }
            let mut ids: Vec<TunnelId> = after.iter().flat_map(|row| &row.tunnels).map(|t| t.id).collect();
            let count = ids.len();
            ids.sort();
            ids.dedup();
            prop_assert_eq!(ids.len(), count);
        }
    }
}
