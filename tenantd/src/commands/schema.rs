//! `tenantd schema`: the JSON Schema of the declarative file.

use clap::Args;

use super::{Failure, write};

/// Arguments of `schema`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd schema >closed-networks.schema.json\n\nAn editor that reads \
    \"#:schema ./closed-networks.schema.json\" in the first line of the file completes and checks it.")]
pub struct Schema {}

/// Prints the schema; asks no daemon.
///
/// # Errors
/// [`Failure::Output`].
pub fn run(_: &Schema) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(&crate::declare::schema()).unwrap_or_default();
    write(format!("{text}\n").as_bytes())
}
