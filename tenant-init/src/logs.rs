//! The logs of the services: init reads what they write from pipes and appends it to `NAME.log`, which is put aside as
//! `NAME.log.1` at [`LIMIT`]. So a log never takes more than twice that of the disk.
//!
//! In: a descriptor of the directory, which the tenant cannot see. A service that writes without end is read in turns
//! of [`TURN`] and otherwise waits in its own `write`. When the file system takes no more, the service goes on and what
//! it wrote is dropped; the log says how much when there is room again.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::OFlag;

/// Bytes after which a log is put aside.
pub(crate) const LIMIT: u64 = 1 << 20;
/// Bytes that are read of one log before others have their turn.
const TURN: usize = 16 * 1024;
/// Most turns that the rest of an ended service gets; a pipe holds 64 KiB unless somebody enlarged it.
const REST: usize = 64;
/// A line this long is cut in two by putting aside.
const LONGEST_LINE: u64 = 64 * 1024;
/// What a refusal tells: lines and bytes.
const EXCERPT: (usize, usize) = (10, 2048);
/// What one request gets, in bytes.
const TAIL: usize = 32 * 1024;

/// All logs that are written to.
#[derive(Debug)]
pub(crate) struct Logs {
    /// None when the house could not be made; nothing is started then.
    directory: Option<OwnedFd>,
    open: BTreeMap<String, Log>,
    buffer: Box<[u8; TURN]>,
}

#[derive(Debug)]
struct Log {
    reader: OwnedFd,
    /// Kept, so that the reader never sees an end and a service may open its `/dev/stderr` again at any time.
    writer: OwnedFd,
    /// None when it could not be opened.
    file: Option<File>,
    length: u64,
    /// Bytes written since the last start of the service.
    since_start: u64,
    dropped: u64,
    /// The last byte written was a line's end.
    whole: bool,
}

impl Logs {
    pub(crate) fn new(directory: Option<OwnedFd>) -> Logs {
        Logs { directory, open: BTreeMap::new(), buffer: Box::new([0; TURN]) }
    }

    /// Begins the part of the log that belongs to a new start, and gives the pipe to the service's user, who may open
    /// it again under the name /dev/stderr.
    pub(crate) fn begin(&mut self, service: &str, owner: (u32, u32)) -> io::Result<()> {
        self.read_all(service);
        let fresh = match self.open.remove(service) {
            Some(log) => log,
            None => {
                let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
                // Only our end: the service's must block, as every program expects of its output.
                nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
                Log { reader, writer, file: None, length: 0, since_start: 0, dropped: 0, whole: true }
            }
        };
        let log = self.open.entry(service.to_owned()).or_insert(fresh);
        log.since_start = 0;
        // Anew, because somebody outside may have emptied or removed it.
        log.open_file(&self.directory, service);
        // SAFETY: plain system calls on a descriptor that lives here. Without CAP_CHOWN the service can still write,
        // only not open it again, so a failure is no reason not to start.
        unsafe {
            libc::fchown(log.writer.as_raw_fd(), owner.0, owner.1);
            libc::fchmod(log.writer.as_raw_fd(), 0o622);
        }
        Ok(())
    }

    /// The end that a service writes to.
    pub(crate) fn writer(&self, service: &str) -> Option<BorrowedFd<'_>> {
        self.open.get(service).map(|log| log.writer.as_fd())
    }

    /// What has to be waited for.
    pub(crate) fn readers(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.open.iter().map(|(name, log)| (name.as_str(), log.reader.as_fd()))
    }

    /// Takes one turn of what a service has written; true when there was something.
    pub(crate) fn read(&mut self, service: &str) -> bool {
        let Some(log) = self.open.get_mut(service) else {
            return false;
        };
        loop {
            return match nix::unistd::read(&log.reader, &mut self.buffer[..]) {
                Ok(length) => {
                    log.take(&self.buffer[..length], &self.directory, service);
                    length > 0
                }
                Err(Errno::EINTR) => continue,
                Err(_) => false,
            };
        }
    }

    fn read_all(&mut self, service: &str) {
        for _ in 0..REST {
            if !self.read(service) {
                return;
            }
        }
    }

    /// Lets go of the logs of services that do not run.
    pub(crate) fn close(&mut self, live: impl Fn(&str) -> bool) {
        while let Some(name) = self.open.keys().find(|name| !live(name)).cloned() {
            self.read_all(&name);
            self.open.remove(&name);
        }
    }

    /// The last lines since the last start, for a refusal.
    pub(crate) fn excerpt(&mut self, service: &str) -> Vec<String> {
        self.read_all(service);
        let since = self.open.get(service).map_or(0, |log| usize::try_from(log.since_start).unwrap_or(usize::MAX));
        lines(&self.last_bytes(service, EXCERPT.1.min(since)), EXCERPT.0)
    }

    /// The last lines of the log and of the one that was put aside.
    pub(crate) fn tail(&mut self, service: &str, most: usize) -> Vec<String> {
        self.read_all(service);
        lines(&self.last_bytes(service, TAIL), most)
    }

    fn last_bytes(&self, service: &str, most: usize) -> Vec<u8> {
        let mut bytes = end_of(&self.directory, &file_name(service, ""), most);
        if bytes.len() < most {
            let mut before = end_of(&self.directory, &file_name(service, ".1"), most - bytes.len());
            before.append(&mut bytes);
            bytes = before;
        }
        bytes
    }
}

