//! A tenant's way to its trunk: the access server's row, the port with its row, addresses and routes of the stack, the probe;
//! or a card given whole.

use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnet::IpNet;
use stackmap::Segment;

use super::{PROBE_DEADLINE, StepError, World, differences, rates};
use crate::access::{AccessError, StoredRow};
use crate::fault;
use crate::kernel::KernelEvent;
use crate::launch;
use crate::model::Tenant;
use crate::net::link::{self, Link, NetlinkError, VethEnd};
use crate::net::ns::NetNs;
use crate::net::offload;
use crate::net::probe::{Prober, Question};
use crate::net::room::{PatchError, PortFacts, PortRow, port_name};
use crate::net::rtnl::Netlink;
use crate::net::stack;
use crate::plan::{Part, answered_prefixes, asks_neighbours, stack_plan};

impl World {
    pub(super) async fn state_access(&mut self, tenant: &Tenant) -> Result<(), StepError> {
        let Some(at) = tenant.segment() else { return Ok(()) };
        let gateway = self.macs(at).1;
        if let Some(row) = self.access.row(tenant, gateway) {
            let stored = self.access.of(at.trunk)?.put(&row).await?;
            self.inner_mtu.insert(at, stored.mtu);
        }
        Ok(())
    }

    /// MTU of a port whose longest inner packet is `inner` bytes: never more than its trunk carries with a tag.
    pub(super) fn port_mtu(&self, at: Segment, inner: u32) -> Result<u32, PatchError> {
        Ok(inner.min(self.room.trunk(at.trunk)?.mtu.saturating_sub(4)).max(1280))
    }

    pub(super) async fn wanted_mtu(&mut self, tenant: &Tenant, otherwise: u32) -> Result<u32, StepError> {
        let Some(at) = tenant.segment() else { return Ok(otherwise) };
        if let Some(inner) = self.inner_mtu.get(&at) {
            return Ok(self.port_mtu(at, *inner)?);
        }
        let stored = match self.stored(tenant, at).await {
            Err(error) if error.is_away() => return Ok(otherwise),
            answer => answer?,
        };
        match self.inner_of(tenant, at, stored.as_ref())? {
            Some(inner) => Ok(self.port_mtu(at, inner)?),
            None => Ok(otherwise),
        }
    }

    /// The VLAN's row at the access server. A tenant without tunnels needs none, and no server either: the other end of
    /// the trunk may be somebody else's.
    pub(super) async fn stored(&mut self, tenant: &Tenant, at: Segment) -> Result<Option<StoredRow>, AccessError> {
        let (many, server) = (self.among_many, self.access.of(at.trunk)?);
        let stored = if many { server.get_recent(at.vlan).await } else { server.get(at.vlan).await };
        match stored {
            Err(AccessError::Unreachable { .. }) if tenant.tunnels.is_empty() => Ok(None),
            other => other,
        }
    }

    /// Longest packet in bytes that passes beyond the trunk; `None` when only a row not stated yet will tell. Without
    /// tunnels the trunk is the limit, unless somebody else stated some for the VLAN.
    pub(super) fn inner_of(
        &self,
        tenant: &Tenant,
        at: Segment,
        stored: Option<&StoredRow>,
    ) -> Result<Option<u32>, PatchError> {
        if !tenant.tunnels.is_empty() {
            return Ok(stored.map(|row| row.mtu));
        }
        let trunk = self.room.trunk(at.trunk)?.mtu;
        let others = stored.filter(|row| !self.access.is_ours(row));
        Ok(Some(others.map_or(trunk, |row| row.mtu)))
    }

    pub(super) async fn add_port(&mut self, tenant: &Tenant) -> Result<(), StepError> {
        let Some(at) = tenant.segment() else { return Ok(()) };
        let mtu = self.wanted_mtu(tenant, 1280).await?;
        let stack = self.seat_of(&tenant.name)?.netns()?;
        let (near, device, mac) = (port_name(at), tenant.device.clone(), tenant.mac);
        let asked = device.clone();
        let far = self.in_stack(tenant, move |netlink| Ok(link::find(netlink, &asked)?)).await?;
        let add = self.room.work(move |inside| {
            // Somebody gave the port another name: the stack's device still leads to it.
            if let Some(port) = far.as_ref().map(|far| renamed(&inside.netlink, far)).transpose()?.flatten() {
                return Ok(link::rename(&inside.netlink, &port, &near)?);
            }
            let here = link::find(&inside.netlink, &near)?;
            for (found, device, place) in [(here, &near, "the patch room"), (far, &device, "the tenant's stack")] {
                if found.is_some() {
                    return Err(PatchError::Taken { device: device.clone(), place });
                }
            }
            let far = VethEnd { name: &device, mac, mtu };
            link::add_veth(&inside.netlink, VethEnd { name: &near, mac: None, mtu }, far, stack.as_fd())?;
            Ok(())
        });
        Ok(add.await?)
    }

