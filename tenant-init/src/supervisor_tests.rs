//! The supervisor against a fake system: no process, no clock.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use tenant_init::protocol::RunState;

use super::*;

/// A system in which every program starts at once and ends only when the test says so.
#[derive(Default)]
struct Fake {
    last: i32,
    runs: Vec<(String, Run)>,
    signals: Vec<(i32, i32)>,
    broken: bool,
    bad_files: bool,
    open: Vec<Ready>,
    looks: usize,
}

impl System for Fake {
    fn lay_out(&mut self, spec: &ServiceSpec) -> Result<(), Refusal> {
        match self.bad_files {
            true => Err(Refusal::new(RefusalKind::Failed, "files", &spec.files[0].path, "read-only")),
            false => Ok(()),
        }
    }
    fn spawn(&mut self, spec: &ServiceSpec, run: Run) -> Result<i32, Refusal> {
        if self.broken {
            return Err(Refusal::new(RefusalKind::Command, "command", &spec.argv[0], "not found"));
        }
        self.last += 1;
        self.runs.push((spec.name.clone(), run));
        Ok(self.last)
    }
    fn signal_group(&mut self, group: i32, signal: i32) {
        self.signals.push((group, signal));
    }
    fn signal(&mut self, pid: i32, signal: i32) {
        self.signals.push((pid, signal));
    }
    fn open(&mut self, port: Ready) -> bool {
        self.looks += 1;
        self.open.contains(&port)
    }
    fn last_lines(&mut self, service: &str) -> Vec<String> {
        vec![format!("last words of {service}")]
    }
}

fn spec(name: &str) -> ServiceSpec {
    ServiceSpec { name: name.into(), argv: vec!["/bin/x".into()], ..ServiceSpec::default() }
}

fn after(name: &str, before: &[&str]) -> ServiceSpec {
    ServiceSpec { after: before.iter().map(|name| (*name).to_owned()).collect(), ..spec(name) }
}

const W: Waiter = Waiter { connection: 1, request: 9 };
const V: Waiter = Waiter { connection: 2, request: 1 };
const GRACE: Option<Duration> = Some(Duration::from_secs(5));
const MS: Duration = Duration::from_millis(1);

struct Bench {
    all: Supervisor,
    fake: Fake,
    now: Instant,
}

