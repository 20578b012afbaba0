//! A command without a terminal.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::itself::shown;
use crate::tenant::{Tenant, eventually};

pub(crate) fn all() {
    let tenant = Tenant::launch();
    let script = "read line; echo out $line; echo err $line >&2; echo re >/dev/stderr; exit 7";
    let mut child = tenant.enter(&["sh", "-c", script]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", shown(&output));
    assert_eq!(output.stdout, b"out hello\n");
    assert_eq!(output.stderr, b"err hello\nre\n");
    let killed = tenant.enter(&["sh", "-c", "kill -9 $$"]).output().unwrap();
    assert_eq!(killed.status.code(), Some(128 + 9), "{}", shown(&killed));
    assert_eq!(killed.status.signal(), None);
}

pub(crate) fn missing() {
    let tenant = Tenant::launch();
    for (words, code, text) in [
        (&["frobnicate"][..], 127, "\"frobnicate\": command not found in the tenant"),
        (&["/no/such/program"], 127, "not found"),
        (&["/etc/passwd"], 126, "\"/etc/passwd\": cannot be executed"),
        (&[""], 127, "not found"),
    ] {
        let output = tenant.enter(words).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", shown(&output));
        assert!(shown(&output).contains(text), "{words:?}: {}", shown(&output));
    }
}

pub(crate) fn much() {
    let tenant = Tenant::launch();
    let data: Vec<u8> = (0..8_000_003_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut child = tenant.enter(&["cat"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, sent) = (child.stdin.take().unwrap(), data.clone());
    let writer = std::thread::spawn(move || input.write_all(&sent).unwrap());
    let mut got = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut got).unwrap();
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(got == data, "{} bytes of {}", got.len(), data.len());
    // A command that ends at once may leave more in its pipe than is read at once.
    let output = tenant.enter(&["sh", "-c", "head -c 65536 /dev/zero"]).output().unwrap();
    assert_eq!(output.stdout.len(), 65536);
}

pub(crate) fn left_behind() {
    let tenant = Tenant::launch();
    let since = Instant::now();
    assert_eq!(tenant.said(&["sh", "-c", "sleep 30 & echo done"]), "done");
    assert!(since.elapsed() < Duration::from_secs(10));
}

pub(crate) fn signals() {
    let tenant = Tenant::launch();
    let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = tenant.enter(&["sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
    // Killed itself, it leaves nothing running.
    let mut child = tenant.enter(&["sleep", "1000"]).spawn().unwrap();
    let running = |wanted: usize| {
        let found = tenant.said(&["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]);
        (found.matches("sleep 1000").count() == wanted).then_some(())
    };
    eventually("the command's start", || running(1));
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the command's end", || running(0));
}

pub(crate) fn broken() {
    let tenant = Tenant::launch();
    let mut child = tenant.enter(&["yes"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 2];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(128 + 13));
}
