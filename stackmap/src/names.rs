//! Names: of a tenant, of a network card given whole.

use std::fmt;
use std::str::FromStr;

use crate::Invalid;
use crate::text::serde_as_text;

/// The name of a tenant: a DNS label in lower case (RFC 1123 section 2.1) of at most 48 characters.
///
/// 48 and not 63 because names of the kernel and of files are made from it with something added.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantName(String);

impl TenantName {
    /// The longest name, in characters.
    pub const MAX_LEN: usize = 48;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether `s` is a DNS label in lower case: letters, digits, hyphen, no hyphen at the ends.
pub(crate) fn is_label(s: &str) -> bool {
    !s.is_empty()
        && !s.starts_with('-')
        && !s.ends_with('-')
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

impl FromStr for TenantName {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        if s.chars().count() > Self::MAX_LEN {
            return Err(Invalid::new("name", s, "must be at most 48 characters"));
        }
        if !is_label(s) {
            let rule = "must be a DNS label: a-z, 0-9 and hyphen, no hyphen at the ends, 1..=48 characters";
            return Err(Invalid::new("name", s, rule));
        }
        Ok(Self(s.to_owned()))
    }
}

impl AsRef<str> for TenantName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

serde_as_text!(TenantName);

/// The name of a network card (`--device`), by the kernel's own rule (`dev_valid_name`):
/// 1..=15 bytes, no slash, colon or white space, not `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NicName(String);

impl NicName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NicName {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        let bad_char = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if s.is_empty() || s.len() > 15 || s == "." || s == ".." || s.contains(bad_char) {
            let rule = "must be a device name: 1..=15 bytes without slash, colon or white space";
            return Err(Invalid::new("device", s, rule));
        }
        Ok(Self(s.to_owned()))
    }
}

impl AsRef<str> for NicName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

serde_as_text!(NicName);
