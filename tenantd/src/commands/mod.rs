//! The command line: one verb, one file. A verb is its arguments and a `run`; it asks the daemon through the
//! [`Client`] and prints either what the API said (`--json`) or words for people.

use std::io::{self, Write};

use serde::de::DeserializeOwned;
use stackmap::{Invalid, TenantName};

use crate::client::{Answer, Client, ClientError};
use crate::config::ConfigError;
use crate::declare::Faults;
use crate::model::Here;
use crate::problem::{Problem, ProblemKind};

pub mod add_address;
pub mod add_route;
pub mod add_service;
pub mod add_tenant;
pub mod add_tunnel;
pub mod apply;
pub mod audit;
pub mod backup;
pub mod completion;
pub mod cp;
pub mod diff;
pub mod doctor;
pub mod exec;
pub mod export;
pub mod fault_points;
mod files;
pub mod image;
pub mod import;
pub mod list;
pub mod list_shares;
pub mod logs;
pub mod man;
pub mod map;
pub mod plan;
pub mod reload_service;
pub mod remove_address;
pub mod remove_route;
pub mod remove_service;
pub mod remove_tenant;
pub mod remove_tunnel;
pub mod restart_service;
pub mod restart_tenant;
pub mod restore;
pub mod run;
pub mod schema;
pub mod set_address;
pub mod set_dns;
pub mod set_filter;
pub mod set_limits;
pub mod set_route;
pub mod share;
pub mod shell;
pub mod show;
pub mod start_service;
pub mod status;
pub mod stop_service;
mod table;
mod tasks;
pub mod template;
pub mod top;
pub mod trace;
pub mod unshare;
pub mod verify;

/// What every client verb works with.
#[derive(Debug)]
pub struct Context {
    /// The daemon.
    pub client: Client,
    /// Print what the API said, as it said it.
    pub json: bool,
    /// We are in a tenant and ask its own API.
    pub inside: bool,
}

/// Why a verb did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A value was refused before the daemon was asked: wrong usage.
    #[error(transparent)]
    Usage(#[from] Invalid),
    /// The daemon's settings are refused: wrong usage.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The daemon could not be asked, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The process has no event queue.
    #[error("cannot start")]
    Start(#[source] io::Error),
    /// Standard output cannot be written.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// A declarative file is refused: wrong usage.
    #[error(transparent)]
    Faults(#[from] Faults),
    /// A file cannot be read or written.
    #[error("cannot {verb} {path}")]
    File {
        /// `read` or `write`.
        verb: &'static str,
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A command could not be run in a tenant.
    #[error(transparent)]
    Exec(#[from] exec::ExecError),
    /// A tenant could not be entered.
    #[error(transparent)]
    Enter(#[from] crate::enter::EnterError),
    /// The daemon needs root.
    #[error("tenantd run must be root (uid 0): it makes namespaces and loads BPF programs; this is uid {0}")]
    NotRoot(nix::unistd::Uid),
    /// The daemon could not run.
    #[error(transparent)]
    Daemon(Box<crate::daemon::RunError>),
}

impl Failure {
    /// 2 for wrong usage, 1 for everything else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config(_) | Self::Faults(_) => 2,
            _ => 1,
        }
    }

    /// Nobody reads our output any more, as in `tenantd list | head -1`: no reason to complain.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        let (Self::Output(e) | Self::Client(ClientError::Sink(e))) = self else { return false };
        e.kind() == io::ErrorKind::BrokenPipe
    }

    /// The failure as a problem document, for `--json`; the daemon's own words where it spoke.
    #[must_use]
    pub fn problem(&self) -> Problem {
        match self {
            Self::Client(ClientError::Refused(problem)) => (**problem).clone(),
            Self::Usage(refused) | Self::Config(ConfigError::Invalid(refused)) => refused.clone().into(),
            Self::Faults(faults) => faults.clone().into(),
            Self::Client(ClientError::NoPermission(_)) => Problem::new(ProblemKind::Forbidden, chain(self)),
            Self::Client(ClientError::NotRunning(_)) => Problem::new(ProblemKind::NotRunning, chain(self)),
            Self::Config(_) => Problem::new(ProblemKind::Malformed, chain(self)),
            _ => Problem::new(ProblemKind::Io, chain(self)),
        }
    }
}

/// An error with all its causes, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

impl Context {
    /// The tenant that is meant: the one that was named, or inside a tenant that one.
    fn tenant(&self, named: Option<&TenantName>) -> Result<TenantName, Failure> {
        if let Some(name) = named {
            return Ok(name.clone());
        }
        let here = if self.inside { self.client.get("/v1/here")?.parse::<Here>()?.tenant } else { None };
        Ok(here.ok_or_else(|| Invalid::new("name", "", "is needed on the host; may be left out inside a tenant"))?)
    }

    /// Prints an answer: the body as it came with `--json`, else the words made of it.
    fn say<T: DeserializeOwned>(&self, answer: &Answer, words: impl FnOnce(T) -> String) -> Result<(), Failure> {
        if self.json {
            let end: &[u8] = if answer.bytes().is_empty() { b"" } else { b"\n" };
            return write(&[answer.bytes(), end].concat());
        }
        write(words(answer.parse()?).as_bytes())
    }

    /// Prints words where the API says nothing.
    fn done(&self, words: &str) -> Result<(), Failure> {
        if self.json { Ok(()) } else { write(format!("{words}\n").as_bytes()) }
    }
}

fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Failure::Output)
}

/// Serialises a request; our own types always can be.
fn body(value: &impl serde::Serialize) -> Option<Vec<u8>> {
    serde_json::to_vec(value).ok()
}
