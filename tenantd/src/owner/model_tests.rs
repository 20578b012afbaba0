//! The real owner over a machine made of memory, through generated histories: operators' commands, faults of any call,
//! daemons killed between any two steps, somebody who tampers with the machine, an access server that is away or
//! refuses. When the dust has settled the machine must be exactly what is desired and nothing more.
//!
//! A history runs in virtual time on one thread, so that it is the same each time; one that fails is made shorter.

mod fake;
mod history;
mod machine;
mod refused;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use stackmap::{TenantName, TrunkIndex};
use tokio::task::JoinHandle;

use self::fake::{FakeKernel, Killed, Shared, TRUNKS, ends};
use self::history::{Op, Tampering};
use super::{Owner, Parts};
use crate::control::{Handle, OpError};
use crate::kernel::KernelEvent;
use crate::model::*;
use crate::net::watch::{Changed, Place};
use crate::pulse::Pulse;
use crate::store::Desired;
use crate::trunks::TrunkSpec;

/// Longer than the slowest retry and two full passes.
const SETTLE: Duration = Duration::from_secs(150);
/// Whom nobody touches.
const QUIET: &str = "quiet";

/// The machine, and whatever daemon runs on it.
struct Game {
    shared: Shared,
    handle: Handle,
    ended: tokio::sync::mpsc::Sender<KernelEvent>,
    task: JoinHandle<()>,
    kills: u32,
}

impl Game {
    fn new() -> Self {
        let shared = Shared::new();
        let (handle, ended, task) = daemon(&shared);
        Self { shared, handle, ended, task, kills: 0 }
    }

    /// A service manager: a daemon that ended is started again.
    async fn supervise(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..20 {
            // What the daemon has been sent it has done when everything is at rest.
            tokio::time::sleep(Duration::from_millis(1)).await;
            if !self.task.is_finished() {
                return Ok(());
            }
            let (handle, ended, task) = daemon(&self.shared);
            (self.handle, self.ended) = (handle, ended);
            match std::mem::replace(&mut self.task, task).await.map_err(|error| error.try_into_panic()) {
                Err(Ok(panic)) if panic.is::<Killed>() => self.kills += 1,
                Err(other) => return Err(TestCaseError::fail(format!("the daemon broke: {other:?}"))),
                Ok(()) => {}
            }
        }
        Err(TestCaseError::fail("the daemon does not start"))
    }

    async fn kill(&mut self) -> Result<(), TestCaseError> {
        self.task.abort();
        let (handle, ended, task) = daemon(&self.shared);
        (self.handle, self.ended) = (handle, ended);
        let _ = std::mem::replace(&mut self.task, task).await;
        self.kills += 1;
        self.supervise().await
    }

    async fn play(&mut self, op: &Op) -> Result<(), TestCaseError> {
        self.supervise().await?;
        let before = self.shared.stored();
        match op {
            Op::Command(command) => {
                let name = command.name();
                let answer = command.send(&self.handle).await;
                self.supervise().await?;
                let after = self.shared.stored();
                check_answer(command, &answer, &before, &after)?;
                check_others(&name, &before, &after)?;
            }
            Op::Fault(calls, fault) => self.shared.faults().arm(*calls, *fault),
            Op::Kill => self.kill().await?,
            Op::Wait(seconds) => tokio::time::sleep(Duration::from_secs(*seconds)).await,
            Op::Access { away, refuses } => {
                let mut machine = self.shared.machine();
                let away = TRUNKS.into_iter().zip(*away).filter(|(_, away)| *away).map(|(trunk, _)| trunk);
                (machine.away, machine.refuses) = (away.collect(), *refuses);
            }
            Op::Told(about) => {
                let changed =
                    |name: &TenantName| Changed { place: Place::Room, index: 1, device: Some(name.to_string()) };
                let event =
                    about.as_ref().map_or(KernelEvent::Overrun, |name| KernelEvent::Changed([changed(name)].into()));
                let _ = self.ended.send(event).await;
            }
            Op::Tamper(name, tampering) => {
                let dead = tamper(&self.shared, name, *tampering);
                if let Some(pid) = dead {
                    let _ = self.ended.send(KernelEvent::InitEnded { tenant: name.clone(), pid }).await;
                }
            }
        }
        Ok(())
    }

