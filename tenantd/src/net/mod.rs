//! Everything that touches network devices: namespaces, netlink, the patch room and its ports, a tenant's stack, the
//! packet filter of a stack, bandwidth of ports, and the probe that proves a stack answers through its port.

pub mod ask;
pub mod diag;
pub mod filter;
pub mod link;
mod nla;
pub mod ns;
pub mod offload;
pub mod probe;
pub mod qdisc;
pub mod room;
pub mod rtnl;
pub mod stack;
pub mod watch;
