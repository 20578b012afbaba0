//! The server side: stack, port and process group of every closed network, and the tables that tie them together.
//!
//! Rooms: [`model`] the words of the API; `control` the way to the one owner of all state (`owner`); `store` what is
//! desired; `kernel` what the owner asks of the machine, `world` the machine; `plan` the difference as a value; `net`
//! patch room, trunk, stacks, probe; `access` the client of the access server; `api` REST; `commands` the command line.

pub mod access;
pub mod api;
pub mod audit;
pub mod cgroups;
pub mod change;
pub mod client;
pub mod commands;
pub mod config;
pub mod control;
pub mod daemon;
pub mod declare;
pub mod doctor;
pub mod enter;
mod explain;
pub mod fault;
pub mod features;
pub mod images;
pub mod kernel;
pub mod launch;
pub mod layer;
pub mod limits;
pub mod metrics;
pub mod model;
pub mod net;
pub mod owner;
pub mod plan;
pub mod problem;
pub mod pulse;
pub mod refusals;
pub mod rules;
pub mod services;
pub mod shares;
pub mod store;
pub mod templates;
pub mod trace;
pub mod trunks;
pub mod verify;
pub mod world;
