//! The supervisor against a fake system: no process, no clock.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

#[derive(Default)]
struct Fake {
    last: i32,
    signals: Vec<(i32, i32)>,
    broken: bool,
}

impl Processes for Fake {
    fn spawn(&mut self, spec: &ServiceSpec) -> Result<i32, Refusal> {
        if self.broken {
            return Err(Refusal::new(RefusalKind::Command, "command", &spec.argv[0], "not found"));
        }
        self.last += 1;
        Ok(self.last)
    }
    fn signal(&mut self, group: i32, signal: i32) {
        self.signals.push((group, signal));
    }
}

fn spec(name: &str) -> ServiceSpec {
    ServiceSpec { name: name.into(), argv: vec!["/bin/x".into()], ..ServiceSpec::default() }
}

const W: Waiter = Waiter { connection: 1, request: 9 };
const GRACE: Duration = Duration::from_secs(5);

#[test]
fn a_service_that_dies_is_started_again_after_growing_pauses() {
    let (mut all, mut fake, mut now) = (Supervisor::default(), Fake::default(), Instant::now());
    all.start(spec("web"), now, &mut fake).unwrap();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        all.ended(fake.last, "exit 1", now, &mut fake);
        let due = all.next_due().unwrap();
        pauses.push(u64::try_from((due - now).as_millis()).unwrap());
        // Nothing happens too early.
        let before = fake.last;
        all.tick(due - Duration::from_millis(1), &mut fake);
        assert_eq!(fake.last, before);
        now = due;
        all.tick(now, &mut fake);
        assert_eq!(fake.last, before + 1);
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    assert_eq!(all.list()[0].restarts, 9);

    // Healthy for ten seconds: the pause starts over.
    now += HEALTHY;
    all.ended(fake.last, "signal 11", now, &mut fake);
    assert_eq!(all.next_due().unwrap() - now, BACKOFF_FIRST);
    assert_eq!(all.list()[0].last_exit.as_deref(), Some("signal 11"));
    assert_eq!(all.list()[0].state, RunState::Waiting);
}

#[test]
fn stop_asks_then_kills_and_answers_when_the_process_is_gone() {
    let (mut all, mut fake, now) = (Supervisor::default(), Fake::default(), Instant::now());
    let pid = all.start(spec("web"), now, &mut fake).unwrap();
    assert_eq!(all.stop("web", (Then::Stay, GRACE), W, now, &mut fake), None);
    assert_eq!(fake.signals, [(pid, libc::SIGTERM)]);
    all.tick(now + GRACE - Duration::from_millis(1), &mut fake);
    assert_eq!(fake.signals.len(), 1);
    all.tick(now + GRACE, &mut fake);
    assert_eq!(fake.signals[1], (pid, libc::SIGKILL));
    assert_eq!(all.next_due(), None, "one kill is enough");
    all.notices();
    all.ended(pid, "signal 9", now + GRACE, &mut fake);
    assert!(all.notices().contains(&Notice::Answer(W, Reply::Done)));
    assert_eq!(all.list()[0].state, RunState::Stopped);
    assert!(all.all_ended());
    // Stopping what is stopped is done at once.
    assert_eq!(all.stop("web", (Then::Stay, GRACE), W, now, &mut fake), Some(Reply::Done));
}

#[test]
fn restart_answers_with_the_new_process() {
    let (mut all, mut fake, now) = (Supervisor::default(), Fake::default(), Instant::now());
    all.start(spec("web"), now, &mut fake).unwrap();
    assert_eq!(all.stop("web", (Then::StartAgain, GRACE), W, now, &mut fake), None);
    all.ended(1, "exit 0", now, &mut fake);
    assert!(all.notices().contains(&Notice::Answer(W, Reply::Started { pid: 2 })));
    assert_eq!(all.list()[0].restarts, 0, "a wanted restart is not counted");
    // In the pause after a crash it is started at once.
    all.ended(2, "exit 1", now, &mut fake);
    assert_eq!(all.stop("web", (Then::StartAgain, GRACE), W, now, &mut fake), Some(Reply::Started { pid: 3 }));
}

