//! What needs a kernel: processes of two groups, and of none, at every hook.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod devices;
mod example;
mod foreign;
mod keep;
mod limits;
mod matrix;
mod probe;
mod routes;
mod uring;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// A test, or its name with the reason why it cannot run here.
fn trial(name: impl Into<String>, why_not: Option<&'static str>, test: impl FnOnce() + Send + 'static) -> Trial {
    let run = move || {
        test();
        Ok::<(), Failed>(())
    };
    match why_not {
        None => Trial::test(name, run),
        Some(why) => Trial::test(name, run).with_kind(why).with_ignored_flag(true),
    }
}

fn main() -> ExitCode {
    if let Some(result) = probe::when_asked() {
        return result;
    }
    if let Some(result) = example::when_asked() {
        return result;
    }
    let arguments = Arguments::from_args();
    let unable = world::unable();
    if unable.is_none() && !arguments.list {
        world::leave_the_host();
    }
    let groups = [
        ("matrix", unable, matrix::TESTS),
        ("matrix", world::unable_to_see(), matrix::SEEING),
        ("routes", unable, routes::TESTS),
        ("routes", unable.or_else(uring::unable), routes::URING),
        ("keep", unable, keep::TESTS),
        ("keep", world::unable_to_see(), keep::SEEING),
        ("limits", unable, limits::TESTS),
        ("devices", unable, devices::TESTS),
        ("foreign", unable.or_else(foreign::unable), foreign::TESTS),
        ("example", unable.or_else(example::unable), example::TESTS),
    ];
    let trials = groups.into_iter().flat_map(|(group, unable, tests)| {
        tests.iter().map(move |&(name, test)| trial(format!("{group}::{name}"), unable, test))
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    world::clean_up();
    conclusion.exit_code()
}
