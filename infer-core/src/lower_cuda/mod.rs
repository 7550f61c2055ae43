//! Graph → kernel calls on a GPU: where each value lies, then each operator's calls.
//!
//! A value lies in one of two forms. What convolutions, pools and resizing compute, and what follows from that channel by
//! channel, are pictures: NHWC, channels padded to groups of eight. All else is row-major without gaps, which every view
//! keeps. A value is converted where the other form is asked for. Values share memory where no copy is needed: a view with
//! its input, the parts of a concatenation of channels with the whole.
//!
//! A node that has no kernels of its own here (`nodes`, `products`, `rows`) is lowered as for the processor (`plain`).

pub mod borrow;
mod chains;
mod nodes;
mod normalise;
mod pack;
mod plain;
mod products;
mod rows;
mod stem;
pub mod tactics;
mod transposed;

use infer_kernels::call::Activation;
use infer_kernels::cuda::{ElementType, Map, MapKind};
use sha2::{Digest, Sha256};

use self::borrow::Lender;
use self::pack::padded;
use self::stem::Stem;
use self::tactics::Tactic;
use crate::calls::{BufferId, BufferKind, Calls, KernelCall, Span};
use crate::diagnostic::{Diagnostic, Reason};
use crate::graph::{Graph, Node, ValueId};
use crate::import::{Failures, Origin, import};
use crate::onnx;
use crate::ops::concat::Concat;
use crate::options::{Options, Precision};
use crate::partition::{Partition, partition};
use crate::passes;
use crate::plan::{AlignedBytes, ModelInfo, PlanParts, Port};
use crate::schedule::plan_memory;
use crate::shape_inference::infer;
use crate::tensor_type::{DataType, TensorType};

/// A model as calls on a GPU.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The calls.
    pub calls: Calls,
    /// The precision they compute in.
    pub precision: Precision,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    info: ModelInfo,
}

/// Compiles a model as far as calls; [`Lowered::plan`] makes the plan.
///
/// # Errors
///
/// Those of [`compile`](crate::compile::compile), and all nodes that have no kernels on a GPU.
pub fn compile(options: &Options) -> Result<Lowered, Vec<Diagnostic>> {
    let file = onnx::read(&options.model).map_err(|diagnostic| vec![diagnostic])?;
    let sha256: [u8; 32] = Sha256::digest(&file.bytes).into();
    let model = infer(import(&file, &options.dims)?)?;
    let opset = model.info.opset() as u32;
    let (Partition::Static(mut graph), ..) = partition(model) else {
        let what = "some shapes or values are known at run time alone, which the GPU does not run yet";
        return Err(vec![Diagnostic::model(format!("{}: {what}", file.name))]);
    };
    let broken = |what: String| vec![Diagnostic::model(format!("{}: {what}", file.name))];
    passes::simplify(&mut graph, |_, _| {}).map_err(|error| broken(error.0))?;
    let info = ModelInfo { sha256, opset, flops: 0 };
    Lowered::of(&graph, options.precision, info)
        .map_err(|failures| vec![failures.into_diagnostic(&file.name)])
}

impl Lowered {
    /// Lowers a graph that [`passes::simplify`] has prepared.
    ///
    /// # Errors
    ///
    /// All nodes that have no kernels.
    pub fn of(graph: &Graph, precision: Precision, info: ModelInfo) -> Result<Self, Failures> {
        Lowered::or_refusals(graph, precision, info).map_err(|refusals| {
            let mut failures = Failures::default();
            for Refusal { place, reason } in refusals {
                place.add_to(&mut failures, graph, reason);
            }
            failures
        })
    }

    /// [`Lowered::of`], or else each node without kernels by its position in the graph, and why. An input or output that
    /// cannot be converted counts for the nodes that read or write it; there may be none.
    ///
    /// # Errors
    ///
    /// These nodes.
    pub fn or_nodes(
        graph: &Graph,
        precision: Precision,
        info: ModelInfo,
    ) -> Result<Self, Vec<(usize, Reason)>> {
        Lowered::or_refusals(graph, precision, info).map_err(|refusals| {
            let nodes = |Refusal { place, reason }: Refusal| {
                place.nodes(graph).into_iter().map(move |node| (node, reason.clone()))
            };
            refusals.into_iter().flat_map(nodes).collect()
        })
    }

