//! What the metrics need of the kernel's side: numbers of a seat, and ways to read counters beside the owner.

use std::sync::Arc;

use stackmap::TenantName;

use super::World;
use crate::metrics::{Readers, Seated};
use crate::net::room::FAR_END;
use crate::store::Desired;
use crate::trace::Parts;

impl World {
    /// A tenant's living init and stack.
    pub(crate) fn seated(&self, name: &TenantName) -> Option<Seated> {
        let seat = self.seats.get(name)?;
        Some(Seated { pid: seat.pid, inode: seat.inode, cookie: seat.cookie })
    }

    /// What a trace starts from.
    pub(crate) fn trace_parts(&self, desired: &Desired, failure: Option<String>) -> Parts {
        let tenant = desired.tenant.clone();
        Parts {
            removing: desired.removing,
            failure,
            seat: self.seated(&tenant.name),
            gateway_mac: tenant.vlan.map(|vlan| self.macs(vlan).1),
            room: self.room.reader(),
            room_pin: self.config.run_dir.join("patchroom"),
            trunk: self.config.trunk.clone().unwrap_or_else(|| FAR_END.to_owned()),
            access: ((&self.config.access).into(), format!("tenantd/{}", self.config.instance)),
            cgroups: self.cgroups.clone(),
            control: self.control_socket(&tenant.name),
            tenant,
        }
    }

    /// Ways to read counters; none when we are out of descriptors.
    pub(crate) fn readers(&self) -> Option<Readers> {
        let guard = match self.guard.counter_reader() {
            Ok(reader) => Arc::new(reader),
            Err(error) => {
                tracing::warn!(%error, "no metrics of the kernel");
                return None;
            }
        };
        Some(Readers { room: self.room.reader(), guard, guarded: self.guard.usage(), cgroups: self.cgroups.clone() })
    }
}
