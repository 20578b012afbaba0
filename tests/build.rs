//! Compiles the bench's own BPF programs with clang and makes their Rust skeleton.

#![allow(clippy::expect_used)]

use std::env;
use std::path::{Path, PathBuf};

use libbpf_cargo::SkeletonBuilder;

const SOURCE: &str = "src/bin/bench/bare.bpf.c";

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo::rerun-if-changed={SOURCE}");
    let mut args = ["-mcpu=v3", "-Wall", "-Wextra", "-Werror"].map(String::from).to_vec();
    // Debian keeps <asm/types.h> in a directory of the architecture, which clang does not search for target bpf.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target architecture");
    let multiarch = format!("/usr/include/{arch}-linux-gnu");
    if Path::new(&multiarch).is_dir() {
        args.extend(["-idirafter".into(), multiarch]);
    }
    SkeletonBuilder::new()
        .source(SOURCE)
        .clang_args(args)
        .build_and_generate(out.join("bare.skel.rs"))
        .expect("compile the bench's BPF programs (needs clang, libelf-dev, zlib1g-dev, pkg-config)");
}
