//! An account that time fills up to its brim and that each request pays from.

use std::time::Instant;

/// What may still be asked for.
#[derive(Debug)]
pub(super) struct Account {
    left: f64,
    brim: f64,
    /// Gained in a second.
    rate: f64,
    at: Instant,
}

impl Account {
    /// A full one.
    pub(super) fn new(brim: f64, rate: f64, now: Instant) -> Self {
        Self { left: brim, brim, rate, at: now }
    }

    /// Pays; refuses when there is not enough.
    pub(super) fn pay(&mut self, price: f64, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        (self.left, self.at) = ((self.left + gained).min(self.brim), now);
        let enough = self.left >= price;
        if enough {
            self.left -= price;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_account_fills_with_time_and_not_beyond_its_brim() {
        let start = Instant::now();
        let mut account = Account::new(60.0, 2.0, start);
        assert!(account.pay(58.0, start) && account.pay(1.0, start) && account.pay(1.0, start));
        assert!(!account.pay(1.0, start));
        assert!(account.pay(1.0, start + Duration::from_secs(1)));
        assert!(account.pay(60.0, start + Duration::from_secs(3600)));
        assert!(!account.pay(0.05, start + Duration::from_secs(3600)));
    }
}
