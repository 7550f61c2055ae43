//! Kernel calls over buffers: what operators lower to, before memory is planned.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use bytemuck::{NoUninit, Pod};
use bytes::Bytes;
use infer_kernels::call::{BLOCK, Elementwise, View};

use crate::constant::Constant;
use crate::decisions::{Candidate, Decisions};
use crate::diagnostic::Reason;
use crate::node_types::{InputType, NodeTypes};
use crate::plan::PlanId;
use crate::tensor_type::{DataType, TensorType};

/// Names a buffer of [`Calls`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// A range of memory that calls read and write.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// Where it lies.
    pub kind: BufferKind,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Where a buffer lies.
#[derive(Clone, Debug)]
pub enum BufferKind {
    /// A graph input, as the caller hands it in.
    Input(usize),
    /// A graph output, as the caller hands it in.
    Output(usize),
    /// Data of the plan.
    Constant(Bytes),
    /// The arena, at an offset that the schedule decides.
    Arena,
    /// What a call of [`Calls::prepare`] writes.
    Prepared,
    /// Data of another plan, [`Calls::lender`], at this offset in its weights.
    Borrowed(u64),
}

/// A range of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The buffer.
    pub buffer: BufferId,
    /// Where it begins.
    pub offset_bytes: u64,
    /// How long it is.
    pub bytes: u64,
}

/// One call of a kernel.
#[derive(Clone, Debug)]
pub struct KernelCall {
    /// The kernel's name.
    pub kernel: String,
    /// The bytes of its parameter structure.
    pub params: Vec<u8>,
    /// Its operands, inputs first; `None` for an optional one that is absent.
    pub operands: Vec<Option<Span>>,
    /// How many of the operands, at the end, it writes.
    pub outputs: usize,
    /// The node it came from.
    pub node: String,
}

/// The calls of a graph, in order, and the buffers they run on.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    /// The buffers, named by [`BufferId`].
    pub buffers: Vec<Buffer>,
    /// The calls.
    pub calls: Vec<KernelCall>,
    /// How layers are to be computed, and what was decided for each.
    pub decisions: Decisions,
    /// Whether large products may run by Strassen's algorithm, and convolutions by Winograd's along rows.
    pub fewer_products: bool,
    /// Calls that run once, before all others, from constants into prepared buffers.
    pub prepare: Vec<KernelCall>,
    /// The plan whose weights some of the buffers are.
    pub lender: Option<PlanId>,
    /// The constants that are the weights of a convolution or product in the order of the backend's kernels: of so many
    /// output channels, taps and input channels.
    pub filters: HashMap<BufferId, [usize; 3]>,
    constants: HashMap<u64, Vec<BufferId>>,
}

impl Calls {
    /// No calls yet, and how layers are to be computed.
    pub fn deciding(decisions: Decisions) -> Self {
        Calls { decisions, ..Calls::default() }
    }

    /// Adds a buffer.
    pub fn add_buffer(&mut self, kind: BufferKind, bytes: u64) -> BufferId {
        self.buffers.push(Buffer { kind, bytes });
        BufferId((self.buffers.len() - 1) as u32)
    }

    /// A buffer with these bytes; data that is there already is not stored again.
    pub fn add_constant(&mut self, data: Bytes) -> BufferId {
        // Length and ends tell most data apart without reading all of it; equality decides.
        let (head, tail) = (&data[..data.len().min(64)], &data[data.len().saturating_sub(64)..]);
        let mut hasher = DefaultHasher::new();
        (data.len(), head, tail).hash(&mut hasher);
        let key = hasher.finish();
        for &id in self.constants.get(&key).into_iter().flatten() {
            if matches!(&self.buffers[id.0 as usize].kind, BufferKind::Constant(known) if *known == data) {
                return id;
            }
        }
        let bytes = data.len() as u64;
        let id = self.add_buffer(BufferKind::Constant(data), bytes);
        self.constants.entry(key).or_default().push(id);
        id
    }

