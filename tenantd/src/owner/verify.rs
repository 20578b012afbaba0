//! The owner's part of a verification - its tables, in a moment - and what becomes of the result: an event when tables
//! and kernel begin to differ, and one when they agree again. And refusals of the guard, which need its names.

use std::collections::BTreeSet;
use std::time::Instant;

use stack_guard::Event as Refused;
use stackmap::{Maps, TenantName};

use super::stored::Doing;
use super::{Owner, answer, chain};
use crate::control::{Command, Handle, OpError, Reply};
use crate::kernel::Kernel;
use crate::model::Event;
use crate::refusals::{self, GuardRefusal};
use crate::verify::{self, Gathered, PAUSE, ROUNDS, Verification};
use crate::world::verify::{Listed, words as flow_words};

/// What was told as drift and is not known to be gone: tenants and words.
pub(super) type Drift = BTreeSet<(BTreeSet<String>, String)>;

impl<K: Kernel> Owner<K> {
    /// Everything a verification needs to know of the tables.
    pub(super) fn gather(&self) -> Result<Gathered, OpError> {
        let tenants: Vec<Listed<'_>> = self.desired.values().map(|desired| self.listed(desired)).collect();
        self.kernel.gather(&tenants).map_err(|error| OpError::CannotVerify { cause: chain(&error) })
    }

    fn listed<'a>(&self, desired: &'a crate::store::Desired) -> Listed<'a> {
        let name = &desired.tenant.name;
        let alone = self.flow_of(&desired.tenant).ok().and_then(|request| {
            let mut maps = Maps::new();
            maps.add(request).ok()?;
            maps.flow(name).map(|flow| flow_words(&flow))
        });
        let failure = self.failures.get(name).map(|failure| format!("step {}: {}", failure.step, failure.cause));
        Listed { desired, flow: self.maps.flow(name), wanted: alone.unwrap_or_default(), failure }
    }

    /// Has a verification made beside us, which answers by itself.
    pub(super) fn verify(&self, name: Option<TenantName>, reply: Reply<Verification>) {
        if let Some(Err(error)) = name.as_ref().map(|name| self.known(name)) {
            return drop(answer(reply, Err(error)));
        }
        let first = match self.gather() {
            Ok(first) => first,
            Err(error) => return drop(answer(reply, Err(error))),
        };
        let handle = self.handle.clone();
        tokio::spawn(async move {
            let only = |found: Verification| match &name {
                Some(name) => found.only(name.as_str()),
                None => found,
            };
            let found = rounds(&handle, first, only).await;
            if let Ok(found) = &found {
                handle.verified(name, found.clone()).await;
            }
            answer(reply, found);
        });
    }

    /// Tells what began to differ and what agrees again. A verification of one tenant says nothing of the others.
    pub(super) fn verified(&mut self, name: Option<TenantName>, found: &Verification) {
        let now = found.words();
        let name = name.map(|name| name.to_string());
        let of_these = |tenants: &BTreeSet<String>| name.as_ref().is_none_or(|name| tenants.contains(name));
        let begun: Vec<_> = now.difference(&self.drift).cloned().collect();
        let gone: Vec<_> = self.drift.difference(&now).filter(|(tenants, _)| of_these(tenants)).cloned().collect();
        for (tenants, words) in begun {
            let tenant = tenants.first().map(String::as_str);
            tracing::warn!(tenant, words, "drift");
            let event = self.event("drift", tenant, words.clone());
            self.handle.publish(event);
            self.drift.insert((tenants, words));
        }
        for (tenants, words) in gone {
            let tenant = tenants.first().map(String::as_str);
            tracing::info!(tenant, words, "drift is gone");
            let event = self.event("drift-gone", tenant, words.clone());
            self.handle.publish(event);
            self.drift.remove(&(tenants, words));
        }
    }

    /// The tenant whose stack has a cookie.
    fn tenant_of(&self, cookie: u64) -> Option<TenantName> {
        let ids = self.kernel.ids_of_cookie(cookie)?;
        let found = self.desired.values().find(|desired| desired.tenant.gid.get() == ids);
        found.map(|desired| desired.tenant.name.clone())
    }

    /// Tells of refusals, as many as the bound allows.
    pub(super) fn refused(&mut self, events: &[Refused]) {
        for event in events {
            let refusal = GuardRefusal::new(event, |cookie| self.tenant_of(cookie));
            let whose = event.owner.unwrap_or(event.wanted);
            let whose = self.tenant_of(whose);
            let Some(left_out) = self.refusals.may_tell(whose.as_ref(), Instant::now()) else { continue };
            let more = if left_out == 0 { String::new() } else { format!(" ({left_out} more before were not told)") };
            let kind = refusals::kind(event.refusal);
            let words = refusal.words() + &more;
            tracing::warn!(kind, words, "guard");
            let told = self.event(kind, refusal.tenant(), words);
            self.handle.publish(Event { refusal: Some(refusal), ..told });
        }
    }

    /// Tells of those that the bound left out, when nothing followed them.
    pub(super) fn tell_left_out(&mut self) {
        for (tenant, count) in self.refusals.left_out(Instant::now()) {
            let words = format!("{count} more were not told one by one");
            tracing::warn!(kind = "guard-refused", tenant = tenant.as_ref().map(TenantName::as_str), words, "guard");
            self.tell("guard-refused", tenant.as_ref(), words);
        }
    }
}

/// Looks, and looks again while something disagrees.
async fn rounds(
    handle: &Handle,
    first: Gathered,
    only: impl Fn(Verification) -> Verification,
) -> Result<Verification, OpError> {
    let look = async |gathered| {
        let found = verify::look(gathered).await;
        found.map(&only).map_err(|error| OpError::CannotVerify { cause: chain(&error) })
    };
    let mut found = look(first).await?;
    while !found.agree && found.rounds < ROUNDS {
        tokio::time::sleep(PAUSE).await;
        let again = handle.gather().await?;
        found = verify::steady(&found, look(again).await?);
    }
    Ok(found)
}

/// The commands of this room.
#[derive(Debug)]
pub(crate) enum Proof {
    /// Compare tables and kernel, of one tenant or all.
    Verify { name: Option<TenantName>, reply: Reply<Verification> },
    /// The tables' side again, for another look.
    Gather { reply: Reply<Gathered> },
    /// A verification was made.
    Verified { name: Option<TenantName>, found: Box<Verification> },
    /// The guard refused.
    Refused(Vec<Refused>),
}

impl<K: Kernel> Owner<K> {
    pub(super) fn prove(&mut self, proof: Proof) {
        // Nobody asked for what these tell.
        self.doing = Doing::by_the_daemon();
        match proof {
            Proof::Verify { name, reply } => self.verify(name, reply),
            Proof::Gather { reply } => drop(answer(reply, self.gather())),
            Proof::Verified { name, found } => self.verified(name, &found),
            Proof::Refused(events) => self.refused(&events),
        }
    }
}

impl From<Proof> for Command {
    fn from(proof: Proof) -> Self {
        Self::Prove(proof)
    }
}
