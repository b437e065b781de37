//! Formats the measurements as the tables of `docs/benchmarks.md`.

use std::{fmt::Write, fs, io, path::Path};

use crate::{controller::Memory, world::Failure};

/// The lines before and after the tables in the document; the rest is written by hand.
const BEGIN: &str = "<!-- begin: written by `make bench` -->\n";
const END: &str = "<!-- end -->\n";

/// One measurement and its goal.
pub struct Row {
    what: String,
    goal: String,
    measured: String,
    verdict: &'static str,
}

impl Row {
    pub fn with_goal(what: &str, goal: &str, measured: String, is_met: bool) -> Self {
        let verdict = if is_met { "met" } else { "missed" };
        Self { what: what.to_owned(), goal: goal.to_owned(), measured, verdict }
    }

    pub fn without_goal(what: &str, measured: String) -> Self {
        Self { what: what.to_owned(), goal: "–".to_owned(), measured, verdict: "–" }
    }

    pub fn not_measured(what: &str, error: &dyn std::fmt::Display) -> Self {
        let measured = error.to_string().lines().next().unwrap_or_default().to_owned();
        Self { what: what.to_owned(), goal: "–".to_owned(), measured, verdict: "not measured" }
    }
}

/// One way to retire a thousand revisions, alone on the bucket and beside a deploy.
pub struct Peer {
    pub name: String,
    pub alone: String,
    pub beside: String,
}

/// Formats seconds on the clock of the bucket.
pub fn seconds(seconds: f64) -> String {
    format!("{seconds:.0} s")
}

/// Formats the resident memory.
pub fn megabytes(memory: Memory) -> String {
    format!("{:.1} MB, peak {:.1} MB", memory.now, memory.peak)
}

/// All measurements.
#[derive(Default)]
pub struct Report {
    pub machine: String,
    pub rows: Vec<Row>,
    pub peers: Vec<Peer>,
    pub notes: String,
}

impl Report {
    /// Adds the rows of one measurement, or a row that names `what` failed.
    pub fn add(&mut self, what: &str, outcome: Result<Vec<Row>, Failure>) {
        self.rows.extend(outcome.unwrap_or_else(|error| vec![Row::not_measured(what, &error)]));
    }

    pub fn markdown(&self) -> String {
        let mut text = format!("{}\n\n| what | goal | measured | |\n|---|---|---|---|\n", self.machine);
        for Row { what, goal, measured, verdict } in &self.rows {
            writeln!(text, "| {what} | {goal} | {measured} | {verdict} |").ok();
        }
        if !self.peers.is_empty() {
            text.push_str(
                "\n| 1,000 retirements | alone | beside a deploy at half the rate |\n|---|---|---|\n",
            );
        }
        for Peer { name, alone, beside } in &self.peers {
            writeln!(text, "| {name} | {alone} | {beside} |").ok();
        }
        writeln!(text, "\n{}", self.notes).ok();
        text
    }

    /// Replaces the tables in the document.
    pub fn write(&self, document: &Path) -> io::Result<()> {
        let text = fs::read_to_string(document)?;
        let parts = text.split_once(BEGIN).and_then(|(before, rest)| {
            let (_, after) = rest.split_once(END)?;
            Some((before, after))
        });
        let (before, after) =
            parts.ok_or_else(|| io::Error::other(format!("no line {BEGIN:?} and {END:?}")))?;
        fs::write(document, format!("{before}{BEGIN}\n{}\n{END}{after}", self.markdown()))
    }
}
