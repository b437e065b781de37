//! The task definitions of one account and region, in the order in which ECS lists them. No I/O.

use super::caller::Caller;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
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

/// All families by name, including those of which all revisions were removed.
#[derive(Default)]
pub(super) struct TaskDefinitions(BTreeMap<String, Family>);

/// The revisions of a family by number, and an index of the numbers by status. With the index, the
/// cost of a page does not depend on the size of the family.
#[derive(Default)]
struct Family {
    revisions: BTreeMap<i32, Revision>,
    numbers: [BTreeSet<i32>; 3],
    last_number: i32,
}

impl TaskDefinitions {
    /// Adds a revision and returns its number, which is never reused, even after a removal.
    pub(super) fn add(&mut self, family: &str, definition: Arc<Definition>, now: Timestamp) -> i32 {
        let family = self.0.entry(family.to_owned()).or_default();
        family.last_number += 1;
        let revision = Revision {
            status: Status::Active,
            registered_at: now,
            deregistered_at: None,
            delete_requested_at: None,
            definition,
        };
        family.numbers[Status::Active as usize].insert(family.last_number);
        family.revisions.insert(family.last_number, revision);
        family.last_number
    }

    pub(super) fn get(&self, (family, number): &Key) -> Option<&Revision> {
        self.0.get(family)?.revisions.get(number)
    }

    /// Sets the status of a revision, and returns the revision if it exists.
    pub(super) fn set_status(
        &mut self,
        (family, number): &Key,
        status: Status,
        now: Timestamp,
    ) -> Option<&Revision> {
        let family = self.0.get_mut(family)?;
        let revision = family.revisions.get_mut(number)?;
        family.numbers[revision.status as usize].remove(number);
        family.numbers[status as usize].insert(*number);
        revision.set_status(status, now);
        Some(revision)
    }

    pub(super) fn remove(&mut self, (family, number): &Key) -> Option<Revision> {
        let family = self.0.get_mut(family)?;
        let removed = family.revisions.remove(number)?;
        family.numbers[removed.status as usize].remove(number);
        Some(removed)
    }

    /// Returns the number of the latest ACTIVE revision of a family.
    pub(super) fn latest_active(&self, family: &str) -> Option<i32> {
        self.0.get(family)?.numbers_of(Status::Active).last().copied()
    }

    /// Returns the last revision of a family that was not removed, whatever its status.
    pub(super) fn latest(&self, family: &str) -> Option<&Revision> {
        self.0.get(family)?.revisions.values().next_back()
    }

    /// Returns the names of the families with revisions, and whether one of these is ACTIVE.
    pub(super) fn families(&self) -> impl Iterator<Item = (&str, bool)> {
        let existing = self.0.iter().filter(|(_, family)| !family.revisions.is_empty());
        existing.map(|(name, family)| (name.as_str(), !family.numbers_of(Status::Active).is_empty()))
    }

    /// Returns one page, and its last key if there are more revisions.
    pub(super) fn page(&self, listing: &Listing) -> (Vec<Key>, Option<Key>) {
        let families: Box<dyn Iterator<Item = _>> = match (&listing.family, &listing.after) {
            (Some(name), _) => Box::new(self.0.get_key_value(name).into_iter()),
            (None, None) => Box::new(in_order(self.0.iter(), listing.descending)),
            (None, Some((name, _))) if listing.descending => Box::new(self.0.range(..=name.clone()).rev()),
            (None, Some((name, _))) => Box::new(self.0.range(name.clone()..)),
        };
        let mut keys = families.flat_map(|(name, family)| {
            let after = listing.after.as_ref().filter(|(after, _)| after == name).map(|(_, number)| *number);
            let bounds = match after {
                None => (Bound::Unbounded, Bound::Unbounded),
                Some(number) if listing.descending => (Bound::Unbounded, Bound::Excluded(number)),
                Some(number) => (Bound::Excluded(number), Bound::Unbounded),
            };
            let numbers = family.numbers_of(listing.status).range(bounds);
            in_order(numbers, listing.descending).map(|number| (name.clone(), *number))
        });
        let page: Vec<Key> = keys.by_ref().take(listing.limit).collect();
        let last = keys.next().and_then(|_| page.last().cloned());
        (page, last)
    }
}

impl Family {
    fn numbers_of(&self, status: Status) -> &BTreeSet<i32> {
        &self.numbers[status as usize]
    }
}

fn in_order<'a, T: 'a>(
    items: impl DoubleEndedIterator<Item = T> + 'a,
    descending: bool,
) -> Box<dyn Iterator<Item = T> + 'a> {
    if descending { Box::new(items.rev()) } else { Box::new(items) }
}

impl Revision {
    /// Sets the status, and the times that ECS records with it.
    fn set_status(&mut self, status: Status, now: Timestamp) {
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