impl Log {
    fn open_file(&mut self, directory: &Option<OwnedFd>, service: &str) {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND;
        self.file = open_at(directory, &file_name(service, ""), flags).ok();
        self.length = self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |about| about.len());
        self.whole = true;
    }

    /// Appends, and puts aside between two lines.
    fn take(&mut self, bytes: &[u8], directory: &Option<OwnedFd>, service: &str) {
        let mut rest = bytes;
        if self.length >= LIMIT {
            let cut = match rest.iter().position(|byte| *byte == b'\n') {
                _ if self.whole => Some(0),
                Some(end) => Some(end + 1),
                None if self.length >= LIMIT + LONGEST_LINE => Some(0),
                None => None,
            };
            if let Some(cut) = cut {
                self.append(&rest[..cut]);
                rest = &rest[cut..];
                self.put_aside(directory, service);
            }
        }
        if self.file.is_none() {
            self.open_file(directory, service);
        }
        self.append(rest);
    }

    fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.dropped > 0 {
            let start = if self.whole { "" } else { "\n" };
            let note = format!("{start}[tenant-init: {} bytes of the log were dropped: no room]\n", self.dropped);
            if self.write(note.as_bytes()) == note.len() {
                self.dropped = 0;
            }
        }
        let through = if self.dropped > 0 { 0 } else { self.write(bytes) };
        self.dropped += (bytes.len() - through) as u64;
    }

    /// How many bytes the file system took.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut through = 0;
        let Some(file) = &mut self.file else {
            return 0;
        };
        while through < bytes.len() {
            match file.write(&bytes[through..]) {
                Ok(length) if length > 0 => through += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        if let Some(last) = bytes[..through].last() {
            self.whole = *last == b'\n';
        }
        self.length += through as u64;
        self.since_start += through as u64;
        through
    }

    fn put_aside(&mut self, directory: &Option<OwnedFd>, service: &str) {
        let (now, then) = (file_name(service, ""), file_name(service, ".1"));
        let at = directory.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        // SAFETY: plain system calls with live paths.
        let moved = unsafe { libc::renameat(at, now.as_ptr(), at, then.as_ptr()) == 0 };
        if !moved {
            // Without room even for a name the log begins again: its length is the promise.
            let emptied = self.file.as_ref().is_some_and(|file| file.set_len(0).is_ok());
            self.length = if emptied { 0 } else { self.length };
            return;
        }
        self.open_file(directory, service);
    }
}

fn file_name(service: &str, end: &str) -> CString {
    // Services have no NUL in their names; one that had would get a log of its own kind.
    CString::new(format!("{service}.log{end}")).unwrap_or_else(|_| c"broken.log".to_owned())
}

