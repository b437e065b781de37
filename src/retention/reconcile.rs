//! Reconciles one `TaskDefinitionRetentionPolicy`: the order of the steps of a run.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{Api, Client, ResourceExt, api::ListParams, runtime::watcher};

use crate::{
    account::{
        authorize::{Access, Denial, Refused, Subject, authorize, refuse_family},
        store::Accounts,
    },
    api::{
        REQUESTED_AT, Reason, TaskDefinitionRetentionPolicy, TaskDefinitionRetentionPolicyStatus,
        TaskDefinitionRetirement, task_definition_retention_policy::POLICY_UID_LABEL,
    },
    aws::{
        rate_limiter::ResourceKey,
        response::{Failure, FailureKind},
        session::{VerifiedSession, Waiter},
        source::Sources,
        usage_cache::IsActive,
    },
    clock::Clock,
    controller::{
        Cache, Error, Kind, delay,
        guarded::Guarded,
        status_patch::{EventNote, patch_status, publish},
    },
    in_flight,
    retention::{
        apply::{Applier, Created, Stop},
        existing::{Existing, declared_revisions},
        plan::{Input, Plan, Run, plan},
        read::Reader,
        status::{Due, State, Summary, due, summarize},
        validate::{ValidatedPolicy, validate},
    },
};

/// Requeue delay after a run that failed.
const RETRY_DELAY: Duration = Duration::from_secs(15);

/// Requeue delay while the EcsAccounts are being listed after a start.
const ACCOUNTS_DELAY: Duration = Duration::from_millis(200);

/// The longest requeue delay: timers may be late after a suspension of the machine.
const LONGEST_DELAY: Duration = Duration::from_mins(10);

/// State shared by the reconciles of all policies.
pub struct Context {
    pub client: Client,
    pub sources: Arc<Sources>,
    pub accounts: Arc<Accounts>,
    pub policies: Vec<Cache<TaskDefinitionRetentionPolicy>>,
    /// False if resources must name an EcsAccount: `--ambient-credentials=false`.
    pub allows_ambient: bool,
    /// The AWS accounts whose ambient credentials may be used; every account is allowed if empty.
    pub allowed_accounts: BTreeSet<String>,
    pub clock: Clock,
    pub is_active: IsActive,
    /// The name of this process in events, such as the name of its pod.
    pub instance: String,
}

impl Kind for TaskDefinitionRetentionPolicy {
    type Context = Context;

    const CONTROLLER: &'static str = "taskdefinitionretentionpolicy";

    fn work_is_due(policy: &Self) -> bool {
        policy.metadata.deletion_timestamp.is_none()
    }

    fn prune(_: &mut Self) {}

    async fn reconcile(object: Arc<Guarded<Self>>, context: Arc<Context>) -> Result<Option<Duration>, Error> {
        match &object.0 {
            Ok(policy) if (context.is_active)() => Box::pin(reconcile(policy, &context)).await,
            Ok(_) => Ok(None),
            Err(metadata) => {
                let name = metadata.name.as_deref();
                tracing::error!(name, "the policy cannot be read: correct its spec");
                Ok(None)
            }
        }
    }

    fn observed(_: Option<&Guarded<Self>>, _: Option<&Guarded<Self>>, _: &Context) {}

    fn watch_failed(_: &watcher::Error, _: &Context) {}
}

