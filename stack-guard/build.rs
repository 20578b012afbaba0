//! Compiles the BPF programs with clang, makes their Rust skeletons, and makes `Refusal` and `Hook` out of the headers
//! that list them.

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
    for name in ["guard", "devices"] {
        SkeletonBuilder::new()
            .source(Path::new(BPF_DIR).join(format!("{name}.bpf.c")))
            .clang_args(&args)
            .build_and_generate(out.join(format!("{name}.skel.rs")))
            .expect("compile the BPF programs (needs clang, libelf-dev, zlib1g-dev, pkg-config)");
    }

    for (name, prefix, slots, doc) in [
        ("Refusal", "REFUSED_", "REFUSAL_SLOTS", "Why something was refused. Made of `src/bpf/refusals.h`"),
        ("Hook", "HOOK_", "HOOK_SLOTS", "Where the kernel asked. Made of `src/bpf/hooks.h`"),
    ] {
        let file = format!("{}s.h", name.to_lowercase());
        let header = fs::read_to_string(Path::new(BPF_DIR).join(&file)).expect("read the list");
        let code = list_enum(name, doc, &members(&header, prefix, slots));
        fs::write(out.join(format!("{}.rs", name.to_lowercase())), code).expect("write the enum");
    }
}

struct Member {
    name: String,
    number: u32,
    doc: String,
}

/// `PREFIX_X_Y = N, /* doc */` in the order of the file; numbers rise and stay below the number of slots.
fn members(header: &str, prefix: &str, slots: &str) -> Vec<Member> {
    let all: Vec<Member> = header
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.trim().strip_prefix(prefix)?.split_once(" = ")?;
            let (number, rest) = rest.split_once(", /* ")?;
            let doc = rest.strip_suffix(" */").expect("a member's line ends with its comment").to_owned();
            Some(Member { name: name.to_lowercase(), number: number.parse().expect("a member has a number"), doc })
        })
        .collect();
    let slots: u32 = header
        .lines()
        .find_map(|line| line.strip_prefix("#define ")?.strip_prefix(slots)?.trim().parse().ok())
        .expect("the number of slots is defined");
    assert!(all.windows(2).all(|pair| pair[0].number < pair[1].number), "numbers rise and are not re-used");
    assert!(all.iter().all(|m| (1..slots).contains(&m.number)), "numbers are in 1..slots");
    all
}

fn camel(name: &str) -> String {
    name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

fn list_enum(name: &str, doc: &str, all: &[Member]) -> String {
    let mut code = format!(
        "/// {doc}; numbers are never re-used.\n\
         #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]\n#[repr(u32)]\npub enum {name} {{\n"
    );
    for Member { name, number, doc } in all {
        writeln!(code, "    /// {doc}\n    {} = {number},", camel(name)).unwrap();
    }
    let list: Vec<String> = all.iter().map(|m| format!("Self::{}", camel(&m.name))).collect();
    writeln!(
        code,
        "}}\n\nimpl {name} {{\n    /// Every one, by rising number.\n    pub const ALL: &'static [Self] = &[{}];\n",
        list.join(", ")
    )
    .unwrap();
    let arms = |value: fn(&Member) -> &str| {
        all.iter().fold(String::new(), |mut arms, m| {
            writeln!(arms, "            Self::{} => {:?},", camel(&m.name), value(m)).unwrap();
            arms
        })
    };
    writeln!(
        code,
        "    /// Stable name, as counters and documents use it.\n    pub fn name(self) -> &'static str {{\n        \
         match self {{\n{}        }}\n    }}\n\n    /// In one sentence.\n    pub fn doc(self) -> &'static str {{\n        \
         match self {{\n{}        }}\n    }}\n\n    /// The one with this number.\n    \
         pub fn from_number(number: u32) -> Option<Self> {{\n        \
         Self::ALL.iter().copied().find(|one| *one as u32 == number)\n    }}\n\n    /// The one with this name.\n    \
         pub fn from_name(name: &str) -> Option<Self> {{\n        \
         Self::ALL.iter().copied().find(|one| one.name() == name)\n    }}\n}}\n\n\
         impl std::fmt::Display for {type_name} {{\n    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {{\n        \
         f.write_str(self.name())\n    }}\n}}",
        arms(|m| &m.name),
        arms(|m| &m.doc),
        type_name = name,
    )
    .unwrap();
    code
}