/// `O_NOFOLLOW`: nobody but us writes into the directory; if that breaks one day, no link leads out of it.
fn open_at(directory: &Option<OwnedFd>, name: &CString, flags: libc::c_int) -> io::Result<File> {
    let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: plain system call with a live path.
    let fd = unsafe { libc::openat(directory.as_ref().map_or(-1, AsRawFd::as_raw_fd), name.as_ptr(), flags, 0o640) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

fn end_of(directory: &Option<OwnedFd>, name: &CString, most: usize) -> Vec<u8> {
    let read = || -> io::Result<Vec<u8>> {
        let file = open_at(directory, name, libc::O_RDONLY)?;
        let length = file.metadata()?.len();
        let wanted = length.min(most as u64);
        let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(0)];
        file.read_exact_at(&mut bytes, length - wanted)?;
        Ok(bytes)
    };
    read().unwrap_or_default()
}

/// The last lines as they may be shown: whatever a service writes, no terminal obeys it.
fn lines(bytes: &[u8], most: usize) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let plain = |line: &str| line.trim_end_matches('\r').replace(|letter: char| letter.is_control(), "?");
    let all: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    all[all.len().saturating_sub(most)..].iter().map(|line| plain(line)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::path::PathBuf;

    /// A directory that goes with the test.
    struct Room(PathBuf);

    impl Room {
        fn new(name: &str) -> Room {
            let path = std::env::temp_dir().join(format!("tenant-init-logs-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Room(path)
        }
        fn logs(&self) -> Logs {
            Logs::new(Some(File::open(&self.0).unwrap().into()))
        }
        fn text(&self, name: &str) -> Vec<u8> {
            std::fs::read(self.0.join(name)).unwrap_or_default()
        }
    }

    impl Drop for Room {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn write(logs: &mut Logs, bytes: &[u8]) {
        for part in bytes.chunks(4096) {
            let mut file = File::from(logs.writer("a").unwrap().try_clone_to_owned().unwrap());
            file.write_all(part).unwrap();
            assert!(logs.read("a"));
        }
    }

    const ME: (u32, u32) = (u32::MAX, u32::MAX);

    #[test]
    fn a_log_is_put_aside_between_two_lines_and_never_takes_more_than_two_limits() {
        let room = Room::new("rotate");
        let mut logs = room.logs();
        logs.begin("a", ME).unwrap();
        let line = [&[b'x'; 99][..], b"\n"].concat();
        for _ in 0..(3 * LIMIT / 4000) {
            write(&mut logs, &line.repeat(40));
        }
        for name in ["a.log", "a.log.1"] {
            let text = room.text(name);
            assert!(text.len() as u64 <= LIMIT + 2 * TURN as u64, "{name}: {}", text.len());
            assert!(text.chunks(100).all(|part| part == line), "{name}: a line is cut");
        }
        assert_eq!(std::fs::read_dir(&room.0).unwrap().count(), 2);
        // A line without end is no way around the limit.
        for _ in 0..(3 * LIMIT / 4096) {
            write(&mut logs, &[b'y'; 4096]);
        }
        let lengths = ["a.log", "a.log.1"].map(|name| room.text(name).len() as u64);
        assert!(lengths.iter().all(|length| *length <= LIMIT + LONGEST_LINE + TURN as u64), "{lengths:?}");
    }

    #[test]
    fn the_excerpt_is_of_this_start_and_cannot_speak_to_a_terminal() {
        let room = Room::new("excerpt");
        let mut logs = room.logs();
        logs.begin("a", ME).unwrap();
        write(&mut logs, b"of the start before\n");
        logs.close(|_| false);
        logs.begin("a", ME).unwrap();
        assert_eq!(logs.excerpt("a"), Vec::<String>::new());
        write(&mut logs, b"one\r\n\n\x1b[31mtwo\xff\n");
        assert_eq!(logs.excerpt("a"), ["one", "?[31mtwo\u{fffd}"]);
        for number in 0..20 {
            write(&mut logs, format!("{number}\n").as_bytes());
        }
        assert_eq!(logs.excerpt("a").len(), EXCERPT.0);
        assert_eq!(logs.tail("a", 100).len(), 23);
        assert_eq!(logs.tail("a", 2), ["18", "19"]);
        assert_eq!(logs.tail("unknown", 2), Vec::<String>::new());
    }

    #[test]
    fn what_finds_no_room_is_counted_and_told_later() {
        let room = Room::new("full");
        let mut logs = room.logs();
        logs.begin("a", ME).unwrap();
        write(&mut logs, b"before\n");
        // /dev/full takes nothing, as a full disk.
        let good = logs.open.get_mut("a").unwrap().file.replace(File::options().write(true).open("/dev/full").unwrap());
        write(&mut logs, b"lost 1\n");
        write(&mut logs, b"lost 2\n");
        logs.open.get_mut("a").unwrap().file = good;
        write(&mut logs, b"after\n");
        let text = String::from_utf8(room.text("a.log")).unwrap();
        assert_eq!(text, "before\n[tenant-init: 14 bytes of the log were dropped: no room]\nafter\n");
    }
}
