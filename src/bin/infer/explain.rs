//! `infer inspect --explain`: for each layer, which kernels compute it, and why.

use infer_core::decisions::Layer;
use serde_json::{Value as Json, json};

use crate::table::{shortened, table};

/// A table, a layer a row.
pub fn to_text(layers: &[Layer]) -> String {
    let mut rows = vec![["layer", "operator", "kernels", "layout", "reason"].map(str::to_owned)];
    for layer in layers {
        let kernels = if layer.kernels.is_empty() { "–".to_owned() } else { summed_up(&layer.kernels) };
        let reason = match layer.reasons.as_slice() {
            [] if layer.kernels.is_empty() => String::new(),
            [] => "the kernel for this operator and layout".to_owned(),
            reasons => reasons.join("; "),
        };
        rows.push([shortened(&layer.node), layer.operator.to_owned(), kernels, layer.layout.clone(), reason]);
    }
    table(&rows, 5)
}

/// The kernels in order, those that follow each other counted.
fn summed_up(kernels: &[String]) -> String {
    let groups = kernels.chunk_by(|a, b| a == b).map(|group| match group {
        [kernel] => kernel.clone(),
        _ => format!("{}× {}", group.len(), group[0]),
    });
    groups.collect::<Vec<_>>().join(", ")
}

/// The same as a list of objects.
pub fn to_json(layers: &[Layer]) -> Json {
    let layers = layers.iter().map(|layer| {
        json!({
            "node": layer.node,
            "operator": layer.operator,
            "kernels": layer.kernels,
            "layout": layer.layout,
            "reasons": layer.reasons,
        })
    });
    layers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_rows() {
        let layer = |kernels: &[&str], reasons: &[&str]| Layer {
            node: "a".to_owned(),
            operator: "Conv",
            kernels: kernels.iter().map(|&kernel| kernel.to_owned()).collect(),
            layout: "NCHW16c".to_owned(),
            reasons: reasons.iter().map(|&reason| reason.to_owned()).collect(),
        };
        let text = to_text(&[layer(&["x", "x", "y"], &["one", "two"]), layer(&[], &[]), layer(&["x"], &[])]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "a      Conv      2× x, y  NCHW16c  one; two");
        assert_eq!(lines[2], "a      Conv      –        NCHW16c");
        assert_eq!(lines[3], "a      Conv      x        NCHW16c  the kernel for this operator and layout");
    }
}
