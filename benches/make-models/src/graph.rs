//! Builds a model, operator by operator.

use infer_core::onnx::proto::{
    AttributeProto, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_type, dimension, type_proto,
};
use infer_core::tensor_type::DataType;
use prost::bytes::Bytes;

use crate::random::Random;

/// A value of the graph.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its name.
    pub name: String,
    /// Its extents.
    pub shape: Vec<usize>,
    /// About the mean of its squares.
    power: f64,
}

impl Value {
    /// The extent of axis 1.
    pub fn channels(&self) -> usize {
        self.shape[1]
    }
}

/// A convolution, by default with a bias, and as large an output as its input.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    channels: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    groups: usize,
    padding: Option<usize>,
    has_bias: bool,
}

impl Conv {
    /// A convolution to `channels` with a square kernel.
    pub fn new(channels: usize, kernel: usize) -> Self {
        Conv { channels, kernel, stride: 1, dilation: 1, groups: 1, padding: None, has_bias: true }
    }

    /// A convolution of each of `channels` alone.
    pub fn depthwise(channels: usize, kernel: usize) -> Self {
        Conv { groups: channels, ..Conv::new(channels, kernel) }
    }

    /// The distance between the kernel's places.
    pub fn stride(self, stride: usize) -> Self {
        Conv { stride, ..self }
    }

    /// The distance between the kernel's elements.
    pub fn dilation(self, dilation: usize) -> Self {
        Conv { dilation, ..self }
    }

    /// The zeros at each side.
    pub fn padding(self, padding: usize) -> Self {
        Conv { padding: Some(padding), ..self }
    }

    /// As it stands before a normalisation.
    pub fn without_bias(self) -> Self {
        Conv { has_bias: false, ..self }
    }
}

/// A model that grows.
///
/// Each value carries an estimate of the mean of its squares, and weights are drawn with the variance that gives their
/// products a mean square of 1: layers neither swell nor fade, however many there are.
pub struct Graph {
    graph: GraphProto,
    opset: i64,
    random: Random,
    count: usize,
}

impl Graph {
    /// An empty model, whose name seeds its weights.
    pub fn new(name: &str, opset: i64) -> Self {
        let graph = GraphProto { name: name.to_owned(), ..GraphProto::default() };
        Graph { graph, opset, random: Random::of(name), count: 0 }
    }

