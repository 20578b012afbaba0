//! What a guard costs.
fn main() {}
