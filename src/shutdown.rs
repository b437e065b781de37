//! Shutdown of the process: the request, and the irreversible calls that delay it.

use std::{future::pending, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// How long shutdown waits for reconciles without an irreversible call. Pending reads are then
/// dropped.
const READ_LIMIT: Duration = Duration::from_millis(500);

/// How long shutdown waits for irreversible calls and the recording of their responses. Both have
/// shorter timeouts of their own.
const CALL_LIMIT: Duration = Duration::from_secs(25);

/// The shutdown request and the delays of shutdown. Clones share both.
#[derive(Clone, Debug)]
pub struct Shutdown {
    requested: watch::Receiver<bool>,
    delays: watch::Sender<usize>,
}

/// Delays shutdown until dropped.
#[derive(Debug)]
#[must_use = "shutdown is delayed until this is dropped"]
pub struct Delay {
    delays: watch::Sender<usize>,
}

impl Shutdown {
    /// Creates a handle. `requested` becomes `true` when shutdown is requested.
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
            // The sender was dropped, so shutdown can no longer be requested.
            pending::<()>().await;
        }
    }

    /// Runs `read`, and drops it if shutdown is requested before it ends. Returns `None` in that
    /// case.
    pub fn abandon<T>(&self, read: impl Future<Output = T>) -> impl Future<Output = Option<T>> {
        let read = Box::pin(read);
        async move {
            tokio::select! {
                biased;
                () = self.requested() => None,
                output = read => Some(output),
            }
        }
    }

    /// Delays shutdown until the returned value is dropped.
    ///
    /// Call it before checking whether an irreversible call may be made. Then either the check sees
    /// the shutdown request, or shutdown sees the delay.
    pub fn delay(&self) -> Delay {
        self.delays.send_modify(|delays| *delays += 1);
        Delay { delays: self.delays.clone() }
    }

    /// Runs `work` until it ends, or until shutdown is requested and no delay is left.
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
            tracing::warn!(
                "shutdown timeout, abandoning irreversible calls in flight or the recording of their responses"
            );
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

    fn new_shutdown() -> (watch::Sender<bool>, Shutdown) {
        let (request, requested) = watch::channel(false);
        (request, Shutdown::new(requested))
    }

    /// Requests shutdown after a second. Returns how long `work` runs after the request.
    async fn time_after_request(
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
    async fn shutdown_drops_reads_that_hang() {
        let (request, shutdown) = new_shutdown();
        assert_eq!(time_after_request(request, &shutdown, pending()).await, READ_LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_waits_for_work_that_ends_soon() {
        let (request, shutdown) = new_shutdown();
        let work = sleep(Duration::from_millis(1_200));
        assert_eq!(time_after_request(request, &shutdown, work).await, Duration::from_millis(200));
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_waits_for_delays_up_to_a_limit() {
        for (delayed, expected) in [(7, Duration::from_secs(6)), (60, CALL_LIMIT)] {
            let (request, shutdown) = new_shutdown();
            let work = async {
                let delay = shutdown.delay();
                sleep(Duration::from_secs(delayed)).await;
                drop(delay);
                pending::<()>().await;
            };
            assert_eq!(time_after_request(request, &shutdown, work).await, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn read_is_abandoned_at_shutdown_and_not_started_afterwards() {
        let (request, shutdown) = new_shutdown();
        assert_eq!(shutdown.abandon(ready(7)).await, Some(7));
        let requesting = async { request.send_replace(true) };
        assert_eq!(tokio::join!(shutdown.abandon(pending::<u8>()), requesting).0, None);
        assert_eq!(shutdown.abandon(ready(7)).await, None);
        assert!(shutdown.is_requested());
    }
}