    /// Everything works again; after a while all must be as desired.
    async fn settle(&mut self) -> Result<(), TestCaseError> {
        self.shared.faults().disarm();
        {
            let mut machine = self.shared.machine();
            (machine.away, machine.refuses) = (BTreeSet::new(), None);
            for init in machine.houses.values_mut().filter_map(|house| house.init.as_mut()) {
                init.silent = false;
            }
        }
        self.supervise().await?;
        tokio::time::sleep(SETTLE).await;
        let stored = self.shared.stored();
        let fail = |words: String| Err(TestCaseError::fail(words));
        if let Some(gone) = stored.values().find(|desired| desired.removing) {
            return fail(format!("{} is still being removed", gone.tenant.name));
        }
        let tenants: Vec<_> = stored.values().map(|desired| desired.tenant.clone()).collect();
        let found = self.shared.machine().differences(&tenants, |at| ends(at).1);
        if !found.is_empty() {
            return fail(found.join("\n"));
        }
        // A second look plans nothing, and nothing is done in another while.
        for tenant in &tenants {
            let plan = self.handle.plan(tenant.name.clone()).await.map_err(|e| TestCaseError::fail(e.to_string()))?;
            if !plan.steps.is_empty() || plan.cannot_read.is_some() {
                return fail(format!("a second look plans {plan:?}"));
            }
            let status = self.handle.tenant_status(tenant.name.clone()).await;
            let state = status.map(|status| status.state).map_err(|e| TestCaseError::fail(e.to_string()))?;
            if state != TenantState::Ready {
                return fail(format!("{} is {state:?}", tenant.name));
            }
        }
        let steps = self.shared.machine().steps.clone();
        tokio::time::sleep(SETTLE).await;
        if self.shared.machine().steps != steps {
            return fail("the daemon goes on doing things although all is as desired".into());
        }
        Ok(())
    }
}

fn daemon(shared: &Shared) -> (Handle, tokio::sync::mpsc::Sender<KernelEvent>, JoinHandle<()>) {
    let (handle, inbox) = Handle::new();
    let (ended_in, ended) = tokio::sync::mpsc::channel(64);
    let trunk = |number, name: &str| TrunkSpec {
        number: TrunkIndex(number),
        name: name.into(),
        card: None,
        near: format!("near-{name}"),
        access: format!("/run/{name}.sock").into(),
    };
    let parts = Parts {
        instance: "model".into(),
        trunks: vec![trunk(0, "trunk"), trunk(1, "west")],
        store: Box::new(shared.open_store()),
        kernel: FakeKernel::new(shared.clone()),
        events: ended,
        handle: handle.clone(),
        inbox,
    };
    let task = tokio::spawn(async move {
        // One that cannot start ends, and is started again.
        if let Ok(owner) = Owner::start(parts).await {
            // Whose sender lives as long as the daemon: nobody stops it, it is killed.
            let (_running, stop) = tokio::sync::oneshot::channel();
            owner.run(Pulse::from_environment(), stop).await;
        }
    });
    (handle, ended_in, task)
}

/// What was answered is in the store; what was refused is not.
fn check_answer(
    command: &history::Command,
    answer: &history::Answer,
    before: &BTreeMap<TenantName, Desired>,
    after: &BTreeMap<TenantName, Desired>,
) -> Result<(), TestCaseError> {
    let name = command.name();
    let fail =
        |words: &str| Err(TestCaseError::fail(format!("{command:?}: {words}: {answer:?}, {:?}", after.get(&name))));
    match answer {
        Ok(Some(tenant)) => match after.get(&name) {
            Some(desired) if !desired.removing && desired.tenant.generation >= tenant.generation => {
                let same = Tenant { generation: tenant.generation, ..desired.tenant.clone() } == *tenant;
                if same { Ok(()) } else { fail("answered otherwise than stored") }
            }
            _ => fail("answered and not stored"),
        },
        Ok(None) => match command {
            history::Command::Remove(..) if after.contains_key(&name) => fail("answered and still stored"),
            history::Command::AddService(_, service)
                if !after.get(&name).is_some_and(|d| d.tenant.services.iter().any(|s| s.name == service.name)) =>
            {
                fail("answered and not stored")
            }
            _ => Ok(()),
        },
        // Killed: done or not.
        Err(OpError::Closed) => Ok(()),
        Err(OpError::HalfDone { .. }) => Ok(()),
        Err(_) => {
            let ungenerated =
                |desired: Option<&Desired>| desired.map(|d| (Tenant { generation: 0, ..d.tenant.clone() }, d.removing));
            // Its removal may have ended meanwhile.
            let gone = before.get(&name).is_some_and(|d| d.removing) && !after.contains_key(&name);
            let same = ungenerated(before.get(&name)) == ungenerated(after.get(&name));
            if same || gone { Ok(()) } else { fail("refused and changed") }
        }
    }
}

/// A command about one tenant changes no other.
fn check_others(
    name: &TenantName,
    before: &BTreeMap<TenantName, Desired>,
    after: &BTreeMap<TenantName, Desired>,
) -> Result<(), TestCaseError> {
    for (other, was) in before.iter().filter(|(other, _)| *other != name) {
        let is = after.get(other);
        let same = is.is_some_and(|is| {
            let same = Tenant { generation: was.tenant.generation, ..is.tenant.clone() } == was.tenant;
            same && is.removing == was.removing
        });
        let left = was.removing && is.is_none();
        if !same && !left {
            return Err(TestCaseError::fail(format!("a command about {name} changed {other}: {was:?} to {is:?}")));
        }
    }
    Ok(())
}

