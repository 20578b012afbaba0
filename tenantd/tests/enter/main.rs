//! Entering a tenant as `exec`, `shell` and `cp` do, beside a service of the same tenant: what a program gets, what it
//! does not get, and what the operator's terminal goes through. Needs root; the tenant is launched without the daemon.
//!
//! Entering forks, so this program calls itself: `enter-... --enter PID NETNS ...` is one thread that enters and ends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod copies;
mod identity;
mod itself;
mod pipes;
#[allow(dead_code, reason = "what the tests of the launch use is not all used here")]
#[path = "../launch/tenant.rs"]
mod tenant;
mod terminal;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};
use nix::unistd::Uid;

/// A test: its name, the program it needs beside root, itself.
type Test = (&'static str, &'static str, fn());

fn main() -> ExitCode {
    if let Some(code) = itself::called() {
        return code;
    }
    let tests: &[Test] = &[
        ("root_has_what_a_service_has", "/usr/bin/python3", identity::root),
        ("a_user_has_its_groups_and_no_capability", "", identity::user),
        ("an_unknown_user_is_refused", "", identity::unknown_user),
        ("no_descriptor_of_the_host_comes_in", "", identity::descriptors),
        ("nothing_of_the_environment_comes_in_but_terminal_and_language", "", identity::environment),
        ("cgroups_are_those_of_init", "", identity::cgroups),
        ("a_process_that_is_not_init_is_refused", "", identity::mistaken),
        ("input_output_errors_and_exit_code", "", pipes::all),
        ("a_command_that_is_not_there_or_not_executable", "", pipes::missing),
        ("much_data_passes_unchanged", "", pipes::much),
        ("a_child_left_behind_is_not_waited_for", "", pipes::left_behind),
        ("signals_are_handed_on", "", pipes::signals),
        ("nobody_reads_the_output", "", pipes::broken),
        ("the_controlling_terminal_is_the_tenants", "/usr/bin/python3", terminal::controlling),
        ("nobody_types_into_a_terminal", "/usr/bin/python3", terminal::no_typing),
        ("window_size_and_its_changes", "/usr/bin/python3", terminal::size),
        ("exit_codes_come_through_a_terminal", "/usr/bin/python3", terminal::codes),
        ("ctrl_c_and_ctrl_z_reach_the_job", "/usr/bin/python3", terminal::jobs),
        ("the_terminal_is_restored", "/usr/bin/python3", terminal::restored),
        ("a_login_shell_is_one", "/usr/bin/python3", terminal::login),
        ("input_that_is_no_terminal_ends_with_ctrl_d", "", terminal::script),
        ("trees_with_odd_names_are_copied_both_ways", "", copies::odd_names),
        ("files_are_copied_as_cp_does", "", copies::targets),
        ("streams_are_copied", "", copies::streams),
        ("links_of_the_tenant_lead_nowhere_on_the_way_out", "", copies::links_out),
        ("links_lead_nowhere_on_the_way_in", "", copies::links_in),
        ("only_files_and_directories_come_out_and_no_set_id_bits", "", copies::kinds),
        ("a_file_that_grows_or_is_large_in_name_only_comes_to_an_end", "", copies::endless),
        ("nobody_in_the_tenant_looks_into_the_one_who_copies", "/usr/bin/python3", copies::not_traced),
    ];
    let trials = tests.iter().map(|&(name, program, test)| {
        Trial::ignorable_test(name, move || {
            if !Uid::effective().is_root() {
                return Ok(Completion::ignored_with("needs root"));
            }
            if !program.is_empty() && !std::path::Path::new(program).exists() {
                return Ok(Completion::ignored_with(format!("{program} is not installed")));
            }
            test();
            Ok(Completion::Completed)
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
