//! The log: text or JSON, on standard error.

use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, Layer, filter::FilterFn, layer::SubscriberExt, util::SubscriberInitExt};

/// How log lines are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// Starts the log at `level`; `RUST_LOG` refines it.
pub fn start(level: Level, format: Format) {
    let filter = EnvFilter::builder().with_default_directive(level.into()).from_env_lossy();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Text => lines.with_ansi(false).boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    let registry = tracing_subscriber::registry().with(lines.with_filter(filter));
    registry.with(FilterFn::new(is_safe)).init();
}

/// The SDK and the HTTP stack print whole answers below `info`, and a task definition's environment may hold secrets.
fn is_safe(metadata: &Metadata<'_>) -> bool {
    let prints_bodies = ["aws_", "hyper", "h2", "rustls"].iter().any(|it| metadata.target().starts_with(it));
    !prints_bodies || *metadata.level() <= Level::INFO
}
