//! The newer ACTIVE revisions of a family, for `spec.keepLatest`. Reads from AWS only.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    aws::response::{Failure, FailureKind},
    retirement::batch::Batch,
    task_definition::Arn,
};

/// Maximum age of a list of the newest revisions on which a deregistration is based.
const LIFETIME: Duration = Duration::from_secs(15);

impl Batch<'_> {
    /// Returns the number of ACTIVE revisions that are newer than `arn`, at most `count`. It is
    /// counted in a list that began at most 15 s ago.
    ///
    /// # Errors
    /// Returns the failure of a call.
    pub(super) async fn newer(&self, arn: &Arn, count: u32) -> Result<u32, Failure> {
        let (family, number) = (arn.revision().family(), arn.revision().number());
        let known = self.newest_lists.0.lock().get(family).cloned();
        let numbers = match known.filter(|(began, _)| began.elapsed() < LIFETIME) {
            Some((_, numbers)) => numbers,
            None => self.list_newest(family, count).await?,
        };
        let newer = numbers.iter().filter(|newer| **newer > number).count();
        Ok(u32::try_from(newer).unwrap_or(count).min(count))
    }

    /// Returns true if the list in which the revisions newer than `arn` were counted began at most
    /// 15 s ago.
    pub(super) fn is_counted_recently(&self, arn: &Arn) -> bool {
        let lists = self.newest_lists.0.lock();
        lists.get(arn.revision().family()).is_some_and(|(began, _)| began.elapsed() < LIFETIME)
    }

    async fn list_newest(&self, family: &str, count: u32) -> Result<Vec<i32>, Failure> {
        let (session, began) = (self.session(), Instant::now());
        let reads = &session.limits().reads;
        let limit = usize::try_from(count).unwrap_or(usize::MAX);
        // The caller has already waited for a permit to describe.
        let acquire = || {
            reads.acquire_unqueued();
            std::future::ready(())
        };
        let listed = session.ecs.newest_active(&session.identity, family, limit, acquire).await;
        let numbers = listed.map_err(|failure| {
            if failure.kind == FailureKind::Throttled {
                reads.throttled();
            }
            let message =
                format!("ecs:ListTaskDefinitions, which spec.keepLatest needs: {}", failure.message);
            // `Absent` refers to the revision, which this call does not request.
            let is_absent = failure.kind == FailureKind::Absent;
            let kind = if is_absent { FailureKind::Refused } else { failure.kind };
            Failure { kind, message, ..failure }
        })?;
        self.newest_lists.0.lock().insert(family.to_owned(), (began, numbers.clone()));
        Ok(numbers)
    }
}
