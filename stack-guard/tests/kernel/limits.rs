//! The number of connections a stack may have.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use stack_guard::{Guard, Hook, Refusal, Row};

use crate::probe::Probe;
use crate::world::World;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("outgoing", outgoing),
    ("incoming", incoming),
    ("the_limit_stays_without_a_process_and_can_be_lifted", the_limit_stays),
    ("many_connections_come_and_go", many_connections_come_and_go),
];

/// Connections counted; what was closed is counted off a little later.
fn connections(guard: &Guard, cookie: u64, expected: u64) {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let now = guard.counters_of(cookie).unwrap().connections;
        if now == expected {
            return;
        }
        assert!(Instant::now() < end, "{now} connections, not {expected}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A listener in A, by its own process, and the row with a limit.
fn limited(limit: u32) -> (World, Probe) {
    let mut world = World::new();
    let row = Row { max_connections: Some(limit), ..world.row_a() };
    let netns = world.a.file.try_clone().unwrap();
    world.guard.put(&row, Some(std::os::fd::AsFd::as_fd(&netns))).unwrap();
    let probe = Probe::start(&world.cgroup("a"));
    probe.enter(&world.a);
    for (name, family, address) in [("l4", "v4", "127.0.0.1:7000"), ("l6", "v6", "[::1]:7000")] {
        probe.does(&format!("socket {name} {family} tcp"));
        probe.does(&format!("bind {name} {address}"));
        probe.does(&format!("listen {name}"));
    }
    (world, probe)
}

fn connect(probe: &Probe, name: &str) -> Result<(), Errno> {
    let v6 = name.starts_with("v6");
    probe.does(&format!("socket {name} {} tcp", if v6 { "v6" } else { "v4" }));
    probe.tries(&format!("connect {name} {}", if v6 { "[::1]:7000" } else { "127.0.0.1:7000" }))
}

/// Both ends of a connection are in the stack, so each counts two.
fn outgoing() {
    let (mut world, probe) = limited(4);
    let cookie = world.a.cookie;
    assert_eq!(connect(&probe, "one"), Ok(()));
    assert_eq!(connect(&probe, "v6two"), Ok(()));
    connections(&world.guard, cookie, 4);
    assert_eq!(connect(&probe, "three"), Err(Errno::EPERM));
    assert_eq!(connect(&probe, "v6four"), Err(Errno::EPERM));
    let events = world.refused();
    let told: Vec<_> = events.iter().map(|e| (e.hook, e.refusal, e.port, e.owner)).collect();
    let out = Refusal::ConnectionsOut;
    assert_eq!(told, [(Hook::Connect4, out, 7000, Some(cookie)), (Hook::Connect6, out, 7000, Some(cookie))]);
    // Datagrams are not connections.
    probe.does("socket u v4 udp");
    probe.does("connect u 127.0.0.1:9");
    probe.does("write u");
    // The other stack has no limit.
    assert_eq!(world.guard.row(world.b.cookie).unwrap().max_connections, None);
    for words in ["close one", "accept l4 s", "close s"] {
        probe.does(words);
    }
    connections(&world.guard, cookie, 2);
    assert_eq!(connect(&probe, "five"), Ok(()));
    connections(&world.guard, cookie, 4);
}

/// Root of the host may always connect, and its ends count as well; so what is refused here is the accepting end.
fn incoming() {
    let (mut world, _listener) = limited(2);
    let cookie = world.a.cookie;
    let client = Probe::start(&world.cgroup("outside"));
    client.enter(&world.a);
    assert_eq!(connect(&client, "one"), Ok(()));
    connections(&world.guard, cookie, 2);
    for name in ["two", "v6three"] {
        assert_eq!(connect(&client, name), Err(Errno::ECONNREFUSED), "{name}");
    }
    let told: Vec<_> = world.refused().iter().map(|e| (e.hook, e.refusal, e.wanted, e.port, e.pid)).collect();
    assert_eq!(told, vec![(Hook::Incoming, Refusal::ConnectionsIn, cookie, 7000, 0); 2]);
    let counters = world.guard.counters_of(cookie).unwrap();
    assert_eq!(counters.refusals, [(Refusal::ConnectionsIn, 2)].into());
    client.does("write one");
}

fn the_limit_stays() {
    let (mut world, _listener) = limited(2);
    let cookie = world.a.cookie;
    let client = Probe::start(&world.cgroup("outside"));
    client.enter(&world.a);
    assert_eq!(connect(&client, "one"), Ok(()));
    connections(&world.guard, cookie, 2);
    world.guard = Guard::open(&world.options).unwrap();
    assert_eq!(world.guard.row(cookie).unwrap().max_connections, Some(2));
    connections(&world.guard, cookie, 2);
    assert_eq!(connect(&client, "two"), Err(Errno::ECONNREFUSED));
    // Higher: at once. And away: the namespace is free of it.
    let netns = world.a.file.try_clone().unwrap();
    let netns = Some(std::os::fd::AsFd::as_fd(&netns));
    let row = Row { max_connections: Some(4), ..world.row_a() };
    world.guard.put(&row, netns).unwrap();
    assert_eq!(connect(&client, "three"), Ok(()));
    connections(&world.guard, cookie, 4);
    assert_eq!(connect(&client, "four"), Err(Errno::ECONNREFUSED));
    world.guard.put(&world.row_a(), None).unwrap();
    assert_eq!(connect(&client, "five"), Ok(()));
    assert!(!world.options.pin_dir.join(format!("limit_{cookie}")).exists());
}

/// No connection is counted for ever, however it ends.
fn many_connections_come_and_go() {
    let world = World::new();
    let cookie = world.a.cookie;
    let probe = Probe::start(&world.cgroup("a"));
    probe.enter(&world.a);
    for words in ["socket l v4 tcp", "bind l 127.0.0.1:7000", "listen l"] {
        probe.does(words);
    }
    for n in 0..100 {
        assert_eq!(connect(&probe, "c"), Ok(()));
        probe.does("accept l s");
        // Either end first, or refused.
        probe.does(if n % 2 == 0 { "close s" } else { "close c" });
        probe.does("socket d v4 tcp");
        assert_eq!(probe.tries("connect d 127.0.0.1:9"), Err(Errno::ECONNREFUSED));
    }
    for words in ["close c", "close s", "close d"] {
        probe.does(words);
    }
    connections(&world.guard, cookie, 0);
    assert_eq!(connect(&probe, "c"), Ok(()));
    connections(&world.guard, cookie, 2);
    drop(probe);
    connections(&world.guard, cookie, 0);
}
