//! Every story in `examples/` runs on the server of a bare lab and ends well.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use system_tests::plan::Options;

use crate::floor::{TENANTS, explain, trial, world};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

pub(crate) fn trials() -> Vec<Trial> {
    let stories = std::fs::read_dir(folder()).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        stories.filter(|e| e.path().is_dir()).filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    assert!(!names.is_empty(), "no stories in {}", folder().display());
    names.into_iter().map(|name| trial(&format!("examples::{name}"), TENANTS, move || story(&name))).collect()
}

fn story(name: &str) -> Result<()> {
    let world = world("example", Options::default())?;
    let run = folder().join(name).join("run.sh").canonicalize().context("every story has a run.sh")?;
    let check = || -> Result<()> {
        let output = world.exec("server", &["sh", &run.to_string_lossy()])?;
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{name} ended with {}: {said}\n{complained}", output.status);
        ensure!(complained.is_empty(), "{name} complained: {complained}");
        Ok(())
    };
    explain(&world, check())
}
