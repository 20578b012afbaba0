//! Where what the kernel tells belongs to: namespaces by the number the patch room knows them by, ports by device and by
//! name. Learned whenever a port is read; the kernel's numbers of namespaces are not given again while one lives.

use std::collections::HashMap;

use stackmap::{Segment, TenantName};

use super::World;
use crate::kernel::Whose;
use crate::net::link::Link;
use crate::net::room::port_segment;
use crate::net::watch::{self, Changed, Place};

/// What is known of tenants' places.
#[derive(Debug, Default)]
pub(super) struct Places {
    of: HashMap<TenantName, Known>,
    spaces: HashMap<i32, TenantName>,
    ports: HashMap<u32, TenantName>,
    segments: HashMap<Segment, TenantName>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    at: Segment,
    space: Option<i32>,
    port: Option<u32>,
}

impl Places {
    /// A tenant's port was read. One that is not there says nothing of the stack: its number stays.
    pub(super) fn found(&mut self, name: &TenantName, at: Segment, port: Option<&Link>) {
        let before = self.of.get(name).copied();
        let space =
            port.map_or_else(|| before.and_then(|known| known.space), |port| port.across.map(|across| across.space));
        let known = Known { at, space, port: port.map(|port| port.index) };
        if before.is_some_and(|before| (before.space, before.port) == (known.space, known.port)) {
            return;
        }
        self.forget(name);
        self.segments.insert(at, name.clone());
        self.spaces.extend(known.space.map(|space| (space, name.clone())));
        self.ports.extend(known.port.map(|port| (port, name.clone())));
        self.of.insert(name.clone(), known);
    }

    /// A tenant is gone.
    pub(super) fn forget(&mut self, name: &TenantName) {
        let Some(known) = self.of.remove(name) else { return };
        self.segments.remove(&known.at);
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
            (Place::Room, _)
                if changed.index != 0 && self.room.devices().values().any(|index| *index == changed.index) =>
            {
                Whose::Trunk
            }
            (Place::Room, Some(device)) if self.room.specs().any(|spec| spec.far() == device) => Whose::Trunk,
            (Place::Room, device) => {
                let named = device.and_then(port_segment).and_then(|at| self.places.segments.get(&at));
                tenant(named.or_else(|| self.places.ports.get(&changed.index)))
            }
            (Place::Numbered(space), device) => match self.places.spaces.get(&space) {
                Some(name) => Whose::Tenant(name.clone()),
                None if self.room.specs().any(|spec| device == Some(spec.near.as_str())) => Whose::Trunk,
                None => Whose::Nobody,
            },
        }
    }
}