/// Somebody does something to the machine; returns the number of an init that died of it.
fn tamper(shared: &Shared, name: &TenantName, tampering: Tampering) -> Option<i32> {
    let tenant = shared.stored().get(name)?.tenant.clone();
    let mut machine = shared.machine();
    match tampering {
        Tampering::KillInit => return machine.init_dies(name),
        Tampering::DeletePort => machine.port_goes(tenant.segment()?),
        Tampering::RenameDevice => {
            // The port still leads into the stack, but nothing there has the device's name.
            let init = machine.init(name)?;
            (init.device, init.stack) = (None, None);
        }
        Tampering::DeleteRow => drop(machine.rows.remove(&tenant.segment()?)),
        Tampering::ChangeRow => machine.rows.get_mut(&tenant.segment()?)?.mtu -= 1,
        Tampering::DeleteGuard => drop(machine.guard.remove(&tenant.gid.get())),
        Tampering::DeleteAccess => drop(machine.access.remove(&tenant.segment()?)),
        Tampering::DeleteAddress => drop(machine.init(name)?.stack.as_mut()?.addresses.pop_first()),
        Tampering::DeleteRoute => drop(machine.init(name)?.stack.as_mut()?.routes.pop_last()),
        Tampering::Filter => machine.init(name)?.filter.default = Verdict::Drop,
        Tampering::Limits => machine.houses.get_mut(name)?.cgroups.as_mut()?.cpu = "7".parse().ok(),
        Tampering::Names => machine.houses.get_mut(name)?.names = None,
        Tampering::Unshare => drop(machine.init(name)?.shares.pop()),
        Tampering::Silence => machine.init(name)?.silent = true,
        Tampering::ForgetService => drop(machine.init(name)?.services.pop_first()),
    }
    None
}

/// One history from an empty machine to the end.
fn run(ops: &[Op], without: Option<&'static str>) -> Result<u32, TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|e| TestCaseError::fail(e.to_string()))?;
    runtime.block_on(async {
        let mut game = Game::new();
        game.supervise().await?;
        game.shared.machine().deaf_to = without;
        let quiet = history::request(QUIET, Some(99), &["192.168.1.1/24"], &["ipip:198.51.100.99"]);
        game.handle.add_tenant(quiet, false).await.map_err(|e| TestCaseError::fail(e.to_string()))?;
        let quiet: TenantName = QUIET.parse().map_err(|e| TestCaseError::fail(format!("{e}")))?;
        let made = game.shared.machine().steps.get(&quiet).map_or(0, Vec::len);
        for op in ops {
            game.play(op).await?;
        }
        game.settle().await?;
        let steps = game.shared.machine().steps.get(&quiet).cloned().unwrap_or_default();
        if steps.len() > made {
            return Err(TestCaseError::fail(format!("the quiet tenant was touched: {:?}", &steps[made..])));
        }
        Ok(game.kills)
    })
}

/// How many histories: thousands, or as many as are asked for.
fn histories() -> u32 {
    std::env::var("HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(3000)
}

/// The same histories each time, so that what fails can be looked at; others each time with `SEED=random`, as the soak does.
fn runner(cases: u32, max_shrink_iters: u32) -> TestRunner {
    let config = Config { cases, max_shrink_iters, failure_persistence: None, ..Config::default() };
    if std::env::var("SEED").is_ok_and(|seed| seed == "random") {
        return TestRunner::new(config);
    }
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

#[test]
fn every_history_ends_as_desired() {
    let kills = std::cell::Cell::new(0_u64);
    let result = runner(histories(), 4000).run(&history::all(), |ops| {
        let killed = run(&ops, None)?;
        kills.set(kills.get() + u64::from(killed));
        Ok(())
    });
    match result {
        Ok(()) => assert!(kills.get() > u64::from(histories()) / 4, "only {} daemons were killed", kills.get()),
        Err(TestError::Fail(why, ops)) => panic!("{why}\nafter:\n{}", history::words(&ops)),
        Err(other) => panic!("{other}"),
    }
}

/// The test can fail: a plan that lacks any one of its steps is caught. (A probe changes nothing, cards are not played.)
#[test]
fn a_plan_that_lacks_a_step_is_caught() {
    for step in [
        "stop-service",
        "withdraw",
        "unbind",
        "delete-port",
        "end",
        "unguard",
        "remove-cgroups",
        "remove-files",
        "limits",
        "api",
        "stack",
        "guard",
        "filter",
        "access",
        "port",
        "bind",
        "addresses",
        "resolv",
        "unmount-share",
        "share",
        "service",
    ] {
        let result = runner(3000, 0).run(&history::all(), |ops| run(&ops, Some(step)).map(drop));
        assert!(matches!(result, Err(TestError::Fail(..))), "nobody missed the step {step:?}: {result:?}");
    }
}