    pub(super) fn port_row(&self, tenant: &Tenant, at: Segment, ifindex: u32, mtu: u32) -> PortRow {
        let (server, gateway_mac) = self.macs(at);
        let mut answer = answered_prefixes(&tenant.tunnels);
        let asks = asks_neighbours(&tenant.tunnels);
        if !asks {
            // Should the stack lose its one permanent neighbour, it asks for it and recovers.
            answer.push(IpNet::from(IpAddr::V6(stack::GATEWAY)));
        }
        answer.sort();
        answer.dedup();
        let mac = tenant.mac.unwrap_or(server);
        PortRow { ifindex, at, mac, gateway_mac, mtu, asks, answer, class: rates::class(tenant, at.vlan) }
    }

    /// The port's row, program and rates; `inner` is the longest inner packet, where it is known.
    pub(super) fn bound_is(
        &self,
        tenant: &Tenant,
        at: Segment,
        found: &PortFacts,
        inner: Option<u32>,
    ) -> Result<Part, StepError> {
        if let Err(lost) = self.room.check_trunk(at.trunk) {
            return Ok(Part::Wrong(vec![lost.to_string()]));
        }
        let Some(row) = &found.row else { return Ok(Part::Missing) };
        let Some(port) = found.link.as_ref().filter(|port| port.across.is_some()) else {
            return Ok(Part::Wrong(vec!["the port's row leads to no port".into()]));
        };
        let Some(inner) = inner else {
            return Ok(Part::Wrong(vec!["the MTU of the port is not known yet".into()]));
        };
        let wanted = self.port_row(tenant, at, port.index, self.port_mtu(at, inner)?).config(&self.room)?;
        let mut differ = differences::port(row, &wanted);
        differ.extend(rates::differences(tenant, found)?);
        if !port.up {
            differ.push(format!("port {} is down", port_name(at)));
        }
        if !found.program {
            differ.push(format!("the program of port {} is missing", port_name(at)));
        }
        Ok(Part::of(differ))
    }

    pub(super) async fn bind(&mut self, tenant: &Tenant) -> Result<(), StepError> {
        let Some(at) = tenant.segment() else { return Ok(()) };
        self.room.check_trunk(at.trunk)?;
        let there = self.room.look(at).await?;
        let port = there.link.ok_or_else(|| StepError::NoDevice(port_name(at)))?;
        self.places.found(&tenant.name, at, Some(&port));
        let mtu = self.wanted_mtu(tenant, port.mtu).await?;
        if port.mtu != mtu {
            self.room.work(move |inside| link::set_mtu(&inside.netlink, port.index, mtu)).await?;
        }
        if !port.up {
            self.room.work(move |inside| link::set_up(&inside.netlink, port.index)).await?;
        }
        // A stack that died took its port along, but not the port's row.
        if there.row.is_some_and(|there| there.ifindex != port.index) {
            self.room.unbind(at).await?;
        }
        let row = self.port_row(tenant, at, port.index, mtu);
        self.hold_rates(tenant, at, port.index).await?;
        fault::point("bind.rates");
        self.room.bind(row.config(&self.room)?).await?;
        fault::point("bind.row");
        if tenant.limits.rate_out.is_none() {
            self.free_class(at).await?;
        }
        Ok(())
    }

    pub(super) async fn wanted_stack(
        &mut self,
        tenant: &Tenant,
        otherwise: u32,
    ) -> Result<stack::StackPlan, StepError> {
        let mtu = self.wanted_mtu(tenant, otherwise).await?;
        Ok(stack_plan(tenant, tenant.segment().map(|at| self.macs(at).1), mtu))
    }

