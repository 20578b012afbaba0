//! `tenantd shell`: a login in a tenant, with a terminal of its own; see [`crate::enter`].

use clap::Args;
use stackmap::TenantName;

use super::exec::{hold, user};
use super::{Context, Failure};
use crate::enter::{self, Order, Program};

/// Arguments of `shell`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tenantd shell acme\n  tenantd shell acme --user ann\n\n\
    The exit code is the shell's; 127 when it is not there, 126 when it cannot be executed, 128 and the number of a \
    signal that ended it; 1 when the tenant could not be entered, 2 for wrong usage. Ctrl-] typed three times within a second breaks off.")]
pub struct Shell {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// User of the tenant, by name or number [default: the tenant's root]
    #[arg(short, long, value_name = "USER", value_parser = user)]
    user: Option<String>,
}

/// Runs the user's login shell and returns its exit code.
///
/// # Errors
/// [`Failure`].
pub fn run(args: Shell, cx: Context) -> Result<u8, Failure> {
    let order = Order { user: args.user, program: Program::Login, tty: true };
    Ok(enter::run(&hold(&args.name, cx)?, &order)?)
}
