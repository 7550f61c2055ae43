//! The Rust types of a model's inputs and outputs.
//!
//! | in the model | as an input | as an output, a field |
//! | --- | --- | --- |
//! | tensor of known shape | `&[[f32; 3]; 2]` | `Box<[[f32; 3]; 2]>` |
//! | tensor of a shape that only the run knows | `&Tensor<f32>` | `Tensor<f32>` |
//! | string | `&str` | `String` |
//! | sequence | `&[T]` | `Vec<T>` |
//! | optional | `Option<&T>` | `Option<T>` |
//! | map | `&BTreeMap<K, V>` | `BTreeMap<K, V>` |
//!
//! Inside of a sequence or an optional a single element is itself, not boxed. The types stand for values through
//! `session::{ToValue, FromValue}`.

use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::quote;

use crate::diagnostic::Diagnostic;
use crate::onnx::quote as quoted;
use crate::tensor_type::{DataType, TensorType};
use crate::value::{ElementType, ValuePort, ValueType};

/// The type, where a plan alone can take and give it: a tensor of numbers of known shape. Complex numbers are borrowed
/// as arrays that need not begin where kernels want them to.
pub(super) fn array_type(ty: &ValueType) -> Option<TensorType> {
    ty.as_static().filter(|ty| !matches!(ty.dtype, DataType::C64 | DataType::C128))
}

/// The type of the parameter for an input.
pub(super) fn parameter(port: &ValuePort, krate: &TokenStream) -> Result<TokenStream, Diagnostic> {
    borrowed(&port.ty, krate).ok_or_else(|| unsupported(port))
}

/// The type of the field for an output.
pub(super) fn field(port: &ValuePort, krate: &TokenStream) -> Result<TokenStream, Diagnostic> {
    owned(&port.ty, false, krate).ok_or_else(|| unsupported(port))
}

fn unsupported(port: &ValuePort) -> Diagnostic {
    let name = quoted(&port.name);
    Diagnostic::model(format!(
        "{name} is {}, which has no type in Rust here\n       \
         supported: tensors, sequences and optionals of them, maps from integers or strings to tensors",
        port.ty
    ))
}

