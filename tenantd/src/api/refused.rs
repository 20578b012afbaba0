//! Refusals that the owner never hears of, told to the audit: what would have changed something and was refused for its
//! form, its caller or its place. Told at a bounded rate, so that who asks without end fills neither the owner's queue nor
//! the disk; how many were left out is said with the next one.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use axum::http::{Method, Uri};
use axum::response::Response;
use stackmap::TenantName;

use super::account::Account;
use crate::audit::Outcome;
use crate::control::Handle;
use crate::problem::Problem;

/// Refusals that are told at once, and how many a second from then on: one tenant's, or those of all on the host.
const AT_ONCE: f64 = 20.0;
/// See [`AT_ONCE`].
const A_SECOND: f64 = 0.5;

/// What was refused, besides the answer.
#[derive(Debug, Clone)]
pub(super) struct What {
    method: Method,
    /// The pattern, not the path: a path holds customers' addresses.
    route: String,
    dry_run: bool,
    /// The tenant it is about.
    tenant: Option<TenantName>,
}

impl What {
    /// Of a request that has matched `route`.
    pub(super) fn new(method: &Method, route: &str, uri: &Uri, tenant: Option<TenantName>) -> Self {
        let dry_run = uri.query().unwrap_or_default().split('&').any(|part| matches!(part, "dry_run" | "dry_run=true"));
        Self { method: method.clone(), route: route.to_owned(), dry_run, tenant }
    }
}

/// Tells refusals, and counts those it does not tell.
#[derive(Debug)]
pub(super) struct Teller(Mutex<State>);

#[derive(Debug)]
struct State {
    account: Account,
    left_out: u64,
}

impl Default for Teller {
    fn default() -> Self {
        let account = Account::new(AT_ONCE, A_SECOND, Instant::now());
        Self(Mutex::new(State { account, left_out: 0 }))
    }
}

impl Teller {
    /// Tells the audit of an answer that refuses, unless the owner gave it, who has told it already. `handle` knows who
    /// asked.
    pub(super) fn tell(&self, handle: &Handle, what: &What, response: &Response) {
        let Some(problem) = response.extensions().get::<Problem>().filter(|problem| !problem.is_owners) else { return };
        let Some(verb) = verb(&what.method, &what.route).filter(|_| !what.dry_run) else { return };
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.account.pay(1.0, Instant::now()) {
            state.left_out += 1;
            return;
        }
        let outcome = Outcome::refused(problem, state.left_out);
        state.left_out = match handle.note(verb, what.tenant.clone(), None, outcome) {
            true => 0,
            false => state.left_out + 1,
        };
    }
}

/// The word for a change, as the command line calls it; none for a question and for a path that is not there.
fn verb(method: &Method, route: &str) -> Option<&'static str> {
    let of_tenant = route.strip_prefix("/v1/tenants/{name}").unwrap_or(route);
    Some(match (method.as_str(), of_tenant) {
        ("POST", "/v1/tenants") => "add-tenant",
        ("PUT", "") => "apply",
        ("DELETE", "") => "remove-tenant",
        ("POST", "/restart") => "restart-tenant",
        ("POST", "/tunnels") => "add-tunnel",
        ("DELETE", "/tunnels/{spec}") => "remove-tunnel",
        ("PUT", "/addresses") => "set-address",
        ("POST", "/addresses") => "add-address",
        ("DELETE", "/addresses/{address}") => "remove-address",
        ("PUT", "/routes") => "set-route",
        ("POST", "/routes") => "add-route",
        ("DELETE", "/routes/{to}") => "remove-route",
        ("PUT", "/filter") => "set-filter",
        ("PUT", "/dns") => "set-dns",
        ("PATCH", "/limits") => "set-limits",
        ("POST", "/v1/shares") => "share",
        ("DELETE", "/shares/{directory}") => "unshare",
        ("POST", "/services") => "add-service",
        ("DELETE", "/services/{service}") => "remove-service",
        ("POST", "/services/{service}/start") => "start-service",
        ("POST", "/services/{service}/stop") => "stop-service",
        ("POST", "/services/{service}/restart") => "restart-service",
        ("POST", "/services/{service}/reload") => "reload-service",
        ("POST", "/v1/restore") => "restore",
        ("POST", "/v1/images") => "make-image",
        ("DELETE", "/v1/images/{image}") => "remove-image",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_route_that_changes_something_has_its_word() {
        for line in include_str!("routes.txt").lines() {
            let (method, route) = line.split_once(' ').unwrap();
            let word = verb(&method.parse().unwrap(), route);
            assert_eq!(word.is_some(), method != "GET", "{line}");
        }
    }
}
