//! What only root can try: running a command in a tenant, and being someone else. The tenant is a process of this test
//! in namespaces of its own; nothing outside them is touched.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod stand_in;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Trial};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use serde_json::Value;

use stand_in::{Daemon, acme, code, daemon, err, out, status};

/// The first id of the stand-in's tenant.
const ID: &str = "524288";
/// A user that is nobody in particular.
const NOBODY: u32 = 65_534;

fn main() -> ExitCode {
    let tests: [(&str, fn()); 5] = [
        ("a_command_runs_as_the_tenant_and_its_exit_code_is_passed_on", runs_as_the_tenant),
        ("root_is_the_hosts_root_only_when_asked_for", root_when_asked),
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

/// A process in namespaces of its own, as a tenant's init is.
struct Tenant {
    outer: Child,
    init: i32,
    netns: u64,
}

impl Tenant {
    #[allow(clippy::zombie_processes, reason = "waited for in Drop; a test that dies takes it along by --kill-child")]
    fn start() -> Self {
        let outer = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", "hostname house && exec sleep 600"])
            .spawn()
            .unwrap();
        let pid = outer.id();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
            let init = children.split_whitespace().next().and_then(|c| c.parse::<i32>().ok());
            // Once it sleeps, everything before is done.
            let sleeps =
                |init: &i32| std::fs::read_to_string(format!("/proc/{init}/comm")).is_ok_and(|c| c == "sleep\n");
            if let Some(init) = init.filter(sleeps) {
                let netns = std::fs::metadata(format!("/proc/{init}/ns/net")).unwrap().ino();
                return Self { outer, init, netns };
            }
            assert!(Instant::now() < deadline, "unshare did not start");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn daemon(&self) -> Daemon {
        served(self.init, self.netns)
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        // Ends with --kill-child what runs inside.
        let _ = self.outer.kill();
        let _ = self.outer.wait();
    }
}

fn served(init: i32, netns: u64) -> Daemon {
    daemon(&[("GET /v1/tenants/acme", 200, acme()), ("GET /v1/tenants/acme/status", 200, status(init, netns))])
}

fn runs_as_the_tenant() {
    let tenant = Tenant::start();
    let daemon = tenant.daemon();
    let exec = |script: &str| daemon.run(&["exec", "acme", "--", "sh", "-c", script]);
    let output = exec(
        "id -u; id -g; id -G; hostname; readlink /proc/self/ns/net; pwd; echo $$; \
         grep -E '^(Cap|NoNew)' /proc/self/status | tr -d '\\t'; ls -l /proc/self/fd | grep -c 'socket\\|pipe:.*[3-9] ->'",
    );
    assert_eq!(err(&output), "");
    let text = out(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..4], [ID, ID, ID, "house"], "{text}");
    assert_eq!(lines[4], format!("net:[{}]", tenant.netns));
    assert_eq!(lines[5], "/");
    assert!(lines[6].parse::<u32>().unwrap() < 100, "a process of the tenant's own numbers: {text}");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(lines.contains(&format!("{set}:{:016x}", 0).as_str()), "{set}: {text}");
    }
    assert!(lines.contains(&"NoNewPrivs:1"), "{text}");
    assert_eq!(code(&exec("exit 7")), 7);
    assert_eq!(code(&exec("kill -9 $$")), 128 + 9);
    let environment = daemon.done(&["exec", "acme", "--", "env"]);
    assert!(!environment.contains("TENANTD_SOCKET") && environment.contains("HOME=/"), "{environment}");
    let missing = daemon.run(&["exec", "acme", "--", "frobnicate"]);
    assert_eq!(code(&missing), 127, "{}", err(&missing));
    assert!(err(&missing).contains("frobnicate") && err(&missing).contains("not found"), "{}", err(&missing));
    assert_eq!(code(&daemon.run(&["exec", "acme", "--", "/etc/passwd"])), 126);
    daemon.asked();
}

fn root_when_asked() {
    let tenant = Tenant::start();
    let output = tenant.daemon().run(&["exec", "acme", "--root", "--", "sh", "-c", "id -u; hostname"]);
    assert_eq!(out(&output), "0\nhouse\n", "{}", err(&output));
}

fn signals_are_handed_on() {
    let tenant = Tenant::start();
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
    let tenant = Tenant::start();
    let output = served(tenant.init, tenant.netns + 1).run(&["exec", "acme", "--", "true"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("is not in the network namespace of tenant acme"), "{}", err(&output));
    let mut gone = status(0, 0);
    gone["init_pid"] = Value::Null;
    let daemon = daemon(&[("GET /v1/tenants/acme", 200, acme()), ("GET /v1/tenants/acme/status", 200, gone)]);
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
    assert!(err(&output).contains("tenantd exec must be root (uid 0)"), "{}", err(&output));

    let output = nobody(&daemon.socket, &["run"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("tenantd run must be root (uid 0)"), "{}", err(&output));
}

fn open_to_all(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
