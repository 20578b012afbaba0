//! Limits as a real kernel holds them. Needs root; every cgroup is below one that the test makes for itself, below its
//! own place, and takes away again. What is set loose is bounded by itself too, and the limit is read back before: if
//! a limit did not hold, nothing but the test would fail.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod birth;
mod child;
mod foreign;
mod limits;
mod lives;
mod room;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};
use nix::unistd::Uid;

/// A test: its name, the limits it needs, itself.
type Test = (&'static str, &'static [&'static str], fn());

fn main() -> ExitCode {
    if let Some(code) = child::role() {
        return code;
    }
    let tests: [Test; 13] = [
        ("memory_limit_kills_the_hog_and_nobody_else", &["memory"], limits::memory),
        ("memory_limit_comes_to_who_lives_already", &["memory"], limits::memory_later),
        ("processes_limit_stops_a_fork_bomb", &["processes"], limits::processes),
        ("cpu_limit_halves_a_spinner", &["cpu"], limits::cpu),
        ("io_limit_slows_reading", &["io_read"], limits::reading),
        ("io_limit_slows_direct_writing", &["io_write"], limits::writing),
        ("limits_change_while_processes_run", &["cpu", "memory", "processes"], limits::live),
        ("memory_below_what_is_used_is_refused_by_name", &["memory"], limits::below_use),
        ("a_process_is_born_in_all_cgroups_without_waiting", &[], lives::birth),
        ("id_is_the_one_the_kernel_gives", &[], lives::id),
        ("kill_ends_a_tenant_that_forks", &["processes"], lives::kill),
        ("removal_leaves_nothing_and_may_be_repeated", &[], lives::removal),
        ("tenants_are_found_again", &[], lives::found_again),
    ];
    let trials = tests.into_iter().map(|(name, needs, test)| {
        Trial::ignorable_test(name, move || {
            if !Uid::effective().is_root() {
                return Ok(Completion::ignored_with("needs root"));
            }
            if let Some(why) = room::missing(needs) {
                return Ok(Completion::ignored_with(why));
            }
            test();
            Ok(Completion::Completed)
        })
    });
    let mut trials: Vec<Trial> = trials.collect();
    if std::env::var_os(foreign::FILES).is_none() {
        trials.push(elsewhere("all_of_this_on_version_2_alone", foreign::version_2));
        trials.push(elsewhere("all_of_this_on_version_1_alone", foreign::version_1));
    }
    // Spinners and disks are measured: one at a time.
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn elsewhere(name: &str, test: fn()) -> Trial {
    Trial::ignorable_test(name, move || {
        if !Uid::effective().is_root() {
            return Ok(Completion::ignored_with("needs root"));
        }
        if let Some(why) = foreign::missing() {
            return Ok(Completion::ignored_with(why));
        }
        test();
        Ok(Completion::Completed)
    })
}
