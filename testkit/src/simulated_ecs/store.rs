//! The task definitions of one account and region, in the order in which ECS lists them. No I/O.

use super::caller::Caller;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

/// The lifecycle of a revision. Transitions go forward only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Registered and usable.
    Active,
    /// Deregistered.
    Inactive,
    /// Deletion was requested.
    DeleteInProgress,
}

impl Status {
    /// Returns the name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Inactive => "INACTIVE",
            Self::DeleteInProgress => "DELETE_IN_PROGRESS",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Active, Self::Inactive, Self::DeleteInProgress]
            .into_iter()
            .find(|status| status.name() == name)
    }
}

/// A family and a revision number.
pub(super) type Key = (String, i32);

/// One revision. Revisions of one registration share their definition, to save memory.
pub(super) struct Revision {
    pub(super) status: Status,
    pub(super) registered_at: Timestamp,
    pub(super) deregistered_at: Option<Timestamp>,
    pub(super) delete_requested_at: Option<Timestamp>,
    pub(super) definition: Arc<Definition>,
}

/// The content of a registration without the family name.
pub(super) struct Definition {
    pub(super) fields: Map<String, Value>,
    pub(super) tags: Value,
    pub(super) registered_by: String,
}

/// Parameters of a list call.
pub(super) struct Listing {
    pub(super) family: Option<String>,
    pub(super) status: Status,
    pub(super) descending: bool,
    pub(super) after: Option<Key>,
    pub(super) limit: usize,
}

/// All revisions, and the last number of each family.
#[derive(Default)]
pub(super) struct TaskDefinitions {
    revisions: BTreeMap<Key, Revision>,
    last_numbers: HashMap<String, i32>,
}

impl TaskDefinitions {
    /// Adds a revision and returns its number, which is never reused, even after a removal.
    pub(super) fn add(&mut self, family: &str, definition: Arc<Definition>, now: Timestamp) -> i32 {
        let last = self.last_numbers.entry(family.to_owned()).or_insert(0);
        *last += 1;
        let revision = Revision {
            status: Status::Active,
            registered_at: now,
            deregistered_at: None,
            delete_requested_at: None,
            definition,
        };
        self.revisions.insert((family.to_owned(), *last), revision);
        *last
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Revision> {
        self.revisions.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut Revision> {
        self.revisions.get_mut(key)
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Revision> {
        self.revisions.remove(key)
    }

    pub(super) fn latest_active(&self, family: &str) -> Option<(&Key, &Revision)> {
        self.revisions
            .range(whole_family(family))
            .rev()
            .find(|(_, revision)| revision.status == Status::Active)
    }

    /// Returns one page, and its last key if there are more revisions.
    pub(super) fn page(&self, listing: &Listing) -> (Vec<&Key>, Option<&Key>) {
        let (start, end) = match &listing.family {
            Some(family) => whole_family(family),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        let range = self.revisions.range(match (&listing.after, listing.descending) {
            (None, _) => (start, end),
            (Some(after), false) => (Bound::Excluded(after.clone()), end),
            (Some(after), true) => (start, Bound::Excluded(after.clone())),
        });
        let ordered: Box<dyn Iterator<Item = _>> =
            if listing.descending { Box::new(range.rev()) } else { Box::new(range) };
        let mut matching =
            ordered.filter(|(_, revision)| revision.status == listing.status).map(|(key, _)| key);
        let page: Vec<&Key> = matching.by_ref().take(listing.limit).collect();
        let last = matching.next().and_then(|_| page.last().copied());
        (page, last)
    }
}

fn whole_family(family: &str) -> (Bound<Key>, Bound<Key>) {
    (Bound::Included((family.to_owned(), 0)), Bound::Included((family.to_owned(), i32::MAX)))
}

impl Revision {
    /// Sets the status, and the times that ECS records with it.
    pub(super) fn set_status(&mut self, status: Status, now: Timestamp) {
        self.status = status;
        (self.deregistered_at, self.delete_requested_at) = match status {
            Status::Active => (None, None),
            Status::Inactive => (self.deregistered_at.or(Some(now)), None),
            Status::DeleteInProgress => {
                (self.deregistered_at.or(Some(now)), self.delete_requested_at.or(Some(now)))
            }
        };
    }

    /// Returns the full description, as `DescribeTaskDefinition` does.
    pub(super) fn describe(&self, (family, revision): &Key, caller: &Caller) -> Value {
        let mut description = self.definition.fields.clone();
        let facts = [
            ("taskDefinitionArn", json!(caller.task_definition_arn(family, *revision))),
            ("family", json!(family)),
            ("revision", json!(revision)),
            ("status", json!(self.status.name())),
            ("registeredBy", json!(self.definition.registered_by)),
        ];
        let times = [
            ("registeredAt", Some(self.registered_at)),
            ("deregisteredAt", self.deregistered_at),
            ("deleteRequestedAt", self.delete_requested_at),
        ];
        let times = times.into_iter().filter_map(|(name, time)| Some((name, epoch_seconds(time?))));
        description.extend(facts.into_iter().chain(times).map(|(name, value)| (name.to_owned(), value)));
        Value::Object(description)
    }
}

/// Formats a time as ECS does: seconds since 1970, to the millisecond.
pub(super) fn epoch_seconds(time: Timestamp) -> Value {
    let milliseconds = jiff::SignedDuration::from_millis(time.as_millisecond());
    json!(milliseconds.as_secs_f64())
}
