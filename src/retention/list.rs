//! Lists the retirements of a policy (I/O).

use kube::{Api, api::ListParams};

use crate::{api::TaskDefinitionRetirement, controller::Error, in_flight, retention::existing::Existing};

/// Page size of the list. A page is in memory as a whole, and a retirement with 500 rows may have
/// 1.5 MiB.
const PAGE: u32 = 25;

/// Returns the retirements of the policy `uid`, by an uncached list. Labels, which users can
/// change, do not select them.
///
/// # Errors
/// Returns [`Error::ReadResource`] if a call to the API server fails.
pub(super) async fn list(
    retirements: &Api<TaskDefinitionRetirement>,
    uid: &str,
) -> Result<Vec<Existing>, Error> {
    let (mut existing, mut token) = (Vec::new(), None);
    loop {
        let parameters = ListParams { limit: Some(PAGE), continue_token: token, ..ListParams::default() };
        let page = in_flight::kubernetes("list retirements", retirements.list(&parameters)).await;
        let page = page.map_err(Error::ReadResource)?;
        existing.extend(page.items.iter().filter_map(|it| Existing::of_policy(it, uid)));
        token = page.metadata.continue_.filter(|token| !token.is_empty());
        if token.is_none() {
            return Ok(existing);
        }
    }
}
