//! MaxPool, AveragePool, LpPool and their global forms.
//!
//! <https://onnx.ai/onnx/operators/onnx__MaxPool.html>: since opset 1; 8 adds indices and storage_order, 10 ceil_mode and
//! dilations. <https://onnx.ai/onnx/operators/onnx__AveragePool.html>: 7 adds count_include_pad, 10 ceil_mode, 19
//! dilations. <https://onnx.ai/onnx/operators/onnx__LpPool.html>: 18 adds ceil_mode and dilations.
//! Types: f32; f16, bf16 and bytes compute in f32, f64 on the host.

use infer_kernels::call;

use crate::calls::{LowerNode, picture};
use crate::diagnostic::Reason;
use crate::ops::element_type::{converted, with_output};
use crate::ops::host_kernels::{self, Pooling};
use crate::ops::window::{AutoPad, Window, Windows};
use crate::ops::{Blocking, ImportNode, InputType, NodeTypes, NodeValues, Operator, Row, expect_dtype};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The table's rows.
pub const OPERATORS: &[Row] = &[
    Row { name: "MaxPool", domain: "", since: 1, inputs: 1..=1, outputs: 1..=2, import },
    Row { name: "AveragePool", domain: "", since: 1, inputs: 1..=1, outputs: 1..=1, import },
    Row { name: "LpPool", domain: "", since: 1, inputs: 1..=1, outputs: 1..=1, import },
    Row { name: "GlobalMaxPool", domain: "", since: 1, inputs: 1..=1, outputs: 1..=1, import: import_global },
    Row {
        name: "GlobalAveragePool",
        domain: "",
        since: 1,
        inputs: 1..=1,
        outputs: 1..=1,
        import: import_global,
    },
    Row { name: "GlobalLpPool", domain: "", since: 2, inputs: 1..=1, outputs: 1..=1, import: import_global },
];

/// What a pool computes of each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolKind {
    /// The largest element.
    Max,
    /// The mean.
    Average,
    /// The p-norm.
    Lp,
}

/// A pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// What it computes.
    pub kind: PoolKind,
    /// The window; `None` for the whole picture.
    pub window: Option<Window>,
    /// Whether the mean counts padding.
    pub count_include_pad: bool,
    /// Whether indices count columns first.
    pub column_major: bool,
    /// The p of the norm.
    pub p: i64,
}

fn kind(op_type: &str) -> PoolKind {
    match op_type {
        "MaxPool" | "GlobalMaxPool" => PoolKind::Max,
        "AveragePool" | "GlobalAveragePool" => PoolKind::Average,
        _ => PoolKind::Lp,
    }
}

fn norm_order(node: &mut ImportNode) -> Result<i64, Reason> {
    let p = node.attributes.int("p")?.unwrap_or(2);
    if (1..=1 << 20).contains(&p) {
        Ok(p)
    } else {
        Err(Reason::new(format!("p is {p}, which is no norm's order")))
    }
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let kind = kind(&node.op_type);
    let mut window = Window::import(node)?;
    window.ceil_mode = node.attributes.flag("ceil_mode", false)?;
    if window.kernel_shape.is_empty() {
        return Err(Reason::new("attribute `kernel_shape` is missing"));
    }
    Ok(Box::new(Pool {
        kind,
        window: Some(window),
        count_include_pad: kind == PoolKind::Average && node.attributes.flag("count_include_pad", false)?,
        column_major: kind == PoolKind::Max && node.attributes.flag("storage_order", false)?,
        p: if kind == PoolKind::Lp { norm_order(node)? } else { 2 },
    }))
}

fn import_global(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let kind = kind(&node.op_type);
    let p = if kind == PoolKind::Lp { norm_order(node)? } else { 2 };
    Ok(Box::new(Pool { kind, window: None, count_include_pad: false, column_major: false, p }))
}

impl Pool {
    fn windows(&self, x: &TensorType) -> Result<Windows, Reason> {
        let Some(spatial) = x.shape.get(2..).filter(|spatial| !spatial.is_empty()) else {
            return Err(Reason::new(format!("input {x} has no spatial axes")));
        };
        match &self.window {
            Some(window) => window.over(spatial, None),
            // More axes than a window slides over are one long row to a window of everything.
            None if spatial.contains(&0) => Err(Reason::new(format!("input {x} has nothing to pool"))),
            None => Window::whole(&[spatial.iter().product()]).over(&[spatial.iter().product()], None),
        }
    }

    /// The parameters of the general kernels.
    fn general(&self, x: &TensorType, w: &Windows) -> call::PoolNd {
        call::PoolNd {
            outer: (x.shape[0] * x.shape[1]) as u64,
            input: w.input.map(|v| v as u64),
            output: w.output.map(|v| v as u64),
            kernel: w.kernel.map(|v| v as u64),
            stride: w.stride.map(|v| v as u64),
            dilation: w.dilation.map(|v| v as u64),
            pad_begin: w.pad_begin.map(|v| v as u64),
            pad_end: w.pad_end.map(|v| v as u64),
            count_include_pad: self.count_include_pad.into(),
            column_major: self.column_major.into(),
            p: self.p as u64,
        }
    }

