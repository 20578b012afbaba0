//! Other routes to a socket than `socket` in one's own namespace: io_uring, sockets that were there before, sockets of
//! others, other people's namespaces.

use nix::errno::Errno;
use stack_guard::{Hook, Refusal};

use crate::probe::Probe;
use crate::world::{World, sees_tasks};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_socket_from_before_the_row", a_socket_from_before_the_row),
    ("a_socket_passed_over_a_unix_socket", a_socket_passed),
    ("a_process_that_enters_a_stack", a_process_that_enters_a_stack),
    ("what_is_connected_stays_connected", what_is_connected_stays_connected),
    ("accept_on_a_passed_listener_is_not_seen", accept_on_a_passed_listener),
];

pub(crate) const URING: &[(&str, fn())] = &[("io_uring", io_uring)];

const EPERM: Result<(), Errno> = Err(Errno::EPERM);

fn told(world: &mut World) -> Vec<(Hook, Refusal)> {
    world.refused().iter().map(|event| (event.hook, event.refusal)).collect()
}

fn io_uring() {
    let mut world = World::new();
    let probe = Probe::start(&world.cgroup("outside"));
    probe.enter(&world.b);
    probe.does("socket t v4 tcp");
    probe.does("socket u v4 udp");
    probe.join(&world.cgroup("a"));
    let refusal = Refusal::OtherStack;
    assert_eq!(probe.tries("uring-socket x v4 tcp"), EPERM);
    assert_eq!(probe.tries("uring-socket x v6 udp"), EPERM);
    assert_eq!(probe.tries("uring-connect t 127.0.0.1:9"), EPERM);
    assert_eq!(probe.tries("uring-send u 127.0.0.1:9"), EPERM);
    let hooks = [Hook::SockCreate, Hook::SockCreate, Hook::Connect4, Hook::Sendmsg4];
    assert_eq!(told(&mut world), hooks.map(|hook| (hook, refusal)));
    // The kernel's workers of a process stay in the namespace in which they were started, whatever the process enters.
    probe.enter(&world.a);
    assert_eq!(probe.tries("uring-socket x v4 tcp"), EPERM);
    assert_eq!(told(&mut world), [(Hook::SockCreate, refusal)]);
    let probe = Probe::start(&world.cgroup("a"));
    probe.enter(&world.a);
    probe.does("uring-socket x v4 tcp");
    assert_eq!(probe.tries("uring-connect x 127.0.0.1:9"), Err(Errno::ECONNREFUSED));
    probe.does("uring-socket y v6 udp");
    probe.does("uring-send y [::1]:9");
    assert_eq!(told(&mut world), []);
}

fn a_socket_from_before_the_row() {
    let mut world = World::empty();
    let probe = Probe::start(&world.cgroup("a"));
    probe.enter(&world.host);
    for socket in ["t v4 tcp", "u v4 udp", "l v4 tcp"] {
        probe.does(&format!("socket {socket}"));
    }
    probe.does("bind l 127.0.0.1:0");
    world.guard.put(&world.row_a(), None).unwrap();
    assert_eq!(probe.tries("bind t 127.0.0.1:0"), EPERM);
    assert_eq!(probe.tries("connect t 127.0.0.1:9"), EPERM);
    assert_eq!(probe.tries("send u 127.0.0.1:9"), EPERM);
    probe.does("listen l");
    let no_stack = Refusal::NoStack;
    let mut expected = vec![(Hook::Bind4, no_stack), (Hook::Connect4, no_stack), (Hook::Sendmsg4, no_stack)];
    if sees_tasks() {
        expected.push((Hook::Listen, Refusal::Listen));
    }
    assert_eq!(told(&mut world), expected);
}

fn a_socket_passed() {
    let mut world = World::new();
    let (a, b) = (Probe::start(&world.cgroup("a")), Probe::start(&world.cgroup("b")));
    a.enter(&world.a);
    b.enter(&world.b);
    for socket in ["t v4 tcp", "u v6 udp"] {
        a.does(&format!("socket {socket}"));
    }
    a.passes("t", &b);
    a.passes("u", &b);
    assert_eq!(b.tries("bind t 127.0.0.1:0"), EPERM);
    assert_eq!(b.tries("connect t 127.0.0.1:9"), EPERM);
    assert_eq!(b.tries("bind u [::1]:0"), EPERM);
    assert_eq!(b.tries("send u [::1]:9"), EPERM);
    for event in world.refused() {
        assert_eq!((event.refusal, event.owner), (Refusal::OtherStack, Some(world.b.cookie)));
        assert_eq!((event.wanted, event.pid), (world.a.cookie, b.pid()));
    }
    // Its owner can still.
    a.does("bind t 127.0.0.1:0");
}

fn a_process_that_enters_a_stack() {
    let mut world = World::new();
    let probe = Probe::start(&world.cgroup("outside"));
    // As a program with file capabilities, or a namespace's descriptor that was passed, may leave it.
    probe.enter(&world.a);
    probe.does("socket raw v4 raw");
    probe.does("socket t v4 tcp");
    probe.does("uid 1000");
    for socket in ["v4 tcp", "v6 tcp", "v4 udp", "v6 udp"] {
        assert_eq!(probe.tries(&format!("socket x {socket}")), EPERM);
    }
    assert_eq!(probe.tries("connect t 127.0.0.1:9"), EPERM);
    for (_, refusal) in told(&mut world) {
        assert_eq!(refusal, Refusal::Stranger);
    }
    // Raw sockets have no hook but the one at their making: README.md says so.
    probe.does("send raw 127.0.0.1:0");
    assert_eq!(told(&mut world), []);
}

/// The kernel asks nobody at `send` on a connected socket: README.md says so.
fn what_is_connected_stays_connected() {
    let mut world = World::empty();
    let probe = Probe::start(&world.cgroup("a"));
    probe.enter(&world.host);
    probe.does("socket u v4 udp");
    probe.does("connect u 127.0.0.1:9");
    world.guard.put(&world.row_a(), None).unwrap();
    probe.does("write u");
    assert_eq!(told(&mut world), []);
}

/// The kernel asks nobody at `accept` either.
fn accept_on_a_passed_listener() {
    let mut world = World::new();
    let (a, b) = (Probe::start(&world.cgroup("a")), Probe::start(&world.cgroup("b")));
    a.enter(&world.a);
    b.enter(&world.b);
    for words in ["socket l v4 tcp", "bind l 127.0.0.1:7000", "listen l", "socket c v4 tcp", "connect c 127.0.0.1:7000"]
    {
        a.does(words);
    }
    a.passes("l", &b);
    b.does("accept l s");
    assert_eq!(told(&mut world), []);
}
