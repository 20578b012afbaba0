//! Documents that repeat what the sources say are held to it. `UPDATE_DOCS=1` writes what is expected.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use crate::floor::trial;

const HEAD: &str = "# Drop reasons

Every packet that goes no further is counted under a name, per tenant: `tenantd status NAME`, `access-server counters`.
Names that begin with `filter_` come from the filter of the tenant's own stack (`filter_N` from its rule N, counted from 1,
`filter_default` from its default; from 0 with every change of it), those with `port_` come from the tenant's port and the trunk's end in the patch room (`vlan-rs`), those with
`access_` from the tunnel side (`access-server`). A number is never used again.
";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("documents::drop_reasons", &[], drop_reasons),
        trial("documents::promises_name_real_tests", &[], promises),
    ]
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn drop_reasons() -> Result<()> {
    let mut expected = HEAD.to_owned();
    for (title, prefix, file) in [
        ("At the port and the trunk", "port_", "vlan-rs/src/bpf/drop_reasons.h"),
        ("At the access server", "access_", "access-server/src/bpf/drop_reasons.h"),
    ] {
        write!(expected, "\n## {title}\n\n| name | number | when |\n|---|---|---|\n")?;
        let text = std::fs::read_to_string(root().join(file)).context(file)?;
        let mut reasons = 0;
        for line in text.lines().filter_map(|line| line.trim().strip_prefix("DROP_")) {
            let (name, rest) = line.split_once(" = ").with_context(|| format!("{file}: {line}"))?;
            let (number, words) = rest.split_once(", /* ").with_context(|| format!("{file}: {line}"))?;
            let words = words.strip_suffix(" */").with_context(|| format!("{file}: {line}"))?;
            writeln!(expected, "| `{prefix}{}` | {number} | {words} |", name.to_lowercase())?;
            reasons += 1;
        }
        ensure!(reasons > 20, "{file}: only {reasons} reasons were understood");
    }
    let path = root().join("docs/drops.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected)?;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    ensure!(found == expected, "docs/drops.md is not what the sources say; UPDATE_DOCS=1 writes it");
    Ok(())
}

/// Every test that docs/spec.md names exists: `file::name` in a source file of that name, or a path of the tree.
fn promises() -> Result<()> {
    let spec = std::fs::read_to_string(root().join("docs/spec.md"))?;
    let sources = sources(&root())?;
    let mut named = 0;
    for word in spec.split('`').skip(1).step_by(2).filter(|word| word.contains("::")) {
        let name = word.rsplit("::").next().unwrap_or(word);
        let known = sources.iter().any(|text| {
            text.contains(&format!("fn {name}("))
                || text.contains(&format!("\"{word}\""))
                || text.contains(&format!("\"{name}\""))
        }) || root().join("examples").join(name).is_dir();
        ensure!(known, "docs/spec.md names the test `{word}`, which is nowhere");
        named += 1;
    }
    ensure!(named > 30, "docs/spec.md names only {named} tests");
    Ok(())
}

fn sources(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(sources(&entry.path())?);
        } else if name.ends_with(".rs") {
            found.push(std::fs::read_to_string(entry.path())?);
        }
    }
    Ok(found)
}