    /// What `call`, whose operands are `inputs` and then `bytes` bytes that it writes, prepares from constants. Of
    /// equal calls there is one.
    pub fn add_prepared(&mut self, call: KernelCall, bytes: u64) -> Span {
        let known = self.prepare.iter().find(|known| {
            known.kernel == call.kernel
                && known.params == call.params
                && known.operands.split_last().is_some_and(|(_, inputs)| *inputs == call.operands)
        });
        if let Some(Some(Some(span))) = known.map(|known| known.operands.last()) {
            return *span;
        }
        let buffer = self.add_buffer(BufferKind::Prepared, bytes);
        let span = self.whole(buffer);
        let operands = call.operands.iter().copied().chain([Some(span)]).collect();
        self.prepare.push(KernelCall { operands, outputs: 1, ..call });
        span
    }

    /// The whole of a buffer.
    pub fn whole(&self, buffer: BufferId) -> Span {
        Span { buffer, offset_bytes: 0, bytes: self.buffers[buffer.0 as usize].bytes }
    }
}

/// Where and how a value lies in memory.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its type.
    pub ty: TensorType,
    /// The memory: for a plain tensor exactly its elements, for a blocked one the range that `blocked` counts from.
    pub span: Span,
    /// The blocked layout, or `None` for row-major without gaps.
    pub blocked: Option<Blocked>,
}

/// A picture in blocks of channels; see [`View`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Channels in a block.
    pub block: usize,
    /// Strides and offset within the span.
    pub view: View,
    /// The border of zeros around it: rows above, columns left, rows below, columns right.
    pub halo: [usize; 4],
}

/// The ways to compute a 3×3 convolution: directly, or by Winograd's algorithm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Squares {
    /// What each is estimated to cost, in the order of [`Squares::TILES`].
    pub ways: [Candidate; 3],
    /// The position of the one that is chosen where nothing was measured.
    pub default: usize,
    /// The size of tiles for which f32 weights are stored in the plan as they are multiplied, in place of those that they
    /// are made of.
    pub stored: Option<u64>,
}

impl Squares {
    /// The size of tiles of each way; `None` for direct convolution.
    pub const TILES: [Option<u64>; 3] = [None, Some(4), Some(2)];
}

/// The most chunks of a call that run at once in memory of their own, and the memory that they may take.
const SLOTS: u64 = 16;
const SLOT_BYTES: u64 = 12 << 20;

/// One node while it is lowered: its tensors, and the calls it adds to.
pub struct LowerNode<'a> {
    /// The calls so far.
    pub calls: &'a mut Calls,
    /// The node's name.
    pub name: &'a str,
    /// The inputs; `None` for one left out.
    pub inputs: Vec<Option<Tensor>>,
    /// The elements of the inputs that are constants.
    pub constants: Vec<Option<&'a Constant>>,
    /// The outputs; `None` for one nobody asked for.
    pub outputs: Vec<Option<Tensor>>,
    /// Whether large weights are stored as f16.
    pub half_weights: bool,
    /// The ways to compute a convolution that Winograd's algorithm can; `None` for others, and wherever nothing is
    /// prepared.
    pub winograd: Option<Squares>,
}

impl<'a> LowerNode<'a> {
    /// Input `index`, which inference has found to be there.
    pub fn input(&self, index: usize) -> Result<Tensor, Reason> {
        self.optional_input(index).ok_or_else(|| Reason::new(format!("input {index} is missing")))
    }

    /// Input `index`, or `None` where it is left out.
    pub fn optional_input(&self, index: usize) -> Option<Tensor> {
        self.inputs.get(index).cloned().flatten()
    }