impl Bench {
    fn new() -> Bench {
        Bench { all: Supervisor::default(), fake: Fake::default(), now: Instant::now() }
    }
    /// A start; the answer when there is one already.
    fn start(&mut self, spec: ServiceSpec) -> Option<Reply> {
        self.all.notices();
        let now = self.all.start(spec, W, self.now, &mut self.fake);
        now.or_else(|| self.answer())
    }
    /// A start that is answered at once and good.
    fn up(&mut self, spec: ServiceSpec) -> i32 {
        match self.start(spec) {
            Some(Reply::Started { pid }) => pid,
            other => panic!("{other:?}"),
        }
    }
    fn refused(&mut self, spec: ServiceSpec) -> Refusal {
        match self.start(spec) {
            Some(Reply::Error(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }
    fn stop(&mut self, name: &str, then: Then) -> Option<Reply> {
        let now = self.all.stop(name, (then, GRACE), W, self.now, &mut self.fake);
        now.or_else(|| self.answer())
    }
    fn ended(&mut self, pid: i32, exit: &str) {
        self.all.ended(pid, exit, self.now, &mut self.fake);
    }
    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.all.tick(self.now, &mut self.fake);
    }
    /// The answer to W among what is to be told.
    fn answer(&mut self) -> Option<Reply> {
        self.answers().into_iter().find(|(waiter, _)| *waiter == W).map(|(_, reply)| reply)
    }
    fn answers(&mut self) -> Vec<(Waiter, Reply)> {
        let answer = |notice| match notice {
            Notice::Answer(waiter, reply) => Some((waiter, reply)),
            Notice::Event(_) => None,
        };
        self.all.notices().into_iter().filter_map(answer).collect()
    }
    fn states(&self) -> Vec<(String, &'static str)> {
        self.all.list(None).map(|state| (state.spec.name, state.state.as_str())).collect()
    }
    fn one(&self) -> ServiceState {
        self.all.list(None).next().unwrap()
    }
}

#[test]
fn a_service_that_dies_is_started_again_after_growing_pauses() {
    let mut bench = Bench::new();
    bench.up(spec("web"));
    let mut pauses = Vec::new();
    for _ in 0..9 {
        bench.ended(bench.fake.last, "exit 1");
        let pause = bench.all.next_due().unwrap() - bench.now;
        pauses.push(u64::try_from(pause.as_millis()).unwrap());
        // Nothing happens too early.
        let before = bench.fake.last;
        bench.pass(pause - MS);
        assert_eq!(bench.fake.last, before);
        bench.pass(MS);
        assert_eq!(bench.fake.last, before + 1);
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    assert_eq!(bench.one().restarts, 9);

    // Healthy for ten seconds: the pause starts over.
    bench.pass(HEALTHY);
    bench.ended(bench.fake.last, "signal 11");
    assert_eq!(bench.all.next_due().unwrap() - bench.now, BACKOFF_FIRST);
    assert_eq!(bench.one().last_exit.as_deref(), Some("signal 11"));
    assert_eq!(bench.one().state, RunState::Waiting);
}

#[test]
fn stop_asks_then_kills_and_answers_when_the_process_is_gone() {
    let mut bench = Bench::new();
    let pid = bench.up(spec("web"));
    assert_eq!(bench.stop("web", Then::Stay), None);
    assert_eq!(bench.fake.signals, [(pid, libc::SIGTERM)]);
    bench.pass(GRACE.unwrap() - MS);
    assert_eq!(bench.fake.signals.len(), 1);
    bench.pass(MS);
    assert_eq!(bench.fake.signals[1], (pid, libc::SIGKILL));
    assert_eq!(bench.all.next_due(), None, "one kill is enough");
    bench.ended(pid, "signal 9");
    assert_eq!(bench.answer(), Some(Reply::Done));
    assert_eq!(bench.one().state, RunState::Stopped);
    assert!(bench.all.all_ended());
    // Stopping what is stopped is done at once.
    assert_eq!(bench.stop("web", Then::Stay), Some(Reply::Done));
}

#[test]
fn the_services_own_signal_and_grace_are_used() {
    let mut bench = Bench::new();
    let own = ServiceSpec { stop_signal: Some(libc::SIGQUIT), stop_timeout_ms: Some(70), ..spec("db") };
    let pid = bench.up(own);
    assert_eq!(bench.all.stop("db", (Then::Stay, None), W, bench.now, &mut bench.fake), None);
    assert_eq!(bench.fake.signals, [(pid, libc::SIGQUIT)]);
    assert_eq!(bench.all.next_due().unwrap() - bench.now, Duration::from_millis(70));
}

#[test]
fn restart_answers_with_the_new_process() {
    let mut bench = Bench::new();
    bench.up(spec("web"));
    assert_eq!(bench.stop("web", Then::StartAgain), None);
    bench.ended(1, "exit 0");
    assert_eq!(bench.answer(), Some(Reply::Started { pid: 2 }));
    assert_eq!(bench.one().restarts, 0, "a wanted restart is not counted");
    // In the pause after a crash it is started at once.
    bench.ended(2, "exit 1");
    assert_eq!(bench.stop("web", Then::StartAgain), Some(Reply::Started { pid: 3 }));
}

#[test]
fn requests_that_contradict_each_other_are_refused_and_others_join() {
    let mut bench = Bench::new();
    bench.up(spec("web"));
    bench.stop("web", Then::Stay);
    let (now, fake) = (bench.now, &mut bench.fake);
    let contrary = bench.all.stop("web", (Then::StartAgain, GRACE), V, now, fake);
    assert!(matches!(contrary, Some(Reply::Error(Refusal { kind: RefusalKind::Conflict, .. }))));
    assert_eq!(bench.refused(spec("web")).kind, RefusalKind::Conflict);
    assert_eq!(bench.all.stop("web", (Then::Forget, GRACE), V, bench.now, &mut bench.fake), None);
    bench.ended(1, "exit 0");
    assert_eq!(bench.answers(), [(W, Reply::Done), (V, Reply::Done)]);
    assert!(bench.states().is_empty());
    assert_eq!(bench.stop("web", Then::Forget), Some(Reply::Done));
    assert!(matches!(bench.stop("web", Then::Stay), Some(Reply::Error(_))));
}

#[test]
fn start_is_idempotent_and_another_command_is_refused() {
    let mut bench = Bench::new();
    let pid = bench.up(spec("web"));
    assert_eq!(bench.up(spec("web")), pid);
    let mut other = spec("web");
    other.argv.push("-v".into());
    assert_eq!(bench.refused(other).kind, RefusalKind::Conflict);
    assert_eq!(bench.fake.last, 1);
}

#[test]
fn a_program_that_cannot_start_is_not_known_at_first_and_is_tried_again_later() {
    let mut bench = Bench::new();
    bench.fake.broken = true;
    assert_eq!(bench.refused(spec("web")).kind, RefusalKind::Command);
    assert!(bench.states().is_empty());
    bench.fake.broken = false;
    bench.up(spec("web"));
    bench.ended(1, "exit 1");
    bench.fake.broken = true;
    bench.pass(BACKOFF_FIRST);
    assert_eq!(bench.one().state, RunState::Waiting);
    assert!(bench.one().last_exit.unwrap().contains("not found"));
    assert_eq!(bench.all.next_due().unwrap() - bench.now, BACKOFF_FIRST * 2);
    // Asked for, it is not tried again: whoever asked has been told.
    assert!(matches!(bench.stop("web", Then::StartAgain), Some(Reply::Error(_))));
    assert_eq!(bench.one().state, RunState::Failed);
    assert_eq!(bench.all.next_due(), None);
    bench.fake.broken = false;
    assert_eq!(bench.up(spec("web")), 2);
}

#[test]
fn names_and_words_are_checked() {
    let mut bench = Bench::new();
    for name in ["", "../x", "A", "-a", "a-", "a.b", &"x".repeat(49)] {
        assert_eq!(bench.refused(spec(name)).field, "service", "{name}");
    }
    assert_eq!(bench.refused(ServiceSpec { argv: vec![], ..spec("web") }).field, "command");
    assert_eq!(bench.refused(ServiceSpec { argv: vec!["a\0b".into()], ..spec("web") }).field, "command");
    assert_eq!(bench.fake.last, 0);
}

#[test]
fn the_number_of_services_is_bounded() {
    let mut bench = Bench::new();
    for n in 0..MAX_SERVICES {
        bench.up(spec(&format!("s{n}")));
    }
    assert_eq!(bench.refused(spec("more")).field, "service");
}

#[test]
fn commands_that_prepare_run_one_after_another_before_the_service() {
    let mut bench = Bench::new();
    let words = |word: &str| vec![format!("/bin/{word}")];
    let web = ServiceSpec { prepare: vec![words("a"), words("b")], ..spec("web") };
    assert_eq!(bench.start(web.clone()), None);
    assert_eq!(bench.one().state, RunState::Preparing);
    bench.ended(1, "exit 0");
    assert_eq!(bench.answer(), None);
    bench.ended(2, "exit 0");
    assert_eq!(bench.answer(), Some(Reply::Started { pid: 3 }));
    let runs: Vec<Run> = bench.fake.runs.iter().map(|run| run.1).collect();
    assert_eq!(runs, [Run::Prepare(0), Run::Prepare(1), Run::Main]);

    // Also when it is started again by itself; what fails then is tried again.
    bench.ended(3, "exit 1");
    bench.pass(BACKOFF_FIRST);
    assert_eq!(bench.one().state, RunState::Preparing);
    bench.ended(4, "exit 2");
    assert_eq!((bench.one().state, bench.one().last_exit.as_deref()), (RunState::Waiting, Some("exit 2")));
}

#[test]
fn a_command_that_fails_is_told_with_its_last_words_and_nothing_stays() {
    let mut bench = Bench::new();
    let web = ServiceSpec { prepare: vec![vec!["/bin/init-db".into(), "-x".into()]], ..spec("web") };
    assert_eq!(bench.start(web.clone()), None);
    bench.ended(1, "exit 7");
    let Some(Reply::Error(refusal)) = bench.answer() else { panic!() };
    assert_eq!((refusal.kind, refusal.field.as_str()), (RefusalKind::Ended, "prepare"));
    assert_eq!(refusal.value, "/bin/init-db -x");
    assert_eq!(refusal.log, ["last words of web"]);
    assert!(refusal.to_string().contains("exit 7") && refusal.to_string().contains("last words"), "{refusal}");
    assert!(bench.states().is_empty());

    // One that hangs is killed.
    let slow = ServiceSpec { prepare_timeout_ms: Some(50), ..web };
    assert_eq!(bench.start(slow), None);
    bench.pass(Duration::from_millis(50));
    assert_eq!(bench.fake.signals, [(2, libc::SIGKILL)]);
    assert_eq!(bench.answer(), None, "not before it is gone");
    bench.ended(2, "signal 9");
    let Some(Reply::Error(refusal)) = bench.answer() else { panic!() };
    assert_eq!((refusal.kind, refusal.field.as_str()), (RefusalKind::Late, "prepare"));
    assert!(bench.states().is_empty());

    bench.fake.bad_files = true;
    let file = r#"{"name":"web","argv":["/bin/x"],"files":[{"path":"/usr/x","content":""}]}"#;
    assert_eq!(bench.refused(serde_json::from_str(file).unwrap()).field, "files");
    assert!(bench.states().is_empty());
}

#[test]
fn a_service_is_ready_when_its_port_is_open() {
    let mut bench = Bench::new();
    let web = ServiceSpec { ready: Ready::Tcp(80), ready_timeout_ms: Some(2000), ..spec("web") };
    assert_eq!(bench.start(web.clone()), None);
    assert_eq!(bench.one().state, RunState::Starting);
    // Who asks for the same waits for the same.
    assert_eq!(bench.all.start(web.clone(), V, bench.now, &mut bench.fake), None);
    for _ in 0..20 {
        let pause = bench.all.next_due().unwrap() - bench.now;
        assert!(pause <= LOOK.1, "{pause:?}");
        bench.pass(pause);
    }
    assert_eq!(bench.answer(), None);
    assert!(bench.fake.looks <= 21, "it looks only when it is time");
    bench.fake.open.push(Ready::Tcp(80));
    bench.pass(LOOK.1);
    assert_eq!(bench.answers(), [(W, Reply::Started { pid: 1 }), (V, Reply::Started { pid: 1 })]);
    assert_eq!(bench.one().state, RunState::Running);
    let looks = bench.fake.looks;
    bench.pass(Duration::from_secs(100));
    assert_eq!((bench.all.next_due(), bench.fake.looks), (None, looks), "nobody looks any more");
}

#[test]
fn a_service_that_is_not_ready_in_time_is_ended_and_told() {
    let mut bench = Bench::new();
    let web = ServiceSpec { ready: Ready::Udp(53), ready_timeout_ms: Some(200), ..spec("dns") };
    assert_eq!(bench.start(web.clone()), None);
    bench.pass(Duration::from_millis(200));
    assert_eq!(bench.fake.signals, [(1, libc::SIGTERM)]);
    assert_eq!(bench.one().state, RunState::Stopping);
    bench.pass(tenant_init::protocol::STOP_TIMEOUT);
    assert_eq!(bench.fake.signals[1], (1, libc::SIGKILL));
    bench.ended(1, "signal 9");
    let Some(Reply::Error(refusal)) = bench.answer() else { panic!() };
    assert_eq!((refusal.kind, refusal.log.len()), (RefusalKind::Late, 1));
    assert!(refusal.rule.contains("53/udp"), "{refusal}");
    assert!(bench.states().is_empty());

    // Removed meanwhile: who started it learns the cause, who removed it that it is gone.
    assert_eq!(bench.start(web), None);
    bench.pass(Duration::from_millis(200));
    assert_eq!(bench.all.stop("dns", (Then::Forget, GRACE), V, bench.now, &mut bench.fake), None);
    assert!(matches!(bench.answer(), Some(Reply::Error(Refusal { kind: RefusalKind::Late, .. }))));
    bench.ended(2, "exit 0");
    assert_eq!(bench.answers(), [(V, Reply::Done)]);
    assert!(bench.states().is_empty());
}

#[test]
fn a_service_that_ends_before_it_is_ready_is_told_with_its_last_words() {
    for ready in [Ready::Tcp(80), Ready::Alive(100), Ready::Exit] {
        let mut bench = Bench::new();
        assert_eq!(bench.start(ServiceSpec { ready, ..spec("web") }), None);
        bench.ended(1, "exit 3");
        let Some(Reply::Error(refusal)) = bench.answer() else { panic!() };
        assert_eq!((refusal.kind, refusal.value.as_str()), (RefusalKind::Ended, "web"));
        assert!(refusal.rule.contains("exit 3") && refusal.log == ["last words of web"]);
        assert!(bench.states().is_empty() && bench.all.next_due().is_none());
    }
    // By itself it is tried again.
    let mut bench = Bench::new();
    assert_eq!(bench.start(ServiceSpec { ready: Ready::Alive(100), ..spec("web") }), None);
    bench.pass(Duration::from_millis(99));
    assert_eq!(bench.answer(), None);
    bench.pass(MS);
    assert_eq!(bench.answer(), Some(Reply::Started { pid: 1 }));
    bench.ended(1, "exit 1");
    bench.pass(BACKOFF_FIRST);
    bench.ended(2, "exit 1");
    assert_eq!((bench.one().state, bench.one().restarts), (RunState::Waiting, 1));
    assert_eq!(bench.all.next_due().unwrap() - bench.now, BACKOFF_FIRST * 2);
}

#[test]
fn a_port_that_is_open_before_the_start_is_somebody_elses() {
    let mut bench = Bench::new();
    bench.fake.open.push(Ready::Tcp(80));
    let refusal = bench.refused(ServiceSpec { ready: Ready::Tcp(80), ..spec("web") });
    assert_eq!((refusal.kind, refusal.value.as_str()), (RefusalKind::Port, "80"));
    assert_eq!(bench.fake.last, 0);
    assert!(bench.states().is_empty());
}

#[test]
fn a_piece_of_work_is_done_when_it_has_ended_well() {
    let mut bench = Bench::new();
    let work = ServiceSpec { ready: Ready::Exit, ..spec("setup") };
    assert_eq!(bench.start(work.clone()), None);
    bench.ended(1, "exit 0");
    assert_eq!(bench.answer(), Some(Reply::Started { pid: 1 }));
    assert_eq!((bench.one().state, bench.one().pid), (RunState::Done, None));
    bench.pass(Duration::from_secs(100));
    assert_eq!(bench.fake.last, 1, "it is not started again");
    // Unless asked.
    assert_eq!(bench.start(work), None);
    assert_eq!(bench.fake.last, 2);
}

#[test]
fn what_happens_after_an_end_is_the_services_choice() {
    for (restart, exit, state) in [
        (Restart::Always, "exit 0", RunState::Waiting),
        (Restart::OnFailure, "exit 0", RunState::Done),
        (Restart::OnFailure, "signal 9", RunState::Waiting),
        (Restart::Never, "exit 0", RunState::Done),
        (Restart::Never, "exit 1", RunState::Failed),
    ] {
        let mut bench = Bench::new();
        bench.up(ServiceSpec { restart, ..spec("web") });
        bench.ended(1, exit);
        assert_eq!(bench.one().state, state, "{restart:?} {exit}");
        assert_eq!(bench.all.next_due().is_some(), state == RunState::Waiting);
    }
}

#[test]
fn services_start_after_those_they_name() {
    let mut bench = Bench::new();
    let db = ServiceSpec { ready: Ready::Tcp(5432), ..spec("db") };
    assert_eq!(bench.start(db), None);
    let waiting = bench.all.start(after("web", &["db"]), V, bench.now, &mut bench.fake);
    assert_eq!((waiting, bench.fake.last), (None, 1));
    assert_eq!(bench.states(), [("db".into(), "starting"), ("web".into(), "preparing")]);
    bench.fake.open.push(Ready::Tcp(5432));
    // In the same turn, or the second would wait for something else to happen.
    bench.pass(LOOK.0);
    assert_eq!(bench.answers(), [(W, Reply::Started { pid: 1 }), (V, Reply::Started { pid: 2 })]);

    // What is being started again is waited for, also by a start that nobody asked for.
    bench.fake.open.clear();
    bench.ended(1, "exit 1");
    bench.ended(2, "exit 1");
    bench.pass(BACKOFF_FIRST);
    assert_eq!(bench.states(), [("db".into(), "starting"), ("web".into(), "preparing")]);
    // For so long, and not longer.
    bench.pass(Duration::from_secs(29));
    assert_eq!(bench.states()[1].1, "preparing");
    bench.pass(AFTER_TIMEOUT);
    assert_eq!(bench.states()[1].1, "waiting");
}

#[test]
fn an_order_that_cannot_be_kept_is_refused() {
    let mut bench = Bench::new();
    assert_eq!(bench.refused(after("web", &["db"])).kind, RefusalKind::Unknown);
    assert_eq!(bench.refused(after("web", &["web"])).field, "after");
    bench.up(spec("db"));
    bench.up(after("web", &["db"]));
    // A circle takes a service that was removed meanwhile.
    bench.stop("db", Then::Forget);
    bench.ended(1, "exit 0");
    let refusal = bench.refused(after("db", &["web"]));
    assert_eq!((refusal.kind, refusal.field.as_str()), (RefusalKind::Invalid, "after"));
    bench.stop("web", Then::Stay);
    bench.ended(2, "exit 0");
    assert_eq!(bench.refused(after("more", &["web"])).kind, RefusalKind::Conflict);
    // One that fails while others wait for it takes them along, but only those that somebody waits for.
    bench.up(spec("web2"));
    assert_eq!(bench.start(ServiceSpec { ready: Ready::Tcp(80), ..spec("slow") }), None);
    assert_eq!(bench.start(after("last", &["slow"])), None);
    bench.ended(bench.fake.last, "exit 1");
    bench.all.tick(bench.now, &mut bench.fake);
    let answers = bench.answers();
    assert!(answers.iter().all(|(_, reply)| matches!(reply, Reply::Error(_))) && answers.len() == 2, "{answers:?}");
    assert!(!bench.states().iter().any(|state| ["slow", "last"].contains(&state.0.as_str())));
}

#[test]
fn a_start_that_is_stopped_is_answered() {
    let mut bench = Bench::new();
    let web = ServiceSpec { ready: Ready::Tcp(80), prepare: vec![vec!["/bin/a".into()]], ..spec("web") };
    for (steps, signal) in [(0, libc::SIGTERM), (1, libc::SIGTERM)] {
        assert_eq!(bench.start(web.clone()), None);
        for _ in 0..steps {
            bench.ended(bench.fake.last, "exit 0");
        }
        let pid = bench.fake.last;
        assert_eq!(bench.all.stop("web", (Then::Forget, GRACE), V, bench.now, &mut bench.fake), None);
        assert_eq!(*bench.fake.signals.last().unwrap(), (pid, signal));
        assert!(matches!(bench.answer(), Some(Reply::Error(Refusal { kind: RefusalKind::Conflict, .. }))));
        bench.ended(pid, "signal 15");
        assert_eq!(bench.answers(), [(V, Reply::Done)]);
        assert!(bench.states().is_empty());
    }
}

#[test]
fn a_signal_goes_to_the_first_process_of_what_runs() {
    let mut bench = Bench::new();
    let pid = bench.up(spec("web"));
    bench.all.signal("web", libc::SIGHUP, &mut bench.fake).unwrap();
    assert_eq!(bench.fake.signals, [(pid, libc::SIGHUP)]);
    for signal in [0, -9, 65] {
        assert_eq!(bench.all.signal("web", signal, &mut bench.fake).unwrap_err().field, "signal");
    }
    assert_eq!(bench.all.signal("db", 1, &mut bench.fake).unwrap_err().kind, RefusalKind::Unknown);
    bench.ended(pid, "exit 1");
    assert_eq!(bench.all.signal("web", 1, &mut bench.fake).unwrap_err().kind, RefusalKind::Conflict);
}

#[test]
fn at_the_end_everything_is_asked_to_stop_even_what_was_being_restarted() {
    let mut bench = Bench::new();
    bench.up(spec("a"));
    bench.up(spec("b"));
    bench.stop("b", Then::StartAgain);
    bench.all.stop_all(bench.now, &mut bench.fake);
    assert!(!bench.all.all_ended());
    bench.ended(1, "exit 0");
    bench.ended(2, "exit 0");
    assert!(bench.all.all_ended());
    assert_eq!(bench.fake.last, 2);
}

#[test]
fn at_the_end_the_last_comes_first() {
    let mut bench = Bench::new();
    bench.up(spec("db"));
    bench.up(after("app", &["db"]));
    bench.up(after("web", &["app"]));
    bench.up(spec("alone"));
    bench.all.stop_all(bench.now, &mut bench.fake);
    let asked = |bench: &Bench| bench.fake.signals.iter().map(|signal| signal.0).collect::<Vec<_>>();
    assert_eq!(asked(&bench), [4, 3]);
    bench.ended(3, "exit 0");
    assert_eq!(asked(&bench), [4, 3, 2]);
    // One that ends before it is asked is not started again.
    bench.ended(1, "exit 1");
    bench.ended(2, "exit 0");
    bench.ended(4, "exit 0");
    bench.pass(Duration::from_secs(100));
    assert!(bench.all.all_ended());
    assert_eq!(bench.fake.last, 4);
}

#[test]
fn a_list_goes_on_after_a_name_and_shows_files_in_short() {
    let mut bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.up(spec(name));
    }
    let names: Vec<String> = bench.all.list(Some("a")).map(|state| state.spec.name).collect();
    assert_eq!(names, ["b", "c"]);
    assert_eq!(bench.all.list(Some("bb")).count(), 1);
    assert_eq!(bench.all.list(Some("c")).count(), 0);
}
