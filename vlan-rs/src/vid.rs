//! VLAN identifiers and tags, checked once at the edge.

use std::fmt;
use std::str::FromStr;

/// An 802.1Q VLAN identifier, 1..=4094 (0 and 4095 are reserved, IEEE 802.1Q-2018 table 9-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vid(u16);

/// Not a VLAN identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("vid {0:?}: must be a number in 1..=4094")]
pub struct VidError(pub String);

impl Vid {
    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Vid {
    type Error = VidError;

    fn try_from(number: u16) -> Result<Self, VidError> {
        if (1..=4094).contains(&number) { Ok(Self(number)) } else { Err(VidError(number.to_string())) }
    }
}

impl FromStr for Vid {
    type Err = VidError;

    fn from_str(text: &str) -> Result<Self, VidError> {
        text.parse::<u16>().ok().and_then(|number| number.try_into().ok()).ok_or_else(|| VidError(text.to_owned()))
    }
}

impl fmt::Display for Vid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What identifies a port: a VLAN alone says nothing, another trunk may carry the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// Interface index of the trunk in the room's namespace.
    pub trunk: u32,
    /// The VLAN on it.
    pub vid: Vid,
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vlan {} on trunk {}", self.vid, self.trunk)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_1_to_4094() {
        for bad in [0, 4095, 4096, u16::MAX] {
            assert_eq!(Vid::try_from(bad), Err(VidError(bad.to_string())));
        }
        for bad in ["", "x", "-1", "0", "4095", "70000", "1 "] {
            assert_eq!(bad.parse::<Vid>(), Err(VidError(bad.to_owned())));
        }
        assert_eq!(Vid::try_from(1).unwrap().get(), 1);
        assert_eq!("4094".parse::<Vid>().unwrap().to_string(), "4094");
    }
}
