//! The declarative file, `closed-networks.toml`: every tenant of a server in one text. Pure: no file, no socket, no clock.
//!
//! In: texts with their names. Out: [`Wanted`], or every fault with file, line and column ([`Faults`]). Then
//! [`order::schedule`] compares what is wanted with what is there and says who is changed when; [`write()`] makes a file of
//! what is there; [`schema()`] is the file's JSON Schema, made of the same types that read it.
//!
//! Rooms: `tree` a parsed text that remembers where everything stood; `read` from trees to [`Wanted`]; `fault` what is
//! wrong and where; `diff` one tenant against another; `order` all of them, by who waits for whom; `report` what became of
//! each; `write`, `schema`.

mod diff;
mod fault;
pub mod order;
mod read;
pub mod report;
mod schema;
#[cfg(test)]
mod tests;
mod tree;
mod write;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stackmap::TenantName;
use utoipa::ToSchema;

pub(crate) use diff::same_tunnel;
pub use diff::{changes, settle};
pub use fault::{Fault, Faults, MOST, Place};
pub use read::read;
pub use schema::schema;
pub use write::write;

use crate::model::{DeclaredTenant, ShareFor, ShareForForm};

/// The version of the file's format that this program reads and writes.
pub const VERSION: u32 = 1;

/// A text with the name under which its faults are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Such as `closed-networks.toml`.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// The file as its schema describes it. It is read part by part, so that all its faults are told at once; a test holds
/// the two together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Version of the format: 1.
    #[schema(minimum = 1, maximum = 1)]
    pub version: u32,
    /// Closed networks by name, a DNS label of at most 48 characters.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, DeclaredTenant>)]
    pub tenants: BTreeMap<TenantName, DeclaredTenant>,
    /// Directories of the host that several tenants see, by absolute path: the same as `shares` in each of them.
    #[serde(default)]
    pub shares: BTreeMap<String, SharedBy>,
}

/// Who sees a directory of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedBy {
    /// Tenants of this file; with `:ro` nobody there writes.
    #[schema(value_type = Vec<ShareForForm>, min_items = 1)]
    pub tenants: Vec<ShareFor>,
    /// Make the directory when it is not there, owned so that tenants may write.
    #[serde(default)]
    pub create: bool,
}

/// What a text or several say together: checked, also against each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The tenants.
    pub tenants: BTreeMap<TenantName, DeclaredTenant>,
}