    fn runs_blocked(&self, node: &NodeTypes<'_>) -> bool {
        let picture = node.ty(0).is_ok_and(|x| matches!(x.rank(), 3 | 4) && x.dtype == DataType::F32);
        picture && self.kind != PoolKind::Lp && !node.wants(1)
    }
}

impl Operator for Pool {
    fn name(&self) -> &'static str {
        match (self.kind, self.window.is_some()) {
            (PoolKind::Max, true) => "MaxPool",
            (PoolKind::Max, false) => "GlobalMaxPool",
            (PoolKind::Average, true) => "AveragePool",
            (PoolKind::Average, false) => "GlobalAveragePool",
            (PoolKind::Lp, true) => "LpPool",
            (PoolKind::Lp, false) => "GlobalLpPool",
        }
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let x = node.ty(0)?;
        let floats = [DataType::F32, DataType::F64, DataType::F16, DataType::Bf16];
        let bytes = [DataType::U8, DataType::I8];
        match self.kind {
            PoolKind::Max if bytes.contains(&x.dtype) => {}
            _ => expect_dtype(x, &floats)?,
        }
        let windows = self.windows(x)?;
        let mut shape = x.shape[..2].to_vec();
        match self.window {
            Some(_) => shape.extend(windows.output_shape(x.rank() - 2)),
            None => shape.resize(x.rank(), 1),
        }
        if let Some(window) = &self.window
            && window.auto_pad == AutoPad::NotSet
            && (0..3).any(|a| {
                windows.pad_begin[a].max(windows.pad_end[a]) >= windows.kernel[a] * windows.dilation[a]
            })
        {
            return Err(Reason::new(format!("pads {:?} are as large as the window", window.pads)));
        }
        let indices = node.wants(1).then(|| TensorType::new(DataType::I64, shape.clone()));
        Ok([TensorType::new(x.dtype, shape)].into_iter().chain(indices).collect())
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (x, y) = (node.input(0)?, node.output(0)?);
        let w = self.windows(&x.ty)?;
        let (Some(input), Some(output)) = (x.blocked, y.blocked) else {
            let params = self.general(&x.ty, &w);
            let x = converted(node, &x, DataType::F32)?;
            return with_output(node, &y, DataType::F32, |node, y| {
                let operands = [Some(x.span), Some(y.span)];
                match self.kind {
                    PoolKind::Max => {
                        let indices = node.outputs.get(1).cloned().flatten().map(|t| t.span);
                        let operands = [operands[0], operands[1], indices];
                        node.call_with_outputs("max_pool_nd_f32", &params, &operands, 2);
                    }
                    PoolKind::Average => node.call("average_pool_nd_f32", &params, &operands),
                    PoolKind::Lp => node.call("lp_pool_nd_f32", &params, &operands),
                }
                Ok(())
            });
        };
        let [n, c, in_h, in_w] = picture(&x.ty);
        let [_, _, out_h, out_w] = picture(&y.ty);
        let last_two = |all: [usize; 3]| [all[1] as u64, all[2] as u64];
        let global = self.window.is_none();
        let params = call::Pool {
            n: n as u64,
            blocks: c.div_ceil(input.block) as u64,
            in_h: in_h as u64,
            in_w: in_w as u64,
            out_h: out_h as u64,
            out_w: out_w as u64,
            kernel: if global { [in_h as u64, in_w as u64] } else { last_two(w.kernel) },
            stride: if global { [1, 1] } else { last_two(w.stride) },
            dilation: if global { [1, 1] } else { last_two(w.dilation) },
            pad_begin: if global { [0, 0] } else { last_two(w.pad_begin) },
            pad_end: if global { [0, 0] } else { last_two(w.pad_end) },
            count_include_pad: self.count_include_pad.into(),
            input: input.view,
            output: output.view,
        };
        let kernel = if self.kind == PoolKind::Max { "max_pool_f32" } else { "average_pool_f32" };
        node.call(kernel, &params, &[Some(x.span), Some(y.span)]);
        Ok(())
    }

    fn is_host(&self, node: &NodeTypes<'_>) -> bool {
        node.optional(0).is_some_and(|x| x.dtype == DataType::F64)
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let x = node.tensor(0)?;
        if x.ty().dtype != DataType::F64 {
            return Ok(None);
        }
        let input = Some(InputType { ty: x.ty(), constant: Some(x) });
        let types = self.infer(&NodeTypes { inputs: &[input], outputs: node.outputs })?;
        let output = types.into_iter().next().ok_or_else(|| Reason::new("a pool without output"))?;
        let kind = match self.kind {
            PoolKind::Max => Pooling::Max,
            PoolKind::Average => Pooling::Average,
            PoolKind::Lp => Pooling::Norm,
        };
        let params = self.general(x.ty(), &self.windows(x.ty())?);
        let (values, places) = host_kernels::pool(x, &params, kind, output)?;
        let places = (self.kind == PoolKind::Max).then_some(places);
        Ok(Some([values].into_iter().chain(places).map(Value::from).collect()))
    }

    fn blocking(&self, node: &NodeTypes<'_>) -> Blocking {
        if self.runs_blocked(node) { Blocking::Follows } else { Blocking::Never }
    }
}
