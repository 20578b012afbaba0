//! A tenant's init as it really runs: launched by `tenantd::launch` in new namespaces, asked over its socket, looked
//! at in /proc. Needs root; every namespace is one that a test makes, and each test ends what it has started.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod control;
mod figures;
mod house;
mod services;
mod supervise;
mod tenant;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};
use nix::unistd::Uid;

/// A test: its name, the program it needs beside root, itself.
type Test = (&'static str, &'static str, fn());

fn main() -> ExitCode {
    let tests: [Test; 33] = [
        ("house_is_made_of_own_namespaces", "", house::own_namespaces),
        ("house_init_keeps_what_a_tenant_needs_and_no_descriptor_of_the_daemon", "", house::init_is_small),
        ("house_has_its_own_names_that_change_while_it_runs", "", house::own_names),
        ("house_root_is_private", "", house::private_root),
        ("house_links_in_the_way_lead_nowhere", "", house::links_in_the_way),
        ("house_own_network_is_the_tenants", "/usr/sbin/ip", house::own_network),
        ("house_stack_has_its_settings_and_loopback", "", house::stack_settings),
        ("house_that_cannot_be_finished_starts_nothing", "", house::failed_set_up),
        ("service_runs_as_the_tenant_without_any_privilege", "", services::identity),
        ("service_that_crashes_is_started_again_later_each_time", "", services::back_off),
        ("service_that_ignores_sigterm_is_killed_with_its_children", "", services::stubborn),
        ("service_stop_start_restart_remove", "", services::verbs),
        ("service_that_cannot_be_executed_is_refused_at_once", "", services::not_executable),
        ("service_log_is_appended_and_put_aside", "", services::logs),
        ("service_runs_as_its_user_with_its_files", "", supervise::users_and_files),
        ("service_has_the_privileges_it_names", "", supervise::privileges),
        ("service_that_fails_to_start_says_why", "/usr/bin/python3", supervise::refusals),
        ("service_waits_for_those_before_it", "/usr/bin/python3", supervise::order),
        ("service_ends_with_all_its_processes", "", supervise::runaways),
        ("service_that_floods_its_log_disturbs_nobody", "", supervise::flood),
        ("service_goes_on_when_the_disk_is_full", "", supervise::full_disk),
        ("service_can_be_told_to_reload", "", supervise::reload),
        ("requests_of_dead_clients_are_finished", "", supervise::dead_clients),
        ("many_large_services_are_listed", "", supervise::long_list),
        ("orphans_are_reaped", "", services::orphans),
        ("init_killed_ends_all_processes", "", control::killed),
        ("init_asked_to_end_stops_its_services_first", "", control::asked_to_end),
        ("init_is_found_again_and_never_doubled", "", control::adopted),
        ("init_survives_bad_clients", "", control::bad_clients),
        ("init_does_not_speak_to_other_users", "/usr/bin/python3", control::other_users),
        ("launch_that_fails_leaves_nothing", "", control::failed_launch),
        ("launch_from_many_threads", "", control::many_threads),
        ("figures_memory_and_launch_time", "", figures::measure),
    ];
    let trials = tests.into_iter().map(|(name, program, test)| {
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
