//! The size of the release binary.

use std::fs;

use crate::{
    report::Row,
    world::{Bench, Failure},
};

pub fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let bytes = u32::try_from(fs::metadata(&bench.binary)?.len())?;
    let megabytes = f64::from(bytes) / 1e6;
    Ok(vec![Row::with_goal(
        "binary, stripped",
        "under 14 MB",
        format!("{megabytes:.1} MB"),
        megabytes < 14.0,
    )])
}
