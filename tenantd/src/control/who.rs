//! Who asks: what the kernel says of the other end of a connection, attached to every command so that the audit can tell.

use stackmap::TenantName;

use crate::model::EventOrigin;

/// Who asked for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// On whose behalf.
    pub origin: EventOrigin,
    /// Real user id as the host sees it.
    pub uid: u32,
    /// Real group id as the host sees it.
    pub gid: u32,
    /// Process id as the host sees it; 0: not known.
    pub pid: u32,
    /// What the process calls itself, with nothing in it that looks like the end of a line; empty: not readable any more.
    pub comm: String,
    /// The tenant through whose own socket it came.
    pub tenant: Option<TenantName>,
}

impl Who {
    /// The daemon itself, mending something nobody asked for at this moment.
    #[must_use]
    pub fn daemon() -> Self {
        let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        Self { origin: EventOrigin::Daemon, uid, gid, pid: std::process::id(), comm: "tenantd".into(), tenant: None }
    }

    /// A peer on the operators' socket.
    #[must_use]
    pub fn operator(uid: u32, gid: u32, pid: u32) -> Self {
        Self { origin: EventOrigin::Operator, uid, gid, pid, comm: comm_of(pid), tenant: None }
    }

    /// A peer on a tenant's own socket.
    #[must_use]
    pub fn inside(tenant: TenantName, uid: u32, gid: u32, pid: u32) -> Self {
        Self { origin: EventOrigin::Tenant, tenant: Some(tenant), ..Self::operator(uid, gid, pid) }
    }

    /// For the audit of a caller whose account is bounded: the tenant that speaks, or nobody's.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        self.origin == EventOrigin::Operator
    }
}

/// The kernel keeps at most 15 bytes of it; a process calls itself what it likes.
fn comm_of(pid: u32) -> String {
    let read = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    read.trim_end_matches('\n').escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_and_one_that_is_gone_is_not() {
        assert!(!Who::operator(0, 0, std::process::id()).comm.is_empty());
        assert_eq!(Who::operator(0, 0, 0).comm, "");
    }
}
