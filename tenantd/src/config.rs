//! How a daemon is set up: the flags of `run`, the file beside them (same words, TOML), and the checked result.
//!
//! A flag overrides the file, the file overrides the default. Unknown keys of the file are refused.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use stackmap::Invalid;

use crate::trunks::{self, TrunkOption};

/// The longest instance name: it is part of paths and of one device name.
const INSTANCE_MAX: usize = 15;
/// The longest instance name when tenantd makes the trunk: `trunk-` and the name are one device name.
const INSTANCE_MAX_OWN_TRUNK: usize = 9;
/// The longest path a Unix socket can have (`sun_path` is 108 bytes with the zero at the end).
const SOCKET_MAX: usize = 107;

/// A daemon's settings, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Instance name, a DNS label.
    pub instance: String,
    /// Path of the API's Unix socket.
    pub socket: PathBuf,
    /// Directory for what must outlive a reboot (database, tenants' files).
    pub state_dir: PathBuf,
    /// Directory for what lives until a reboot (socket, patch room, control sockets of the inits).
    pub run_dir: PathBuf,
    /// Directory of the BPF file system.
    pub bpffs: PathBuf,
    /// The trunks as they are said, one at least.
    pub trunks: Vec<TrunkOption>,
    /// Path of the Unix socket of the first trunk's access server, where the trunk itself says none.
    pub access: String,
    /// The tenants' init program.
    pub init: PathBuf,
    /// This program, as tenants get it to speak to their own API.
    pub program: PathBuf,
    /// Directory of the tenants' cgroups, relative to the root of each hierarchy.
    pub cgroup: String,
    /// Cgroup of version 2 whose processes the guard asks about; none means all.
    pub guard_cgroup: Option<PathBuf>,
    /// Where `/metrics` is answered on TCP; none means on the API's socket only.
    pub metrics: Option<SocketAddr>,
    /// Take over a store that belongs to another machine or instance.
    pub accept_store: bool,
}

/// Settings as given by flags or by the file; what is left out has a default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Options {
    /// Instance name; several instances run side by side on one machine
    #[arg(skip)]
    pub instance: Option<String>,
    /// Path of the API's Unix socket
    #[arg(skip)]
    pub socket: Option<PathBuf>,
    /// Directory for database and tenants' files [default: /var/lib/tenantd/INSTANCE]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Directory for sockets and the patch room [default: /run/tenantd/INSTANCE]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// BPF file system; mounted there if the directory is none [default: /sys/fs/bpf]
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// A trunk: a network card, or NAME=CARD, or NAME= for a veth pair that is made; may be repeated
    /// [default: a pair, its near end named trunk-INSTANCE]
    #[arg(long = "trunk", value_name = "TRUNK[,access=URL]")]
    #[serde(alias = "trunks", deserialize_with = "one_or_more")]
    pub trunk: Vec<String>,
    /// Where the access server of the first trunk listens, unix:///PATH
    /// [default: unix:///run/access-server/INSTANCE/api.sock; of trunk number N: .../INSTANCE-N/api.sock]
    #[arg(long, value_name = "URL")]
    pub access: Option<String>,
    /// The tenants' init program [default: tenant-init beside this program]
    #[arg(long, value_name = "PATH")]
    pub init: Option<PathBuf>,
    /// Directory of the tenants' cgroups below the root of each hierarchy, not below the daemon's own unit
    /// [default: tenantd-INSTANCE]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<String>,
    /// Directory of a cgroup2 file system whose processes the guard watches [default: its root, all processes]
    #[arg(long, value_name = "DIR")]
    pub guard_cgroup: Option<PathBuf>,
    /// Answer /metrics there too, to whoever asks: an address of this host, no wildcard [default: the API's socket only]
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<String>,
}

/// Why there is no [`Config`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The file cannot be read.
    #[error("config: {path:?} refused: cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML, has an unknown key, or a value of another type.
    #[error("config: {path:?} refused: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and reason in the parser's words.
        reason: String,
    },
}