async fn reconcile(
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
    if reconciliation.is_left_to_another(&valid) {
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
    let prepared = match reconciliation.prepare(&valid).await {
        Ok(prepared) => prepared,
        Err(None) => return Ok(Some(ACCOUNTS_DELAY)),
        Err(Some(summary)) => {
            reconciliation.report(&summary, |_| {}, None).await?;
            return Ok(Some(reconciliation.retry_delay()));
        }
    };
    reconciliation.run(&valid, &prepared, existing, due).await
}

/// The credentials of a run, with the resolved account and region.
struct Prepared {
    session: Arc<VerifiedSession>,
    access: Access,
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

    /// Returns true if another controller serves the EcsAccount of the policy and has run it.
    fn is_left_to_another(&self, valid: &ValidatedPolicy) -> bool {
        let Context { accounts, allows_ambient, .. } = self.context;
        let denial = authorize(accounts, &subject(valid, &self.namespace), *allows_ambient);
        matches!(denial, Err(Denial::OfAnotherController(_))) && self.recorded().last_run_time.is_some()
    }

    /// Lists the retirements of the policy uncached.
    async fn existing(&self) -> Result<Vec<Existing>, Error> {
        let uid = self.policy.uid().unwrap_or_default();
        let parameters = ListParams::default().labels(&format!("{POLICY_UID_LABEL}={uid}"));
        let list = in_flight::kubernetes("list retirements", self.retirements().list(&parameters)).await;
        let list = list.map_err(Error::ReadResource)?;
        Ok(list.items.iter().filter_map(|it| Existing::of_policy(it, &uid)).collect())
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

    /// Removes the owner reference of finished retirements, and deletes records beyond the limit.
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

    /// Decides which credentials the run may use, and verifies them. `Err(None)` while the
    /// EcsAccounts are not listed.
    async fn prepare(&self, valid: &ValidatedPolicy) -> Result<Prepared, Option<Summary>> {
        let subject = subject(valid, &self.namespace);
        let context = self.context;
        let access = match authorize(&context.accounts, &subject, context.allows_ambient) {
            Ok(access) => access,
            Err(Denial::Pending) => return Err(None),
            Err(Denial::OfAnotherController(refused) | Denial::Refused(refused)) => {
                return Err(Some(denied(refused)));
            }
        };
        let (source, declared) = match &access {
            Access::Ambient => (context.sources.ambient().clone(), None),
            Access::Account { account, .. } => {
                (context.sources.account(&account.name, &account.source), Some(&account.source.account))
            }
        };
        let stalled = |reason, text: String| Some(Summary::new(State::Stalled, reason, text));
        let recorded = self.recorded();
        let region = valid.region.as_deref().or(source.default_region());
        let Some(region) = region.map(str::to_owned) else {
            let text = "spec.region is not set and the controller has no default region: set spec.region, such as us-west-2";
            return Err(stalled("InvalidSpec", text.to_owned()));
        };
        if let Some(before) = recorded.region.filter(|before| *before != region) {
            let text = format!(
                "the region was {before} and is now {region}: a policy keeps its region; make a new policy for {region}"
            );
            return Err(stalled("WrongRegion", text));
        }
        let wrong_account = |account: &String| {
            let expected = recorded.account.as_ref().or(valid.account_id.as_ref())?;
            let text = format!(
                "the policy is for account {expected}, and its credentials are for account {account}: make a new policy for account {account}"
            );
            (expected != account).then(|| Summary::new(State::Stalled, "WrongAccount", text))
        };
        if let Some(summary) = declared.and_then(wrong_account) {
            return Err(Some(summary));
        }
        let session = source.session(&region).verify().await.map_err(|failure| Some(failed(&failure)))?;
        let account = session.identity.account.clone();
        if let Some(summary) = wrong_account(&account) {
            return Err(Some(summary));
        }
        if declared.is_none() {
            if context.accounts.declare(&account) {
                let text = format!(
                    "AWS account {account} is managed by EcsAccounts: name an EcsAccount in spec.accountRef"
                );
                return Err(stalled("NotAllowed", text));
            }
            if !context.allowed_accounts.is_empty() && !context.allowed_accounts.contains(&account) {
                let text = format!(
                    "the credentials of the controller are for account {account}, which --allowed-account-ids does not name"
                );
                return Err(stalled("WrongAccount", text));
            }
        }
        Ok(Prepared { session, access })
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
        let running = Summary::new(State::Reconciling, "Running", "a run is in progress");
        let begin = |status: &mut TaskDefinitionRetentionPolicyStatus| {
            status.account = Some(identity.account.clone());
            status.region = Some(identity.region.clone());
            status.last_run_time = Some(Time(started));
            status.last_run_completion_time = None;
            status.last_handled_reconcile_at = request;
        };
        self.report(&running, begin, None).await?;
        let run = Run::new(&self.policy.name_any(), started);
        let is_other = |it: &&Existing| it.awaits_approval() && run.number(&it.name).is_none();
        let may_create = due == Due::Requested || existing.iter().filter(is_other).count() == 0;
        match self.read_plan_apply(valid, prepared, (&run, existing, may_create)).await {
            Ok((plan, families, created)) => self.complete(valid, (&run, &plan), &families, created).await,
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
            now: sources.time(),
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
        families: &[String],
        created: Created,
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

fn subject<'a>(valid: &'a ValidatedPolicy, namespace: &'a str) -> Subject<'a> {
    Subject {
        namespace,
        account_ref: valid.account_ref.as_deref(),
        region: valid.region.as_deref(),
        retires_in_use: false,
    }
}

fn denied(refused: Refused) -> Summary {
    let state = if refused.reason.has_grace() { State::Denied } else { State::Stalled };
    Summary::new(state, refused.reason.as_str(), refused.message)
}

fn failed(failure: &Failure) -> Summary {
    let (state, reason) = match failure.kind {
        FailureKind::Throttled => (State::Reconciling, Reason::Throttled),
        FailureKind::Unavailable | FailureKind::ServerFault => (State::Reconciling, Reason::Unavailable),
        FailureKind::AccountMismatch => (State::Denied, Reason::AccountNotReady),
        FailureKind::AccessDenied => (State::Denied, Reason::AccessDenied),
        FailureKind::Refused | FailureKind::Absent | FailureKind::Deleted => {
            (State::Stalled, Reason::Refused)
        }
    };
    Summary::new(state, reason.as_str(), failure.message.clone())
}

/// Returns the summary of a policy whose last run is complete.
fn completed(valid: &ValidatedPolicy, status: &TaskDefinitionRetentionPolicyStatus, pending: i32) -> Summary {
    let TaskDefinitionRetentionPolicyStatus { matched_families, retirable, in_use, .. } = status;
    let found = format!("{matched_families} families, {retirable} revisions retirable, {in_use} in use");
    let (reason, message) = if *matched_families == 0 {
        let text = "spec.families includes no family with ACTIVE revisions: nothing is proposed";
        ("NoFamilies", text.to_owned())
    } else if valid.is_dry_run {
        ("DryRun", format!("{found}: dry run, nothing is deregistered"))
    } else if pending > 0 {
        let text = "set spec.suspend of a retirement to false to approve it";
        ("AwaitingApproval", format!("{found}; {pending} retirements wait for approval: {text}"))
    } else {
        ("Succeeded", found)
    };
    Summary::new(State::Ready, reason, message)
}

fn pending_approval(existing: &[Existing]) -> i32 {
    count(existing.iter().filter(|it| it.awaits_approval()).count())
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
