//! `tenantd man`: a manual page for the program and one for each verb, from what the command line says of itself.

use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_mangen::Man as Page;

use super::Failure;

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct Man {
    /// The directory to write into
    dir: PathBuf,
}

/// Writes the pages of `program`.
///
/// # Errors
/// [`Failure::File`] naming the file.
pub fn run(args: &Man, mut program: Command) -> Result<(), Failure> {
    program.build();
    pages(&program, &args.dir)
}

fn pages(command: &Command, dir: &Path) -> Result<(), Failure> {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        pages(verb, dir)?;
    }
    // Section 8: what administrators run.
    let page = Page::new(command.clone()).section("8");
    let path = dir.join(page.get_filename());
    let mut text = Vec::new();
    let written = page.render(&mut text).and_then(|()| std::fs::write(&path, text));
    written.map_err(|source| Failure::File { verb: "write", path: path.display().to_string(), source })
}
