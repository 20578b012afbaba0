//! What the metrics need of the kernel's side: numbers of a seat, and ways to read counters beside the owner.

use std::sync::Arc;

use stackmap::TenantName;

use super::World;
use crate::metrics::{Readers, Seated};
use crate::store::Desired;
use crate::trace::Parts;
use crate::trunks::TrunkSpec;

impl World {
    /// A tenant's living init and stack.
    pub(crate) fn seated(&self, name: &TenantName) -> Option<Seated> {
        let seat = self.seats.get(name)?;
        Some(Seated { pid: seat.pid, inode: seat.inode, cookie: seat.cookie })
    }

    /// What a trace starts from.
    pub(crate) fn trace_parts(&self, desired: &Desired, failure: Option<String>) -> Parts {
        let tenant = desired.tenant.clone();
        let spec = self.room.specs().find(|spec| spec.number == tenant.trunk_number);
        Parts {
            removing: desired.removing,
            failure,
            seat: self.seated(&tenant.name),
            gateway_mac: tenant.segment().map(|at| self.macs(at).1),
            room: self.room.reader(),
            room_pin: self.config.run_dir.join("patchroom"),
            trunk: spec.map(TrunkSpec::far).unwrap_or_default(),
            access: (
                spec.map(|spec| spec.access.clone()).unwrap_or_default(),
                format!("tenantd/{}", self.config.instance),
            ),
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
