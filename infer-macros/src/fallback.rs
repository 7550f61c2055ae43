//! What is emitted after an error: the names that the attribute would have defined, so that only the real error shows.

use infer_core::codegen;
use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Error, Fields, GenericParam, Item, ItemStruct, parse_quote};

/// The errors, and the struct's names.
///
/// The number and the types of the model's inputs and outputs are not known, so no method of any signature would serve
/// every use.
pub fn model(item: &ItemStruct, errors: Error) -> TokenStream {
    let mut errors = errors.into_iter().map(Error::into_compile_error);
    let first = errors.next();
    let names = codegen::stand_ins(&item.vis.to_token_stream(), &item.ident, &first.to_token_stream());
    quote!(#names #(#errors)*)
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
