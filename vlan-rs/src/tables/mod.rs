//! The tables that loader and programs share. One file a table, each beside the header of the same name in `src/bpf`;
//! row types are generated from C. Here: what all tables can do.

pub(crate) mod answers;
pub(crate) mod counters;
pub(crate) mod limits;
pub(crate) mod ports;
pub(crate) mod rates;
pub(crate) mod trunks;

use std::marker::PhantomData;
use std::mem::{MaybeUninit, size_of};

use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle};

/// A table could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// No place for another row.
    #[error("table {table} is full: it has place for {capacity} rows")]
    Full {
        /// Name of the table.
        table: String,
        /// Rows it has place for.
        capacity: u32,
    },
    /// The kernel refused.
    #[error("{action} table {table}")]
    Kernel {
        /// Name of the table.
        table: String,
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: libbpf_rs::Error,
    },
}

/// A plain C struct: any bytes are a value, and every byte of it is part of a field (asserted in C).
///
/// # Safety
/// `repr(C)`, no padding, no invalid bit patterns.
pub(crate) unsafe trait Row: Copy {}

// SAFETY: plain numbers.
unsafe impl Row for u32 {}

pub(crate) fn bytes_of<T: Row>(row: &T) -> &[u8] {
    // SAFETY: a Row has no padding, so all its bytes are initialised; the slice lives as long as the row.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(row).cast(), size_of::<T>()) }
}

/// The row that the bytes begin with: rows grow at their end.
pub(crate) fn row_of<T: Row>(bytes: &[u8]) -> Option<T> {
    let bytes = bytes.get(..size_of::<T>())?;
    let mut row = MaybeUninit::<T>::uninit();
    // SAFETY: lengths are equal, the regions are distinct, and any bytes are a valid Row.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), row.as_mut_ptr().cast(), bytes.len());
        Some(row.assume_init())
    }
}

/// A BPF map with typed rows.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    pub(crate) map: MapHandle,
    /// Of a row in bytes; what is beyond our own is zero.
    length: usize,
    rows: PhantomData<(K, V)>,
}

impl<K: Row, V: Row> Table<K, V> {
    pub(crate) fn new(map: MapHandle) -> Self {
        let length = map.value_size() as usize;
        Self { map, length, rows: PhantomData }
    }

    /// The same table on a descriptor of its own.
    pub(crate) fn again(&self) -> Result<Self, TableError> {
        Ok(Self::new(MapHandle::try_from(&self.map).map_err(|e| self.error("open again", e))?))
    }

    fn name(&self) -> String {
        self.map.name().to_string_lossy().into_owned()
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.map.max_entries()
    }

    /// Of a row in bytes.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    pub(crate) fn error(&self, action: &'static str, source: libbpf_rs::Error) -> TableError {
        TableError::Kernel { table: self.name(), action, source }
    }

    pub(crate) fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        let found = self.map.lookup(bytes_of(key), MapFlags::ANY).map_err(|e| self.error("read", e))?;
        Ok(found.and_then(|bytes| row_of(&bytes)))
    }

    pub(crate) fn put(&self, key: &K, row: &V) -> Result<(), TableError> {
        let mut longer;
        let mut bytes = bytes_of(row);
        if self.length > bytes.len() {
            longer = bytes.to_vec();
            longer.resize(self.length, 0);
            bytes = &longer;
        }
        match self.map.update(bytes_of(key), bytes, MapFlags::ANY) {
            Ok(()) => Ok(()),
            // A full hash says E2BIG. A full trie says ENOSPC, for which libbpf-rs has no kind.
            Err(e) if e.kind() == ErrorKind::TooBig || (e.kind() == ErrorKind::Other && no_space()) => {
                Err(TableError::Full { table: self.name(), capacity: self.capacity() })
            }
            Err(e) => Err(self.error("write", e)),
        }
    }

    /// Removing what is not there succeeds; says whether it was.
    pub(crate) fn remove(&self, key: &K) -> Result<bool, TableError> {
        match self.map.delete(bytes_of(key)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.error("remove from", e)),
        }
    }

    pub(crate) fn rows(&self) -> Result<Vec<(K, V)>, TableError> {
        let mut rows = Vec::new();
        for key in self.map.keys() {
            let Some(key) = row_of::<K>(&key) else {
                continue;
            };
            if let Some(row) = self.get(&key)? {
                rows.push((key, row));
            }
        }
        Ok(rows)
    }
}

/// Of the call that just failed.
fn no_space() -> bool {
    std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOSPC)
}
