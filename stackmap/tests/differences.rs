//! From one picture of the tables to another: the steps arrive, in an order that never collides.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod generate;

use proptest::prelude::*;
use stackmap::{AccessTable, Change, FlowRequest, LowerTable, Maps, Row, Snapshot, UpperTable, diff};

fn maps() -> impl Strategy<Value = Maps> {
    prop::collection::vec(generate::request(), 0..12).prop_map(|requests| {
        let mut maps = Maps::new();
        for request in requests {
            // A refused one is simply not there.
            let _ = maps.add(request);
        }
        maps
    })
}

/// Three tables that refuse what collides.
#[derive(Default)]
struct World {
    upper: UpperTable,
    lower: LowerTable,
    access: AccessTable,
}

impl World {
    fn of(snapshot: &Snapshot) -> Self {
        let mut world = Self::default();
        for row in &snapshot.upper {
            world.add(Row::Upper(row.clone()));
        }
        for row in &snapshot.lower {
            world.add(Row::Lower(row.clone()));
        }
        for row in &snapshot.access {
            world.add(Row::Access(row.clone()));
        }
        world
    }

    fn add(&mut self, row: Row) {
        match row {
            Row::Upper(row) => self.upper.insert(row),
            Row::Lower(row) => self.lower.insert(row),
            Row::Access(row) => self.access.insert(row),
        }
        .expect("no step meets a key that is still held");
    }

    fn remove(&mut self, row: &Row) {
        let was = match row {
            Row::Upper(row) => self.upper.remove(&row.tenant).map(Row::Upper),
            Row::Lower(row) => self.lower.remove(&row.tenant).map(Row::Lower),
            Row::Access(row) => self.access.remove(row.tunnel()).map(Row::Access),
        };
        assert_eq!(was.as_ref(), Some(row));
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Remove { row } => self.remove(&row),
            Change::Replace { from, to } => {
                assert_eq!(from.to_string(), to.to_string(), "both sides of the row stay");
                self.remove(&from);
                self.add(to);
            }
            Change::Add { row } => self.add(row),
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            upper: self.upper.rows().cloned().collect(),
            lower: self.lower.rows().cloned().collect(),
            access: self.access.rows().cloned().collect(),
        }
    }
}

proptest! {
    #[test]
    fn the_steps_lead_from_actual_to_desired(desired in maps(), actual in maps()) {
        let (desired, actual) = (desired.snapshot(), actual.snapshot());
        let mut world = World::of(&actual);
        for change in diff(&desired, &actual) {
            world.apply(change);
        }
        prop_assert_eq!(&world.snapshot(), &desired);
        prop_assert_eq!(diff(&desired, &world.snapshot()), vec![]);
    }

    #[test]
    fn removals_come_before_additions(desired in maps(), actual in maps()) {
        let rank = |change: &Change| match change {
            Change::Remove { row: Row::Access(_) } => 0,
            Change::Remove { row: Row::Lower(_) } => 1,
            Change::Remove { row: Row::Upper(_) } => 2,
            Change::Replace { .. } => 3,
            Change::Add { row: Row::Upper(_) } => 4,
            Change::Add { row: Row::Lower(_) } => 5,
            Change::Add { row: Row::Access(_) } => 6,
        };
        let ranks: Vec<_> = diff(&desired.snapshot(), &actual.snapshot()).iter().map(rank).collect();
        prop_assert!(ranks.is_sorted(), "{ranks:?}");
    }

    #[test]
    fn one_tenant_more_touches_no_other_row(before in maps(), request in generate::request()) {
        let mut after = before.clone();
        if let Ok(flow) = after.add(request) {
            let steps = diff(&after.snapshot(), &before.snapshot());
            let rows = [Row::Upper(flow.upper), Row::Lower(flow.lower)].into_iter()
                .chain(flow.access.into_iter().map(Row::Access));
            let wanted: Vec<_> = rows.map(|row| Change::Add { row }).collect();
            prop_assert_eq!(steps, wanted);
        }
    }
}

