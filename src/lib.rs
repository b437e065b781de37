//! A Kubernetes controller that retires Amazon ECS task definition revisions.
//!
//! # Data flow
//!
//! ```text
//! watch -> validate -> resolve -> observe -> plan -> apply -> summarize -> patch -> requeue
//! ```
//!
//! `retirement/reconcile.rs` runs all steps after the watch, in this order. Start reading there.
//! Steps marked with `*` do no I/O.
//!
//! - watch: `controller/resource_watch.rs` returns the watch events, `controller/changes.rs`
//!   selects the resources that need a reconcile, `controller/mod.rs` runs the reconciles.
//! - validate*: `controller/guarded.rs` for resources that do not parse, `retirement/validate.rs`
//!   for the spec, `retirement/admission.rs` and `account/authorize.rs` for what the `EcsAccount`
//!   allows.
//! - resolve*: `retirement/resolve.rs` resolves entries to ARNs, `retirement/account_guard.rs`
//!   checks the account. `aws/session.rs` verifies the identity before.
//! - observe: `retirement/observe.rs` describes a batch of revisions with `aws/ecs_client.rs`, and
//!   reads their usage from `aws/usage_cache.rs`.
//! - plan*: `retirement/plan.rs` decides the next step for each revision of the batch.
//! - apply: `retirement/apply.rs` deregisters what the plan selects.
//! - summarize*: `retirement/status.rs` assembles the status: rows from `row.rs`, conditions from
//!   `summary.rs`.
//! - patch: `retirement/status_writer.rs` writes the status and publishes events.
//! - requeue*: `retirement/requeue.rs` returns the requeue delay, `controller/mod.rs` schedules it.
//!
//! `DeregisterTaskDefinition` cannot be undone. The call takes a
//! [`deregistration::Deregistration`], which only [`retirement::plan`] creates. Right before the
//! call, `apply.rs` reads the resource again, uncached, and so its `EcsAccount` and its policy, and
//! checks that this process is still active.
//!
//! Policies and `EcsAccounts` are reconciled in the same steps: `retention/reconcile.rs` reads,
//! plans and applies a run, `account/verify.rs` verifies credentials.
//!
//! # Modules
//!
//! - `main.rs`: the command line (`run`, `crd`).
//! - [`task_definition`]: strict parser for `family:revision` and ARNs.
//! - [`family_pattern`]: globs for families.
//! - [`deregistration`]: authorization of the irreversible call.
//! - [`duration`], [`text`]: durations and lengths of texts.
//! - [`in_flight`]: registry of API calls in flight, for the liveness probe; timeout of Kubernetes
//!   calls.
//! - [`proxy`]: the proxies of the environment.
//! - [`clock`]: the wall clock as an injected dependency.
//! - [`shutdown`]: the shutdown request, and the irreversible calls that delay it.
//!
//! [`api`], the Kubernetes API, data only:
//!
//! - `task_definition_retirement`, `ecs_account`, `task_definition_retention_policy`: the kinds.
//! - `reason`: the reasons of a row, and the properties of each.
//! - `conditions`: the condition types.
//! - `usage_scan`: the usage scan that a status is based on.
//! - `schema`: validation rules of the CRDs.
//! - `crd`: the CRDs that `ecs-retirement-controller crd` prints.
//!
//! [`controller`], generic over the kind:
//!
//! - `mod`: watches, limits, runs and measures reconciles.
//! - `guarded`: a resource, or only its metadata if it does not parse.
//! - `resource_watch`: the watch, and its recovery after an etcd restore.
//! - `changes`: applies watch events to the cache.
//! - `workqueue`: the resources that need a reconcile, first come, first served.
//! - `metrics`: the queue and the reconciles as metrics.
//! - `status_patch`: server-side apply of a status, and events.
//! - `delay`: requeue delays that all kinds share.
//!
//! [`retirement`], the reconciler of `TaskDefinitionRetirement`:
//!
//! - `reconcile`: reconciles one resource; the order of all steps.
//! - `kind`, `context`: the kind for its controller; what reconciles share.
//! - `admission`: whether a resource can be reconciled now, and with which credentials.
//! - `validate`: parses the spec.
//! - `account_guard`: which AWS account a resource may be processed in.
//! - `resolve`: resolves entries to ARNs.
//! - `batch`: what the steps of one batch share.
//! - `observe`, `keep_latest`: `DescribeTaskDefinition`, deleted revisions, usage from the cache,
//!   and newer revisions of the family.
//! - `plan`: decides what to do about each revision.
//! - `apply`, `policy_guard`: makes the irreversible call; what its policy says right before.
//! - `revision_locks`: one lock for each ARN, so that two resources do not deregister it twice.
//! - `cool_down`: whether `unusedSince` still counts.
//! - `outcome`, `row`: the result for one revision, and its new row.
//! - `summary`: counts and conditions from the rows.
//! - `size`: keeps a status below the size limit of etcd.
//! - `status`, `trigger`: assembles the status; what users have requested.
//! - `events`: which transitions become Kubernetes events.
//! - `pending_status`: ECS responses that no status holds yet because a write failed.
//! - `status_writer`: writes the status if it differs, and publishes events.
//! - `requeue`: which resources are due, which rows form a batch, and the requeue delay.
//!
//! [`account`], the `EcsAccounts`:
//!
//! - `validate`: parses the spec.
//! - `allow`: what an account allows.
//! - `store`: the cached accounts and namespaces, and the resources that a change wakes.
//! - `authorize`: decides at planning, and again right before the call.
//! - `reconcile`: verifies the credentials and reports the result.
//!
//! [`retention`], the reconciler of `TaskDefinitionRetentionPolicy`:
//!
//! - `reconcile`: reconciles one policy; the order of all steps.
//! - `reconciliation`: what the steps share: the policy, its retirements and its status.
//! - `run`: one run: reads, plans and applies, and records the end.
//! - `stop`: why a run ends early.
//! - `kind`, `context`: the kind for its controller; what runs share.
//! - `validate`: parses the spec.
//! - `credentials`: which credentials a run may use.
//! - `existing`, `list`: the retirements of a policy.
//! - `read`: reads families and usage from AWS.
//! - `plan`: decides what is created, narrowed and deleted.
//! - `apply`: writes the retirements.
//! - `status`: when a run is due, and the conditions.
//!
//! [`aws`], the only module that uses the AWS SDK:
//!
//! - `source`: sources of credentials: ambient, or an `EcsAccount`.
//! - `session`: one source in one region; verifies the identity.
//! - `limits`: the rate limiters of an AWS account and region, shared by all sources.
//! - `credentials`, `assume_role`, `credentials_error`: credentials of the default chain and of
//!   roles, and why they cannot be loaded.
//! - `identity`: partition and account of the credentials (`GetCallerIdentity`).
//! - `backoff`: how long a failed identity call is cached.
//! - `http_client`: trust roots and proxies of the SDK.
//! - `ecs_client`, `family_list`: calls to ECS.
//! - `response`: responses of ECS as data.
//! - `error`, `outage`: the table of AWS error codes, and why a call got no response.
//! - `response_clock`: the time by AWS's clock.
//! - `circuit_breaker`: stops calls of a source of credentials to a region that does not respond.
//! - `permit_queue`: token bucket and wait queue, without I/O.
//! - `rate_limiter`: the rate limiter of one bucket: permits, backoff and wakeups.
//! - `usage_scanner`: finds the usage of all revisions in one account and region.
//! - `usage`: the result of a usage scan.
//! - `freshness`: how old a usage scan may be, and when the next one is due.
//! - `usage_cache`: runs usage scans while resources wait, and wakes those whose usage changed.
//!
//! [`runtime`], the process:
//!
//! - `replica`: the controllers and the leader elector of one replica, with injected dependencies.
//! - `kubeconfig`: the API server and its proxy, from the kubeconfig or the pod.
//! - `kubernetes`: the Kubernetes client and its timeouts.
//! - `leader_election`: leader election with a Lease.
//! - `metrics`, `policy_metrics`, `process`: all other metrics.
//! - `health`, `http_server`: the probes; the HTTP server for probes and metrics.
//! - `telemetry`: logging.
//!
//! # Glossary
//!
//! - **permit**: permission to make one rate-limited call. It is acquired, and returned or expires
//!   if it is not used.
//! - **wait queue**: the first-in, first-out queue of resources that wait for a permit.
//! - **token bucket**: the source of permits. It gains tokens at the configured rate, up to the
//!   burst.
//! - **usage scan**: the ECS calls that find which services and tasks use which revisions, for one
//!   account and region.
//! - **source of credentials**: the controller's own (ambient) credentials, or those of an
//!   `EcsAccount`.
//! - **usage cache**: the result of the last usage scan of a source of credentials in a region,
//!   shared by all its resources.
//! - **run**: one evaluation of a policy: read, plan, apply.
//! - **narrow**: remove from an unfinished retirement what its policy keeps now.
//! - **circuit breaker**: closed: calls are made. Open: AWS does not respond, and calls fail
//!   immediately. Half-open: one call probes whether AWS responds again.
//! - **batch**: the revisions that one reconcile processes, at most
//!   [`retirement::requeue::BATCH_SIZE`].
//! - **final**: nothing is left to do for a row or resource until the spec changes or a reconcile
//!   is requested.
//! - **on hold**: suspended (`spec.suspend`) or a dry run (`spec.dryRun`).
//! - **rejected**: a row that needs manual intervention.
//! - **requeue delay**: the time after which a resource is reconciled again although it did not
//!   change.
//! - **leader, standby**: the replica that holds the Lease and acts; a replica that only keeps its
//!   caches synced.
//!
//! # Why is my revision not deregistered yet?
//!
//! The reason and message of its row say so; `row.rs` writes them. These are all the places that
//! delay a deregistration, in the order in which a reconcile reaches them:
//!
//! 1. The replica does not lead or shuts down: `runtime/leader_election.rs`, `shutdown.rs`.
//! 2. The resource is final or is being deleted, so it is not enqueued: `work_is_due` in
//!    `retirement/requeue.rs`, called from `controller/changes.rs`.
//! 3. All workers are busy, or the requeue delay has not elapsed: `controller/mod.rs`,
//!    `requeue_delay` in `retirement/requeue.rs`.
//! 4. AWS does not respond in the region, or as many reconciles as allowed call AWS:
//!    `aws/circuit_breaker.rs`, `delay` in `retirement/admission.rs`.
//! 5. The resource does not parse or its spec is invalid: `controller/guarded.rs`,
//!    `retirement/validate.rs`.
//! 6. Its `EcsAccount` is missing, suspended, or does not allow it: `account/store.rs`,
//!    `account/allow.rs`, called from `retirement/admission.rs`.
//! 7. The identity of the credentials is not verified: `verify` in `aws/session.rs`,
//!    `aws/credentials.rs`, `aws/assume_role.rs`.
//! 8. The entry belongs to another account or region: `retirement/account_guard.rs`,
//!    `retirement/resolve.rs`.
//! 9. The usage cache shows that the revision is in use, cooling down, or of unknown usage:
//!    `retirement/observe.rs`, `must_wait` in `retirement/plan.rs`, `retirement/cool_down.rs`.
//! 10. Its row is final, or the batch is full: `is_final` in `api/reason.rs`, `is_due_for_ecs` in
//!     `retirement/row.rs`, `select_batch` in `retirement/requeue.rs`.
//! 11. Another resource has locked the revision: `retirement/revision_locks.rs`.
//! 12. The first usage scan is pending, or failed: `aws/usage_cache.rs`, `aws/usage_scanner.rs`.
//! 13. It waits for a permit to describe or to deregister: `aws/rate_limiter.rs`,
//!     `aws/permit_queue.rs`.
//! 14. `plan` decides not to deregister: not ACTIVE, on hold, in use, cooling down, or kept:
//!     `retirement/plan.rs`, `retirement/keep_latest.rs`.
//! 15. The resource, its `EcsAccount` or its policy changed right before the call, or the usage
//!     scan is not recent enough for a deregistration: `retirement/apply.rs`,
//!     `account/authorize.rs`, `retirement/policy_guard.rs`, `aws/freshness.rs`.
//! 16. AWS throttles or rejects the call: `aws/error.rs`, and the backoff in
//!     `retirement/requeue.rs`.
//! 17. It is deregistered, but the status is not written yet: `retirement/pending_status.rs`,
//!     `retirement/status_writer.rs`.

pub mod api;
pub mod task_definition;
pub mod deregistration;
pub mod duration;
pub mod family_pattern;
pub mod text;

pub mod retirement;

pub mod account;

pub mod retention;

pub mod controller;

pub mod aws;

pub mod in_flight;
pub mod proxy;
pub mod clock;
pub mod runtime;
pub mod shutdown;

/// The name of the controller: the field manager of its writes and the reporter of its events.
pub const CONTROLLER: &str = "ecs-retirement-controller";
