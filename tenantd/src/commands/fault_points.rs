//! `tenantd fault-points`: the places at which a test can end the daemon. Not shown in the help: it is for tests.

use clap::Args;

use super::{Context, Failure, body, write};
use crate::fault;

/// Arguments of `fault-points`.
#[derive(Debug, Args)]
pub struct FaultPoints {}

/// Prints the list. Needs no daemon.
///
/// # Errors
/// Standard output is gone.
pub fn run(_args: &FaultPoints, cx: &Context) -> Result<(), Failure> {
    let points = fault::points();
    if cx.json {
        return write(&body(&points).unwrap_or_default());
    }
    let lines: String = points.iter().map(|point| format!("{}\t{}\n", point.name, point.means)).collect();
    write(lines.as_bytes())
}
