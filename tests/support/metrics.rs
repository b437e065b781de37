//! Reads metrics with a parser that is independent of the exporter.

use prometheus_parse::{Sample, Scrape, Value};

use super::page;

/// Scrapes the metrics at `HOST:PORT/metrics`.
pub async fn scrape(url: &str) -> Scrape {
    let (status, text) = page(url).await.expect("metrics are served");
    assert_eq!(status, 200);
    Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).expect("Prometheus can read it")
}

/// Returns the sum of the samples of a metric that have these labels.
pub fn value(scrape: &Scrape, name: &str, labels: &[(&str, &str)]) -> f64 {
    let matches = |sample: &&Sample| {
        sample.metric == name && labels.iter().all(|(key, value)| sample.labels.get(key) == Some(value))
    };
    let sum = scrape.samples.iter().filter(matches).map(|sample| match sample.value {
        Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => value,
        _ => panic!("{name} is not a number"),
    });
    sum.sum()
}
