//! The words between the two sides: a letter, two numbers, a length, bytes. Lengths are bounded before anything is read.

use std::io::{self, Read, Write};

/// The longest name or text, bytes.
pub(super) const TEXT_MAX: usize = 4096;
/// The most data in one word, bytes.
pub(super) const PIECE: usize = 64 * 1024;
/// The size of what has none.
pub(super) const ENDLESS: u64 = u64::MAX;

/// One word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// What follows, until [`Word::Up`], is in this directory.
    Directory { mode: u32, name: Vec<u8> },
    /// The directory is finished.
    Up,
    /// A file; [`Word::Data`] follow and one [`Word::End`]. At most `size` bytes come.
    File { mode: u32, size: u64, name: Vec<u8> },
    /// A part of the file.
    Data(Vec<u8>),
    /// The file is finished.
    End,
    /// Something was passed over.
    Skipped(String),
    /// The other side gives up.
    Failed(String),
    /// Everything was said.
    Done,
}

impl Word {
    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let (letter, mode, size, bytes): (u8, u32, u64, &[u8]) = match self {
            Word::Directory { mode, name } => (b'D', *mode, 0, name),
            Word::Up => (b'U', 0, 0, &[]),
            Word::File { mode, size, name } => (b'F', *mode, *size, name),
            Word::Data(data) => (b'd', 0, 0, data),
            Word::End => (b'E', 0, 0, &[]),
            Word::Skipped(text) => (b'S', 0, 0, text.as_bytes()),
            Word::Failed(text) => (b'X', 0, 0, text.as_bytes()),
            Word::Done => (b'Z', 0, 0, &[]),
        };
        let longest = if letter == b'd' { PIECE } else { TEXT_MAX };
        let bytes = &bytes[..bytes.len().min(longest)];
        to.write_all(&[letter])?;
        to.write_all(&mode.to_le_bytes())?;
        to.write_all(&size.to_le_bytes())?;
        to.write_all(&u32::try_from(bytes.len()).map_err(io::Error::other)?.to_le_bytes())?;
        to.write_all(bytes)
    }

    pub(super) fn read(from: &mut impl Read) -> io::Result<Word> {
        let mut head = [0_u8; 17];
        from.read_exact(&mut head)?;
        let [letter, m0, m1, m2, m3, s0, s1, s2, s3, s4, s5, s6, s7, l0, l1, l2, l3] = head;
        let mode = u32::from_le_bytes([m0, m1, m2, m3]);
        let size = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > if letter == b'd' { PIECE } else { TEXT_MAX } {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; length];
        from.read_exact(&mut bytes)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(match letter {
            b'D' => Word::Directory { mode, name: bytes },
            b'U' => Word::Up,
            b'F' => Word::File { mode, size, name: bytes },
            b'd' => Word::Data(bytes),
            b'E' => Word::End,
            b'S' => Word::Skipped(text(bytes)),
            b'X' => Word::Failed(text(bytes)),
            b'Z' => Word::Done,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn words_come_out_as_they_went_in() {
        let words = [
            Word::Directory { mode: 0o750, name: b"a\n\xff".to_vec() },
            Word::File { mode: 0o4755, size: ENDLESS, name: Vec::new() },
            Word::Data(vec![7; PIECE]),
            Word::End,
            Word::Up,
            Word::Skipped("why".into()),
            Word::Failed("x".repeat(TEXT_MAX)),
            Word::Done,
        ];
        let mut bytes = Vec::new();
        words.iter().for_each(|word| word.write(&mut bytes).unwrap());
        let mut from = bytes.as_slice();
        for word in words {
            assert_eq!(Word::read(&mut from).unwrap(), word);
        }
        assert!(Word::read(&mut from).is_err());
    }

    proptest::proptest! {
        /// Whatever comes, it is a word or an error, and no more memory is taken than a word may have.
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)) {
            let _ = Word::read(&mut bytes.as_slice());
        }
    }
}
