//! A naive model beside the tables: lists and scans, no index, under the same generated history.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod generate;

use proptest::prelude::*;
use stackmap::{
    AccessRow, Conflict, Flow, FlowRequest, GidRange, Holder, Key, Link, LinkRequest, LowerRow, Maps, Meta, Row,
    Segment, Site, Snapshot, StackIndex, TenantName, TunnelId, UpperRow, Vlan,
};

#[derive(Clone)]
struct Tenant {
    name: TenantName,
    stack: u32,
    gid: GidRange,
    link: Link,
    meta: Meta,
    sites: Vec<(Site, Meta)>,
}

/// Tenants in the order they came.
#[derive(Clone, Default)]
struct Model(Vec<Tenant>);

impl Tenant {
    fn keys(&self) -> Vec<Key> {
        let mut keys = vec![
            Key::Tenant(self.name.clone()),
            Key::Stack(StackIndex(self.stack)),
            Key::Gid(self.gid),
            match &self.link {
                Link::Port(s) => Key::Segment(*s),
                Link::Nic(n) => Key::Nic(n.clone()),
            },
        ];
        keys.extend(self.sites.iter().map(|(s, _)| Key::Tunnel(*s.tunnel())));
        keys
    }

    fn access(&self) -> Vec<AccessRow> {
        let Link::Port(segment) = self.link else {
            assert!(self.sites.is_empty());
            return Vec::new();
        };
        let row = |(site, meta): &(Site, Meta)| AccessRow { site: site.clone(), segment, meta: meta.clone() };
        let mut rows: Vec<_> = self.sites.iter().map(row).collect();
        rows.sort_by_key(|r| *r.tunnel());
        rows
    }

    fn flow(&self) -> Flow {
        Flow {
            upper: UpperRow {
                tenant: self.name.clone(),
                stack: StackIndex(self.stack),
                gid: self.gid,
                meta: self.meta.clone(),
            },
            lower: LowerRow {
                tenant: self.name.clone(),
                stack: StackIndex(self.stack),
                link: self.link.clone(),
                meta: self.meta.clone(),
            },
            access: self.access(),
        }
    }
}

impl Model {
    fn holder(&self, key: &Key) -> Option<&TenantName> {
        let holders: Vec<_> = self.0.iter().filter(|t| t.keys().contains(key)).collect();
        assert!(holders.len() <= 1, "{key} is held twice");
        holders.first().map(|t| &t.name)
    }

    fn taken(&self, key: Key) -> Result<(), Conflict> {
        match self.holder(&key) {
            Some(name) => {
                let holder = Holder::Tenant(name.clone());
                Err(Conflict::Taken { key, holder })
            }
            None => Ok(()),
        }
    }

    fn add(&mut self, r: &FlowRequest) -> Result<Flow, Conflict> {
        self.taken(Key::Tenant(r.tenant.clone()))?;
        if let Some(stack) = r.stack {
            self.taken(Key::Stack(stack))?;
        }
        if let Some(gid) = r.gid {
            self.taken(Key::Gid(gid))?;
        }
        let free = |key: &Key| self.holder(key).is_none();
        let link = match &r.link {
            LinkRequest::Port { trunk, vlan } => {
                let at = |v| Segment { trunk: *trunk, vlan: Vlan::new(v).unwrap() };
                let segment = match vlan {
                    Some(v) => at(v.get()),
                    None => (2..=4094).chain([1]).map(at).find(|s| free(&Key::Segment(*s))).unwrap(),
                };
                self.taken(Key::Segment(segment))?;
                Link::Port(segment)
            }
            LinkRequest::Nic(nic) => {
                self.taken(Key::Nic(nic.clone()))?;
                Link::Nic(nic.clone())
            }
        };
        for (i, site) in r.sites.iter().enumerate() {
            let tunnel = *site.tunnel();
            if let Link::Nic(nic) = link {
                return Err(Conflict::NoVlan { tunnel, nic });
            }
            self.taken(Key::Tunnel(tunnel))?;
            if r.sites[..i].iter().any(|s| *s.tunnel() == tunnel) {
                let holder = Holder::Tenant(r.tenant.clone());
                return Err(Conflict::Taken { key: Key::Tunnel(tunnel), holder });
            }
        }
        let stack = (0..).find(|n| free(&Key::Stack(StackIndex(*n)))).unwrap();
        let gid = (0..).map(|n| GidRange::new(524_288 + 65_536 * n).unwrap());
        let gid = gid.into_iter().find(|g| free(&Key::Gid(*g))).unwrap();
        let tenant = Tenant {
            name: r.tenant.clone(),
            stack: r.stack.map_or(stack, StackIndex::get),
            gid: r.gid.unwrap_or(gid),
            link,
            meta: r.meta.clone(),
            sites: r.sites.iter().map(|s| (s.clone(), r.meta.clone())).collect(),
        };
        self.0.push(tenant.clone());
        Ok(tenant.flow())
    }

