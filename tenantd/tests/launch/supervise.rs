//! What init does for a service beside running it: users, files, order, readiness, logs, and its end.

use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use tenant_init::client::{Client, ClientError};
use tenant_init::protocol::{
    Directory, Ready, Refusal, RefusalKind, Request, Restart, RunState, ServiceFile, ServiceSpec,
};

use crate::tenant::{SOON, Tenant, command, eventually, spec, status};

fn script(name: &str, text: &str) -> ServiceSpec {
    command(name, &["/bin/sh", "-c", text])
}

fn file(path: &str, content: &str) -> ServiceFile {
    ServiceFile { path: path.into(), content: content.into(), mode: None, user: None, group: None, keep: false }
}

fn refused(tenant: &mut Tenant, spec: ServiceSpec) -> Refusal {
    let deadline = spec.longest_start();
    match tenant.client.start(spec, deadline) {
        Err(ClientError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// A user that only this tenant has.
const SHOP: &str = "echo 'shop:x:4711:4712:Shop:/srv/shop:/bin/bash' >>/etc/passwd; \
    printf 'shop:x:4712:\\nextra:x:4713:shop\\n' >>/etc/group";

pub(crate) fn users_and_files() {
    let mut tenant = Tenant::launch();
    tenant.output_of(SHOP);
    let shop = || Some("shop".to_owned());
    let service = ServiceSpec {
        user: shop(),
        directories: vec![Directory { path: "/srv/shop".into(), mode: Some(0o2750), user: shop(), group: None }],
        files: vec![
            ServiceFile {
                mode: Some(0o440),
                user: shop(),
                group: Some("extra".into()),
                ..file("/srv/shop/c", "wares")
            },
            ServiceFile { keep: true, ..file("/etc/shop/deep/kept", "ours") },
        ],
        prepare: vec![vec!["/bin/sh".into(), "-c".into(), "id -u; echo prepared >mine".into()]],
        ..script(
            "a",
            "id -u; id -g; id -G; echo $HOME $USER $LOGNAME $SHELL; pwd; cat c mine; echo; stat -c %a:%u:%g . c mine; \
                cat /etc/shop/deep/kept; echo; echo again >>/dev/stderr; echo =end=; exec sleep 1000",
        )
    };
    tenant.client.start(service.clone(), SOON).unwrap();
    let wanted = "4711\n4711\n4712\n4712 4713\n/srv/shop shop shop /bin/bash\n/srv/shop\nwaresprepared\n\n\
        2750:4711:4712\n440:4711:4713\n644:4711:4712\nours\nagain\n=end=\n";
    eventually("all lines", || Some(()).filter(|()| tenant.log("a").ends_with("=end=\n")));
    assert_eq!(tenant.log("a"), wanted);
    // At the next start ours is written anew, theirs is kept, and a link is replaced, not followed.
    tenant.output_of("echo theirs >/etc/shop/deep/kept; cd /srv/shop; echo precious >/root/p; rm c; ln -s /root/p c");
    tenant.client.restart("a", SOON).unwrap();
    let again = wanted.replace("\nours\n", "\ntheirs\n\n");
    eventually("all lines", || Some(()).filter(|()| tenant.log("a").matches("=end=").count() == 2));
    assert_eq!(tenant.log("a"), format!("{wanted}{again}"));
    assert_eq!(tenant.output_of("cat /root/p"), "precious");
    // The list shows the short form, which the daemon can compute too.
    assert_eq!(tenant.client.list(SOON).unwrap()[0].spec, service.outline());

    // Whatever the tenant makes of its own files, init answers.
    for (nonsense, user, field) in [
        ("ln -sf /dev/zero /etc/passwd", "shop", "user"),
        ("rm /etc/passwd; mkfifo /etc/passwd", "shop", "user"),
        ("rm /etc/passwd; truncate -s 1T /etc/passwd", "shop", "user"),
        ("rm /etc/passwd; echo 'shop:x:4294967295:0::/:' >/etc/passwd", "shop", "user"),
        ("true", "65536", "user"),
        ("rm /etc/passwd; echo 'shop:x:4711:4712::/:' >/etc/passwd", "none", "user"),
        ("rm -r /srv/shop; ln -s /proc/self/fd/3 /srv/shop", "shop", "directories"),
    ] {
        tenant.output_of(nonsense);
        let service = ServiceSpec { name: "b".into(), user: Some(user.into()), ..service.clone() };
        assert_eq!(refused(&mut tenant, service).field, field, "{nonsense}");
    }
    let read_only = ServiceSpec { files: vec![file("/usr/lib/x", "")], ..script("b", "sleep 1000") };
    let why = refused(&mut tenant, read_only);
    assert!(why.value == "/usr/lib/x" && why.rule.contains("Read-only"), "{why}");
    assert_eq!(tenant.client.list(SOON).unwrap().len(), 1);
}

pub(crate) fn privileges() {
    let mut tenant = Tenant::launch();
    tenant.output_of(SHOP);
    tenant.output_of("mkdir -p /srv; cp /usr/bin/id /srv/id; chmod 4755 /srv/id");
    let id = |name: &str| ServiceSpec { user: Some("shop".into()), ..script(name, "/srv/id -u; exec sleep 1000") };
    let line =
        |tenant: &Tenant, name: &str| eventually("a line", || tenant.log(name).lines().next().map(str::to_owned));
    tenant.client.start(id("a"), SOON).unwrap();
    assert_eq!(line(&tenant, "a"), "4711", "a set-id program gives nothing");
    tenant.client.start(ServiceSpec { new_privileges: true, ..id("b") }, SOON).unwrap();
    assert_eq!(line(&tenant, "b"), "0", "unless the service may");

    let caps = |tenant: &mut Tenant, user: Option<&str>, names: &[&str]| {
        let names = Some(names.iter().map(|name| (*name).to_owned()).collect());
        let service =
            ServiceSpec { user: user.map(str::to_owned), capabilities: names, ..command("c", &["sleep", "1000"]) };
        tenant.client.start(service, SOON).unwrap();
        let found = tenant.children().into_iter().find(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words == b"sleep\x001000\0")
                && !status(*pid, "Seccomp").is_empty()
                && status(*pid, "CapBnd") != status(tenant.launched.pid, "CapBnd")
        });
        let sets =
            ["CapEff", "CapBnd", "CapAmb"].map(|set| u64::from_str_radix(&status(found.unwrap(), set), 16).unwrap());
        tenant.client.remove("c", SOON).unwrap();
        sets
    };
    let (bind, chown) = (1 << 10, 1);
    assert_eq!(caps(&mut tenant, None, &[]), [0, 0, 0]);
    assert_eq!(caps(&mut tenant, None, &["chown", "net_bind_service"]), [bind | chown, bind | chown, 0]);
    assert_eq!(caps(&mut tenant, Some("shop"), &["net_bind_service"]), [bind; 3]);
    // What the tenant does not have nobody gives.
    assert_eq!(caps(&mut tenant, Some("shop"), &["sys_admin", "chown"]), [chown; 3]);
}

const LISTEN: &str = "import socket,sys,time\ntime.sleep(float(sys.argv[2]))\n\
    s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM if sys.argv[3:] else socket.SOCK_STREAM)\n\
    s.bind(('0.0.0.0',int(sys.argv[1])))\nif not sys.argv[3:]: s.listen()\nprint('open',flush=True)\ntime.sleep(1000)";

/// A server that opens a port after a while.
fn listener(name: &str, ready: Ready, seconds: &str) -> ServiceSpec {
    let words = match ready {
        Ready::Udp(port) => vec![port.to_string(), seconds.to_owned(), "udp".to_owned()],
        Ready::Tcp(port) => vec![port.to_string(), seconds.to_owned()],
        _ => unreachable!("a port"),
    };
    let argv = ["/usr/bin/python3", "-c", LISTEN].map(str::to_owned).into_iter().chain(words).collect();
    ServiceSpec { name: name.into(), argv, ready, ..ServiceSpec::default() }
}

pub(crate) fn refusals() {
    let mut tenant = Tenant::launch();
    // Ends at once; the last lines tell why, and no terminal obeys them.
    let long = "for i in $(seq 30); do echo line $i; done; printf 'bad \\033[2Joption\\n'; exit 3";
    let why = refused(&mut tenant, ServiceSpec { ready: Ready::Alive(20_000), ..script("a", long) });
    assert_eq!((why.kind, why.field.as_str(), why.log.len()), (RefusalKind::Ended, "service", 10));
    assert!(why.rule.contains("exit 3") && why.log[9] == "bad ?[2Joption" && why.log[8] == "line 30", "{why}");
    // A second attempt tells its own lines only.
    let why = refused(&mut tenant, ServiceSpec { ready: Ready::Exit, ..script("a", "echo other; kill -9 $$") });
    assert!(why.rule.contains("signal 9") && why.log == ["other"], "{why}");
    let prepare = vec![vec!["/bin/sh".into(), "-c".into(), "echo no database; exit 4".into()]];
    let why = refused(&mut tenant, ServiceSpec { prepare, ..script("a", "exec sleep 1000") });
    assert!(why.field == "prepare" && why.rule.contains("exit 4") && why.log == ["no database"], "{why}");
    let prepare = vec![vec!["/nonexistent".into()]];
    let why = refused(&mut tenant, ServiceSpec { prepare, ..script("a", "exec sleep 1000") });
    assert_eq!((why.kind, why.value.as_str()), (RefusalKind::Command, "/nonexistent"));

    // Not ready in time: it is ended with what it started, and the deadline is held.
    let slow = ServiceSpec {
        ready: Ready::Tcp(81),
        // Long enough for the shell to have said its word.
        ready_timeout_ms: Some(2000),
        stop_timeout_ms: Some(200),
        ..script("a", "setsid sleep 1000 & trap '' TERM; echo waiting; while :; do sleep 1; done")
    };
    let since = Instant::now();
    let why = refused(&mut tenant, slow);
    assert!(why.kind == RefusalKind::Late && why.rule.contains("81/tcp") && why.log == ["waiting"], "{why}");
    // Not when the service likes, which is never.
    assert!(since.elapsed() >= Duration::from_millis(2190) && since.elapsed() < Duration::from_secs(20));
    // A prepare command that hangs does not stop init from answering others.
    let hangs = vec![vec!["sleep".into(), "1000".into()]];
    let hangs = ServiceSpec { prepare: hangs, prepare_timeout_ms: Some(5000), ..script("a", "exec sleep 1000") };
    let socket = tenant.spec.control_socket.clone();
    let other = std::thread::spawn(move || Client::connect(&socket).unwrap().start(hangs, SOON).unwrap_err());
    eventually("it prepares", || {
        tenant.client.list(SOON).unwrap().pop().filter(|one| one.state == RunState::Preparing)
    });
    let since = Instant::now();
    tenant.client.hello(SOON).unwrap();
    // Of the five seconds that one hangs: an init that waited for it would answer at their end.
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    assert!(matches!(other.join().unwrap(), ClientError::Refused(why) if why.kind == RefusalKind::Late));
    assert!(tenant.client.list(SOON).unwrap().is_empty(), "nothing half-started stays");
    assert_eq!(tenant.client.processes(SOON).unwrap(), 0);

    // A port that somebody has: TCP and UDP are two.
    for (ready, other) in [(Ready::Tcp(80), Ready::Udp(80)), (Ready::Udp(53), Ready::Tcp(53))] {
        tenant.client.start(listener("first", ready, "0"), SOON).unwrap();
        assert!(tenant.log("first").ends_with("open\n") || tenant.client.list(SOON).unwrap()[0].pid.is_some());
        let why = refused(&mut tenant, listener("second", ready, "0"));
        assert!(why.kind == RefusalKind::Port && why.rule.contains("already used"), "{why}");
        tenant.client.start(listener("second", other, "0"), SOON).unwrap();
        tenant.client.remove("second", SOON).unwrap();
        tenant.client.remove("first", SOON).unwrap();
    }
}

pub(crate) fn order() {
    let mut tenant = Tenant::launch();
    let socket = tenant.spec.control_socket.clone();
    let start = move |service: ServiceSpec| {
        let deadline = service.longest_start();
        Client::connect(&socket).unwrap().start(service, deadline).map(|_| Instant::now())
    };
    let since = Instant::now();
    let db = std::thread::spawn({
        let start = start.clone();
        move || start(listener("db", Ready::Tcp(5432), "0.4")).unwrap()
    });
    // Known from here on; it may even run by the time somebody looks.
    eventually("db starts", || {
        let all = tenant.client.list(SOON).unwrap();
        all.into_iter().find(|one| matches!(one.state, RunState::Starting | RunState::Running))
    });
    let connect = "import socket;socket.create_connection(('127.0.0.1',5432)).close()";
    let work =
        ServiceSpec { after: vec!["db".into()], ready: Ready::Exit, ..command("work", &["python3", "-c", connect]) };
    let done = start(work).unwrap();
    let ready = db.join().unwrap();
    // That it was done after db was ready, `work` says itself: it ends well only where it could connect.
    assert!(ready - since >= Duration::from_millis(400) && done - since >= Duration::from_millis(400));
    let states: Vec<RunState> = tenant.client.list(SOON).unwrap().iter().map(|one| one.state).collect();
    assert_eq!(states, [RunState::Running, RunState::Done]);
    for (after, kind) in [("nobody", RefusalKind::Unknown), ("web", RefusalKind::Unknown)] {
        let web = ServiceSpec { after: vec![after.into()], ..script("web", "exec sleep 1000") };
        assert_eq!(refused(&mut tenant, web).kind, kind);
    }
    // What nobody restarts says how it ended.
    let once = ServiceSpec { restart: Restart::Never, ..script("once", "exit 5") };
    tenant.client.start(once, SOON).unwrap();
    let failed = || tenant.client.list(SOON).unwrap().into_iter().find(|one| one.state == RunState::Failed);
    assert_eq!(eventually("its end", failed).last_exit.as_deref(), Some("exit 5"));
}

pub(crate) fn runaways() {
    let mut tenant = Tenant::launch();
    tenant.sh("other", "exec sleep 1000");
    // A daemon as daemons do it, and one that always has children of its own, in sessions of their own; all without
    // parent, environment and standard streams.
    let daemon = "env -i setsid sh -c 'cd /; sleep 1000 & exec sleep 1000' </dev/null >/dev/null 2>&1 &";
    let hydra = "env -i setsid sh -c 'while :; do setsid sleep 0.05 & sleep 0.002; done' </dev/null >/dev/null 2>&1 &";
    tenant.sh("a", &format!("({daemon}); ({hydra}); ({hydra}); echo up; exec sleep 1000"));
    eventually("many processes", || Some(()).filter(|()| tenant.client.processes(SOON).unwrap() > 12));
    let since = Instant::now();
    tenant.client.stop("a", SOON).unwrap();
    // Not by the end of the grace, when what does not obey is killed.
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    assert_eq!(tenant.client.processes(SOON).unwrap(), 1, "only the other service");
    // Also when the first process ends by itself, before it is started again.
    tenant.sh("b", "(setsid sleep 1000 &); sleep 0.05; exit 1");
    eventually("restarts", || {
        tenant.client.list(SOON).unwrap().into_iter().find(|one| one.spec.name == "b" && one.restarts >= 3)
    });
    assert!(tenant.client.processes(SOON).unwrap() <= 5);
    tenant.client.remove("b", SOON).unwrap();
    assert_eq!(tenant.client.processes(SOON).unwrap(), 1);
}

pub(crate) fn flood() {
    let mut tenant = Tenant::launch();
    let log = tenant.spec.state_dir.join("logs/a.log");
    tenant.sh("a", "yes 'a line that is written without end'& yes no line end | tr -d '\\n' & wait");
    eventually("a log put aside", || Some(()).filter(|()| log.with_extension("log.1").exists()));
    let until = Instant::now() + Duration::from_secs(2);
    let (mut answers, mut most) = (Vec::new(), 0);
    while Instant::now() < until {
        let since = Instant::now();
        tenant.client.hello(SOON).unwrap();
        answers.push(since.elapsed());
        let size = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |about| about.size());
        most = most.max(size(&log) + size(&log.with_extension("log.1")));
        std::thread::sleep(Duration::from_millis(5));
    }
    answers.sort();
    let (usual, worst) = (answers[answers.len() * 3 / 4], answers[answers.len() - 1]);
    println!("flood: slowest answer {worst:?}, largest log {most} bytes");
    // An init that is busy with the log is slow all the time; a machine that stands still makes one answer slow.
    assert!(usual < Duration::from_secs(1), "{usual:?}");
    assert!(most < 3 << 20, "{most}");
    let ours = |name: std::ffi::OsString| name.to_string_lossy().starts_with("a.log");
    let count = std::fs::read_dir(log.parent().unwrap()).unwrap().filter(|one| ours(one.as_ref().unwrap().file_name()));
    assert!(count.count() <= 2);
    // How many lines the end of such a log holds depends on who wrote last: what knows no line's end is one line.
    let tail = tenant.client.tail("a", 3, SOON).unwrap();
    assert!((1..=3).contains(&tail.len()), "{} lines", tail.len());
    assert!(tail.iter().map(String::len).sum::<usize>() <= 32 << 10);
    tenant.client.stop("a", SOON).unwrap();
    assert_eq!(tenant.client.processes(SOON).unwrap(), 0);
}

