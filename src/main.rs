//! The command line: `run` and `crd`.

use std::{collections::BTreeSet, process::ExitCode};

use clap::{Parser, Subcommand};
use ecs_retirement_controller::{
    api::TaskDefinitionRetirement,
    operator::{self, Options, telemetry},
};
use kube::CustomResourceExt;
use tracing::Level;

/// Retires the Amazon ECS task definition revisions that TaskDefinitionRetirement resources declare.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the controller, with KUBECONFIG or the pod's service account, and the AWS SDK's own environment.
    Run {
        /// Namespaces to watch, separated by commas; all where not given.
        #[arg(long, env = "WATCH_NAMESPACE", value_delimiter = ',', value_name = "NAMESPACES")]
        watch_namespace: Vec<String>,
        /// How many resources are worked on at once.
        #[arg(long, env = "MAX_CONCURRENT_RECONCILES", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
        max_concurrent_reconciles: u16,
        /// The least important log lines to write: error, warn, info, debug or trace. RUST_LOG refines it.
        #[arg(long, env = "LOG_LEVEL", default_value_t = Level::INFO)]
        log_level: Level,
        /// How log lines are written.
        #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "text")]
        log_format: telemetry::Format,
    },
    /// Print the CustomResourceDefinitions as YAML.
    Crd,
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
        Command::Run { watch_namespace, max_concurrent_reconciles, log_level, log_format } => {
            telemetry::start(log_level, log_format);
            let namespaces: BTreeSet<String> =
                watch_namespace.into_iter().filter(|namespace| !namespace.is_empty()).collect();
            let options = Options { namespaces, concurrency: max_concurrent_reconciles };
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            Ok(runtime.block_on(operator::run(options))?)
        }
        Command::Crd => {
            print!("{}", serde_saphyr::to_string(&TaskDefinitionRetirement::crd())?);
            Ok(())
        }
    }
}