    fn remove(&mut self, name: &TenantName) -> Option<Flow> {
        let i = self.0.iter().position(|t| t.name == *name)?;
        Some(self.0.remove(i).flow())
    }

    fn put_tunnel(
        &mut self,
        name: &TenantName,
        site: &Site,
        meta: &Meta,
        replace: bool,
    ) -> Result<AccessRow, Conflict> {
        let tunnel = *site.tunnel();
        let Some(i) = self.0.iter().position(|t| t.name == *name) else {
            return Err(Conflict::UnknownTenant(name.clone()));
        };
        let segment = match self.0[i].link.clone() {
            Link::Port(segment) => segment,
            Link::Nic(nic) => return Err(Conflict::NoVlan { tunnel, nic }),
        };
        if !(replace && self.holder(&Key::Tunnel(tunnel)) == Some(name)) {
            self.taken(Key::Tunnel(tunnel))?;
        }
        self.0[i].sites.retain(|(s, _)| *s.tunnel() != tunnel);
        self.0[i].sites.push((site.clone(), meta.clone()));
        Ok(AccessRow { site: site.clone(), segment, meta: meta.clone() })
    }

    fn remove_tunnel(&mut self, name: &TenantName, tunnel: &TunnelId) -> Option<AccessRow> {
        let tenant = self.0.iter_mut().find(|t| t.name == *name)?;
        let row = tenant.access().into_iter().find(|r| r.tunnel() == tunnel)?;
        tenant.sites.retain(|(s, _)| s.tunnel() != tunnel);
        Some(row)
    }

    fn renew(&mut self, name: &TenantName, meta: &Meta) -> Result<(), Conflict> {
        let tenant = self.0.iter_mut().find(|t| t.name == *name);
        tenant.ok_or_else(|| Conflict::UnknownTenant(name.clone()))?.meta = meta.clone();
        Ok(())
    }

    fn over(meta: &Meta, now: u64) -> bool {
        meta.lifetime.is_some_and(|l| l.since_s + l.granted_s <= now)
    }

    fn expired(&self, now: u64) -> Vec<String> {
        let mut rows = Vec::new();
        for tenant in &self.0 {
            let flow = tenant.flow();
            rows.extend(flow.access.iter().filter(|r| Self::over(&r.meta, now)).map(|r| format!("{r:?}")));
            if Self::over(&tenant.meta, now) {
                rows.extend([format!("{:?}", flow.lower), format!("{:?}", flow.upper)]);
            }
        }
        rows.sort();
        rows
    }

    /// Flows by name, then sites that ended alone by when they ended.
    fn expire(&mut self, now: u64) -> (Vec<Flow>, Vec<AccessRow>) {
        let (over, stay): (Vec<_>, Vec<_>) = self.0.drain(..).partition(|t| Self::over(&t.meta, now));
        self.0 = stay;
        let mut flows: Vec<_> = over.iter().map(Tenant::flow).collect();
        flows.sort_by(|a, b| a.tenant().cmp(b.tenant()));
        let mut sites = Vec::new();
        for tenant in &mut self.0 {
            sites.extend(tenant.access().into_iter().filter(|r| Self::over(&r.meta, now)));
            tenant.sites.retain(|(_, meta)| !Self::over(meta, now));
        }
        sites.sort_by_key(|r| (r.meta.lifetime.map(|l| l.ends_at()), *r.tunnel()));
        (flows, sites)
    }

