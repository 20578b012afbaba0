//! Init itself: its end, being found again, clients of every kind, launches that fail.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, setsockopt, socket, sockopt,
};
use nix::unistd::Pid;
use tenant_init::client::{Client, ClientError};
use tenantd::launch::{self, AdoptError, LaunchError};

use crate::tenant::{SOON, Tenant, alive, children, command, eventually, spec};

pub(crate) fn killed() {
    let mut tenant = Tenant::launch();
    tenant.sh("a", "setsid sleep 1000 & sleep 1000 & exec sleep 1000");
    let leader = tenant.children()[0];
    let mut all = eventually("three processes", || {
        Some(children(leader)).filter(|all| all.len() == 2).map(|all| [all, vec![leader]].concat())
    });
    all.push(tenant.launched.pid);
    assert!(all.iter().all(|pid| alive(*pid)));
    launch::end(&tenant.launched.pidfd, SOON).unwrap();
    assert!(!all.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()), "gone, not even zombies");
    assert!(matches!(tenant.client.hello(SOON), Err(ClientError::Closed)));
    assert!(matches!(Client::connect(&tenant.spec.control_socket), Err(ClientError::Gone { .. })));
    launch::end(&tenant.launched.pidfd, SOON).unwrap();
}

pub(crate) fn asked_to_end() {
    let mut tenant = Tenant::launch();
    tenant.sh("a", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done");
    eventually("the trap", || Some(()).filter(|()| tenant.log("a").contains("up")));
    kill(Pid::from_raw(tenant.launched.pid), Signal::SIGTERM).unwrap();
    let mut status = 0;
    // SAFETY: plain system call; init is our child.
    assert_eq!(unsafe { libc::waitpid(tenant.launched.pid, &mut status, 0) }, tenant.launched.pid);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status}");
    assert!(tenant.log("a").ends_with("bye\n"), "{}", tenant.log("a"));
}

pub(crate) fn adopted() {
    let mut tenant = Tenant::launch();
    tenant.client.start(command("a", &["sleep", "1000"]), SOON).unwrap();
    let path = tenant.spec.control_socket.clone();
    let (found, hello) = launch::adopt(&path, &tenant.spec.name).unwrap();
    assert_eq!((found.pid, found.netns_inode), (tenant.launched.pid, tenant.launched.netns_inode));
    assert_eq!(hello.processes, 1);
    let other = "other".parse().unwrap();
    assert!(matches!(launch::adopt(&path, &other), Err(AdoptError::Stranger { .. })));
    let twice = launch::launch(&tenant.spec).unwrap_err();
    assert!(matches!(twice, LaunchError::Running { .. }), "{twice}");
    assert_eq!(tenant.client.processes(SOON).unwrap(), 1, "the first one is as it was");

    launch::end(&found.pidfd, SOON).unwrap();
    let gone = launch::adopt(&path, &tenant.spec.name);
    assert!(matches!(gone, Err(AdoptError::Client(ClientError::Gone { .. }))));
    // The socket of a dead init is no hindrance.
    tenant.launched = launch::launch(&tenant.spec).unwrap();
    tenant.client = Client::connect(&path).unwrap();
    assert!(tenant.client.hello(SOON).unwrap().ready);
}

/// A connection without any manners.
struct Raw(std::os::fd::OwnedFd);

impl Raw {
    fn connect(path: &Path) -> Raw {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&fd, sockopt::SndBuf, &400_000).unwrap();
        connect(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        Raw(fd)
    }
    fn send(&self, bytes: &[u8]) {
        let _ = send(self.0.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL);
    }
    fn answer(&self) -> String {
        let mut buffer = vec![0; 65_536];
        let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }
}