#[test]
fn a_changed_prefix_is_a_replacement_and_prints_as_one() {
    let meta: stackmap::Meta = serde_json::from_str(r#"{"owner":"tenantd/main","generation":1}"#).unwrap();
    let site = |prefixes: &str| {
        let spec: stackmap::TunnelSpec = format!("ipip:198.51.100.2{prefixes}").parse().unwrap();
        spec.site("203.0.113.1".parse().unwrap()).unwrap()
    };
    let mut maps = Maps::new();
    let name: stackmap::TenantName = "acme".parse().unwrap();
    let mut request = FlowRequest::new(name.clone(), meta.clone());
    request.sites = vec![site("")];
    maps.add(request).unwrap();
    let before = maps.snapshot();
    maps.put_tunnel(&name, site(",prefix=10.0.0.0/8"), meta).unwrap();
    let steps = diff(&maps.snapshot(), &before);
    assert!(matches!(steps[..], [Change::Replace { .. }]), "{steps:?}");
    assert_eq!(steps[0].to_string(), "~ ipip (198.51.100.2, 203.0.113.1) <-> vlan2");
    maps.remove(&name);
    let steps: Vec<_> = diff(&maps.snapshot(), &before).iter().map(ToString::to_string).collect();
    assert_eq!(
        steps,
        ["- ipip (198.51.100.2, 203.0.113.1) <-> vlan2", "- (inet0, dev0) <-> vlan2", "- inet0 <-> gid 524288",]
    );
}

#[test]
fn a_plan_in_json_names_step_table_and_row() {
    let meta: stackmap::Meta = serde_json::from_str(r#"{"owner":"tenantd/main","generation":1}"#).unwrap();
    let mut maps = Maps::new();
    maps.add(FlowRequest::new("acme".parse().unwrap(), meta)).unwrap();
    let steps = serde_json::to_value(diff(&maps.snapshot(), &Snapshot::default())).unwrap();
    let meta = serde_json::json!({"owner": "tenantd/main", "generation": 1, "origin": "operator", "lifetime": null});
    assert_eq!(
        steps,
        serde_json::json!([
            {"op": "add", "row": {"table": "upper", "tenant": "acme", "stack": "inet0", "gid": 524_288, "meta": meta}},
            {"op": "add", "row": {"table": "lower", "tenant": "acme", "stack": "inet0", "device": "dev0", "trunk": 0, "vlan": 2, "meta": meta}},
        ])
    );
}

#[test]
fn a_picture_whose_rows_do_not_belong_together_is_not_restored() {
    let meta: stackmap::Meta = serde_json::from_str(r#"{"owner":"tenantd/main","generation":1}"#).unwrap();
    let mut maps = Maps::new();
    for name in ["acme", "b"] {
        let mut request = FlowRequest::new(name.parse().unwrap(), meta.clone());
        let spec: stackmap::TunnelSpec = format!("gre:198.51.100.2,key={}", maps.len()).parse().unwrap();
        request.sites = vec![spec.site("203.0.113.1".parse().unwrap()).unwrap()];
        maps.add(request).unwrap();
    }
    let said = |change: fn(&mut Snapshot)| {
        let mut snapshot = maps.snapshot();
        change(&mut snapshot);
        Maps::restore(&snapshot).unwrap_err().to_string()
    };
    assert_eq!(said(|s| drop(s.upper.pop())), "tenant b has no matching pair of upper and lower row");
    assert_eq!(said(|s| drop(s.lower.pop())), "tenant b has no matching pair of upper and lower row");
    // Two tenants with each other's stacks: every stack has both its rows, no tenant has.
    assert_eq!(
        said(|s| s.lower.iter_mut().for_each(|row| row.stack.0 ^= 1)),
        "tenant acme has no matching pair of upper and lower row"
    );
    assert_eq!(said(|s| s.lower[1].stack.0 = 7), "tenant b has no matching pair of upper and lower row");
    assert_eq!(
        said(|s| s.access[1].segment.vlan = 9.try_into().unwrap()),
        "tunnel gre (198.51.100.2, 203.0.113.1, key 1) leads to vlan9, which no tenant has"
    );
    assert_eq!(said(|s| s.access.push(s.access[0].clone())), "two rows of the snapshot have one key");
}
