//! The words between `tenantd` and the init of a tenant, and a small blocking client that speaks them.
//!
//! The program of this package is process 1 of every tenant. It outlives the daemon, so an old init has to
//! understand a new daemon: every message carries the protocol's number, an unknown request is answered with an
//! error, and nothing a client sends (or a client that dies) ends init.
//!
//! Rooms: [`house`] what a tenant is made from; [`protocol`] the messages; [`service`] what a service is; [`client`]
//! connect, ask, wait for events; [`lock`] what everything in a tenant gives up; [`mounts`] and [`seed`] mounts and
//! namespaces by descriptor, also for who changes a running tenant from outside; [`tree`] removes what a tenant made.

pub mod client;
pub mod house;
pub mod lock;
pub mod mounts;
pub mod protocol;
pub mod seed;
pub mod service;
pub mod tree;
