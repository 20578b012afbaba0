//! What the command line asks of a daemon, checked as far as that goes without looking at the machine.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use stackmap::{Invalid, Layer, TunnelSpec};

/// The longest device name, in bytes (IFNAMSIZ less its final zero).
const DEVICE_NAME_MAX: usize = 15;

/// The longest instance name: pins, directories and sockets are named after it.
const INSTANCE_MAX: usize = 15;

/// What a daemon of any role needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonConfig {
    /// The instance.
    pub instance: String,
    /// The API socket.
    pub socket: PathBuf,
    /// Where lock and socket are: `<run-dir>/<instance>`.
    pub run_dir: PathBuf,
    /// The BPF file system.
    pub bpffs: PathBuf,
    /// WAN devices.
    pub wans: Vec<String>,
    /// Outer addresses of this end.
    pub locals: Vec<IpAddr>,
    /// What stands behind the WAN.
    pub role: Role,
    /// Where `/metrics` is answered on TCP; `None`: on the API socket only.
    pub metrics: Option<SocketAddr>,
}

/// The two things this program can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The access server in front of a trunk.
    Server {
        /// The trunk device.
        trunk: String,
        /// tenantd makes it, so it may come a moment later.
        made_by_tenantd: bool,
    },
    /// The access server of a customer's site in front of its LAN.
    Site {
        /// The LAN device.
        lan: String,
        /// The tunnel to the access server.
        tunnel: TunnelSpec,
        /// Addresses behind the tunnel for which ARP and ND are answered on the LAN.
        servers: Vec<IpAddr>,
    },
}

/// Names and places a daemon and its clients must agree on.
#[derive(Debug, Clone)]
pub struct Places<'a> {
    /// The instance.
    pub instance: &'a str,
    /// The directory above all instances' run directories.
    pub run_dir: &'a Path,
    /// The socket, when it is not in its usual place.
    pub socket: Option<&'a Path>,
}

impl Places<'_> {
    /// The run directory of the instance.
    pub fn run_dir(&self) -> PathBuf {
        self.run_dir.join(self.instance)
    }

    /// The API socket of the instance.
    pub fn socket(&self) -> PathBuf {
        self.socket.map_or_else(|| self.run_dir().join("api.sock"), Path::to_owned)
    }
}

impl DaemonConfig {
    /// Where the instance pins its maps and programs.
    pub fn pin_dir(&self) -> PathBuf {
        self.bpffs.join("access-server").join(&self.instance)
    }

    /// The device packets of the closed networks come from and go to: the trunk, or the LAN of a site.
    pub fn inside_device(&self) -> &str {
        match &self.role {
            Role::Server { trunk, .. } => trunk,
            Role::Site { lan, .. } => lan,
        }
    }

    /// Whether this is a site whose LAN goes through the tunnel as Ethernet.
    pub fn is_layer_2_site(&self) -> bool {
        matches!(&self.role, Role::Site { tunnel, .. } if tunnel.kind().layer() == Layer::Two)
    }

    /// Checks what can be checked without looking at the machine.
    ///
    /// # Errors
    /// [`Invalid`], naming the option.
    pub fn check(&self) -> Result<(), Invalid> {
        check_instance(&self.instance)?;
        let mut seen = BTreeSet::new();
        for wan in &self.wans {
            check_device("wan", wan)?;
            if !seen.insert(wan) {
                return Err(Invalid::new("wan", wan, "is given twice"));
            }
            if wan == self.inside_device() {
                return Err(Invalid::new("wan", wan, "must not be the trunk or LAN device as well"));
            }
        }
        let mut seen = BTreeSet::new();
        for local in &self.locals {
            if local.is_unspecified() || local.is_multicast() || local.is_loopback() {
                return Err(Invalid::new("local", local, "must be a unicast address of this host"));
            }
            if !seen.insert(local) {
                return Err(Invalid::new("local", local, "is given twice"));
            }
        }
        if let Some(address) = self.metrics {
            check_metrics(address)?;
        }
        match &self.role {
            Role::Server { trunk, .. } => check_device("trunk", trunk),
            Role::Site { lan, tunnel, .. } => {
                check_device("lan", lan)?;
                tunnel.resolve_among(&self.locals).map(|_| ())
            }
        }
    }
}

/// The trunk tenantd makes for an instance.
///
/// # Errors
/// [`Invalid`] when the name would be too long for a device.
pub fn default_trunk(instance: &str) -> Result<String, Invalid> {
    let name = format!("trunk-{instance}");
    if name.len() > DEVICE_NAME_MAX {
        let rule = "must be at most 9 characters when the trunk is named after it; or give --trunk DEV";
        return Err(Invalid::new("instance", instance, rule));
    }
    Ok(name)
}

fn check_instance(instance: &str) -> Result<(), Invalid> {
    let label = instance.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let ends = instance.starts_with('-') || instance.ends_with('-');
    if instance.is_empty() || instance.len() > INSTANCE_MAX || !label || ends {
        let rule = "must be a DNS label (a-z, 0-9, hyphen inside) of at most 15 characters";
        return Err(Invalid::new("instance", instance, rule));
    }
    Ok(())
}

/// Nobody is asked who he is there, so that somebody must have thought of the address.
fn check_metrics(address: SocketAddr) -> Result<(), Invalid> {
    let rule = match address {
        a if a.ip().is_unspecified() || a.ip().is_multicast() => {
            "must be an address of this host: whoever reaches it reads them"
        }
        a if a.port() == 0 => "must have a port 1..=65535",
        _ => return Ok(()),
    };
    Err(Invalid::new("metrics", address, rule))
}

fn check_device(field: &'static str, name: &str) -> Result<(), Invalid> {
    let bad = |b: u8| b == b'/' || b == b':' || b.is_ascii_whitespace();
    if name.is_empty() || name.len() > DEVICE_NAME_MAX || name == "." || name == ".." || name.bytes().any(bad) {
        return Err(Invalid::new(field, name, "must be a device name: 1..=15 bytes without slash, colon, space"));
    }
    Ok(())
}
