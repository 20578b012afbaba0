//! The accounts of the image `host`: the host's system accounts, every password locked. Pure.
//!
//! Services' files are owned by system accounts, so these have to have the host's numbers. People's accounts are the
//! host's own; a tenant makes its own from 1000 on.

use std::collections::BTreeSet;

/// The first id of people's accounts (Debian policy 9.2.2, `UID_MIN` of login.defs).
const FIRST_PERSON: u32 = 1000;
/// `nobody` and `nogroup`.
const NOBODY: u32 = 65534;
/// Day of the last password change in the generated shadow file; 0 would ask for a new password at the first login.
const CHANGED: u32 = 20_000;

/// Whether a number belongs to the system and not to a person.
pub(super) fn is_system(id: u32) -> bool {
    id < FIRST_PERSON || id == NOBODY
}

/// The four files, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Accounts {
    pub(super) passwd: String,
    pub(super) group: String,
    pub(super) shadow: String,
    pub(super) gshadow: String,
    /// Number of the group `shadow`; 0 when there is none.
    pub(super) shadow_gid: u32,
}

/// Filters the host's `passwd` and `group`. Lines that are none (comments, NIS lines, nonsense) are left out, and a
/// password that stands in them is never taken over.
pub(super) fn filter(passwd: &str, group: &str) -> Accounts {
    let mut made = Accounts {
        passwd: String::new(),
        group: String::new(),
        shadow: String::new(),
        gshadow: String::new(),
        shadow_gid: 0,
    };
    let mut names = BTreeSet::new();
    for line in passwd.lines() {
        let [name, _, uid, gid, comment, home, shell] = line.split(':').collect::<Vec<_>>()[..] else { continue };
        let system = |id: &str| id.parse().is_ok_and(is_system);
        if !is_name(name) || !system(uid) || !system(gid) || !names.insert(name) {
            continue;
        }
        made.passwd += &format!("{name}:x:{uid}:{gid}:{comment}:{home}:{shell}\n");
        made.shadow += &format!("{name}:*:{CHANGED}:0:99999:7:::\n");
    }
    let mut groups = BTreeSet::new();
    for line in group.lines() {
        let [name, _, gid, members] = line.split(':').collect::<Vec<_>>()[..] else { continue };
        let Some(number) = gid.parse().ok().filter(|gid| is_system(*gid)) else { continue };
        if !is_name(name) || !groups.insert(name) {
            continue;
        }
        let members = members.split(',').filter(|member| names.contains(member)).collect::<Vec<_>>().join(",");
        made.group += &format!("{name}:x:{gid}:{members}\n");
        made.gshadow += &format!("{name}:*::{members}\n");
        if name == "shadow" {
            made.shadow_gid = number;
        }
    }
    made
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(['+', '-', '#']) && !name.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_passwords_stay_outside() {
        let passwd = "root:$6$hash:0:0:root:/root:/bin/bash\nanna:x:1000:1000::/home/anna:/bin/bash\n+::::::\nbad line\n\
                      nobody:x:65534:65534:nobody:/:/bin/false\nodd:x:5:1001::/:/bin/sh\nwww-data:x:33:33::/var/www:/bin/sh\n";
        let group = "root:x:0:\nshadow:!hash:42:\nsudo:x:27:anna,www-data\nanna:x:1000:\nnogroup:x:65534:\n";
        let made = filter(passwd, group);
        assert_eq!(
            made.passwd,
            "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n\
             www-data:x:33:33::/var/www:/bin/sh\n"
        );
        assert_eq!(made.group, "root:x:0:\nshadow:x:42:\nsudo:x:27:www-data\nnogroup:x:65534:\n");
        assert_eq!(made.shadow.lines().next(), Some("root:*:20000:0:99999:7:::"));
        assert!(made.shadow.lines().all(|line| line.split(':').nth(1) == Some("*")), "{}", made.shadow);
        assert_eq!(made.gshadow, "root:*::\nshadow:*::\nsudo:*::www-data\nnogroup:*::\n");
        assert_eq!(made.shadow_gid, 42);
    }
}
