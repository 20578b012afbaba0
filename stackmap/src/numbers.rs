//! The numbers that name things: VLAN, trunk, stack, gid range.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Invalid;
use crate::text::{decimal, serde_as_number, serde_as_text};

const VLAN_RULE: &str = "must be 1..=4094";

/// An 802.1Q VLAN identifier, 1..=4094 (0 and 4095 are reserved, IEEE 802.1Q table 9-2).
///
/// `Display` and text form are the bare number; rows write `vlan600` through [`Segment`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vlan(NonZeroU16);

impl Vlan {
    /// The lowest VLAN, which much equipment uses for untagged traffic.
    pub const MIN: Self = Self(NonZeroU16::MIN);
    /// The largest VLAN identifier.
    pub const MAX: u16 = 4094;

    /// Checks a number.
    ///
    /// # Errors
    /// [`Invalid`] for 0 and above 4094.
    pub fn new(id: u16) -> Result<Self, Invalid> {
        match NonZeroU16::new(id) {
            Some(n) if id <= Self::MAX => Ok(Self(n)),
            _ => Err(Invalid::new("vlan", id, VLAN_RULE)),
        }
    }

    /// The number, 1..=4094.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl FromStr for Vlan {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        decimal(s)
            .and_then(|n| u16::try_from(n).ok())
            .and_then(|n| Self::new(n).ok())
            .ok_or_else(|| Invalid::new("vlan", s, VLAN_RULE))
    }
}

impl TryFrom<u16> for Vlan {
    type Error = Invalid;

    fn try_from(id: u16) -> Result<Self, Invalid> {
        Self::new(id)
    }
}

impl From<Vlan> for u16 {
    fn from(v: Vlan) -> Self {
        v.get()
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

serde_as_number!(Vlan, "a VLAN number, 1..=4094");

/// Which trunk of an instance. Trunk 0 is the default and is not written in rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TrunkIndex(pub u16);

impl TrunkIndex {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl FromStr for TrunkIndex {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        decimal(s)
            .and_then(|n| u16::try_from(n).ok())
            .map(Self)
            .ok_or_else(|| Invalid::new("trunk", s, "must be 0..=65535"))
    }
}

impl fmt::Display for TrunkIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

serde_as_number!(TrunkIndex, "a trunk number, 0..=65535");

/// A VLAN on its trunk: the identity of a closed network (a VLAN alone is not one).
///
/// Written `vlan600`, or `trunk1/vlan600` on a trunk other than 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// The trunk.
    #[serde(default)]
    pub trunk: TrunkIndex,
    /// The VLAN on it.
    pub vlan: Vlan,
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.trunk != TrunkIndex::default() {
            write!(f, "trunk{}/", self.trunk)?;
        }
        write!(f, "vlan{}", self.vlan)
    }
}

impl FromStr for Segment {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        let bad = || Invalid::new("segment", s, "must be vlanN or trunkN/vlanN");
        let (trunk, vlan) = match s.split_once('/') {
            Some((trunk, vlan)) => (trunk.strip_prefix("trunk").ok_or_else(bad)?.parse()?, vlan),
            None => (TrunkIndex::default(), s),
        };
        let vlan = vlan.strip_prefix("vlan").ok_or_else(bad)?.parse()?;
        Ok(Self { trunk, vlan })
    }
}

/// The number of a tenant's stack, written `inet0`. Its port is `dev0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackIndex(pub u32);

impl StackIndex {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The name of this stack's port, `devN`.
    #[must_use]
    pub fn port_name(self) -> String {
        format!("dev{}", self.0)
    }
}

impl FromStr for StackIndex {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        s.strip_prefix("inet")
            .and_then(decimal)
            .and_then(|n| u32::try_from(n).ok())
            .map(Self)
            .ok_or_else(|| Invalid::new("stack", s, "must be inetN, N a 32-bit number"))
    }
}

impl fmt::Display for StackIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inet{}", self.0)
    }
}

serde_as_text!(StackIndex);

const GID_RULE: &str = "must be a multiple of 65536 in 524288..=1878982656 (the container range)";

/// The 65,536 user and group ids of one tenant, named by the first.
///
/// Ranges lie in systemd's container range 524288..=1879048191 and are aligned to 65,536 as systemd
/// documents it (`UIDS-GIDS`), so two ranges are equal or disjoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GidRange(u32);

impl GidRange {
    /// Ids in one range.
    pub const LEN: u32 = 65_536;
    /// The lowest range.
    pub const FIRST: Self = Self(524_288);
    /// The highest range; it ends at 1,879,048,191.
    pub const LAST: Self = Self(1_878_982_656);
    /// How many ranges there are.
    pub const COUNT: u32 = (Self::LAST.0 - Self::FIRST.0) / Self::LEN + 1;

    /// The range that starts at `start`.
    ///
    /// # Errors
    /// [`Invalid`] when `start` is not a multiple of 65,536 or lies outside the container range.
    pub fn new(start: u32) -> Result<Self, Invalid> {
        let inside = (Self::FIRST.0..=Self::LAST.0).contains(&start);
        if inside && start.is_multiple_of(Self::LEN) {
            Ok(Self(start))
        } else {
            Err(Invalid::new("gid", start, GID_RULE))
        }
    }

    /// The range that holds one id; `None` outside the container range.
    #[must_use]
    pub fn containing(id: u32) -> Option<Self> {
        Self::new(id - id % Self::LEN).ok()
    }

    /// The range with this many ranges before it; `None` when there are not so many.
    pub(crate) fn nth(n: u32) -> Option<Self> {
        let start = n.checked_mul(Self::LEN)?.checked_add(Self::FIRST.0)?;
        Self::new(start).ok()
    }

    /// How many ranges come before this one.
    pub(crate) const fn nth_of_all(self) -> u32 {
        (self.0 - Self::FIRST.0) / Self::LEN
    }

    /// The first id.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The last id.
    #[must_use]
    pub const fn last(self) -> u32 {
        self.0 + (Self::LEN - 1)
    }

    /// Whether `id` belongs to this range.
    #[must_use]
    pub const fn contains(self, id: u32) -> bool {
        id >= self.0 && id <= self.last()
    }
}

impl FromStr for GidRange {
    type Err = Invalid;

    /// Takes `524288` and the row form `gid 524288`.
    fn from_str(s: &str) -> Result<Self, Invalid> {
        decimal(s.strip_prefix("gid ").unwrap_or(s))
            .and_then(|n| u32::try_from(n).ok())
            .and_then(|n| Self::new(n).ok())
            .ok_or_else(|| Invalid::new("gid", s, GID_RULE))
    }
}

impl fmt::Display for GidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gid {}", self.0)
    }
}

serde_as_number!(GidRange, "the first id of a gid range");
