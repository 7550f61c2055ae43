//! docs/operators.md is the operator table with what the operators' files say of types and history.
//! `INFER_BLESS=1 cargo test --test operators` writes it anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

use infer_core::onnx::OPSETS;
use infer_core::ops::{Row, TABLE};
use infer_core::record::INTERNAL_DOMAIN;

/// The names of the files that [`TABLE`] takes its rows from, in its order.
fn families(sources: &Path) -> Vec<String> {
    let text = fs::read_to_string(sources.join("mod.rs")).unwrap();
    let table = text.split_once("pub static TABLE").unwrap().1;
    let table = table.split_once("];").unwrap().0;
    let names: Vec<String> = table
        .lines()
        .filter_map(|line| line.trim().strip_suffix("::OPERATORS,"))
        .map(str::to_owned)
        .collect();
    assert_eq!(names.len(), TABLE.len(), "one line a family in ops/mod.rs");
    names
}

/// The paragraphs of a file's documentation; what begins with a word such as `Types:` becomes an item of a list.
fn documentation(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
    let item = |line: &&str| match ["Specification:", "Types:", "History:"]
        .iter()
        .any(|word| line.starts_with(word))
    {
        true => format!("- {line}"),
        false => (*line).to_owned(),
    };
    let paragraphs = lines
        .split(|line| line.is_empty())
        .map(|lines| lines.iter().map(item).collect::<Vec<_>>().join("\n"));
    // Links into the code lead nowhere from here.
    paragraphs
        .map(|text| text.replace("[`", "`").replace("`]", "`"))
        .filter(|text| !text.is_empty())
        .collect()
}

fn count(range: &RangeInclusive<usize>) -> String {
    match (*range.start(), *range.end()) {
        (least, usize::MAX) => format!("{least} or more"),
        (least, most) if least == most => least.to_string(),
        (least, most) => format!("{least} to {most}"),
    }
}

fn domain(row: &Row) -> &'static str {
    if row.domain.is_empty() { "ai.onnx" } else { row.domain }
}

fn render(sources: &Path) -> String {
    let families = families(sources);
    let mut rows: Vec<(&Row, &str)> = TABLE
        .iter()
        .zip(&families)
        .flat_map(|(rows, family)| rows.iter().map(|row| (row, family.as_str())))
        .filter(|(row, _)| row.domain != INTERNAL_DOMAIN)
        .collect();
    rows.sort_by_key(|(row, _)| (row.domain, row.name));
    let domains: BTreeSet<&str> = rows.iter().map(|(row, _)| row.domain).collect();
    let mut text = format!(
        "# Operators\n\nWritten by tests/operators.rs from the operator table: `INFER_BLESS=1 cargo test --test operators`.\n\n\
         {} operators. Models of ai.onnx {} to {} are read, each operator with the meaning it has in the version that the\n\
         model imports; *since* is the first version that has it. Types and history stand with the family, below. Processors run all\n\
         of them; [gpu.md](gpu.md#what-runs) says what NVIDIA GPUs run.\n",
        rows.len(),
        OPSETS.start(),
        OPSETS.end(),
    );
    for wanted in domains {
        let of_domain = rows.iter().filter(|(row, _)| row.domain == wanted);
        let name = of_domain.clone().next().map_or(wanted, |(row, _)| domain(row));
        let _ = write!(
            text,
            "\n## {name}\n\n| operator | since | inputs | outputs | family |\n| --- | --- | --- | --- | --- |\n"
        );
        for (row, family) in of_domain {
            let (inputs, outputs) = (count(&row.inputs), count(&row.outputs));
            let _ = writeln!(
                text,
                "| {} | {} | {inputs} | {outputs} | [{family}](#{family}) |",
                row.name, row.since
            );
        }
    }
    text += "\n## Families\n";
    for (rows, family) in TABLE.iter().zip(&families) {
        if rows.is_empty() {
            continue;
        }
        let paragraphs = documentation(&sources.join(format!("{family}.rs")));
        assert!(!paragraphs.is_empty(), "{family}.rs does not say what it holds");
        let _ = write!(text, "\n### {family}\n\n{}\n", paragraphs.join("\n\n"));
    }
    text
}

#[test]
fn the_list_of_operators_is_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = render(&root.join("infer-core/src/ops"));
    let document = root.join("docs/operators.md");
    if std::env::var_os("INFER_BLESS").is_some() {
        fs::write(&document, list).unwrap();
    } else if fs::read_to_string(&document).unwrap_or_default() != list {
        panic!("docs/operators.md is stale: INFER_BLESS=1 cargo test --test operators");
    }
}

#[test]
fn no_operator_has_two_rows() {
    let mut seen = BTreeSet::new();
    let rows = TABLE.iter().flat_map(|rows| rows.iter());
    let again: Vec<&str> =
        rows.filter(|row| !seen.insert((row.domain, row.name))).map(|row| row.name).collect();
    assert!(
        again.is_empty(),
        "only the first row of an operator counts, these have more: {}",
        again.join(", ")
    );
}
