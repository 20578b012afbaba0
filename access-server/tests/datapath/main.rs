//! The data path on real packets, in network namespaces of its own. Without root every test is shown as ignored, with
//! the reason.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod bad_packets;
mod bench;
mod craft;
mod flows;
mod lifecycle;
mod net;
mod packets;
mod path_mtu;
mod speed;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let tests: [(&str, fn()); 33] = [
        ("same_addresses_different_worlds", flows::same_addresses_different_worlds),
        ("every_kind_with_offloads", flows::every_kind_with_offloads),
        ("every_kind_without_offloads", flows::every_kind_without_offloads),
        ("kernel_vxlan_both_families", flows::kernel_vxlan_both_families),
        ("a_router_says_too_long", flows::a_router_says_too_long),
        ("the_sender_is_told", path_mtu::the_sender_is_told),
        ("tcp_starts_small_enough", path_mtu::tcp_starts_small_enough),
        ("what_may_be_cut_is_cut", path_mtu::what_may_be_cut_is_cut),
        ("no_packet_is_lost_while_others_change", lifecycle::no_packet_is_lost_while_others_change),
        ("no_packet_is_lost_by_a_restart", lifecycle::no_packet_is_lost_by_a_restart),
        (
            "another_layout_is_carried_over_and_loses_nothing",
            lifecycle::another_layout_is_carried_over_and_loses_nothing,
        ),
        ("a_half_done_change_is_cleared", lifecycle::a_half_done_change_is_cleared),
        ("what_cannot_be_is_refused", lifecycle::what_cannot_be_is_refused),
        ("another_layout_is_refused", lifecycle::another_layout_is_refused),
        ("instances_share_a_device", lifecycle::instances_share_a_device),
        ("a_removed_wan_is_let_go", lifecycle::a_removed_wan_is_let_go),
        ("a_full_trunk", lifecycle::a_full_trunk),
        ("a_plain_trunk", lifecycle::a_plain_trunk),
        ("several_sites", lifecycle::several_sites),
        ("a_tenant_routes_between_its_sites", lifecycle::a_tenant_routes_between_its_sites),
        ("from_the_wan_to_the_trunk", packets::from_the_wan_to_the_trunk),
        ("congestion_marks", packets::congestion_marks),
        ("from_the_trunk_to_the_wan", packets::from_the_trunk_to_the_wan),
        ("not_ours", packets::not_ours),
        ("bad_outer_headers", bad_packets::bad_outer_headers),
        ("bad_inner_packets", bad_packets::bad_inner_packets),
        ("bad_frames_on_the_trunk", bad_packets::bad_frames_on_the_trunk),
        ("answers_to_servers", packets::answers_to_servers),
        ("errors_to_senders", packets::errors_to_senders),
        ("errors_through_the_tunnel", packets::errors_through_the_tunnel),
        ("segment_size_is_lowered", packets::segment_size_is_lowered),
        ("what_routers_say", packets::what_routers_say),
        ("every_reason_is_tested", bad_packets::every_reason_is_tested),
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
    let mut trials: Vec<_> = tests.map(trial).into_iter().collect();
    trials.push(trial(("speed", speed::speed)).with_ignored_flag(true));
    libtest_mimic::run(&args, trials).exit_code()
}
