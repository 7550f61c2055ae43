//! A compiled model as a typed struct: the code that the attribute and `infer_embed::build` emit.
//!
//! For `struct X;` that is: `X` with `new`, `builder`, `infer` and `context`; `XOutputs` with a boxed nested array for each
//! output; `XContext` with `infer_into`; and a private module that holds the plan's bytes. What the code does is in
//! the library: emitted are types, names and a table.

use std::collections::HashSet;
use std::path::Path;

use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::{format_ident, quote};

use crate::cache::Stored;
use crate::compile::Summary;
use crate::diagnostic::Diagnostic;
use crate::plan::{self, Port};
use crate::tensor_type::{DataType, TensorType};
use crate::value::ValuePort;

/// How a plan gets into the binary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Embed {
    /// By the assembler's `.incbin` on ELF targets, by `include_bytes!` on others.
    #[default]
    Incbin,
    /// By `include_bytes!`: without unsafe code, slower to build.
    Bytes,
}

/// What to emit.
pub struct Request<'a> {
    /// The attributes that the struct keeps.
    pub attributes: TokenStream,
    /// Its visibility, which all emitted items share.
    pub visibility: TokenStream,
    /// Its name.
    pub name: Ident,
    /// The path of the crate infer-embed.
    pub crate_path: TokenStream,
    /// How the plan is embedded.
    pub embed: Embed,
    /// The model file's name, for the documentation.
    pub file_name: String,
    /// The plan.
    pub stored: &'a Stored,
}

/// An input or output as the code names and types it.
struct Item {
    ident: Ident,
    array: TokenStream,
    doc: String,
}

