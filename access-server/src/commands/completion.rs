//! `access-server completion`: the script by which a shell completes our words.

use std::io::Write;

use anyhow::Context;
use clap::Command;

use crate::cli::CompletionArgs;

pub(super) fn completion(args: &CompletionArgs, program: &mut Command) -> anyhow::Result<()> {
    let name = program.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, program, name, &mut script);
    std::io::stdout().write_all(&script).context("cannot write to standard output")
}