pub(crate) fn full_disk() {
    let root = tempfile::tempdir().unwrap();
    std::fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let spec = spec(root.path(), "acme");
    let logs = spec.state_dir.join("logs");
    std::fs::create_dir_all(&logs).unwrap();
    // A small file system for the logs, in a mount namespace that ends with this thread.
    let launched = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS | nix::sched::CloneFlags::CLONE_FS).unwrap();
        let none = None::<&str>;
        let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
        nix::mount::mount(none, "/", none, private, none).unwrap();
        let size = Some("size=128k,mode=0711");
        nix::mount::mount(Some("tmpfs"), &logs, Some("tmpfs"), nix::mount::MsFlags::empty(), size).unwrap();
        let directory = std::fs::File::open(&logs).unwrap();
        (Tenant::from_spec(root, spec), directory)
    });
    let (mut tenant, directory) = launched.join().unwrap();
    let inside = |name: &str| format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
    let log = || std::fs::read_to_string(inside("a.log")).unwrap_or_default();
    tenant.sh("a", "echo first; i=0; while :; do i=$((i+1)); echo $i >/run/turn; echo turn $i; sleep 0.01; done");
    eventually("the first lines", || Some(()).filter(|()| log().contains("turn 1\n")));
    let mut filler = std::fs::File::create(inside("filler")).unwrap();
    while std::io::Write::write_all(&mut filler, &[1; 4096]).is_ok() {}
    eventually("no room", || {
        let (before, _) = (log().len(), std::thread::sleep(Duration::from_millis(300)));
        Some(()).filter(|()| log().len() == before)
    });
    // The service goes on, and so does init.
    let turn = |tenant: &mut Tenant| tenant.client.list(SOON).unwrap()[0].pid.is_some();
    assert!(turn(&mut tenant));
    tenant.client.restart("a", SOON).unwrap();
    std::fs::remove_file(inside("filler")).unwrap();
    drop(filler);
    eventually("the note about what is missing", || {
        Some(()).filter(|()| log().contains("bytes of the log were dropped"))
    });
    let text = log();
    let note = text.lines().position(|line| line.contains("were dropped")).unwrap();
    eventually("lines after it", || Some(()).filter(|()| log().lines().count() > note + 2));
    assert_eq!(tenant.client.list(SOON).unwrap()[0].restarts, 0);
}

