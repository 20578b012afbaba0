//! The data path on real packets, in network namespaces of its own. Without root every test is shown as ignored, with
//! the reason.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod flows;
mod net;
mod path_mtu;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let tests: [(&str, fn()); 8] = [
        ("same_addresses_different_worlds", flows::same_addresses_different_worlds),
        ("every_kind_with_offloads", flows::every_kind_with_offloads),
        ("every_kind_without_offloads", flows::every_kind_without_offloads),
        ("kernel_vxlan_both_families", flows::kernel_vxlan_both_families),
        ("a_router_says_too_long", flows::a_router_says_too_long),
        ("the_sender_is_told", path_mtu::the_sender_is_told),
        ("tcp_starts_small_enough", path_mtu::tcp_starts_small_enough),
        ("what_may_be_cut_is_cut", path_mtu::what_may_be_cut_is_cut),
    ];
    let missing = net::missing();
    if missing.is_none() && !args.list {
        net::isolate();
    }
    let trial = |(name, test): (&str, fn())| match &missing {
        None => Trial::test(name, move || {
            test();
            Ok(())
        }),
        Some(why) => Trial::test(format!("{name} ({why})"), || Ok(())).with_ignored_flag(true),
    };
    libtest_mimic::run(&args, tests.map(trial).into_iter().collect()).exit_code()
}
