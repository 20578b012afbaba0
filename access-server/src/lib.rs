//! access-server
