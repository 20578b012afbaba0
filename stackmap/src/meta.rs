//! What every row carries beside its keys: who wrote it, which writing, why, and until when.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Invalid;
use crate::text::{decimal, serde_as_number, serde_as_text};

/// Who wrote a row, for example `tenantd/main`. An owner replaces and removes only its own rows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(String);

impl Owner {
    /// The owner as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Owner {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        let ok = |b: u8| b.is_ascii_alphanumeric() || b"-_./@:".contains(&b);
        if s.is_empty() || s.len() > 64 || !s.bytes().all(ok) {
            let rule = "must be 1..=64 characters of a-z, A-Z, 0-9 and -_./@:";
            return Err(Invalid::new("owner", s, rule));
        }
        Ok(Self(s.to_owned()))
    }
}

impl AsRef<str> for Owner {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

serde_as_text!(Owner);

/// Counts the writings of a row by its owner, so that an older writing that arrives late is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

impl Generation {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl FromStr for Generation {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        decimal(s).map(Self).ok_or_else(|| Invalid::new("generation", s, "must be a 64-bit number"))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

serde_as_number!(Generation, "a generation number");

/// Why a row exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Origin {
    /// Set by an operator; stays until removed.
    #[default]
    Operator,
    /// Registered by a member or a service; usually has a lifetime.
    Registered,
}

impl FromStr for Origin {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        match s {
            "operator" => Ok(Self::Operator),
            "registered" => Ok(Self::Registered),
            _ => Err(Invalid::new("origin", s, "must be operator or registered")),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Operator => "operator",
            Self::Registered => "registered",
        })
    }
}

serde_as_text!(Origin);

/// How long a row lives. Times are seconds on one clock of the caller's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifetime {
    /// Seconds granted.
    pub granted_s: u64,
    /// When they were granted, in seconds.
    pub since_s: u64,
}

impl Lifetime {
    /// The first second in which the row is expired.
    #[must_use]
    pub const fn ends_at(self) -> u64 {
        self.since_s.saturating_add(self.granted_s)
    }

    /// Whether the row is expired at `now`.
    #[must_use]
    pub const fn is_over(self, now: u64) -> bool {
        now >= self.ends_at()
    }
}

/// What every row carries beside its keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// Who wrote the row.
    pub owner: Owner,
    /// Which writing of its owner it is.
    pub generation: Generation,
    /// Why it exists.
    #[serde(default)]
    pub origin: Origin,
    /// Until when it exists; `None` is until removed.
    #[serde(default)]
    pub lifetime: Option<Lifetime>,
}

impl Meta {
    /// An operator's row that stays until removed.
    #[must_use]
    pub const fn operator(owner: Owner, generation: Generation) -> Self {
        Self { owner, generation, origin: Origin::Operator, lifetime: None }
    }

    /// Whether the row is expired at `now` (seconds).
    #[must_use]
    pub fn is_expired(&self, now: u64) -> bool {
        self.lifetime.is_some_and(|l| l.is_over(now))
    }
}
