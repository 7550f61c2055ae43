//! Symbolic dimensions and the types that a model declares.

use std::collections::HashMap;

use crate::diagnostic::Diagnostic;
use crate::onnx::proto::{Dimension, TensorShapeProto, TypeProto, ValueInfoProto, dimension, type_proto};
use crate::onnx::{MAX_RANK, STRING, data_type_name, quote};
use crate::tensor_type::{DataType, MAX_ELEMENTS, TensorType};
use crate::value::{ElementType, ValueType};

/// The largest extent that may be bound.
const LARGEST: u64 = 1 << 31;

/// The type that a model declares for a value: what it leaves open is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Declared {
    /// ONNX's number of the element type.
    pub(crate) dtype: Option<i32>,
    /// The extents, bound symbols as numbers.
    pub(crate) shape: Option<Vec<Option<usize>>>,
    /// The whole type, where its element types are known.
    pub(crate) ty: Option<ValueType>,
}

impl Declared {
    /// Whether a value of type `ty` is what was declared.
    pub(crate) fn admits(&self, ty: &TensorType) -> bool {
        if matches!(&self.ty, Some(declared) if !matches!(declared, ValueType::Tensor { .. })) {
            return false;
        }
        self.dtype.is_none_or(|dtype| dtype == ty.dtype as i32)
            && self.shape.as_ref().is_none_or(|shape| {
                shape.len() == ty.rank()
                    && shape
                        .iter()
                        .zip(&ty.shape)
                        .all(|(declared, &extent)| declared.is_none_or(|d| d == extent))
            })
    }
}

impl std::fmt::Display for Declared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(ty) = &self.ty {
            return ty.fmt(f);
        }
        f.write_str(&self.dtype.map_or_else(|| "?".to_owned(), data_type_name))?;
        let Some(shape) = &self.shape else { return f.write_str("[…]") };
        let extents: Vec<String> = shape
            .iter()
            .map(|extent| extent.map_or_else(|| "?".to_owned(), |extent| extent.to_string()))
            .collect();
        write!(f, "[{}]", extents.join(","))
    }
}

/// The symbols of a model with the extents that the user binds them to.
pub(super) struct Binder<'a> {
    bindings: HashMap<&'a str, u64>,
    order: Vec<&'a str>,
    /// Each symbol with the inputs and outputs it stands in.
    symbols: Vec<(String, Vec<String>)>,
    index: HashMap<String, usize>,
    /// Symbols of inputs without a binding, as positions in `symbols`.
    unbound: Vec<usize>,
    errors: Vec<Diagnostic>,
}

/// How many places of a symbol a message lists.
const PLACES: usize = 4;

impl<'a> Binder<'a> {
    pub(super) fn new(dims: &'a [(String, u64)]) -> Self {
        let mut binder = Binder {
            bindings: HashMap::new(),
            order: Vec::new(),
            symbols: Vec::new(),
            index: HashMap::new(),
            unbound: Vec::new(),
            errors: Vec::new(),
        };
        for (symbol, extent) in dims {
            if !(1..=LARGEST).contains(extent) {
                let message =
                    format!("dimension {} = {extent} is not between 1 and {LARGEST}", quote(symbol));
                binder.errors.push(Diagnostic::argument("dims", message));
            }
            if binder.bindings.insert(symbol, *extent).is_some() {
                let message = format!("dimension {} is bound twice", quote(symbol));
                binder.errors.push(Diagnostic::argument("dims", message));
            }
            binder.order.push(symbol);
        }
        binder
    }

