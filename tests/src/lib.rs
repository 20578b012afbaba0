//! The lab and the harness of the system tests.
//!
//! A *world* is figure 3 of the specification in network namespaces: customer sites (`host-a` behind
//! `gw-a`, ...), an `internet`, and the `server` with both daemons. It lives in a pid, mount, uts and cgroup
//! namespace of its own whose pid 1 is the *holder*; when the holder dies, by whatever signal, the kernel takes
//! devices, mounts, pins and processes with it. Nothing of the machine's own network is touched.
//!
//! What comes in: [`plan::Options`]. What goes out: a [`record::Record`] by which `lab exec`, the tests and the
//! bench enter the world.

pub mod api;
pub mod cgroups;
pub mod daemons;
pub mod enter;
pub mod holder;
pub mod nodes;
pub mod plan;
pub mod record;
pub mod tenants;
pub mod traffic;
pub mod uml;
pub mod world;