    fn or_refusals(graph: &Graph, precision: Precision, info: ModelInfo) -> Result<Self, Vec<Refusal>> {
        let ports = |ids: &[ValueId]| -> Vec<Port> {
            ids.iter()
                .map(|&id| Port { name: graph.value(id).name.clone(), ty: graph.ty(id).clone() })
                .collect()
        };
        let (inputs, outputs) = (ports(&graph.inputs), ports(&graph.outputs));
        let mut calls = lower(graph, precision)?;
        chains::join(&mut calls);
        tactics::assign(&mut calls, precision, tactics::choose);
        tactics::normalise(&mut calls, precision);
        Ok(Lowered { calls, precision, inputs, outputs, info })
    }

    /// The same calls with other tactics.
    pub fn with_tactics(
        &self,
        choose: impl FnMut(&infer_kernels::cuda::Conv, Precision) -> Tactic,
    ) -> Lowered {
        let mut calls = self.calls.clone();
        tactics::assign(&mut calls, self.precision, choose);
        let (inputs, outputs) = (self.inputs.clone(), self.outputs.clone());
        Lowered { calls, precision: self.precision, inputs, outputs, info: self.info }
    }

    /// The plan, for a [`CudaEngine`](crate::runtime::cuda::CudaEngine).
    ///
    /// # Errors
    ///
    /// If the model exceeds a limit of the format, or there is no memory.
    pub fn plan(&self) -> Result<AlignedBytes, Diagnostic> {
        let (bytes, ..) = self.write()?;
        AlignedBytes::copy_of(&bytes).map_err(|error| Diagnostic::model(error.to_string()))
    }

    /// The plan without its weights, for [`CudaEngine::retuned`](crate::runtime::cuda::CudaEngine::retuned).
    ///
    /// # Errors
    ///
    /// If the model exceeds a limit of the format.
    pub fn tables(&self) -> Result<AlignedBytes, Diagnostic> {
        let memory = plan_memory(&self.calls).map_err(|conflict| Diagnostic::model(conflict.to_string()))?;
        let parts = PlanParts::new(&self.calls, &memory, &self.inputs, &self.outputs, self.info);
        Ok(parts.map_err(|error| Diagnostic::model(error.to_string()))?.into_tables())
    }

    /// The modules that hold the kernels, sorted.
    pub fn modules(&self) -> Vec<&'static str> {
        let calls = self.calls.prepare.iter().chain(&self.calls.calls);
        let mut modules = Vec::new();
        for call in calls {
            let kernel = infer_kernels::cuda::find(&call.kernel);
            let copies = kernel.and_then(|kernel| kernel.copies.as_ref());
            let other =
                copies.and_then(|copies| infer_kernels::cuda::find((copies.otherwise)(&call.params).0));
            modules.extend([kernel, other].into_iter().flatten().map(|kernel| kernel.module));
        }
        modules.sort_unstable();
        modules.dedup();
        modules
    }

    /// Has the plan borrow weights that `lender` has; gives how many bytes these are.
    pub fn borrow(&mut self, lender: &Lender) -> u64 {
        borrow::borrow(&mut self.calls, self.precision, lender)
    }

    /// The plan's bytes, the size of its weights and that of its arena.
    ///
    /// # Errors
    ///
    /// If the model exceeds a limit of the format.
    pub fn write(&self) -> Result<(Vec<u8>, u64, u64), Diagnostic> {
        let memory = plan_memory(&self.calls).map_err(|conflict| Diagnostic::model(conflict.to_string()))?;
        let failed = |error: String| Diagnostic::model(error);
        let parts = PlanParts::new(&self.calls, &memory, &self.inputs, &self.outputs, self.info)
            .map_err(|error| failed(error.to_string()))?;
        let mut bytes = Vec::with_capacity(parts.total_bytes() as usize);
        parts.write_to(&mut bytes).map_err(|error| failed(error.to_string()))?;
        Ok((bytes, parts.weight_bytes(), memory.arena_bytes))
    }
}

/// What has no kernels, and why.
struct Refusal {
    place: Place,
    reason: Reason,
}

/// What a [`Refusal`] is about: a node, an input or an output of the graph by its position.
#[derive(Clone, Copy)]
enum Place {
    Node(usize),
    Input(usize),
    Output(usize),
}