    /// The extent of an axis, if it is known; notes its symbol.
    fn extent(&mut self, dim: &Dimension, value: &str, axis: usize, of: Option<&str>) -> Option<usize> {
        let key = match &dim.value {
            Some(dimension::Value::DimValue(extent)) if *extent >= 0 => return usize::try_from(*extent).ok(),
            Some(dimension::Value::DimParam(symbol)) if !symbol.is_empty() => symbol.clone(),
            _ => format!("{value}[{axis}]"),
        };
        let extent = self.bindings.get(key.as_str()).copied();
        if let Some(of) = of {
            let symbol = *self.index.entry(key.clone()).or_insert_with(|| {
                self.symbols.push((key, Vec::new()));
                self.symbols.len() - 1
            });
            if let Some((_, places)) = self.symbols.get_mut(symbol) {
                if places.is_empty() && extent.is_none() && of == "input" {
                    self.unbound.push(symbol);
                }
                if places.len() <= PLACES {
                    places.push(format!("axis {axis} of {of} {}", quote(value)));
                }
            }
        }
        extent.and_then(|extent| usize::try_from(extent).ok())
    }

    /// The type of a graph input; `None` where a symbol is unbound, which [`Binder::finish`] reports.
    pub(super) fn input(&mut self, input: &ValueInfoProto) -> Result<Option<ValueType>, String> {
        let tensor = match input.r#type.as_ref().and_then(|ty| ty.value.as_ref()) {
            None => return Err("it declares no type".to_owned()),
            Some(type_proto::Value::TensorType(tensor)) => tensor,
            // The parts of these come with each value.
            Some(_) => return self.value_type(input, None),
        };
        let element = element_type(tensor.elem_type)?;
        let shape = tensor.shape.as_ref().ok_or(
            "it declares no shape, not even its number of dimensions\n       help: re-export the model with a shape",
        )?;
        if shape.dim.len() > MAX_RANK {
            return Err(format!("it has {} dimensions, more than {MAX_RANK}", shape.dim.len()));
        }
        let mut extents = Vec::with_capacity(shape.dim.len());
        for (axis, dim) in shape.dim.iter().enumerate() {
            extents.push(self.extent(dim, &input.name, axis, Some("input")));
        }
        if extents.contains(&None) {
            return Ok(None);
        }
        let ty = ValueType::Tensor { element, shape: Some(extents) };
        match ty.as_static() {
            Some(ty) if ty.checked_elements().is_none() => {
                Err(format!("{ty} has more than {MAX_ELEMENTS} elements"))
            }
            _ => Ok(Some(ty)),
        }
    }

    /// What is declared for an output.
    pub(super) fn output(&mut self, output: &ValueInfoProto) -> Result<Declared, String> {
        self.declared(output, Some("output"))
    }

    /// What is declared for a value between.
    pub(super) fn value_info(&mut self, value: &ValueInfoProto) -> Result<Declared, String> {
        self.declared(value, None)
    }

    fn declared(&mut self, info: &ValueInfoProto, of: Option<&str>) -> Result<Declared, String> {
        let ty = self.value_type(info, of)?;
        let tensor = match info.r#type.as_ref().and_then(|ty| ty.value.as_ref()) {
            Some(type_proto::Value::TensorType(tensor)) => tensor,
            _ => return Ok(Declared { dtype: None, shape: None, ty }),
        };
        let dtype = Some(tensor.elem_type).filter(|&dtype| dtype != 0);
        let shape = match &ty {
            Some(ValueType::Tensor { shape, .. }) => shape.clone(),
            _ => tensor.shape.as_ref().map(|shape| self.extents(shape, &info.name, of)),
        };
        Ok(Declared { dtype, shape, ty })
    }

    fn extents(&mut self, shape: &TensorShapeProto, name: &str, of: Option<&str>) -> Vec<Option<usize>> {
        shape.dim.iter().enumerate().map(|(axis, dim)| self.extent(dim, name, axis, of)).collect()
    }

    /// The declared type of a value; `None` where it declares none, or no element type.
    pub(super) fn value_type(
        &mut self,
        info: &ValueInfoProto,
        of: Option<&str>,
    ) -> Result<Option<ValueType>, String> {
        let Some(ty) = &info.r#type else { return Ok(None) };
        self.convert(ty, &info.name, of)
    }

    /// The type `ty` of the value `name`.
    pub(super) fn convert(
        &mut self,
        ty: &TypeProto,
        name: &str,
        of: Option<&str>,
    ) -> Result<Option<ValueType>, String> {
        use type_proto::Value;
        let inner = |binder: &mut Self, ty: Option<&TypeProto>| match ty {
            Some(ty) => binder.convert(ty, name, None),
            None => Ok(None),
        };
        let Some(value) = &ty.value else { return Ok(None) };
        Ok(match value {
            Value::TensorType(tensor) if tensor.elem_type == 0 => None,
            Value::TensorType(tensor) => Some(ValueType::Tensor {
                element: element_type(tensor.elem_type)?,
                shape: tensor.shape.as_ref().map(|shape| self.extents(shape, name, of)),
            }),
            Value::SequenceType(ty) => {
                inner(self, ty.elem_type.as_deref())?.map(|ty| ValueType::Sequence(Box::new(ty)))
            }
            Value::OptionalType(ty) => {
                inner(self, ty.elem_type.as_deref())?.map(|ty| ValueType::Optional(Box::new(ty)))
            }
            Value::MapType(map) => {
                let key = element_type(map.key_type)?;
                inner(self, map.value_type.as_deref())?
                    .map(|value| ValueType::Map { key, value: Box::new(value) })
            }
            Value::SparseTensorType(_) => {
                return Err("it is a sparse tensor, which is not supported".to_owned());
            }
            Value::OpaqueType(_) => return Err("it is of an opaque type, which is not supported".to_owned()),
        })
    }

    /// The errors about symbols, once all inputs and outputs have been seen.
    pub(super) fn finish(mut self, model: &str) -> Vec<Diagnostic> {
        const LISTED: usize = 20;
        for symbol in &self.order {
            if self.index.contains_key(*symbol) {
                continue;
            }
            let known: Vec<String> =
                self.symbols.iter().take(LISTED).map(|(known, _)| quote(known)).collect();
            let exist = match known.len() {
                0 => "the model has no symbolic dimensions".to_owned(),
                _ => format!("its symbolic dimensions are {}", known.join(", ")),
            };
            let message = format!("{model} has no symbolic dimension {}; {exist}", quote(symbol));
            self.errors.push(Diagnostic::argument("dims", message));
        }
        if !self.unbound.is_empty() {
            let unbound = self.unbound.iter().filter_map(|&symbol| self.symbols.get(symbol));
            let listed = unbound.clone().take(LISTED).map(|(symbol, places)| {
                let more = if places.len() > PLACES { ", …" } else { "" };
                let places: Vec<&str> = places.iter().take(PLACES).map(String::as_str).collect();
                format!("\n       {}: {}{more}", quote(symbol), places.join(", "))
            });
            let listed: String = listed.collect();
            let bindings: Vec<String> =
                unbound.take(LISTED).map(|(symbol, _)| format!("{} = 1", binding_key(symbol))).collect();
            self.errors.push(Diagnostic::model(format!(
                "{model}: symbolic dimensions without a size{listed}\n       help: dims({})",
                bindings.join(", ")
            )));
        }
        self.errors
    }
}

