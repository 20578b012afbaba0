//! This program as one that enters.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};

use tenantd::commands::chain;
use tenantd::enter::copy::{Copy, Local, Progress};
use tenantd::enter::{Hold, Order, Program, Target, run};

use crate::tenant::Tenant;

/// Set when this program is to enter: `PID NETNS`.
const WHOM: &str = "ENTER_TEST_WHOM";

/// What the command line says: `[-u USER] [-t] [CMD...]`, none for a login.
pub(crate) fn called() -> Option<ExitCode> {
    let whom = std::env::var(WHOM).ok()?;
    let (pid, netns) = whom.split_once(' ').unwrap();
    let target = Target { name: "acme".parse().unwrap(), pid: pid.parse().unwrap(), netns: netns.parse().unwrap() };
    let mut words = std::env::args_os().skip(1).peekable();
    if let Some(way) = words.next_if(|word| word == "--into" || word == "--out") {
        return Some(copied(&target, way == "--into", words.collect()));
    }
    let mut words = words.map(|word| word.into_string().unwrap()).peekable();
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

/// `[-u USER] [-r] FROM... TO`.
fn copied(target: &Target, into: bool, words: Vec<OsString>) -> ExitCode {
    let hold = Hold::take(target).unwrap();
    let mut words = words.into_iter().peekable();
    let user = words.next_if(|word| word == "-u").map(|_| words.next().unwrap().into_string().unwrap());
    let recursive = words.next_if(|word| word == "-r").is_some();
    let mut paths: Vec<OsString> = words.collect();
    let last = paths.pop().unwrap();
    let local = |path: OsString| if path == "-" { Local::Stream } else { Local::Path(path.into()) };
    let copy = Copy { hold: &hold, user: user.as_deref(), recursive };
    let mut most = 0;
    let mut watch = |progress: Progress<'_>| most = progress.done.max(most);
    let copied = match into {
        true => copy.copy_in(&paths.into_iter().map(local).collect::<Vec<_>>(), Path::new(&last), &mut watch),
        false => copy.copy_out(&paths.into_iter().map(Into::into).collect::<Vec<_>>(), &local(last), &mut watch),
    };
    match copied {
        Ok(copied) => {
            assert!(most <= copied.bytes, "{most}");
            eprintln!("{copied:?}");
            u8::from(!copied.skipped.is_empty()).into()
        }
        Err(error) => {
            eprintln!("refused: {}", chain(&error));
            2.into()
        }
    }
}

impl Tenant {
    /// A copy; exit code (0 all, 1 something passed over, 2 refused) and what was said.
    pub(crate) fn copy(&self, way: &str, words: &[&OsStr]) -> (i32, String) {
        let output = self.enter(&[way]).args(words).output().unwrap();
        (output.status.code().unwrap(), shown(&output))
    }

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
