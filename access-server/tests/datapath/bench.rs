//! A server whose programs are run on single frames by the kernel's test run.

use std::collections::BTreeMap;

use access_server::datapath::{Datapath, DropReason, VlanCounters};
use access_server::row::VlanRow;
use ipnet::IpNet;
use stackmap::TunnelKind;

use crate::craft::*;
use crate::net::inside;
use crate::world::{Site, World, everything};

pub const HOST: &str = "192.168.1.10";
pub const SERVER: &str = "192.168.1.1";
pub const HOST_6: &str = "fd00:1::10";
pub const SERVER_6: &str = "fd00:1::1";

/// A server without traffic, and the rows its packets meet:
/// 600 IPIP over IPv4; 601 two GRE sites with keys 7 (10.1/16) and 8 (10.2/16) over IPv4; 602 VXLAN over IPv4; 603 IPIP
/// over IPv6; 604 GRE over IPv6; 605 VXLAN over IPv6; 606 IPIP without a route.
pub struct Bench {
    pub world: World,
    pub sites: Vec<Site>,
}

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|n| n.parse().unwrap()).collect()
}

impl Bench {
    pub fn new(name: &str) -> Self {
        let sites = vec![
            Site::new(1, 600, TunnelKind::Ipip, false, None),
            Site::new(2, 601, TunnelKind::Gre, false, Some(7)),
            Site { key: Some(8), ..Site::new(2, 601, TunnelKind::Gre, false, None) },
            Site::new(3, 602, TunnelKind::Vxlan, false, Some(5)),
            Site::new(4, 603, TunnelKind::Ipip, true, None),
            Site::new(5, 604, TunnelKind::Gre, true, None),
            Site::new(6, 605, TunnelKind::Vxlan, true, Some(5)),
            Site::new(7, 606, TunnelKind::Ipip, false, None),
        ];
        let links: Vec<Site> = [0, 1, 3, 4, 5, 6, 7].iter().map(|i| sites[*i]).collect();
        let mut world = World::new(name, &links);
        world.open();
        let both = [(&sites[1], nets(&["10.1.0.0/16"])), (&sites[2], nets(&["10.2.0.0/16", "10.1.9.0/24"]))];
        let mut rows: Vec<VlanRow> =
            [0, 3, 4, 5, 6, 7].iter().map(|i| world.row(&[(&sites[*i], everything())])).collect();
        rows.push(world.row(&both));
        rows[5].tunnels[0].next_hop = None;
        for row in &rows {
            world.dp().put_vlan(row).unwrap();
        }
        Self { world, sites }
    }

    pub fn counters(&self) -> BTreeMap<u16, VlanCounters> {
        let all = self.world.datapath.as_ref().unwrap().counters().unwrap();
        all.into_iter().map(|c| (c.vlan, c)).collect()
    }

    pub fn run(&self, program: &str, frame: &[u8]) -> (i32, Vec<u8>) {
        self.run_gso(program, frame, 0)
    }

    pub fn run_gso(&self, program: &str, frame: &[u8], gso_size: u32) -> (i32, Vec<u8>) {
        let datapath: &Datapath = self.world.datapath.as_ref().unwrap();
        let (_, fd) = datapath.programs().find(|(name, _)| *name == program).unwrap();
        inside(&self.world.srv, || run_gso(fd, frame, gso_size))
    }

    /// The frame is dropped for this reason, counted once at this VLAN and nowhere else.
    pub fn dropped(&mut self, program: &str, frame: &[u8], vlan: u16, reason: DropReason) {
        self.dropped_gso(program, frame, 0, vlan, reason);
    }

    pub fn dropped_gso(&mut self, program: &str, frame: &[u8], gso: u32, vlan: u16, reason: DropReason) {
        let before = self.counters();
        let (verdict, _) = self.run_gso(program, frame, gso);
        let after = self.counters();
        assert_eq!(news(&before, &after), [(vlan, reason)], "{reason} at {vlan}: {frame:02x?}");
        assert_eq!(verdict, SHOT, "{reason}");
    }

    /// Not ours: untouched and uncounted.
    pub fn left_alone(&self, program: &str, frame: &[u8]) {
        let before = self.counters();
        let (verdict, out) = self.run(program, frame);
        assert_eq!((verdict, &out[..]), (UNSPEC, frame), "{frame:02x?}");
        assert_eq!(self.counters(), before);
    }

    /// Redirected, without a drop.
    pub fn taken(&self, program: &str, frame: &[u8]) -> Vec<u8> {
        let before = self.counters();
        let (verdict, out) = self.run(program, frame);
        assert_eq!((verdict, news(&before, &self.counters())), (REDIRECT, vec![]), "{frame:02x?}");
        out
    }

    /// What arrives at the access server for one of its tunnels.
    pub fn outer(&self, site: usize, inner: &Ip) -> Ip {
        let site = &self.sites[site];
        let (remote, local) = (site.remote().to_string(), site.local().to_string());
        let bytes = inner.bytes();
        match site.kind {
            TunnelKind::Ipip => ip(&remote, &local, if inner.is6() { 41 } else { 4 }, &bytes),
            TunnelKind::Gre => {
                let flags = if site.key.is_some() { 0x2000 } else { 0 };
                ip(&remote, &local, 47, &gre(flags, inner.kind(), site.key, &bytes))
            }
            TunnelKind::Vxlan => ip(&remote, &local, 17, &vxlan(site.key.unwrap(), &inner.frame())),
        }
    }
}

pub fn news(before: &BTreeMap<u16, VlanCounters>, after: &BTreeMap<u16, VlanCounters>) -> Vec<(u16, DropReason)> {
    let mut new = Vec::new();
    for (vlan, counters) in after {
        for (reason, count) in &counters.drops {
            let old = before.get(vlan).and_then(|c| c.drops.get(reason)).copied().unwrap_or(0);
            new.extend((old..*count).map(|_| (*vlan, *reason)));
        }
    }
    new
}

pub fn inner4() -> Ip {
    ip(HOST, SERVER, 17, &udp(5, 6, b"hello"))
}

pub fn inner6() -> Ip {
    ip(HOST_6, SERVER_6, 17, &udp(5, 6, b"hello"))
}

/// The source that a site may use.
pub fn inner_of(site: usize, v6: bool) -> Ip {
    let mut inner = if v6 { inner6() } else { inner4() };
    match site {
        1 => inner.src = "10.1.2.3".into(),
        2 => inner.src = "10.1.9.3".into(),
        _ => {}
    }
    inner
}
