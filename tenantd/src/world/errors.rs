//! What can fail between a plan and the kernel: one variant a step.

use std::io;

use stackmap::TenantName;
use tenant_init::client::ClientError;

use crate::access::AccessError;
use crate::api::DoorError;
use crate::cgroups::CgroupError;
use crate::fault::Injected;
use crate::images::{self, GetError, HostError};
use crate::launch::{AdoptError, EndError, LaunchError};
use crate::layer::LayerError;
use crate::net::filter::FilterError;
use crate::net::link::NetlinkError;
use crate::net::ns::NsError;
use crate::net::probe::ProbeError;
use crate::net::qdisc::{self, RateError};
use crate::net::room::PatchError;
use crate::services::ServiceError;

/// A step that failed; the variant is the step.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Cgroups and the limits they hold.
    #[error("limits")]
    Limits(#[from] CgroupError),
    /// A row of the guard.
    #[error("the guard")]
    Guard(#[source] Box<stack_guard::PutError>),
    /// The tenant's private layer.
    #[error("the private layer")]
    Layer(#[source] Box<LayerError>),
    /// The tenant's directory in version 2.
    #[error("the guard")]
    GuardCgroup(#[from] stack_guard::CgroupError),
    /// Bandwidth that cannot be held.
    #[error(transparent)]
    Rate(#[from] RateError),
    /// A discipline or class of bandwidth.
    #[error("bandwidth")]
    Bandwidth(#[source] Box<qdisc::LimitError>),
    /// The image below the tenant's root.
    #[error("image")]
    Image(#[from] HostError),
    /// The named image below the tenant's root.
    #[error("image")]
    NamedImage(#[from] GetError),
    /// The tenant's init could not be started.
    #[error("cannot start the tenant's init")]
    Launch(#[from] LaunchError),
    /// The tenant's init does not answer, or refuses.
    #[error("the tenant's init")]
    Init(#[from] ClientError),
    /// The tenant's init could not set itself up.
    #[error("the tenant's init is not ready: {0}")]
    NotReady(String),
    /// There is no init, and the step needs one.
    #[error("tenant {0} has no init")]
    NoInit(TenantName),
    /// A namespace.
    #[error("a namespace")]
    Ns(#[from] NsError),
    /// A device, address or route.
    #[error("netlink")]
    Netlink(#[from] NetlinkError),
    /// The packet filter of the stack.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The patch room.
    #[error("the patch room")]
    Patch(#[from] PatchError),
    /// The tenant's init was found, but it is not to be trusted.
    #[error("cannot adopt the tenant's init")]
    Adopt(#[from] AdoptError),
    /// The access server.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The stack does not answer.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// A service that cannot be as it is asked for.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// A device that should be there is not.
    #[error("device {0} is not there")]
    NoDevice(String),
    /// The port's end in the stack keeps its offloads.
    #[error("cannot switch the offload of tunnelled packets of {device} off")]
    Offload {
        /// Device.
        device: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A file or directory of the tenant.
    #[error("cannot {verb} {path}")]
    File {
        /// What was done.
        verb: &'static str,
        /// Path.
        path: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The tenant's processes do not end.
    #[error("cannot end the tenant")]
    End(#[from] EndError),
    /// The socket of the tenant's own API.
    #[error(transparent)]
    Door(#[from] DoorError),
    /// Its init lives and cannot be reached: a second one would split the tenant.
    #[error(
        "processes of the tenant live ({processes:?}) and its init's socket {path} is gone: they go on, but cannot be \
         told anything; tenantd restart-tenant {name} ends them and starts the tenant again"
    )]
    LostSocket {
        /// The tenant.
        name: TenantName,
        /// The control socket.
        path: String,
        /// Who lives.
        processes: Vec<i32>,
    },
    /// A tenant that the store does not know lives and has what is this one's.
    #[error(
        "{orphan} lives, which the store does not know, and has a VLAN, ids or a stack of this tenant: see tenantd status"
    )]
    Orphan {
        /// Who has it.
        orphan: TenantName,
    },
    /// A test asked for it.
    #[error(transparent)]
    Fault(#[from] Injected),
    /// A thread of ours ended, or a descriptor could not be watched.
    #[error("cannot watch or wait")]
    Watch(#[source] io::Error),
}

// Boxed: each is larger than all the others.
impl From<LayerError> for StepError {
    fn from(error: LayerError) -> Self {
        Self::Layer(Box::new(error))
    }
}

impl From<stack_guard::PutError> for StepError {
    fn from(error: stack_guard::PutError) -> Self {
        Self::Guard(Box::new(error))
    }
}

impl From<qdisc::LimitError> for StepError {
    fn from(error: qdisc::LimitError) -> Self {
        Self::Bandwidth(Box::new(error))
    }
}

/// Why there is no world.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Our own network namespace.
    #[error(transparent)]
    Ns(#[from] NsError),
    /// The tenants' cgroups.
    #[error("the tenants' cgroups")]
    Cgroups(#[from] CgroupError),
    /// Cgroups of version 2 are not mounted.
    #[error(
        "no cgroup file system of version 2 is mounted: the guard needs one (mount -t cgroup2 none /sys/fs/cgroup/unified), \
         or name a directory in it with --guard-cgroup"
    )]
    NoCgroup2,
    /// The guard of the tenants' stacks.
    #[error("the guard")]
    Guard(#[from] stack_guard::OpenError),
    /// The list of devices.
    #[error("the list of devices")]
    Devices(#[from] stack_guard::DevicesError),
    /// The images.
    #[error("the images")]
    Images(#[from] images::OpenError),
    /// The image of the host.
    #[error("the image {}", images::HOST)]
    Host(#[from] HostError),
}