impl Options {
    /// Reads the file.
    ///
    /// # Errors
    /// [`ConfigError`] naming the file, and the key where there is one.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text)
            .map_err(|e| ConfigError::Parse { path: path.to_owned(), reason: e.to_string().trim_end().to_owned() })
    }

    /// These options, with `below` where they say nothing.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            instance: self.instance.or(below.instance),
            socket: self.socket.or(below.socket),
            state_dir: self.state_dir.or(below.state_dir),
            run_dir: self.run_dir.or(below.run_dir),
            bpffs: self.bpffs.or(below.bpffs),
            trunk: if self.trunk.is_empty() { below.trunk } else { self.trunk },
            access: self.access.or(below.access),
            init: self.init.or(below.init),
            cgroup: self.cgroup.or(below.cgroup),
            guard_cgroup: self.guard_cgroup.or(below.guard_cgroup),
            metrics: self.metrics.or(below.metrics),
        }
    }

    /// Fills in the defaults and checks every value. `program_dir` is where this program lies.
    ///
    /// # Errors
    /// [`Invalid`] naming field, value and rule.
    pub fn resolve(self, program_dir: &Path) -> Result<Config, Invalid> {
        let instance = self.instance.unwrap_or_else(|| DEFAULT_INSTANCE.to_owned());
        check_instance(&instance)?;
        let mut trunks = self.trunk.iter().map(|text| text.parse()).collect::<Result<Vec<TrunkOption>, _>>()?;
        if trunks.is_empty() {
            trunks.push(TrunkOption { name: format!("trunk-{instance}"), card: None, access: None });
        }
        trunks::check(&trunks)?;
        if trunks.iter().any(|trunk| trunk.card.is_none()) && instance.len() > INSTANCE_MAX_OWN_TRUNK {
            let rule = format!(
                "must be at most {INSTANCE_MAX_OWN_TRUNK} characters when no trunk is given: the trunk we make is named \
                 after it"
            );
            return Err(Invalid::new("instance", instance, rule));
        }
        let run_dir = absolute("run-dir", self.run_dir.unwrap_or_else(|| default_run_dir(&instance)))?;
        let socket = absolute("socket", self.socket.unwrap_or_else(|| run_dir.join("api.sock")))?;
        check_socket_path("socket", &socket)?;
        let access = match self.access {
            Some(url) => parse_access(&url)?,
            None => format!("/run/access-server/{instance}/api.sock"),
        };
        Ok(Config {
            accept_store: false,
            state_dir: absolute(
                "state-dir",
                self.state_dir.unwrap_or_else(|| PathBuf::from("/var/lib/tenantd").join(&instance)),
            )?,
            bpffs: absolute("bpffs", self.bpffs.unwrap_or_else(|| PathBuf::from("/sys/fs/bpf")))?,
            init: absolute("init", self.init.unwrap_or_else(|| program_dir.join("tenant-init")))?,
            guard_cgroup: self.guard_cgroup.map(|path| absolute("guard-cgroup", path)).transpose()?,
            program: program_dir.join("tenantd"),
            metrics: self.metrics.as_deref().map(parse_metrics).transpose()?,
            cgroup: self.cgroup.unwrap_or_else(|| format!("tenantd-{instance}")),
            trunks,
            instance,
            socket,
            run_dir,
            access,
        })
    }
}

/// The instance meant when none is named.
pub const DEFAULT_INSTANCE: &str = "main";

/// Where a client looks for the daemon of `instance`.
#[must_use]
pub fn default_socket(instance: &str) -> PathBuf {
    default_run_dir(instance).join("api.sock")
}

/// Where a tenant finds the socket of its own API.
pub const INSIDE_SOCKET: &str = "/run/tenantd/api.sock";

fn default_run_dir(instance: &str) -> PathBuf {
    PathBuf::from("/run/tenantd").join(instance)
}

/// Checks an instance name: a DNS label of at most 15 characters.
///
/// # Errors
/// [`Invalid`] (field `instance`).
pub fn check_instance(instance: &str) -> Result<(), Invalid> {
    let label = instance.parse::<stackmap::TenantName>().is_ok();
    if label && instance.len() <= INSTANCE_MAX {
        return Ok(());
    }
    let rule = "must be a DNS label: a-z, 0-9 and hyphen, no hyphen at the ends, 1..=15 characters";
    Err(Invalid::new("instance", instance, rule))
}

/// One text, or a list of them.
fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a text or a list of texts")]
    enum Said {
        One(String),
        More(Vec<String>),
    }
    Ok(match Said::deserialize(from)? {
        Said::One(text) => vec![text],
        Said::More(texts) => texts,
    })
}

/// Reads where an access server listens.
pub(crate) fn parse_access(url: &str) -> Result<String, Invalid> {
    let refuse = |rule: &'static str| Invalid::new("access", url, rule);
    let path = url.strip_prefix("unix://").ok_or_else(|| refuse("must be unix:///PATH"))?;
    if !path.starts_with('/') || path.len() < 2 {
        return Err(refuse("must be unix:///PATH with an absolute path"));
    }
    check_socket_path("access", Path::new(path))?;
    Ok(path.to_owned())
}

/// Nobody is asked who he is there, so that somebody must have thought of the address.
fn parse_metrics(text: &str) -> Result<SocketAddr, Invalid> {
    let refuse = |rule: &'static str| Invalid::new("metrics", text, rule);
    let address: SocketAddr =
        text.parse().map_err(|_| refuse("must be ADDR:PORT, such as 127.0.0.1:9600 or [::1]:9600"))?;
    if address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err(refuse("must be an address of this host: whoever reaches it reads the names of all tenants"));
    }
    if address.port() == 0 {
        return Err(refuse("must have a port 1..=65535"));
    }
    Ok(address)
}

