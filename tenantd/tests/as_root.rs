//! What only root can try: running a command in a tenant, and being someone else. The tenant is launched by this
//! test without the daemon; a stand-in answers for it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod stand_in;
#[allow(dead_code, reason = "what the tests of the launch use is not all used here")]
#[path = "launch/tenant.rs"]
mod tenant;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};

use libtest_mimic::{Arguments, Completion, Trial};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use stand_in::{Daemon, code, daemon, err, out, status};
use tenant::Tenant;

/// A user that is nobody in particular.
const NOBODY: u32 = 65_534;

fn main() -> ExitCode {
    let tests: [(&str, fn()); 5] = [
        ("a_command_runs_as_the_tenants_root_and_its_exit_code_is_passed_on", runs_as_the_tenants_root),
        ("a_command_runs_as_another_user_when_asked", a_user_when_asked),
        ("signals_are_handed_on", signals_are_handed_on),
        ("another_process_is_not_entered", another_process_is_not_entered),
        ("others_are_told_what_they_lack", others_are_told_what_they_lack),
    ];
    let trials = tests.into_iter().map(|(name, test)| {
        Trial::ignorable_test(name, move || {
            if !Uid::effective().is_root() {
                return Ok(Completion::ignored_with("needs root"));
            }
            test();
            Ok(Completion::Completed)
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn served(init: i32, netns: u64) -> Daemon {
    daemon(&[("GET /v1/tenants/acme/status", 200, status(init, netns))])
}

impl Tenant {
    fn daemon(&self) -> Daemon {
        served(self.launched.pid, self.launched.netns_inode)
    }
}

fn runs_as_the_tenants_root() {
    let tenant = Tenant::launch();
    let daemon = tenant.daemon();
    let exec = |script: &str| daemon.run(&["exec", "acme", "--", "sh", "-c", script]);
    let output =
        exec("id -u; id -g; id -G; hostname; readlink /proc/self/ns/net; pwd; cat /proc/self/uid_map; echo $$");
    assert_eq!(err(&output), "");
    let text = out(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..4], ["0", "0", "0", "acme"], "{text}");
    assert_eq!(lines[4], format!("net:[{}]", tenant.launched.netns_inode));
    assert_eq!(lines[5], "/root");
    let map: Vec<&str> = lines[6].split_whitespace().collect();
    assert_eq!(map, ["0", &tenant.ids().to_string(), "65536"], "nobody outside");
    assert!(lines[7].parse::<u32>().unwrap() < 100, "a process of the tenant's own numbers: {text}");
    assert_eq!(code(&exec("exit 7")), 7);
    assert_eq!(code(&exec("kill -9 $$")), 128 + 9);
    let environment = daemon.done(&["exec", "acme", "--", "env"]);
    assert!(!environment.contains("TENANTD_SOCKET") && environment.contains("HOME=/root"), "{environment}");
    let missing = daemon.run(&["exec", "acme", "--", "frobnicate"]);
    assert_eq!(code(&missing), 127, "{}", err(&missing));
    assert!(err(&missing).contains("frobnicate") && err(&missing).contains("not found"), "{}", err(&missing));
    assert_eq!(code(&daemon.run(&["exec", "acme", "--", "/etc/passwd"])), 126);
    daemon.asked();
}

fn a_user_when_asked() {
    let tenant = Tenant::launch();
    let daemon = tenant.daemon();
    let output = daemon.run(&["exec", "acme", "--user", "daemon", "--", "id", "-un"]);
    assert_eq!(out(&output), "daemon\n", "{}", err(&output));
    let output = daemon.run(&["exec", "acme", "--user", "nobody-here", "--", "true"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("user: \"nobody-here\" refused: must be a name in the tenant's"), "{}", err(&output));
    let output = daemon.run(&["exec", "acme", "--user", "a:b", "--", "true"]);
    assert_eq!(code(&output), 2, "{}", err(&output));
}

fn signals_are_handed_on() {
    let tenant = Tenant::launch();
    let daemon = tenant.daemon();
    let mut exec = Command::new(env!("CARGO_BIN_EXE_tenantd"))
        .args(["exec", "acme", "--", "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"])
        .env("TENANTD_SOCKET", &daemon.socket)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(exec.stdout.take().unwrap()), &mut line).unwrap();
    assert_eq!(line, "ready\n");
    kill(Pid::from_raw(exec.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(exec.wait().unwrap().code(), Some(9));
}

fn another_process_is_not_entered() {
    let tenant = Tenant::launch();
    let output = served(tenant.launched.pid, tenant.launched.netns_inode + 1).run(&["exec", "acme", "--", "true"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("is not the init of tenant acme: it has network namespace"), "{}", err(&output));
    let mut gone = status(0, 0);
    gone["init_pid"] = serde_json::Value::Null;
    let daemon = daemon(&[("GET /v1/tenants/acme/status", 200, gone)]);
    let output = daemon.run(&["exec", "acme", "--", "true"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("has no running stack"), "{}", err(&output));
}

fn others_are_told_what_they_lack() {
    let dir = tempfile::tempdir().unwrap();
    open_to_all(dir.path(), 0o755);
    // Where nobody may reach it; it is one static file.
    let program = dir.path().join("tenantd");
    std::fs::copy(env!("CARGO_BIN_EXE_tenantd"), &program).unwrap();
    let nobody = |socket: &Path, args: &[&str]| -> Output {
        Command::new(&program).args(args).env("TENANTD_SOCKET", socket).uid(NOBODY).gid(NOBODY).output().unwrap()
    };
    let daemon = served(1, 1);
    let output = nobody(&daemon.socket, &["list"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("no permission for the socket"), "{}", err(&output));
    assert!(err(&output).contains("root and members of the group tenantd"), "{}", err(&output));

    open_to_all(daemon.socket.parent().unwrap(), 0o755);
    open_to_all(&daemon.socket, 0o666);
    let output = nobody(&daemon.socket, &["exec", "acme", "--", "true"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("must be root (uid 0) to enter a tenant"), "{}", err(&output));

    let output = nobody(&daemon.socket, &["run"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("tenantd run must be root (uid 0)"), "{}", err(&output));
}

fn open_to_all(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
