//! A BPF map with its key and value types: add, update, remove, dump, usage.

use std::borrow::Cow;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle};
use thiserror::Error;

use super::skel::types;

/// A failed operation on a map.
#[derive(Debug, Error)]
pub enum MapError {
    /// No place left.
    #[error("table {table} is full: {capacity} entries")]
    Full {
        /// The map.
        table: &'static str,
        /// How many entries it takes.
        capacity: u32,
    },
    /// The kernel refused.
    #[error("cannot {verb} table {table}")]
    Kernel {
        /// read, write or remove from.
        verb: &'static str,
        /// The map.
        table: &'static str,
        /// What the kernel said.
        #[source]
        source: libbpf_rs::Error,
    },
    /// A value is not of the size that this program knows.
    #[error("table {table} holds {found} bytes where {expected} belong")]
    Size {
        /// The map.
        table: &'static str,
        /// Bytes found.
        found: usize,
        /// Bytes expected.
        expected: usize,
    },
}

/// Types that are nothing but their bytes.
///
/// # Safety
/// The type has no padding and every bit pattern is a value of it.
pub(super) unsafe trait Plain: Copy + 'static {}

// SAFETY: integers have no padding and take every bit pattern.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: the C headers assert for each of these that its size is the sum of its members; members are integers.
unsafe impl Plain for types::tunnel_key {}
// SAFETY: as above.
unsafe impl Plain for types::tunnel_in {}
// SAFETY: as above.
unsafe impl Plain for types::tunnel_out {}
// SAFETY: as above.
unsafe impl Plain for types::vlan_row {}
// SAFETY: as above.
unsafe impl Plain for types::vlan_meta {}
// SAFETY: as above.
unsafe impl Plain for types::prefix_key {}
// SAFETY: as above.
unsafe impl Plain for types::address {}
// SAFETY: as above.
unsafe impl Plain for types::path_key {}
// SAFETY: as above.
unsafe impl Plain for types::path_state {}
// SAFETY: as above.
unsafe impl Plain for types::traffic {}
// SAFETY: as above.
unsafe impl Plain for types::drop_key {}

fn bytes<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` has no padding, so all its bytes are initialised; the slice borrows `value`.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

fn value<T: Plain>(table: &'static str, bytes: &[u8]) -> Result<T, MapError> {
    if bytes.len() < size_of::<T>() {
        return Err(MapError::Size { table, found: bytes.len(), expected: size_of::<T>() });
    }
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the source has at least as many bytes, the two do not overlap, and every pattern is a `T`.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), value.as_mut_ptr().cast(), size_of::<T>());
        Ok(value.assume_init())
    }
}

/// A map of the data path.
pub(super) struct Map<K, V> {
    handle: MapHandle,
    table: &'static str,
    kinds: PhantomData<(K, V)>,
}

impl<K: Plain, V: Plain> Map<K, V> {
    pub(super) fn new(table: &'static str, handle: MapHandle) -> Self {
        Self { handle, table, kinds: PhantomData }
    }

    pub(super) fn capacity(&self) -> u32 {
        self.handle.max_entries()
    }

    pub(super) fn get(&self, key: &K) -> Result<Option<V>, MapError> {
        let found = self.handle.lookup(bytes(key), MapFlags::ANY).map_err(|e| self.refused("read", e))?;
        found.map(|found| value(self.table, &found)).transpose()
    }

    /// Rows grow at their end; what is beyond our own is zero.
    fn as_long_as_a_row<'a>(&self, value: &'a [u8]) -> Cow<'a, [u8]> {
        let length = self.handle.value_size() as usize;
        if length <= value.len() {
            return Cow::Borrowed(value);
        }
        let mut longer = value.to_vec();
        longer.resize(length, 0);
        Cow::Owned(longer)
    }

    /// The value of each CPU.
    pub(super) fn get_all_cpus(&self, key: &K) -> Result<Vec<V>, MapError> {
        let found = self.handle.lookup_percpu(bytes(key), MapFlags::ANY).map_err(|e| self.refused("read", e))?;
        found.unwrap_or_default().iter().map(|found| value(self.table, found)).collect()
    }

    pub(super) fn put(&self, key: &K, value: &V) -> Result<(), MapError> {
        self.handle.update(bytes(key), &self.as_long_as_a_row(bytes(value)), MapFlags::ANY).map_err(|source| {
            // Hash maps say E2BIG, tries ENOSPC, which has no kind; libbpf leaves it in errno.
            let no_space = io::Error::last_os_error().raw_os_error() == Some(libc::ENOSPC);
            let full = source.kind() == ErrorKind::TooBig || no_space;
            match full {
                true => MapError::Full { table: self.table, capacity: self.capacity() },
                false => self.refused("write", source),
            }
        })
    }

    /// Writes one value for every CPU.
    pub(super) fn put_all_cpus(&self, key: &K, value: &V) -> Result<(), MapError> {
        let cpus = libbpf_rs::num_possible_cpus().map_err(|e| self.refused("write", e))?;
        let values = vec![self.as_long_as_a_row(bytes(value)).into_owned(); cpus];
        self.handle.update_percpu(bytes(key), &values, MapFlags::ANY).map_err(|e| self.refused("write", e))
    }

    /// Removes an entry; an absent one is no error.
    pub(super) fn remove(&self, key: &K) -> Result<(), MapError> {
        match self.handle.delete(bytes(key)) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(self.refused("remove from", source)),
            _ => Ok(()),
        }
    }

    /// Every key, as far as the map stands still meanwhile.
    pub(super) fn keys(&self) -> Result<Vec<K>, MapError> {
        self.handle.keys().map(|key| value(self.table, &key)).collect()
    }

    fn refused(&self, verb: &'static str, source: libbpf_rs::Error) -> MapError {
        MapError::Kernel { verb, table: self.table, source }
    }
}
