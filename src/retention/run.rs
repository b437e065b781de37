//! One run of a policy: reads, plans and applies, and records the end.

use std::time::Duration;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::ResourceExt;

use crate::{
    account::authorize::refuse_family,
    api::{REQUESTED_AT, TaskDefinitionRetentionPolicy, TaskDefinitionRetentionPolicyStatus},
    aws::{rate_limiter::ResourceKey, session::Waiter},
    controller::{
        Cache, Error,
        conditions::State,
        status_patch::{EventNote, publish},
    },
    retention::{
        apply::{Applier, Created},
        credentials::{Prepared, subject},
        existing::{Existing, declared_revisions},
        plan::{Input, Plan, Run, plan},
        read::Reader,
        reconciliation::{LONGEST_DELAY, Reconciliation, count, pending_approval},
        status::{Due, Summary, completed, failed, request},
        stop::Stop,
        validate::{ValidatedPolicy, validate},
    },
};

impl Reconciliation<'_> {
    /// Runs the policy: reads, plans and applies. The start is recorded before anything is created.
    pub(super) async fn run(
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
        let requested = self.policy.annotations().get(REQUESTED_AT).cloned();
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
        let is_requested = due != Due::Scheduled && request(&self.policy).is_some();
        let may_create = is_requested || existing.iter().filter(is_other).count() == 0;
        match self.read_plan_apply(valid, prepared, (&run, existing, may_create)).await {
            Ok((plan, families, created)) => {
                let finish = |status: &mut TaskDefinitionRetentionPolicyStatus| {
                    // Otherwise a request is handled by the next run.
                    if may_create {
                        status.last_handled_reconcile_at = requested;
                    }
                };
                self.complete(valid, (&run, &plan), (&families, created), finish).await
            }
            Err(Stop::Changed) => Ok(Some(Duration::ZERO)),
            // The next leader resumes it.
            Err(Stop::Inactive) => Ok(None),
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
        let is_allowed = || prepared.is_still_allowed(valid, &self.namespace, context);
        let reader = Reader { policy: valid, waiter: &waiter, is_active, is_allowed: &is_allowed, sources };
        let subject = subject(valid, &self.namespace);
        let admits = |family: &str| refuse_family(&prepared.access, &subject, family).is_none();
        let declared = declared_revisions(&existing);
        let observed = reader.read(&declared, admits).await?;
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
        let (policies, policy) = (&self.policies, &self.policy);
        let applier = Applier { policies, retirements: &retirements, policy, reader: &reader };
        let created = applier.apply(&plan).await?;
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

    /// Returns the names of the other policies of the namespace, account and region that include
    /// one of `families`.
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
