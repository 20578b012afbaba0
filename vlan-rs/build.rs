//! Compiles the BPF programs with clang, makes their Rust skeleton, and makes `DropReason` out of `drop_reasons.h`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use libbpf_cargo::SkeletonBuilder;

const BPF_DIR: &str = "src/bpf";

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo::rerun-if-changed={BPF_DIR}");

    let mut args = ["-mcpu=v3", "-Wall", "-Wextra", "-Werror"].map(String::from).to_vec();
    // Debian keeps <asm/types.h> in a directory of the architecture, which clang does not search for target bpf.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target architecture");
    let multiarch = format!("/usr/include/{arch}-linux-gnu");
    if Path::new(&multiarch).is_dir() {
        args.extend(["-idirafter".into(), multiarch]);
    }
    SkeletonBuilder::new()
        .source(Path::new(BPF_DIR).join("vlan.bpf.c"))
        .clang_args(args)
        .build_and_generate(out.join("vlan.skel.rs"))
        .expect("compile the BPF programs (needs clang, libelf-dev, zlib1g-dev, pkg-config)");

    let header = fs::read_to_string(Path::new(BPF_DIR).join("drop_reasons.h")).expect("read drop_reasons.h");
    fs::write(out.join("drop_reason.rs"), drop_reason_enum(&header)).expect("write drop_reason.rs");
}

/// `DROP_X_Y = N, /* doc */` -> (`x_y`, N, doc), in the order of the file.
fn reasons(header: &str) -> Vec<(String, u32, String)> {
    header
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.trim().strip_prefix("DROP_")?.split_once(" = ")?;
            let (number, rest) = rest.split_once(", /* ")?;
            let doc = rest.strip_suffix(" */").expect("a reason's line ends with its comment");
            Some((name.to_lowercase(), number.parse().expect("a reason has a number"), doc.to_owned()))
        })
        .collect()
}

fn camel(name: &str) -> String {
    name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

fn drop_reason_enum(header: &str) -> String {
    let all = reasons(header);
    let slots: u32 = header
        .lines()
        .find_map(|line| line.strip_prefix("#define DROP_SLOTS "))
        .and_then(|n| n.parse().ok())
        .expect("DROP_SLOTS is defined");
    let mut numbers: Vec<u32> = all.iter().map(|r| r.1).collect();
    numbers.dedup();
    assert!(numbers.is_sorted() && numbers.len() == all.len(), "numbers rise and are not re-used");
    assert!(numbers.iter().all(|&n| (1..slots).contains(&n)), "numbers are in 1..DROP_SLOTS");

    let mut code = String::from(
        "/// Why a frame was dropped. Made of `src/bpf/drop_reasons.h`; numbers are never re-used.\n\
         #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]\n#[repr(u32)]\npub enum DropReason {\n",
    );
    for (name, number, doc) in &all {
        writeln!(code, "    /// {doc}\n    {} = {number},", camel(name)).unwrap();
    }
    writeln!(code, "}}\n\nimpl DropReason {{").unwrap();
    let list: Vec<String> = all.iter().map(|r| format!("Self::{}", camel(&r.0))).collect();
    writeln!(
        code,
        "    /// Every reason, by rising number.\n    pub const ALL: &'static [Self] = &[{}];\n",
        list.join(", ")
    )
    .unwrap();
    writeln!(code, "    /// Stable name, as counters and documents use it.\n    pub fn name(self) -> &'static str {{\n        match self {{").unwrap();
    for (name, _, _) in &all {
        writeln!(code, "            Self::{} => {name:?},", camel(name)).unwrap();
    }
    writeln!(code, "        }}\n    }}\n\n    /// What happened, in one sentence.\n    pub fn doc(self) -> &'static str {{\n        match self {{").unwrap();
    for (name, _, doc) in &all {
        writeln!(code, "            Self::{} => {doc:?},", camel(name)).unwrap();
    }
    writeln!(code, "        }}\n    }}\n}}").unwrap();
    code
}