    pub(super) async fn configure(&mut self, tenant: &Tenant) -> Result<(), StepError> {
        let device = tenant.device.clone();
        let found = self.in_stack(tenant, move |netlink| Ok(stack::read(netlink, &device)?)).await?;
        let found = found.ok_or_else(|| StepError::NoDevice(tenant.device.clone()))?;
        let wanted = self.wanted_stack(tenant, found.link.mtu).await?;
        // The names first: when we are killed in between, the addresses still differ and this is done again.
        let files = self.files(&tenant.name);
        launch::write_hosts(&files, &tenant.name, &tenant.addresses).map_err(|source| StepError::File {
            verb: "write etc/hosts in",
            path: files.display().to_string(),
            source,
        })?;
        fault::point("stack.hosts");
        let (device, of_ours) = (tenant.device.clone(), tenant.vlan.is_some());
        let apply = self.in_stack(tenant, move |netlink| {
            if of_ours {
                offload::cut_tunnelled(&device).map_err(|source| StepError::Offload { device, source })?;
            }
            Ok(stack::apply(netlink, &found, &wanted)?)
        });
        apply.await
    }

    pub(super) async fn probe(&mut self, tenant: &Tenant) -> Result<(), StepError> {
        match self.prober(tenant).await? {
            Some(prober) => Ok(prober.ask(PROBE_DEADLINE).await?),
            None => Ok(()),
        }
    }

    pub(super) async fn probe_beside(&mut self, tenant: &Tenant) -> Result<(), StepError> {
        let Some(prober) = self.prober(tenant).await? else { return Ok(()) };
        let (tenant, events) = (tenant.name.clone(), self.events.clone());
        tokio::spawn(async move {
            if let Err(error) = prober.ask(PROBE_DEADLINE).await {
                let _ = events.send(KernelEvent::Unanswered { tenant, error: error.into() }).await;
            }
        });
        Ok(())
    }

    /// Who asks the tenant's first address; none for a card given whole.
    async fn prober(&mut self, tenant: &Tenant) -> Result<Option<Prober>, StepError> {
        let (Some(at), Some(address)) = (tenant.segment(), tenant.addresses.first()) else { return Ok(None) };
        self.room.check_trunk(at.trunk)?;
        let (server_mac, gateway_mac) = self.macs(at);
        let mut question =
            Question { ifindex: 0, vlan: Some(at.vlan), target: address.addr(), server_mac, gateway_mac };
        if let Some(near) = self.room.trunk(at.trunk)?.near_ifindex {
            return Ok(Some(Prober::open(Question { ifindex: near, ..question })?));
        }
        // The trunk is a card: what is sent on it leaves the machine, so the port's own end asks.
        let port = self.room.device(at).await?.ok_or_else(|| StepError::NoDevice(port_name(at)))?;
        question = Question { ifindex: port.index, vlan: None, ..question };
        let runtime = tokio::runtime::Handle::current();
        let opened = self.room.ns.run(|| {
            let _inside = runtime.enter();
            Prober::open(question)
        })?;
        Ok(Some(opened?))
    }

    pub(super) async fn give_device(&mut self, tenant: &Tenant) -> Result<(), StepError> {
        let stack = self.seat_of(&tenant.name)?.netns()?;
        if let Some(card) = link::find(&self.here, &tenant.device)? {
            link::give_away(&self.here, card.index, stack.as_fd())?;
            return Ok(());
        }
        let device = tenant.device.clone();
        match self.in_stack(tenant, move |netlink| Ok(link::find(netlink, &device)?)).await? {
            Some(_) => Ok(()),
            None => Err(StepError::NoDevice(tenant.device.clone())),
        }
    }

    pub(super) async fn return_device(&mut self, tenant: &Tenant) -> Result<(), StepError> {
        if !self.seats.contains_key(&tenant.name) {
            return Ok(());
        }
        let (ours, device) = (NetNs::current()?, tenant.device.clone());
        let give = self.in_stack(tenant, move |netlink| match link::find(netlink, &device)? {
            Some(card) => Ok(link::give_away(netlink, card.index, ours.as_fd())?),
            None => Ok(()),
        });
        give.await
    }
}

/// The device of the patch room that is the other end of a stack's device. Numbers of devices are given in each
/// namespace: only one that leads back is the other end.
fn renamed(room: &Netlink, far: &Link) -> Result<Option<Link>, NetlinkError> {
    let Some(across) = far.across else { return Ok(None) };
    let port = link::find_index(room, across.index)?;
    Ok(port.filter(|port| port.across.is_some_and(|back| back.index == far.index)))
}
