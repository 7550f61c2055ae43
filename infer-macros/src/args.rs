//! The arguments of the attribute. Every value keeps its tokens, so that errors can point at it.

use std::collections::HashMap;

use infer_core::codegen::Embed;
use infer_core::options::{Backends, Precision};
use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{Error, Expr, ExprLit, ExprRange, Lit, LitBool, LitInt, LitStr, Token};

/// A value and the tokens it was read from.
pub struct Spanning<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub tokens: TokenStream,
}

/// What stands between the parentheses of `#[model(…)]`.
pub struct ModelArgs {
    /// The model's path as the user wrote it.
    pub path: LitStr,
    /// `precision = "…"`
    pub precision: Option<Spanning<Precision>>,
    /// `dims(…)`
    pub dims: Option<Spanning<Vec<(String, u64)>>>,
    /// `embed = "…"`
    pub embed: Embed,
    /// `tactics = "…"`, relative as the model's path is.
    pub tactics: Option<LitStr>,
    /// `strict = …`
    pub strict: Option<Spanning<bool>>,
    /// `winograd = …`
    pub winograd: Option<Spanning<bool>>,
    /// `backend = "…"`
    pub backend: Option<Spanning<Backends>>,
    /// `crate = "…"`
    pub crate_path: TokenStream,
}

/// The arguments that have a name, for messages.
const NAMES: [&str; 8] = ["precision", "dims", "embed", "tactics", "strict", "winograd", "backend", "crate"];

/// One argument, before it is known whether it makes sense.
enum Argument {
    Positional(Expr),
    Value(Ident, Expr),
    List(Ident, TokenStream),
    Flag(Ident),
}

impl Parse for Argument {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let named = input.peek(Ident::peek_any)
            && !input.peek(LitBool)
            && !input.peek2(Token![!])
            && !input.peek2(Token![::]);
        if !named {
            return Ok(Argument::Positional(input.parse()?));
        }
        let name = input.call(Ident::parse_any)?;
        if input.peek(Token![=]) {
            input.parse::<Token![=]>()?;
            return Ok(Argument::Value(name, input.parse()?));
        }
        if input.peek(syn::token::Paren) {
            let content;
            syn::parenthesized!(content in input);
            return Ok(Argument::List(name, content.parse()?));
        }
        Ok(Argument::Flag(name))
    }
}

/// Reads the arguments; the error holds everything that is wrong with them.
pub fn parse(arguments: TokenStream) -> syn::Result<ModelArgs> {
    let mut errors = Errors::default();
    let mut args = Partial::default();
    for (position, tokens) in split_at_commas(arguments).into_iter().enumerate() {
        match syn::parse2(tokens) {
            Ok(argument) => args.take(argument, position, &mut errors),
            Err(error) => errors.push(error),
        }
    }
    if args.path.is_none() && !args.path_given {
        let message = "the model's path is missing\nhelp: `#[model(\"models/model.onnx\")]`, relative to the folder of Cargo.toml";
        errors.push(Error::new(Span::call_site(), message));
    }
    errors.check()?;
    // Without errors a path was read, since its absence is one.
    let path = args.path.ok_or_else(|| Error::new(Span::call_site(), "the model's path is missing"))?;
    Ok(ModelArgs {
        path,
        precision: args.precision,
        dims: args.dims,
        embed: args.embed.unwrap_or_default(),
        tactics: args.tactics,
        strict: args.strict,
        winograd: args.winograd,
        backend: args.backend,
        crate_path: args.crate_path.unwrap_or_else(|| quote::quote!(::infer_embed)),
    })
}

/// The arguments read so far.
#[derive(Default)]
struct Partial {
    seen: HashMap<String, Span>,
    path_given: bool,
    path: Option<LitStr>,
    precision: Option<Spanning<Precision>>,
    dims: Option<Spanning<Vec<(String, u64)>>>,
    embed: Option<Embed>,
    tactics: Option<LitStr>,
    strict: Option<Spanning<bool>>,
    winograd: Option<Spanning<bool>>,
    backend: Option<Spanning<Backends>>,
    crate_path: Option<TokenStream>,
}

