//! Every hook x every stack x every way to know whose a process is.

use nix::errno::Errno;
use stack_guard::{Counters, Event, Hook, Refusal};

use crate::probe::{Answer, Probe};
use crate::world::{GIDS_A, GIDS_B, Netns, World, sees_tasks};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("known_by_cgroup", || matrix(By::Cgroup)),
    ("known_by_cgroup_below", || matrix(By::CgroupBelow)),
    ("known_by_real_gid", || matrix(By::Real)),
    ("nobodys_process", || matrix(By::Nothing)),
    ("contradiction_of_cgroup_and_real_gid", contradiction_of_cgroup_and_real_gid),
    ("host_root_passes", host_root_passes),
    ("a_gid_beside_the_range_is_nobodys", a_gid_beside_the_range),
];

/// What needs a kernel that describes itself.
pub(crate) const SEEING: &[(&str, fn())] = &[
    ("known_by_effective_gid", || matrix(By::Effective)),
    ("known_by_saved_gid", || matrix(By::Saved)),
    ("known_by_file_system_gid", || matrix(By::FileSystem)),
    ("known_by_supplementary_gid", || matrix(By::Supplementary)),
    ("known_by_last_of_many_gids", || matrix(By::LastOfMany)),
    ("known_by_first_of_many_gids", || matrix(By::FirstOfMany)),
    ("contradiction_of_cgroup_and_gid", contradiction_of_cgroup_and_gid),
    ("contradiction_of_two_gids", contradiction_of_two_gids),
    ("a_root_that_drops_its_rights_is_not_root", dropped_root),
    ("root_of_a_user_namespace_is_not_host_root", root_of_a_user_namespace),
];

/// How the kernel may know a process of A.
#[derive(Debug, Clone, Copy, PartialEq)]
enum By {
    Cgroup,
    CgroupBelow,
    Real,
    Effective,
    Saved,
    FileSystem,
    Supplementary,
    LastOfMany,
    FirstOfMany,
    Nothing,
}

impl By {
    fn apply(self, world: &World, probe: &Probe) {
        match self {
            Self::Cgroup => probe.join(&world.cgroup("a")),
            Self::CgroupBelow => {
                let below = world.cgroup("a").join("service").join("worker");
                std::fs::create_dir_all(&below).unwrap();
                probe.join(&below);
            }
            Self::Real => probe.does(&format!("rgid {GIDS_A}")),
            Self::Effective => probe.does(&format!("egid {}", GIDS_A + 33)),
            Self::Saved => probe.does(&format!("sgid {}", GIDS_A + 34)),
            Self::FileSystem => probe.does(&format!("fsgid {}", GIDS_A + 35)),
            Self::Supplementary => probe.does(&format!("groups 4,{}", GIDS_A + 65_535)),
            // The kernel sorts them.
            Self::LastOfMany => {
                let many: Vec<String> = (20..120).map(|gid: u32| (gid * 10).to_string()).collect();
                probe.does(&format!("groups {GIDS_A},{}", many.join(",")));
            }
            Self::FirstOfMany => {
                let many: Vec<String> = (1..100).map(|n: u32| (GIDS_B + 65_536 * n).to_string()).collect();
                probe.does(&format!("groups {},{GIDS_A}", many.join(",")));
            }
            Self::Nothing => {}
        }
    }
}

/// What is tried, and at which hook the kernel asks. The sockets were made before the process became A's.
const USES: &[(&str, Hook)] = &[
    ("bind t4 127.0.0.1:0", Hook::Bind4),
    ("bind t6 [::1]:0", Hook::Bind6),
    ("bind u4 127.0.0.1:0", Hook::Bind4),
    ("bind u6 [::1]:0", Hook::Bind6),
    ("connect t4 127.0.0.1:9", Hook::Connect4),
    ("connect t6 [::1]:9", Hook::Connect6),
    ("connect c4 127.0.0.1:9", Hook::Connect4),
    ("connect c6 [::1]:9", Hook::Connect6),
    ("send u4 127.0.0.1:9", Hook::Sendmsg4),
    ("send u6 [::1]:9", Hook::Sendmsg6),
];

const SOCKETS: &[&str] =
    &["t4 v4 tcp", "t6 v6 tcp", "u4 v4 udp", "u6 v6 udp", "c4 v4 udp", "c6 v6 udp", "l4 v4 tcp", "l6 v6 tcp"];

