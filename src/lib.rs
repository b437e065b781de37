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
//! - watch: `runtime/resource_watch.rs` returns the watch events, `runtime/changes.rs` selects the
//!   resources that need a reconcile, `runtime/controllers.rs` runs the reconciles.
//! - validate*: `retirement/guarded.rs` for resources that do not parse, `retirement/resolve.rs`
//!   for the spec.
//! - resolve*: `retirement/resolve.rs` resolves entries to ARNs, `retirement/account_guard.rs`
//!   checks the account.
//! - observe: `retirement/observe.rs` describes revisions with `aws/ecs_client.rs`, and reads their
//!   usage from `aws/usage_cache.rs`.
//! - plan*: `retirement/plan.rs` decides the next step for one revision.
//! - apply: `retirement/apply.rs` processes a batch. For each revision it observes, plans, and
//!   deregisters.
//! - summarize*: `retirement/status.rs` assembles the status: rows from `row.rs`, conditions from
//!   `summary.rs`.
//! - patch: `retirement/status_writer.rs` writes the status and publishes events.
//! - requeue*: `retirement/requeue.rs` returns the requeue delay, `runtime/controllers.rs`
//!   schedules it.
//!
//! `DeregisterTaskDefinition` cannot be undone. The call takes a
//! [`retirement::plan::Deregistration`], which only [`retirement::plan::plan`] creates. Right
//! before the call, `apply.rs` reads the resource again, uncached, and checks that this process is
//! still active.
//!
//! # Modules
//!
//! - `main.rs`: the command line (`run`, `crd`).
//! - [`task_definition`]: strict parser for `family:revision` and ARNs.
//! - [`in_flight`]: registry of API calls in flight, for the liveness probe; timeout of Kubernetes
//!   calls.
//! - [`clock`]: the wall clock as an injected dependency.
//! - [`shutdown`]: the shutdown request, and the irreversible calls that delay it.
//!
//! [`api`], the Kubernetes API, data only:
//!
//! - `task_definition_retirement`: the kind: spec, status and rows.
//! - `reason`: the reasons of a row, and the properties of each.
//! - `conditions`: the condition types.
//! - `usage_scan`: the usage scan that a status is based on.
//! - `schema`: validation rules of the CRD.
//!
//! [`retirement`], the reconciler:
//!
//! - `reconcile`: reconciles one resource; the order of all steps.
//! - `guarded`: a resource, or only its metadata if it does not parse.
//! - `account_guard`: which AWS account a resource may be processed in.
//! - `resolve`: validates the spec and resolves entries to ARNs.
//! - `observe`: `DescribeTaskDefinition`, deleted revisions, and usage from the cache.
//! - `plan`: decides what to do about one revision.
//! - `apply`: processes one batch and makes the irreversible call.
//! - `revision_locks`: one lock for each ARN, so that two resources do not deregister it twice.
//! - `cool_down`: whether `unusedSince` still counts.
//! - `row`: the new row of one revision.
//! - `summary`: counts and conditions from the rows.
//! - `size`: keeps a status below the size limit of etcd.
//! - `status`: assembles the status.
//! - `events`: which transitions become Kubernetes events.
//! - `pending_status`: ECS responses that no status holds yet because a write failed.
//! - `status_writer`: writes the status if it differs, and publishes events.
//! - `requeue`: which resources are due, which rows form a batch, and the requeue delay.
//!
//! [`aws`], the only module that uses the AWS SDK:
//!
//! - `session`: one session for each region: identity, ECS client, rate limiters and usage cache.
//! - `credentials`, `credentials_error`: the credentials chain, and why credentials cannot be
//!   loaded.
//! - `identity`: partition and account of the credentials (`GetCallerIdentity`).
//! - `backoff`: how long a failed identity call is cached.
//! - `http_client`: trust roots and proxies of the SDK.
//! - `ecs_client`: calls to ECS, without retries.
//! - `response`: responses of ECS as data.
//! - `error`, `outage`: the table of AWS error codes, and why a call got no response.
//! - `response_clock`: the time by AWS's clock.
//! - `circuit_breaker`: stops calls to a region that does not respond.
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
//! - `kubernetes`: the Kubernetes client, its proxies and timeouts.
//! - `leader_election`: leader election with a Lease.
//! - `controllers`: one controller for each namespace; runs and schedules reconciles.
//! - `resource_watch`: the watch, and its recovery after an etcd restore.
//! - `changes`: applies watch events to the cache.
//! - `workqueue`: mirrors the queue for metrics.
//! - `metrics`, `process`: all metrics; the process metrics.
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
//! - **usage cache**: the result of the last usage scan, shared by all resources of an account and
//!   region.
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
//!    `retirement/requeue.rs`, called from `runtime/changes.rs`.
//! 3. All workers are busy, or the requeue delay has not elapsed: `runtime/controllers.rs`,
//!    `requeue_delay` in `retirement/requeue.rs`.
//! 4. AWS does not respond in the region, or as many reconciles as allowed call AWS:
//!    `aws/circuit_breaker.rs`, and the checks at the end of `retirement/reconcile.rs`.
//! 5. The resource does not parse or its spec is invalid: `retirement/guarded.rs`,
//!    `retirement/resolve.rs`.
//! 6. The AWS identity is unknown: `identity` in `aws/session.rs`, `aws/credentials.rs`.
//! 7. The entry belongs to another account or region: `retirement/account_guard.rs`,
//!    `retirement/resolve.rs`.
//! 8. The usage cache shows that the revision is in use, cooling down, or of unknown usage:
//!    `retirement/observe.rs`, `must_wait` in `retirement/plan.rs`, `retirement/cool_down.rs`.
//! 9. Its row is final, or the batch is full: `is_final` in `api/reason.rs`, `is_due_for_ecs` in
//!    `retirement/row.rs`, `select_batch` in `retirement/requeue.rs`.
//! 10. Another resource has locked the revision: `retirement/revision_locks.rs`.
//! 11. The first usage scan is pending, or failed: `aws/usage_cache.rs`, `aws/usage_scanner.rs`.
//! 12. It waits for a permit to describe or to deregister: `aws/rate_limiter.rs`,
//!     `aws/permit_queue.rs`.
//! 13. `plan` decides not to deregister: not ACTIVE, on hold, in use, or cooling down:
//!     `retirement/plan.rs`.
//! 14. The resource changed right before the call, or the usage scan is not recent enough for a
//!     deregistration: `retirement/apply.rs`, `aws/freshness.rs`.
//! 15. AWS throttles or rejects the call: `aws/error.rs`, and the backoff in
//!     `retirement/requeue.rs`.
//! 16. It is deregistered, but the status is not written yet: `retirement/pending_status.rs`,
//!     `retirement/status_writer.rs`.

pub mod api;
pub mod task_definition;
pub mod deregistration;
pub mod duration;
pub mod family_pattern;
pub mod text;

pub mod retirement;

pub mod account;

pub mod controller;

pub mod aws;

pub mod in_flight;
pub mod clock;
pub mod runtime;
pub mod shutdown;

/// The name of the controller: the field manager of its writes and the reporter of its events.
pub const CONTROLLER: &str = "ecs-retirement-controller";