impl Place {
    /// The nodes that would have to run elsewhere.
    fn nodes(self, graph: &Graph) -> Vec<usize> {
        match self {
            Place::Node(index) => vec![index],
            Place::Input(port) => graph.readers().swap_remove(graph.inputs[port].index()),
            Place::Output(port) => graph.writers()[graph.outputs[port].index()].into_iter().collect(),
        }
    }

    fn add_to(self, failures: &mut Failures, graph: &Graph, reason: Reason) {
        let port = |kind: &str, id: ValueId| (graph.value(id).name.clone(), kind.to_owned(), Vec::new());
        let (name, op_type, types) = match self {
            Place::Node(index) => {
                let node = &graph.nodes[index];
                let known = node.inputs.iter().flatten();
                let types = known.map(|&id| (graph.value(id).name.clone(), graph.ty(id).clone())).collect();
                (node.name.clone(), node.op.name().to_owned(), types)
            }
            Place::Input(index) => port("input", graph.inputs[index]),
            Place::Output(index) => port("output", graph.outputs[index]),
        };
        failures.add(&name, &Origin { op_type, opset: 0 }, reason, types);
    }
}

/// Where a value's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// Its own.
    Own,
    /// Inside that of another value, from this channel on.
    Inside(ValueId, usize),
}

/// How a value lies where it is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// NHWC, channels padded.
    Picture,
    /// Row-major.
    Rows,
}

/// A picture in memory.
#[derive(Clone, Copy, Debug)]
struct Picture {
    span: Span,
    /// Elements from one pixel to the next.
    stride: usize,
    n: usize,
    c: usize,
    h: usize,
    w: usize,
}

impl Picture {
    fn image_pixels(&self) -> usize {
        self.h * self.w
    }

    fn pixels(&self) -> usize {
        self.n * self.image_pixels()
    }
}

/// Images, channels, rows and columns of a tensor.
fn extents(ty: &TensorType) -> Result<[usize; 4], Reason> {
    if ty.dtype != DataType::F32 {
        return Err(Reason::new(format!("{ty} on the GPU")).supported("f32"));
    }
    let extents = match *ty.shape.as_slice() {
        [n, c] => [n, c, 1, 1],
        [n, c, w] => [n, c, 1, w],
        [n, c, h, w] => [n, c, h, w],
        _ => return Err(Reason::new(format!("{ty} on the GPU")).supported("2 to 4 dimensions")),
    };
    let elements = extents.iter().try_fold(1usize, |count, &extent| count.checked_mul(extent));
    match elements {
        Some(1..=0x3fff_ffff) => Ok(extents),
        _ => Err(Reason::new(format!("{ty} on the GPU")).supported("1 to 2^30 elements")),
    }
}

/// How f32 is stored.
fn stored_float(precision: Precision) -> ElementType {
    match precision {
        Precision::Fp32 | Precision::Tf32 => ElementType::F32,
        Precision::Fp16 => ElementType::F16,
        Precision::Bf16 => ElementType::Bf16,
    }
}

fn int(value: usize) -> Result<i32, Reason> {
    i32::try_from(value).map_err(|_| Reason::new(format!("{value} elements on the GPU")))
}

/// The calls of a graph that [`passes::simplify`] has prepared, convolutions without their tactics.
fn lower(graph: &Graph, precision: Precision) -> Result<Calls, Vec<Refusal>> {
    let forms = forms(graph);
    let mut lowering = Lowering {
        graph,
        calls: Calls::default(),
        homes: place(graph, &forms),
        roots: vec![None; graph.values.len()],
        writers: graph.writers(),
        forms,
        rows: vec![None; graph.values.len()],
        pictures: vec![None; graph.values.len()],
        full: vec![None; graph.values.len()],
        precision,
        float: stored_float(precision),
        failed: false,
        node: String::new(),
    };
    let mut refusals = Vec::new();
    let readers = graph.readers();
    for (port, &id) in graph.inputs.iter().enumerate() {
        if lowering.forms[id.index()] == Form::Rows {
            continue;
        }
        // Some convolutions read an input as the caller has it.
        let as_it_is = |&reader: &usize| {
            Stem::of(graph, &graph.nodes[reader], precision).is_some_and(|stem| stem.port == port)
        };
        if !graph.outputs.contains(&id) && readers[id.index()].iter().all(as_it_is) {
            continue;
        }
        lowering.node = graph.value(id).name.clone();
        if let Err(reason) = lowering.convert_input(port, id) {
            refusals.push(Refusal { place: Place::Input(port), reason });
        }
    }
    for (index, node) in graph.nodes.iter().enumerate() {
        lowering.node = node.name.clone();
        if let Err(reason) = lowering.lower_node(node) {
            lowering.failed = true;
            refusals.push(Refusal { place: Place::Node(index), reason });
        }
    }
    if refusals.is_empty() {
        for (port, &id) in graph.outputs.iter().enumerate() {
            lowering.node = graph.value(id).name.clone();
            if let Err(reason) = lowering.convert_output(port, id) {
                refusals.push(Refusal { place: Place::Output(port), reason });
            }
        }
    }
    if refusals.is_empty() { Ok(lowering.calls) } else { Err(refusals) }
}

