//! Makes plans for GPUs, of what runs there and what the processor does beside it.

use super::mistake;
use super::planner::{Made, PlanOn, Planner, flops, graph_ports};
use super::summary::{Place, Placed};
use crate::cut::{self, Body};
use crate::diagnostic::{Diagnostic, Reason};
use crate::graph::Graph;
use crate::import::Origin;
use crate::onnx;
use crate::options::Backends;
use crate::plan::parts::{self, Side};
use crate::session::RunsOn;

impl Planner<'_> {
    /// The plan for GPUs of a graph that [`passes::simplify`] has prepared, where any of it runs there; what does not is
    /// [`Planner::on_processor`]. It borrows the weights that `whole` has, the processor's plan of the graph.
    pub fn plan_for_gpus(
        &mut self,
        graph: &Graph,
        is_model: bool,
        whole: Option<&Made>,
    ) -> Result<Option<PlanOn>, Vec<Diagnostic>> {
        if self.backends == Backends::Cpu {
            return Ok(None);
        }
        let (precision, info) = (self.precision, self.info(flops(graph)));
        let request = cut::Request { precision, info, least_work: self.least_gpu_work, is_model };
        let cut = cut::cut(graph, &request);
        self.clock.stage("lower for GPUs");
        let spared = cut.spared.iter().map(|&node| (node, Reason::new(SPARED)));
        for (index, why) in cut.refused.iter().cloned().chain(spared) {
            let node = &graph.nodes[index];
            let known = node.inputs.iter().flatten();
            let types = known.map(|&id| (graph.value(id).name.clone(), graph.ty(id).clone())).collect();
            let origin = Origin { op_type: node.op.name().to_owned(), opset: 0 };
            self.on_processor.add(&node.name, &origin, why, types);
        }
        let placed = |place: Place, nodes: &[usize]| Placed {
            place,
            count: nodes.len() as u64,
            nodes: nodes
                .iter()
                .filter(|_| place != Place::Gpu)
                .map(|&index| {
                    let node = &graph.nodes[index];
                    format!("{} ({})", onnx::quote(&node.name), node.op.name())
                })
                .collect(),
        };
        if cut.parts.is_empty() {
            let all: Vec<usize> = (0..graph.nodes.len()).collect();
            self.summary.cuda_parts.push(placed(Place::Processor, &all));
            return Ok(None);
        }

        let is_whole = cut.is_whole();
        let mut plans = Vec::with_capacity(cut.parts.len());
        let mut parts = Vec::with_capacity(cut.parts.len());
        for part in cut.parts {
            let on_gpu = matches!(part.body, Body::Gpu(_));
            if !part.nodes.is_empty() {
                self.summary
                    .cuda_parts
                    .push(placed(if on_gpu { Place::Gpu } else { Place::Processor }, &part.nodes));
            }
            let made = match part.body {
                Body::Gpu(mut lowered) => {
                    lowered.follow(&mut self.decisions.tactics);
                    if let Some(lender) = whole.and_then(|whole| whole.lender.as_ref()) {
                        self.summary.borrowed_weight_bytes += lowered.borrow(lender);
                        self.clock.stage("borrow");
                    }
                    let (plan, weight_bytes, arena_bytes) =
                        lowered.write().map_err(|error| mistake(self.file, error.message))?;
                    insert(&mut self.summary.cuda_modules, lowered.modules().into_iter().map(str::to_owned));
                    if let Some(parts) = &mut self.gpu_parts {
                        parts.push(*lowered);
                    }
                    Made { plan, kernels: Vec::new(), weight_bytes, arena_bytes, flops: 0, lender: None }
                }
                Body::Processor(graph) => {
                    let (layers, choices) = (self.decisions.layers.len(), self.decisions.choices.len());
                    let made = self.plan_for_processor(graph)?;
                    if self.backends != Backends::Cuda {
                        // What is reported is how the processor computes the model alone.
                        self.decisions.layers.truncate(layers);
                        self.decisions.choices.truncate(choices);
                    }
                    Made { flops: 0, ..made }
                }
            };
            match self.backends {
                Backends::Cuda => self.count(&made),
                // The memory of an inference is that of the processor.
                _ => self.summary.weight_bytes += made.weight_bytes,
            }
            insert(&mut self.summary.cuda_kernels, made.kernels);
            parts.push(parts::Part {
                side: if on_gpu { Side::Gpu } else { Side::Processor },
                plan: 0..made.plan.len(),
                inputs: part.inputs,
                outputs: part.outputs,
            });
            plans.push(made.plan);
        }
        if self.backends == Backends::Cuda {
            self.summary.flops += flops(graph);
        }
        if is_whole {
            return Ok(plans.pop().map(|plan| (RunsOn::Gpu, plan)));
        }
        let inputs = graph_ports(graph, &graph.inputs);
        let outputs = graph_ports(graph, &graph.outputs).into_iter().zip(cut.outputs).collect();
        let plan = parts::Parts { inputs, outputs, parts }.write(&plans);
        self.clock.stage("write");
        Ok(Some((RunsOn::Both, plan)))
    }
}

/// Why nodes run on the processor that have kernels on GPUs.
const SPARED: &str = "it is too little work for a GPU beside what the processor does before and after it";

/// Adds what is new to a sorted list.
pub(super) fn insert(sorted: &mut Vec<String>, names: impl IntoIterator<Item = String>) {
    sorted.extend(names);
    sorted.sort_unstable();
    sorted.dedup();
}