const MADE: &[&str] = &["v4 tcp", "v6 tcp", "v4 udp", "v6 udp", "v4 raw", "v6 raw"];

/// By the guard: nothing else here answers so.
fn is_refused(answer: Answer) -> bool {
    match answer {
        Err(Errno::EPERM) => true,
        // Nobody listens there.
        Ok(()) | Err(Errno::ECONNREFUSED) => false,
        other => panic!("{other:?}"),
    }
}

fn only(events: Vec<Event>, what: &str) -> Event {
    let [event] = <[Event; 1]>::try_from(events).unwrap_or_else(|events| panic!("{what}: {events:#?}"));
    event
}

fn matrix(by: By) {
    for uid in [0, 1000] {
        let mut world = World::new();
        let stacks = [("own", world.a.path()), ("other", world.b.path()), ("host", world.host.path())];
        let probes: Vec<(&str, Probe)> = stacks
            .iter()
            .map(|(stack, path)| {
                let probe = Probe::start(&world.cgroup("outside"));
                probe.does(&format!("netns {path}"));
                for socket in SOCKETS {
                    probe.does(&format!("socket {socket}"));
                }
                // The file system gid follows the effective uid's changes, not the other way round: uid first would
                // take the right to change gids.
                by.apply(&world, &probe);
                if uid != 0 {
                    probe.does(&format!("uid {uid}"));
                }
                probe.does("comm attacker");
                (*stack, probe)
            })
            .collect();
        assert_eq!(world.refused(), [], "root of the host is let through while it is nobody's");
        let mut expected = 0;
        for (stack, probe) in &probes {
            let refusal = expected_refusal(by, stack, uid);
            let uses = USES.iter().map(|&(words, hook)| (words.to_owned(), hook));
            let made = MADE.iter().map(|what| (format!("socket made {what}"), Hook::SockCreate));
            for (words, hook) in made.chain(uses) {
                // Only root may have these.
                if uid != 0 && words.ends_with("raw") {
                    continue;
                }
                let answer = probe.tries(&words);
                let what = format!("{by:?}, uid {uid}, {stack}: {words}");
                assert_eq!(is_refused(answer), refusal.is_some(), "{what}: {answer:?}");
                let Some(refusal) = refusal else {
                    assert_eq!(world.refused(), [], "{what}");
                    continue;
                };
                expected += 1;
                let event = only(world.refused(), &what);
                check_event(&world, &event, (by, uid, stack), probe);
                assert_eq!((event.hook, event.refusal), (hook, refusal), "{what}");
            }
            listening(&mut world, probe, refusal.is_some(), &format!("{by:?}, uid {uid}, {stack}"));
        }
        let blamed = if by == By::Nothing { 2 } else { 1 };
        let counters = world.guard.counters().unwrap();
        let sum: u64 =
            counters.values().flat_map(|c| &c.refusals).filter(|(r, _)| **r != Refusal::Listen).map(|r| r.1).sum();
        assert_eq!(sum, expected, "{counters:#?}");
        let with = counters.values().filter(|c| !c.refusals.is_empty()).count();
        assert_eq!(with, if expected == 0 { 0 } else { blamed }, "{counters:#?}");
    }
}

/// What the rule says.
fn expected_refusal(by: By, stack: &str, uid: u32) -> Option<Refusal> {
    match (by, stack) {
        (By::Nothing, "host") => None,
        (By::Nothing, _) => (uid != 0).then_some(Refusal::Stranger),
        (_, "own") => None,
        (_, "other") => Some(Refusal::OtherStack),
        _ => Some(Refusal::NoStack),
    }
}

fn check_event(world: &World, event: &Event, (by, uid, stack): (By, u32, &str), probe: &Probe) {
    let wanted: &Netns = match stack {
        "own" => &world.a,
        "other" => &world.b,
        _ => &world.host,
    };
    assert_eq!(event.wanted, wanted.cookie);
    assert_eq!(event.owner, (by != By::Nothing).then_some(world.a.cookie));
    assert_eq!(event.other, None);
    assert_eq!((event.pid, event.uid, event.comm.as_str()), (probe.pid(), uid, "attacker"));
    assert_eq!(event.gid, if by == By::Real { GIDS_A } else { 0 });
    let v6 = matches!(event.hook, Hook::Bind6 | Hook::Connect6 | Hook::Sendmsg6);
    if event.hook != Hook::SockCreate {
        assert_eq!(event.family, u32::try_from(if v6 { libc::AF_INET6 } else { libc::AF_INET }).unwrap());
        let port = if matches!(event.hook, Hook::Bind4 | Hook::Bind6) { 0 } else { 9 };
        assert_eq!(event.port, port);
    }
}

