//! From the attribute's arguments and item to the emitted code.

use std::env;
use std::path::{Path, PathBuf};

use infer_core::cache::Cache;
use infer_core::codegen::{self, Request};
use infer_core::diagnostic::{Diagnostic, Subject};
use infer_core::options::{Backends, Options};
use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::{Error, Fields, Item, ItemStruct};

use crate::args::{self, Errors, ModelArgs};
use crate::fallback;

/// Expands the attribute.
pub fn model(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let args = args::parse(arguments);
    let item = match syn::parse2::<Item>(item.clone()) {
        Ok(item) => item,
        Err(error) => return error.into_compile_error(),
    };
    let unit = unit_struct(&item);
    match (args, unit) {
        (Ok(args), Ok(unit)) => compile(&args, unit).unwrap_or_else(|errors| fallback::model(unit, errors)),
        (Err(errors), Ok(unit)) => fallback::model(unit, errors),
        (args, Err(error)) => {
            let mut errors = Errors::default();
            errors.push(error);
            if let Err(error) = args {
                errors.push(error);
            }
            let errors = errors.check().map_or_else(Error::into_compile_error, |()| TokenStream::new());
            let item = fallback::item(item);
            quote::quote!(#item #errors)
        }
    }
}

/// The struct that the attribute may stand on.
fn unit_struct(item: &Item) -> syn::Result<&ItemStruct> {
    let help = "help: `#[model(\"…\")] pub struct Name;`";
    let wrong = |tokens: &dyn ToTokens, what: &str| {
        Err(Error::new_spanned(
            tokens.to_token_stream(),
            format!("`model` stands on a unit struct, not on {what}\n{help}"),
        ))
    };
    let item = match item {
        Item::Struct(item) => item,
        Item::Enum(item) => return wrong(&item.enum_token, "an enum"),
        Item::Union(item) => return wrong(&item.union_token, "a union"),
        Item::Fn(item) => return wrong(&item.sig.fn_token, "a function"),
        Item::Mod(item) => return wrong(&item.mod_token, "a module"),
        other => return wrong(other, "this item"),
    };
    if !item.generics.params.is_empty() || item.generics.where_clause.is_some() {
        return wrong(&item.generics, "a generic struct");
    }
    match &item.fields {
        Fields::Unit => Ok(item),
        fields => wrong(fields, "a struct with fields"),
    }
}

fn compile(args: &ModelArgs, item: &ItemStruct) -> syn::Result<TokenStream> {
    let folder = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let folder = folder.ok_or_else(|| {
        Error::new(
            args.path.span(),
            "CARGO_MANIFEST_DIR is not set: model paths are relative to it; build with cargo",
        )
    })?;
    let mut options = Options::new(folder.join(args.path.value()));
    if options.model.try_exists().is_ok_and(|exists| !exists) {
        let message = format!(
            "{}: there is no such file\nhelp: the path is relative to the folder of Cargo.toml",
            args.path.value()
        );
        return Err(Error::new(args.path.span(), message));
    }
    if let Some(precision) = &args.precision {
        options.precision = precision.value;
    }
    if let Some(winograd) = &args.winograd {
        options.winograd = winograd.value;
    }
    options.backends = args.backend.as_ref().map_or(Backends::BUILT, |backend| backend.value);
    if let Some(dims) = &args.dims {
        options.dims = dims.value.clone();
    }
    options.tactics = args.tactics.as_ref().map(|path| folder.join(path.value()));

    let cache = Cache::near(Path::new(env!("OUT_DIR")));
    let stored = cache.compile(&options).map_err(|diagnostics| {
        let mut errors = Errors::default();
        for diagnostic in diagnostics {
            errors.push(located(&diagnostic, args, &folder));
        }
        let silent = || Error::new(args.path.span(), "the model was refused without a reason");
        errors.check().err().unwrap_or_else(silent)
    })?;
    if let Some(strict) =
        args.strict.as_ref().filter(|strict| strict.value && !stored.summary.notes.is_empty())
    {
        let notes = stored.summary.notes.join("\n- ");
        return Err(Error::new_spanned(
            &strict.tokens,
            format!("the model has notes, and `strict` is on:\n- {notes}"),
        ));
    }
    codegen::generate(&Request {
        attributes: item.attrs.iter().map(ToTokens::to_token_stream).collect(),
        visibility: item.vis.to_token_stream(),
        name: item.ident.clone(),
        crate_path: args.crate_path.clone(),
        embed: args.embed,
        file_name: file_name(&args.path.value()),
        span: args.path.span(),
        stored: &stored,
    })
    .map_err(|diagnostic| located(&diagnostic, args, &folder))
}

/// The error at the literal that it is about, with paths as the user wrote them.
fn located(diagnostic: &Diagnostic, args: &ModelArgs, folder: &Path) -> Error {
    let path = args.path.to_token_stream();
    let tokens = match diagnostic.subject {
        Subject::Model => path,
        Subject::Argument("precision") => args.precision.as_ref().map_or(path, |value| value.tokens.clone()),
        Subject::Argument("backend") => args.backend.as_ref().map_or(path, |value| value.tokens.clone()),
        Subject::Argument("dims") => args.dims.as_ref().map_or(path, |value| value.tokens.clone()),
        Subject::Argument("tactics") => {
            args.tactics.as_ref().map_or(path, |tactics| tactics.to_token_stream())
        }
        Subject::Argument(_) => path,
    };
    let folder = format!("{}{}", folder.display(), std::path::MAIN_SEPARATOR);
    // The compiler indents further lines itself.
    let message = diagnostic.message.replace(&folder, "").replace("\n       ", "\n");
    match tokens.is_empty() {
        // `dims()` has no tokens to point at.
        true => Error::new(args.path.span(), message),
        false => Error::new_spanned(tokens, message),
    }
}

fn file_name(path: &str) -> String {
    Path::new(path).file_name().map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}
