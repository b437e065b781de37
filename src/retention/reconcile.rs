//! Reconciles one `TaskDefinitionRetentionPolicy`: the order of the steps of a run.

use std::time::Duration;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{Api, ResourceExt};

use crate::{
    account::authorize::refuse_family,
    api::{
        REQUESTED_AT, TaskDefinitionRetentionPolicy, TaskDefinitionRetentionPolicyStatus,
        TaskDefinitionRetirement,
    },
    aws::{rate_limiter::ResourceKey, session::Waiter},
    controller::{
        Cache, Error, delay,
        status_patch::{EventNote, patch_status, publish},
    },
    in_flight,
    retention::{
        apply::{Applier, Created, Stop},
        context::Context,
        credentials::{Prepared, is_of_another, prepare, subject},
        existing::{Existing, declared_revisions},
        list::list,
        plan::{Input, Plan, Run, plan},
        read::Reader,
        status::{self, Due, State, Summary, completed, due, failed, summarize},
        validate::{ValidatedPolicy, validate},
    },
};

/// Requeue delay after a run that failed.
const RETRY_DELAY: Duration = Duration::from_secs(15);

/// Requeue delay while the EcsAccounts are being listed after a start.
const ACCOUNTS_DELAY: Duration = Duration::from_millis(200);

/// The longest requeue delay: timers may be late after a suspension of the machine.
const LONGEST_DELAY: Duration = Duration::from_mins(10);

/// Reconciles one policy. Returns the requeue delay, or `None` to wait for a change.
///
/// # Errors
/// Returns an error if a call to the API server fails.
pub(super) async fn reconcile(
    cached: &TaskDefinitionRetentionPolicy,
    context: &Context,
) -> Result<Option<Duration>, Error> {
    let namespace = cached.namespace().unwrap_or_default();
    let policies: Api<TaskDefinitionRetentionPolicy> = Api::namespaced(context.client.clone(), &namespace);
    let read = in_flight::kubernetes("get policy", policies.get_opt(&cached.name_any())).await;
    let live = read.map_err(Error::ReadResource)?;
    let Some(live) = live.filter(|live| live.metadata.deletion_timestamp.is_none()) else { return Ok(None) };
    let mut reconciliation = Reconciliation { context, policies, namespace, policy: live };
    let valid = match validate(&reconciliation.policy) {
        Ok(valid) => valid,
        Err(error) => {
            let summary = Summary::new(State::Stalled, "InvalidSpec", error.to_string());
            reconciliation.report(&summary, |_| {}, None).await?;
            return Ok(None);
        }
    };
    let recorded = reconciliation.recorded();
    // Another controller has run it.
    if recorded.last_run_time.is_some() && is_of_another(&valid, &reconciliation.namespace, context) {
        return Ok(None);
    }
    let existing = reconciliation.existing().await?;
    if valid.is_suspended {
        return reconciliation.suspended(&valid, &existing).await;
    }
    let now = (context.clock)();
    let due = match due(&reconciliation.policy, valid.interval, now) {
        Ok(due) => due,
        Err(next) => return reconciliation.wait(&valid, &existing, next).await,
    };
    let recorded = reconciliation.recorded();
    let prepared = match prepare(&valid, recorded, &reconciliation.namespace, context).await {
        Ok(prepared) => prepared,
        Err(None) => return Ok(Some(ACCOUNTS_DELAY)),
        Err(Some(summary)) => {
            reconciliation.report(&summary, |_| {}, None).await?;
            return Ok(Some(reconciliation.retry_delay()));
        }
    };
    reconciliation.run(&valid, &prepared, existing, due).await
}

/// The reconciliation of one policy.
struct Reconciliation<'a> {
    context: &'a Context,
    policies: Api<TaskDefinitionRetentionPolicy>,
    namespace: String,
    /// The policy as it was last read or written.
    policy: TaskDefinitionRetentionPolicy,
}

