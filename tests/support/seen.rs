//! A resource as users see it, and the verdicts of their tools.

use std::fmt;

use kube::{ResourceExt, api::DynamicObject};
use mlua::{Lua, LuaOptions, LuaSerdeExt, StdLib, Table};
use serde::Deserialize;
use serde_json::Value;
use testkit::kstatus;

/// The health check for Argo CD.
pub const HEALTH_CHECK: &str = include_str!("../../config/argocd/health.lua");

/// A resource as it was read.
pub struct Seen(pub DynamicObject);

/// What kstatus concludes about an object: Flux waits for it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub enum Verdict {
    Current,
    InProgress,
    Failed,
    Terminating,
}

impl Seen {
    pub fn status(&self) -> &Value {
        &self.0.data["status"]
    }

    pub fn text(&self, field: &str) -> &str {
        self.status()[field].as_str().unwrap_or_default()
    }

    pub fn number(&self, field: &str) -> i64 {
        self.status()[field].as_i64().unwrap_or(-1)
    }

    pub fn version(&self) -> String {
        self.0.resource_version().unwrap_or_default()
    }

    /// Returns the row of a revision; null if there is none.
    pub fn row(&self, revision: &str) -> &Value {
        let rows = self.status()["revisions"].as_array();
        rows.into_iter().flatten().find(|row| row["revision"] == revision).unwrap_or(&Value::Null)
    }

    pub fn reason(&self, revision: &str) -> &str {
        self.row(revision)["reason"].as_str().unwrap_or_default()
    }

    /// Returns the reasons of all rows.
    pub fn reasons(&self) -> Vec<&str> {
        let rows = self.status()["revisions"].as_array();
        rows.into_iter().flatten().filter_map(|row| row["reason"].as_str()).collect()
    }

    pub fn message(&self, revision: &str) -> &str {
        self.row(revision)["message"].as_str().unwrap_or_default()
    }

    pub fn condition(&self, type_: &str) -> Option<&Value> {
        self.status()["conditions"].as_array()?.iter().find(|condition| condition["type"] == type_)
    }

    /// Returns the status of the condition Ready; empty if it is absent.
    pub fn ready(&self) -> &str {
        self.condition("Ready").and_then(|ready| ready["status"].as_str()).unwrap_or_default()
    }

    pub fn ready_reason(&self) -> &str {
        self.condition("Ready").and_then(|ready| ready["reason"].as_str()).unwrap_or_default()
    }

    pub fn ready_message(&self) -> &str {
        self.condition("Ready").and_then(|ready| ready["message"].as_str()).unwrap_or_default()
    }

    /// Returns true if the status describes the current spec.
    pub fn is_current(&self) -> bool {
        self.status()["observedGeneration"].as_i64() == self.0.metadata.generation
    }

    /// Returns what kstatus concludes.
    ///
    /// # Panics
    /// Panics if kstatus is not installed, or concludes something else than the variants of
    /// [`Verdict`].
    pub fn verdict(&self) -> Verdict {
        let status = kstatus::status(&self.0).expect("kstatus computes the status of each object");
        serde_json::from_value(status.into()).expect("a status that an existing object can have")
    }

    /// Returns the health that Argo CD concludes. Its Lua is 5.1, with only this part of the
    /// standard library.
    /// Source: `runLua` in argoproj/argo-cd, `util/lua/lua.go`.
    pub fn health(&self) -> String {
        let lua = Lua::new_with(StdLib::TABLE, LuaOptions::default()).expect("an interpreter");
        let object = lua.to_value(&self.0).expect("JSON has a form in Lua");
        lua.globals().set("obj", object).expect("a global");
        let health: Table = lua.load(HEALTH_CHECK).eval().expect("the check returns a table");
        let message: String = health.get("message").expect("a message");
        let shows_ready = message == format!("{}: {}", self.ready_reason(), self.ready_message());
        assert_eq!(shows_ready, self.is_current() && !self.ready().is_empty(), "{message}");
        health.get("status").expect("a status")
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0.data)
    }
}