    fn snapshot(&self) -> Snapshot {
        let mut flows: Vec<_> = self.0.iter().map(Tenant::flow).collect();
        flows.sort_by_key(|f| f.upper.stack);
        let mut access: Vec<_> = flows.iter().flat_map(|f| f.access.clone()).collect();
        access.sort_by_key(|r| (r.segment, *r.tunnel()));
        Snapshot {
            upper: flows.iter().map(|f| f.upper.clone()).collect(),
            lower: flows.iter().map(|f| f.lower.clone()).collect(),
            access,
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Add(FlowRequest),
    Remove(TenantName),
    AddTunnel(TenantName, Site, Meta),
    PutTunnel(TenantName, Site, Meta),
    RemoveTunnel(TenantName, TunnelId),
    Renew(TenantName, Meta),
    Expire(u64),
}

fn op() -> impl Strategy<Value = Op> {
    use generate::{meta, request, some_site, some_tunnel, tenant};
    prop_oneof![
        6 => request().prop_map(Op::Add),
        2 => tenant().prop_map(Op::Remove),
        3 => (tenant(), some_site(), meta()).prop_map(|(t, s, m)| Op::AddTunnel(t, s, m)),
        2 => (tenant(), some_site(), meta()).prop_map(|(t, s, m)| Op::PutTunnel(t, s, m)),
        2 => (tenant(), some_tunnel()).prop_map(|(t, id)| Op::RemoveTunnel(t, id)),
        1 => (tenant(), meta()).prop_map(|(t, m)| Op::Renew(t, m)),
        1 => (0u64..40).prop_map(Op::Expire),
    ]
}

/// Does one operation on both and compares the answers.
fn step(maps: &mut Maps, model: &mut Model, op: Op) -> Result<(), TestCaseError> {
    match op {
        Op::Add(r) => {
            let wanted = model.add(&r);
            let conflicts = maps.conflicts(&r);
            prop_assert_eq!(conflicts.first(), wanted.as_ref().err());
            prop_assert_eq!(maps.plan(&r), wanted.clone());
            prop_assert_eq!(maps.add(r), wanted);
        }
        Op::Remove(t) => prop_assert_eq!(maps.remove(&t), model.remove(&t)),
        Op::AddTunnel(t, s, m) => {
            let wanted = model.put_tunnel(&t, &s, &m, false);
            prop_assert_eq!(maps.add_tunnel(&t, s, m), wanted);
        }
        Op::PutTunnel(t, s, m) => {
            let wanted = model.put_tunnel(&t, &s, &m, true);
            prop_assert_eq!(maps.put_tunnel(&t, s, m), wanted);
        }
        Op::RemoveTunnel(t, id) => {
            prop_assert_eq!(maps.remove_tunnel(&t, &id), model.remove_tunnel(&t, &id));
        }
        Op::Renew(t, m) => prop_assert_eq!(maps.renew(&t, &m), model.renew(&t, &m)),
        Op::Expire(now) => {
            let mut rows: Vec<_> = maps.expired(now).iter().map(inner).collect();
            rows.sort();
            prop_assert_eq!(rows, model.expired(now));
            prop_assert_eq!(maps.expire(now), model.expire(now));
            prop_assert_eq!(maps.expired(now), vec![]);
        }
    }
    Ok(())
}

fn inner(row: &Row) -> String {
    match row {
        Row::Upper(r) => format!("{r:?}"),
        Row::Lower(r) => format!("{r:?}"),
        Row::Access(r) => format!("{r:?}"),
    }
}

/// Every key of the small world, held or not.
fn all_keys(model: &Model) -> Vec<Key> {
    let mut keys: Vec<Key> = model.0.iter().flat_map(Tenant::keys).collect();
    keys.extend((0..6).map(|n| Key::Stack(StackIndex(n))));
    keys.extend((0..6).map(|n| Key::Gid(GidRange::new(524_288 + 65_536 * n).unwrap())));
    keys.extend((1..6).map(|v| Key::Segment(Segment { trunk: Default::default(), vlan: Vlan::new(v).unwrap() })));
    keys.extend(["eth1", "dev0"].map(|n| Key::Nic(n.parse().unwrap())));
    keys.extend(["a", "acme", "nobody"].map(|n| Key::Tenant(n.parse().unwrap())));
    keys
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn answers_and_rows_are_those_of_the_model(history in prop::collection::vec(op(), 0..60)) {
        let (mut maps, mut model) = (Maps::new(), Model::default());
        for op in history {
            step(&mut maps, &mut model, op)?;
            let snapshot = maps.snapshot();
            prop_assert_eq!(&snapshot, &model.snapshot());
            prop_assert_eq!(maps.len(), model.0.len());
            for key in all_keys(&model) {
                prop_assert_eq!(maps.find(&key), model.holder(&key), "{}", key);
            }
            for tenant in &model.0 {
                prop_assert_eq!(maps.flow(&tenant.name), Some(tenant.flow()));
                let held = maps.upper().by_id(tenant.gid.get() + 4711).unwrap();
                prop_assert_eq!(&held.tenant, &tenant.name);
            }
        }
        // What was restored goes on like the original: same rows, same next choice.
        let restored = Maps::restore(&maps.snapshot()).unwrap();
        prop_assert_eq!(restored.snapshot(), maps.snapshot());
        prop_assert_eq!(restored.expired(u64::MAX), maps.expired(u64::MAX));
        prop_assert_eq!(restored.upper().lowest_free_stack(), maps.upper().lowest_free_stack());
        prop_assert_eq!(restored.upper().lowest_free_gid(), maps.upper().lowest_free_gid());
        for trunk in [0, 1, 2].map(stackmap::TrunkIndex) {
            prop_assert_eq!(restored.lower().lowest_free_vlan(trunk), maps.lower().lowest_free_vlan(trunk));
        }
    }

    #[test]
    fn a_snapshot_survives_json(history in prop::collection::vec(op(), 0..30)) {
        let (mut maps, mut model) = (Maps::new(), Model::default());
        for op in history {
            step(&mut maps, &mut model, op)?;
        }
        let json = serde_json::to_string(&maps.snapshot()).unwrap();
        prop_assert_eq!(serde_json::from_str::<Snapshot>(&json).unwrap(), maps.snapshot());
    }
}
