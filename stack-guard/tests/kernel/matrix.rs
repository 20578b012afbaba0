//! Every hook x every stack x every way to know whose a process is.

use nix::errno::Errno;
use stack_guard::{Hook, Refusal};

use crate::probe::{Answer, Probe};
use crate::world::{GIDS_A, World};

pub(crate) const TESTS: &[(&str, fn())] =
    &[("known_by_cgroup", || matrix(|world, probe| probe.join(&world.cgroup("a"))))];

fn is_refused(answer: Answer) -> bool {
    match answer {
        Err(Errno::EPERM) => true,
        // Nobody listens there.
        Ok(()) | Err(Errno::ECONNREFUSED) => false,
        other => panic!("{other:?}"),
    }
}

fn matrix(become_a: fn(&World, &Probe)) {
    let mut world = World::new();
    let probe = Probe::start(&world.cgroup("outside"));
    become_a(&world, &probe);
    probe.enter(&world.a);
    assert!(!is_refused(probe.tries("socket x v4 tcp")));
    probe.enter(&world.b);
    assert!(is_refused(probe.tries("socket x v4 tcp")));
    let events = world.refused();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].hook, events[0].refusal), (Hook::SockCreate, Refusal::OtherStack));
    let _ = GIDS_A;
}
