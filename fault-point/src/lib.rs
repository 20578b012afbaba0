//! Named places in a program at which a test ends it as `kill -9` would, or makes a step fail.
//!
//! In: a list of [`Point`]s and what an environment variable asks for ([`arm`]). Out: nothing, unless it was armed: a
//! point that was not armed is one relaxed load of a flag (docs/decisions/0015-fault-points.md has the cost). There is
//! one list a program, so a test walks through all of it; a name that is not in the list refuses the start.
//!
//! ```text
//! NAME[:N][:error][:asked][:longer]   at the N-th pass (1 when not said) end the process, or have the step fail
//! record[:asked][:longer]             write every pass to standard error as `fault-point NAME`
//! ```
//!
//! `asked`: passes count from the first request that changes something ([`asked`]), so that the work of a start, whatever
//! it has to mend, does not use up the count. `longer`: the process takes itself for the version after this one, whose
//! tables have longer rows ([`longer`]), so that an upgrade can be ended in its middle before there is a next version.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

/// A place in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Point {
    /// Its name, such as `store.put.after`.
    pub name: &'static str,
    /// What is done and what is not when the program is there.
    pub means: &'static str,
    /// It can also fail.
    pub fails: bool,
}

impl Point {
    /// A place at which the program can end.
    #[must_use]
    pub const fn new(name: &'static str, means: &'static str) -> Self {
        Self { name, means, fails: false }
    }

    /// A place at which the program can end or the step fail.
    #[must_use]
    pub const fn failing(name: &'static str, means: &'static str) -> Self {
        Self { name, means, fails: true }
    }
}

/// What is asked for cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum ArmError {
    /// No such point.
    #[error("{variable}: {name:?} refused: no such fault point; there are: {}", .known.join(", "))]
    Unknown {
        /// Where it was asked for.
        variable: String,
        /// The name.
        name: String,
        /// All names.
        known: Vec<&'static str>,
    },
    /// A word that means nothing.
    #[error("{variable}: {word:?} refused: a fault point is NAME[:N][:error][:asked][:longer], N at least 1")]
    Word {
        /// Where it was asked for.
        variable: String,
        /// The word.
        word: String,
    },
    /// A point that cannot fail.
    #[error("{variable}: {name:?} refused: this fault point can end the process, but not fail")]
    CannotFail {
        /// Where it was asked for.
        variable: String,
        /// The name.
        name: String,
    },
    /// Armed already.
    #[error("{variable}: a fault point is armed already")]
    Twice {
        /// Where it was asked for.
        variable: String,
    },
}

/// The failure of a step that a fault point was asked to make fail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("fault point {point}: asked to fail")]
pub struct Injected {
    /// The point.
    pub point: String,
}

/// Before a step or after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Nothing of the step is done.
    Before,
    /// The step is done.
    After,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before",
            Self::After => "after",
        })
    }
}

/// What was asked for.
#[derive(Debug)]
struct Fault {
    /// The point; none to write all of them down.
    name: Option<String>,
    left: AtomicU32,
    error: bool,
    longer: bool,
    counting: AtomicBool,
}

/// Looked at by every pass; everything else only when it says so.
static ARMED: AtomicBool = AtomicBool::new(false);
static FAULT: OnceLock<Fault> = OnceLock::new();

/// Arms what the environment variable asks for; nothing when it is not set.
///
/// # Errors
/// [`ArmError`]: the program must not start, or a test that means a point would test nothing.
pub fn arm(variable: &str, points: &[Point]) -> Result<(), ArmError> {
    let Ok(text) = std::env::var(variable) else { return Ok(()) };
    let fault = parse(variable, &text, points)?;
    FAULT.set(fault).map_err(|_| ArmError::Twice { variable: variable.to_owned() })?;
    ARMED.store(true, Ordering::Release);
    Ok(())
}

fn parse(variable: &str, text: &str, points: &[Point]) -> Result<Fault, ArmError> {
    let variable = variable.to_owned();
    let mut words = text.split(':');
    let name = words.next().unwrap_or_default();
    let (mut left, mut error, mut longer, mut counting) = (1, false, false, true);
    for word in words {
        match (word, word.parse::<u32>()) {
            ("error", _) => error = true,
            ("asked", _) => counting = false,
            ("longer", _) => longer = true,
            (_, Ok(n @ 1..)) => left = n,
            _ => return Err(ArmError::Word { variable, word: word.to_owned() }),
        }
    }
    let (left, counting) = (AtomicU32::new(left), AtomicBool::new(counting));
    if name == "record" {
        return Ok(Fault { name: None, left, error: false, longer, counting });
    }
    match points.iter().find(|point| point.name == name) {
        None => {
            let known = points.iter().map(|point| point.name).collect();
            Err(ArmError::Unknown { variable, name: name.to_owned(), known })
        }
        Some(point) if error && !point.fails => Err(ArmError::CannotFail { variable, name: name.to_owned() }),
        Some(_) => Ok(Fault { name: Some(name.to_owned()), left, error, longer, counting }),
    }
}