fn borrowed(ty: &ValueType, krate: &TokenStream) -> Option<TokenStream> {
    Some(match ty {
        ValueType::Tensor { element, shape } => match known(shape.as_deref()) {
            Some(shape) if shape.is_empty() && *element == ElementType::String => quote!(&str),
            Some(shape) => {
                let array = array(*element, &shape, krate);
                quote!(&#array)
            }
            None => {
                let element = self::element(*element, krate);
                quote!(&#krate::Tensor<#element>)
            }
        },
        ValueType::Sequence(inner) => {
            let inner = owned(inner, true, krate)?;
            quote!(&[#inner])
        }
        ValueType::Optional(inner) => {
            let inner = borrowed(inner, krate)?;
            quote!(::core::option::Option<#inner>)
        }
        ValueType::Map { .. } => {
            let map = owned(ty, true, krate)?;
            quote!(&#map)
        }
    })
}

fn owned(ty: &ValueType, inside: bool, krate: &TokenStream) -> Option<TokenStream> {
    Some(match ty {
        ValueType::Tensor { element, shape } => match known(shape.as_deref()) {
            Some(shape)
                if shape.is_empty()
                    && (inside || *element == ElementType::String)
                    && !is_complex(*element) =>
            {
                self::element(*element, krate)
            }
            Some(shape) => {
                let array = array(*element, &shape, krate);
                quote!(::std::boxed::Box<#array>)
            }
            None => {
                let element = self::element(*element, krate);
                quote!(#krate::Tensor<#element>)
            }
        },
        ValueType::Sequence(inner) => {
            let inner = owned(inner, true, krate)?;
            quote!(::std::vec::Vec<#inner>)
        }
        ValueType::Optional(inner) => {
            let inner = owned(inner, true, krate)?;
            quote!(::core::option::Option<#inner>)
        }
        ValueType::Map { key, value } => {
            let ValueType::Tensor { element: value, .. } = **value else { return None };
            if !is_ordered(*key) {
                return None;
            }
            let (key, value) = (element(*key, krate), element(value, krate));
            quote!(::std::collections::BTreeMap<#key, #value>)
        }
    })
}

/// The extents, if all are known.
fn known(shape: Option<&[Option<usize>]>) -> Option<Vec<usize>> {
    shape?.iter().copied().collect()
}

fn is_complex(element: ElementType) -> bool {
    matches!(element, ElementType::Number(DataType::C64 | DataType::C128))
}

/// Whether the keys of a map may be of this type.
fn is_ordered(element: ElementType) -> bool {
    match element {
        ElementType::String => true,
        ElementType::Number(dtype) => matches!(
            dtype,
            DataType::U8
                | DataType::I8
                | DataType::U16
                | DataType::I16
                | DataType::U32
                | DataType::I32
                | DataType::U64
                | DataType::I64
        ),
    }
}

fn element(element: ElementType, krate: &TokenStream) -> TokenStream {
    match element {
        ElementType::String => quote!(::std::string::String),
        ElementType::Number(DataType::F16) => quote!(#krate::f16),
        ElementType::Number(DataType::Bf16) => quote!(#krate::bf16),
        ElementType::Number(dtype) => {
            let primitive = Ident::new(dtype.storage().name(), Span::call_site());
            if is_complex(element) { quote!([#primitive; 2]) } else { quote!(#primitive) }
        }
    }
}

/// `[[f32; 3]; 2]` for `f32[2,3]`.
pub(super) fn array(element: ElementType, shape: &[usize], krate: &TokenStream) -> TokenStream {
    shape.iter().rev().fold(self::element(element, krate), |inner, &extent| {
        let extent = Literal::usize_unsuffixed(extent);
        quote!([#inner; #extent])
    })
}

/// The port as a `PortInfo`.
pub(super) fn port_info(port: &ValuePort, krate: &TokenStream) -> TokenStream {
    let name = &port.name;
    let ty = port_type(&port.ty, krate);
    quote!(#krate::PortInfo { name: #name, ty: #ty })
}

fn port_type(ty: &ValueType, krate: &TokenStream) -> TokenStream {
    let extent = |extent: &usize| Literal::usize_unsuffixed(*extent);
    if let Some(ty) = ty.as_static() {
        let (dtype, shape) = (data_type(ty.dtype, krate), ty.shape.iter().map(extent));
        return quote!(#krate::PortType::Array { dtype: #dtype, shape: &[#(#shape),*] });
    }
    match ty {
        ValueType::Tensor { element, shape } => {
            let shape = match shape {
                None => quote!(::core::option::Option::None),
                Some(shape) => {
                    let extents = shape.iter().map(|known| match known {
                        None => quote!(::core::option::Option::None),
                        Some(known) => {
                            let known = extent(known);
                            quote!(::core::option::Option::Some(#known))
                        }
                    });
                    quote!(::core::option::Option::Some(&[#(#extents),*]))
                }
            };
            match element {
                ElementType::String => quote!(#krate::PortType::Strings { shape: #shape }),
                ElementType::Number(dtype) => {
                    let dtype = data_type(*dtype, krate);
                    quote!(#krate::PortType::Tensor { dtype: #dtype, shape: #shape })
                }
            }
        }
        ValueType::Sequence(inner) => {
            let inner = port_type(inner, krate);
            quote!(#krate::PortType::Sequence(&#inner))
        }
        ValueType::Optional(inner) => {
            let inner = port_type(inner, krate);
            quote!(#krate::PortType::Optional(&#inner))
        }
        ValueType::Map { key, value } => {
            let key = port_type(&ValueType::Tensor { element: *key, shape: Some(Vec::new()) }, krate);
            let value = port_type(value, krate);
            quote!(#krate::PortType::Map { key: &#key, value: &#value })
        }
    }
}

fn data_type(dtype: DataType, krate: &TokenStream) -> TokenStream {
    // The derived form of a variant is its name.
    let variant = Ident::new(&format!("{dtype:?}"), Span::call_site());
    quote!(#krate::DataType::#variant)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(element: impl Into<ElementType>, shape: Option<&[Option<usize>]>) -> ValueType {
        ValueType::Tensor { element: element.into(), shape: shape.map(<[_]>::to_vec) }
    }

    fn types(ty: ValueType) -> [String; 2] {
        let krate = quote!(infer_embed);
        let port = ValuePort { name: "x".to_owned(), ty };
        let short = |tokens: TokenStream| {
            let text = tokens.to_string().replace(' ', "");
            ["infer_embed::", "::core::option::", "::std::boxed::", "::std::vec::", "::std::string::"]
                .iter()
                .fold(text, |text, path| text.replace(path, ""))
                .replace("::std::collections::", "")
        };
        [short(parameter(&port, &krate).unwrap()), short(field(&port, &krate).unwrap())]
    }

    #[test]
    fn arrays_nest_outermost_first() {
        let some = |extents: &[usize]| extents.iter().map(|&extent| Some(extent)).collect::<Vec<_>>();
        assert_eq!(types(tensor(DataType::F32, Some(&some(&[2, 3])))), ["&[[f32;3];2]", "Box<[[f32;3];2]>"]);
        assert_eq!(types(tensor(DataType::I64, Some(&[]))), ["&i64", "Box<i64>"]);
        assert_eq!(types(tensor(DataType::F16, Some(&some(&[4])))), ["&[f16;4]", "Box<[f16;4]>"]);
        assert_eq!(types(tensor(DataType::F8E4M3FN, Some(&some(&[4])))), ["&[u8;4]", "Box<[u8;4]>"]);
        assert_eq!(types(tensor(DataType::I2, None)), ["&Tensor<i8>", "Tensor<i8>"]);
        assert_eq!(types(tensor(DataType::C64, Some(&some(&[3])))), ["&[[f32;2];3]", "Box<[[f32;2];3]>"]);
        assert_eq!(types(tensor(DataType::C128, None)), ["&Tensor<[f64;2]>", "Tensor<[f64;2]>"]);
        assert_eq!(types(tensor(ElementType::String, Some(&some(&[2])))), ["&[String;2]", "Box<[String;2]>"]);
        assert_eq!(types(tensor(ElementType::String, Some(&[]))), ["&str", "String"]);
        assert_eq!(
            types(tensor(ElementType::String, Some(&[Some(2), None]))),
            ["&Tensor<String>", "Tensor<String>"]
        );
    }

    #[test]
    fn containers_hold_owned_values() {
        let scalar = || tensor(DataType::F32, Some(&[]));
        let row = || tensor(DataType::F32, Some(&[Some(2)]));
        let open = || tensor(DataType::F32, None);
        let sequence = |ty| ValueType::Sequence(Box::new(ty));
        let optional = |ty| ValueType::Optional(Box::new(ty));
        assert_eq!(types(sequence(open())), ["&[Tensor<f32>]", "Vec<Tensor<f32>>"]);
        assert_eq!(types(sequence(scalar())), ["&[f32]", "Vec<f32>"]);
        assert_eq!(types(sequence(row())), ["&[Box<[f32;2]>]", "Vec<Box<[f32;2]>>"]);
        assert_eq!(types(optional(row())), ["Option<&[f32;2]>", "Option<Box<[f32;2]>>"]);
        assert_eq!(types(optional(sequence(open()))), ["Option<&[Tensor<f32>]>", "Option<Vec<Tensor<f32>>>"]);
        let map = ValueType::Map { key: DataType::I64.into(), value: Box::new(open()) };
        assert_eq!(types(map.clone()), ["&BTreeMap<i64,f32>", "BTreeMap<i64,f32>"]);
        assert_eq!(types(sequence(map)), ["&[BTreeMap<i64,f32>]", "Vec<BTreeMap<i64,f32>>"]);
    }

    #[test]
    fn what_has_no_type_is_refused() {
        let value = tensor(DataType::F32, None);
        let map = |key, value| ValueType::Map { key, value: Box::new(value) };
        for ty in [
            map(DataType::F32.into(), value.clone()),
            map(ElementType::String, ValueType::Sequence(Box::new(value))),
        ] {
            let error = parameter(&ValuePort { name: "x".to_owned(), ty }, &quote!(k)).unwrap_err();
            assert!(error.message.starts_with("`x` is map from "), "{}", error.message);
        }
    }
}