/// Whether a view's picture has its input's memory.
fn is_same_picture(graph: &Graph, from: ValueId, to: ValueId) -> bool {
    match (extents(graph.ty(from)), extents(graph.ty(to))) {
        (Ok([n, c, h, w]), Ok(to)) => [n, c, h * w] == [to[0], to[1], to[2] * to[3]],
        _ => false,
    }
}

/// Decides for each value how it lies.
fn forms(graph: &Graph) -> Vec<Form> {
    let mut forms = vec![Form::Rows; graph.values.len()];
    let readers = graph.readers();
    for &id in &graph.inputs {
        let mut readers = readers[id.index()].iter().map(|&reader| &graph.nodes[reader]);
        if extents(graph.ty(id)).is_ok() && readers.any(|reader| nodes::wants_pictures(graph, reader)) {
            forms[id.index()] = Form::Picture;
        }
    }
    for node in &graph.nodes {
        if let Some(output) = node.output(0)
            && nodes::is_on_pictures(graph, node, &forms)
        {
            forms[output.index()] = Form::Picture;
        }
    }
    forms
}

/// Decides for each picture whether it lies inside another.
fn place(graph: &Graph, forms: &[Form]) -> Vec<Home> {
    let is_picture = |id: ValueId| forms[id.index()] == Form::Picture;
    let mut homes = vec![Home::Own; graph.values.len()];
    for node in graph.nodes.iter().filter(|node| node.op.is_view()) {
        if let (Some(input), Some(output)) = (node.input(0), node.output(0))
            && is_picture(output)
        {
            homes[output.index()] = Home::Inside(input, 0);
        }
    }
    for node in &graph.nodes {
        let (Some(parts), Some(whole)) = (channel_parts(graph, node), node.output(0)) else { continue };
        if !is_picture(whole) {
            continue;
        }
        for (part, start) in parts {
            let free = homes[part.index()] == Home::Own && is_picture(part);
            if free && start.is_multiple_of(padded(1)) {
                homes[part.index()] = Home::Inside(whole, start);
            }
        }
    }
    homes
}

/// The parts of a concatenation of channels, with the channel that each starts at.
fn channel_parts(graph: &Graph, node: &Node) -> Option<Vec<(ValueId, usize)>> {
    let axis = node.op_as::<Concat>()?.axis;
    let ty = graph.ty(node.output(0)?);
    if crate::ops::resolve_axis(axis, ty.rank()).ok()? != 1 {
        return None;
    }
    let mut start = 0;
    let mut parts = Vec::new();
    for part in &node.inputs {
        let part = (*part)?;
        parts.push((part, start));
        start += graph.ty(part).shape.get(1)?;
    }
    Some(parts)
}

struct Lowering<'a> {
    graph: &'a Graph,
    calls: Calls,
    homes: Vec<Home>,
    /// The buffers of values that own their memory, once they have them.
    roots: Vec<Option<BufferId>>,
    /// Which node computes each value.
    writers: Vec<Option<usize>>,
    forms: Vec<Form>,
    /// Values row-major, once they lie so.
    rows: Vec<Option<rows::Rows>>,
    /// Row-major values as pictures, once they lie so.
    pictures: Vec<Option<Picture>>,
    /// Values that are stored in 16 bits, row-major in f32, once they lie so.
    full: Vec<Option<Span>>,
    precision: Precision,
    /// How f32 is stored.
    float: ElementType,
    /// Whether a node has no kernels: what it computes is not missed then.
    failed: bool,
    /// The name of the node that is being lowered.
    node: String,
}

