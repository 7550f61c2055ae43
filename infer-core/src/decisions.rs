//! What lowering decides for each layer, and why: the choices that operators offer, and the report on all of it.
//!
//! An operator that can be computed in several ways asks [`LowerNode::choose`](crate::calls::LowerNode::choose): it names
//! the ways with what each is estimated to cost, and gets the one that the [`Tactics`] say, or else its default.

use crate::tactics::{Fit, Tactics};

/// One way to compute a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its name, one word, unlike those of the others.
    pub name: &'static str,
    /// What it is estimated to cost, in any unit that the candidates share.
    pub cost: f64,
}

impl Candidate {
    /// The position of the cheapest, the first of several as cheap.
    pub fn cheapest(candidates: &[Candidate]) -> usize {
        let costs = candidates.iter().map(|candidate| candidate.cost).enumerate();
        costs.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(index, _)| index)
    }
}

/// A choice among candidates that was made for a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The name of the node.
    pub node: String,
    /// What was asked, one word: `convolution`.
    pub question: &'static str,
    /// All that the candidates' speed depends on: extents, strides. A tactic for another signature does not count.
    pub signature: String,
    /// The candidates; at least one.
    pub candidates: Vec<Candidate>,
    /// The position of the one that was chosen.
    pub chosen: usize,
    /// Whether tactics chose it; else it is the default: the cheapest by estimate, unless the operator has its reasons.
    pub by_tactics: bool,
}

impl Choice {
    /// What was chosen, and why.
    pub fn reason(&self) -> String {
        let chosen = &self.candidates[self.chosen];
        if self.candidates.len() == 1 {
            return format!("{}: there is no other way", chosen.name);
        }
        let others = self.candidates.iter().enumerate().filter(|(index, _)| *index != self.chosen);
        let others: Vec<String> =
            others.map(|(_, other)| format!("{} ×{:.2}", other.name, other.cost / chosen.cost)).collect();
        let by = if self.by_tactics { "the tactics" } else { "the cost model" };
        format!("{} by {by}; estimates beside it: {}", chosen.name, others.join(", "))
    }
}

/// What became of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The name of the node.
    pub node: String,
    /// Its operator.
    pub operator: &'static str,
    /// The kernels it calls, in order.
    pub kernels: Vec<String>,
    /// How its first output lies in memory.
    pub layout: String,
    /// Why it is computed so.
    pub reasons: Vec<String>,
}

/// What was decided so far.
#[derive(Clone, Debug, Default)]
pub struct Decisions {
    /// What was measured to be best.
    pub tactics: Tactics,
    /// The choices, in the order of the layers.
    pub choices: Vec<Choice>,
    /// The layers, in order.
    pub layers: Vec<Layer>,
    /// Whether anybody reads this: where nodes run one by one, nobody does.
    is_kept: bool,
    /// The reasons for the layer that is being lowered.
    reasons: Vec<String>,
}

impl Decisions {
    /// Keeps what is decided, for a report.
    pub fn kept(tactics: Tactics) -> Self {
        Decisions { tactics, is_kept: true, ..Decisions::default() }
    }

    /// A reason for how the layer is computed that is being lowered.
    pub(crate) fn explain(&mut self, text: impl FnOnce() -> String) {
        if self.is_kept {
            self.reasons.push(text());
        }
    }

    /// The position of the candidate by which `node` is to be computed.
    pub(crate) fn choose(
        &mut self,
        node: &str,
        question: &'static str,
        signature: impl FnOnce() -> String,
        candidates: &[Candidate],
        default: usize,
    ) -> usize {
        if !self.is_kept {
            return default;
        }
        let signature = signature();
        let fit = self.tactics.fit(node, question, &signature, candidates);
        let (chosen, by_tactics) = match fit {
            Fit::Candidate(index) => (index, true),
            Fit::Unknown => (default, false),
        };
        let candidates = candidates.to_vec();
        let choice = Choice { node: node.to_owned(), question, signature, candidates, chosen, by_tactics };
        self.reasons.push(choice.reason());
        self.choices.push(choice);
        chosen
    }

    /// Ends a layer: what was explained since the last one is about it.
    #[cfg(feature = "compiler")]
    pub(crate) fn end_layer(&mut self, layer: impl FnOnce(Vec<String>) -> Layer) {
        let reasons = std::mem::take(&mut self.reasons);
        if self.is_kept {
            self.layers.push(layer(reasons));
        }
    }

    /// Says that what the kernels `from` would compute for `node` is done in that of `to`, instead of `kernels.0` by
    /// `kernels.1`.
    #[cfg(feature = "compiler")]
    pub(crate) fn move_kernel(&mut self, node: &str, from: &[&str], to: &str, kernels: (&str, &str)) {
        for layer in &mut self.layers {
            if layer.node == node {
                layer.kernels.retain(|kernel| !from.contains(&kernel.as_str()));
                layer.reasons.push(format!("computed together with `{to}`"));
            } else if layer.node == to {
                let replaced = layer.kernels.iter_mut().filter(|kernel| *kernel == kernels.0);
                replaced.for_each(|kernel| kernels.1.clone_into(kernel));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAYS: [Candidate; 2] =
        [Candidate { name: "direct", cost: 2.0 }, Candidate { name: "fast", cost: 1.0 }];

    #[test]
    fn the_cheapest_is_chosen_where_nothing_was_measured() {
        let mut decisions = Decisions::kept(Tactics::default());
        assert_eq!(decisions.choose("a", "sum", || "4".to_owned(), &WAYS, 1), 1);
        assert_eq!(
            decisions.choices[0].reason(),
            "fast by the cost model; estimates beside it: direct ×2.00"
        );
        assert_eq!(decisions.choose("b", "sum", || "4".to_owned(), &WAYS[..1], 0), 0);
        assert_eq!(decisions.choices[1].reason(), "direct: there is no other way");
    }

    #[test]
    fn nothing_is_kept_where_nobody_reads_it() {
        let mut decisions = Decisions::default();
        decisions.explain(|| unreachable!());
        assert_eq!(decisions.choose("a", "sum", || unreachable!(), &WAYS, 1), 1);
        decisions.end_layer(|_| unreachable!());
        assert!(decisions.choices.is_empty() && decisions.layers.is_empty());
    }

    #[test]
    fn tactics_go_before_estimates() {
        let text = "infer-tactics 1\nlayer \"a\" sum \"4\" direct\n";
        let mut decisions = Decisions::kept(Tactics::parse(text).unwrap());
        assert_eq!(decisions.choose("a", "sum", || "4".to_owned(), &WAYS, 1), 0);
        assert_eq!(decisions.choices[0].reason(), "direct by the tactics; estimates beside it: fast ×0.50");
        assert_eq!(decisions.choose("a", "sum", || "5".to_owned(), &WAYS, 1), 1);
    }
}
