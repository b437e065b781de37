//! Sizes of texts as the API server stores them. No I/O.

/// Suffix of a truncated text.
const CUT: &str = "...";

/// Truncates `text` to at most `limit` bytes of JSON. A truncated text ends with "...".
pub fn cut(text: &mut String, limit: usize) {
    if json_bytes(text) <= limit {
        return;
    }
    let mut bytes = CUT.len();
    let end = text.char_indices().find_map(|(index, char)| {
        bytes += char_bytes(char);
        (bytes > limit).then_some(index)
    });
    text.truncate(end.unwrap_or(text.len()));
    text.push_str(CUT);
}

/// Returns the size of `text` in JSON as the API server writes it, in bytes, without the quotation
/// marks.
pub fn json_bytes(text: &str) -> usize {
    text.chars().map(char_bytes).sum()
}

/// Returns the size of a character in JSON, in bytes.
/// Source: `encoding/json` of Go, which also escapes what HTML and JavaScript treat specially.
fn char_bytes(char: char) -> usize {
    match char {
        '"' | '\\' | '\n' | '\r' | '\t' => 2,
        '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => 6,
        control if control < ' ' => 6,
        other => other.len_utf8(),
    }
}
