//! What STS answers; pure.

use super::{caller::Caller, reply::Done};

pub(super) fn get_caller_identity(caller: &Caller) -> Done {
    Done {
        body: format!(
            "<Arn>{}</Arn><UserId>AROAIOSFODNN7EXAMPLE:session</UserId><Account>{}</Account>",
            caller.arn(),
            caller.account
        ),
        changed: false,
    }
}