/// A place at which the process can end.
#[inline]
pub fn point(name: &'static str) {
    if ARMED.load(Ordering::Relaxed) && passed(name) {
        end();
    }
}

/// A place at which the process can end or the step fail.
///
/// # Errors
/// [`Injected`] when that was asked for.
#[inline]
pub fn check(name: &'static str) -> Result<(), Injected> {
    if ARMED.load(Ordering::Relaxed) { hit(name) } else { Ok(()) }
}

/// [`check`] before or after a step of a plan: the point `STEP.before` or `STEP.after`.
///
/// # Errors
/// [`Injected`] when that was asked for.
#[inline]
pub fn step(step: &'static str, moment: Moment) -> Result<(), Injected> {
    if ARMED.load(Ordering::Relaxed) { hit(&format!("{step}.{moment}")) } else { Ok(()) }
}

/// A request that changes something begins: with `asked` passes count from the first one.
#[inline]
pub fn asked() {
    if ARMED.load(Ordering::Relaxed)
        && let Some(fault) = FAULT.get()
    {
        fault.counting.store(true, Ordering::Release);
    }
}

/// Whether the process shall take itself for the version after this one, with longer rows in its tables.
#[must_use]
pub fn longer() -> bool {
    ARMED.load(Ordering::Relaxed) && FAULT.get().is_some_and(|fault| fault.longer)
}

#[cold]
fn hit(name: &str) -> Result<(), Injected> {
    match passed(name) {
        false => Ok(()),
        true if FAULT.get().is_some_and(|fault| fault.error) => Err(Injected { point: name.to_owned() }),
        true => end(),
    }
}

/// Counts a pass; true when it is the one.
#[cold]
fn passed(name: &str) -> bool {
    match FAULT.get() {
        Some(fault) if fault.counting.load(Ordering::Acquire) => fault.passed(name),
        _ => false,
    }
}

impl Fault {
    fn passed(&self, name: &str) -> bool {
        match &self.name {
            None => {
                eprintln!("fault-point {name}");
                false
            }
            Some(wanted) => {
                wanted == name
                    && self
                        .left
                        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1))
                        .is_ok_and(|left| left == 1)
            }
        }
    }
}

/// As if somebody had sent `kill -9`: no destructor, no handler, no other thread runs on.
fn end() -> ! {
    let _ = kill(Pid::this(), Signal::SIGKILL);
    // Not reached: the kernel does not return to a process that it has killed.
    std::process::abort()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const POINTS: &[Point] = &[Point::new("store.put", "recorded"), Point::failing("port.before", "no port yet")];

    fn refused(text: &str) -> String {
        parse("FAULT", text, POINTS).unwrap_err().to_string()
    }

    #[test]
    fn a_name_that_is_not_in_the_list_is_refused_with_the_list() {
        assert_eq!(
            refused("nowhere"),
            "FAULT: \"nowhere\" refused: no such fault point; there are: store.put, port.before"
        );
        assert!(refused("").contains("store.put"));
    }

    #[test]
    fn words_are_checked() {
        for text in ["store.put:0", "store.put:x", "store.put:", "store.put:1:fail", "store.put:-1"] {
            assert!(refused(text).contains("NAME[:N]"), "{text}");
        }
        assert!(refused("store.put:error").contains("not fail"));
    }

    #[test]
    fn the_nth_pass_counts_once() {
        let fault = parse("FAULT", "port.before:3:error", POINTS).unwrap();
        let passes: Vec<bool> = (0..6).map(|_| fault.passed("port.before")).collect();
        assert_eq!(passes, [false, false, true, false, false, false]);
        assert!(!fault.passed("store.put"));
        assert!(fault.error && fault.counting.load(Ordering::Relaxed));
        assert!(!parse("FAULT", "store.put:asked", POINTS).unwrap().counting.load(Ordering::Relaxed));
        assert!(!fault.longer && parse("FAULT", "record:longer", POINTS).unwrap().longer);
    }

    #[test]
    fn what_is_not_armed_does_nothing() {
        point("store.put");
        asked();
        assert!(!longer());
        assert_eq!(check("store.put"), Ok(()));
        assert_eq!(step("port", Moment::Before), Ok(()));
    }
}