impl Lowering<'_> {
    fn element_bytes(&self) -> usize {
        self.float.bytes() as usize
    }

    /// Where value `id` lies.
    fn picture(&mut self, id: ValueId) -> Result<Picture, Reason> {
        if self.forms[id.index()] == Form::Rows {
            return self.picture_of_rows(id);
        }
        let (mut start, mut root) = (0, id);
        while let Home::Inside(outer, channel) = self.homes[root.index()] {
            (start, root) = (start + channel, outer);
        }
        let [n, c, h, w] = extents(self.graph.ty(root))?;
        let stride = padded(c);
        let bytes = n * h * w * stride * self.element_bytes();
        let buffer = match self.roots[root.index()] {
            Some(buffer) => buffer,
            None => {
                let buffer = self.calls.add_buffer(BufferKind::Arena, bytes as u64);
                self.roots[root.index()] = Some(buffer);
                buffer
            }
        };
        let offset_bytes = (start * self.element_bytes()) as u64;
        let span = Span { buffer, offset_bytes, bytes: bytes as u64 - offset_bytes };
        let [n, c, h, w] = extents(self.graph.ty(id))?;
        Ok(Picture { span, stride, n, c, h, w })
    }

    /// Calls a kernel of the family for the precision; all but the last `outputs` operands are read.
    ///
    /// Pictures in tf32 are rounded to it by whatever computes them: convolutions cut off what is not.
    fn call<P: bytemuck::Pod>(
        &mut self,
        family: &str,
        params: &P,
        operands: &[Option<Span>],
        outputs: usize,
    ) {
        let rounded = format!("cuda_{family}_tf32");
        let kernel = match self.precision {
            Precision::Tf32 if infer_kernels::cuda::find(&rounded).is_some() => rounded,
            _ => format!("cuda_{family}_{}", self.float.name()),
        };
        self.call_named(&kernel, params, operands, outputs);
    }

    /// Calls a kernel; all but the last `outputs` operands are read.
    fn call_named<P: bytemuck::Pod>(
        &mut self,
        kernel: &str,
        params: &P,
        operands: &[Option<Span>],
        outputs: usize,
    ) {
        self.calls.calls.push(KernelCall {
            kernel: kernel.to_owned(),
            params: bytemuck::bytes_of(params).to_vec(),
            operands: operands.to_vec(),
            outputs,
            node: self.node.clone(),
        });
    }

    /// An input of the graph as the caller has it.
    fn input(&mut self, port: usize) -> Span {
        let bytes = self.graph.ty(self.graph.inputs[port]).bytes() as u64;
        let buffer = self.calls.add_buffer(BufferKind::Input(port), bytes);
        self.calls.whole(buffer)
    }

    fn convert_input(&mut self, port: usize, id: ValueId) -> Result<(), Reason> {
        let picture = self.picture(id)?;
        let operands = [Some(self.input(port)), Some(picture.span)];
        self.call("from_plain", &Self::layout(&picture)?, &operands, 1);
        Ok(())
    }

    fn convert_output(&mut self, port: usize, id: ValueId) -> Result<(), Reason> {
        // A view of any kind has the elements of its input in the order of a row-major tensor, which this one is.
        let source = self.viewed(id);
        if self.forms[source.index()] == Form::Rows || self.full[source.index()].is_some() {
            return self.give(port, id);
        }
        let picture = self.picture(source)?;
        let bytes = self.graph.ty(id).bytes() as u64;
        let buffer = self.calls.add_buffer(BufferKind::Output(port), bytes);
        let operands = [Some(picture.span), Some(self.calls.whole(buffer))];
        self.call("to_plain", &Self::layout(&picture)?, &operands, 1);
        Ok(())
    }

    /// A function of one or two pictures, or a copy.
    fn map(
        &mut self,
        kind: MapKind,
        [left, right]: [&Picture; 2],
        output: &Picture,
        activation: Activation,
    ) -> Result<(), Reason> {
        let params = Map {
            pixels: int(left.pixels())?,
            channels: int(padded(left.c))?,
            left_stride: int(left.stride)?,
            right_stride: int(right.stride)?,
            out_stride: int(output.stride)?,
            share: int(left.pixels() / right.pixels())?,
            kind: kind as i32,
            reserved: 0,
            activation,
        };
        let second = (kind != MapKind::Left).then_some(right.span);
        self.call("map", &params, &[Some(left.span), second, Some(output.span)], 1);
        Ok(())
    }
}
