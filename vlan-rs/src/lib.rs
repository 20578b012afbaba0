//! vlan-rs