/// Emits the struct and what belongs to it.
///
/// # Errors
///
/// If a path that the code has to name is not UTF-8.
pub fn generate(request: &Request<'_>) -> Result<TokenStream, Diagnostic> {
    let Request { attributes, visibility: vis, name, crate_path: krate, .. } = request;
    let summary = &request.stored.summary;
    let outputs_name = format_ident!("{name}Outputs");
    let context_name = format_ident!("{name}Context");
    let module = format_ident!("__infer_embed_{}", snake_case(&name.to_string()));
    let embedded = embedded(request, &module)?;

    let (input_ports, output_ports) = (static_ports(&summary.inputs)?, static_ports(&summary.outputs)?);
    let inputs = items(&input_ports, "input", &["outputs"], krate);
    let outputs = items(&output_ports, "output", &[], krate);
    let parameters: Vec<TokenStream> =
        inputs.iter().map(|Item { ident, array, .. }| quote!(#ident: &#array)).collect();
    let arguments: Vec<&Ident> = inputs.iter().map(|input| &input.ident).collect();
    let fields: Vec<&Ident> = outputs.iter().map(|output| &output.ident).collect();
    let field_types: Vec<&TokenStream> = outputs.iter().map(|output| &output.array).collect();
    let field_docs: Vec<&String> = outputs.iter().map(|output| &output.doc).collect();

    let struct_doc = struct_doc(request, &inputs, &outputs);
    let inputs_doc = list(&inputs);
    let constants = constants(summary, (&input_ports, &output_ports), krate);
    let inherent = constants
        .iter()
        .map(|Constant { name, ty, value, doc }| quote!(#[doc = #doc] #vis const #name: #ty = #value;));
    let forwarded = constants
        .iter()
        .map(|Constant { name: constant, ty, .. }| quote!(const #constant: #ty = #name::#constant;));
    let kernels = summary.kernels.iter().map(|kernel| format_ident!("{}", kernel.to_uppercase()));
    let kernel_count = summary.kernels.len();
    let version = plan::VERSION;
    let outputs_doc = format!("The outputs of [`{name}`].");
    let context_doc = format!(
        "The memory of one inference of [`{name}`], held from call to call: {} bytes.",
        grouped(summary.arena_bytes)
    );
    // Lints of the user's crate are about the user's code; clippy would ask for names and shapes that ONNX decides.
    let quiet =
        quote!(#[allow(dead_code, unused_qualifications, clippy::all, clippy::pedantic, clippy::nursery)]);

    Ok(quote! {
        #attributes
        #[doc = #struct_doc]
        #vis struct #name {
            engine: #krate::__private::Engine,
        }

        #quiet
        impl #name {
            #(#inherent)*

            /// Opens the model with as many threads as the machine has.
            ///
            /// # Errors
            ///
            /// If `INFER_ISA` or `INFER_THREADS` asks for what is not there.
            #vis fn new() -> #krate::Result<Self> {
                Self::builder().build()
            }

            /// Opens the model with other settings.
            #vis fn builder() -> #krate::Builder<Self> {
                #krate::Builder::new()
            }

            /// Runs the model. Any thread may call it; calls at the same time use memory of their own.
            ///
            #[doc = #inputs_doc]
            ///
            /// # Errors
            ///
            /// If the model cannot compute with the values, such as an index out of range.
            #vis fn infer(&self, #(#parameters),*) -> #krate::Result<#outputs_name> {
                let mut outputs = #outputs_name::zeroed();
                self.engine.run(
                    &[#(#krate::Element::as_bytes(#arguments)),*],
                    &mut [#(#krate::Element::as_output(&mut *outputs.#fields)),*],
                )?;
                ::core::result::Result::Ok(outputs)
            }

            /// Memory to run the model in repeatedly, without allocation.
            #vis fn context(&self) -> #context_name<'_> {
                #context_name { context: self.engine.context() }
            }
        }

        #quiet
        impl #krate::Model for #name {
            type Outputs = #outputs_name;

            #(#forwarded)*

            fn open(options: #krate::EngineOptions) -> #krate::Result<Self> {
                static KERNELS: [&#krate::__private::Kernel; #kernel_count] =
                    [#(&#krate::__private::kernels::#kernels),*];
                ::core::result::Result::Ok(Self {
                    engine: #krate::__private::Engine::open(#module::plan(), &KERNELS, options)?,
                })
            }

            fn run(&self, inputs: &[&[u8]], outputs: &mut [#krate::Output<'_>]) -> #krate::Result<()> {
                self.engine.run(inputs, outputs)
            }
        }

        #[doc = #outputs_doc]
        #[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery)]
        #[derive(
            ::core::clone::Clone, ::core::fmt::Debug, ::core::cmp::PartialEq
        )]
        #vis struct #outputs_name {
            #(
                #[doc = #field_docs]
                #vis #fields: ::std::boxed::Box<#field_types>,
            )*
        }

        #quiet
        impl #outputs_name {
            /// Outputs of zeros, to be written by `infer_into`.
            #vis fn zeroed() -> Self {
                Self { #(#fields: #krate::zeroed()),* }
            }
        }

        #[doc = #context_doc]
        #[allow(dead_code, reason = "an application need not use all that is generated")]
        #vis struct #context_name<'a> {
            context: #krate::__private::Context<'a>,
        }

        #quiet
        impl #context_name<'_> {
            /// Runs the model, writing to `outputs`. After the first call of a context nothing is allocated.
            ///
            #[doc = #inputs_doc]
            ///
            /// # Errors
            ///
            /// If the model cannot compute with the values, such as an index out of range. What `outputs` holds then
            /// is not specified.
            #vis fn infer_into(&mut self, #(#parameters,)* outputs: &mut #outputs_name) -> #krate::Result<()> {
                self.context.run(
                    &[#(#krate::Element::as_bytes(#arguments)),*],
                    &mut [#(#krate::Element::as_output(&mut *outputs.#fields)),*],
                )
            }
        }

        const _: () = ::core::assert!(
            #krate::__private::PLAN_VERSION == #version,
            "infer-embed and infer-macros are of different versions: run `cargo update`",
        );

        #embedded
    })
}

fn static_ports(ports: &[ValuePort]) -> Result<Vec<Port>, Diagnostic> {
    let port = |port: &ValuePort| match port.ty.as_static() {
        Some(ty) => Ok(Port { name: port.name.clone(), ty }),
        None => {
            Err(Diagnostic::model(format!("`{}` is {}, whose shape only the run knows", port.name, port.ty)))
        }
    };
    ports.iter().map(port).collect()
}

