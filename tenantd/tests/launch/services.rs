//! Services: who they are, how they end, how they come back.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tenant_init::client::ClientError;
use tenant_init::protocol::{Event, RefusalKind, RunState};

use crate::tenant::{SOON, Tenant, alive, children, command, eventually, status};

pub(crate) fn identity() {
    let mut tenant = Tenant::launch();
    tenant.client.start(command("a", &["sleep", "1000"]), SOON).unwrap();
    let pid = tenant.children()[0];
    let ids = tenant.ids();
    let four = format!("{ids} {ids} {ids} {ids}");
    assert_eq!(status(pid, "Uid"), four);
    assert_eq!(status(pid, "Gid"), four);
    assert_eq!(status(pid, "Groups"), "");
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    // What init has, which is what the tenant has over itself.
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(status(pid, set), status(tenant.launched.pid, "CapBnd"), "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    for set in ["SigBlk", "SigIgn"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    let inner = |field: &str| status(pid, field).rsplit(' ').next().map(str::to_owned);
    assert_eq!(inner("NSsid"), inner("NSpid"), "a session of its own");
    // The program's own loader may have one open for a moment.
    let files = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    eventually("three descriptors", || Some(()).filter(|()| files() == 3));
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let names: Vec<_> = environment.split(|byte| *byte == 0).filter(|word| !word.is_empty()).collect();
    assert_eq!(names.len(), 6, "PATH, HOME, LANG, USER, LOGNAME, SHELL");
    assert_eq!(tenant.output_of("echo $HOME $USER; pwd; id -u"), "/root root\n/root\n0");
    // It cannot touch init: process 1 takes no signal that it does not wait for.
    tenant.output_of("kill -9 1; kill -STOP 1; kill -INT 1");
    assert!(alive(tenant.launched.pid));
    assert_eq!(tenant.client.hello(SOON).unwrap().name, "acme");
}

pub(crate) fn back_off() {
    let mut tenant = Tenant::launch();
    tenant.client.subscribe(SOON).unwrap();
    let first = tenant.client.start(command("a", &["sleep", "1000"]), SOON).unwrap();
    assert!(matches!(next(&mut tenant), Event::ServiceStarted { pid, restarts: 0, .. } if pid == first));
    for (round, pause) in [100_u64, 200, 400].into_iter().enumerate() {
        let since = Instant::now();
        kill(Pid::from_raw(tenant.children()[0]), Signal::SIGKILL).unwrap();
        let event = next(&mut tenant);
        let wanted = Event::ServiceExited { name: "a".into(), exit: "signal 9".into(), again_ms: Some(pause) };
        assert_eq!(event, wanted);
        let waiting = tenant.client.list(SOON).unwrap().remove(0);
        // It was killed after `since`: where the answer came later than the pause after that, it may run again.
        if since.elapsed() < Duration::from_millis(pause) {
            assert_eq!((waiting.state, waiting.pid), (RunState::Waiting, None));
        }
        let restarts = u64::try_from(round).unwrap() + 1;
        assert!(matches!(next(&mut tenant), Event::ServiceStarted { restarts: r, .. } if r == restarts));
        assert!(since.elapsed() >= Duration::from_millis(pause), "{:?}", since.elapsed());
    }
    // One that ends at once is tried again too, and its words are in the log.
    tenant.sh("b", "echo cannot open the pod bay; exit 3");
    let state = eventually("two starts of b", || {
        tenant.client.list(SOON).unwrap().into_iter().find(|state| state.spec.name == "b" && state.restarts >= 1)
    });
    assert_eq!(state.last_exit.as_deref(), Some("exit 3"));
    assert!(tenant.log("b").starts_with("cannot open the pod bay\n"));
    // A request starts it without the pause.
    tenant.client.stop("b", SOON).unwrap();
    assert_eq!(tenant.client.list(SOON).unwrap()[1].state, RunState::Stopped);
}

fn next(tenant: &mut Tenant) -> Event {
    tenant.client.next_event(SOON).unwrap().expect("an event")
}

pub(crate) fn stubborn() {
    let mut tenant = Tenant::launch();
    tenant.sh("a", "trap '' TERM; sleep 1000 & echo up; while :; do sleep 1000; done");
    eventually("the trap", || Some(()).filter(|()| tenant.log("a").contains("up")));
    let leader = tenant.children()[0];
    let all = eventually("its children", || Some(children(leader)).filter(|all| all.len() == 2));
    let since = Instant::now();
    tenant.client.stop("a", Duration::from_millis(300)).unwrap();
    let took = since.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(5), "{took:?}");
    assert!(!alive(leader) && !all.into_iter().any(alive));
    assert_eq!(tenant.client.processes(SOON).unwrap(), 0);
    assert_eq!(tenant.client.list(SOON).unwrap()[0].last_exit.as_deref(), Some("signal 9"));

    // A leader that obeys does not leave its children behind either.
    tenant.sh("b", "(trap '' TERM; echo up; sleep 1000; sleep 1000) & exec sleep 1000");
    eventually("the trap", || Some(()).filter(|()| tenant.log("b").contains("up")));
    tenant.client.stop("b", SOON).unwrap();
    eventually("no process", || Some(()).filter(|()| tenant.client.processes(SOON).unwrap() == 0));
}

