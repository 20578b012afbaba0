//! Where a store belongs: one machine, one instance. Numbers in it (VLANs, group ids, devices) are those of one machine, and
//! two machines that follow one store would both claim its tenants.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The machine and the instance that a store is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// The machine's identity, hashed: machine-id(5) asks not to give it away. None: it has none, and any will do.
    pub machine: Option<String>,
    /// What the machine calls itself, for people.
    pub host: String,
    /// The instance.
    pub instance: String,
}

impl Home {
    /// This machine's.
    #[must_use]
    pub fn of_this_machine(instance: &str) -> Self {
        Self::at(Path::new("/etc/machine-id"), instance)
    }

    fn at(machine_id: &Path, instance: &str) -> Self {
        let id = std::fs::read_to_string(machine_id).unwrap_or_default();
        let host = nix::sys::utsname::uname().map(|u| u.nodename().to_string_lossy().into_owned()).unwrap_or_default();
        Self { machine: hashed(id.trim()), host, instance: instance.to_owned() }
    }

    /// Whether a store of one is the other's. The name of the host may change.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let machine = self.machine.is_none() || other.machine.is_none() || self.machine == other.machine;
        machine && self.instance == other.instance
    }
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = self.machine.as_deref().and_then(|id| id.get(..8)).unwrap_or("no machine-id");
        write!(f, "instance {} on {} ({machine})", self.instance, self.host)
    }
}

/// None for what is no identity: an image before its first start has an empty file or the word `uninitialized`.
fn hashed(id: &str) -> Option<String> {
    let is_id = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    let sum = || Sha256::new_with_prefix("tenantd store ").chain_update(id).finalize();
    is_id.then(|| sum().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_machine_is_known_by_its_id_and_the_id_is_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("machine-id");
        let at = |id: &str, instance: &str| {
            std::fs::write(&path, id).unwrap();
            Home::at(&path, instance)
        };
        let (a, b) = ("0123456789abcdef0123456789abcdef\n", "1123456789abcdef0123456789abcdef\n");
        assert!(at(a, "main").is(&at(a, "main")) && !at(a, "main").is(&at(b, "main")));
        assert!(!at(a, "main").is(&at(a, "lab")));
        assert!(!format!("{:?}", at(a, "main")).contains("0123456789abcdef"));
        for none in ["", "uninitialized\n", "0123"] {
            assert!(at(none, "main").machine.is_none() && at(none, "main").is(&at(a, "main")));
        }
        assert!(at(a, "main").to_string().starts_with("instance main on "));
    }
}
