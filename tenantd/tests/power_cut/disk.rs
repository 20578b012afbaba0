//! A disk that loses its power: everything SQLite does to the files of one directory is recorded, call by call, and what a
//! power cut may leave after any of these calls is made of the record.
//!
//! The recorder is a VFS of SQLite (its "OS interface") in front of the usual one: writes, truncations, synchronisations
//! and deletions pass through it. Reads, locks and shared memory are untouched; the shared memory (`-shm`) does not
//! outlive a cut.
//!
//! What is believed of a disk: what was synchronised stays; of the rest each write may have happened, not happened, or
//! happened for its first sectors; bytes outside of a write do not change (SQLite's "powersafe overwrite"); a deletion
//! that was not synchronised may not have happened.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use rusqlite::ffi;

/// What a disk writes as a whole.
const SECTOR: usize = 512;

/// One call.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Write(String, usize, Vec<u8>),
    Truncate(String, usize),
    Sync(String),
    /// True: its directory is synchronised with it.
    Delete(String, bool),
    /// Somebody was told that this is so.
    Answered(u64),
}

#[derive(Default)]
struct Recorder {
    dir: PathBuf,
    events: Vec<Event>,
    /// Open files by their address: name, and what SQLite would call without us.
    files: BTreeMap<usize, (String, usize)>,
}

static RECORDER: Mutex<Option<Recorder>> = Mutex::new(None);
/// The usual VFS, by its address.
static USUAL: Mutex<usize> = Mutex::new(0);

fn recorder<T>(with: impl FnOnce(&mut Recorder) -> T) -> Option<T> {
    RECORDER.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(with)
}

/// From now on what happens in `dir` is recorded. Once in a process.
pub(crate) fn record(dir: &Path) {
    *RECORDER.lock().unwrap_or_else(PoisonError::into_inner) =
        Some(Recorder { dir: dir.to_owned(), ..Recorder::default() });
    let mut usual = USUAL.lock().unwrap_or_else(PoisonError::into_inner);
    if *usual != 0 {
        return;
    }
    // SAFETY: the usual VFS lives as long as the process; ours is a copy of it with two functions exchanged, which is
    // never freed, and the copied functions find in it what they look for (`pAppData`, `szOsFile`).
    unsafe {
        let found = ffi::sqlite3_vfs_find(ptr::null());
        let mut ours = ptr::read(found);
        ours.zName = c"recorder".as_ptr();
        ours.pNext = ptr::null_mut();
        ours.xOpen = Some(open);
        ours.xDelete = Some(delete);
        *usual = found as usize;
        let done = ffi::sqlite3_vfs_register(Box::into_raw(Box::new(ours)), 1);
        assert_eq!(done, ffi::SQLITE_OK);
    }
}

/// Says that a revision was answered.
pub(crate) fn answered(revision: u64) {
    recorder(|r| r.events.push(Event::Answered(revision)));
}

/// Ends the recording.
pub(crate) fn stop() -> Vec<Event> {
    let taken = RECORDER.lock().unwrap_or_else(PoisonError::into_inner).take();
    taken.map(|recorder| recorder.events).unwrap_or_default()
}

fn usual() -> *mut ffi::sqlite3_vfs {
    *USUAL.lock().unwrap_or_else(PoisonError::into_inner) as *mut ffi::sqlite3_vfs
}

/// The name of a file of the recorded directory.
fn name_of(path: *const c_char) -> Option<String> {
    if path.is_null() {
        return None;
    }
    // SAFETY: SQLite hands over a text that ends with a zero.
    let path = Path::new(unsafe { CStr::from_ptr(path) }.to_str().ok()?);
    let dir = recorder(|r| r.dir.clone())?;
    Some(path.strip_prefix(dir).ok()?.to_str()?.to_owned())
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    path: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: as SQLite calls it; on success the file has the usual methods, and gets a copy of them with those exchanged
    // that change the disk. The file itself stays the usual one's, so its other methods find all they look for.
    unsafe {
        let Some(usual_open) = (*usual()).xOpen else { return ffi::SQLITE_CANTOPEN };
        let done = usual_open(vfs, path, file, flags, out);
        if done != ffi::SQLITE_OK || (*file).pMethods.is_null() {
            return done;
        }
        if let Some(name) = name_of(path) {
            let methods = (*file).pMethods;
            let mut ours = ptr::read(methods);
            ours.xWrite = Some(write);
            ours.xTruncate = Some(truncate);
            ours.xSync = Some(sync);
            ours.xClose = Some(close);
            recorder(|r| r.files.insert(file as usize, (name, methods as usize)));
            (*file).pMethods = Box::into_raw(Box::new(ours));
        }
        done
    }
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, path: *const c_char, synced: c_int) -> c_int {
    // SAFETY: as SQLite calls it.
    let done = unsafe {
        match (*usual()).xDelete {
            Some(usual_delete) => usual_delete(vfs, path, synced),
            None => ffi::SQLITE_IOERR_DELETE,
        }
    };
    if let (ffi::SQLITE_OK, Some(name)) = (done, name_of(path)) {
        recorder(|r| r.events.push(Event::Delete(name, synced != 0)));
    }
    done
}