fn check_socket_path(field: &'static str, path: &Path) -> Result<(), Invalid> {
    let len = path.as_os_str().len();
    if len > SOCKET_MAX {
        let rule = format!("a Unix socket's path has at most {SOCKET_MAX} bytes, this has {len}");
        return Err(Invalid::new(field, path.display(), rule));
    }
    Ok(())
}

fn absolute(field: &'static str, path: PathBuf) -> Result<PathBuf, Invalid> {
    std::path::absolute(&path).map_err(|e| Invalid::new(field, path.display(), format!("is no path: {e}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn refused(toml: &str) -> Invalid {
        toml::from_str::<Options>(toml).unwrap().resolve(Path::new("/bin")).unwrap_err()
    }

    #[test]
    fn defaults() {
        let config = Options::default().resolve(Path::new("/opt/bin")).unwrap();
        assert_eq!(
            config,
            Config {
                instance: "main".into(),
                socket: "/run/tenantd/main/api.sock".into(),
                state_dir: "/var/lib/tenantd/main".into(),
                run_dir: "/run/tenantd/main".into(),
                bpffs: "/sys/fs/bpf".into(),
                trunks: vec![TrunkOption { name: "trunk-main".into(), card: None, access: None }],
                access: "/run/access-server/main/api.sock".into(),
                init: "/opt/bin/tenant-init".into(),
                program: "/opt/bin/tenantd".into(),
                cgroup: "tenantd-main".into(),
                guard_cgroup: None,
                metrics: None,
                accept_store: false,
            }
        );
    }

    #[test]
    fn a_flag_overrides_the_file_and_the_file_the_default() {
        let file: Options = toml::from_str("instance = \"b\"\ntrunk = \"eth1\"\nstate-dir = \"/x\"").unwrap();
        let flags = Options { trunk: vec!["eth2".into()], ..Options::default() };
        let config = flags.over(file).resolve(Path::new("/")).unwrap();
        assert_eq!((config.instance.as_str(), config.trunks), ("b", vec!["eth2".parse().unwrap()]));
        assert_eq!(config.state_dir, Path::new("/x"));
        assert_eq!(config.socket, Path::new("/run/tenantd/b/api.sock"));
    }

    #[test]
    fn trunks_are_one_text_or_a_list() {
        let trunks = |text: &str| toml::from_str::<Options>(text).map(|options| options.trunk);
        assert_eq!(trunks("trunk = \"eth1\"").unwrap(), ["eth1"]);
        assert_eq!(trunks("trunks = [\"a=\", \"b=eth1\"]").unwrap(), ["a=", "b=eth1"]);
        assert!(trunks("trunk = 5").unwrap_err().to_string().contains("a text or a list of texts"));
        assert!(trunks("trunk = \"a\"\ntrunks = [\"b\"]").is_err(), "said twice");
        assert_eq!(refused("trunks = [\"a=\", \"a=eth1\"]").field, "trunk");
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let error = toml::from_str::<Options>("statedir = \"/x\"").unwrap_err().to_string();
        assert!(error.contains("statedir") && error.contains("state-dir"), "{error}");
    }

    #[test]
    fn the_file_is_named_in_its_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        assert!(matches!(Options::read(&path), Err(ConfigError::Read { .. })));
        std::fs::write(&path, "instance = 5\n").unwrap();
        let error = Options::read(&path).unwrap_err().to_string();
        assert!(error.contains("t.toml") && error.contains("instance"), "{error}");
    }

    #[test]
    fn values_are_checked() {
        assert_eq!(refused("instance = \"A\"").field, "instance");
        assert_eq!(refused("instance = \"abcdefghij\"").field, "instance");
        assert_eq!(refused("instance = \"abcdefghijklmnop\"\ntrunk = \"eth0\"").field, "instance");
        assert_eq!(refused("trunk = \"a b\"").field, "trunk");
        for address in ["9600", "0.0.0.0:9600", "[::]:9600", "127.0.0.1:0", "224.0.0.1:9600", "localhost:9600"] {
            assert_eq!(refused(&format!("metrics = \"{address}\"")).field, "metrics");
        }
        assert_eq!(refused("access = \"http://x\"").field, "access");
        assert_eq!(refused("access = \"unix://x\"").field, "access");
        assert_eq!(refused(&format!("socket = \"/{}\"", "s".repeat(107))).field, "socket");
        let ok: Options = toml::from_str("instance = \"abcdefghij\"\ntrunk = \"eth0\"").unwrap();
        ok.resolve(Path::new("/")).unwrap();
    }
}
