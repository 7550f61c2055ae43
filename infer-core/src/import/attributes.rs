//! From the file's attributes to those that operators read.

use std::collections::HashSet;

use super::dims::Binder;
use crate::diagnostic::Reason;
use crate::onnx::proto::{AttributeProto, attribute_type};
use crate::onnx::{quote, to_value};
use crate::record::Attribute;
use crate::value::Value;

/// The attributes of a node.
pub(super) fn convert(attributes: &[(&str, &AttributeProto)]) -> Result<Vec<(String, Attribute)>, Reason> {
    let mut entries: Vec<(String, Attribute)> = Vec::with_capacity(attributes.len());
    let mut known = HashSet::new();
    for (name, attribute) in attributes {
        if !known.insert(name) {
            return Err(Reason::new(format!("attribute {} is given twice", quote(name))));
        }
        let value = convert_one(attribute).map_err(|mut reason| {
            reason.what = format!("attribute {}: {}", quote(name), reason.what);
            reason
        })?;
        entries.push(((*name).to_owned(), value));
    }
    Ok(entries)
}

fn convert_one(attribute: &AttributeProto) -> Result<Attribute, Reason> {
    use attribute_type as ty;
    let missing = || Reason::new("it has no value");
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Reason::new("it is no UTF-8 text")),
    };
    let unsupported = |kind: &str| Err(Reason::new(format!("it is {kind}, which is not supported")));
    match kind(attribute) {
        ty::FLOAT => Ok(Attribute::Float(attribute.f.unwrap_or_default())),
        ty::INT => Ok(Attribute::Int(attribute.i.unwrap_or_default())),
        ty::STRING => Ok(Attribute::String(text(attribute.s.as_deref().unwrap_or_default())?)),
        ty::TENSOR => match to_value(attribute.t.as_ref().ok_or_else(missing)?)? {
            Value::Strings(strings) => Ok(Attribute::StringTensor(strings)),
            Value::Tensor(tensor) => Ok(Attribute::Tensor(tensor)),
            _ => Err(missing()),
        },
        ty::GRAPH => unsupported("a graph"),
        ty::FLOATS => Ok(Attribute::Floats(attribute.floats.clone())),
        ty::INTS => Ok(Attribute::Ints(attribute.ints.clone())),
        ty::STRINGS => {
            let strings: Result<_, _> = attribute.strings.iter().map(|bytes| text(bytes)).collect();
            Ok(Attribute::Strings(strings?))
        }
        ty::TENSORS => unsupported("a list of tensors"),
        ty::GRAPHS => unsupported("a list of graphs"),
        ty::SPARSE_TENSOR | ty::SPARSE_TENSORS => unsupported("a sparse tensor"),
        ty::TYPE_PROTO => {
            let ty = attribute.tp.as_ref().ok_or_else(missing)?;
            let converted = Binder::new(&[]).convert(ty, "", None).map_err(Reason::new)?;
            converted.map(Attribute::Type).ok_or_else(missing)
        }
        ty::TYPE_PROTOS => unsupported("a list of types"),
        ty::UNDEFINED => Err(missing()),
        other => unsupported(&format!("of type {other}")),
    }
}

/// The type, found from the field in use where an old file does not state it.
fn kind(attribute: &AttributeProto) -> i32 {
    use attribute_type as ty;
    if attribute.r#type != ty::UNDEFINED {
        return attribute.r#type;
    }
    let fields = [
        (attribute.f.is_some(), ty::FLOAT),
        (attribute.i.is_some(), ty::INT),
        (attribute.s.is_some(), ty::STRING),
        (attribute.t.is_some(), ty::TENSOR),
        (attribute.g.is_some(), ty::GRAPH),
        (!attribute.floats.is_empty(), ty::FLOATS),
        (!attribute.ints.is_empty(), ty::INTS),
        (!attribute.strings.is_empty(), ty::STRINGS),
        (!attribute.tensors.is_empty(), ty::TENSORS),
        (!attribute.graphs.is_empty(), ty::GRAPHS),
        (attribute.tp.is_some(), ty::TYPE_PROTO),
    ];
    fields.iter().find(|(used, _)| *used).map_or(ty::UNDEFINED, |(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ops::Attributes;

    fn refused(attributes: &[(&str, &AttributeProto)]) -> String {
        convert(attributes).unwrap_err().what
    }

    #[test]
    fn values_are_read_by_type_or_by_field() {
        let old = AttributeProto { i: Some(3), ..AttributeProto::default() };
        let new =
            AttributeProto { r#type: attribute_type::INTS, ints: vec![1, 2], ..AttributeProto::default() };
        let mut attributes = Attributes::new(convert(&[("axis", &old), ("pads", &new)]).unwrap());
        assert_eq!(attributes.int("axis").unwrap(), Some(3));
        assert_eq!(attributes.ints("pads").unwrap(), Some(vec![1, 2]));
        assert_eq!(attributes.unread().count(), 0);
    }

    #[test]
    fn wrong_attributes_are_refused() {
        let empty = AttributeProto::default();
        assert_eq!(refused(&[("a", &empty)]), "attribute `a`: it has no value");
        let text = AttributeProto { s: Some(Bytes::from_static(b"\xff")), ..AttributeProto::default() };
        assert_eq!(refused(&[("a", &text)]), "attribute `a`: it is no UTF-8 text");
        let tensor = AttributeProto { r#type: attribute_type::TENSOR, ..AttributeProto::default() };
        assert_eq!(refused(&[("a", &tensor)]), "attribute `a`: it has no value");
        let number = AttributeProto { i: Some(3), ..AttributeProto::default() };
        assert_eq!(refused(&[("a", &number), ("a", &number)]), "attribute `a` is given twice");
        let strange = AttributeProto { r#type: 77, ..AttributeProto::default() };
        assert_eq!(refused(&[("a", &strange)]), "attribute `a`: it is of type 77, which is not supported");
    }
}
