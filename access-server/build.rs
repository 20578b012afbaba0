//! Compiles the data path's BPF programs and makes the Rust list of drop reasons out of the C one.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

fn main() -> Result<(), Box<dyn Error>> {
    let source = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("src/bpf");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed={}", source.display());

    SkeletonBuilder::new()
        .source(source.join("gateway.bpf.c"))
        .clang_args(["-I/usr/include/x86_64-linux-gnu", "-Wall", "-Wextra", "-Wno-unused-function"])
        .build_and_generate(out.join("gateway.skel.rs"))?;

    let list = fs::read_to_string(source.join("drop_reasons.h"))?;
    fs::write(out.join("drop_reasons.rs"), drop_reasons(&list)?)?;
    Ok(())
}

/// One line of the C list: `DROP_NAME = N, /* doc */`.
fn parse(line: &str) -> Option<(&str, u16, &str)> {
    let (name, rest) = line.trim().strip_prefix("DROP_")?.split_once(" = ")?;
    let (number, rest) = rest.split_once(", /* ")?;
    Some((name, number.parse().ok()?, rest.strip_suffix(" */")?))
}

fn drop_reasons(list: &str) -> Result<String, Box<dyn Error>> {
    let reasons: Vec<_> = list.lines().filter_map(parse).collect();
    let lines = list.lines().filter(|l| l.starts_with("\tDROP_")).count();
    if reasons.is_empty() || reasons.len() != lines {
        return Err(format!("drop_reasons.h: {lines} reasons, but {} readable", reasons.len()).into());
    }
    let mut rust = String::new();
    writeln!(rust, "/// Why a packet went no further. Made from `src/bpf/drop_reasons.h`.")?;
    writeln!(rust, "#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]\n#[repr(u16)]")?;
    writeln!(rust, "pub enum DropReason {{")?;
    for (name, number, doc) in &reasons {
        writeln!(rust, "    /// {doc}\n    {} = {number},", camel(name))?;
    }
    writeln!(rust, "}}\n\nimpl DropReason {{")?;
    writeln!(rust, "    /// Every reason, by number.\n    pub const ALL: [Self; {}] = [", reasons.len())?;
    for (name, ..) in &reasons {
        writeln!(rust, "        Self::{},", camel(name))?;
    }
    writeln!(rust, "    ];\n\n    /// The name users see: lower case with underscores.\n    #[must_use]")?;
    writeln!(rust, "    pub const fn name(self) -> &'static str {{\n        match self {{")?;
    for (name, ..) in &reasons {
        writeln!(rust, "            Self::{} => {:?},", camel(name), name.to_lowercase())?;
    }
    writeln!(rust, "        }}\n    }}\n\n    /// What it means, in a sentence.\n    #[must_use]")?;
    writeln!(rust, "    pub const fn doc(self) -> &'static str {{\n        match self {{")?;
    for (name, _, doc) in &reasons {
        writeln!(rust, "            Self::{} => {doc:?},", camel(name))?;
    }
    writeln!(rust, "        }}\n    }}\n}}")?;
    Ok(rust)
}

fn camel(name: &str) -> String {
    let word = |w: &str| {
        let lower = w.to_lowercase();
        let mut chars = lower.chars();
        chars.next().map(|c| c.to_uppercase().chain(chars).collect::<String>()).unwrap_or_default()
    };
    name.split('_').map(word).collect()
}
