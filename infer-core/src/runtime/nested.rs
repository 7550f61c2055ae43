//! Nested arrays of items that need not be plain bytes, such as strings.

#![allow(unsafe_code)]

use half::{bf16, f16};

/// An item, or an array of items, nested to any depth: `f32`, `[[String; 2]; 3]`.
///
/// # Safety
///
/// A value is `LENGTH` values of `Item` in a row, without padding, of the same alignment. Implemented by this crate alone.
pub unsafe trait Nested: Sized {
    /// The innermost type.
    type Item;

    /// How many values of [`Nested::Item`] there are.
    const LENGTH: usize;

    /// The items in a row.
    fn items(&self) -> &[Self::Item] {
        // SAFETY: `self` is `LENGTH` items in a row, aligned for them; the result borrows `self`.
        unsafe { std::slice::from_raw_parts((&raw const *self).cast(), Self::LENGTH) }
    }

    /// The items in a row.
    fn items_mut(&mut self) -> &mut [Self::Item] {
        // SAFETY: as in `items`, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut((&raw mut *self).cast(), Self::LENGTH) }
    }

    /// The array of these items, which stay where they are; `None` where there are more or fewer.
    fn from_items(items: Vec<Self::Item>) -> Option<Box<Self>> {
        // SAFETY: there are `LENGTH` items.
        (items.len() == Self::LENGTH).then(|| unsafe { nested(items) })
    }

    /// The array of nothing but this item, on the heap.
    fn filled(item: Self::Item) -> Box<Self>
    where
        Self::Item: Clone,
    {
        // SAFETY: there are `LENGTH` items.
        unsafe { nested(vec![item; Self::LENGTH]) }
    }
}

/// The array of these items.
///
/// # Safety
///
/// There are `LENGTH` of them.
unsafe fn nested<T: Nested>(items: Vec<T::Item>) -> Box<T> {
    let items = Box::into_raw(items.into_boxed_slice());
    // SAFETY: the box held `LENGTH` items in a row, which are a value, of the same size and alignment: so the layout of
    // the allocation is that of `T` too.
    unsafe { Box::from_raw(items.cast::<T>()) }
}

macro_rules! items {
    ($($item:ty)*) => {$(
        // SAFETY: one in a row.
        unsafe impl Nested for $item {
            type Item = $item;
            const LENGTH: usize = 1;
        }
    )*};
}

items! { f32 f64 f16 bf16 bool i8 i16 i32 i64 u8 u16 u32 u64 String }

// SAFETY: an array is its elements in a row, without padding between them and aligned as they are.
unsafe impl<T: Nested, const N: usize> Nested for [T; N] {
    type Item = T::Item;
    const LENGTH: usize = T::LENGTH * N;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_nest_in_place() {
        let strings = |count: usize| (0..count).map(|index| index.to_string()).collect::<Vec<_>>();
        assert!(<[[String; 2]; 3]>::from_items(strings(5)).is_none());
        let mut array = <[[String; 2]; 3]>::from_items(strings(6)).unwrap();
        assert_eq!((array[2][0].as_str(), array.items()), ("4", &strings(6)[..]));
        array.items_mut()[5].push('!');
        assert_eq!(array[2][1], "5!");
        assert_eq!(*String::from_items(strings(1)).unwrap(), "0");
        assert!(<[[String; 0]; 3]>::from_items(Vec::new()).is_some());
    }
}
