//! Users and groups of the tenant, from its own `/etc/passwd` and `/etc/group`.
//!
//! The files are the tenant's: they may be huge, a pipe, a link to anywhere, or nonsense. What is read is bounded,
//! lines that are no entries are passed over, and the answer can only be numbers that the tenant's user namespace maps.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use tenant_init::protocol::{Refusal, RefusalKind};

use crate::check::invalid;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// Most of a file that is read, in bytes.
const MOST: u64 = 4 << 20;
/// Most supplementary groups: what the kernel takes.
const MOST_GROUPS: usize = 65_536;
/// Highest number a tenant has: its range is of 65,536 ids.
const LAST: u32 = 65_535;

/// Who a program runs as; numbers as the tenant sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) name: String,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// The files of one tenant, read once for one start.
#[derive(Debug, Default)]
pub(crate) struct Users {
    passwd: Vec<u8>,
    group: Vec<u8>,
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

impl Users {
    /// Reads the tenant's files. One that cannot be read has no entries: root and numbers work without.
    pub(crate) fn read() -> Users {
        Users { passwd: bounded(Path::new(PASSWD)), group: bounded(Path::new(GROUP)) }
    }

    #[cfg(test)]
    fn of(passwd: &[u8], group: &[u8]) -> Users {
        Users { passwd: passwd.to_vec(), group: group.to_vec() }
    }

    /// Who `user` (root when left out) is, in `group` (its own when left out).
    ///
    /// # Errors
    /// A refusal of field `user` or `group` for a name that the tenant does not have.
    pub(crate) fn identity(&self, user: Option<&str>, group: Option<&str>) -> Result<Identity, Refusal> {
        let user = user.unwrap_or("0");
        let wanted = number("user", user)?;
        let entry = self.entries().find(|entry| entry.name == user || wanted == Some(entry.uid));
        let (uid, gid) = match (&entry, wanted) {
            (Some(entry), _) => (entry.uid, entry.gid),
            (None, Some(uid)) => (uid, uid),
            (None, None) => return Err(unknown("user", user, PASSWD)),
        };
        let name = match &entry {
            Some(entry) => entry.name,
            None if uid == 0 => "root",
            None => user,
        };
        let mut groups: Vec<u32> =
            self.groups().filter(|one| one.2.split(',').any(|who| who == name)).map(|g| g.1).collect();
        groups.truncate(MOST_GROUPS);
        groups.sort_unstable();
        groups.dedup();
        let gid = match group {
            Some(group) => self.group(group)?,
            None => gid,
        };
        let root = if uid == 0 { "/root" } else { "/" };
        let or =
            |value: Option<&str>, other: &str| value.filter(|text| text.starts_with('/')).unwrap_or(other).to_owned();
        Ok(Identity {
            uid,
            gid,
            groups,
            name: name.to_owned(),
            home: or(entry.as_ref().map(|entry| entry.home), root),
            shell: or(entry.as_ref().map(|entry| entry.shell), "/bin/sh"),
        })
    }

    /// The numbers for the owner of a file.
    ///
    /// # Errors
    /// As [`Users::identity`].
    pub(crate) fn owner(&self, user: Option<&str>, group: Option<&str>) -> Result<(u32, u32), Refusal> {
        if user.is_none() && group.is_none() {
            return Ok((0, 0));
        }
        let identity = self.identity(user, group)?;
        Ok((identity.uid, identity.gid))
    }

    fn group(&self, group: &str) -> Result<u32, Refusal> {
        let wanted = number("group", group)?;
        let found = self.groups().find(|one| one.0 == group).map(|one| one.1);
        found.or(wanted).ok_or_else(|| unknown("group", group, GROUP))
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        lines(&self.passwd).filter_map(|line| {
            let mut parts = line.split(':');
            let (name, _, uid, gid, _) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
            let (home, shell) = (parts.next()?, parts.next().unwrap_or(""));
            Some(Entry { name, uid: id(uid)?, gid: id(gid)?, home, shell }).filter(|entry| !entry.name.is_empty())
        })
    }

    /// Name, number, members.
    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        lines(&self.group).filter_map(|line| {
            let mut parts = line.split(':');
            let (name, _, gid) = (parts.next()?, parts.next()?, parts.next()?);
            Some((name, id(gid)?, parts.next().unwrap_or(""))).filter(|group| !group.0.is_empty())
        })
    }
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &str> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .filter(|line| !line.contains('\0'))
}