impl Partial {
    fn take(&mut self, argument: Argument, position: usize, errors: &mut Errors) {
        let (name, argument) = match argument {
            Argument::Positional(value) => return self.take_positional(&value, position, errors),
            Argument::Value(name, value) => (name, Given::Value(value)),
            Argument::List(name, list) => (name, Given::List(list)),
            Argument::Flag(name) => (name, Given::Nothing),
        };
        let key = name.to_string();
        if !NAMES.contains(&key.as_str()) {
            return errors.push(Error::new(name.span(), unknown(&key)));
        }
        if self.seen.insert(key.clone(), name.span()).is_some() {
            return errors.push(Error::new(name.span(), format!("argument `{key}` is given twice")));
        }
        let result = match key.as_str() {
            "precision" => {
                argument.string(&name, "precision = \"fp16\"").and_then(|text| self.take_precision(&text))
            }
            "backend" => {
                argument.string(&name, "backend = \"auto\"").and_then(|text| self.take_backend(&text))
            }
            "embed" => argument.string(&name, "embed = \"bytes\"").and_then(|text| self.take_embed(&text)),
            "crate" => {
                argument.string(&name, "crate = \"infer_embed\"").and_then(|text| self.take_crate(&text))
            }
            "tactics" => {
                argument.string(&name, "tactics = \"model.tactics\"").and_then(|path| self.take_tactics(path))
            }
            "strict" => argument.flag(&name).map(|flag| self.strict = Some(flag)),
            "winograd" => argument.flag(&name).map(|flag| self.winograd = Some(flag)),
            _ => match argument {
                Given::List(list) => {
                    self.dims = Some(Spanning { value: parse_dims(list.clone(), errors), tokens: list });
                    Ok(())
                }
                _ => Err(Error::new(name.span(), "`dims` takes a list\nhelp: `dims(batch = 1)`")),
            },
        };
        if let Err(error) = result {
            errors.push(error);
        }
    }

    fn take_positional(&mut self, value: &Expr, position: usize, errors: &mut Errors) {
        match value {
            Expr::Lit(ExprLit { lit: Lit::Str(path), .. }) if !self.path_given => {
                if path.value().is_empty() {
                    errors.push(Error::new(path.span(), "the model's path is empty"));
                }
                self.path = Some(path.clone());
            }
            Expr::Lit(ExprLit { lit: Lit::Str(path), .. }) => {
                errors.push(Error::new(path.span(), "a second path: one attribute compiles one model"));
            }
            _ if position == 0 => {
                let message =
                    "the model's path must be a string literal\nhelp: `#[model(\"models/model.onnx\")]`";
                errors.push(Error::new_spanned(value, message));
            }
            _ => errors
                .push(Error::new_spanned(value, format!("expected an argument `name = value`; {}", known()))),
        }
        self.path_given = true;
    }

    fn take_precision(&mut self, text: &LitStr) -> syn::Result<()> {
        let names: Vec<String> = Precision::ALL.iter().map(|p| format!("\"{}\"", p.name())).collect();
        let Some(value) = Precision::from_name(&text.value()) else {
            let message = format!(
                "unknown precision \"{}\"\nhelp: the precisions are {}",
                text.value(),
                names.join(", ")
            );
            return Err(Error::new(text.span(), message));
        };
        self.precision = Some(Spanning { value, tokens: text.to_token_stream() });
        Ok(())
    }

    fn take_backend(&mut self, text: &LitStr) -> syn::Result<()> {
        let names: Vec<String> = Backends::ALL.iter().map(|b| format!("\"{}\"", b.name())).collect();
        let Some(value) = Backends::from_name(&text.value()) else {
            let (given, names) = (text.value(), names.join(", "));
            let message = format!("unknown backend \"{given}\"\nhelp: the backends are {names}");
            return Err(Error::new(text.span(), message));
        };
        if value == Backends::Cuda && !cfg!(feature = "cuda") {
            let message =
                "GPUs need a feature of infer-embed\nhelp: write `features = [\"cuda\"]` in Cargo.toml";
            return Err(Error::new(text.span(), message));
        }
        self.backend = Some(Spanning { value, tokens: text.to_token_stream() });
        Ok(())
    }

    fn take_embed(&mut self, text: &LitStr) -> syn::Result<()> {
        self.embed = Some(match text.value().as_str() {
            "incbin" => Embed::Incbin,
            "bytes" => Embed::Bytes,
            other => {
                let message =
                    format!("unknown way to embed \"{other}\"\nhelp: the ways are \"incbin\", \"bytes\"");
                return Err(Error::new(text.span(), message));
            }
        });
        Ok(())
    }