impl Reconciliation<'_> {
    fn recorded(&self) -> TaskDefinitionRetentionPolicyStatus {
        self.policy.status.clone().unwrap_or_default()
    }

    fn retry_delay(&self) -> Duration {
        delay::jitter(RETRY_DELAY, &self.policy.uid().unwrap_or_default())
    }

    fn retirements(&self) -> Api<TaskDefinitionRetirement> {
        Api::namespaced(self.context.client.clone(), &self.namespace)
    }

    async fn existing(&self) -> Result<Vec<Existing>, Error> {
        list(&self.retirements(), &self.policy.uid().unwrap_or_default()).await
    }

    /// Writes the status if it differs. `change` sets what the conditions do not have.
    async fn report(
        &mut self,
        summary: &Summary,
        change: impl FnOnce(&mut TaskDefinitionRetentionPolicyStatus),
        overlapping: Option<&[String]>,
    ) -> Result<(), Error> {
        let mut recorded = self.recorded();
        change(&mut recorded);
        let status = summarize(&self.policy, recorded, summary, overlapping, (self.context.clock)());
        if self.policy.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let (api, metadata) = (&self.policies, &self.policy.metadata);
        let version = patch_status::<TaskDefinitionRetentionPolicy, _>(api, metadata, &status).await?;
        self.policy.metadata.resource_version = version;
        self.policy.status = Some(status);
        Ok(())
    }

    /// Reports a suspended policy. Nothing is created, and what it has proposed waits.
    async fn suspended(
        &mut self,
        valid: &ValidatedPolicy,
        existing: &[Existing],
    ) -> Result<Option<Duration>, Error> {
        self.keep_records(valid, existing).await?;
        let text = "suspended: nothing is proposed, and nothing that it has proposed is deregistered";
        let pending = pending_approval(existing);
        let request = self.policy.annotations().get(REQUESTED_AT).cloned();
        let change = |status: &mut TaskDefinitionRetentionPolicyStatus| {
            status.pending_approval = pending;
            status.next_run_time = None;
            status.last_handled_reconcile_at = request;
        };
        self.report(&Summary::new(State::Ready, "Suspended", text), change, None).await?;
        Ok(None)
    }

    /// Keeps the status current between two runs.
    async fn wait(
        &mut self,
        valid: &ValidatedPolicy,
        existing: &[Existing],
        next: Timestamp,
    ) -> Result<Option<Duration>, Error> {
        self.keep_records(valid, existing).await?;
        let pending = pending_approval(existing);
        let recorded = self.recorded();
        if recorded.pending_approval != pending {
            let summary = completed(valid, &recorded, pending);
            self.report(&summary, |status| status.pending_approval = pending, None).await?;
        }
        let until = next.duration_since((self.context.clock)());
        Ok(Some(Duration::try_from(until).unwrap_or_default().min(LONGEST_DELAY)))
    }

    /// Removes the owner reference of finished retirements, so that they outlive the policy.
    async fn keep_records(&self, valid: &ValidatedPolicy, existing: &[Existing]) -> Result<(), Error> {
        let retirements = self.retirements();
        let applier = Applier {
            policies: &self.policies,
            retirements: &retirements,
            policy: &self.policy,
            valid,
            account: "",
            region: "",
        };
        for finished in existing.iter().filter(|it| it.is_controlled && it.is_finished) {
            applier.finish(finished).await?;
        }
        Ok(())
    }

    /// Runs the policy: reads, plans and applies. The start is recorded before anything is created.
    async fn run(
        &mut self,
        valid: &ValidatedPolicy,
        prepared: &Prepared,
        existing: Vec<Existing>,
        due: Due,
    ) -> Result<Option<Duration>, Error> {
        let identity = prepared.session.identity.clone();
        let started = match due {
            Due::Resume(started) => started,
            // Whole seconds, as in the name of the run.
            Due::Requested | Due::Scheduled => {
                let now = (self.context.clock)();
                Timestamp::from_second(now.as_second()).unwrap_or(now)
            }
        };
        let request = self.policy.annotations().get(REQUESTED_AT).cloned();
        let generation = self.policy.metadata.generation;
        let running = Summary::new(State::Reconciling, "Running", "a run is in progress");
        let begin = |status: &mut TaskDefinitionRetentionPolicyStatus| {
            status.account = Some(identity.account.clone());
            status.region = Some(identity.region.clone());
            status.last_run_time = Some(Time(started));
            status.last_run_completion_time = None;
            status.last_run_generation = generation;
        };
        // What a failed attempt has reported stays until the run is complete.
        let recorded = self.recorded();
        let is_begun = matches!(due, Due::Resume(_)) && recorded.last_run_generation == generation;
        if !is_begun {
            self.report(&running, begin, None).await?;
        }
        let run = Run::new(&self.policy.name_any(), started);
        let is_other = |it: &&Existing| it.awaits_approval() && run.number(&it.name).is_none();
        // An interrupted run that was requested is still requested.
        let is_requested = due != Due::Scheduled && status::request(&self.policy).is_some();
        let may_create = is_requested || existing.iter().filter(is_other).count() == 0;
        match self.read_plan_apply(valid, prepared, (&run, existing, may_create)).await {
            Ok((plan, families, created)) => {
                let finish = |status: &mut TaskDefinitionRetentionPolicyStatus| {
                    status.last_handled_reconcile_at = request;
                };
                self.complete(valid, (&run, &plan), (&families, created), finish).await
            }
            Err(Stop::PolicyChanged) => Ok(Some(Duration::ZERO)),
            Err(Stop::Kubernetes(error)) => Err(error),
            Err(Stop::Aws(failure)) => {
                self.report(&failed(&failure), |_| {}, None).await?;
                Ok(Some(self.retry_delay()))
            }
        }
    }

    async fn read_plan_apply(
        &self,
        valid: &ValidatedPolicy,
        prepared: &Prepared,
        (run, existing, may_create): (&Run, Vec<Existing>, bool),
    ) -> Result<(Plan, Vec<String>, Created), Stop> {
        let (session, context) = (&prepared.session, self.context);
        let name = format!("policy/{}", self.policy.name_any());
        let key = ResourceKey { namespace: self.namespace.clone(), name };
        let waiter = Waiter { session: session.clone(), key };
        let (is_active, sources) = (&context.is_active, &context.sources);
        let reader = Reader { policy: valid, waiter: &waiter, is_active, sources };
        let subject = subject(valid, &self.namespace);
        let is_allowed = |family: &str| refuse_family(&prepared.access, &subject, family).is_none();
        let declared = declared_revisions(&existing);
        let observed = reader.read(&declared, is_allowed).await.map_err(Stop::Aws)?;
        let plan = plan(&Input {
            policy: valid,
            generation: self.policy.metadata.generation.unwrap_or_default(),
            run,
            families: &observed.families,
            in_use: &observed.in_use,
            existing: &existing,
            now: sources.time().map(|time| time.earliest),
            may_create,
        });
        tracing::info!(%run, %plan, "run planned");
        let retirements = self.retirements();
        let applier = Applier {
            policies: &self.policies,
            retirements: &retirements,
            policy: &self.policy,
            valid,
            account: &session.identity.account,
            region: &session.identity.region,
        };
        let created = applier.apply(&plan, &reader).await?;
        let families = observed.families.iter().filter(|family| !family.newest.is_empty());
        Ok((plan, families.map(|family| family.name.clone()).collect(), created))
    }

    /// Records the end of a run.
    async fn complete(
        &mut self,
        valid: &ValidatedPolicy,
        (run, plan): (&Run, &Plan),
        (families, created): (&[String], Created),
        finish: impl FnOnce(&mut TaskDefinitionRetentionPolicyStatus),
    ) -> Result<Option<Duration>, Error> {
        let existing = self.existing().await?;
        let pending = pending_approval(&existing);
        let now = (self.context.clock)();
        let mut recorded = self.recorded();
        recorded.matched_families = count(families.len());
        recorded.retirable = count(plan.retirable);
        recorded.in_use = count(plan.in_use);
        recorded.pending_approval = pending;
        recorded.last_run_completion_time = Some(Time(now));
        finish(&mut recorded);
        let started = recorded.last_run_time.as_ref().map_or(now, |time| time.0);
        let next = started.checked_add(valid.interval).unwrap_or(Timestamp::MAX);
        recorded.next_run_time = Some(Time(next));
        let summary = completed(valid, &recorded, pending);
        let overlapping = self.overlapping(families);
        self.report(&summary, |status| *status = recorded, Some(&overlapping)).await?;
        if created.retirements > 0 {
            let note = format!(
                "run {run} proposed {} revisions in {} retirements",
                created.revisions, created.retirements
            );
            let note = EventNote { is_warning: false, reason: "Proposed".to_owned(), note };
            publish(&self.context.client, &self.policy, ("Propose", &self.context.instance, now), note).await;
        }
        let until = Duration::try_from(next.duration_since(now)).unwrap_or_default();
        Ok(Some(until.min(LONGEST_DELAY)))
    }

    /// Returns the names of the other policies of the namespace, account and region that include one
    /// of `families`.
    fn overlapping(&self, families: &[String]) -> Vec<String> {
        let recorded = self.recorded();
        let includes = |other: &TaskDefinitionRetentionPolicy| {
            let Ok(valid) = validate(other) else { return false };
            let status = other.status.clone().unwrap_or_default();
            (status.account, status.region) == (recorded.account.clone(), recorded.region.clone())
                && families.iter().any(|family| valid.includes(family))
        };
        let others = self.context.policies.iter().flat_map(Cache::state).filter(|object| {
            object.namespace().as_ref() == Some(&self.namespace) && object.uid() != self.policy.uid()
        });
        let mut names: Vec<String> =
            others.filter(|it| it.0.as_ref().is_ok_and(includes)).map(|it| it.name_any()).collect();
        names.sort();
        names
    }
}

fn pending_approval(existing: &[Existing]) -> i32 {
    count(existing.iter().filter(|it| it.awaits_approval()).count())
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
