//! The access server: ends the IP tunnels of customer sites and puts each closed network on its own VLAN.
//!
//! ```text
//! API connection --\
//! route watch ------> daemon (owner) --> gateway (pure: checks, plans) --> table = eBPF data path
//! timers ----------/
//! ```
//!
//! The library exists for the program beside it and for tests; the program is `main.rs`.

pub mod api;
pub mod bpffs;
pub mod checks;
pub mod cli;
pub mod client;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod datapath;
pub mod fault;
pub mod gateway;
pub mod link;
pub mod lock;
pub mod metrics;
pub mod mtu;
pub mod problem;
pub mod pulse;
pub mod route;
pub mod row;
pub mod service;
pub mod socket;
pub mod table;
