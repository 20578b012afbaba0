//! What needs a kernel: packet-in/packet-out of each program, and rooms with real devices.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod veth;
mod world;

use libtest_mimic::{Arguments, Failed, Trial};

/// A test, or its name with the reason why it cannot run here.
fn trial(name: &'static str, test: fn()) -> Trial {
    let run = move || {
        test();
        Ok::<(), Failed>(())
    };
    match world::unable() {
        None => Trial::test(name, run),
        Some(why) => Trial::test(name, run)
            .with_kind(why)
            .with_ignored_flag(true),
    }
}

fn main() {
    let arguments = Arguments::from_args();
    if world::unable().is_none() && !arguments.list {
        world::leave_the_host();
    }
    let trials = veth::TESTS
        .iter()
        .map(|&(name, test)| trial(name, test))
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}