/// The private module that holds the plan, and tells the compiler which files the code depends on.
fn embedded(request: &Request<'_>, module: &Ident) -> Result<TokenStream, Diagnostic> {
    let path = utf8(&request.stored.plan)?;
    let sources = request.stored.sources.iter().map(|path| utf8(path)).collect::<Result<Vec<_>, _>>()?;
    let include = quote! {
        #[repr(C, align(64))]
        struct Aligned<T: ?Sized>(T);
        static PLAN: &Aligned<[u8]> = &Aligned(*::core::include_bytes!(#path));
        &PLAN.0
    };
    let plan = match request.embed {
        Embed::Bytes => quote! {
            pub(super) fn plan() -> &'static [u8] {
                #include
            }
        },
        Embed::Incbin => {
            // The content's hash in the symbol: one copy of equal plans, and never bytes of an earlier build.
            let symbol = format_ident!("infer_embed_plan_{}", &request.stored.plan_sha256[..32]);
            let length = Literal::u64_unsuffixed(request.stored.plan_bytes);
            let assembly = [
                format!(".ifndef {symbol}"),
                format!(".pushsection .rodata.{symbol},\"aG\",@progbits,{symbol},comdat"),
                ".balign 64".to_owned(),
                format!(".weak {symbol}"),
                format!(".hidden {symbol}"),
                format!("{symbol}:"),
                format!(".incbin \"{}\"", path.replace('\\', "\\\\").replace('"', "\\\"")),
                ".popsection".to_owned(),
                ".endif".to_owned(),
            ];
            // Targets whose assembler knows these directives; Miri has none.
            let elf = quote!(all(
                not(miri),
                any(target_arch = "x86_64", target_arch = "aarch64"),
                any(
                    target_os = "linux",
                    target_os = "android",
                    target_os = "freebsd",
                    target_os = "netbsd",
                    target_os = "openbsd",
                    target_os = "dragonfly",
                ),
            ));
            quote! {
                #[cfg(#elf)]
                ::core::arch::global_asm!(#(#assembly,)* options(raw));

                #[cfg(#elf)]
                pub(super) fn plan() -> &'static [u8] {
                    // Safe: the assembly above defines it with exactly this length, and nothing writes to it.
                    unsafe extern "C" {
                        safe static #symbol: [u8; #length];
                    }
                    &#symbol
                }

                #[cfg(not(#elf))]
                pub(super) fn plan() -> &'static [u8] {
                    #include
                }
            }
        }
    };
    Ok(quote! {
        #[doc(hidden)]
        #[allow(dead_code, unused_qualifications, non_upper_case_globals, clippy::all, clippy::pedantic, clippy::nursery)]
        mod #module {
            #plan

            /// Read by nobody: it makes the compiler watch the files.
            trait Sources {
                const SOURCES: &'static [&'static [u8]] = &[#(::core::include_bytes!(#sources)),*];
            }
        }
    })
}

fn utf8(path: &Path) -> Result<&str, Diagnostic> {
    path.to_str().ok_or_else(|| {
        Diagnostic::model(format!(
            "the path `{}` is not UTF-8, so generated code cannot name it",
            path.display()
        ))
    })
}

/// A constant of the type and of the trait.
struct Constant {
    name: Ident,
    ty: TokenStream,
    value: TokenStream,
    doc: &'static str,
}

