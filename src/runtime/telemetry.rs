//! Logging: text or JSON, to standard error.

use std::env;

use tracing::{Level, Metadata, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer,
    filter::{FilterFn, ParseError, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// The log format.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// Starts logging at `level`. `RUST_LOG` refines it with levels for targets, such as
/// `info,kube=debug`.
///
/// # Errors
/// Returns `ParseError` if `RUST_LOG` has another form.
pub fn start(level: Level, format: Format) -> Result<(), ParseError> {
    let refined = match env::var("RUST_LOG") {
        Ok(refined) if !refined.trim().is_empty() => refined.parse()?,
        // Its span for each reconcile repeats that of `controller`.
        _ => Targets::new().with_target("kube_runtime", LevelFilter::WARN),
    };
    let default = refined.default_level().unwrap_or(LevelFilter::from_level(level));
    let filter = refined.with_default(default);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match format {
        Format::Text => layer.with_ansi(false).boxed(),
        Format::Json => layer.json().flatten_event(true).boxed(),
    };
    let registry = tracing_subscriber::registry().with(layer.with_filter(filter));
    registry.with(FilterFn::new(is_safe)).init();
    Ok(())
}

/// The SDK modules that load credentials. They warn on every attempt; `aws::credentials` logs only
/// when the cause changes.
const REPEATED: [&str; 4] = [
    "aws_config::imds",
    "aws_config::meta::credentials",
    "aws_config::profile::credentials",
    "aws_config::web_identity_token",
];

/// Returns true if a log event cannot contain a response body. Below `info`, the SDK and the HTTP
/// stack log whole responses, and the environment of a task definition may contain secrets.
fn is_safe(metadata: &Metadata<'_>) -> bool {
    if REPEATED.iter().any(|it| metadata.target().starts_with(it)) {
        return *metadata.level() <= Level::ERROR;
    }
    let logs_bodies = ["aws_", "hyper", "h2", "rustls"].iter().any(|it| metadata.target().starts_with(it));
    !logs_bodies || *metadata.level() <= Level::INFO
}
