//! Where what the kernel tells belongs to: namespaces by the number the patch room knows them by, ports by device and by
//! name. Learned whenever a port is read; the kernel's numbers of namespaces are not given again while one lives.

use std::collections::HashMap;

use stackmap::{TenantName, Vlan};

use super::World;
use crate::kernel::Whose;
use crate::net::link::Link;
use crate::net::room::{FAR_END, port_vlan};
use crate::net::watch::{self, Changed, Place};

/// What is known of tenants' places.
#[derive(Debug, Default)]
pub(super) struct Places {
    of: HashMap<TenantName, Known>,
    spaces: HashMap<i32, TenantName>,
    ports: HashMap<u32, TenantName>,
    vlans: HashMap<Vlan, TenantName>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    vlan: Vlan,
    space: Option<i32>,
    port: Option<u32>,
}

impl Places {
    /// A tenant's port was read. One that is not there says nothing of the stack: its number stays.
    pub(super) fn found(&mut self, name: &TenantName, vlan: Vlan, port: Option<&Link>) {
        let before = self.of.get(name).copied();
        let space =
            port.map_or_else(|| before.and_then(|known| known.space), |port| port.across.map(|across| across.space));
        let known = Known { vlan, space, port: port.map(|port| port.index) };
        if before.is_some_and(|before| (before.space, before.port) == (known.space, known.port)) {
            return;
        }
        self.forget(name);
        self.vlans.insert(vlan, name.clone());
        self.spaces.extend(known.space.map(|space| (space, name.clone())));
        self.ports.extend(known.port.map(|port| (port, name.clone())));
        self.of.insert(name.clone(), known);
    }

    /// A tenant is gone.
    pub(super) fn forget(&mut self, name: &TenantName) {
        let Some(known) = self.of.remove(name) else { return };
        self.vlans.remove(&known.vlan);
        // A number may have become another one's meanwhile.
        self.spaces.retain_own(known.space, name);
        self.ports.retain_own(known.port, name);
    }
}

trait RetainOwn<K> {
    fn retain_own(&mut self, key: Option<K>, name: &TenantName);
}

impl<K: Eq + std::hash::Hash> RetainOwn<K> for HashMap<K, TenantName> {
    fn retain_own(&mut self, key: Option<K>, name: &TenantName) {
        if let Some(key) = key.filter(|key| self.get(key) == Some(name)) {
            self.remove(&key);
        }
    }
}

impl World {
    /// Listens to the kernel. Without it everything is found on the timer.
    pub(super) fn watch_kernel(&self) {
        let opened = self.room.ns.run(|| watch::open(None));
        let opened = opened.map_err(|error| crate::owner::chain(&error));
        match opened.and_then(|opened| opened.map_err(|error| crate::owner::chain(&error))) {
            Ok(socket) => drop(tokio::spawn(watch::follow(socket, self.events.clone()))),
            Err(error) => tracing::error!(error, "what others change is found on the timer only"),
        }
    }

    pub(super) fn whose_is(&self, changed: &Changed) -> Whose {
        let tenant = |found: Option<&TenantName>| found.map_or(Whose::Nobody, |name| Whose::Tenant(name.clone()));
        match (changed.place, changed.device.as_deref()) {
            (Place::Room, _) if changed.index == self.room.trunk.room_ifindex => Whose::Trunk,
            (Place::Room, Some(FAR_END)) => Whose::Trunk,
            (Place::Room, device) => {
                let named = device.and_then(port_vlan).and_then(|vlan| self.places.vlans.get(&vlan));
                tenant(named.or_else(|| self.places.ports.get(&changed.index)))
            }
            (Place::Numbered(space), device) => match self.places.spaces.get(&space) {
                Some(name) => Whose::Tenant(name.clone()),
                None if device.is_some_and(|device| device == self.room.near) => Whose::Trunk,
                None => Whose::Nobody,
            },
        }
    }
}
