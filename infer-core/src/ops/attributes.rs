//! A node's attributes, with an account of which were read.

use std::sync::Arc;

use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::record::{Attribute, GraphRecord};
use crate::value::{Strings, ValueType};

/// The attributes of a node, by name. Every one must be read, so that none is silently ignored.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    entries: Vec<(String, Attribute, bool)>,
}

macro_rules! getter {
    ($(#[$doc:meta])* $name:ident, $variant:ident, $ty:ty, $wanted:literal) => {
        $(#[$doc])*
        pub fn $name(&mut self, name: &str) -> Result<Option<$ty>, Reason> {
            match self.take(name) {
                None => Ok(None),
                Some(Attribute::$variant(value)) => Ok(Some(value.clone().into())),
                Some(other) => {
                    Err(Reason::new(format!("attribute `{name}` is {}, not {}", other.kind(), $wanted)))
                }
            }
        }
    };
}

impl Attributes {
    /// The attributes of `entries`.
    pub fn new(entries: Vec<(String, Attribute)>) -> Self {
        Attributes { entries: entries.into_iter().map(|(name, value)| (name, value, false)).collect() }
    }

    fn take(&mut self, name: &str) -> Option<&Attribute> {
        let (_, value, read) = self.entries.iter_mut().find(|(entry, ..)| entry == name)?;
        *read = true;
        Some(value)
    }

    getter!(
        /// The INT attribute `name`, if it is there.
        int, Int, i64, "an integer");
    getter!(
        /// The FLOAT attribute `name`, if it is there.
        float, Float, f32, "a float");
    getter!(
        /// The STRING attribute `name`, if it is there.
        string, String, String, "a string");
    getter!(
        /// The TENSOR attribute `name`, if it is there.
        tensor, Tensor, Constant, "a tensor");
    getter!(
        /// The TENSOR attribute `name` as strings, if it is there.
        string_tensor, StringTensor, Strings, "a tensor of strings");
    getter!(
        /// The GRAPH attribute `name`, if it is there.
        graph, Graph, Arc<GraphRecord>, "a graph");
    getter!(
        /// The TYPE_PROTO attribute `name`, if it is there.
        value_type, Type, ValueType, "a type");
    getter!(
        /// The INTS attribute `name`, if it is there.
        ints, Ints, Vec<i64>, "a list of integers");
    getter!(
        /// The FLOATS attribute `name`, if it is there.
        floats, Floats, Vec<f32>, "a list of floats");
    getter!(
        /// The STRINGS attribute `name`, if it is there.
        strings, Strings, Vec<String>, "a list of strings");

    /// The INT attribute `name` as a switch, `default` where it is left out.
    pub fn flag(&mut self, name: &str, default: bool) -> Result<bool, Reason> {
        match self.int(name)? {
            None => Ok(default),
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            Some(other) => Err(Reason::new(format!("attribute `{name}` is {other}, not 0 or 1"))),
        }
    }

    /// Marks attribute `name` as read: one that changes nothing here, such as a training option.
    pub fn ignore(&mut self, name: &str) {
        self.take(name);
    }

    /// The names of those never read.
    pub fn unread(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter(|(_, _, read)| !read).map(|(name, ..)| name.as_str())
    }
}
