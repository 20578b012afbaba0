//! What needs a kernel: packet-in/packet-out of each program, and rooms with real devices.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cases;
mod example;
mod frames;
mod limits;
mod packet;
mod raw;
mod rooms;
mod veth;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// A test, or its name with the reason why it cannot run here.
fn trial(name: impl Into<String>, test: impl FnOnce() + Send + 'static) -> Trial {
    let run = move || {
        test();
        Ok::<(), Failed>(())
    };
    match world::unable() {
        None => Trial::test(name, run),
        Some(why) => Trial::test(name, run).with_kind(why).with_ignored_flag(true),
    }
}

fn main() -> ExitCode {
    if let Some(result) = example::when_asked() {
        return result;
    }
    let arguments = Arguments::from_args();
    if world::unable().is_none() && !arguments.list {
        world::leave_the_host();
    }
    packet::every_reason_has_a_case(&cases::cases());
    let packets =
        cases::cases().into_iter().map(|case| trial(format!("packet::{}", case.name), move || packet::check(&case)));
    let groups = [
        ("rooms", rooms::TESTS),
        ("veth", veth::TESTS),
        ("raw", raw::TESTS),
        ("limits", limits::TESTS),
        ("example", example::TESTS),
    ];
    let others = groups
        .into_iter()
        .flat_map(|(group, tests)| tests.iter().map(move |&(name, test)| trial(format!("{group}::{name}"), test)));
    let trials = packets.chain(others).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
