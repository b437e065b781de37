//! Patterns for task definition families: a name, or a glob with `*`. No I/O.

use std::{fmt, str::FromStr};

use wildmatch::WildMatch;

/// Maximum length of a pattern, in characters.
const LENGTH: usize = 255;

/// A pattern of 1 to 255 letters, digits, hyphens, underscores and `*`, which matches any number of
/// characters. A pattern without `*` matches one family.
#[derive(Clone, Debug, PartialEq)]
pub struct FamilyPattern(WildMatch);

/// The error of a text that is not a pattern.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{0:?} is not a family or glob: write 1 to {LENGTH} letters, digits, hyphens and underscores, and * for any characters, such as web-*"
)]
pub struct InvalidPattern(String);

impl FamilyPattern {
    /// Returns true if the pattern matches the whole name of `family`.
    #[must_use]
    pub fn matches(&self, family: &str) -> bool {
        self.0.matches(family)
    }
}

impl FromStr for FamilyPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let is_allowed = |char: char| char.is_ascii_alphanumeric() || "-_*".contains(char);
        let is_valid = (1..=LENGTH).contains(&text.len()) && text.chars().all(is_allowed);
        is_valid.then(|| Self(WildMatch::new(text))).ok_or_else(|| InvalidPattern(text.to_owned()))
    }
}

impl fmt::Display for FamilyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn star_matches_any_number_of_characters() {
        let matches =
            |pattern: &str, family| pattern.parse::<FamilyPattern>().expect("valid").matches(family);
        for (pattern, family) in
            [("web", "web"), ("*", "a"), ("web-*", "web-"), ("*-api-*", "a-api-b"), ("w*b", "wb")]
        {
            assert!(matches(pattern, family), "{pattern} {family}");
        }
        for (pattern, family) in
            [("web", "web-api"), ("web", "Web"), ("web-*", "web"), ("*-api", "api"), ("w*b", "wbc")]
        {
            assert!(!matches(pattern, family), "{pattern} {family}");
        }
    }

    #[test]
    fn invalid_pattern_is_refused_and_quoted() {
        let long = "a".repeat(256);
        for text in ["", "web?", "web:1", "we b", "[a]", "wéb", "web/*", "{a,b}", long.as_str()] {
            let error = text.parse::<FamilyPattern>().expect_err(text).to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn pattern_without_star_matches_only_itself(pattern in "[A-Za-z0-9_-]{1,8}", family in "[A-Za-z0-9_-]{1,8}") {
            let parsed: FamilyPattern = pattern.parse().expect("valid");
            prop_assert!(parsed.matches(&pattern));
            prop_assert_eq!(parsed.matches(&family), pattern == family);
        }
    }
}
