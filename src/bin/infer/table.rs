//! Tables of text.

use std::fmt::Write as _;

use infer_core::diagnostic::printable;

/// The longest name that is printed whole.
const LONGEST_NAME: usize = 44;

/// A name on one line; of a long one the end, which tells it from others.
pub fn shortened(name: &str) -> String {
    let name = printable(name);
    let count = name.chars().count();
    match count > LONGEST_NAME {
        true => format!("…{}", name.chars().skip(count - LONGEST_NAME + 1).collect::<String>()),
        false => name,
    }
}

/// Columns as wide as they need be: the first `names` to the left, the others, numbers, to the right.
pub fn table<const N: usize>(rows: &[[String; N]], names: usize) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            if column < names { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["größe", "1.5"], ["b", "10.25"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows, 1), "größe    1.5\nb      10.25\n");
        assert_eq!(table(&rows, 2), "größe  1.5\nb      10.25\n");
        assert_eq!(shortened("a\nb"), "a\\nb");
        assert_eq!(shortened(&"x".repeat(50)).chars().count(), 44);
    }
}
