//! The one list of drop reasons, as Rust sees it.

include!(concat!(env!("OUT_DIR"), "/drop_reasons.rs"));

impl DropReason {
    /// The reason with `number` in the C list.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u16 == number)
    }
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