/// No program can refuse it: it succeeds, and is told when it should not have.
fn listening(world: &mut World, probe: &Probe, foreign: bool, what: &str) {
    for socket in ["l4", "l6"] {
        probe.does(&format!("listen {socket}"));
        let told: Vec<(Hook, Refusal)> = world.refused().iter().map(|e| (e.hook, e.refusal)).collect();
        let expected: &[_] = if foreign && sees_tasks() { &[(Hook::Listen, Refusal::Listen)] } else { &[] };
        assert_eq!(told, expected, "{what}: listen {socket}");
    }
}

fn contradiction_of_cgroup_and_gid() {
    contradiction(|world, probe| {
        probe.join(&world.cgroup("a"));
        probe.does(&format!("groups {GIDS_B}"));
    });
}

fn contradiction_of_cgroup_and_real_gid() {
    contradiction(|world, probe| {
        probe.join(&world.cgroup("a"));
        probe.does(&format!("rgid {GIDS_B}"));
    });
}

fn contradiction_of_two_gids() {
    contradiction(|_, probe| {
        probe.does(&format!("groups {GIDS_B}"));
        probe.does(&format!("egid {GIDS_A}"));
    });
}

/// Refused in both stacks and in the host's.
fn contradiction(become_both: fn(&World, &Probe)) {
    let mut world = World::new();
    let probe = Probe::start(&world.cgroup("outside"));
    become_both(&world, &probe);
    for stack in [&world.a, &world.b, &world.host].map(Netns::path) {
        probe.does(&format!("netns {stack}"));
        assert!(is_refused(probe.tries("socket x v4 tcp")), "{stack}");
        let event = only(world.refused(), &stack);
        assert_eq!((event.refusal, event.owner), (Refusal::Contradiction, Some(world.a.cookie)));
        assert_eq!(event.other, Some(world.b.cookie));
    }
    let counters: Counters = world.guard.counters_of(world.a.cookie).unwrap();
    assert_eq!(counters.refusals, [(Refusal::Contradiction, 3)].into());
}

fn host_root_passes() {
    let mut world = World::new();
    let probe = Probe::start(&world.cgroup("outside"));
    for stack in [&world.a, &world.b, &world.host] {
        probe.enter(stack);
        for socket in MADE {
            probe.does(&format!("socket x {socket}"));
        }
        probe.does("socket x v4 tcp");
        probe.does("bind x 127.0.0.1:0");
        probe.does("listen x");
    }
    assert_eq!(world.refused(), []);
}

/// And one that takes them back is.
fn dropped_root() {
    let mut world = World::new();
    let probe = Probe::start(&world.cgroup("outside"));
    probe.enter(&world.a);
    probe.does("euid 1000");
    assert!(is_refused(probe.tries("socket x v4 tcp")));
    assert_eq!(only(world.refused(), "dropped").refusal, Refusal::Stranger);
    probe.does("euid 0");
    probe.does("socket x v4 tcp");
}

/// Uid 0 of the host in a user namespace of its own has no rights over the host, and none here.
fn root_of_a_user_namespace() {
    let mut world = World::new();
    let probe = Probe::start(&world.cgroup("outside"));
    probe.enter(&world.a);
    probe.does("userns");
    assert!(is_refused(probe.tries("socket x v4 tcp")));
    assert_eq!(only(world.refused(), "userns").refusal, Refusal::Stranger);
}

fn a_gid_beside_the_range() {
    let mut world = World::new();
    let probe = Probe::start(&world.cgroup("outside"));
    probe.does(&format!("groups {},{}", GIDS_A - 1, GIDS_B + 65_536));
    probe.enter(&world.host);
    probe.does("uid 1000");
    probe.does("socket x v4 tcp");
    assert_eq!(world.refused(), []);
}