    /// The model. As exporters did, up to opset 9 it lists its constants among the inputs, as what callers may replace.
    pub fn finish(mut self) -> ModelProto {
        if self.opset < 10 {
            let extents = |tensor: &TensorProto| tensor.dims.iter().map(|&extent| extent as usize).collect();
            for tensor in &self.graph.initializer {
                let shape: Vec<usize> = extents(tensor);
                let data_type =
                    if tensor.data_type == DataType::I64 as i32 { DataType::I64 } else { DataType::F32 };
                self.graph.input.push(port(&tensor.name, data_type, &shape));
            }
        }
        let ir_version = match self.opset {
            ..9 => 3,
            9 => 4,
            10..20 => 8,
            _ => 10,
        };
        ModelProto {
            ir_version: Some(ir_version),
            producer_name: "make-models".to_owned(),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: self.opset }],
            graph: Some(self.graph),
            ..ModelProto::default()
        }
    }

    /// An input of f32s.
    pub fn input(&mut self, name: &str, shape: &[usize]) -> Value {
        self.graph.input.push(port(name, DataType::F32, shape));
        Value { name: name.to_owned(), shape: shape.to_vec(), power: 1.0 }
    }

    /// An input of i64s.
    pub fn input_i64(&mut self, name: &str, shape: &[usize]) -> Value {
        self.graph.input.push(port(name, DataType::I64, shape));
        Value { name: name.to_owned(), shape: shape.to_vec(), power: 1.0 }
    }

    /// Makes `value` an output of f32s called `name`.
    pub fn output(&mut self, value: &Value, name: &str) {
        for node in &mut self.graph.node {
            for known in node.input.iter_mut().chain(&mut node.output).filter(|known| **known == value.name) {
                name.clone_into(known);
            }
        }
        self.graph.output.push(port(name, DataType::F32, &value.shape));
    }

    /// A node with one output.
    pub fn node(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        self.nodes(op, inputs, 1, attributes).remove(0)
    }

    /// A node with several outputs.
    pub fn nodes(
        &mut self,
        op: &str,
        inputs: &[&str],
        outputs: usize,
        attributes: Vec<AttributeProto>,
    ) -> Vec<String> {
        self.count += 1;
        let name = format!("{}_{}", op.to_lowercase(), self.count);
        let output: Vec<String> = (0..outputs).map(|index| format!("{name}_output_{index}")).collect();
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: output.clone(),
            name,
            op_type: op.to_owned(),
            attribute: attributes,
            ..NodeProto::default()
        });
        output
    }

    fn initializer(&mut self, shape: &[usize], data_type: DataType, data: Vec<u8>) -> String {
        self.count += 1;
        let name = format!("constant_{}", self.count);
        self.graph.initializer.push(TensorProto { name: name.clone(), ..tensor(shape, data_type, data) });
        name
    }

    /// f32s among the model's constants.
    pub fn floats(&mut self, shape: &[usize], values: impl IntoIterator<Item = f64>) -> String {
        let data = values.into_iter().flat_map(|value| (value as f32).to_le_bytes()).collect();
        self.initializer(shape, DataType::F32, data)
    }

    /// i64s among the model's constants.
    pub fn integers(&mut self, shape: &[usize], values: &[i64]) -> String {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(shape, DataType::I64, data)
    }

    /// One f32, as exporters write it: a node.
    pub fn scalar(&mut self, value: f64) -> String {
        let value = tensor(&[], DataType::F32, (value as f32).to_le_bytes().to_vec());
        self.node("Constant", &[], vec![attribute_tensor("value", value)])
    }

    /// i64s, as exporters write them: a node.
    pub fn constant(&mut self, shape: &[usize], values: &[i64]) -> String {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.node("Constant", &[], vec![attribute_tensor("value", tensor(shape, DataType::I64, data))])
    }

    /// Constants of mean 0 and this variance.
    pub fn normal(&mut self, shape: &[usize], variance: f64) -> String {
        let count = shape.iter().product();
        let deviation = variance.sqrt();
        let data =
            (0..count).flat_map(|_| ((self.random.normal() * deviation) as f32).to_le_bytes()).collect();
        self.initializer(shape, DataType::F32, data)
    }

    /// Constants between `low` and `high`.
    pub fn uniform(&mut self, shape: &[usize], low: f64, high: f64) -> String {
        let count = shape.iter().product();
        let data = (0..count).flat_map(|_| (self.random.uniform(low, high) as f32).to_le_bytes()).collect();
        self.initializer(shape, DataType::F32, data)
    }

    /// Small constants, for biases.
    pub fn bias(&mut self, shape: &[usize]) -> String {
        self.normal(shape, 0.01)
    }

    /// A node whose output has the shape of `value`.
    fn elementwise(
        &mut self,
        op: &str,
        value: &Value,
        others: &[&str],
        attributes: Vec<AttributeProto>,
        power: f64,
    ) -> Value {
        let inputs: Vec<&str> = std::iter::once(value.name.as_str()).chain(others.iter().copied()).collect();
        let name = self.node(op, &inputs, attributes);
        Value { name, shape: value.shape.clone(), power }
    }

    /// Conv
    pub fn conv(&mut self, value: &Value, conv: Conv) -> Value {
        let Conv { channels, kernel, stride, dilation, groups, .. } = conv;
        let padding = conv.padding.unwrap_or(dilation * (kernel / 2));
        let taps = value.channels() / groups * kernel * kernel;
        let weights = self.normal(
            &[channels, value.channels() / groups, kernel, kernel],
            1.0 / (taps as f64 * value.power),
        );
        let mut inputs = vec![value.name.clone(), weights];
        if conv.has_bias {
            inputs.push(self.bias(&[channels]));
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let name = self.node(
            "Conv",
            &inputs,
            vec![
                attribute_ints("dilations", [dilation; 2]),
                attribute_int("group", groups),
                attribute_ints("kernel_shape", [kernel; 2]),
                attribute_ints("pads", [padding; 4]),
                attribute_ints("strides", [stride; 2]),
            ],
        );
        let extent = |extent: usize| (extent + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
        let mut shape = vec![value.shape[0], channels];
        shape.extend(value.shape[2..].iter().map(|&size| extent(size)));
        Value { name, shape, power: 1.0 }
    }

    /// ConvTranspose with stride 2, to twice the size.
    pub fn conv_transpose(&mut self, value: &Value, channels: usize, kernel: usize) -> Value {
        // An output element meets a quarter of the kernel.
        let taps = value.channels() as f64 * (kernel * kernel) as f64 / 4.0;
        let weights = self.normal(&[value.channels(), channels, kernel, kernel], 1.0 / (taps * value.power));
        let bias = self.bias(&[channels]);
        let (padding, extra) = ((kernel - 1) / 2, kernel % 2);
        let mut attributes = vec![
            attribute_ints("dilations", [1; 2]),
            attribute_int("group", 1),
            attribute_ints("kernel_shape", [kernel; 2]),
            attribute_ints("pads", [padding; 4]),
            attribute_ints("strides", [2; 2]),
        ];
        if extra > 0 {
            attributes.push(attribute_ints("output_padding", [extra; 2]));
        }
        let name = self.node("ConvTranspose", &[&value.name, &weights, &bias], attributes);
        let shape = vec![value.shape[0], channels, 2 * value.shape[2], 2 * value.shape[3]];
        Value { name, shape, power: 1.0 }
    }

    /// BatchNormalization
    pub fn batch_normalization(&mut self, value: &Value) -> Value {
        let shape = [value.channels()];
        let scale = self.uniform(&shape, 0.6, 1.2);
        let bias = self.bias(&shape);
        let mean = self.bias(&shape);
        let variance = self.uniform(&shape, 0.6, 1.4);
        self.elementwise(
            "BatchNormalization",
            value,
            &[&scale, &bias, &mean, &variance],
            vec![attribute_float("epsilon", 1e-5)],
            value.power * 0.85,
        )
    }

    /// LayerNormalization over the last axis.
    pub fn layer_normalization(&mut self, value: &Value, epsilon: f64) -> Value {
        let shape = [*value.shape.last().unwrap_or(&1)];
        let scale = self.uniform(&shape, 0.8, 1.2);
        let bias = self.bias(&shape);
        let attributes = vec![attribute_signed("axis", -1), attribute_float("epsilon", epsilon)];
        self.elementwise("LayerNormalization", value, &[&scale, &bias], attributes, 1.0)
    }

    /// InstanceNormalization
    pub fn instance_normalization(&mut self, value: &Value, scale: &str, bias: &str) -> Value {
        let attributes = vec![attribute_float("epsilon", 1e-5)];
        self.elementwise("InstanceNormalization", value, &[scale, bias], attributes, 1.0)
    }

    /// Relu
    pub fn relu(&mut self, value: &Value) -> Value {
        self.elementwise("Relu", value, &[], vec![], value.power / 2.0)
    }

    /// Clip between 0 and 6
    pub fn relu6(&mut self, value: &Value) -> Value {
        let (low, high) = (self.scalar(0.0), self.scalar(6.0));
        self.elementwise("Clip", value, &[&low, &high], vec![], value.power / 2.0)
    }

    /// LeakyRelu
    pub fn leaky_relu(&mut self, value: &Value, alpha: f64) -> Value {
        let power = value.power * (1.0 + alpha * alpha) / 2.0;
        self.elementwise("LeakyRelu", value, &[], vec![attribute_float("alpha", alpha)], power)
    }

    /// PRelu with a slope for each channel.
    pub fn prelu(&mut self, value: &Value) -> Value {
        let slopes = self.uniform(&[value.channels(), 1, 1], 0.1, 0.4);
        self.elementwise("PRelu", value, &[&slopes], vec![], value.power * 0.53)
    }

    /// Sigmoid
    pub fn sigmoid(&mut self, value: &Value) -> Value {
        self.elementwise("Sigmoid", value, &[], vec![], 0.29)
    }

    /// x · Sigmoid(x)
    pub fn silu(&mut self, value: &Value) -> Value {
        let gate = self.sigmoid(value);
        Value { power: 0.36 * value.power, ..self.mul(value, &gate) }
    }

    /// Add of two values of one shape, or of a second that is broadcast.
    pub fn add(&mut self, a: &Value, b: &Value) -> Value {
        self.elementwise("Add", a, &[&b.name], vec![], a.power + b.power)
    }

    /// Add of a constant.
    pub fn add_constant(&mut self, value: &Value, constant: &str) -> Value {
        self.elementwise("Add", value, &[constant], vec![], value.power)
    }

    /// Mul of two values of one shape, or of a second that is broadcast.
    pub fn mul(&mut self, a: &Value, b: &Value) -> Value {
        self.elementwise("Mul", a, &[&b.name], vec![], a.power * b.power)
    }

    /// Mul of a gate for each channel and the value it gates.
    pub fn gate(&mut self, gate: &Value, value: &Value) -> Value {
        let name = self.node("Mul", &[&gate.name, &value.name], vec![]);
        Value { name, shape: value.shape.clone(), power: gate.power * value.power }
    }

    /// Mul by a constant of elements of about 1.
    pub fn mul_constant(&mut self, value: &Value, constant: &str) -> Value {
        self.elementwise("Mul", value, &[constant], vec![], value.power)
    }

    /// Mul by one number.
    pub fn scale(&mut self, value: &Value, factor: f64) -> Value {
        let constant = self.scalar(factor);
        self.elementwise("Mul", value, &[&constant], vec![], value.power * factor * factor)
    }

    /// x · Φ(x), by Erf as exporters before opset 20 write it.
    pub fn gelu_by_erf(&mut self, value: &Value) -> Value {
        let root = self.scalar(std::f64::consts::SQRT_2);
        let scaled = self.elementwise("Div", value, &[&root], vec![], value.power / 2.0);
        let erf = self.elementwise("Erf", &scaled, &[], vec![], 0.3);
        let one = self.scalar(1.0);
        let sum = self.elementwise("Add", &erf, &[&one], vec![], 1.3);
        let product = self.mul(value, &sum);
        let gelu = self.scale(&product, 0.5);
        Value { power: 0.43 * value.power, ..gelu }
    }

    /// Gelu
    pub fn gelu(&mut self, value: &Value) -> Value {
        let attributes = vec![attribute_string("approximate", "none")];
        self.elementwise("Gelu", value, &[], attributes, 0.43 * value.power)
    }

    /// Softmax over the last axis. Its power is that of a mean over the axis, for the product that follows.
    pub fn softmax(&mut self, value: &Value) -> Value {
        let extent = *value.shape.last().unwrap_or(&1) as f64;
        let power = std::f64::consts::E / (extent * extent);
        let axis = if self.opset < 13 { value.shape.len() as i64 - 1 } else { -1 };
        self.elementwise("Softmax", value, &[], vec![attribute_signed("axis", axis)], power)
    }

    /// MaxPool
    pub fn max_pool(&mut self, value: &Value, kernel: usize, stride: usize, padding: usize) -> Value {
        let mut attributes = vec![
            attribute_ints("kernel_shape", [kernel; 2]),
            attribute_ints("pads", [padding; 4]),
            attribute_ints("strides", [stride; 2]),
        ];
        if self.opset >= 10 {
            attributes.push(attribute_int("ceil_mode", 0));
            attributes.push(attribute_ints("dilations", [1; 2]));
        }
        let name = self.node("MaxPool", &[&value.name], attributes);
        let mut shape = value.shape.clone();
        for extent in &mut shape[2..] {
            *extent = (*extent + 2 * padding - kernel) / stride + 1;
        }
        Value { name, shape, power: 1.5 * value.power }
    }

    /// GlobalAveragePool
    pub fn global_average_pool(&mut self, value: &Value) -> Value {
        let name = self.node("GlobalAveragePool", &[&value.name], vec![]);
        Value { name, shape: vec![value.shape[0], value.channels(), 1, 1], power: value.power / 3.0 }
    }

    /// Flatten from axis 1
    pub fn flatten(&mut self, value: &Value) -> Value {
        let name = self.node("Flatten", &[&value.name], vec![attribute_int("axis", 1)]);
        let shape = vec![value.shape[0], value.shape[1..].iter().product()];
        Value { name, shape, power: value.power }
    }

    /// Gemm with transposed weights.
    pub fn gemm(&mut self, value: &Value, outputs: usize) -> Value {
        let inputs = value.channels();
        let weights = self.normal(&[outputs, inputs], 1.0 / (inputs as f64 * value.power));
        let bias = self.bias(&[outputs]);
        let attributes =
            vec![attribute_float("alpha", 1.0), attribute_float("beta", 1.0), attribute_int("transB", 1)];
        let name = self.node("Gemm", &[&value.name, &weights, &bias], attributes);
        Value { name, shape: vec![value.shape[0], outputs], power: 1.0 }
    }

    /// MatMul with weights, then Add of a bias, as exporters write a linear layer over several axes.
    pub fn linear(&mut self, value: &Value, outputs: usize) -> Value {
        let inputs = *value.shape.last().unwrap_or(&1);
        let weights = self.normal(&[inputs, outputs], 1.0 / (inputs as f64 * value.power));
        let product = self.node("MatMul", &[&value.name, &weights], vec![]);
        let bias = self.bias(&[outputs]);
        let name = self.node("Add", &[&bias, &product], vec![]);
        let mut shape = value.shape.clone();
        shape.pop();
        shape.push(outputs);
        Value { name, shape, power: 1.0 }
    }

    /// MatMul of two values.
    pub fn matmul(&mut self, a: &Value, b: &Value) -> Value {
        let name = self.node("MatMul", &[&a.name, &b.name], vec![]);
        let mut shape = a.shape.clone();
        let inner = shape.pop().unwrap_or(1);
        shape.push(*b.shape.last().unwrap_or(&1));
        Value { name, shape, power: a.power * b.power * inner as f64 }
    }

    /// Transpose
    pub fn transpose(&mut self, value: &Value, order: &[usize]) -> Value {
        let order_attribute = attribute_ints("perm", order.iter().copied());
        let name = self.node("Transpose", &[&value.name], vec![order_attribute]);
        Value { name, shape: order.iter().map(|&axis| value.shape[axis]).collect(), power: value.power }
    }

    /// Reshape by the `wanted` extents, of which one may be -1.
    pub fn reshape(&mut self, value: &Value, wanted: &[i64]) -> Value {
        let constant = self.constant(&[wanted.len()], wanted);
        self.reshape_by(value, &constant, wanted)
    }

    /// Reshape by a shape that the graph computes.
    pub fn reshape_by(&mut self, value: &Value, shape: &str, wanted: &[i64]) -> Value {
        let name = self.node("Reshape", &[&value.name, shape], vec![]);
        let known: usize =
            wanted.iter().filter(|&&extent| extent >= 0).map(|&extent| extent as usize).product();
        let rest = value.shape.iter().product::<usize>() / known.max(1);
        let extent = |&extent: &i64| usize::try_from(extent).unwrap_or(rest);
        Value { name, shape: wanted.iter().map(extent).collect(), power: value.power }
    }

    /// Concat
    pub fn concat(&mut self, values: &[&Value], axis: usize) -> Value {
        let names: Vec<&str> = values.iter().map(|value| value.name.as_str()).collect();
        let name = self.node("Concat", &names, vec![attribute_int("axis", axis)]);
        let mut shape = values[0].shape.clone();
        shape[axis] = values.iter().map(|value| value.shape[axis]).sum();
        let weighted = values.iter().map(|value| value.power * value.shape[axis] as f64).sum::<f64>();
        Value { name, power: weighted / shape[axis] as f64, shape }
    }

    /// Resize to twice the size, nearest neighbours.
    pub fn upsample(&mut self, value: &Value) -> Value {
        let factors: Vec<u8> =
            [1.0f32, 1.0, 2.0, 2.0].iter().flat_map(|factor| factor.to_le_bytes()).collect();
        let factors = attribute_tensor("value", tensor(&[4], DataType::F32, factors));
        let factors = self.node("Constant", &[], vec![factors]);
        let attributes = vec![
            attribute_string("coordinate_transformation_mode", "asymmetric"),
            attribute_float("cubic_coeff_a", -0.75),
            attribute_string("mode", "nearest"),
            attribute_string("nearest_mode", "floor"),
        ];
        let name = self.node("Resize", &[&value.name, "", &factors], attributes);
        let shape = vec![value.shape[0], value.channels(), 2 * value.shape[2], 2 * value.shape[3]];
        Value { name, shape, power: value.power }
    }
}

impl Value {
    /// A value that a node made by name computes.
    pub fn new(name: String, shape: &[usize], power: f64) -> Self {
        Value { name, shape: shape.to_vec(), power }
    }
}

fn tensor(shape: &[usize], data_type: DataType, data: Vec<u8>) -> TensorProto {
    TensorProto {
        dims: shape.iter().map(|&extent| extent as i64).collect(),
        data_type: data_type as i32,
        raw_data: Some(Bytes::from(data)),
        ..TensorProto::default()
    }
}

fn port(name: &str, data_type: DataType, shape: &[usize]) -> ValueInfoProto {
    let extent = |&extent: &usize| Dimension { value: Some(dimension::Value::DimValue(extent as i64)) };
    let shape = TensorShapeProto { dim: shape.iter().map(extent).collect() };
    let tensor = type_proto::Tensor { elem_type: data_type as i32, shape: Some(shape) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)) };
    ValueInfoProto { name: name.to_owned(), r#type: Some(ty) }
}

