//! The tables that loader and programs share: the headers of `src/bpf`. Row types are generated from C.

use std::marker::PhantomData;
use std::mem::{MaybeUninit, size_of};

use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle};

use crate::skel::guard::types::{event, guard_row, owner_row, refusal_row, stack_row};

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
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: plain numbers.
unsafe impl Plain for u32 {}
// SAFETY: plain numbers.
unsafe impl Plain for u64 {}
// SAFETY: plain numbers; the size asserted in stacks.h leaves no room for padding.
unsafe impl Plain for stack_row {}
// SAFETY: as above.
unsafe impl Plain for guard_row {}
// SAFETY: as above.
unsafe impl Plain for owner_row {}
// SAFETY: as above, in events.h.
unsafe impl Plain for refusal_row {}
// SAFETY: as above, in events.h.
unsafe impl Plain for event {}

fn bytes_of<T: Plain>(row: &T) -> &[u8] {
    // SAFETY: no padding, so all its bytes are initialised; the slice lives as long as the row.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(row).cast(), size_of::<T>()) }
}

/// The row that the bytes begin with: rows grow at their end.
pub(crate) fn plain<T: Plain>(bytes: &[u8]) -> Option<T> {
    let bytes = bytes.get(..size_of::<T>())?;
    let mut row = MaybeUninit::<T>::uninit();
    // SAFETY: lengths are equal, the regions are distinct, and any bytes are a valid value.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), row.as_mut_ptr().cast(), bytes.len());
        Some(row.assume_init())
    }
}

/// A BPF map with typed rows.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    map: MapHandle,
    /// Of a row in bytes; what is beyond our own is zero.
    length: usize,
    rows: PhantomData<(K, V)>,
}

impl<K: Plain, V: Plain> Table<K, V> {
    pub(crate) fn new(map: MapHandle) -> Self {
        let length = map.value_size() as usize;
        Self { map, length, rows: PhantomData }
    }

    /// The same table on a descriptor of its own.
    pub(crate) fn again(&self) -> Result<Self, TableError> {
        Ok(Self::new(MapHandle::try_from(&self.map).map_err(|e| self.error("open again", e))?))
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.map.max_entries()
    }

    fn error(&self, action: &'static str, source: libbpf_rs::Error) -> TableError {
        TableError::Kernel { table: self.map.name().to_string_lossy().into_owned(), action, source }
    }

    pub(crate) fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        let found = self.map.lookup(bytes_of(key), MapFlags::ANY).map_err(|e| self.error("read", e))?;
        Ok(found.and_then(|bytes| plain(&bytes)))
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
            Err(e) if e.kind() == ErrorKind::TooBig => {
                let table = self.map.name().to_string_lossy().into_owned();
                Err(TableError::Full { table, capacity: self.capacity() })
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
            let Some(key) = plain::<K>(&key) else {
                continue;
            };
            if let Some(row) = self.get(&key)? {
                rows.push((key, row));
            }
        }
        Ok(rows)
    }
}