#[test]
fn requests_that_contradict_each_other_are_refused_and_others_join() {
    let (mut all, mut fake, now) = (Supervisor::default(), Fake::default(), Instant::now());
    all.start(spec("web"), now, &mut fake).unwrap();
    all.stop("web", (Then::Stay, GRACE), W, now, &mut fake);
    let second = Waiter { connection: 2, request: 1 };
    assert!(matches!(
        all.stop("web", (Then::StartAgain, GRACE), second, now, &mut fake),
        Some(Reply::Error(Refusal { kind: RefusalKind::Conflict, .. }))
    ));
    assert_eq!(all.start(spec("web"), now, &mut fake).unwrap_err().kind, RefusalKind::Conflict);
    assert_eq!(all.stop("web", (Then::Forget, GRACE), second, now, &mut fake), None);
    all.ended(1, "exit 0", now, &mut fake);
    let notices = all.notices();
    assert!(notices.contains(&Notice::Answer(W, Reply::Done)));
    assert!(notices.contains(&Notice::Answer(second, Reply::Done)));
    assert!(all.list().is_empty());
    assert_eq!(all.stop("web", (Then::Forget, GRACE), W, now, &mut fake), Some(Reply::Done));
}

#[test]
fn start_is_idempotent_and_another_command_is_refused() {
    let (mut all, mut fake, now) = (Supervisor::default(), Fake::default(), Instant::now());
    let pid = all.start(spec("web"), now, &mut fake).unwrap();
    assert_eq!(all.start(spec("web"), now, &mut fake).unwrap(), pid);
    let mut other = spec("web");
    other.argv.push("-v".into());
    assert_eq!(all.start(other, now, &mut fake).unwrap_err().kind, RefusalKind::Conflict);
    assert_eq!(fake.last, 1);
}

#[test]
fn a_program_that_cannot_start_changes_nothing_at_first_and_is_tried_again_later() {
    let (mut all, mut fake, now) = (Supervisor::default(), Fake { broken: true, ..Fake::default() }, Instant::now());
    assert_eq!(all.start(spec("web"), now, &mut fake).unwrap_err().kind, RefusalKind::Command);
    assert!(all.list().is_empty());
    fake.broken = false;
    all.start(spec("web"), now, &mut fake).unwrap();
    all.ended(1, "exit 1", now, &mut fake);
    fake.broken = true;
    all.tick(now + BACKOFF_FIRST, &mut fake);
    assert_eq!(all.list()[0].state, RunState::Waiting);
    assert!(all.list()[0].last_exit.as_deref().unwrap().contains("not found"));
    assert_eq!(all.next_due().unwrap() - (now + BACKOFF_FIRST), BACKOFF_FIRST * 2);
}

#[test]
fn names_and_words_are_checked() {
    let (mut all, mut fake, now) = (Supervisor::default(), Fake::default(), Instant::now());
    for name in ["", "../x", "A", "-a", "a-", "a.b", &"x".repeat(49)] {
        assert_eq!(all.start(spec(name), now, &mut fake).unwrap_err().field, "service", "{name}");
    }
    let mut empty = spec("web");
    empty.argv.clear();
    assert_eq!(all.start(empty, now, &mut fake).unwrap_err().field, "command");
    let mut nul = spec("web");
    nul.argv.push("a\0b".into());
    assert_eq!(all.start(nul, now, &mut fake).unwrap_err().field, "command");
    assert_eq!(fake.last, 0);
}

#[test]
fn at_the_end_everything_is_asked_to_stop_even_what_was_being_restarted() {
    let (mut all, mut fake, now) = (Supervisor::default(), Fake::default(), Instant::now());
    all.start(spec("a"), now, &mut fake).unwrap();
    all.start(spec("b"), now, &mut fake).unwrap();
    all.stop("b", (Then::StartAgain, GRACE), W, now, &mut fake);
    all.stop_all(now, &mut fake);
    assert!(!all.all_ended());
    all.ended(1, "exit 0", now, &mut fake);
    all.ended(2, "exit 0", now, &mut fake);
    assert!(all.all_ended());
    assert_eq!(fake.last, 2);
}

#[test]
fn the_number_of_services_is_bounded() {
    let (mut all, mut fake, now) = (Supervisor::default(), Fake::default(), Instant::now());
    for n in 0..MAX_SERVICES {
        all.start(spec(&format!("s{n}")), now, &mut fake).unwrap();
    }
    assert_eq!(all.start(spec("more"), now, &mut fake).unwrap_err().field, "service");
}