fn id(text: &str) -> Option<u32> {
    // Digits only: "+1" is a number for parse().
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id <= LAST)
}

/// The number that `text` is, none when it is a name.
fn number(field: &str, text: &str) -> Result<Option<u32>, Refusal> {
    if text.is_empty() || text.contains([':', '\n', '\0', ',']) {
        return Err(invalid(field, text, "a name or a number"));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let rule = format!("a tenant's numbers are 0 to {LAST}");
        return id(text).map(Some).ok_or_else(|| invalid(field, text, &rule));
    }
    Ok(None)
}

fn unknown(field: &str, name: &str, file: &str) -> Refusal {
    Refusal::new(RefusalKind::Invalid, field, name, format!("not in the tenant's {file}"))
}

fn bounded(path: &Path) -> Vec<u8> {
    let read = || -> io::Result<Vec<u8>> {
        // Nonblocking, or a pipe at this place would hang init.
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let file = options.open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\nbroken\n:x:7:7::/:\n\xff:x:8:8::/:\n\
        www-data:x:33:33:www:/var/www:/usr/sbin/nologin\nlate:x:70000:5::/:/bin/sh\nminus:x:-1:5::/:/x\n\
        postgres:x:105:110:,,,:/var/lib/postgresql:/bin/bash\n123:x:9:9::/:\nshort:x:10:10::rel";
    const GROUP: &[u8] = b"root:x:0:\nssl-cert:x:108:postgres,www-data\nadm:x:4:www-data2\npostgres:x:110:\nx:y\n";

    #[test]
    fn names_and_numbers_are_found() {
        let users = Users::of(PASSWD, GROUP);
        let root = users.identity(None, None).unwrap();
        assert_eq!((root.uid, root.gid, root.home.as_str(), root.shell.as_str()), (0, 0, "/root", "/bin/bash"));
        let postgres = users.identity(Some("postgres"), None).unwrap();
        assert_eq!((postgres.uid, postgres.gid, postgres.groups.clone()), (105, 110, vec![108]));
        assert_eq!(users.identity(Some("105"), None).unwrap(), postgres);
        let mixed = users.identity(Some("www-data"), Some("postgres")).unwrap();
        assert_eq!((mixed.uid, mixed.gid, mixed.groups), (33, 110, vec![108]));
        let bare = users.identity(Some("4711"), Some("12")).unwrap();
        assert_eq!((bare.uid, bare.gid, bare.name.as_str(), bare.home.as_str()), (4711, 12, "4711", "/"));
        assert_eq!(users.owner(Some("www-data"), None).unwrap(), (33, 33));
        assert_eq!(users.owner(None, Some("ssl-cert")).unwrap(), (0, 108));
        let short = users.identity(Some("short"), None).unwrap();
        assert_eq!((short.home.as_str(), short.shell.as_str()), ("/", "/bin/sh"));
        assert_eq!(Users::of(b"", b"").identity(None, None).unwrap().home, "/root");
    }

    #[test]
    fn what_the_tenant_does_not_have_is_refused() {
        let users = Users::of(PASSWD, GROUP);
        for user in ["nobody-here", "late", "minus", "65536", "4294967296", "", "a:b", "a\nb", "+1", "-1"] {
            assert_eq!(users.identity(Some(user), None).unwrap_err().field, "user", "{user:?}");
        }
        assert_eq!(users.identity(None, Some("none")).unwrap_err().field, "group");
        assert_eq!(users.identity(None, Some("70000")).unwrap_err().field, "group");
    }

    #[test]
    fn a_file_is_read_up_to_a_bound_and_never_waited_for() {
        let room = std::env::temp_dir().join(format!("tenant-init-users-{}", std::process::id()));
        std::fs::create_dir_all(&room).unwrap();
        let (huge, pipe) = (room.join("huge"), room.join("pipe"));
        File::create(&huge).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(bounded(&huge).len() as u64, MOST);
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(bounded(&pipe).is_empty());
        assert!(bounded(Path::new("/dev/zero")).is_empty() && bounded(&room).is_empty());
        std::fs::remove_dir_all(&room).unwrap();
    }
}
