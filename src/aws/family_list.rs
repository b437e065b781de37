//! Lists of families and of their ACTIVE revisions.

use aws_sdk_ecs::types::{SortOrder, TaskDefinitionFamilyStatus, TaskDefinitionStatus};

use crate::{
    aws::{
        ecs_client::Ecs,
        identity::Identity,
        response::{Failure, FailureKind},
    },
    task_definition::Reference,
};

/// Maximum number of items in a page.
/// Source: `ListTaskDefinitions` and `ListTaskDefinitionFamilies` in the ECS API Reference.
const PAGE: i32 = 100;

/// The order of a list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    NewestFirst,
    OldestFirst,
}

/// One page of a list.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// The token of the next page; `None` if this is the last one.
    pub next: Option<String>,
}

impl Ecs {
    /// Calls `ListTaskDefinitions`, and returns the numbers of a page of the ACTIVE revisions of
    /// `family`. ECS sorts them by number.
    ///
    /// # Errors
    /// Returns the failure of the call.
    pub async fn list_active(
        &self,
        identity: &Identity,
        family: &str,
        order: Order,
        token: Option<String>,
    ) -> Result<Page<i32>, Failure> {
        let call = self.client.list_task_definitions().family_prefix(family).max_results(PAGE);
        let order = match order {
            Order::NewestFirst => SortOrder::Desc,
            Order::OldestFirst => SortOrder::Asc,
        };
        let call = call.status(TaskDefinitionStatus::Active).sort(order);
        let call = call.set_next_token(token.clone()).send();
        let page = self.call("ListTaskDefinitions", call).await.map_err(|error| error.failure)?;
        let numbers = page.task_definition_arns().iter().filter_map(|text| number(identity, family, text));
        Ok(Page { items: numbers.collect(), next: next_token(token.as_deref(), page.next_token())? })
    }

    /// Returns the numbers of the newest ACTIVE revisions of `family`, newest first: `count` of
    /// them, or all if there are fewer. `before_call` is awaited before each call.
    ///
    /// # Errors
    /// Returns the failure of a call.
    pub async fn newest_active<F: Future<Output = ()>>(
        &self,
        identity: &Identity,
        family: &str,
        count: usize,
        before_call: impl Fn() -> F,
    ) -> Result<Vec<i32>, Failure> {
        let (mut numbers, mut token) = (Vec::new(), None);
        loop {
            before_call().await;
            let page = self.list_active(identity, family, Order::NewestFirst, token).await?;
            numbers.extend(page.items);
            token = page.next;
            if numbers.len() >= count || token.is_none() {
                // Emulators ignore the order.
                numbers.sort_unstable_by(|a, b| b.cmp(a));
                numbers.dedup();
                numbers.truncate(count);
                return Ok(numbers);
            }
        }
    }

    /// Calls `ListTaskDefinitionFamilies`, and returns a page of the families with ACTIVE revisions
    /// whose names begin with `prefix`.
    ///
    /// # Errors
    /// Returns the failure of the call.
    pub async fn list_families(&self, prefix: &str, token: Option<String>) -> Result<Page<String>, Failure> {
        let prefix = Some(prefix.to_owned()).filter(|prefix| !prefix.is_empty());
        let call = self.client.list_task_definition_families().set_family_prefix(prefix);
        let call = call.status(TaskDefinitionFamilyStatus::Active).max_results(PAGE);
        let call = call.set_next_token(token.clone());
        let page =
            self.call("ListTaskDefinitionFamilies", call.send()).await.map_err(|error| error.failure)?;
        Ok(Page { items: page.families().to_vec(), next: next_token(token.as_deref(), page.next_token())? })
    }
}

/// Returns the token of the next page, or `None` after the last one.
///
/// # Errors
/// Returns a failure if the response repeats the token of the request: the list would never end.
fn next_token(requested: Option<&str>, returned: Option<&str>) -> Result<Option<String>, Failure> {
    let returned = returned.filter(|token| !token.is_empty());
    if returned.is_some() && returned == requested {
        let text = "the response of ECS repeats a pagination token";
        return Err(Failure::new(FailureKind::Unavailable, text));
    }
    Ok(returned.map(str::to_owned))
}

/// Returns the number of a listed revision of exactly this family, account and region. ECS lists
/// exactly one family; emulators also list families with the same prefix.
fn number(identity: &Identity, family: &str, listed: &str) -> Option<i32> {
    let Ok(Reference::Arn(arn)) = listed.parse() else { return None };
    let is_expected = *arn.partition() == *identity.partition
        && *arn.account() == *identity.account
        && *arn.region() == *identity.region
        && arn.revision().family() == family;
    is_expected.then(|| arn.revision().number())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_ends_without_a_token_and_fails_if_a_token_repeats() {
        assert_eq!(next_token(None, Some("a")), Ok(Some("a".to_owned())));
        assert_eq!(next_token(Some("a"), Some("b")), Ok(Some("b".to_owned())));
        for end in [None, Some("")] {
            assert_eq!(next_token(Some("a"), end), Ok(None));
        }
        next_token(Some("a"), Some("a")).expect_err("it would never end");
    }
}