/// An integer attribute.
pub(crate) fn attribute_int(name: &str, value: usize) -> AttributeProto {
    attribute_signed(name, value as i64)
}

/// An integer attribute that may be negative.
pub(crate) fn attribute_signed(name: &str, value: i64) -> AttributeProto {
    attribute(name, attribute_type::INT, AttributeProto { i: Some(value), ..AttributeProto::default() })
}

/// An attribute of several integers.
pub(crate) fn attribute_ints(name: &str, values: impl IntoIterator<Item = usize>) -> AttributeProto {
    let ints = values.into_iter().map(|value| value as i64).collect();
    attribute(name, attribute_type::INTS, AttributeProto { ints, ..AttributeProto::default() })
}

/// A real attribute.
pub(crate) fn attribute_float(name: &str, value: f64) -> AttributeProto {
    attribute(
        name,
        attribute_type::FLOAT,
        AttributeProto { f: Some(value as f32), ..AttributeProto::default() },
    )
}

/// A string attribute.
pub(crate) fn attribute_string(name: &str, value: &'static str) -> AttributeProto {
    let s = Some(Bytes::from_static(value.as_bytes()));
    attribute(name, attribute_type::STRING, AttributeProto { s, ..AttributeProto::default() })
}

fn attribute_tensor(name: &str, value: TensorProto) -> AttributeProto {
    let t = Some(Box::new(value));
    attribute(name, attribute_type::TENSOR, AttributeProto { t, ..AttributeProto::default() })
}

fn attribute(name: &str, r#type: i32, value: AttributeProto) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type, ..value }
}
