//! Images and layers as they are on a real disk. Needs root; every file lies in a temporary directory, every mount in a
//! mount namespace of the test's own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fake;
mod host;
mod layer;
mod named;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};
use nix::unistd::Uid;

/// A test: its name and itself; it says why it cannot run here.
type Test = (&'static str, fn() -> Result<(), String>);

fn main() -> ExitCode {
    if let Ok(what) = std::env::var(named::CHILD) {
        named::child(&what);
        return ExitCode::SUCCESS;
    }
    let tests: Vec<Test> = [host::TESTS, layer::TESTS, named::TESTS].concat();
    let trials = tests.into_iter().map(|(name, test)| {
        Trial::ignorable_test(name, move || {
            if !Uid::effective().is_root() {
                return Ok(Completion::ignored_with("needs root"));
            }
            Ok(match test() {
                Ok(()) => Completion::Completed,
                Err(reason) => Completion::ignored_with(reason),
            })
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
