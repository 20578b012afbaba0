//! A service as init is told to run it. Everything but the name and the program has a default, which is what a plain
//! command needs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Largest service in bytes of JSON: its name, command, files and all the rest.
pub const MAX_SERVICE: usize = 56 * 1024;

/// How long a service may take until it is ready, and each of its `prepare` commands until it has ended, unless it
/// says otherwise.
pub const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Grace between the stop signal and SIGKILL when nobody names one, as at the end of the tenant.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the start of a service waits for those that come before it.
pub const AFTER_TIMEOUT: Duration = Duration::from_secs(60);

/// A service as init runs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// DNS label, at most 48 characters; also the name of its log file.
    pub name: String,
    /// Program and arguments. A program without a slash is looked up in `PATH`.
    pub argv: Vec<String>,
    /// Added to the small environment every service gets (`PATH`, `HOME`, `LANG`, `USER`, `LOGNAME`, `SHELL`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory; the home of its user when left out, `/` where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<PathBuf>,
    /// User, by its name in the tenant's `/etc/passwd` or by number; root when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Group, by its name in the tenant's `/etc/group` or by number; the user's own when left out. The supplementary
    /// groups are those of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Written at every start, after `directories` and before `prepare`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<ServiceFile>,
    /// Made before everything else, at every start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub directories: Vec<Directory>,
    /// Commands that run one after another before every start, as the service's user. Each has to end with exit 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prepare: Vec<Vec<String>>,
    /// How long each `prepare` command may take, in milliseconds; [`READY_TIMEOUT`] when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepare_timeout_ms: Option<u64>,
    /// Services that have to be ready before this one is started, and are stopped after it when the tenant ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// When it counts as ready.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ready: Ready,
    /// How long that may take, in milliseconds; [`READY_TIMEOUT`] when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_timeout_ms: Option<u64>,
    /// Number of the signal that asks it to end; SIGTERM when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<i32>,
    /// Grace before SIGKILL where the request names none, in milliseconds; [`STOP_TIMEOUT`] when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout_ms: Option<u64>,
    /// May its programs gain privileges by set-id programs (su, passwd)? `no_new_privs` is set unless it says so.
    #[serde(default, skip_serializing_if = "is_default")]
    pub new_privileges: bool,
    /// The capabilities it keeps of those the tenant has, in lower case without `cap_`; all that its user has when
    /// left out. A user other than root gets the named ones as ambient capabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
    /// What happens when it ends by itself.
    #[serde(default, skip_serializing_if = "is_default")]
    pub restart: Restart,
}

/// A file that init writes into the tenant's root before a service starts. It is put beside and renamed, so a reader
/// sees the old one or the new one; a link at its place is replaced, not followed. Parents are made (root, 0755).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceFile {
    /// Absolute path in the tenant, without `..`.
    pub path: String,
    /// Its text.
    pub content: String,
    /// Permissions; 0644 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Owner, name or number; root when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Group, name or number; the owner's own when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Write it only when nothing is there: from then on it is the tenant's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub keep: bool,
}

/// A directory that init makes before a service starts; one that is there gets the owner and permissions anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    /// Absolute path in the tenant, without `..`. Parents are made (root, 0755).
    pub path: String,
    /// Permissions; 0755 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Owner, name or number; root when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Group, name or number; the owner's own when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// When a service counts as ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ready {
    /// As soon as its program is executed.
    #[default]
    None,
    /// When it has ended with exit 0: it is a piece of work, not a server. What it leaves running is ended.
    Exit,
    /// When it has run for so many milliseconds.
    Alive(u64),
    /// When this TCP port is listened on in the tenant's stack, and was not before.
    Tcp(u16),
    /// When this UDP port is bound in the tenant's stack, and was not before.
    Udp(u16),
}

/// What happens when a service ends by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// It is started again after a pause.
    #[default]
    Always,
    /// It is started again unless it ended with exit 0.
    OnFailure,
    /// It stays ended.
    Never,
}

impl ServiceSpec {
    /// The service with each file's content replaced by its length and a hash (FNV-1a, 64 bits). Lists show this
    /// form, so a caller compares `state.spec` with the outline of what it would ask for.
    pub fn outline(&self) -> ServiceSpec {
        let mut outline = self.clone();
        for file in &mut outline.files {
            let hash = file
                .content
                .bytes()
                .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
            file.content = format!("{} bytes, {hash:016x}", file.content.len());
        }
        outline
    }

    /// The longest time until a request to start it is answered, with some slack for init itself.
    pub fn longest_start(&self) -> Duration {
        let prepare = self.prepare_timeout().saturating_mul(u32::try_from(self.prepare.len()).unwrap_or(u32::MAX));
        let before = if self.after.is_empty() { Duration::ZERO } else { AFTER_TIMEOUT };
        let end = self.stop_timeout();
        [before, prepare, self.ready_timeout(), end].into_iter().fold(Duration::from_secs(10), Duration::saturating_add)
    }

    /// How long each `prepare` command may take.
    pub fn prepare_timeout(&self) -> Duration {
        self.prepare_timeout_ms.map_or(READY_TIMEOUT, Duration::from_millis)
    }

    /// How long it may take until it is ready.
    pub fn ready_timeout(&self) -> Duration {
        self.ready_timeout_ms.map_or(READY_TIMEOUT, Duration::from_millis)
    }

    /// Grace between the stop signal and SIGKILL where a request names none.
    pub fn stop_timeout(&self) -> Duration {
        self.stop_timeout_ms.map_or(STOP_TIMEOUT, Duration::from_millis)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
