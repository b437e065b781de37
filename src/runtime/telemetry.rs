//! The log: text or JSON, on standard error.

use std::env;

use tracing::{Level, Metadata, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer,
    filter::{FilterFn, ParseError, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// How log lines are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// Starts the log at `level`; `RUST_LOG` refines it, by targets and their levels as in `info,kube=debug`.
///
/// # Errors
/// Where `RUST_LOG` is not that.
pub fn start(level: Level, format: Format) -> Result<(), ParseError> {
    let refined = match env::var("RUST_LOG") {
        Ok(refined) if !refined.trim().is_empty() => refined.parse()?,
        _ => Targets::new(),
    };
    let default = refined.default_level().unwrap_or(LevelFilter::from_level(level));
    let filter = refined.with_default(default);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Text => lines.with_ansi(false).boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    let registry = tracing_subscriber::registry().with(lines.with_filter(filter));
    registry.with(FilterFn::new(is_safe)).init();
    Ok(())
}

/// The parts of the SDK that load credentials. They warn on every attempt; `aws::credentials` logs when the cause
/// changes.
const REPEATED: [&str; 4] = [
    "aws_config::imds",
    "aws_config::meta::credentials",
    "aws_config::profile::credentials",
    "aws_config::web_identity_token",
];

/// The SDK and the HTTP stack print whole answers below `info`, and a task definition's environment may hold secrets.
fn is_safe(metadata: &Metadata<'_>) -> bool {
    if REPEATED.iter().any(|it| metadata.target().starts_with(it)) {
        return *metadata.level() <= Level::ERROR;
    }
    let prints_bodies = ["aws_", "hyper", "h2", "rustls"].iter().any(|it| metadata.target().starts_with(it));
    !prints_bodies || *metadata.level() <= Level::INFO
}
