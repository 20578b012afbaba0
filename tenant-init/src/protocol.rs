//! Messages on a tenant's control socket: JSON, one message a `SOCK_SEQPACKET` packet.
//!
//! In: [`Envelope`] with a [`Request`]; out: [`Answer`] with a [`Reply`] to the same id, or with an [`Event`] (id 0)
//! once the connection has subscribed. Requests with unknown fields are refused; answers may grow fields. A field that
//! is at its default is left out, so an init that is older than the field goes on to understand the rest.

use serde::{Deserialize, Serialize};

pub use crate::service::{
    Directory, MAX_SERVICE, READY_TIMEOUT, Ready, Restart, STOP_TIMEOUT, ServiceFile, ServiceSpec,
};

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
    /// Starts a service and keeps it running. Asking again for the same service is no error. Answered when the
    /// service is ready, or refused with the cause and the last lines of its log; a service that was not known before
    /// is then forgotten again.
    Start {
        /// What to run.
        service: Box<ServiceSpec>,
    },
    /// Ends a service; it stays known and stays stopped. Answered when its processes are gone.
    Stop {
        /// Name of the service.
        name: String,
        /// Milliseconds between the stop signal and SIGKILL.
        timeout_ms: u64,
    },
    /// Stops and starts a service. Answered when it is ready again.
    Restart {
        /// Name of the service.
        name: String,
        /// Milliseconds between the stop signal and SIGKILL.
        timeout_ms: u64,
    },
    /// Stops a service and forgets it. An unknown name is no error: the absent is already removed.
    Remove {
        /// Name of the service.
        name: String,
        /// Milliseconds between the stop signal and SIGKILL.
        timeout_ms: u64,
    },
    /// All services with their states, as many as one answer takes.
    List {
        /// Only those whose names come after this one: the last of the answer before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// Sends a signal to the first process of a service that runs, such as SIGHUP to make it read its files again.
    Signal {
        /// Name of the service.
        name: String,
        /// Number of the signal, 1 to 64.
        signal: i32,
    },
    /// The last lines of a service's log.
    Tail {
        /// Name of the service.
        name: String,
        /// How many lines at most; never more than 32 KiB.
        lines: usize,
    },
    /// How many processes the tenant has beside init.
    Processes,
    /// From now on this connection gets [`Reply::Event`] messages.
    Subscribe,
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
    /// The service is ready.
    Started {
        /// Its process id inside the tenant.
        pid: i32,
    },
    /// Answer to [`Request::List`].
    Services {
        /// In the order of their names.
        services: Vec<ServiceState>,
        /// There are more, after the last one.
        #[serde(default, skip_serializing_if = "is_false")]
        more: bool,
    },
    /// Answer to [`Request::Tail`].
    Lines {
        /// The oldest first, without line ends and control characters.
        lines: Vec<String>,
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
    /// It waits for services that come before it, or its `prepare` commands run.
    Preparing,
    /// Its process runs and is not ready yet.
    Starting,
    /// Its process runs and is ready.
    Running,
    /// It was told to end and has not ended yet.
    Stopping,
    /// It ended by itself and will be started again after the back-off.
    Waiting,
    /// It was stopped by request.
    Stopped,
    /// It has done its work and ended well; it is not started again.
    Done,
    /// It ended or could not be started, and is not started again.
    Failed,
}

impl RunState {
    /// The word as it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            RunState::Preparing => "preparing",
            RunState::Starting => "starting",
            RunState::Running => "running",
            RunState::Stopping => "stopping",
            RunState::Waiting => "waiting",
            RunState::Stopped => "stopped",
            RunState::Done => "done",
            RunState::Failed => "failed",
        }
    }
}

