//! What `diff`, `apply` and `import` have in common: reading the files, asking what is there, and having the daemon do one
//! task a tenant, several at a time.
//!
//! Threads: the caller, who tells how it goes, and one a job, each with a connection of its own. A daemon that goes away in
//! between is waited for: every task may be asked for twice.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Read as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use hyper::Method;
use indicatif::{ProgressBar, ProgressStyle};
use stackmap::TenantName;

use super::{Context, Failure, body, write};
use crate::client::{Answer, Client, ClientError};
use crate::declare::order::{Schedule, Task, Verdict};
use crate::declare::report::{End, Report, TenantReport};
use crate::declare::{Text, Wanted, read};
use crate::model::{Export, Put};
use crate::problem::{Problem, ProblemKind};

/// How long a daemon that went away is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long between two looks whether it is back.
const AGAIN: Duration = Duration::from_millis(100);

/// The files that say what is wanted.
#[derive(Debug, clap::Args)]
pub(super) struct Files {
    /// A declarative file; - is standard input; may be given several times
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<String>,
}

impl Files {
    /// One file.
    pub(super) fn one(file: String) -> Self {
        Self { files: vec![file] }
    }

    /// Reads and checks them.
    ///
    /// # Errors
    /// A file cannot be read; [`Failure::Faults`].
    pub(super) fn read(&self) -> Result<Wanted, Failure> {
        let text = |file: &String| {
            let name = if file == "-" { "<stdin>" } else { file };
            let read = match file.as_str() {
                "-" => {
                    let mut text = String::new();
                    std::io::stdin().read_to_string(&mut text).map(|_| text)
                }
                file => std::fs::read_to_string(file),
            };
            let failed = |source| Failure::File { verb: "read", path: name.to_owned(), source };
            Ok(Text { name: name.to_owned(), text: read.map_err(failed)? })
        };
        let texts = self.files.iter().map(text).collect::<Result<Vec<_>, Failure>>()?;
        Ok(read(&texts)?)
    }
}

/// Asks what is there.
pub(super) fn export(cx: &Context) -> Result<Export, Failure> {
    Ok(cx.client.get("/v1/export")?.parse()?)
}

/// How tasks are done.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// Tasks at the same time.
    pub(super) jobs: u8,
    /// Removals end running processes.
    pub(super) force: bool,
    /// The daemon only checks.
    pub(super) dry_run: bool,
}

/// Has everything done, tells how it goes and what became of it; the code is 1 when a tenant failed.
pub(super) fn run(schedule: &Schedule, how: How, cx: &Context) -> Result<u8, Failure> {
    let report = done(schedule, how, cx)?;
    finish(&report, cx)
}

/// Has the daemon check everything; says something only when it is the end: it finds a fault, or nothing but the check was
/// asked for.
pub(super) fn check(schedule: &Schedule, how: How, cx: &Context) -> Result<u8, Failure> {
    let report = done(schedule, How { dry_run: true, ..how }, cx)?;
    if report.failed() > 0 { finish(&report, cx) } else { Ok(0) }
}

fn finish(report: &Report, cx: &Context) -> Result<u8, Failure> {
    if cx.json {
        write(format!("{}\n", serde_json::to_string(report).unwrap_or_default()).as_bytes())?;
    } else {
        let nothing = if report.dry_run { "; nothing was done" } else { "" };
        write(format!("{}{nothing}\n", report.summary()).as_bytes())?;
    }
    Ok(u8::from(report.failed() > 0))
}

fn done(schedule: &Schedule, how: How, cx: &Context) -> Result<Report, Failure> {
    let total = schedule.waves.iter().map(Vec::len).sum::<usize>();
    let told = Told::new(total, how, cx);
    for tenant in schedule.tenants.iter().filter(|t| t.verdict == Verdict::Refused) {
        told.line(&format!("{}: failed: {}", tenant.name, tenant.reason.as_deref().unwrap_or_default()), true)?;
    }
    let mut ends = BTreeMap::<TenantName, TenantReport>::new();
    let given_up = AtomicBool::new(false);
    // What is freed by an earlier wave is not free in a check: a conflict then says nothing.
    let frees = |task: &Task| match task {
        Task::Remove { .. } => true,
        Task::Put { replace, give_up, .. } => *replace || *give_up,
    };
    let frees = schedule.waves.iter().flatten().any(frees);
    for wave in &schedule.waves {
        let next = AtomicUsize::new(0);
        let (tell, told_of) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..usize::from(how.jobs).min(wave.len()) {
                let (tell, next, given_up) = (tell.clone(), &next, &given_up);
                scope.spawn(move || {
                    let Ok(client) = Client::new(cx.client.socket()) else { return };
                    while let Some(task) = wave.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let started = Instant::now();
                        let result = ask(&client, task, how, given_up);
                        // The caller reads until the last of us is gone.
                        let _ = tell.send((task, result, started.elapsed()));
                    }
                });
            }
            drop(tell);
            for (task, result, took) in told_of {
                let result = match result {
                    Err(problem) if how.dry_run && frees && problem.is(ProblemKind::Conflict) => continue,
                    result => result,
                };
                let one = report_of(task, result, took);
                told.step(&one, task)?;
                keep(&mut ends, one, task);
            }
            Ok::<_, Failure>(())
        })?;
    }
    told.end();
    // Tasks that no thread could be had for.
    for task in schedule.waves.iter().flatten().filter(|_| !how.dry_run) {
        if !ends.contains_key(task.name()) {
            let problem = Problem::new(ProblemKind::Io, "no thread or event queue could be had for it");
            ends.insert(task.name().clone(), report_of(task, Err(Box::new(problem)), Duration::ZERO));
        }
    }
    Ok(Report::of(schedule, ends, how.dry_run))
}

