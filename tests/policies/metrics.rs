//! The metrics of a policy.

use kube::api::DeleteParams;
use prometheus_parse::Scrape;
use serde_json::json;
use testkit::{process::free_port, simulated_ecs::Fault};
use tokio::time::{Instant, sleep};

use super::*;
use crate::support::metrics::{scrape, value};

/// The policies of a world, and the address of the metrics of its controller.
struct Measured {
    policies: Policies,
    metrics: String,
}

impl Measured {
    /// Waits until the metrics of the policy `web` have these values.
    async fn wait(&self, expected: impl Fn(&dyn Fn(&str, &str) -> f64) -> bool) {
        let (began, namespace) = (Instant::now(), self.policies.world.namespace.name());
        let of_policy = |scrape: &Scrape, metric: &str, state: &str| {
            let mut labels = vec![("namespace", namespace), ("name", "web")];
            labels.extend((!state.is_empty()).then_some(("state", state)));
            value(scrape, &format!("ecs_retirement_policy_{metric}"), &labels)
        };
        loop {
            let scrape = scrape(&self.metrics).await;
            if expected(&|metric, state| of_policy(&scrape, metric, state)) {
                return;
            }
            let of_policies =
                scrape.samples.iter().filter(|it| it.metric.starts_with("ecs_retirement_policy_"));
            assert!(began.elapsed() < DEADLINE, "{:#?}", of_policies.collect::<Vec<_>>());
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the policy has so many proposed, approved and retired revisions.
    #[expect(clippy::float_cmp, reason = "whole numbers")]
    async fn wait_for_revisions(&self, expected: [f64; 3]) {
        self.wait(|of| ["Proposed", "Approved", "Retired"].map(|state| of("revisions", state)) == expected)
            .await;
    }
}

#[tokio::test]
#[expect(clippy::float_cmp, reason = "whole numbers")]
async fn policy_metrics_count_what_is_proposed_approved_and_retired() {
    let policies = Policies::new().await;
    policies.world.west.register_many("web", 10);
    policies.apply("web", &["web"], 4, json!({})).await;
    let address = format!("127.0.0.1:{}", free_port().expect("a port"));
    let _controller = policies.world.start_with(&[("METRICS_BIND_ADDRESS", &address)]);
    let measured = Measured { policies, metrics: format!("{address}/metrics") };
    let policies = &measured.policies;
    policies.wait("web", "AwaitingApproval").await;
    measured.wait_for_revisions([6.0, 0.0, 0.0]).await;
    let of_run = ["families", "retirable_revisions", "in_use_revisions", "pending_approvals", "ready"];
    measured.wait(|of| of_run.map(|metric| of(metric, "")) == [1.0, 6.0, 0.0, 1.0, 1.0]).await;

    policies.world.ecs.fault(Fault::on(Action::DeregisterTaskDefinition).revision("web:1").server_error());
    policies.approve().await;
    measured.wait_for_revisions([0.0, 1.0, 5.0]).await;
    policies.world.ecs.clear_faults();
    let name = policies.retirements().await[0].metadata.name.clone().unwrap_or_default();
    policies.world.wait_ready(&name).await;
    // The record of a finished retirement counts, too.
    let is_record = |seen: &Seen| seen.0.owner_references().is_empty();
    policies.world.wait(&name, "record without an owner", is_record).await;
    measured.wait_for_revisions([0.0, 0.0, 6.0]).await;

    policies.api().delete("web", &DeleteParams::default()).await.expect("the policy is deleted");
    measured.wait_for_revisions([0.0, 0.0, 0.0]).await;
}
