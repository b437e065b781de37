//! Reads the families of a policy and the usage of their revisions from AWS, within the rate limit
//! of reads.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::jiff::Timestamp;
use tokio::time::{Instant, sleep};

use crate::{
    aws::{
        family_list::{Order, Page},
        freshness::Purpose,
        rate_limiter::Permit,
        response::{Failure, FailureKind},
        session::Waiter,
        source::Sources,
        usage::Use,
        usage_cache::IsActive,
    },
    retention::{
        plan::{Family, candidates},
        stop::Stop,
        validate::ValidatedPolicy,
    },
    task_definition::{Arn, Revision},
};

/// Maximum number of attempts of a call after transient failures.
const MAX_ATTEMPTS: u32 = 5;

/// Delay before a call is repeated after a transient failure.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Interval at which a run checks for a read permit and for a usage scan.
const POLL: Duration = Duration::from_millis(50);

/// How long a run waits for a usage scan.
const SCAN_LIMIT: Duration = Duration::from_mins(5);

/// What a run has read.
#[derive(Clone, Debug, Default)]
pub struct Observations {
    pub families: Vec<Family>,
    pub in_use: BTreeSet<Revision>,
}

/// Reads for one run of a policy.
pub struct Reader<'a> {
    pub policy: &'a ValidatedPolicy,
    pub waiter: &'a Waiter,
    pub is_active: &'a IsActive,
    /// Returns true while the EcsAccount allows what it allowed when the run began.
    pub is_allowed: &'a (dyn Fn() -> bool + Send + Sync),
    /// AWS's clock.
    pub sources: &'a Sources,
}

