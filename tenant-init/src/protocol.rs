//! Messages on a tenant's control socket: JSON, one message a `SOCK_SEQPACKET` packet.
//!
//! In: [`Envelope`] with a [`Request`]; out: [`Answer`] with a [`Reply`] to the same id, or with an [`Event`] (id 0)
//! once the connection has subscribed. Requests with unknown fields are refused; answers may grow fields.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Number of this protocol. It changes only when an old and a new side cannot understand each other; new requests
/// and new fields of answers do not change it.
pub const PROTOCOL: u32 = 1;

/// Longest message in bytes, both ways.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Most services of one tenant.
pub const MAX_SERVICES: usize = 256;

/// A request with the number that its answer will carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u32,
    /// Chosen by the client, unique on its connection, not 0.
    pub id: u64,
    /// What to do.
    pub request: Request,
}

/// What a client may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Who is there, and is it ready? Answered only when the tenant's set-up is done or has failed.
    Hello,
    /// Starts a service and keeps it running. Asking again for the same service is no error.
    Start {
        /// What to run.
        service: ServiceSpec,
    },
    /// Ends a service; it stays known and stays stopped. Answered when its processes are gone.
    Stop {
        /// Name of the service.
        name: String,
        /// Milliseconds between SIGTERM and SIGKILL.
        timeout_ms: u64,
    },
    /// Stops and starts a service. Answered when it runs again.
    Restart {
        /// Name of the service.
        name: String,
        /// Milliseconds between SIGTERM and SIGKILL.
        timeout_ms: u64,
    },
    /// Stops a service and forgets it. An unknown name is no error: the absent is already removed.
    Remove {
        /// Name of the service.
        name: String,
        /// Milliseconds between SIGTERM and SIGKILL.
        timeout_ms: u64,
    },
    /// All services with their states.
    List,
    /// How many processes the tenant has beside init.
    Processes,
    /// From now on this connection gets [`Reply::Event`] messages.
    Subscribe,
}

/// A service as init runs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// DNS label, at most 48 characters; also the name of its log file.
    pub name: String,
    /// Program and arguments. A program without a slash is looked up in `PATH`.
    pub argv: Vec<String>,
    /// Added to the small environment every service gets (`PATH`, `HOME`, `LANG`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory; the tenant's home when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<PathBuf>,
}

/// An answer to the request with the same id; id 0 is an event, or a complaint about a message without readable id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// [`PROTOCOL`] of init.
    pub protocol: u32,
    /// Id of the request.
    pub id: u64,
    /// What came of it.
    pub reply: Reply,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Reply {
    /// Answer to [`Request::Hello`].
    Hello(Hello),
    /// Done; there is nothing else to tell.
    Done,
    /// The service runs.
    Started {
        /// Its process id inside the tenant.
        pid: i32,
    },
    /// Answer to [`Request::List`].
    Services {
        /// In the order of their names.
        services: Vec<ServiceState>,
    },
    /// Answer to [`Request::Processes`].
    Processes {
        /// Processes in the tenant's pid namespace without init.
        count: usize,
    },
    /// Refused or failed; nothing was changed.
    Error(Refusal),
    /// Something happened; sent to connections that subscribed.
    Event(Event),
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Name of the tenant.
    pub name: String,
    /// First user and group id of the tenant.
    pub ids: u32,
    /// True when mounts and capabilities are as they have to be. When false, `failed` says why.
    pub ready: bool,
    /// The step of the set-up that failed, with its cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// Inode number of the network namespace: the identity of the stack.
    pub netns: u64,
    /// Processes beside init.
    pub processes: usize,
}

/// What a service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Its process runs.
    Running,
    /// It was told to end and has not ended yet.
    Stopping,
    /// It ended by itself and will be started again after the back-off.
    Waiting,
    /// It was stopped by request.
    Stopped,
}

impl RunState {
    /// The word as it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            RunState::Running => "running",
            RunState::Stopping => "stopping",
            RunState::Waiting => "waiting",
            RunState::Stopped => "stopped",
        }
    }
}

/// One service as init sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceState {
    /// What was asked for.
    pub spec: ServiceSpec,
    /// What it does now.
    pub state: RunState,
    /// Process id inside the tenant while a process exists.
    pub pid: Option<i32>,
    /// How often it was started again without being asked.
    pub restarts: u64,
    /// How it ended last, such as `exit 1` or `signal 9`.
    pub last_exit: Option<String>,
}

/// Something that happened to a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// It runs.
    ServiceStarted {
        /// Name of the service.
        name: String,
        /// Process id inside the tenant.
        pid: i32,
        /// Starts without being asked so far.
        restarts: u64,
    },
    /// It ended.
    ServiceExited {
        /// Name of the service.
        name: String,
        /// Such as `exit 1` or `signal 9`.
        exit: String,
        /// Milliseconds until it is started again; none when it stays stopped.
        again_ms: Option<u64>,
    },
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{field}: {value:?} refused: {rule}")]
pub struct Refusal {
    /// Class of the refusal, for programs.
    pub kind: RefusalKind,
    /// The field it is about, such as `command` or `service`.
    pub field: String,
    /// Its value.
    pub value: String,
    /// The rule that is broken, or the cause.
    pub rule: String,
}

/// Class of a [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// The message is not of this protocol (not JSON, unknown request or field, other protocol number, too long).
    NotUnderstood,
    /// A value breaks a rule.
    Invalid,
    /// No service of that name.
    Unknown,
    /// The service exists with another command, or is being stopped by another request.
    Conflict,
    /// The program does not exist or cannot be executed.
    Command,
    /// A step of starting the process failed for another reason.
    Failed,
    /// The tenant's set-up failed: see [`Hello::failed`].
    NotReady,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn messages_keep_their_form_because_an_old_init_must_understand_a_new_daemon() {
        let start = Envelope {
            protocol: 1,
            id: 7,
            request: Request::Start {
                service: ServiceSpec {
                    name: "web".into(),
                    argv: vec!["/usr/sbin/nginx".into()],
                    env: BTreeMap::new(),
                    cwd: None,
                },
            },
        };
        let text =
            r#"{"protocol":1,"id":7,"request":{"do":"start","service":{"name":"web","argv":["/usr/sbin/nginx"]}}}"#;
        assert_eq!(serde_json::to_string(&start).unwrap(), text);
        assert_eq!(serde_json::from_str::<Envelope>(text).unwrap(), start);

        let answer = Answer { protocol: 1, id: 7, reply: Reply::Started { pid: 2 } };
        let text = r#"{"protocol":1,"id":7,"reply":{"is":"started","pid":2}}"#;
        assert_eq!(serde_json::to_string(&answer).unwrap(), text);

        let stop = r#"{"protocol":1,"id":1,"request":{"do":"stop","name":"web","timeout_ms":5000}}"#;
        assert!(serde_json::from_str::<Envelope>(stop).is_ok());
    }

    #[test]
    fn unknown_fields_of_a_request_are_refused_and_of_an_answer_ignored() {
        let request = r#"{"protocol":1,"id":1,"request":{"do":"stop","name":"web","timeout_ms":5,"how":"softly"}}"#;
        assert!(serde_json::from_str::<Envelope>(request).is_err());
        let answer = r#"{"protocol":1,"id":1,"reply":{"is":"processes","count":3,"threads":4}}"#;
        assert!(serde_json::from_str::<Answer>(answer).is_ok());
    }
}
