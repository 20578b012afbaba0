//! What the daemon tells Prometheus: every metric is one entry of [`catalogue`], from which both the answer and
//! docs/metrics.md are made.
//!
//! In: a `Roster` that the owner gives in a moment (names, numbers, states; nothing of it is read from the kernel).
//! Beside the owner `Scraper` reads what the kernel counts: the tables of the data path and of the guard, each as a
//! whole, and the files of the cgroups. One scrape is made at a time; who asks meanwhile gets the same answer. Listening
//! ports are looked for in the background (`ports`) and are as old as `tenantd_ports_age_seconds` says.
//!
//! Text format: OpenMetrics 1.0, which Prometheus and its parsers read (docs/decisions/0017).

pub mod catalogue;
mod collect;
mod encode;
mod live;
mod ports;
mod process;
mod roster;
#[cfg(test)]
mod tests;

pub use catalogue::{Kind, Metric, document};
pub(crate) use collect::{FRESH, Scraper};
pub use live::Live;
pub(crate) use roster::{Enlisted, Roster};
pub use roster::{Readers, Seated};

/// Media type of what `encode` writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
