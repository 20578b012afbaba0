//! The tenant's own users and groups, read from its files as it sees them. What stands there is the tenant's business:
//! whatever number it names lies in the tenant's range or is refused by the kernel.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use nix::unistd::{Gid, Uid};

/// The largest passwd or group file that is read.
const LONGEST: u64 = 4 << 20;

/// Who is to be become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) name: String,
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    /// Supplementary groups.
    pub(super) groups: Vec<Gid>,
    pub(super) home: String,
    /// None when passwd names none.
    pub(super) shell: Option<String>,
}

/// The tenant's root, or who has this name or number.
pub(super) fn find(user: Option<&str>) -> Result<Person, String> {
    let passwd = read("/etc/passwd").map_err(|error| format!("cannot read the tenant's /etc/passwd: {error}"))?;
    let group = read("/etc/group").map_err(|error| format!("cannot read the tenant's /etc/group: {error}"))?;
    pick(user, &passwd, &group).ok_or_else(|| {
        let user = user.unwrap_or_default();
        format!("user: {user:?} refused: must be a name in the tenant's /etc/passwd, or a number")
    })
}

/// An absent file is an empty one: root is root without being listed.
fn read(path: &str) -> io::Result<String> {
    // A pipe or a device at this name must not hold us.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        other => other?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn pick(user: Option<&str>, passwd: &str, group: &str) -> Option<Person> {
    let wanted = user.unwrap_or("0");
    let number = wanted.parse::<u32>().ok();
    let lines = || passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|f| f.len() >= 7);
    let entry =
        lines().find(|f| f[0] == wanted).or_else(|| lines().find(|f| f[2].parse().ok() == number && number.is_some()));
    let text = |value: &str| Some(value.to_owned()).filter(|value| !value.is_empty());
    let mut person = match (entry, number) {
        (Some(f), _) => Person {
            name: f[0].to_owned(),
            uid: Uid::from_raw(f[2].parse().ok()?),
            gid: Gid::from_raw(f[3].parse().ok()?),
            groups: Vec::new(),
            home: text(f[5]).unwrap_or_else(|| "/".to_owned()),
            shell: text(f[6]),
        },
        (None, Some(number)) => Person {
            name: if number == 0 { "root".to_owned() } else { number.to_string() },
            uid: Uid::from_raw(number),
            gid: Gid::from_raw(number),
            groups: Vec::new(),
            home: if number == 0 { "/root" } else { "/" }.to_owned(),
            shell: None,
        },
        (None, None) => return None,
    };
    // Root by default is who runs a service: without further groups.
    if user.is_some() {
        let member = |line: &str| {
            let fields: Vec<_> = line.split(':').collect();
            let [_, _, gid, members] = fields[..] else { return None };
            members.split(',').any(|name| name == person.name).then(|| gid.parse().ok().map(Gid::from_raw)).flatten()
        };
        person.groups = group.lines().filter_map(member).filter(|gid| *gid != person.gid).collect();
        person.groups.insert(0, person.gid);
        person.groups.dedup();
    }
    Some(person)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\n\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\n\
        ann:x:1000:1000:Ann,,,:/home/ann:\n7:x:1007:1007::/seven:/bin/sh\nbad:x:-1:0::/:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:ann,www-data\nstaff:x:50:ann\nann:x:1000:ann\nbad:x:y:ann\nshort:x:9\n";

    #[test]
    fn names_numbers_and_root_by_default() {
        let pick = |user| pick(user, PASSWD, GROUP);
        let root = pick(None).unwrap();
        assert_eq!((root.uid.as_raw(), root.home.as_str(), root.shell.as_deref()), (0, "/root", Some("/bin/bash")));
        assert!(root.groups.is_empty());
        let ann = pick(Some("ann")).unwrap();
        assert_eq!((ann.uid.as_raw(), ann.gid.as_raw(), ann.shell), (1000, 1000, None));
        assert_eq!(ann.groups, [1000, 4, 50].map(Gid::from_raw));
        assert_eq!(pick(Some("1000")).unwrap().name, "ann");
        assert_eq!(pick(Some("7")).unwrap().uid.as_raw(), 1007, "a name before a number");
        let nobody = pick(Some("4242")).unwrap();
        assert_eq!((nobody.uid.as_raw(), nobody.home.as_str(), nobody.groups.len()), (4242, "/", 1));
        for refused in ["nobody", "bad", "", "-1", "ann:x"] {
            assert_eq!(pick(Some(refused)), None, "{refused}");
        }
        assert_eq!(super::pick(None, "", "").unwrap().home, "/root");
    }
}
