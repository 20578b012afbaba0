//! `tenantd completion`: the script by which a shell completes our words.

use std::io::Write;

use clap::{Args, Command};
use clap_complete::Shell;

use super::Failure;

/// Arguments of `completion`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantd completion bash >/etc/bash_completion.d/tenantd")]
pub struct Completion {
    /// For which shell
    shell: Shell,
}

/// Prints the script for `program`.
///
/// # Errors
/// [`Failure::Output`].
pub fn run(args: &Completion, program: &mut Command) -> Result<(), Failure> {
    let name = program.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, program, name, &mut script);
    std::io::stdout().write_all(&script).map_err(Failure::Output)
}