impl Reader<'_> {
    /// Reads the families that the policy includes, and those of `declared`, if `admits` returns
    /// true for them. Of each it reads the newest revisions that are kept, and the oldest until
    /// enough are found to propose.
    ///
    /// # Errors
    /// Returns why the run ends early. A partial result is never returned.
    pub async fn read(
        &self,
        declared: &BTreeSet<Revision>,
        admits: impl Fn(&str) -> bool + Send + Sync,
    ) -> Result<Observations, Stop> {
        let mut names: BTreeSet<String> = self.families().await?;
        names.extend(declared.iter().map(|revision| revision.family().to_owned()));
        names.retain(|name| self.policy.includes(name) && admits(name));
        let (mut observations, mut left) = (Observations::default(), self.policy.max_revisions);
        for name in names {
            let (family, found) = self.family(&name, declared, left, &mut observations.in_use).await?;
            left = left.saturating_sub(found);
            observations.families.push(family);
        }
        Ok(observations)
    }

    /// Returns the newest ACTIVE revisions of a family, newest first, as many as are kept.
    ///
    /// # Errors
    /// Returns why the run ends early.
    pub async fn newest(&self, family: &str) -> Result<Vec<i32>, Stop> {
        let latest = usize::try_from(self.policy.latest).unwrap_or(usize::MAX);
        let (mut numbers, mut token) = (Vec::new(), None);
        loop {
            let page = self.page(family, Order::NewestFirst, token).await?;
            numbers.extend(page.items);
            token = page.next;
            if numbers.len() >= latest || token.is_none() {
                // Emulators ignore the order.
                numbers.sort_unstable_by(|a, b| b.cmp(a));
                numbers.dedup();
                numbers.truncate(latest);
                return Ok(numbers);
            }
        }
    }

    /// Returns the families that match a pattern of the policy. A pattern without `*` needs no
    /// list.
    async fn families(&self) -> Result<BTreeSet<String>, Stop> {
        let mut names = BTreeSet::new();
        for pattern in &self.policy.include {
            let text = pattern.to_string();
            let Some((prefix, _)) = text.split_once('*') else {
                names.insert(text);
                continue;
            };
            let mut token = None;
            loop {
                let ecs = &self.waiter.session.ecs;
                let page = self.retried(|| ecs.list_families(prefix, token.clone())).await?;
                names.extend(page.items.into_iter().filter(|name| pattern.matches(name)));
                token = page.next;
                if token.is_none() {
                    break;
                }
            }
        }
        Ok(names)
    }

    /// Reads one family. Returns how many revisions were found to propose, at most about `limit`.
    async fn family(
        &self,
        name: &str,
        declared: &BTreeSet<Revision>,
        limit: usize,
        in_use: &mut BTreeSet<Revision>,
    ) -> Result<(Family, usize), Stop> {
        let newest = self.newest(name).await?;
        let mut family = Family { name: name.to_owned(), newest, oldest: Vec::new(), old_until: None };
        let Some(first_kept) = family.newest.last().copied() else { return Ok((family, 0)) };
        let (mut token, mut proposable) = (None, 0);
        // Ages are judged after the list, which has all candidates by their numbers.
        let by_number = ValidatedPolicy { younger_than: None, ..self.policy.clone() };
        while proposable < limit {
            let page = self.page(name, Order::OldestFirst, token).await?;
            let is_end = page.items.iter().any(|number| *number >= first_kept) || page.next.is_none();
            let of_page = Family { oldest: page.items.clone(), ..family.clone() };
            for revision in candidates(&by_number, &of_page).filter(|it| !declared.contains(it)) {
                if self.is_unused(&revision).await? {
                    proposable += 1;
                } else {
                    in_use.insert(revision);
                }
            }
            family.oldest.extend(page.items);
            token = page.next;
            if is_end {
                break;
            }
        }
        family.oldest.sort_unstable();
        family.oldest.dedup();
        family.old_until = self.old_until(&by_number, &family).await?;
        let is_proposable = |it: &Revision| !in_use.contains(it) && !declared.contains(it);
        let found = candidates(self.policy, &family).filter(is_proposable).count();
        Ok((family, found))
    }

    /// Returns the highest candidate that is old enough, by binary search: registration times rise
    /// with the number. A revision whose time is unknown counts as young. `None` if none is old, or
    /// if age does not matter.
    async fn old_until(&self, by_number: &ValidatedPolicy, family: &Family) -> Result<Option<i32>, Stop> {
        let Some(younger_than) = self.policy.younger_than else { return Ok(None) };
        let all: Vec<Revision> = candidates(by_number, family).collect();
        let Some(now) = self.time(all.last()).await? else { return Ok(None) };
        let (mut old, mut young) = (0, all.len());
        let mut next = all.len().saturating_sub(1);
        while old < young {
            let registered_at = self.registered_at(&all[next]).await?;
            if registered_at.is_some_and(|at| now.duration_since(at) >= younger_than) {
                old = next + 1;
            } else {
                young = next;
            }
            next = old + (young - old) / 2;
        }
        Ok(old.checked_sub(1).map(|index| all[index].number()))
    }

    /// Returns the earliest possible time by AWS's clock. Soon after a start, it is known only
    /// after a few responses: `revision` is described until then. `None` if it stays unknown.
    async fn time(&self, revision: Option<&Revision>) -> Result<Option<Timestamp>, Stop> {
        let time = || self.sources.time().map(|time| time.earliest);
        for _ in 0..MAX_ATTEMPTS {
            match (time(), revision) {
                (None, Some(revision)) => drop(self.registered_at(revision).await?),
                (now, _) => return Ok(now),
            }
        }
        Ok(time())
    }

    async fn registered_at(&self, revision: &Revision) -> Result<Option<Timestamp>, Stop> {
        let (arn, ecs) = (self.arn(revision), &self.waiter.session.ecs);
        match self.retried(|| ecs.describe(&arn)).await {
            Ok(description) => Ok(description.registered_at),
            Err(Stop::Aws(failure)) if failure.kind == FailureKind::Absent => Ok(None),
            Err(stop) => Err(stop),
        }
    }

    /// Returns true if a revision is unused. Waits for a usage scan.
    async fn is_unused(&self, revision: &Revision) -> Result<bool, Stop> {
        let (arn, began) = (self.arn(revision), Instant::now());
        loop {
            match self.waiter.session.usage.subscribe(&self.waiter.key, &arn, Purpose::Report) {
                Some(Use::Unused { .. }) => return Ok(true),
                Some(Use::InUse(_)) => return Ok(false),
                Some(Use::Unknown(failure)) => return Err(Stop::Aws(failure)),
                None if began.elapsed() > SCAN_LIMIT => {
                    let text = "usage unknown: no usage scan has ended";
                    return Err(Stop::Aws(Failure::new(FailureKind::Unavailable, text)));
                }
                None => self.check_active()?,
            }
            sleep(POLL).await;
        }
    }

    async fn page(&self, family: &str, order: Order, token: Option<String>) -> Result<Page<i32>, Stop> {
        let session = &self.waiter.session;
        let call = || session.ecs.list_active(&session.identity, family, order, token.clone());
        self.retried(call).await
    }

    /// Makes a call with a read permit. Repeats it after a transient failure.
    async fn retried<T, F>(&self, call: impl Fn() -> F + Send + Sync) -> Result<T, Stop>
    where
        F: Future<Output = Result<T, Failure>> + Send,
    {
        let reads = &self.waiter.session.limits().reads;
        let mut attempts = 0;
        loop {
            while reads.acquire(&self.waiter.key).map(Permit::spend).is_none() {
                self.check_active()?;
                sleep(POLL).await;
            }
            attempts += 1;
            self.check()?;
            let failure = match call().await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            if failure.kind == FailureKind::Throttled {
                reads.throttled();
            }
            let is_transient = matches!(
                failure.kind,
                FailureKind::Throttled | FailureKind::ServerFault | FailureKind::Unavailable
            );
            if !is_transient || attempts == MAX_ATTEMPTS {
                return Err(Stop::Aws(failure));
            }
            sleep(RETRY_DELAY).await;
        }
    }

    /// Checks that the run may go on: before each call to ECS, and before a retirement is created.
    ///
    /// # Errors
    /// Returns why the run ends early.
    pub fn check(&self) -> Result<(), Stop> {
        self.check_active()?;
        (self.is_allowed)().then_some(()).ok_or(Stop::Changed)
    }

    /// Checks that this process may act: before each write.
    ///
    /// # Errors
    /// Returns [`Stop::Inactive`] if it may not.
    pub fn check_active(&self) -> Result<(), Stop> {
        (self.is_active)().then_some(()).ok_or(Stop::Inactive)
    }

    fn arn(&self, revision: &Revision) -> Arn {
        self.waiter.session.identity.arn(revision)
    }
}
