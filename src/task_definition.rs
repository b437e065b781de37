//! Strict parser for ECS task definition names and ARNs, which prints them back exactly. No I/O.

use std::{fmt, str::FromStr};

/// Maximum length of a family name in ECS, in characters.
const FAMILY_LENGTH: usize = 255;

/// One revision of a task-definition family, written `family:revision`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Revision {
    family: String,
    number: i32,
}

/// The full ARN of one revision,
/// `arn:PARTITION:ecs:REGION:ACCOUNT:task-definition/FAMILY:REVISION`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Arn {
    partition: String,
    region: String,
    account: String,
    revision: Revision,
}

/// A reference to a revision in a manifest: the short form or the full ARN.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reference {
    Revision(Revision),
    Arn(Arn),
}

/// The reason why a text is not a revision. Each message quotes the text and says what to write.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseError {
    #[error(
        "{0:?} names no revision: write family:revision, such as cpu-wave:1, or the full task definition ARN"
    )]
    NoRevision(String),
    #[error("{0:?} is not family:revision: a family is 1 to 255 letters, digits, hyphens and underscores")]
    Family(String),
    #[error(
        "{0:?} is not family:revision: a revision is a whole number from 1 to 2147483647, without sign or leading zero"
    )]
    Number(String),
    #[error(
        "{0:?} is not the ARN of a task definition: write arn:PARTITION:ecs:REGION:ACCOUNT:task-definition/family:revision"
    )]
    Arn(String),
    #[error(
        "{0:?} is a daemon task definition, which has an API of its own: only task definitions can be retired"
    )]
    Daemon(String),
}

impl Revision {
    /// Returns the revision number. ECS increments it in each family, so a lower number is older.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.number
    }

    /// Returns the name of the family.
    #[must_use]
    pub fn family(&self) -> &str {
        &self.family
    }

    fn parse(family: &str, number: &str, text: &str) -> Result<Self, ParseError> {
        let is_family_character = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if family.is_empty() || family.len() > FAMILY_LENGTH || !family.chars().all(is_family_character) {
            return Err(ParseError::Family(text.to_owned()));
        }
        // `i32::from_str` accepts a sign and leading zeros, which ECS never prints.
        let is_canonical = !number.starts_with('0') && number.bytes().all(|b| b.is_ascii_digit());
        match number.parse() {
            Ok(number) if is_canonical => Ok(Self { family: family.to_owned(), number }),
            _ => Err(ParseError::Number(text.to_owned())),
        }
    }
}

impl Arn {
    /// Creates the ARN of `revision` in a partition, region and account.
    #[must_use]
    pub fn new(partition: &str, region: &str, account: &str, revision: Revision) -> Self {
        Self {
            partition: partition.to_owned(),
            region: region.to_owned(),
            account: account.to_owned(),
            revision,
        }
    }

    #[must_use]
    pub fn partition(&self) -> &str {
        &self.partition
    }

    #[must_use]
    pub fn region(&self) -> &str {
        &self.region
    }

    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }

    #[must_use]
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    fn parse(text: &str) -> Result<Self, ParseError> {
        let malformed = || ParseError::Arn(text.to_owned());
        let parts: Vec<&str> = text.split(':').collect();
        let ["arn", partition, "ecs", region, account, resource, number] = parts[..] else {
            return Err(malformed());
        };
        if resource.starts_with("daemon-task-definition/") {
            return Err(ParseError::Daemon(text.to_owned()));
        }
        let family = resource.strip_prefix("task-definition/").ok_or_else(malformed)?;
        if !is_partition(partition) || !is_region(region) || !is_account(account) {
            return Err(malformed());
        }
        Ok(Self::new(partition, region, account, Revision::parse(family, number, text)?))
    }
}

/// Returns true if `text` has the form of an AWS partition: `aws`, `aws-cn`, `aws-us-gov`,
/// `aws-iso-b`, ...
fn is_partition(text: &str) -> bool {
    let mut words = text.split('-');
    words.next() == Some("aws") && words.all(is_word)
}

/// Returns true if `text` has the form of an AWS region: `us-west-2`, `us-gov-east-1`,
/// `ap-southeast-4`, ...
#[must_use]
pub fn is_region(text: &str) -> bool {
    let words: Vec<&str> = text.split('-').collect();
    match words.split_last() {
        Some((number, names)) if names.len() >= 2 => {
            names.iter().all(|name| is_word(name))
                && !number.is_empty()
                && number.bytes().all(|b| b.is_ascii_digit())
        }
        _ => false,
    }
}

/// Returns true if `text` has the form of an AWS account ID: 12 digits.
#[must_use]
pub fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase())
}

impl Reference {
    /// Returns the family of the revision.
    #[must_use]
    pub fn family(&self) -> &str {
        match self {
            Self::Revision(revision) => revision.family(),
            Self::Arn(arn) => arn.revision().family(),
        }
    }
}

impl FromStr for Reference {
    type Err = ParseError;

