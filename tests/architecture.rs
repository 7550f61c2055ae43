//! The list of files in docs/architecture.md is the tree's: every file with the first line of its own documentation.
//! `INFER_BLESS=1 cargo test --test architecture` writes it anew.

use std::fs;
use std::path::{Path, PathBuf};

const ROOTS: [&str; 8] = [
    "src",
    "benches",
    "infer-macros",
    "infer-core/src",
    "infer-core/tests",
    "infer-kernels",
    "tests",
    "examples/digits",
];
const BEGIN: &str = "<!-- files: written by tests/architecture.rs -->\n";
const END: &str = "<!-- end of files -->\n";

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // One rejected input a file: their names say what they are.
        let listed =
            !matches!(name.as_str(), "target" | "rejected" | "accepted" | "without_dynamic" | "data");
        if path.is_dir() && listed {
            sources(&path, found);
        } else if name.ends_with(".rs") || name.ends_with(".py") {
            found.push(path);
        }
    }
}

/// The first sentence of a file's documentation.
fn summary(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let documentation = text.lines().skip_while(|line| line.starts_with("#!"));
    let documentation: Vec<&str> = match path.extension().and_then(|e| e.to_str()) {
        Some("py") => documentation
            .map(|line| line.trim_start_matches("\"\"\""))
            .take_while(|l| !l.is_empty())
            .collect(),
        _ => documentation
            .map_while(|line| line.strip_prefix("//!"))
            .map(str::trim)
            .take_while(|line| !line.is_empty())
            .collect(),
    };
    let paragraph = documentation.join(" ");
    assert!(!paragraph.is_empty(), "{} does not begin with a line that says what it is", path.display());
    match paragraph.find(". ") {
        Some(end) => paragraph[..=end].to_owned(),
        None => paragraph,
    }
}

#[test]
fn every_file_has_its_line() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut list = String::from(BEGIN);
    for part in ROOTS {
        let mut found = Vec::new();
        sources(&root.join(part), &mut found);
        list += &format!("\n### {part}\n\n| file | what it holds |\n| --- | --- |\n");
        for path in found {
            let name = path.strip_prefix(root.join(part)).unwrap().display().to_string();
            list += &format!("| {name} | {} |\n", summary(&path).replace('|', "\\|"));
        }
    }
    list += "\n";
    let document = root.join("docs/architecture.md");
    let text = fs::read_to_string(&document).unwrap();
    let (begin, end) = (text.find(BEGIN).unwrap(), text.find(END).unwrap());
    if std::env::var_os("INFER_BLESS").is_some() {
        fs::write(&document, format!("{}{list}{}", &text[..begin], &text[end..])).unwrap();
    } else if text[begin..end] != list {
        panic!("docs/architecture.md is stale: INFER_BLESS=1 cargo test --test architecture");
    }
}
