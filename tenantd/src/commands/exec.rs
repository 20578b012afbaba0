//! `tenantd exec`: run a command in a tenant, as its root or as a user of its own; see [`crate::enter`].

use clap::Args;
use stackmap::TenantName;

use super::{Context, Failure};
use crate::enter::{self, Hold, Order, Program, Target};
use crate::model::TenantStatus;

/// Arguments of `exec`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tenantd exec acme -- curl http://192.168.1.10/\n  \
    tenantd exec acme --user postgres -- psql -c 'select 1'\n  tenantd exec acme --tty -- top\n\n\
    The exit code is the command's; 127 when it is not found, 126 when it cannot be executed, 128 and the number of a \
    signal that ended it; 1 when the tenant could not be entered, 2 for wrong usage. With --tty, Ctrl-] typed three \
    times within a second breaks off.")]
pub struct Exec {
    /// Tenant
    #[arg(value_name = "NAME")]
    name: TenantName,
    /// User of the tenant, by name or number [default: the tenant's root]
    #[arg(short, long, value_name = "USER", value_parser = user)]
    user: Option<String>,
    /// Give the command a terminal of the tenant
    #[arg(short, long)]
    tty: bool,
    /// Program and arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Why a tenant could not be asked for its init.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The tenant has no init at the moment.
    #[error("tenant {name} has no running stack: it is {state}; see: tenantd status {name}")]
    NoInit {
        /// The tenant.
        name: TenantName,
        /// Its state.
        state: String,
    },
}

/// A name or a number, as passwd has them; whether it is one of the tenant's is found out there.
pub(super) fn user(text: &str) -> Result<String, stackmap::Invalid> {
    let plain = !text.is_empty() && text.len() <= 255 && !text.contains([':', '\n', '\0']);
    let rule = "must be a name in the tenant's /etc/passwd, or a number";
    plain.then(|| text.to_owned()).ok_or_else(|| stackmap::Invalid::new("user", text, rule))
}

/// Runs the command and returns its exit code.
///
/// # Errors
/// [`Failure`]; a command that could not be executed is an exit code instead (126, 127).
pub fn run(args: Exec, cx: Context) -> Result<u8, Failure> {
    let order = Order { user: args.user, program: Program::Command(args.command), tty: args.tty };
    Ok(enter::run(&hold(&args.name, cx)?, &order)?)
}

/// Takes hold of the tenant's init. There is no runtime, no thread and no connection beside us afterwards: `fork` copies
/// only this thread.
pub(super) fn hold(name: &TenantName, cx: Context) -> Result<Hold, Failure> {
    let status: TenantStatus = cx.client.get(&format!("/v1/tenants/{name}/status"))?.parse()?;
    drop(cx);
    let (Some(pid), Some(netns)) = (status.init_pid, status.netns) else {
        let state = status.cause.unwrap_or_else(|| format!("{:?}", status.state));
        return Err(ExecError::NoInit { name: name.clone(), state }.into());
    };
    Ok(Hold::take(&Target { name: name.clone(), pid, netns })?)
}