    /// Parses `family:revision` or a full ARN, and nothing else: no blanks, signs, ranges, labels,
    /// or families without a revision.
    ///
    /// # Errors
    /// Returns `ParseError` if `text` has another form. The message quotes it and says what to
    /// write.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text.split_once(':') {
            Some((family, number)) if !number.contains(':') => {
                Revision::parse(family, number, text).map(Self::Revision)
            }
            Some(("arn", _)) => Arn::parse(text).map(Self::Arn),
            Some((_, _)) => Err(ParseError::Number(text.to_owned())),
            None => Err(ParseError::NoRevision(text.to_owned())),
        }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.family, self.number)
    }
}

impl fmt::Display for Arn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, region, account, revision } = self;
        write!(f, "arn:{partition}:ecs:{region}:{account}:task-definition/{revision}")
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revision(revision) => revision.fmt(f),
            Self::Arn(arn) => arn.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARTITIONS: &str = "(aws|aws-cn|aws-us-gov|aws-iso|aws-iso-b|aws-iso-e|aws-iso-f|aws-eusc)";
    const REGIONS: &str =
        "(us-west-2|us-gov-east-1|cn-north-1|us-iso-east-1|us-isob-east-1|eusc-de-east-1|ap-southeast-4)";

    proptest! {
        #[test]
        fn every_valid_family_and_revision_is_parsed_and_printed_back(
            family in "[A-Za-z0-9_-]{1,255}", number in 1..=i32::MAX,
        ) {
            let text = format!("{family}:{number}");
            let parsed = text.parse::<Reference>().expect("a valid revision");
            prop_assert_eq!(&parsed, &Reference::Revision(Revision { family, number }));
            prop_assert_eq!(parsed.to_string(), text);
        }

        #[test]
        fn arn_of_every_partition_is_parsed_and_printed_back(
            partition in PARTITIONS, region in REGIONS, account in "[0-9]{12}",
            family in "[A-Za-z0-9_-]{1,255}", number in 1..=i32::MAX,
        ) {
            let text = format!("arn:{partition}:ecs:{region}:{account}:task-definition/{family}:{number}");
            let Ok(Reference::Arn(arn)) = text.parse() else {
                return Err(TestCaseError::fail(text));
            };
            prop_assert_eq!(arn.to_string(), text);
            prop_assert_eq!(arn.partition(), partition);
            prop_assert_eq!(arn.region(), region);
            prop_assert_eq!(arn.account(), account);
            prop_assert_eq!(arn.revision().number(), number);
        }

        #[test]
        fn text_that_parses_is_printed_back_unchanged(text in "\\PC{0,40}|[a-z0-9:/-]{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string(), text);
            }
        }
    }

    #[test]
    fn invalid_revision_is_rejected_and_quoted() {
        let long = format!("{}:1", "a".repeat(256));
        let invalid = [
            "",
            ":",
            " cpu-wave:1",
            "cpu-wave:1 ",
            "cpu-wave",
            "cpu-wave:",
            ":1",
            "cpu-wave:0",
            "cpu-wave:01",
            "cpu-wave:-1",
            "cpu-wave:+7",
            "cpu-wave:latest",
            "cpu-wave:1-5",
            "*",
            "cpu-wave:*",
            "cpu-wave:2147483648",
            "cpu-wave:1:2",
            "cpu wave:1",
            "cpu/wave:1",
            "cpü-wave:1",
            "cpu-wave:١",
            "cpu-wave:1\n",
            &long,
            "arn:aws:ecs:us-west-2:012345678910:task-definition/cpu-wave",
            "arn:aws:ecs:us-west-2:012345678910:task-definition/cpu-wave:01",
            "arn:aws:ecs:us-west-2::task-definition/cpu-wave:1",
            "arn:aws:ecs:us-west-2:12345:task-definition/cpu-wave:1",
            "arn:aws:ecs::012345678910:task-definition/cpu-wave:1",
            "arn:aws:ecs:us-west-:012345678910:task-definition/cpu-wave:1",
            "arn:aws:ecs:us-2:012345678910:task-definition/cpu-wave:1",
            "arn:aws:ecs:us--2:012345678910:task-definition/cpu-wave:1",
            "arn:aws:ecs:us-West-2:012345678910:task-definition/cpu-wave:1",
            "arn:aws-:ecs:us-west-2:012345678910:task-definition/cpu-wave:1",
            "arn:gcp:ecs:us-west-2:012345678910:task-definition/cpu-wave:1",
            "arn:aws:batch:us-west-2:012345678910:task-definition/cpu-wave:1",
            "arn:aws:ecs:us-west-2:012345678910:service/prod/cpu-wave:1",
            "arn:aws:ecs:us-west-2:012345678910:cluster/prod",
            "arn:aws:ecs:us-west-2:012345678910:daemon-task-definition/cpu-wave:1",
            "ARN:aws:ecs:us-west-2:012345678910:task-definition/cpu-wave:1",
        ];
        for text in invalid {
            let error = text.parse::<Reference>().expect_err(text).to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn daemon_task_definition_has_its_own_error() {
        let text = "arn:aws:ecs:us-west-2:012345678910:daemon-task-definition/agent:1";
        assert_eq!(text.parse::<Reference>(), Err(ParseError::Daemon(text.to_owned())));
    }

    #[test]
    fn family_may_be_named_arn() {
        let revision = Revision { family: "arn".to_owned(), number: 1 };
        assert_eq!("arn:1".parse(), Ok(Reference::Revision(revision)));
    }
}