/// `symbol` as one writes it in `dims(…)`: as it is where it is an identifier, else quoted.
fn binding_key(symbol: &str) -> String {
    let identifier = symbol.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
        && symbol.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic())
        && symbol != "_";
    if identifier { symbol.to_owned() } else { format!("{symbol:?}") }
}

/// The element type with ONNX's number `code`.
fn element_type(code: i32) -> Result<ElementType, String> {
    if code == STRING {
        return Ok(ElementType::String);
    }
    DataType::from_onnx(code)
        .map(ElementType::Number)
        .ok_or_else(|| format!("its element type {} is not supported", data_type_name(code)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Subject;
    use crate::onnx::proto::TensorShapeProto;

    fn info(name: &str, dims: &[&str]) -> ValueInfoProto {
        let dim = dims.iter().map(|dim| Dimension {
            value: match dim.parse() {
                Ok(extent) => Some(dimension::Value::DimValue(extent)),
                Err(_) if dim.is_empty() => None,
                Err(_) => Some(dimension::Value::DimParam(dim.to_string())),
            },
        });
        let shape = Some(TensorShapeProto { dim: dim.collect() });
        let value = type_proto::Value::TensorType(type_proto::Tensor { elem_type: 1, shape });
        ValueInfoProto { name: name.into(), r#type: Some(TypeProto { value: Some(value) }) }
    }

    fn dims(bindings: &[(&str, u64)]) -> Vec<(String, u64)> {
        bindings.iter().map(|&(symbol, extent)| (symbol.to_owned(), extent)).collect()
    }

    #[test]
    fn symbols_are_bound() {
        let dims = dims(&[("batch", 2), ("x[2]", 7), ("past + seq", 3)]);
        let mut binder = Binder::new(&dims);
        let ty = binder.input(&info("x", &["batch", "4", "", "past + seq"])).unwrap().unwrap();
        assert_eq!(ty.to_string(), "f32[2,4,7,3]");
        let output = binder.output(&info("y", &["batch", "h / 2"])).unwrap();
        assert_eq!(output.to_string(), "f32[2,?]");
        assert!(output.admits(&TensorType::new(DataType::F32, [2, 9])));
        assert!(!output.admits(&TensorType::new(DataType::F32, [3, 9])));
        assert!(!output.admits(&TensorType::new(DataType::I64, [2, 9])));
        assert!(!output.admits(&TensorType::new(DataType::F32, [2])));
        assert!(binder.finish("m").is_empty());
    }

    #[test]
    fn unbound_symbols_are_listed_with_where_they_stand() {
        let mut binder = Binder::new(&[]);
        assert_eq!(binder.input(&info("a", &["n", "", "s-1"])), Ok(None));
        assert_eq!(binder.input(&info("b", &["n", "-1"])), Ok(None));
        binder.output(&info("y", &["elsewhere"])).unwrap();
        let errors = binder.finish("m.onnx");
        assert_eq!(errors.len(), 1);
        assert_eq!(
            errors[0].message,
            "m.onnx: symbolic dimensions without a size\n       \
             `n`: axis 0 of input `a`, axis 0 of input `b`\n       \
             `a[1]`: axis 1 of input `a`\n       \
             `s-1`: axis 2 of input `a`\n       \
             `b[1]`: axis 1 of input `b`\n       \
             help: dims(n = 1, \"a[1]\" = 1, \"s-1\" = 1, \"b[1]\" = 1)"
        );
    }

    #[test]
    fn bindings_are_checked() {
        let dims = dims(&[("n", 0), ("bacth", 1), ("n", (1 << 31) + 1)]);
        let mut binder = Binder::new(&dims);
        binder.input(&info("a", &["n"])).unwrap();
        let errors = binder.finish("m.onnx");
        assert!(errors.iter().all(|error| error.subject == Subject::Argument("dims")));
        let messages: Vec<&str> = errors.iter().map(|error| error.message.as_str()).collect();
        assert_eq!(
            messages,
            [
                "dimension `n` = 0 is not between 1 and 2147483648",
                "dimension `n` = 2147483649 is not between 1 and 2147483648",
                "dimension `n` is bound twice",
                "m.onnx has no symbolic dimension `bacth`; its symbolic dimensions are `n`",
            ]
        );
    }

    #[test]
    fn inputs_must_be_of_known_types() {
        let mut binder = Binder::new(&[]);
        let mut input = info("a", &["4"]);
        let string = type_proto::Tensor { elem_type: 8, shape: None };
        let strings = TypeProto { value: Some(type_proto::Value::TensorType(string)) };
        let sequence = type_proto::Sequence { elem_type: Some(Box::new(strings)) };
        input.r#type = Some(TypeProto { value: Some(type_proto::Value::SequenceType(Box::new(sequence))) });
        assert_eq!(binder.input(&input).unwrap().unwrap().to_string(), "sequence of string[…]");
        let unknown = type_proto::Tensor { elem_type: 99, shape: None };
        input.r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(unknown)) });
        assert_eq!(binder.input(&input).unwrap_err(), "its element type number 99 is not supported");
        input.r#type = None;
        assert_eq!(binder.input(&input).unwrap_err(), "it declares no type");
        let huge = info("a", &["1000000", "1000000"]);
        assert!(binder.input(&huge).unwrap_err().ends_with("elements"));
    }
}
