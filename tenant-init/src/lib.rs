//! tenant-init
