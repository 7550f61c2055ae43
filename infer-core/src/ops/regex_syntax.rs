//! Regular expressions of RE2, which ONNX names, in the syntax of the crate `regex`.
//!
//! Both are alike but for this: in RE2, `\d`, `\s`, `\w` and `\b` know ASCII alone, `\Q…\E` quotes, and a character
//! class has no operators or classes within it.

use regex::Regex;

use crate::diagnostic::{Reason, quote};

/// What matches a whole string where `pattern` does.
pub(super) fn full_match(pattern: &str) -> Result<Regex, Reason> {
    let translated = translate(pattern);
    // By itself first: what closes a group it has not opened must not close the one around it.
    let regex = Regex::new(&translated).and_then(|_| Regex::new(&format!("\\A(?:{translated})\\z")));
    regex.map_err(|error| {
        let what = match &error {
            regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
            // Of several lines that show the pattern the last one says what is wrong.
            other => {
                let message = other.to_string();
                let last = message.lines().last().unwrap_or_default().trim();
                last.strip_prefix("error: ").unwrap_or(last).to_owned()
            }
        };
        Reason::new(format!("pattern {} is not a regular expression: {what}", quote(pattern)))
    })
}

fn translate(pattern: &str) -> String {
    let mut output = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    let mut in_class = false;
    while let Some(character) = rest.chars().next() {
        let mut after = &rest[character.len_utf8()..];
        match character {
            '\\' => {
                let Some(escaped) = after.chars().next() else {
                    output.push('\\');
                    break;
                };
                after = &after[escaped.len_utf8()..];
                match escaped {
                    'd' => output.push_str("[0-9]"),
                    'D' => output.push_str("[^0-9]"),
                    's' => output.push_str("[\\t\\n\\f\\r ]"),
                    'S' => output.push_str("[^\\t\\n\\f\\r ]"),
                    'w' => output.push_str("[0-9A-Za-z_]"),
                    'W' => output.push_str("[^0-9A-Za-z_]"),
                    'b' if !in_class => output.push_str("(?-u:\\b)"),
                    'Q' if !in_class => {
                        let (quoted, left) = after.split_once("\\E").unwrap_or((after, ""));
                        output.push_str(&regex::escape(quoted));
                        after = left;
                    }
                    other => {
                        output.push('\\');
                        output.push(other);
                    }
                }
            }
            '[' if !in_class => {
                in_class = true;
                output.push('[');
                if let Some(left) = after.strip_prefix('^') {
                    output.push('^');
                    after = left;
                }
                // A bracket that comes first stands for itself.
                if let Some(left) = after.strip_prefix(']') {
                    output.push_str("\\]");
                    after = left;
                }
            }
            '[' => match after.strip_prefix(':').and_then(|name| name.split_once(":]")) {
                Some((name, left)) => {
                    output.push_str("[:");
                    output.push_str(name);
                    output.push_str(":]");
                    after = left;
                }
                None => output.push_str("\\["),
            },
            ']' => {
                in_class = false;
                output.push(']');
            }
            '&' | '~' if in_class => {
                output.push('\\');
                output.push(character);
            }
            other => output.push(other),
        }
        rest = after;
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_of_ascii_and_without_operators() {
        let matches = |pattern: &str, string: &str| full_match(pattern).unwrap().is_match(string);
        assert!(matches(r"\d+", "12"));
        assert!(!matches(r"\d+", "١"));
        assert!(matches(r"[\w.-]+@\w+", "a-b.c@d"));
        assert!(matches(r"[a[&&b]+", "[&ab"));
        assert!(matches(r"[]^]+[^]]", "]^x"));
        assert!(matches(r"\Qa.b\E+", "a.bb"));
        assert!(matches("[[:alpha:]]é.", "aéü"));
        assert!(!matches("a.c", "a\nc"));
        assert!(full_match(")(").is_err());
        assert!(full_match("\\").is_err());
        assert!(full_match(r"\C").is_err());
    }
}
