//! The one way this crate refuses a value.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A refused value: which field, what was given, which rule it breaks.
///
/// The three parts are public so that an edge can put them into its own problem document.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{field}: {value:?} refused: {rule}")]
pub struct Invalid {
    /// The field as an operator knows it, for example `vlan`.
    pub field: Cow<'static, str>,
    /// What was given, as text.
    pub value: String,
    /// The rule it breaks, to be read after the words "refused:".
    pub rule: Cow<'static, str>,
}

impl Invalid {
    /// Names a refused value.
    pub fn new(field: impl Into<Cow<'static, str>>, value: impl ToString, rule: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), value: value.to_string(), rule: rule.into() }
    }

    /// The same refusal under the name the value has at the caller's edge, for example `gateway`.
    #[must_use]
    pub fn for_field(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = field.into();
        self
    }
}
