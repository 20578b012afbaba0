//! Metrics and traces: what is asked of the kernel beside the owner, and the little of it that the owner says.

use axum::body::Bytes;

use super::{Command, Handle, OpError};
use crate::metrics::{Live, Roster};
use crate::trace::{Question, Trace};

impl Handle {
    /// The metrics as text.
    ///
    /// # Errors
    /// [`OpError::CannotMeasure`].
    pub async fn metrics(&self) -> Result<Bytes, OpError> {
        self.scraper.scrape(self).await
    }

    /// The daemon's own counters.
    pub(crate) fn live(&self) -> &Live {
        self.scraper.live()
    }

    /// Follow a flow of a tenant; done beside the owner, who only says where to read.
    ///
    /// # Errors
    /// [`OpError::Unknown`] tenant.
    pub async fn trace(&self, question: Question) -> Result<Trace, OpError> {
        let name = question.name.clone();
        let parts = self.ask(|reply| Command::TraceParts { name, reply }).await?;
        Ok(crate::trace::trace(question, parts).await)
    }

    /// The owner's part.
    pub(crate) async fn roster(&self) -> Result<Roster, OpError> {
        self.ask(|reply| Command::Roster { reply }).await
    }

    /// Commands of operators and of tenants that wait for the owner.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let operators = self.operators.max_capacity() - self.operators.capacity();
        (operators, self.tenants.max_capacity() - self.tenants.capacity())
    }
}