pub(crate) fn reload() {
    let mut tenant = Tenant::launch();
    tenant.sh("a", "trap 'echo again' HUP; echo up; while :; do sleep 0.02; done");
    eventually("the trap", || Some(()).filter(|()| tenant.log("a").contains("up")));
    tenant.client.signal("a", libc::SIGHUP, SOON).unwrap();
    eventually("its work", || Some(()).filter(|()| tenant.log("a").contains("again")));
    assert_eq!(tenant.client.tail("a", 1, SOON).unwrap(), ["again"]);
    assert!(matches!(tenant.client.signal("a", 0, SOON), Err(ClientError::Refused(_))));
    assert!(matches!(tenant.client.signal("b", 1, SOON), Err(ClientError::Refused(_))));
    assert!(matches!(tenant.client.tail("b", 1, SOON), Err(ClientError::Refused(_))));
    // A signal and a grace of its own.
    let own = script("b", "trap 'echo quit; exit 0' QUIT; trap '' TERM; echo up; while :; do sleep 0.02; done");
    tenant.client.start(ServiceSpec { stop_signal: Some(libc::SIGQUIT), ..own }, SOON).unwrap();
    eventually("the trap", || Some(()).filter(|()| tenant.log("b").contains("up")));
    tenant.client.stop("b", SOON).unwrap();
    assert!(tenant.log("b").ends_with("quit\n"), "its last words are in the log: {}", tenant.log("b"));
}

