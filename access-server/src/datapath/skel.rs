//! What libbpf-cargo makes of `src/bpf/gateway.bpf.c`: its programs, its maps and the types in them.

#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    non_camel_case_types,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::expect_used
)]

include!(concat!(env!("OUT_DIR"), "/gateway.skel.rs"));
