//! Parses the names of task definitions in calls. No I/O.

use super::{caller::Caller, reply::Failure};

const MAX_FAMILY_NAME_LENGTH: usize = 255;

/// A family, or one revision of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identifier {
    pub(super) family: String,
    pub(super) revision: Option<i32>,
}

impl Identifier {
    /// Parses `family`, `family:revision`, or the ARN of either, and checks it against the caller.
    pub(super) fn parse(text: &str, caller: &Caller) -> Result<Self, Failure> {
        if text.trim().is_empty() {
            return Err(Failure::invalid_parameter("TaskDefinition can not be blank."));
        }
        let name =
            if text.starts_with("arn:") { name_in_arn(text, "task-definition/", caller)? } else { text };
        let (family, revision) = match name.split_once(':') {
            Some((family, number)) => (family, Some(parse_revision(number)?)),
            None => (name, None),
        };
        if !is_family_name(family) {
            return Err(invalid(text));
        }
        Ok(Self { family: family.to_owned(), revision })
    }
}

/// Returns true for valid family names.
pub(super) fn is_family_name(name: &str) -> bool {
    (1..=MAX_FAMILY_NAME_LENGTH).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Returns the part after `kind`, such as `cluster/`, of an ARN of the caller's account and region.
pub(super) fn name_in_arn<'a>(arn: &'a str, kind: &str, caller: &Caller) -> Result<&'a str, Failure> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let &[_, partition, service, region, account, resource] = parts.as_slice() else {
        return Err(invalid(arn));
    };
    let Some(name) = resource.strip_prefix(kind) else {
        return Err(invalid(arn));
    };
    if service != "ecs" {
        return Err(invalid(arn));
    }
    if region != caller.region {
        return Err(Failure::invalid_parameter("Invalid Region in ARN"));
    }
    if partition != caller.partition() {
        return Err(invalid(arn));
    }
    if account != caller.account {
        return Err(Failure::invalid_parameter(format!(
            "Identifier is for {account}. Your accountId is {}",
            caller.account
        )));
    }
    Ok(name)
}

fn parse_revision(number: &str) -> Result<i32, Failure> {
    let invalid_number = || Failure::invalid_parameter(format!("Invalid revision number. Number: {number}"));
    let canonical = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
    if !canonical {
        return Err(invalid_number());
    }
    number.parse().map_err(|_| invalid_number())
}

fn invalid(text: &str) -> Failure {
    Failure::invalid_parameter(format!("Invalid identifier: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(region: &str) -> Caller {
        Caller::of("012345678910", region)
    }

    fn refusal(text: &str) -> String {
        let failure = Identifier::parse(text, &caller("us-west-2")).expect_err("the identifier is invalid");
        assert_eq!(failure.code, "InvalidParameterException", "{text}");
        failure.message
    }

    #[test]
    fn parse_accepts_the_short_form_and_the_arn() {
        let west = caller("us-west-2");
        let expected = Identifier { family: "cpu-wave".to_owned(), revision: Some(7) };
        let arn = "arn:aws:ecs:us-west-2:012345678910:task-definition/cpu-wave:7";
        assert_eq!(Identifier::parse("cpu-wave:7", &west), Ok(expected.clone()));
        assert_eq!(Identifier::parse(arn, &west), Ok(expected));
    }

    #[test]
    fn parse_expects_the_partition_of_the_region() {
        let arn = "arn:aws-us-gov:ecs:us-gov-west-1:012345678910:task-definition/cpu-wave:7";
        assert!(Identifier::parse(arn, &caller("us-gov-west-1")).is_ok());
        let wrong = "arn:aws:ecs:cn-north-1:012345678910:task-definition/cpu-wave:7";
        assert!(Identifier::parse(wrong, &caller("cn-north-1")).is_err());
    }

    #[test]
    fn parse_rejects_revisions_other_than_plain_positive_numbers() {
        for number in ["latest", "0", "07", "+7", "-7", " 7", "7 ", "", "7:8", "2147483648"] {
            assert_eq!(
                refusal(&format!("cpu-wave:{number}")),
                format!("Invalid revision number. Number: {number}")
            );
        }
    }

    #[test]
    fn parse_rejects_arns_of_another_region_or_account() {
        assert_eq!(
            refusal("arn:aws:ecs:us-east-1:012345678910:task-definition/cpu-wave:7"),
            "Invalid Region in ARN"
        );
        assert_eq!(
            refusal("arn:aws:ecs:us-west-2:999999999999:task-definition/cpu-wave:7"),
            "Identifier is for 999999999999. Your accountId is 012345678910"
        );
    }

    #[test]
    fn parse_rejects_names_that_are_not_task_definitions() {
        for text in [
            "arn:aws:sqs:us-west-2:012345678910:task-definition/cpu-wave:7",
            "arn:aws:ecs:us-west-2:012345678910:service/cpu-wave",
            "arn:aws:ecs:us-west-2:012345678910:daemon-task-definition/cpu-wave:7",
            "arn:aws:ecs",
            "cpu wave:7",
            "cpu/wave",
            ":7",
        ] {
            assert_eq!(refusal(text), format!("Invalid identifier: {text}"));
        }
    }
}
