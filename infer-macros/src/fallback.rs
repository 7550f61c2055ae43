//! What is emitted after an error: the names that the attribute would have defined, so that only the real error shows.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Error, Fields, GenericParam, Item, ItemStruct, parse_quote};

/// The errors, and the struct's names.
///
/// The number and the types of the model's inputs and outputs are not known, so no method of any signature would serve
/// every use. Instead the names stand for a type that is itself in error, an array whose length is the first error:
/// the compiler reports nothing about what is done with values of it.
pub fn model(item: &ItemStruct, errors: Error) -> TokenStream {
    let ItemStruct { vis, ident, .. } = item;
    let outputs = format_ident!("{ident}Outputs");
    let context = format_ident!("{ident}Context");
    let mut errors = errors.into_iter().map(Error::into_compile_error);
    let first = errors.next();
    quote! {
        /// A model that could not be compiled.
        #[allow(dead_code, reason = "it stands for a type that could not be made")]
        #vis type #ident = [(); #first];
        /// The outputs of a model that could not be compiled.
        #[allow(dead_code, reason = "it stands for a type that could not be made")]
        #vis type #outputs = #ident;
        /// The context of a model that could not be compiled.
        #[allow(dead_code, type_alias_bounds, reason = "it stands for a type that could not be made")]
        #vis type #context<'a> = ::core::marker::PhantomData<&'a #ident>;
        #(#errors)*
    }
}

/// The item that the attribute may not stand on, as it stands, so that what else it is used for keeps working. The
/// parameters of a generic unit struct are made use of: that they are not is an error of its own.
pub fn item(mut item: Item) -> Item {
    if let Item::Struct(item) = &mut item
        && matches!(item.fields, Fields::Unit)
    {
        let uses = item.generics.params.iter().filter_map(|parameter| match parameter {
            GenericParam::Lifetime(parameter) => {
                let lifetime = &parameter.lifetime;
                Some(quote!(&#lifetime ()))
            }
            GenericParam::Type(parameter) => {
                let ident = &parameter.ident;
                Some(quote!(*const #ident))
            }
            _ => None,
        });
        item.fields = Fields::Unnamed(parse_quote!((::core::marker::PhantomData<(#(#uses,)*)>)));
    }
    item
}
