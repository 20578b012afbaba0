//! The mark: which store this is and its last revision, in the run directory, which lives as long as the machine runs.
//!
//! SQLite takes a log that is damaged at its end for a log that was cut by a power cut, and leaves out what comes after
//! the damage without a word: right after a power cut, when nothing of that was answered, and wrong while the machine
//! runs on. A daemon that starts again compares the store with the mark and says so.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::Revision;

/// The file, kept open.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
}

/// What was written in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marked {
    /// Identity of the store.
    pub(super) id: String,
    /// Its last revision that was answered.
    pub(super) revision: Revision,
}

impl Mark {
    /// Opens it; none inside: the machine was started since, or it is not readable, which is as good.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Option<Marked>)> {
        let file = File::options().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
        let mut text = [0; 128];
        let len = file.read_at(&mut text, 0)?;
        Ok((Self { file }, std::str::from_utf8(&text[..len]).ok().and_then(parse)))
    }

    /// One write of one length: a daemon that is killed leaves the old words or the new ones.
    pub(super) fn write(&self, marked: &Marked) {
        let text = format!("{} {:020}\n", marked.id, marked.revision.0);
        if let Err(error) = self.file.write_all_at(text.as_bytes(), 0) {
            // What is answered is in the store all the same.
            tracing::warn!(%error, "the mark of the store cannot be written");
        }
    }
}

fn parse(text: &str) -> Option<Marked> {
    let (id, rest) = text.split_once(' ')?;
    let revision = rest.strip_suffix('\n').filter(|number| number.len() == 20)?.parse().ok()?;
    Some(Marked { id: id.to_owned(), revision: Revision(revision) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_marked_is_read_and_garbage_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        let (mark, nothing) = Mark::open(&path).unwrap();
        assert_eq!(nothing, None);
        let marked = Marked { id: "ab".into(), revision: Revision(u64::MAX) };
        mark.write(&Marked { id: "ab".into(), revision: Revision(7) });
        mark.write(&marked);
        assert_eq!(Mark::open(&path).unwrap().1, Some(marked));
        for garbage in ["ab 12\n", "ab", "\u{0}", "ab 0000000000000000000x\n", "ab 00000000000000000012"] {
            std::fs::write(&path, garbage).unwrap();
            assert_eq!(Mark::open(&path).unwrap().1, None, "{garbage:?}");
        }
    }
}