fn constants(summary: &Summary, (inputs, outputs): (&[Port], &[Port]), krate: &TokenStream) -> [Constant; 9] {
    let port = |port: &Port| {
        let name = &port.name;
        let dtype = format_ident!("{}", variant(port.ty.dtype));
        let shape = port.ty.shape.iter().map(|&extent| Literal::usize_unsuffixed(extent));
        quote!(#krate::PortInfo { name: #name, dtype: #krate::DataType::#dtype, shape: &[#(#shape),*] })
    };
    let inputs = inputs.iter().map(port);
    let outputs = outputs.iter().map(port);
    let Summary { weight_bytes, arena_bytes, flops, parameters, model_sha256, opset, notes, .. } = summary;
    let ports = quote!(&'static [#krate::PortInfo]);
    let constant = |name: &str, ty: &TokenStream, value: TokenStream, doc: &'static str| Constant {
        name: Ident::new(name, Span::call_site()),
        ty: ty.clone(),
        value,
        doc,
    };
    let (number, text) = (quote!(u64), quote!(&'static str));
    [
        constant(
            "INPUTS",
            &ports,
            quote!(&[#(#inputs),*]),
            "The inputs, in the order of `infer`'s parameters.",
        ),
        constant("OUTPUTS", &ports, quote!(&[#(#outputs),*]), "The outputs, in the order of the fields."),
        constant("WEIGHT_BYTES", &number, quote!(#weight_bytes), "The size of the weights in the binary."),
        constant(
            "ARENA_BYTES",
            &number,
            quote!(#arena_bytes),
            "The memory of one inference beside inputs and outputs.",
        ),
        constant("FLOPS", &number, quote!(#flops), "Floating-point operations of one inference."),
        constant("PARAMETERS", &number, quote!(#parameters), "The number of the model's parameters."),
        constant("MODEL_SHA256", &text, quote!(#model_sha256), "The SHA-256 of the model file."),
        constant(
            "OPSET",
            &quote!(i64),
            quote!(#opset),
            "The version of the operator set that the model uses.",
        ),
        constant(
            "NOTES",
            &quote!(&'static [&'static str]),
            quote!(&[#(#notes),*]),
            "What is worth knowing but no error.",
        ),
    ]
}

/// The ports with their identifiers, which differ from each other and from `reserved`.
fn items(ports: &[Port], kind: &str, reserved: &[&str], krate: &TokenStream) -> Vec<Item> {
    let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
    let idents = identifiers(&names, kind, reserved);
    let item = |(port, ident): (&Port, String)| Item {
        ident: Ident::new(&ident, Span::call_site()),
        array: array(&port.ty, krate),
        doc: describe(port),
    };
    ports.iter().zip(idents).map(item).collect()
}

/// `[[f32; 3]; 2]` for `f32[2,3]`.
fn array(ty: &TensorType, krate: &TokenStream) -> TokenStream {
    let element = match ty.dtype {
        DataType::F16 => quote!(#krate::f16),
        DataType::Bf16 => quote!(#krate::bf16),
        dtype => {
            let primitive = Ident::new(dtype.name(), Span::call_site());
            quote!(#primitive)
        }
    };
    ty.shape.iter().rev().fold(element, |inner, &extent| {
        let extent = Literal::usize_unsuffixed(extent);
        quote!([#inner; #extent])
    })
}

/// The variant's name in [`DataType`].
fn variant(dtype: DataType) -> String {
    let name = dtype.name();
    let (first, rest) = name.split_at(1);
    first.to_uppercase() + rest
}

/// `` `images` in the model: f32 `[1, 3, 608, 608]`, 4,435,968 bytes ``
fn describe(port: &Port) -> String {
    let bytes = grouped(port.ty.bytes() as u64);
    format!("`{}` in the model: {} `{:?}`, {bytes} bytes", quoted(&port.name), port.ty.dtype, port.ty.shape)
}

/// A name that stands between backticks in documentation.
fn quoted(name: &str) -> String {
    name.replace('`', "'").replace(['\n', '\r'], " ")
}

/// `62,001,757`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn list(items: &[Item]) -> String {
    let lines = items.iter().map(|item| format!("- `{}`: {}\n", item.ident, item.doc));
    lines.collect()
}

fn struct_doc(request: &Request<'_>, inputs: &[Item], outputs: &[Item]) -> String {
    let summary = &request.stored.summary;
    // An empty line first: the user's own documentation may stand above.
    format!(
        "\n\nCompiled from `{}` (opset {}): {} parameters in {} bytes, {} bytes of memory and {} floating-point operations \
         an inference.\n\n# Inputs\n\n{}\n# Outputs\n\n{}",
        quoted(&request.file_name),
        summary.opset,
        grouped(summary.parameters),
        grouped(summary.weight_bytes),
        grouped(summary.arena_bytes),
        grouped(summary.flops),
        list(inputs),
        list(outputs),
    )
}

/// Rust identifiers for names of a model, in their order.
///
/// Letters and digits stay, capitals become small ones (`inputImage` is `input_image`), everything else becomes one
/// underscore between words. A leading digit gets an underscore before it, a keyword one behind it, a name without any
/// letter or digit becomes `kind`. Where two names agree, the later one gets `_2`, `_3`, ….
pub fn identifiers(names: &[&str], kind: &str, reserved: &[&str]) -> Vec<String> {
    let mut taken: HashSet<String> = reserved.iter().map(|&name| name.to_owned()).collect();
    let mut unique = Vec::with_capacity(names.len());
    for name in names {
        let plain = identifier(name).unwrap_or_else(|| kind.to_owned());
        let mut candidate = plain.clone();
        let mut count = 1;
        while !taken.insert(candidate.clone()) {
            count += 1;
            candidate = format!("{plain}_{count}");
        }
        unique.push(candidate);
    }
    unique
}

/// The identifier for one name; `None` where no letter or digit is in it.
fn identifier(name: &str) -> Option<String> {
    let mut ident = snake_case(name);
    if ident.is_empty() {
        return None;
    }
    if ident.starts_with(|first: char| first.is_ascii_digit()) {
        ident.insert(0, '_');
    }
    if KEYWORDS.contains(&ident.as_str()) {
        ident.push('_');
    }
    Some(ident)
}

/// A name in small letters, its words separated by one underscore; empty where no letter or digit is in it.
pub fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    let mut previous = '_';
    for c in name.chars() {
        let starts_word =
            !c.is_ascii_alphanumeric() || (c.is_ascii_uppercase() && previous.is_ascii_lowercase());
        if starts_word && !snake.is_empty() && !snake.ends_with('_') {
            snake.push('_');
        }
        if c.is_ascii_alphanumeric() {
            snake.push(c.to_ascii_lowercase());
        }
        previous = c;
    }
    snake.truncate(snake.trim_end_matches('_').len());
    snake
}

/// The words of small letters that cannot be identifiers in some edition.
const KEYWORDS: [&str; 51] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn",
    "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop",
    "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static",
    "struct", "super", "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual",
    "where", "while", "yield",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_predictable() {
        let cases = [
            ("input.1", "input_1"),
            ("input_1", "input_1"),
            ("Plus214_Output_0", "plus214_output_0"),
            ("inputImage", "input_image"),
            ("dataURL", "data_url"),
            ("/model/head/Conv_output_0", "model_head_conv_output_0"),
            ("onnx::Add_7", "onnx_add_7"),
            ("2041", "_2041"),
            ("type", "type_"),
            ("self", "self_"),
            ("Self", "self_"),
            ("größe", "gr_e"),
            ("a b", "a_b"),
        ];
        for (name, expected) in cases {
            assert_eq!(identifiers(&[name], "input", &[]), [expected], "{name:?}");
        }
    }

    #[test]
    fn collisions_are_numbered_in_order() {
        let names = ["a.b", "a_b", "a/b", "a_b_2", "", "::", "outputs"];
        let expected = ["a_b", "a_b_2", "a_b_3", "a_b_2_2", "input", "input_2", "outputs_2"];
        assert_eq!(identifiers(&names, "input", &["outputs"]), expected);
    }

    #[test]
    fn every_identifier_is_one() {
        for keyword in KEYWORDS {
            let ident = identifiers(&[keyword], "output", &[]).remove(0);
            assert!(!KEYWORDS.contains(&ident.as_str()), "{keyword}");
            // Panics where the text is no identifier.
            Ident::new(&ident, Span::call_site());
        }
    }

    #[test]
    fn arrays_nest_outermost_first() {
        let krate = quote!(::infer_embed);
        let text = |dtype, shape: &[usize]| array(&TensorType::new(dtype, shape), &krate).to_string();
        assert_eq!(text(DataType::F32, &[2, 3]), "[[f32 ; 3] ; 2]");
        assert_eq!(text(DataType::I64, &[]), "i64");
        assert_eq!(text(DataType::F16, &[4]), "[:: infer_embed :: f16 ; 4]");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 62_001_757].map(grouped), ["0", "999", "1,000", "62,001,757"]);
    }
}
