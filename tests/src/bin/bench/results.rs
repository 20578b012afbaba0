//! What was measured, row by row and round by round.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::flows::{self, PingPong, Small};
use crate::rows::{Part, Row};
use crate::sample;

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// Gbit/s, one stream, client to server.
    TcpUp,
    /// Gbit/s, one stream, server to client.
    TcpDown,
    /// Gbit/s, four streams, client to server.
    Tcp4Up,
    /// Gbit/s, four streams, server to client.
    Tcp4Down,
    /// Thousand small packets a second received, client to server.
    SmallUp,
    /// Thousand small packets a second received, server to client.
    SmallDown,
    /// Part of them lost.
    LostUp,
    /// Part of them lost.
    LostDown,
    /// Processor time a packet, microseconds.
    CpuUp,
    /// Processor time a packet, microseconds.
    CpuDown,
    /// Round trip of one byte, microseconds, median.
    PingP50,
    /// Round trip of one byte, microseconds, 99th percentile.
    PingP99,
}

impl Measure {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 12] = [
        Self::TcpUp,
        Self::TcpDown,
        Self::Tcp4Up,
        Self::Tcp4Down,
        Self::SmallUp,
        Self::SmallDown,
        Self::PingP50,
        Self::PingP99,
        Self::CpuUp,
        Self::CpuDown,
        Self::LostUp,
        Self::LostDown,
    ];

    /// Its name in the JSON file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TcpUp => "tcp1_up_gbits",
            Self::TcpDown => "tcp1_down_gbits",
            Self::Tcp4Up => "tcp4_up_gbits",
            Self::Tcp4Down => "tcp4_down_gbits",
            Self::SmallUp => "udp64_up_kpps",
            Self::SmallDown => "udp64_down_kpps",
            Self::LostUp => "udp64_up_lost",
            Self::LostDown => "udp64_down_lost",
            Self::CpuUp => "udp64_up_cpu_us",
            Self::CpuDown => "udp64_down_cpu_us",
            Self::PingP50 => "pingpong_p50_us",
            Self::PingP99 => "pingpong_p99_us",
        }
    }
}

/// The values of every round.
#[derive(Default)]
pub(crate) struct Results(BTreeMap<(&'static str, Measure), Vec<f64>>);

impl Results {
    /// The rounds of a row; empty where it was not measured.
    pub(crate) fn rounds(&self, row: &str, measure: Measure) -> &[f64] {
        let found = self.0.iter().find(|((name, m), _)| *name == row && *m == measure);
        found.map(|(_, values)| values.as_slice()).unwrap_or_default()
    }

    /// Their median.
    pub(crate) fn median(&self, row: &str, measure: Measure) -> f64 {
        sample::median(self.rounds(row, measure))
    }

    /// Median of the rounds' ratios of one row to another.
    pub(crate) fn ratio(&self, row: &str, to: &str, measure: Measure) -> f64 {
        sample::ratio(self.rounds(row, measure), self.rounds(to, measure))
    }

    /// One round: every measurement goes over all rows before the next, so that what is compared lies close together;
    /// each round starts at another row.
    pub(crate) fn round(&mut self, rows: &[Row], number: usize, duration: Duration) -> Result<()> {
        let (first, last) = rows.split_at(number % rows.len());
        let order: Vec<&Row> = last.iter().chain(first).collect();
        for (job, of_ladder) in JOBS {
            for row in order.iter().filter(|row| *of_ladder || row.part != Part::Ladder) {
                for (measure, value) in job(row, duration).with_context(|| format!("row {}", row.name))? {
                    self.0.entry((row.name, measure)).or_default().push(value);
                }
            }
        }
        Ok(())
    }
}

type Job = fn(&Row, Duration) -> Result<Vec<(Measure, f64)>>;

/// What is measured in a round, and whether also of the ladder's rungs.
const JOBS: &[(Job, bool)] = &[
    (|row, d| Ok(vec![(Measure::TcpUp, flows::tcp(&row.up(), 1, d)?)]), true),
    (|row, d| Ok(vec![(Measure::TcpDown, flows::tcp(&row.down(), 1, d)?)]), true),
    (|row, d| Ok(vec![(Measure::Tcp4Up, flows::tcp(&row.up(), 4, d)?)]), false),
    (|row, d| Ok(vec![(Measure::Tcp4Down, flows::tcp(&row.down(), 4, d)?)]), false),
    (
        |row, d| {
            let Small { kpps, lost, cpu_us } = flows::small_packets(&row.up(), d)?;
            Ok(vec![(Measure::SmallUp, kpps), (Measure::LostUp, lost), (Measure::CpuUp, cpu_us)])
        },
        true,
    ),
    (
        |row, d| {
            let Small { kpps, lost, cpu_us } = flows::small_packets(&row.down(), d)?;
            Ok(vec![(Measure::SmallDown, kpps), (Measure::LostDown, lost), (Measure::CpuDown, cpu_us)])
        },
        true,
    ),
    (
        |row, d| {
            let PingPong { p50, p99 } = flows::ping_pong(&row.up(), d)?;
            Ok(vec![(Measure::PingP50, p50), (Measure::PingP99, p99)])
        },
        true,
    ),
];