/// One service as init sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceState {
    /// What was asked for, in the short form of [`ServiceSpec::outline`].
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
    /// It is ready.
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
#[error("{field}: {value:?} refused: {}", self.explained())]
pub struct Refusal {
    /// Class of the refusal, for programs.
    pub kind: RefusalKind,
    /// The field it is about, such as `command` or `service`.
    pub field: String,
    /// Its value.
    pub value: String,
    /// The rule that is broken, or the cause.
    pub rule: String,
    /// The last lines of the service's log, when they may say more: at most 10 lines and 2 KiB, without control
    /// characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

impl Refusal {
    /// A refusal without lines of a log.
    pub fn new(kind: RefusalKind, field: &str, value: &str, rule: impl Into<String>) -> Refusal {
        Refusal { kind, field: field.to_owned(), value: value.to_owned(), rule: rule.into(), log: Vec::new() }
    }

    /// The rule, and what the log says about it, in one line.
    pub fn explained(&self) -> String {
        if self.log.is_empty() {
            return self.rule.clone();
        }
        format!("{}; its log ends with: {}", self.rule, self.log.join(" | "))
    }
}

fn is_false(value: &bool) -> bool {
    !value
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
    /// The service, or one of its `prepare` commands, ended too early; [`Refusal::log`] may say why.
    Ended,
    /// The service was not ready in time; it was ended.
    Late,
    /// The port that tells readiness was already open before the service started.
    Port,
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
                service: Box::new(ServiceSpec {
                    name: "web".into(),
                    argv: vec!["/usr/sbin/nginx".into()],
                    ..ServiceSpec::default()
                }),
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

        let list = r#"{"protocol":1,"id":1,"request":{"do":"list"}}"#;
        let envelope = Envelope { protocol: 1, id: 1, request: Request::List { after: None } };
        assert_eq!(serde_json::from_str::<Envelope>(list).unwrap(), envelope);
        assert_eq!(serde_json::to_string(&envelope).unwrap(), list);
        let error = r#"{"is":"error","kind":"command","field":"command","value":"x","rule":"not found"}"#;
        let refusal = Refusal::new(RefusalKind::Command, "command", "x", "not found");
        assert_eq!(serde_json::to_string(&Reply::Error(refusal.clone())).unwrap(), error);
        assert_eq!(serde_json::from_str::<Reply>(error).unwrap(), Reply::Error(refusal));
    }

    #[test]
    fn what_came_later_is_left_out_where_it_is_not_used() {
        let text = concat!(
            r#"{"name":"db","argv":["/usr/bin/postgres"],"user":"postgres","group":"postgres","#,
            r#""files":[{"path":"/etc/x.conf","content":"a\n","mode":416,"user":"root","keep":true}],"#,
            r#""directories":[{"path":"/run/x","mode":448,"user":"postgres"}],"prepare":[["/bin/true"]],"#,
            r#""prepare_timeout_ms":1000,"after":["dns"],"ready":{"tcp":5432},"ready_timeout_ms":9000,"#,
            r#""stop_signal":2,"stop_timeout_ms":1000,"new_privileges":true,"capabilities":["chown"],"#,
            r#""restart":"on-failure"}"#
        );
        let spec: ServiceSpec = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&spec).unwrap(), text);
        for (ready, text) in [
            (Ready::None, r#""none""#),
            (Ready::Exit, r#""exit""#),
            (Ready::Alive(100), r#"{"alive":100}"#),
            (Ready::Udp(53), r#"{"udp":53}"#),
        ] {
            assert_eq!(serde_json::to_string(&ready).unwrap(), text);
        }
        let outline = spec.outline();
        assert_ne!(outline, spec);
        assert_eq!(outline.files[0].content, "2 bytes, 089bdc07b544e7b2");
        assert_eq!(outline.argv, spec.argv);
    }

    #[test]
    fn unknown_fields_of_a_request_are_refused_and_of_an_answer_ignored() {
        let request = r#"{"protocol":1,"id":1,"request":{"do":"stop","name":"web","timeout_ms":5,"how":"softly"}}"#;
        assert!(serde_json::from_str::<Envelope>(request).is_err());
        let answer = r#"{"protocol":1,"id":1,"reply":{"is":"processes","count":3,"threads":4}}"#;
        assert!(serde_json::from_str::<Answer>(answer).is_ok());
    }
}
