//! Rust identifiers from the names that a model gives.

use std::collections::HashSet;

/// Rust identifiers for names of a model, in their order.
///
/// Letters and digits stay, capitals become small ones (`inputImage` is `input_image`), everything else becomes one
/// underscore between words. A leading digit gets `kind` before it (`output_2041`), a keyword an underscore behind it, a
/// name without any letter or digit becomes `kind`. Where two names agree, the later one gets `_2`, `_3`, ….
pub fn identifiers(names: &[&str], kind: &str, reserved: &[&str]) -> Vec<String> {
    let mut taken: HashSet<String> = reserved.iter().map(|&name| name.to_owned()).collect();
    let mut unique = Vec::with_capacity(names.len());
    for name in names {
        let plain = identifier(name, kind);
        let mut candidate = plain.clone();
        let mut count = 1;
        while !taken.insert(candidate.clone()) {
            count += 1;
            candidate = format!("{plain}_{count}");
        }
        unique.push(candidate);
    }
    unique
}

/// The identifier for one name.
fn identifier(name: &str, kind: &str) -> String {
    let mut ident = snake_case(name);
    if ident.is_empty() {
        return kind.to_owned();
    }
    if ident.starts_with(|first: char| first.is_ascii_digit()) {
        ident = format!("{kind}_{ident}");
    }
    if KEYWORDS.contains(&ident.as_str()) {
        ident.push('_');
    }
    ident
}

/// A name in small letters, its words separated by one underscore; empty where no letter or digit is in it.
pub fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    let mut previous = '_';
    for c in name.chars() {
        let starts_word =
            !c.is_ascii_alphanumeric() || (c.is_ascii_uppercase() && previous.is_ascii_lowercase());
        if starts_word && !snake.is_empty() && !snake.ends_with('_') {
            snake.push('_');
        }
        if c.is_ascii_alphanumeric() {
            snake.push(c.to_ascii_lowercase());
        }
        previous = c;
    }
    snake.truncate(snake.trim_end_matches('_').len());
    snake
}

/// The words of small letters that cannot be identifiers in some edition.
const KEYWORDS: [&str; 51] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn",
    "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop",
    "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static",
    "struct", "super", "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual",
    "where", "while", "yield",
];

#[cfg(test)]
mod tests {
    use proc_macro2::{Ident, Span};

    use super::*;

    #[test]
    fn identifiers_are_predictable() {
        let cases = [
            ("input.1", "input_1"),
            ("input_1", "input_1"),
            ("Plus214_Output_0", "plus214_output_0"),
            ("inputImage", "input_image"),
            ("dataURL", "data_url"),
            ("/model/head/Conv_output_0", "model_head_conv_output_0"),
            ("onnx::Add_7", "onnx_add_7"),
            ("2041", "input_2041"),
            ("type", "type_"),
            ("self", "self_"),
            ("Self", "self_"),
            ("größe", "gr_e"),
            ("a b", "a_b"),
        ];
        for (name, expected) in cases {
            assert_eq!(identifiers(&[name], "input", &[]), [expected], "{name:?}");
        }
    }

    #[test]
    fn collisions_are_numbered_in_order() {
        let names = ["a.b", "a_b", "a/b", "a_b_2", "", "::", "outputs"];
        let expected = ["a_b", "a_b_2", "a_b_3", "a_b_2_2", "input", "input_2", "outputs_2"];
        assert_eq!(identifiers(&names, "input", &["outputs"]), expected);
    }

    #[test]
    fn every_identifier_is_one() {
        for keyword in KEYWORDS {
            let ident = identifiers(&[keyword], "output", &[]).remove(0);
            assert!(!KEYWORDS.contains(&ident.as_str()), "{keyword}");
            // Panics where the text is no identifier.
            Ident::new(&ident, Span::call_site());
        }
    }
}
