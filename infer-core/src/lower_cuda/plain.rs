//! What the fast paths refuse: a node lowered as for the processor, each of its calls run by its twin on the GPU.
//!
//! Such calls read and write row-major tensors in the model's own types. Where f32 is stored in 16 bits, their operands are
//! f32 all the same: a value is widened once, what they compute stays f32 as long as only they read it, and an output of
//! the graph is given as it is.

use infer_kernels::cuda::ElementType;
use infer_kernels::cuda::plain::{Twin, twin};

use super::rows::Rows;
use super::{Form, Lowering};
use crate::calls::{BufferId, BufferKind, KernelCall, LowerNode, Span, Tensor};
use crate::diagnostic::Reason;
use crate::graph::{Node, ValueId};
use crate::tensor_type::DataType;

/// How far the lowering has come.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    calls: usize,
    buffers: usize,
}

impl Lowering<'_> {
    pub(super) fn mark(&self) -> Mark {
        Mark { calls: self.calls.calls.len(), buffers: self.calls.buffers.len() }
    }

    /// Takes back the calls since `mark`, and forgets what they would have computed. Where pictures lie stays decided.
    pub(super) fn back_to(&mut self, mark: Mark) {
        self.calls.calls.truncate(mark.calls);
        let calls = &self.calls;
        let is_gone = |buffer: BufferId| {
            let index = buffer.0 as usize;
            index >= mark.buffers && matches!(calls.buffers[index].kind, BufferKind::Arena)
        };
        for slot in &mut self.rows {
            slot.take_if(|rows| is_gone(rows.span.buffer));
        }
        for slot in &mut self.pictures {
            slot.take_if(|picture| is_gone(picture.span.buffer));
        }
        for slot in &mut self.full {
            slot.take_if(|span| is_gone(span.buffer));
        }
    }

    /// Whether a value is stored in fewer bits than its type has.
    fn is_narrowed(&self, id: ValueId) -> bool {
        self.float != ElementType::F32 && self.graph.ty(id).dtype == DataType::F32
    }

    /// The value that a chain of views begins with.
    pub(super) fn viewed(&self, mut id: ValueId) -> ValueId {
        while let Some(writer) = self.writers[id.index()].map(|writer| &self.graph.nodes[writer])
            && writer.op.is_view()
            && let Some(input) = writer.input(0)
        {
            id = input;
        }
        id
    }

    /// A value as a call left it or gets it: row-major, in its own type.
    pub(super) fn full(&mut self, id: ValueId) -> Result<Span, Reason> {
        let id = if self.graph.value(id).constant.is_some() { id } else { self.viewed(id) };
        if !self.is_narrowed(id) {
            return Ok(self.rows(id)?.span);
        }
        if let Some(span) = self.full[id.index()] {
            return Ok(span);
        }
        let ty = self.graph.ty(id).clone();
        let given = self.graph.inputs.iter().position(|&input| input == id);
        let span = if let Some(constant) = &self.graph.value(id).constant {
            let data = constant.data().clone();
            self.data(data)
        } else if let Some(port) = given {
            self.input(port)
        } else {
            let from = self.rows(id)?;
            let buffer = self.calls.add_buffer(BufferKind::Arena, ty.bytes() as u64);
            let to = Rows { span: self.calls.whole(buffer), ty: ElementType::F32 };
            self.copy(from, to, Self::elements(&ty)?)?;
            to.span
        };
        self.full[id.index()] = Some(span);
        Ok(span)
    }

    /// Memory for a value in its own type, which a call is about to write.
    fn new_full(&mut self, id: ValueId) -> Result<Span, Reason> {
        let ty = self.graph.ty(id);
        Self::elements(ty)?;
        let buffer = self.calls.add_buffer(BufferKind::Arena, ty.bytes() as u64);
        let span = self.calls.whole(buffer);
        if self.is_narrowed(id) {
            (self.full[id.index()], self.rows[id.index()]) = (Some(span), None);
        } else {
            let ty = self.stored(ty.dtype)?;
            self.rows[id.index()] = Some(Rows { span, ty });
        }
        Ok(span)
    }

    /// Lowers a node as for the processor.
    pub(super) fn lower_plain(&mut self, node: &Node) -> Result<(), Reason> {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for id in &node.inputs {
            inputs.push(match *id {
                Some(id) => {
                    Some(Tensor { ty: self.graph.ty(id).clone(), span: self.full(id)?, blocked: None })
                }
                None => None,
            });
        }
        let mut outputs = Vec::with_capacity(node.outputs.len());
        for id in &node.outputs {
            outputs.push(match *id {
                Some(id) => {
                    Some(Tensor { ty: self.graph.ty(id).clone(), span: self.new_full(id)?, blocked: None })
                }
                None => None,
            });
        }
        let first = self.calls.calls.len();
        let constants = node.inputs.iter().map(|id| self.graph.constant(*id)).collect();
        node.op.lower(&mut LowerNode {
            calls: &mut self.calls,
            name: &node.name,
            inputs,
            constants,
            outputs,
            half_weights: false,
            winograd: None,
        })?;
        let own = self.calls.calls.split_off(first);
        // What the processor prepares once is computed with the rest: a plan for the GPU has no such memory.
        let prepared = std::mem::take(&mut self.calls.prepare);
        for call in prepared.into_iter().chain(own) {
            self.emit(call)?;
        }
        for &output in node.outputs.iter().flatten() {
            if self.forms[output.index()] == Form::Picture {
                let rows = self.rows(output)?;
                let picture = self.picture(output)?;
                let layout = Self::layout(&picture)?;
                self.call("from_rows", &layout, &[Some(rows.span), Some(picture.span)], 1);
            }
        }
        Ok(())
    }

    /// Adds the twin of a call.
    fn emit(&mut self, call: KernelCall) -> Result<(), Reason> {
        for span in call.operands.iter().flatten() {
            let buffer = &mut self.calls.buffers[span.buffer.0 as usize];
            if matches!(buffer.kind, BufferKind::Prepared) {
                buffer.kind = BufferKind::Arena;
            }
        }
        match twin(&call.kernel, &call.params) {
            Some(Twin::Nothing) => {}
            Some(Twin::Call { kernel, params }) => {
                self.calls.calls.push(KernelCall { kernel: kernel.to_owned(), params, ..call });
            }
            None => return Err(Reason::new(format!("the GPU has no kernel `{}`", call.kernel))),
        }
        Ok(())
    }
}
