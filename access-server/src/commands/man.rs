//! `access-server man`: a manual page for the program and one for each verb, from what the command line says of itself.

use std::path::Path;

use anyhow::Context;
use clap::Command;
use clap_mangen::Man;

use crate::cli::ManArgs;

pub(super) fn man(args: &ManArgs, mut program: Command) -> anyhow::Result<()> {
    program.build();
    pages(&program, &args.dir)
}

fn pages(command: &Command, dir: &Path) -> anyhow::Result<()> {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        pages(verb, dir)?;
    }
    // Section 8: what administrators run.
    let page = Man::new(command.clone()).section("8");
    let mut text = Vec::new();
    page.render(&mut text).context("cannot make a manual page")?;
    let path = dir.join(page.get_filename());
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
