//! This program as one that enters.

use std::process::{Command, ExitCode, Output, Stdio};

use tenantd::commands::chain;
use tenantd::enter::{Hold, Order, Program, Target, run};

use crate::tenant::Tenant;

/// Set when this program is to enter: `PID NETNS`.
const WHOM: &str = "ENTER_TEST_WHOM";

/// What the command line says: `[-u USER] [-t] [CMD...]`, none for a login.
pub(crate) fn called() -> Option<ExitCode> {
    let whom = std::env::var(WHOM).ok()?;
    let (pid, netns) = whom.split_once(' ').unwrap();
    let target = Target { name: "acme".parse().unwrap(), pid: pid.parse().unwrap(), netns: netns.parse().unwrap() };
    let mut words = std::env::args().skip(1).peekable();
    let mut order = Order { user: None, program: Program::Login, tty: false };
    if words.next_if_eq("-u").is_some() {
        order.user = words.next();
    }
    order.tty = words.next_if_eq("-t").is_some();
    if words.peek().is_some() {
        order.program = Program::Command(words.collect());
    }
    let code = Hold::take(&target).and_then(|hold| run(&hold, &order)).unwrap_or_else(|error| {
        eprintln!("refused: {}", chain(&error));
        1
    });
    Some(code.into())
}

impl Tenant {
    /// This program, to enter with these words.
    pub(crate) fn enter(&self, words: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let whom = format!("{} {}", self.launched.pid, self.launched.netns_inode);
        command.env(WHOM, whom).args(words).stdin(Stdio::null());
        command
    }

    /// What a command prints; it must succeed.
    pub(crate) fn said(&self, words: &[&str]) -> String {
        let output = self.enter(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", shown(&output));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }
}

pub(crate) fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}: {} {}", output.status, text(&output.stdout), text(&output.stderr))
}
