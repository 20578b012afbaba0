//! A snapshot as text.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::catalogue::{ENTRIES, Entry, Kind, Source, Value};
use super::live::Live;
use super::roster::Snapshot;

/// The whole answer.
pub(crate) fn text(snapshot: Snapshot, live: Live) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    // Some 180 bytes a series; growing by doubling would copy it all again and again.
    let mut text = String::with_capacity(64 * 1024 + snapshot.tenants.len() * 3_000);
    registry.register_collector(Box::new(All { snapshot, live }));
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct All {
    snapshot: Snapshot,
    live: Live,
}

impl Collector for All {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        ENTRIES.iter().try_for_each(|entry| self.entry(entry, &mut encoder))
    }
}

impl All {
    fn entry(&self, entry: &Entry, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let metric = &entry.metric;
        let kind = match metric.kind {
            Kind::Gauge => MetricType::Gauge,
            Kind::Counter => MetricType::Counter,
            Kind::Histogram => MetricType::Histogram,
        };
        let mut out = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
        let mut done = Ok(());
        match entry.source {
            Source::Tenant(read) => {
                for tenant in &self.snapshot.tenants {
                    let name = tenant.enlisted.name.as_str();
                    read(tenant, &mut |values, value| {
                        let labels = metric.labels.iter().copied().zip(std::iter::once(&name).chain(values).copied());
                        done = done.and_then(|()| sample(&mut out, metric.kind, labels, value));
                    });
                }
            }
            Source::Daemon(read) => read(&self.snapshot, &mut |values, value| {
                let labels = metric.labels.iter().copied().zip(values.iter().copied());
                done = done.and_then(|()| sample(&mut out, metric.kind, labels, value));
            }),
            Source::Live => done = self.live(metric.name, out),
        }
        done
    }

    fn live(&self, name: &str, out: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match name {
            "tenantd_pass_seconds" => self.live.passes.encode(out),
            "tenantd_repairs" => self.live.repairs.encode(out),
            "tenantd_failures" => self.live.failures.encode(out),
            "tenantd_store_seconds" => self.live.store.encode(out),
            // One that is missing here shows in the test that reads every metric of the list.
            _ => Ok(()),
        }
    }
}

fn sample<'a>(
    out: &mut MetricEncoder<'_>,
    kind: Kind,
    labels: impl Iterator<Item = (&'a str, &'a str)>,
    value: Value,
) -> Result<(), fmt::Error> {
    let labels: Vec<(&str, &str)> = labels.collect();
    if labels.is_empty() {
        return number(out, kind, value);
    }
    number(&mut out.encode_family(&labels)?, kind, value)
}

fn number(out: &mut MetricEncoder<'_>, kind: Kind, value: Value) -> Result<(), fmt::Error> {
    let none: Option<&Exemplar<[(&str, &str); 0], f64>> = None;
    match (kind, value) {
        (Kind::Counter, Value::Whole(n)) => out.encode_counter(&n, none),
        (Kind::Counter, Value::Real(n)) => out.encode_counter(&n, none),
        (_, Value::Whole(n)) => out.encode_gauge(&n),
        (_, Value::Real(n)) => out.encode_gauge(&n),
    }
}