    /// The elements of input `index`, where they are known.
    pub fn constant(&self, index: usize) -> Option<&'a Constant> {
        self.constants.get(index).copied().flatten()
    }

    /// Output `index`, which must be asked for.
    pub fn output(&self, index: usize) -> Result<Tensor, Reason> {
        let output = self.outputs.get(index).cloned().flatten();
        output.ok_or_else(|| Reason::new(format!("output {index} is not asked for")))
    }

    /// The inputs as shape inference sees them.
    pub fn with_types<R>(&self, use_types: impl FnOnce(&NodeTypes<'_>) -> R) -> R {
        let inputs: Vec<Option<InputType<'_>>> = (0..self.inputs.len())
            .map(|i| {
                let input = self.inputs[i].as_ref()?;
                Some(InputType { ty: &input.ty, constant: self.constant(i) })
            })
            .collect();
        let outputs: Vec<bool> = self.outputs.iter().map(Option::is_some).collect();
        use_types(&NodeTypes { inputs: &inputs, outputs: &outputs })
    }

    /// One of several ways to compute this node, by its position: the one that tactics name, else the cheapest by estimate.
    ///
    /// `question` is a word for what is chosen; the signature says all that the candidates' speed depends on. Candidates
    /// must be equally right: whichever is chosen, the node computes what its operator says.
    pub fn choose(
        &mut self,
        question: &'static str,
        signature: impl FnOnce() -> String,
        candidates: &[Candidate],
    ) -> usize {
        self.choose_or(question, signature, candidates, Candidate::cheapest(candidates))
    }

    /// [`LowerNode::choose`] with another default than the cheapest: by what estimates do not say, such as memory.
    pub fn choose_or(
        &mut self,
        question: &'static str,
        signature: impl FnOnce() -> String,
        candidates: &[Candidate],
        default: usize,
    ) -> usize {
        self.calls.decisions.choose(self.name, question, signature, candidates, default)
    }

    /// Says why this node is lowered as it is: for the report, if there is to be one.
    pub fn explain(&mut self, reason: impl FnOnce() -> String) {
        self.calls.decisions.explain(reason);
    }

    /// Data of the plan: packed weights, tables.
    pub fn data<T: NoUninit>(&mut self, values: &[T]) -> Span {
        let id = self.calls.add_constant(Bytes::copy_from_slice(bytemuck::cast_slice(values)));
        self.calls.whole(id)
    }

    /// Says that `span`, a whole constant, is weights in the processor's panels: of so many output channels, taps and input
    /// channels.
    pub fn are_filters(&mut self, span: Span, extents: [usize; 3]) {
        self.calls.filters.insert(span.buffer, extents);
    }

    /// What `kernel` makes of constants when the plan is opened: `bytes` bytes, its only output.
    pub fn prepare<P: Pod>(
        &mut self,
        kernel: impl Into<String>,
        params: &P,
        inputs: &[Option<Span>],
        bytes: u64,
    ) -> Span {
        let call = KernelCall {
            kernel: kernel.into(),
            params: bytemuck::bytes_of(params).to_vec(),
            operands: inputs.to_vec(),
            outputs: 0,
            node: self.name.to_owned(),
        };
        self.calls.add_prepared(call, bytes)
    }

    /// Memory of the arena that lives from the first to the last call of this node that names it.
    pub fn scratch(&mut self, bytes: u64) -> Span {
        let id = self.calls.add_buffer(BufferKind::Arena, bytes);
        self.calls.whole(id)
    }

    /// [`LowerNode::scratch`] for chunks that each work in `slot` bytes of their own: for as many as are to run at once, of
    /// `chunks` that there can be.
    pub fn scratch_slots(&mut self, slot: u64, chunks: u64) -> Span {
        let slots = (SLOT_BYTES / slot.max(1)).clamp(1, SLOTS.min(chunks).max(1));
        self.scratch(slots * slot)
    }

    /// Memory of the arena for a plain tensor of type `ty`.
    pub fn scratch_tensor(&mut self, ty: TensorType) -> Tensor {
        let span = self.scratch(ty.bytes() as u64);
        Tensor { ty, span, blocked: None }
    }

    /// Calls `kernel`; the last operand is its output.
    pub fn call<P: Pod>(&mut self, kernel: impl Into<String>, params: &P, operands: &[Option<Span>]) {
        self.call_with_outputs(kernel, params, operands, 1);
    }

    /// Calls `kernel`, whose last `outputs` operands are outputs.
    pub fn call_with_outputs<P: Pod>(
        &mut self,
        kernel: impl Into<String>,
        params: &P,
        operands: &[Option<Span>],
        outputs: usize,
    ) {
        self.calls.calls.push(KernelCall {
            kernel: kernel.into(),
            params: bytemuck::bytes_of(params).to_vec(),
            operands: operands.to_vec(),
            outputs,
            node: self.name.to_owned(),
        });
    }

    /// Calls an elementwise `kernel` over the index space of `output`, to which the inputs broadcast. All tensors are
    /// plain, or the output and the inputs that are not constants are blocked; constants may then be scalars or
    /// have one value for each channel. `adjust` sets the call's constants.
    pub fn elementwise(
        &mut self,
        kernel: impl Into<String>,
        inputs: &[&Tensor],
        output: &Tensor,
        adjust: impl FnOnce(&mut Elementwise),
    ) -> Result<(), Reason> {
        let mut walks: Vec<(Vec<i64>, u64)> = Vec::new();
        let mut spans = Vec::new();
        let (shape, own) = physical(output);
        for input in inputs {
            let (strides, offset, span) = match output.blocked {
                None => (broadcast_strides(&input.ty, &output.ty.shape)?, 0, input.span),
                Some(_) => self.blocked_walk(input, output)?,
            };
            walks.push((strides, offset));
            spans.push(Some(span));
        }
        walks.push(own);
        spans.push(Some(output.span));
        let operands: Vec<(&[i64], u64)> = walks.iter().map(|(s, o)| (s.as_slice(), *o)).collect();
        let mut call = Elementwise::new(&shape, &operands)
            .ok_or_else(|| Reason::new(format!("more than 8 separate dimensions in {}", output.ty)))?;
        adjust(&mut call);
        self.call(kernel, &call, &spans);
        Ok(())
    }

    /// How a blocked output's index space `[n, blocks, h, w, block]` walks over `input`.
    fn blocked_walk(&mut self, input: &Tensor, output: &Tensor) -> Result<(Vec<i64>, u64, Span), Reason> {
        if let Some(blocked) = input.blocked {
            let (_, (mut strides, offset)) = physical(input);
            let extents = &input.ty.shape;
            for (axis, slots) in [(0, 0..1), (1, 1..2), (2, 2..3), (3, 3..4)] {
                if extents[axis] == 1 && output.ty.shape[axis] != 1 {
                    strides[slots].fill(0);
                    if axis == 1 {
                        strides[4] = 0;
                    }
                }
            }
            debug_assert_eq!(Some(blocked.block), output.blocked.map(|b| b.block));
            return Ok((strides, offset, input.span));
        }
        if input.ty.elements() == 1 {
            return Ok((vec![0; 5], 0, input.span));
        }
        let channels = output.ty.shape[1];
        let by_channel = by_channel(&input.ty, channels);
        match self.constant_of(input) {
            Some(data) if by_channel => {
                let block = output.blocked.map_or(BLOCK, |b| b.block);
                let width = input.ty.dtype.size_bytes();
                let mut padded = data.to_vec();
                padded.resize(channels.next_multiple_of(block) * width, 0);
                let id = self.calls.add_constant(padded.into());
                Ok((vec![0, block as i64, 0, 0, 1], 0, self.calls.whole(id)))
            }
            _ => Err(Reason::new(format!("a plain {} beside a blocked {}", input.ty, output.ty))),
        }
    }

    fn constant_of(&self, tensor: &Tensor) -> Option<Bytes> {
        let buffer = &self.calls.buffers[tensor.span.buffer.0 as usize];
        match &buffer.kind {
            BufferKind::Constant(data) => {
                let start = tensor.span.offset_bytes as usize;
                Some(data.slice(start..start + tensor.span.bytes as usize))
            }
            _ => None,
        }
    }

    /// Copies `input` as it is walked by `strides` from element `offset` over `shape` into `output`, row-major.
    pub fn copy_strided(
        &mut self,
        input: &Tensor,
        strides: &[i64],
        offset: u64,
        output: &Tensor,
        shape: &[usize],
    ) -> Result<(), Reason> {
        let out_strides = TensorType::new(output.ty.dtype, shape).strides();
        self.copy_between(input, (strides, offset), output, (&out_strides, 0), shape)
    }

    /// Copies between two tensors over `shape`, each walked by its strides from its first element.
    pub fn copy_between(
        &mut self,
        input: &Tensor,
        from: (&[i64], u64),
        output: &Tensor,
        to: (&[i64], u64),
        shape: &[usize],
    ) -> Result<(), Reason> {
        let refuse = || Reason::new(format!("more than 8 separate dimensions in {shape:?}"));
        let operands = [Some(input.span), Some(output.span)];
        if output.ty.dtype.size_bytes() == 16 {
            // No kernel moves so much at once: two halves of each element, one after the other.
            let halves = |strides: &[i64]| strides.iter().map(|stride| stride * 2).chain([1]).collect();
            let (from_strides, to_strides): (Vec<i64>, Vec<i64>) = (halves(from.0), halves(to.0));
            let operand_walks = [(&*from_strides, from.1 * 2), (&*to_strides, to.1 * 2)];
            let call = Elementwise::new(&[shape, &[2]].concat(), &operand_walks).ok_or_else(refuse)?;
            self.call("copy_b8", &call, &operands);
            return Ok(());
        }
        let call = Elementwise::new(shape, &[from, to]).ok_or_else(refuse)?;
        self.call(sized_kernel("copy", output.ty.dtype), &call, &operands);
        Ok(())
    }
}

