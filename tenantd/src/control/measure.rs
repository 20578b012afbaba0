//! Metrics and traces: what is asked of the kernel beside the owner, and the little of it that the owner says.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::Semaphore;

use super::{Command, Handle, OpError};
use crate::metrics::{Live, Roster};
use crate::trace::{Question, Trace};

/// How many flows are followed at once, for operators and for all tenants together: each takes threads, and the daemon has
/// a bounded number of them for everything.
const TRACES: usize = 4;

/// Who may follow a flow now.
#[derive(Debug)]
pub(super) struct Traces {
    operators: Arc<Semaphore>,
    tenants: Arc<Semaphore>,
}

impl Default for Traces {
    fn default() -> Self {
        let few = || Arc::new(Semaphore::new(TRACES));
        Self { operators: few(), tenants: few() }
    }
}

impl Handle {
    /// The metrics as text, at most `old` before they were asked for.
    ///
    /// # Errors
    /// [`OpError::CannotMeasure`].
    pub async fn metrics(&self, old: Duration) -> Result<Bytes, OpError> {
        self.scraper.clone().scrape(self, old).await
    }

    /// The daemon's own counters.
    pub(crate) fn live(&self) -> &Live {
        self.scraper.live()
    }

    /// Follow a flow of a tenant; done beside the owner, who only says where to read. A tenant follows one at a time.
    ///
    /// # Errors
    /// [`OpError::Unknown`] tenant.
    pub async fn trace(&self, question: Question) -> Result<Trace, OpError> {
        let name = question.name.clone();
        self.one_of_few(async move {
            let parts = self.ask(|reply| Command::TraceParts { name, reply }).await?;
            Ok(crate::trace::trace(question, parts))
        })
        .await
    }

    /// When it is this caller's turn: what `begin` hands out, done to its end. In a task of its own: the threads of somebody
    /// who breaks off go on, and count until they are through.
    async fn one_of_few<T, F>(&self, begin: impl Future<Output = Result<F, OpError>>) -> Result<T, OpError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let seat = |of: &Arc<Semaphore>| of.clone().acquire_owned();
        let seats = match &self.guest {
            // Its own first: what waits for that keeps nobody else from a seat.
            Some(guest) => (Some(seat(&guest.trace).await), seat(&self.traces.tenants).await),
            None => (None, seat(&self.traces.operators).await),
        };
        let work = begin.await?;
        let following = tokio::spawn(async move {
            let done = work.await;
            drop(seats);
            done
        });
        following.await.map_err(|_| OpError::Closed)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tenant_follows_one_flow_at_a_time_also_when_it_breaks_off() {
        let (handle, _inbox) = Handle::new();
        let acme = handle.for_tenant("acme".parse().unwrap());
        let (end, ended) = oneshot::channel::<()>();
        let begun = acme.one_of_few(async { Ok(async { drop(ended.await) }) });
        // The client is gone, the thread is not.
        assert!(tokio::time::timeout(Duration::from_millis(20), begun).await.is_err());
        let soon = |handle: &Handle| {
            let handle = handle.clone();
            async move {
                let done = handle.one_of_few(async { Ok(async {}) });
                tokio::time::timeout(Duration::from_millis(20), done).await.is_ok()
            }
        };
        assert!(!soon(&acme).await, "a second one of the same tenant waits");
        assert!(soon(&handle.for_tenant("beta".parse().unwrap())).await && soon(&handle).await);
        end.send(()).unwrap();
        assert!(soon(&acme).await);
        // All tenants together have few; operators are not among them.
        let mut ends = Vec::new();
        for n in 0..TRACES {
            let (end, ended) = oneshot::channel::<()>();
            ends.push(end);
            let one = handle.for_tenant(format!("t{n}").parse().unwrap());
            let begun = one.one_of_few(async { Ok(async { drop(ended.await) }) });
            assert!(tokio::time::timeout(Duration::from_millis(20), begun).await.is_err());
        }
        assert!(!soon(&acme).await && soon(&handle).await);
        drop(ends);
        assert!(soon(&acme).await);
    }
}