pub(crate) fn dead_clients() {
    let mut tenant = Tenant::launch();
    let slow = ServiceSpec { ready: Ready::Alive(150), ..script("a", "exec sleep 1000") };
    // Each dies right after it asked: a start, restarts one after another, and a start that comes to nothing.
    let ask = |tenant: &Tenant, request: Request| {
        let asked = Client::connect(&tenant.spec.control_socket).unwrap().request(request, Duration::from_millis(1));
        assert!(matches!(asked, Err(ClientError::Deadline(_)) | Ok(_)), "{asked:?}");
    };
    ask(&tenant, Request::Start { service: Box::new(slow.clone()) });
    for _ in 0..20 {
        ask(&tenant, Request::Restart { name: "a".into(), timeout_ms: 1000 });
        std::thread::sleep(Duration::from_millis(10));
    }
    let bad = ServiceSpec { ready: Ready::Alive(5000), ..script("b", "sleep 0.1; exit 1") };
    ask(&tenant, Request::Start { service: Box::new(bad) });
    eventually("one service that runs", || {
        let all = tenant.client.list(SOON).unwrap();
        Some(()).filter(|()| all.len() == 1 && all[0].state == RunState::Running)
    });
    // Asked again, as a daemon does that comes back, it is found.
    let pid = tenant.client.start(slow, SOON).unwrap();
    assert_eq!(tenant.client.list(SOON).unwrap()[0].pid, Some(pid));
    assert_eq!(tenant.client.processes(SOON).unwrap(), 1);
}

pub(crate) fn long_list() {
    let mut tenant = Tenant::launch();
    for n in 0..5 {
        let service = command(&format!("s{n}"), &["sleep", "1000", &"0".repeat(50_000)]);
        tenant.client.start(service, SOON).unwrap();
    }
    let names: Vec<String> = tenant.client.list(SOON).unwrap().into_iter().map(|one| one.spec.name).collect();
    assert_eq!(names, ["s0", "s1", "s2", "s3", "s4"]);
    let large = ServiceSpec { files: vec![file("/srv/x", &"x".repeat(58_000))], ..script("x", "true") };
    assert_eq!(refused(&mut tenant, large).field, "service");
}
