//! What a tenant may use at most, as the API and the command line speak it. Pure: [`crate::cgroups`] and the rooms of
//! the network and the files hold the limits, this room says what a limit is and which ones make sense.
//!
//! In: `key=value` words or JSON. Out: checked values, or [`Invalid`] with field, value and rule. A limit left out is
//! not "unlimited for ever" but [`Limits::or_defaults`].

mod quantity;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};
use stackmap::Invalid;
use utoipa::ToSchema;

pub use quantity::{BitRate, Bytes, Cores, Count};

/// Processes of a tenant that asked for no limit. A kernel gives out 32,768 process ids where nobody raised it, and a
/// process costs at least its kernel stack of 16 KiB: a fork bomb in one tenant must leave ids and memory to fifteen
/// others. The stock servers of a tenant need far less.
pub const DEFAULT_PROCESSES: Count = match Count::new(2048) {
    Some(count) => count,
    None => unreachable!(),
};

/// Least processor time: the kernel refuses less than 1 ms in the period of 100 ms that we use.
pub const LEAST_CPU: Cores = match Cores::from_milli(10) {
    Some(cores) => cores,
    None => unreachable!(),
};

/// Least memory in bytes, for init with its kernel memory and one small service. Reckoned from the size of init (below
/// 400 KiB) and of an nginx (1.4 MiB) with room for page tables and page cache, not measured.
pub const LEAST_MEMORY: Bytes = bytes(8 << 20);

/// Least number of processes, counted, not measured: init, the process that makes its namespaces, a service with two workers, somebody who
/// enters to look.
pub const LEAST_PROCESSES: Count = match Count::new(8) {
    Some(count) => count,
    None => unreachable!(),
};

/// Least size of the private layer: an ext4 file system with its journal.
pub const LEAST_DISK: Bytes = bytes(8 << 20);

/// Least I/O in bytes a second: below it a single write of 1 MiB holds a process longer than the kernel's patience
/// with a hung task.
pub const LEAST_IO: Bytes = bytes(64 << 10);

/// Least bandwidth in bits a second: one full packet of 1,500 bytes in 1.5 seconds.
pub const LEAST_RATE: BitRate = match BitRate::new(8_000) {
    Some(rate) => rate,
    None => unreachable!(),
};

const fn bytes(n: u64) -> Bytes {
    match Bytes::new(n) {
        Some(bytes) => bytes,
        None => unreachable!(),
    }
}

/// Most processor time: the kernel keeps quotas below 2^44 ns a period; no machine has so many cores.
const MOST_CPU: u32 = 8_192_000;
/// Most memory: the kernel's page counter, `LONG_MAX` less one page of 4 KiB; more reads back as no limit.
const MOST_BYTES: u64 = i64::MAX as u64 - 4095;
/// Most processes: `PID_MAX_LIMIT` of 64-bit kernels; `pids.max` refuses more.
const MOST_PROCESSES: u64 = 4_194_304;
/// Most bandwidth: `tc` keeps rates of up to 2^64 bytes a second, devices do not: 10 Tbit/s is beyond any.
const MOST_RATE: u64 = 10_000_000_000_000;
/// Most connections: entries of a 32-bit counter.
const MOST_CONNECTIONS: u64 = u32::MAX as u64;

/// The limits of a tenant. Left out means: the default (see [`Limits::or_defaults`]), else no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Processor time in cores, such as `1.5`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cores>,
    /// Memory with page cache and kernel memory, in bytes or as `512M`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Processes and threads; 2048 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<Count>,
    /// Reading from the disk that holds the tenant's files, in bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_read: Option<Bytes>,
    /// Writing to that disk, in bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_write: Option<Bytes>,
    /// Size of the private layer (everything the tenant has changed or added), in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Bytes>,
    /// Bandwidth towards the tenant in bits a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_in: Option<BitRate>,
    /// Bandwidth from the tenant in bits a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_out: Option<BitRate>,
    /// Connections at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<Count>,
}

/// The names of all limits, in the order in which they are shown.
pub const NAMES: [&str; 9] =
    ["cpu", "memory", "processes", "io_read", "io_write", "disk", "rate_in", "rate_out", "connections"];

impl Limits {
    /// Reads `key=value` words, as in `--limit memory=512M`. A later word for the same key is an error.
    ///
    /// # Errors
    /// [`Invalid`] for the first word that is not a limit, with the known names.
    pub fn from_words<W: AsRef<str>>(words: impl IntoIterator<Item = W>) -> Result<Self, Invalid> {
        Self::default().with_words(words)
    }

