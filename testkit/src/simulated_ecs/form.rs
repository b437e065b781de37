//! Parses the form of a call in the AWS Query protocol. No I/O.

use serde_json::{Map, Value};

/// Returns the decoded fields of a form. A field without a value is empty.
pub(super) fn parse(body: &[u8]) -> Map<String, Value> {
    let pairs = body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty());
    let fields = pairs.map(|pair| {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        let mut next = || decode(parts.next().unwrap_or_default());
        (next(), Value::String(next()))
    });
    fields.collect()
}

/// Decodes percent-encoded text, in which `+` is a space.
fn decode(text: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        decoded.push(escaped.unwrap_or(if *first == b'+' { b' ' } else { *first }));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn form_is_decoded() {
        let body = b"Action=AssumeRole&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fa&Empty=&Bare&X=a+b%2Bc%zz";
        let expected = json!({
            "Action": "AssumeRole", "RoleArn": "arn:aws:iam::1:role/a", "Empty": "", "Bare": "",
            "X": "a b+c%zz",
        });
        assert_eq!(Value::Object(parse(body)), expected);
        assert_eq!(parse(b"").len(), 0);
    }
}