/// Asks for one task; a daemon that is away is waited for.
fn ask(client: &Client, task: &Task, how: How, given_up: &AtomicBool) -> Result<Option<Put>, Box<Problem>> {
    let until = Instant::now() + PATIENCE;
    let mut asked_before = false;
    loop {
        let answer = once(client, task, how);
        let error = match answer {
            None => return Ok(None),
            Some(Ok(answer)) if answer.bytes().is_empty() => return Ok(None),
            Some(Ok(answer)) => return answer.parse().map(Some).map_err(|e| problem(&e.into())),
            Some(Err(error)) => error,
        };
        let away =
            matches!(error, ClientError::NotRunning(_) | ClientError::Broken { .. } | ClientError::Connect { .. });
        let problem = problem(&error.into());
        // Gone by the first question, whose answer was lost.
        if asked_before && matches!(task, Task::Remove { .. }) && problem.is(ProblemKind::Unknown) {
            return Ok(None);
        }
        let away = away || problem.is(ProblemKind::Closing);
        if !away || given_up.load(Ordering::Relaxed) {
            return Err(problem);
        }
        if Instant::now() >= until {
            given_up.store(true, Ordering::Relaxed);
            return Err(problem);
        }
        asked_before = true;
        std::thread::sleep(AGAIN);
    }
}

/// One question; none when there is nothing to ask.
fn once(client: &Client, task: &Task, how: How) -> Option<Result<Answer, ClientError>> {
    match task {
        Task::Remove { .. } if how.dry_run => None,
        Task::Remove { name, force } => {
            let path = format!("/v1/tenants/{name}?force={}", how.force || *force);
            Some(client.call(Method::DELETE, &path, None))
        }
        Task::Put { name, tenant, replace, .. } => {
            let path = format!("/v1/tenants/{name}?dry_run={}&replace={replace}", how.dry_run);
            Some(client.call(Method::PUT, &path, body(tenant)))
        }
    }
}

fn problem(failure: &Failure) -> Box<Problem> {
    Box::new(failure.problem())
}

fn report_of(task: &Task, result: Result<Option<Put>, Box<Problem>>, took: Duration) -> TenantReport {
    let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let (end, changes, problem) = match result {
        Ok(Some(put)) => (put.outcome.into(), put.changes, None),
        Ok(None) => (End::Removed, Vec::new(), None),
        Err(problem) => (End::Failed, Vec::new(), Some(*problem)),
    };
    TenantReport { name: task.name().clone(), end, changes, us, problem }
}

/// A tenant may have two turns; what failed in one has failed, and who is made after it was removed is replaced.
fn keep(ends: &mut BTreeMap<TenantName, TenantReport>, mut new: TenantReport, task: &Task) {
    if let Some(first) = ends.remove(task.name()) {
        new.us += first.us;
        let replaced = first.end == End::Removed && new.end == End::Added;
        match (first.end, new.end) {
            (End::Failed, _) => (new.end, new.problem) = (End::Failed, first.problem),
            _ if replaced => new.end = End::Replaced,
            (End::Changed, End::Same) => new.end = End::Changed,
            _ => {}
        }
        new.changes.splice(0..0, first.changes);
    }
    ends.insert(new.name.clone(), new);
}

/// How it goes: a bar on a terminal, a line a tenant elsewhere, nothing with `--json`.
struct Told {
    bar: Option<ProgressBar>,
    /// Each tenant is told, and not only those that fail.
    all: bool,
    json: bool,
}

impl Told {
    fn new(total: usize, how: How, cx: &Context) -> Self {
        let bar = (!cx.json && std::io::stdout().is_terminal() && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(total as u64);
            let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta} {msg}");
            style.into_iter().for_each(|style| bar.set_style(style));
            bar
        });
        // The comparison has been told.
        Self { bar, all: !how.dry_run, json: cx.json }
    }

    fn step(&self, one: &TenantReport, task: &Task) -> Result<(), Failure> {
        if let Some(bar) = &self.bar {
            bar.set_message(one.name.to_string());
            bar.inc(1);
        }
        let ms = one.us as f64 / 1e3;
        let fields: Vec<_> = one.changes.iter().map(|c| c.field.as_str()).collect();
        let fields = if fields.is_empty() { String::new() } else { format!(" ({})", fields.join(", ")) };
        let words = match (&one.problem, task) {
            (Some(problem), _) => format!("{}: failed: {}", one.name, problem.detail),
            (None, Task::Put { give_up: true, .. }) => return Ok(()),
            (None, _) => format!("{}: {}{fields} in {ms:.1} ms", one.name, one.end),
        };
        self.line(&words, one.problem.is_some())
    }

    /// Failures are told everywhere but in JSON, where they are in the report.
    fn line(&self, words: &str, failed: bool) -> Result<(), Failure> {
        match &self.bar {
            _ if self.json => {}
            Some(bar) if failed => bar.println(words),
            None if failed || self.all => write(format!("{words}\n").as_bytes())?,
            _ => {}
        }
        Ok(())
    }

    fn end(&self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}
