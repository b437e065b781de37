//! The command line: `run` and `crd`.

#![expect(clippy::doc_markdown, reason = "--help shows the comments verbatim")]

use std::{collections::BTreeSet, process::ExitCode};

use clap::{Parser, Subcommand};
use ecs_retirement_controller::{
    CONTROLLER, api,
    aws::permit_queue::Pacing,
    runtime::{self, Election, Options, http_server::BindAddress, telemetry},
    task_definition::is_account,
};
use tracing::Level;

/// Retires the Amazon ECS task definition revisions that TaskDefinitionRetirement resources
/// declare.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the controller, with KUBECONFIG or the pod's service account, and the AWS SDK's
    /// environment variables.
    Run(Box<Flags>),
    /// Print the CustomResourceDefinitions as YAML.
    Crd,
}

/// The flags of the `run` command.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
#[derive(Debug, clap::Args)]
struct Flags {
    /// Comma-separated namespaces to watch. Default: all.
    #[arg(long, env = "WATCH_NAMESPACE", value_delimiter = ',', value_name = "NAMESPACES")]
    watch_namespace: Vec<String>,
    /// Serve EcsAccounts. Set it to false if the controller may not read EcsAccounts and
    /// namespaces: resources with accountRef are then AccountNotFound.
    #[arg(long, env = "ECS_ACCOUNTS", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    ecs_accounts: bool,
    /// Serve TaskDefinitionRetentionPolicies. Set it to false if the controller may not create,
    /// patch and delete TaskDefinitionRetirements.
    #[arg(long, env = "RETENTION_POLICIES", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    retention_policies: bool,
    /// Name of this controller: it serves the EcsAccounts with this spec.controllerName.
    #[arg(long, env = "CONTROLLER_NAME", default_value = CONTROLLER, value_name = "NAME")]
    controller_name: String,
    /// Use the controller's own (ambient) credentials for resources without accountRef. Set it to
    /// false to require an EcsAccount: resources without one are then AccountNotFound.
    #[arg(long, env = "AMBIENT_CREDENTIALS", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    ambient_credentials: bool,
    /// Comma-separated AWS account IDs of 12 digits that the controller's credentials may belong
    /// to. Default: all. With credentials of another account, ECS is not called and every row is
    /// WrongAccount.
    #[arg(long, env = "ALLOWED_ACCOUNT_IDS", value_delimiter = ',', value_parser = account_id, value_name = "ACCOUNT_IDS")]
    allowed_account_ids: Vec<String>,
    /// Maximum number of concurrent reconciles.
    #[arg(long, env = "MAX_CONCURRENT_RECONCILES", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    max_concurrent_reconciles: u16,
    /// Sustained rate limit for deregistrations in each account and region, per second. ECS allows
    /// one per second in total, deployments included.
    #[arg(long, env = "DEREGISTRATIONS_PER_SECOND", default_value_t = 0.5, value_parser = per_second, value_name = "RATE")]
    deregistrations_per_second: f64,
    /// Maximum number of deregistrations at once after a pause, in each account and region.
    #[arg(long, env = "DEREGISTRATION_BURST", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..), value_name = "NUMBER")]
    deregistration_burst: u32,
    /// Elect a leader among the replicas with a Lease, so that only one acts. Set it to false if
    /// there is only one replica.
    #[arg(long, env = "LEADER_ELECT", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    leader_elect: bool,
    /// Namespace of the Lease. Default: the namespace of the pod or of the kubeconfig.
    #[arg(long, env = "LEADER_ELECTION_NAMESPACE", value_name = "NAMESPACE")]
    leader_election_namespace: Option<String>,
    /// Name of the Lease. Each installation in a namespace needs its own.
    #[arg(long, env = "LEADER_ELECTION_ID", default_value = CONTROLLER, value_name = "NAME")]
    leader_election_id: String,
    /// Address for /metrics: :PORT, IP:PORT, or 0 to turn it off.
    #[arg(long, env = "METRICS_BIND_ADDRESS", default_value = ":8080", value_name = "ADDRESS")]
    metrics_bind_address: BindAddress,
    /// Address for /healthz and /readyz: :PORT, IP:PORT, or 0 to turn it off.
    #[arg(long, env = "HEALTH_PROBE_BIND_ADDRESS", default_value = ":8081", value_name = "ADDRESS")]
    health_probe_bind_address: BindAddress,
    /// Log level: error, warn, info, debug or trace. RUST_LOG refines it.
    #[arg(long, env = "LOG_LEVEL", default_value_t = Level::INFO)]
    log_level: Level,
    /// Log format.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "text")]
    log_format: telemetry::Format,
}

/// Number of worker threads. The controller mostly waits; one thread for each core would only use
/// memory.
const THREADS: usize = 2;

/// Minimum of `--deregistrations-per-second`: about one every 17 minutes. To stop deregistrations,
/// set `spec.suspend`.
const LOWEST_RATE: f64 = 0.001;

fn per_second(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= LOWEST_RATE);
    rate.ok_or_else(|| {
        format!("invalid rate {text:?}: expected a number of at least {LOWEST_RATE}, such as 0.5")
    })
}

fn account_id(text: &str) -> Result<String, String> {
    let expected = "expected the 12 digits of an AWS account, such as 012345678910";
    if is_account(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("invalid account ID {text:?}: {expected}"))
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Box<dyn std::error::Error>> {
    match command {
        Command::Run(flags) => {
            telemetry::start(flags.log_level, flags.log_format)
                .map_err(|error| format!("RUST_LOG must be like `info` or `info,kube=debug`: {error}"))?;
            let namespaces: BTreeSet<String> =
                flags.watch_namespace.into_iter().filter(|namespace| !namespace.is_empty()).collect();
            let election = flags.leader_elect.then_some(Election {
                namespace: flags.leader_election_namespace,
                id: flags.leader_election_id,
            });
            let options = Options {
                namespaces,
                controller_name: flags.ecs_accounts.then_some(flags.controller_name),
                serves_policies: flags.retention_policies,
                allows_ambient: flags.ambient_credentials,
                allowed_accounts: flags.allowed_account_ids.into_iter().collect(),
                concurrency: flags.max_concurrent_reconciles,
                pacing: Pacing {
                    per_second: flags.deregistrations_per_second,
                    burst: flags.deregistration_burst,
                },
                election,
                metrics: flags.metrics_bind_address,
                health_probes: flags.health_probe_bind_address,
            };
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
            let result = runtime.block_on(runtime::run(options));
            // A DNS lookup that gets no response would otherwise keep the process alive.
            runtime.shutdown_background();
            Ok(result?)
        }
        Command::Crd => {
            for (index, crd) in api::crd::all().iter().enumerate() {
                print!("{}{}", if index == 0 { "" } else { "---\n" }, serde_saphyr::to_string(crd)?);
            }
            Ok(())
        }
    }
}