    fn take_crate(&mut self, text: &LitStr) -> syn::Result<()> {
        let path: syn::Path = text.parse().map_err(|_| {
            let message =
                format!("\"{}\" is not the path of a crate\nhelp: `crate = \"infer_embed\"`", text.value());
            Error::new(text.span(), message)
        })?;
        // A bare name is a dependency, whatever item of that name is in scope.
        let absolute =
            path.get_ident().is_some_and(|ident| ident != "crate" && ident != "self" && ident != "super");
        self.crate_path = Some(if absolute { quote::quote!(::#path) } else { path.to_token_stream() });
        Ok(())
    }

    fn take_tactics(&mut self, path: LitStr) -> syn::Result<()> {
        if path.value().is_empty() {
            return Err(Error::new(path.span(), "the path of the tactics is empty"));
        }
        self.tactics = Some(path);
        Ok(())
    }
}

/// What followed an argument's name.
enum Given {
    Value(Expr),
    List(TokenStream),
    Nothing,
}

impl Given {
    /// The truth value that the argument must be.
    fn flag(&self, name: &Ident) -> syn::Result<Spanning<bool>> {
        match self {
            Given::Value(Expr::Lit(ExprLit { lit: Lit::Bool(flag), .. })) => {
                Ok(Spanning { value: flag.value, tokens: flag.to_token_stream() })
            }
            Given::Value(value) => Err(Error::new_spanned(value, format!("`{name}` is `true` or `false`"))),
            _ => Err(Error::new(name.span(), format!("`{name}` takes a value\nhelp: `{name} = true`"))),
        }
    }

    /// The string that the argument must be.
    fn string(&self, name: &Ident, example: &str) -> syn::Result<LitStr> {
        match self {
            Given::Value(Expr::Lit(ExprLit { lit: Lit::Str(text), .. })) => Ok(text.clone()),
            Given::Value(value) => {
                Err(Error::new_spanned(value, format!("`{name}` takes a string literal\nhelp: `{example}`")))
            }
            _ => Err(Error::new(name.span(), format!("`{name}` takes a value\nhelp: `{example}`"))),
        }
    }
}

/// One binding of `dims(…)`.
struct Binding {
    symbol: String,
    symbol_span: Span,
    extent: Expr,
}

impl Parse for Binding {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let (symbol, symbol_span) = if input.peek(LitStr) {
            let text: LitStr = input.parse()?;
            (text.value(), text.span())
        } else if input.peek(Ident::peek_any) {
            let name = input.call(Ident::parse_any)?;
            (name.unraw().to_string(), name.span())
        } else {
            return Err(input.error(
                "expected the name of a dimension\nhelp: `dims(batch = 1)`, `dims(\"past + seq\" = 8)`",
            ));
        };
        input.parse::<Token![=]>()?;
        Ok(Binding { symbol, symbol_span, extent: input.parse()? })
    }
}

fn parse_dims(list: TokenStream, errors: &mut Errors) -> Vec<(String, u64)> {
    let mut dims: Vec<(String, u64)> = Vec::new();
    for tokens in split_at_commas(list) {
        let binding: Binding = match syn::parse2(tokens) {
            Ok(binding) => binding,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        if dims.iter().any(|(symbol, _)| *symbol == binding.symbol) {
            let message = format!("dimension `{}` is bound twice", binding.symbol);
            errors.push(Error::new(binding.symbol_span, message));
        }
        match parse_extent(&binding.extent) {
            Ok(extent) => dims.push((binding.symbol, extent)),
            Err(error) => errors.push(error),
        }
    }
    dims
}

fn parse_extent(extent: &Expr) -> syn::Result<u64> {
    match extent {
        Expr::Lit(ExprLit { lit: Lit::Int(literal), .. }) => positive(literal),
        Expr::Binary(_) | Expr::Range(ExprRange { .. }) => Err(Error::new_spanned(
            extent,
            "several sizes for one dimension are not offered yet\nhelp: give one size",
        )),
        _ => Err(Error::new(
            extent.span(),
            "the size of a dimension is an integer literal\nhelp: `dims(batch = 1)`",
        )),
    }
}

fn positive(literal: &LitInt) -> syn::Result<u64> {
    match literal.base10_parse::<u64>() {
        Ok(0) => Err(Error::new(literal.span(), "a dimension must be at least 1")),
        result => result,
    }
}

fn known() -> String {
    format!("the arguments are {}", NAMES.map(|name| format!("`{name}`")).join(", "))
}

fn unknown(name: &str) -> String {
    let near = NAMES.into_iter().find(|known| distance(known, name) <= 2);
    let help = near.map(|near| format!("\nhelp: did you mean `{near}`?"));
    format!("unknown argument `{name}`\n{}{}", known(), help.unwrap_or_default())
}

/// The Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The arguments one by one, so that an error in one leaves the others to be checked.
fn split_at_commas(tokens: TokenStream) -> Vec<TokenStream> {
    let mut parts = vec![TokenStream::new()];
    for token in tokens {
        match (&token, parts.last_mut()) {
            (TokenTree::Punct(punct), _) if punct.as_char() == ',' => parts.push(TokenStream::new()),
            (_, Some(last)) => last.extend([token]),
            (_, None) => {}
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// Errors, collected.
#[derive(Default)]
pub struct Errors(Option<Error>);

impl Errors {
    /// Adds one.
    pub fn push(&mut self, error: Error) {
        match &mut self.0 {
            Some(errors) => errors.combine(error),
            None => self.0 = Some(error),
        }
    }

    /// Fails if there are any.
    pub fn check(self) -> syn::Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}
