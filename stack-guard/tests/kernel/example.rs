//! The example of the README, run as the README says, as a process of its own.

use std::process::{Command, ExitCode};

use crate::world::cgroup_dir;

#[allow(dead_code, unreachable_pub)]
#[path = "../../examples/keep_in.rs"]
mod keep_in;

pub(crate) const TESTS: &[(&str, fn())] = &[("the_readme_keeps_a_process_in", the_readme_keeps_a_process_in)];

/// Set where this program shall be the example.
const ASKED: &str = "STACK_GUARD_EXAMPLE";

/// Runs the example instead of the tests when this process was started for it.
pub(crate) fn when_asked() -> Option<ExitCode> {
    std::env::var_os(ASKED)?;
    Some(match keep_in::run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    })
}

/// Why it cannot run here; None: it can.
pub(crate) fn unable() -> Option<&'static str> {
    let works = |program: &str| Command::new(program).arg("-V").output().is_ok();
    (!works("ip") || !works("ping")).then_some("needs iproute2 and ping")
}

/// The commands of the README: its one block of shell lines.
fn readme() -> &'static str {
    let text = include_str!("../../README.md");
    let (_, rest) = text.split_once("```sh\n").unwrap();
    rest.split_once("```").unwrap().0
}

fn the_readme_keeps_a_process_in() {
    let cgroup = cgroup_dir();
    let lines = readme().replace("/sys/fs/cgroup", &cgroup.display().to_string());
    let (before, last) = lines.trim_end().rsplit_once('\n').unwrap();
    // Names of namespaces are in a private mount; the last line is the one that must fail.
    let script = format!(
        "keep_in() {{ {ASKED}=1 \"$ME\" \"$@\"; }}\nmount -t tmpfs none /run\n{before}\n\
         if {last}\nthen echo got out; fi\nkeep_in --end\nping -c 1 127.0.0.1"
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-e", "-c", &script])
        .env("ME", std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    assert!(text.contains("Added, seen of a process: Sight"), "{text}");
    assert!(text.contains("Operation not permitted") && !text.contains("got out"), "{text}");
    // In the namespace, and here after the end of the guard.
    assert_eq!(text.matches("1 received").count(), 2, "{text}");
}