/// The kernel of family `family` that moves elements of type `dtype`: `copy_b4`.
pub fn sized_kernel(family: &str, dtype: DataType) -> String {
    format!("{family}_b{}", dtype.size_bytes())
}

/// Whether `ty` broadcasts over a `[N, channels, H, W]` picture with one element for each channel.
pub fn by_channel(ty: &TensorType, channels: usize) -> bool {
    match *ty.shape.as_slice() {
        [c, 1, 1] | [1, c, 1, 1] => c == channels,
        _ => false,
    }
}

/// The index space that a tensor's memory has, and the strides and first element by which it walks it.
pub(crate) fn physical(tensor: &Tensor) -> (Vec<usize>, (Vec<i64>, u64)) {
    match &tensor.blocked {
        None => (tensor.ty.shape.clone(), (tensor.ty.strides(), 0)),
        Some(Blocked { block, view, .. }) => {
            let [n, c, h, w] = picture(&tensor.ty);
            let strides = [view.stride_n, view.stride_c, view.stride_h, view.stride_w, 1].map(|s| s as i64);
            (vec![n, c.div_ceil(*block), h, w, *block], (strides.to_vec(), view.offset))
        }
    }
}

/// The extents of a `[N, C, H, W]` picture; `[N, C, W]` counts as one row.
///
/// # Panics
///
/// For other ranks: only pictures are blocked.
pub fn picture(ty: &TensorType) -> [usize; 4] {
    match *ty.shape.as_slice() {
        [n, c, h, w] => [n, c, h, w],
        [n, c, w] => [n, c, 1, w],
        _ => panic!("{ty} is no picture"),
    }
}

/// The strides by which a row-major `ty` is read over `shape`, to which it broadcasts.
pub fn broadcast_strides(ty: &TensorType, shape: &[usize]) -> Result<Vec<i64>, Reason> {
    let mismatch = || Reason::new(format!("{ty} does not broadcast to {shape:?}"));
    let lead = shape.len().checked_sub(ty.rank()).ok_or_else(mismatch)?;
    let mut strides = vec![0; shape.len()];
    for (axis, stride) in ty.strides().into_iter().enumerate() {
        if ty.shape[axis] == shape[lead + axis] {
            strides[lead + axis] = if ty.shape[axis] == 1 { 0 } else { stride };
        } else if ty.shape[axis] != 1 {
            return Err(mismatch());
        }
    }
    Ok(strides)
}
