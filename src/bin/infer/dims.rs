//! Symbolic dimensions: as `--dims` gives them, and as the shapes of input data do.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::bail;
use infer_core::diagnostic::quote;
use infer_core::value::Value;

use crate::model::{Declared, Extent};

/// One `--dims`: `batch=1,"past + seq"=4,input[0]=1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dims(pub Vec<(String, u64)>);

impl FromStr for Dims {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut dims = Vec::new();
        let mut rest = text.trim();
        loop {
            let (name, after) = parse_name(rest)?;
            let (size, more) = match after.split_once(',') {
                Some((size, more)) => (size.trim(), Some(more.trim_start())),
                None => (after.trim(), None),
            };
            let size =
                size.parse().map_err(|_| format!("{} is no size for {}", quote(size), quote(&name)))?;
            dims.push((name, size));
            match more {
                Some(more) => rest = more,
                None => return Ok(Dims(dims)),
            }
        }
    }
}

/// The name at the beginning of `text`, in quotes or as it is, and what follows its `=`.
fn parse_name(text: &str) -> Result<(String, &str), String> {
    let without = |name: &str| format!("{} has no size: write NAME=SIZE", quote(name.trim()));
    let (name, rest) = match text.strip_prefix('"') {
        Some(quoted) => {
            let (name, rest) =
                quoted.split_once('"').ok_or_else(|| format!("the quote of {} does not end", quote(text)))?;
            let rest = rest.trim_start().strip_prefix('=').ok_or_else(|| without(name))?;
            (name, rest)
        }
        None => {
            let item = text.split(',').next().unwrap_or(text);
            let (name, _) = item.rsplit_once('=').ok_or_else(|| without(item))?;
            (name.trim(), &text[name.len() + 1..])
        }
    };
    if name.is_empty() {
        return Err(format!("{} gives a size without a name: write NAME=SIZE", quote(text)));
    }
    Ok((name.to_owned(), rest))
}

/// All that the command line gives.
pub fn given(dims: &[Dims]) -> Vec<(String, u64)> {
    dims.iter().flat_map(|dims| dims.0.iter().cloned()).collect()
}

/// The dimensions that are given, and those that the shapes of `values` give.
///
/// # Errors
///
/// If two inputs give a dimension that is not given different sizes.
pub fn bind(
    inputs: &[Declared],
    values: &[Value],
    given: &[(String, u64)],
) -> anyhow::Result<Vec<(String, u64)>> {
    let mut dims = given.to_vec();
    let mut found: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    for (input, value) in inputs.iter().zip(values) {
        let (Some(extents), Some(shape)) = (&input.extents, value.shape()) else { continue };
        if extents.len() != shape.len() {
            continue;
        }
        for (extent, &size) in extents.iter().zip(shape) {
            let Extent::Symbol(symbol) = extent else { continue };
            if given.iter().any(|(name, _)| name == symbol) {
                continue;
            }
            match found.get(symbol.as_str()) {
                None => {
                    found.insert(symbol, (size, &input.name));
                    dims.push((symbol.clone(), size as u64));
                }
                Some(&(first, _)) if first == size => {}
                Some(&(first, other)) => bail!(
                    "dimension {} is {first} in input {} and {size} in input {}",
                    quote(symbol),
                    quote(other),
                    quote(&input.name)
                ),
            }
        }
    }
    Ok(dims)
}

/// The symbols of the inputs for which `dims` has no size.
pub fn unbound(inputs: &[Declared], dims: &[(String, u64)]) -> Vec<String> {
    let mut unbound: Vec<String> = Vec::new();
    for extent in inputs.iter().filter_map(|input| input.extents.as_ref()).flatten() {
        if let Extent::Symbol(symbol) = extent
            && !dims.iter().any(|(name, _)| name == symbol)
            && !unbound.contains(symbol)
        {
            unbound.push(symbol.clone());
        }
    }
    unbound
}

/// `dims` as one writes them behind `--dims`.
pub fn display(dims: &[(String, u64)]) -> String {
    let plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-[]/:".contains(c));
    let write = |(name, size): &(String, u64)| match plain(name) {
        true => format!("{name}={size}"),
        false => format!("\"{name}\"={size}"),
    };
    dims.iter().map(write).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<(String, u64)>, String> {
        text.parse().map(|Dims(dims)| dims)
    }

    #[test]
    fn names_are_plain_or_quoted() {
        let dims = parse("batch=1, \"past, + seq\" = 4,input[0]=1,a + b=7").unwrap();
        let pairs: Vec<(&str, u64)> = dims.iter().map(|(name, size)| (name.as_str(), *size)).collect();
        assert_eq!(pairs, [("batch", 1), ("past, + seq", 4), ("input[0]", 1), ("a + b", 7)]);
        assert_eq!(parse(&display(&dims)).unwrap(), dims);
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(parse("batch").unwrap_err(), "`batch` has no size: write NAME=SIZE");
        assert_eq!(parse("a=1,b").unwrap_err(), "`b` has no size: write NAME=SIZE");
        assert_eq!(parse("batch=x").unwrap_err(), "`x` is no size for `batch`");
        assert_eq!(parse("batch=-1").unwrap_err(), "`-1` is no size for `batch`");
        assert_eq!(parse("a=1,").unwrap_err(), "`` has no size: write NAME=SIZE");
        assert_eq!(parse("=1").unwrap_err(), "`=1` gives a size without a name: write NAME=SIZE");
        assert!(parse("\"a").unwrap_err().ends_with("does not end"));
    }
}