    /// These limits, changed by `key=value` words; `key=none` goes back to the default.
    ///
    /// # Errors
    /// As [`Limits::from_words`].
    pub fn with_words<W: AsRef<str>>(mut self, words: impl IntoIterator<Item = W>) -> Result<Self, Invalid> {
        let mut seen = Vec::new();
        for word in words {
            let word = word.as_ref();
            let (key, value) = word.split_once('=').ok_or_else(|| Invalid::new("limit", word, "must be NAME=VALUE"))?;
            let name = NAMES.into_iter().find(|name| *name == key || name.replace('_', "-") == key);
            let name = name.ok_or_else(|| unknown(key))?;
            if seen.contains(&name) {
                return Err(Invalid::new(name, value, "is given twice"));
            }
            seen.push(name);
            self.set(name, value)?;
        }
        self.check()?;
        Ok(self)
    }

    fn set(&mut self, name: &'static str, value: &str) -> Result<(), Invalid> {
        fn read<T: std::str::FromStr<Err = Invalid>>(name: &'static str, value: &str) -> Result<Option<T>, Invalid> {
            if value == "none" {
                return Ok(None);
            }
            value.parse().map(Some).map_err(|invalid: Invalid| invalid.for_field(name))
        }
        match name {
            "cpu" => self.cpu = read(name, value)?,
            "memory" => self.memory = read(name, value)?,
            "processes" => self.processes = read(name, value)?,
            "io_read" => self.io_read = read(name, value)?,
            "io_write" => self.io_write = read(name, value)?,
            "disk" => self.disk = read(name, value)?,
            "rate_in" => self.rate_in = read(name, value)?,
            "rate_out" => self.rate_out = read(name, value)?,
            "connections" => self.connections = read(name, value)?,
            _ => return Err(unknown(name)),
        }
        Ok(())
    }

    /// Checks every limit against what init needs and what the kernel can hold.
    ///
    /// # Errors
    /// [`Invalid`] for the first rule broken.
    pub fn check(&self) -> Result<(), Invalid> {
        let cores = |milli: u32| Cores::from_milli(milli).map_or_else(String::new, |c| c.to_string());
        if let Some(cpu) = self.cpu {
            if cpu < LEAST_CPU {
                return Err(Invalid::new("cpu", cpu, format!("must be at least {LEAST_CPU} cores")));
            }
            if cpu.milli() > MOST_CPU {
                return Err(Invalid::new("cpu", cpu, format!("must be at most {} cores", cores(MOST_CPU))));
            }
        }
        let size = |field, value: Option<Bytes>, least: Bytes, what| match value {
            Some(n) if n < least => Err(Invalid::new(field, n, format!("must be at least {least}: {what}"))),
            Some(n) if n.get() > MOST_BYTES => Err(Invalid::new(field, n, "is more than the kernel can hold")),
            _ => Ok(()),
        };
        size("memory", self.memory, LEAST_MEMORY, "init and one service need it")?;
        if let Some(n) = self.processes {
            if n < LEAST_PROCESSES {
                let rule = format!("must be at least {LEAST_PROCESSES}: init and one service need them");
                return Err(Invalid::new("processes", n, rule));
            }
            if n.get() > MOST_PROCESSES {
                return Err(Invalid::new(
                    "processes",
                    n,
                    format!("must be at most {MOST_PROCESSES}, the kernel's maximum"),
                ));
            }
        }
        size("io_read", self.io_read, LEAST_IO, "one block must not take seconds")?;
        size("io_write", self.io_write, LEAST_IO, "one block must not take seconds")?;
        size("disk", self.disk, LEAST_DISK, "an empty file system needs it")?;
        for (field, rate) in [("rate_in", self.rate_in), ("rate_out", self.rate_out)] {
            match rate {
                Some(n) if n < LEAST_RATE => {
                    return Err(Invalid::new(field, n, format!("must be at least {LEAST_RATE} bits a second")));
                }
                Some(n) if n.get() > MOST_RATE => {
                    return Err(Invalid::new(field, n, "must be at most 10T bits a second"));
                }
                _ => {}
            }
        }
        match self.connections {
            Some(n) if n.get() > MOST_CONNECTIONS => {
                Err(Invalid::new("connections", n, format!("must be at most {MOST_CONNECTIONS}")))
            }
            _ => Ok(()),
        }
    }

    /// These limits with the defaults that protect the host filled in. Stored is what was asked for; held is this.
    #[must_use]
    pub fn or_defaults(self) -> Self {
        Self { processes: self.processes.or(Some(DEFAULT_PROCESSES)), ..self }
    }

    /// Name and value of every limit that is set, in the order of [`NAMES`].
    #[must_use]
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        fn text<T: fmt::Display>(value: Option<T>) -> Option<String> {
            value.map(|value| value.to_string())
        }
        let values = [
            text(self.cpu),
            text(self.memory),
            text(self.processes),
            text(self.io_read),
            text(self.io_write),
            text(self.disk),
            text(self.rate_in),
            text(self.rate_out),
            text(self.connections),
        ];
        NAMES.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

fn unknown(key: &str) -> Invalid {
    Invalid::new("limit", key, format!("is not known: must be one of {}", NAMES.join(", ")))
}

/// `memory=512M processes=100`; empty without limits.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, value)) in self.pairs().into_iter().enumerate() {
            write!(f, "{}{name}={value}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}
