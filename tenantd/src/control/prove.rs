//! Verification and refusals of the guard: what the API, the verifying task and the guard's reader tell the owner.

use stack_guard::Event as Refused;
use stackmap::TenantName;

use super::{Command, Handle, OpError, Proof};
use crate::verify::{Gathered, Verification};

impl Handle {
    /// Compare tables and kernel, of one tenant or all.
    ///
    /// # Errors
    /// [`OpError::Unknown`] tenant; [`OpError::CannotVerify`].
    pub async fn verify(&self, name: Option<TenantName>) -> Result<Verification, OpError> {
        self.ask(|reply| Proof::Verify { name, reply }.into()).await
    }

    /// The tables' side as it is now.
    pub(crate) async fn gather(&self) -> Result<Gathered, OpError> {
        self.ask(|reply| Proof::Gather { reply }.into()).await
    }

    /// A verification was made; a daemon that ends needs not know.
    pub(crate) async fn verified(&self, name: Option<TenantName>, found: Verification) {
        let _ = self.operators.send(self.asked(Proof::Verified { name, found: Box::new(found) }.into())).await;
    }

    /// The guard refused; waits while the owner has much to do. Not to be called on a task.
    pub(crate) fn refused(&self, events: Vec<Refused>) -> Result<(), OpError> {
        self.operators.blocking_send(self.asked(Command::Prove(Proof::Refused(events)))).map_err(|_| OpError::Closed)
    }

    /// False when the owner has ended.
    pub(crate) fn is_open(&self) -> bool {
        !self.operators.is_closed()
    }
}