pub(crate) fn verbs() {
    let mut tenant = Tenant::launch();
    let first = tenant.client.start(command("a", &["sleep", "1000"]), SOON).unwrap();
    assert_eq!(tenant.client.start(command("a", &["sleep", "1000"]), SOON).unwrap(), first, "idempotent");
    let other = tenant.client.start(command("a", &["sleep", "2000"]), SOON).unwrap_err();
    assert!(matches!(&other, ClientError::Refused(why) if why.kind == RefusalKind::Conflict), "{other}");
    let second = tenant.client.restart("a", SOON).unwrap();
    assert_ne!(first, second);
    tenant.client.stop("a", SOON).unwrap();
    let state = tenant.client.list(SOON).unwrap().remove(0);
    assert_eq!((state.state, state.pid, state.restarts), (RunState::Stopped, None, 0));
    tenant.client.start(command("a", &["sleep", "1000"]), SOON).unwrap();
    tenant.client.remove("a", SOON).unwrap();
    tenant.client.remove("a", SOON).unwrap();
    assert!(tenant.client.list(SOON).unwrap().is_empty());
    let unknown = tenant.client.stop("a", SOON).unwrap_err();
    assert!(matches!(&unknown, ClientError::Refused(why) if why.kind == RefusalKind::Unknown), "{unknown}");
}

pub(crate) fn not_executable() {
    let mut tenant = Tenant::launch();
    tenant.output_of("echo '#!/bin/sh' >/root/plain; chmod 644 /root/plain");
    for (program, words) in [
        ("/nonexistent/server", "not found"),
        ("no-such-program", "not found"),
        ("/etc/passwd/x", "not found"),
        ("/root/plain", "not executable"),
        ("/etc", "not executable"),
    ] {
        match tenant.client.start(command("a", &[program, "-x"]), SOON).unwrap_err() {
            ClientError::Refused(why) => {
                assert_eq!(
                    (why.kind, why.field.as_str(), why.value.as_str()),
                    (RefusalKind::Command, "command", program)
                );
                assert!(why.rule.contains(words), "{why}");
            }
            other => panic!("{other}"),
        }
    }
    // A working directory that is not there is another matter.
    let mut nowhere = command("a", &["/bin/true"]);
    nowhere.cwd = Some("/nonexistent".into());
    let error = tenant.client.start(nowhere, SOON).unwrap_err();
    assert!(
        matches!(&error, ClientError::Refused(why) if why.kind == RefusalKind::Failed && why.rule.contains("chdir")),
        "{error}"
    );
    assert!(tenant.client.list(SOON).unwrap().is_empty(), "nothing was changed");
    assert_eq!(tenant.client.processes(SOON).unwrap(), 0);
}

pub(crate) fn logs() {
    let mut tenant = Tenant::launch();
    let log = tenant.spec.state_dir.join("logs/a.log");
    // Servers open their standard error again by name.
    tenant.sh("a", "echo one; echo two >>/dev/stderr; exec sleep 1000");
    eventually("both lines", || Some(()).filter(|()| tenant.log("a") == "one\ntwo\n"));
    let file = std::fs::metadata(&log).unwrap();
    assert_eq!((file.uid(), file.mode() & 0o777), (tenant.ids(), 0o640));
    tenant.client.restart("a", SOON).unwrap();
    eventually("it is appended to", || Some(()).filter(|()| tenant.log("a") == "one\ntwo\none\ntwo\n"));
    std::fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(11 << 20).unwrap();
    tenant.client.restart("a", SOON).unwrap();
    eventually("a new log", || Some(()).filter(|()| tenant.log("a") == "one\ntwo\n"));
    assert_eq!(std::fs::metadata(log.with_extension("log.1")).unwrap().len(), 11 << 20);
}

pub(crate) fn orphans() {
    let mut tenant = Tenant::launch();
    // Forty processes whose parent ends first and that end by themselves.
    tenant.sh("a", "for i in $(seq 40); do (setsid sleep 0.2 &); done; echo up; exec sleep 1000");
    eventually("the start", || Some(()).filter(|()| tenant.log("a").contains("up")));
    eventually("init has one child", || Some(()).filter(|()| tenant.children().len() == 1));
    assert_eq!(tenant.client.processes(SOON).unwrap(), 1);
    // One that left the group of its service is ended with it nevertheless.
    tenant.sh("b", "setsid sh -c 'echo up; exec sleep 1000' & wait");
    eventually("its own session", || Some(()).filter(|()| tenant.log("b").contains("up")));
    tenant.client.remove("b", SOON).unwrap();
    assert_eq!(tenant.client.processes(SOON).unwrap(), 1);
}
