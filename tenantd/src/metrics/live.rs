//! What is counted as it happens. Cheap to clone: all clones count the same.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;

/// One label with its value.
type Label = [(&'static str, &'static str); 1];

/// Classes of times in seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Classes(&'static [f64]);

impl MetricConstructor<Histogram> for Classes {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// A pass of one tenant takes from under a millisecond to some seconds.
const PASS: Classes = Classes(&[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]);

/// A durable write takes as long as the disk does.
const STORE: Classes = Classes(&[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0]);

/// The daemon's own counters.
#[derive(Debug, Clone)]
pub struct Live {
    pub(super) passes: Family<Label, Histogram, Classes>,
    pub(super) repairs: Family<Label, Counter>,
    pub(super) failures: Family<Label, Counter>,
    pub(super) store: Family<Label, Histogram, Classes>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            passes: Family::new_with_constructor(PASS),
            repairs: Family::default(),
            failures: Family::default(),
            store: Family::new_with_constructor(STORE),
        }
    }
}

impl Live {
    /// A pass of one tenant has ended; `failed` is the step that did.
    pub fn passed(&self, took: Duration, failed: Option<&'static str>) {
        let result = if failed.is_some() { "failed" } else { "ok" };
        self.passes.get_or_create(&[("result", result)]).observe(took.as_secs_f64());
        if let Some(step) = failed {
            self.failures.get_or_create(&[("step", step)]).inc();
        }
    }

    /// A step was taken that nobody had asked for.
    pub fn repaired(&self, step: &'static str) {
        self.repairs.get_or_create(&[("step", step)]).inc();
    }

    /// The store has written, or refused to.
    pub fn stored(&self, operation: &'static str, took: Duration) {
        self.store.get_or_create(&[("operation", operation)]).observe(took.as_secs_f64());
    }
}
