//! Authorization to deregister one revision, which the irreversible call requires.

use crate::task_definition::Arn;

/// Authorization to deregister one revision. Only `retirement::plan` creates it.
#[derive(Debug, Eq, PartialEq)]
pub struct Deregistration {
    arn: Arn,
}

impl Deregistration {
    pub(crate) fn new(arn: Arn) -> Self {
        Self { arn }
    }

    #[must_use]
    pub fn arn(&self) -> &Arn {
        &self.arn
    }
}
