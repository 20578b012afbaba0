//! What network managers are told, read from where each looks. Later directories of a list are overridden by earlier
//! ones, file by file, as `systemd.network(5)` and `NetworkManager.conf(5)` say.

use std::collections::BTreeMap;
use std::fs;

use super::Place;

/// Configuration as text, by file name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkFiles {
    /// `*.network` of systemd-networkd.
    pub networkd: BTreeMap<String, String>,
    /// `*.conf` of NetworkManager.
    pub network_manager: BTreeMap<String, String>,
    /// `dhcpcd.conf`.
    pub dhcpcd: String,
    /// ConnMan's `main.conf`.
    pub connman: String,
    /// `interfaces` of ifupdown and what is beside it.
    pub ifupdown: BTreeMap<String, String>,
}

pub(super) fn read(place: &Place) -> NetworkFiles {
    let networkd = ["/etc/systemd/network", "/run/systemd/network", "/usr/lib/systemd/network", "/lib/systemd/network"];
    let manager = ["/etc/NetworkManager/conf.d", "/run/NetworkManager/conf.d", "/usr/lib/NetworkManager/conf.d"];
    let mut network_manager = files(place, &manager, ".conf");
    let text = |path: &str| fs::read_to_string(place.at(path)).unwrap_or_default();
    network_manager.insert("NetworkManager.conf".into(), text("/etc/NetworkManager/NetworkManager.conf"));
    let mut ifupdown = files(place, &["/etc/network/interfaces.d"], "");
    ifupdown.insert("interfaces".into(), text("/etc/network/interfaces"));
    NetworkFiles {
        networkd: files(place, &networkd, ".network"),
        network_manager,
        dhcpcd: text("/etc/dhcpcd.conf"),
        connman: text("/etc/connman/main.conf"),
        ifupdown,
    }
}

fn files(place: &Place, directories: &[&str], ending: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for directory in directories {
        for entry in fs::read_dir(place.at(directory)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(ending) && !found.contains_key(&name) {
                // A link to /dev/null masks the file of that name: it reads as nothing.
                found.insert(name, fs::read_to_string(entry.path()).unwrap_or_default());
            }
        }
    }
    found
}

/// A shell pattern with `*` and `?`, as these files use them.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // Where the last `*` was, and how much of the name it has taken.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(one) if *one == '?' || Some(one) == name.get(n) => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|one| *one == '*'))
}
