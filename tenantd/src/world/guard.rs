//! The upper table as the kernel obeys it: each stack's row in the guard.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use stack_guard::{Cgroup, Counters, Devices, Guard, OpenOptions, Row};
use stackmap::GidRange;

use super::seat::Seat;
use super::{OpenError, StepError, World};
use crate::cgroups::Cgroups;
use crate::control::Handle;
use crate::fault;
use crate::model::Tenant;
use crate::owner::chain;
use crate::plan::Part;
use crate::refusals;

/// Opens the guard on the cgroup of version 2 that is asked about all sockets, and puts the list of devices on the
/// instance's own directory.
pub(super) fn open(cgroup: &Path, pins: &Path, cgroups: &Cgroups) -> Result<Guard, OpenError> {
    let guard = Guard::open(&OpenOptions { longer_rows: fault::longer_rows(), ..OpenOptions::new(cgroup, pins) })?;
    if !guard.adoption().half.is_empty() {
        tracing::warn!(stacks = guard.adoption().half.len(), "finished what was half done at the guard");
    }
    if !guard.sight().all_gids {
        tracing::warn!(
            "this kernel has no BTF: the guard knows a tenant's process by its cgroup and real group id only"
        );
    }
    if let Some(dir) = cgroups.instance_dir()? {
        Devices::load()?.attach(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())))?;
    }
    Ok(guard)
}

impl World {
    /// The tenant's row at the guard; one of its group that is of another stack is wrong.
    pub(super) fn guard_is(&self, tenant: &Tenant) -> Result<Part, StepError> {
        let holds = match self.seats.get(&tenant.name) {
            Some(seat) => {
                let wanted = self.guard_row(tenant, seat)?;
                self.guard.holds(&wanted).map_err(stack_guard::PutError::from)?
            }
            None => false,
        };
        if holds {
            return Ok(Part::Right);
        }
        let some = self.guard.row_of_gids(tenant.gid.get()).is_some();
        Ok(if some { Part::Wrong(vec!["the row at the guard differs".into()]) } else { Part::Missing })
    }

    pub(super) fn put_guard(&mut self, tenant: &Tenant) -> Result<(), StepError> {
        let seat = self.seat_of(&tenant.name)?;
        let row = self.guard_row(tenant, seat)?;
        let netns = row.max_connections.is_some().then(|| seat.netns()).transpose()?;
        self.remove_guard_rows(tenant.gid, Some(row.cookie))?;
        self.guard.put(&row, netns.as_ref().map(AsFd::as_fd))?;
        Ok(())
    }

    /// Removes the rows of a group but that of the stack with the cookie `but`.
    pub(super) fn remove_guard_rows(&mut self, gids: GidRange, but: Option<u64>) -> Result<(), StepError> {
        let stale = self.guard.row_of_gids(gids.get()).map(|row| row.cookie).filter(|cookie| Some(*cookie) != but);
        if let Some(cookie) = stale {
            self.guard.remove(cookie)?;
        }
        Ok(())
    }

    /// Connections and refusals of a tenant.
    pub fn guard_counters(&self, tenant: &Tenant) -> Option<Counters> {
        let row = self.guard.row_of_gids(tenant.gid.get())?;
        self.guard.counters_of(row.cookie).ok()
    }

    /// Starts the reader of the guard's events.
    pub(super) fn watch_guard(&self, handle: Handle) {
        let watched = self.guard.events().map_err(|error| chain(&error));
        let watched = watched.and_then(|events| refusals::watch(events, handle).map_err(|error| error.to_string()));
        if let Err(error) = watched {
            tracing::error!(error, "refusals of the guard are counted but not told");
        }
    }

    pub(super) fn guard_row(&self, tenant: &Tenant, seat: &Seat) -> Result<Row, StepError> {
        let cgroups = self.cgroups.unified_dir(&tenant.name).filter(|dir| dir.exists());
        let cgroups = cgroups.iter().map(|dir| Cgroup::at(dir)).collect::<Result<_, _>>()?;
        let max_connections = tenant.limits.connections.map(|count| u32::try_from(count.get()).unwrap_or(u32::MAX - 1));
        Ok(Row { cookie: seat.cookie, cgroups, gids_start: tenant.gid.get(), max_connections })
    }
}

/// The cookie of the calling thread's network namespace (`SO_NETNS_COOKIE`, Linux 5.14).
pub(super) fn cookie() -> io::Result<u64> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None)?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(0);
    // SAFETY: system call on a live socket, a number and its length.
    let result = unsafe {
        let value = (&raw mut cookie).cast::<libc::c_void>();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, value, &mut length)
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