pub(crate) fn bad_clients() {
    let mut tenant = Tenant::launch();
    tenant.client.start(command("a", &["sleep", "1000"]), SOON).unwrap();
    let path = tenant.spec.control_socket.clone();
    let deep = "[".repeat(60_000);
    let long = "x".repeat(100_000);
    for bad in ["", "x", "{}", "null", "\u{0}", "{\"id\":18446744073709551616}", &deep, &long] {
        let raw = Raw::connect(&path);
        raw.send(bad.as_bytes());
        if !bad.is_empty() {
            let answer = raw.answer();
            assert!(answer.contains("not-understood"), "{answer}");
        }
    }
    let mut seed = 42_u64;
    let raw = Raw::connect(&path);
    for _ in 0..500 {
        let bytes: Vec<u8> = (0..seed % 97)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 33) as u8
            })
            .collect();
        seed = seed.wrapping_add(1);
        if !bytes.is_empty() {
            raw.send(&bytes);
            assert!(raw.answer().contains("not-understood"));
        }
    }
    // Everything that is wrong inside a well-formed request is answered to its id.
    for (request, word) in [
        (r#"{"do":"start","service":{"name":"../x","argv":["a"]}}"#, "DNS label"),
        (r#"{"do":"start","service":{"name":"x","argv":[]}}"#, "program is needed"),
        (r#"{"do":"start","service":{"name":"x","argv":["/bin/true\u0000"]}}"#, "NUL"),
        (r#"{"do":"start","service":{"name":"x","argv":["/bin/true"],"env":{"A=B":"c"}}}"#, "env"),
        (r#"{"do":"stop","name":"a","timeout_ms":-1}"#, "not-understood"),
        (r#"{"do":"dance"}"#, "not-understood"),
    ] {
        raw.send(format!(r#"{{"protocol":1,"id":77,"request":{request}}}"#).as_bytes());
        let answer = raw.answer();
        assert!(answer.contains("\"id\":77") && answer.contains(word), "{answer}");
    }
    // A grace of five hundred million years is no overflow.
    tenant.sh("b", "exec sleep 1000");
    raw.send(
        format!(r#"{{"protocol":1,"id":1,"request":{{"do":"stop","name":"b","timeout_ms":{}}}}}"#, u64::MAX).as_bytes(),
    );
    assert!(raw.answer().contains("done"));

    // Clients that ask and go away, that subscribe and never read, and more than init takes.
    for _ in 0..50 {
        Raw::connect(&path).send(br#"{"protocol":1,"id":1,"request":{"do":"restart","name":"a","timeout_ms":50}}"#);
    }
    let deaf = Raw::connect(&path);
    deaf.send(br#"{"protocol":1,"id":1,"request":{"do":"subscribe"}}"#);
    for _ in 0..2000 {
        deaf.send(br#"{"protocol":1,"id":2,"request":{"do":"list"}}"#);
    }
    drop(raw);
    drop(deaf);
    let crowd: Vec<Raw> = (0..100).map(|_| Raw::connect(&path)).collect();
    assert_eq!(tenant.client.hello(SOON).unwrap().name, "acme", "who was there first is served");
    drop(crowd);
    let mut fresh = Client::connect(&path).unwrap();
    let state = eventually("the service runs", || {
        fresh.list(SOON).unwrap().into_iter().find(|state| state.spec.name == "a" && state.pid.is_some())
    });
    assert_eq!(state.spec.name, "a");
}

pub(crate) fn other_users() {
    let tenant = Tenant::launch();
    // Even when somebody opens the way to the socket: the file itself is root's. Init cannot tell one stranger from
    // another, for whom its user namespace has no name.
    let run = tenant.spec.control_socket.parent().unwrap();
    for path in [run.parent().unwrap(), run] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    let script = "import socket,sys\ns=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\ns.settimeout(5)\n\
        try:\n s.connect(sys.argv[1])\n s.send(b'{\"protocol\":1,\"id\":1,\"request\":{\"do\":\"list\"}}')\n \
        print(len(s.recv(9999)))\nexcept OSError as e: print(0)\n";
    let mut ask = Command::new("/usr/bin/python3");
    ask.args(["-c", script]).arg(&tenant.spec.control_socket).stdin(Stdio::null());
    std::os::unix::process::CommandExt::uid(&mut ask, 65_534);
    std::os::unix::process::CommandExt::gid(&mut ask, 65_534);
    let output = ask.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n", "{}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn failed_launch() {
    let root = tempfile::tempdir().unwrap();
    let good = spec(root.path(), "acme");
    let missing = launch::LaunchSpec { init_path: "/nonexistent/tenant-init".into(), ..good.clone() };
    let error = launch::launch(&missing).unwrap_err();
    assert!(matches!(&error, LaunchError::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound), "{error}");
    assert_eq!(error.to_string(), "cannot execute /nonexistent/tenant-init");
    assert!(!good.control_socket.exists());

    let long = launch::LaunchSpec { control_socket: root.path().join("x".repeat(120)), ..good.clone() };
    assert!(matches!(launch::launch(&long), Err(LaunchError::Socket { .. })));
    std::fs::write(root.path().join("file"), "").unwrap();
    let blocked = launch::LaunchSpec { state_dir: root.path().join("file/x"), ..good.clone() };
    assert!(matches!(launch::launch(&blocked), Err(LaunchError::Directory { .. })));

    // A program that is no init: it ends by itself, and whoever asks learns that nobody is there.
    let wrong = launch::LaunchSpec { init_path: "/bin/false".into(), ..good.clone() };
    if let Ok(launched) = launch::launch(&wrong) {
        launch::end(&launched.pidfd, SOON).unwrap();
    }
    let silent = Client::connect(&good.control_socket);
    assert!(matches!(silent, Err(ClientError::Gone { .. })), "{silent:?}");
    launch::forget(&good.control_socket, &good.state_dir).unwrap();
    launch::forget(&good.control_socket, &good.state_dir).unwrap();
}

pub(crate) fn many_threads() {
    // Descriptors of one launch must not get into the init of another: it would hold a dead tenant's socket open.
    let root = tempfile::tempdir().unwrap();
    let specs: Vec<_> = (0..24).map(|n| spec(root.path(), &format!("t{n}"))).collect();
    let launched: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = specs.iter().map(|spec| scope.spawn(|| launch::launch(spec).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (spec, launched) in specs.iter().zip(&launched) {
        let mut client = Client::connect(&spec.control_socket).unwrap();
        let hello = client.hello(SOON).unwrap();
        assert!(hello.ready && hello.name == spec.name.as_str() && hello.netns == launched.netns_inode, "{hello:?}");
        let files = std::fs::read_dir(format!("/proc/{}/fd", launched.pid)).unwrap().count();
        assert!(files <= 7, "{files}");
    }
    for (spec, launched) in specs.iter().zip(&launched) {
        launch::end(&launched.pidfd, Duration::from_secs(10)).unwrap();
        assert!(matches!(Client::connect(&spec.control_socket), Err(ClientError::Gone { .. })));
    }
}
