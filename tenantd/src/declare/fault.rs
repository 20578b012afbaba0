//! What is wrong with a declarative file, in the form compilers have.

use std::fmt;

use serde::{Deserialize, Serialize};
use stackmap::Invalid;
use utoipa::ToSchema;

/// Faults that are told of one reading; the rest is counted.
pub const MOST: usize = 100;

/// A place in a text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Place {
    /// Name of the text.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One thing that is wrong: `FILE:LINE:COLUMN: FIELD: "VALUE" refused: RULE`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// Where.
    #[serde(flatten)]
    #[schema(inline)]
    pub at: Place,
    /// The field as a path of the file, such as `tenants.acme.vlan`.
    pub field: String,
    /// What was given.
    pub value: String,
    /// The rule it breaks.
    pub rule: String,
    /// The other place of a contradiction, and what is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<Other>,
}

/// The other place of a contradiction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Other {
    /// Where.
    #[serde(flatten)]
    #[schema(inline)]
    pub at: Place,
    /// What is there.
    pub field: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {:?} refused: {}", self.at, self.field, self.value, self.rule)?;
        self.other.iter().try_for_each(|other| write!(f, "\n{}: note: {} is here", other.at, other.field))
    }
}

/// Everything that is wrong, by place.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().take(MOST).enumerate() {
            write!(f, "{}{fault}", if i == 0 { "" } else { "\n" })?;
        }
        match self.0.len().saturating_sub(MOST) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl Faults {
    pub(super) fn push(&mut self, at: Place, refused: &Invalid) {
        let (field, value, rule) = (refused.field.to_string(), refused.value.clone(), refused.rule.to_string());
        self.0.push(Fault { at, field, value, rule, other: None });
    }
}