/// The name of an open file and its usual methods.
fn file_of(file: *mut ffi::sqlite3_file) -> (String, &'static ffi::sqlite3_io_methods) {
    let (name, methods) = recorder(|r| r.files.get(&(file as usize)).cloned()).flatten().unwrap_or_default();
    assert_ne!(methods, 0, "a file that is still open when the recording has ended");
    // SAFETY: method tables of SQLite are constants of the program.
    (name, unsafe { &*(methods as *const ffi::sqlite3_io_methods) })
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, bytes: *const c_void, len: c_int, at: i64) -> c_int {
    let (name, usual) = file_of(file);
    let (length, offset) = (usize::try_from(len).unwrap_or(0), usize::try_from(at).unwrap_or(0));
    // SAFETY: SQLite hands over `len` bytes; the usual method is called as it would be.
    unsafe {
        let copy = std::slice::from_raw_parts(bytes.cast::<u8>(), length).to_vec();
        recorder(|r| r.events.push(Event::Write(name, offset, copy)));
        usual.xWrite.map_or(ffi::SQLITE_IOERR_WRITE, |usual| usual(file, bytes, len, at))
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    let (name, usual) = file_of(file);
    recorder(|r| r.events.push(Event::Truncate(name, usize::try_from(size).unwrap_or(0))));
    // SAFETY: the usual method, called as it would be.
    unsafe { usual.xTruncate.map_or(ffi::SQLITE_IOERR_TRUNCATE, |usual| usual(file, size)) }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    let (name, usual) = file_of(file);
    // SAFETY: the usual method, called as it would be.
    let done = unsafe { usual.xSync.map_or(ffi::SQLITE_IOERR_FSYNC, |usual| usual(file, flags)) };
    recorder(|r| r.events.push(Event::Sync(name)));
    done
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let (_, usual) = file_of(file);
    recorder(|r| r.files.remove(&(file as usize)));
    // SAFETY: the usual method, called as it would be.
    unsafe { usual.xClose.map_or(ffi::SQLITE_OK, |usual| usual(file)) }
}

/// The files of a directory; those that are not there are left out.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// What became of what was not synchronised.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tail {
    /// All of it happened: the process was killed, the machine goes on.
    Whole,
    /// Nothing of it.
    Lost,
    /// All of it but the last write, of which the first sectors.
    Torn,
    /// Some of it, by chance, some of that torn.
    Some(u64),
}

#[derive(Debug, Default, Clone)]
struct OneFile {
    /// What a cut cannot take away; none: it is not there.
    durable: Option<Vec<u8>>,
    pending: Vec<Event>,
}

/// The disk after each call of a record.
pub(crate) struct Disk {
    files: HashMap<String, OneFile>,
}

impl Disk {
    pub(crate) fn new(before: &Files) -> Self {
        let one = |bytes: &Vec<u8>| OneFile { durable: Some(bytes.clone()), pending: Vec::new() };
        Self { files: before.iter().map(|(name, bytes)| (name.clone(), one(bytes))).collect() }
    }

    /// One more call.
    pub(crate) fn take(&mut self, event: &Event) {
        let (name, is_sync) = match event {
            Event::Write(name, ..) | Event::Truncate(name, _) => (name, false),
            Event::Sync(name) => (name, true),
            Event::Delete(name, synced) => (name, *synced),
            Event::Answered(_) => return,
        };
        let file = self.files.entry(name.clone()).or_default();
        if !matches!(event, Event::Sync(_)) {
            file.pending.push(event.clone());
        }
        if is_sync {
            file.durable = file.after(|_| Part::Whole);
            file.pending.clear();
        }
    }

    /// What is found when the power is back.
    pub(crate) fn cut(&self, tail: Tail) -> Files {
        let mut chance = match tail {
            Tail::Some(seed) => seed | 1,
            _ => 1,
        };
        let mut found = Files::new();
        let mut names: Vec<_> = self.files.keys().collect();
        names.sort();
        for name in names {
            let file = &self.files[name];
            let last = file.pending.len().wrapping_sub(1);
            let after = file.after(|number| match tail {
                Tail::Whole => Part::Whole,
                Tail::Lost => Part::Nothing,
                Tail::Torn if number == last => Part::Half,
                Tail::Torn => Part::Whole,
                Tail::Some(_) => {
                    // xorshift64 (Marsaglia, 2003).
                    chance ^= chance << 13;
                    chance ^= chance >> 7;
                    chance ^= chance << 17;
                    match chance % 5 {
                        0 | 1 => Part::Whole,
                        2 => Part::Half,
                        _ => Part::Nothing,
                    }
                }
            });
            if let Some(bytes) = after {
                found.insert(name.clone(), bytes);
            }
        }
        found
    }
}

/// How much of a call happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    Half,
    Nothing,
}

impl OneFile {
    fn after(&self, mut part: impl FnMut(usize) -> Part) -> Option<Vec<u8>> {
        let mut file = self.durable.clone();
        for (number, event) in self.pending.iter().enumerate() {
            match (event, part(number)) {
                // The name still leads to the old file, and what comes then goes to one that has no name.
                (Event::Delete(..), Part::Nothing) => return file,
                (Event::Delete(..), _) => file = None,
                (_, Part::Nothing) => {}
                (Event::Truncate(_, size), _) => file.get_or_insert_default().resize(*size, 0),
                (Event::Write(_, at, bytes), part) => {
                    let end = match part {
                        Part::Half => sectors(*at, bytes.len() / 2).min(bytes.len()),
                        _ => bytes.len(),
                    };
                    let bytes = &bytes[..end];
                    let file = file.get_or_insert_default();
                    if file.len() < at + bytes.len() {
                        file.resize(at + bytes.len(), 0);
                    }
                    file[*at..at + bytes.len()].copy_from_slice(bytes);
                }
                (Event::Sync(_) | Event::Answered(_), _) => {}
            }
        }
        file
    }
}

/// How many of the bytes from `at` on end with a sector.
fn sectors(at: usize, bytes: usize) -> usize {
    ((at + bytes) / SECTOR * SECTOR).saturating_sub(at)
}
