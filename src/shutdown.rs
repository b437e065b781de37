//! Shutdown of the process: the request for it, and the work that it waits for.

use std::{future::pending, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// How long reconciles that made no irreversible call may take to end. Reads without an answer are then dropped.
const READ_LIMIT: Duration = Duration::from_millis(500);

/// How long an irreversible call and the record of its answer may take: both are bounded by shorter limits of their own.
const CALL_LIMIT: Duration = Duration::from_secs(25);

/// Whether shutdown was requested, and what delays it. Clones share both.
#[derive(Clone, Debug)]
pub struct Shutdown {
    requested: watch::Receiver<bool>,
    delays: watch::Sender<usize>,
}

/// Delays the end of the process until dropped.
#[derive(Debug)]
#[must_use = "shutdown is delayed while this lives"]
pub struct Delay {
    delays: watch::Sender<usize>,
}

impl Shutdown {
    /// `requested` becomes `true` when shutdown is requested.
    #[must_use]
    pub fn new(requested: watch::Receiver<bool>) -> Self {
        Self { requested, delays: watch::Sender::new(0) }
    }

    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.requested.borrow()
    }

    /// Resolves once shutdown is requested.
    pub async fn requested(&self) {
        if self.requested.clone().wait_for(|is_requested| *is_requested).await.is_err() {
            // It can no longer be requested.
            pending::<()>().await;
        }
    }

    /// Runs `read` unless shutdown is requested before it ends. Returns `None` in that case; the read is dropped.
    pub fn abandon<T>(&self, read: impl Future<Output = T>) -> impl Future<Output = Option<T>> {
        let read = Box::pin(read);
        async move {
            tokio::select! {
                biased;
                () = self.requested() => None,
                answer = read => Some(answer),
            }
        }
    }

    /// Delays the end of the process. Take it before checking whether an irreversible call may be made: then either the check
    /// sees the request for shutdown, or shutdown sees the delay.
    pub fn delay(&self) -> Delay {
        self.delays.send_modify(|delays| *delays += 1);
        Delay { delays: self.delays.clone() }
    }

    /// Runs `work` until it ends, or until shutdown is requested and nothing delays it.
    pub async fn run(&self, work: impl Future<Output = ()>) {
        tokio::pin!(work);
        tokio::select! {
            () = &mut work => return,
            () = self.requested() => {}
        }
        let requested = Instant::now();
        if timeout_at(requested + READ_LIMIT, &mut work).await.is_ok() {
            return;
        }
        let mut delays = self.delays.subscribe();
        let undelayed = async {
            tokio::select! {
                () = &mut work => {}
                _ = delays.wait_for(|delays| *delays == 0) => {}
            }
        };
        if timeout_at(requested + CALL_LIMIT, undelayed).await.is_err() {
            tracing::warn!("irreversible calls or the records of their answers did not end in time");
        }
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.delays.send_modify(|delays| *delays -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use tokio::time::sleep;

    use super::*;

    fn running() -> (watch::Sender<bool>, Shutdown) {
        let (request, requested) = watch::channel(false);
        (request, Shutdown::new(requested))
    }

    /// Requests shutdown after a second. Returns how long `work` goes on then.
    async fn continues(
        request: watch::Sender<bool>,
        shutdown: &Shutdown,
        work: impl Future<Output = ()>,
    ) -> Duration {
        let began = Instant::now();
        let requesting = async {
            sleep(Duration::from_secs(1)).await;
            request.send_replace(true);
            pending::<()>().await;
        };
        tokio::select! {
            () = requesting => {}
            () = shutdown.run(work) => {}
        }
        began.elapsed().saturating_sub(Duration::from_secs(1))
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_drops_work_that_hangs() {
        let (request, shutdown) = running();
        assert_eq!(continues(request, &shutdown, pending()).await, READ_LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_waits_for_work_that_ends_soon() {
        let (request, shutdown) = running();
        let work = sleep(Duration::from_millis(1_200));
        assert_eq!(continues(request, &shutdown, work).await, Duration::from_millis(200));
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_waits_for_delays_up_to_a_limit() {
        for (delayed, expected) in [(7, Duration::from_secs(6)), (60, CALL_LIMIT)] {
            let (request, shutdown) = running();
            let work = async {
                let delay = shutdown.delay();
                sleep(Duration::from_secs(delayed)).await;
                drop(delay);
                pending::<()>().await;
            };
            assert_eq!(continues(request, &shutdown, work).await, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn reads_are_abandoned_at_shutdown_and_none_is_started_after_it() {
        let (request, shutdown) = running();
        assert_eq!(shutdown.abandon(ready(7)).await, Some(7));
        let requesting = async { request.send_replace(true) };
        assert_eq!(tokio::join!(shutdown.abandon(pending::<u8>()), requesting).0, None);
        assert_eq!(shutdown.abandon(ready(7)).await, None);
        assert!(shutdown.is_requested());
    }
}
