//! `tenantd export`: tenants that are there, as a declarative file.

use std::path::PathBuf;

use clap::Args;
use stackmap::{Invalid, TenantName};

use super::files::replace;
use super::{Context, Failure, tasks, write};

/// Arguments of `export`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd export -o closed-networks.toml\n  tenantd export acme beta\n\n\
    Every number that was chosen is said (VLAN, stack, group ids), so apply or import of the file makes the same tenants. \
    Passwords of services are said too: -o makes a file that only its owner reads. Files of the tenants are not part of \
    it; tenantd cp copies them.")]
pub struct Export {
    /// Tenants [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<TenantName>,
    /// Write there instead of to standard output; what is there is replaced at once
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Prints the file, or with `--json` what it is made of.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Export, cx: &Context) -> Result<(), Failure> {
    let mut export = tasks::export(cx)?;
    if let Some(unknown) = args.names.iter().find(|name| !export.tenants.iter().any(|t| t.name == **name)) {
        return Err(Invalid::new("name", unknown, "no tenant of this name is there").into());
    }
    export.tenants.retain(|t| args.names.is_empty() || args.names.contains(&t.name));
    let text = match cx.json {
        true => serde_json::to_string(&export).unwrap_or_default() + "\n",
        false => crate::declare::write(&export),
    };
    match &args.output {
        None => write(text.as_bytes()),
        Some(path) => replace(path, text.as_bytes()).map_err(|source| {
            let path = path.display().to_string();
            Failure::File { verb: "write", path, source }
        }),
    }
}
