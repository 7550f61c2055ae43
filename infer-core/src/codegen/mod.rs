//! A compiled model as a typed struct: the code that the attribute and `infer_embed::build` emit.
//!
//! For `struct X;` that is: `X` with `new`, `builder`, `infer` and `context`; `XOutputs` with a field for each output;
//! `XContext` with `infer_into`, and `infer_device` where a GPU may run all of it; and a private module that holds the plan's bytes. What the code does is in the
//! library: emitted are types, names and a table.
//!
//! A plan runs on an `Engine`, with the kernels that it names; a program on a `Session`, which has all operators and is
//! there with the feature `dynamic` alone. See `types.rs` for the types of inputs and outputs.

mod docs;
mod embedded;
mod names;
mod runner;
mod types;

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote};

pub use self::names::{identifiers, snake_case};

use self::docs::{describe, grouped, list, struct_doc};
use self::embedded::embedded;
use self::runner::Runner;
use crate::cache::Stored;
use crate::compile::Summary;
use crate::diagnostic::Diagnostic;
use crate::plan;
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
    /// Where an error about the model shows.
    pub span: Span,
    /// The plan.
    pub stored: &'a Stored,
}

/// An input or output as the code names and types it.
struct Item {
    ident: Ident,
    ty: TokenStream,
    doc: String,
}

/// Emits the struct and what belongs to it.
///
/// # Errors
///
/// If a path that the code has to name is not UTF-8, or an input or output has a type that no Rust type stands for.
pub fn generate(request: &Request<'_>) -> Result<TokenStream, Diagnostic> {
    let mut items = generate_items(request)?;
    let Request { visibility, name, crate_path: krate, .. } = request;
    let mut unless = |feature: &str, why: String| {
        let error = quote::quote_spanned!(request.span=> ::core::compile_error!(#why));
        let stand_ins = stand_ins(visibility, name, &error);
        let there = format_ident!("if_{feature}");
        items = quote!(#krate::__private::#there! { { #items } else { #stand_ins } });
    };
    if let Some(why) = needs_session(request) {
        unless("dynamic", why);
    }
    if request.stored.cuda_plan.is_some() {
        let why = format!(
            "{}: the model is compiled for GPUs\nhelp: such models need a feature of infer-embed: write `features = [\"cuda\"]` in Cargo.toml",
            request.file_name
        );
        unless("cuda", why);
    }
    Ok(items)
}

/// The names that would have been defined, where only an error can be.
///
/// They stand for a type that is itself in error, an array whose length is `error`, so that the compiler reports
/// nothing about what is done with values of it.
pub fn stand_ins(vis: &TokenStream, name: &Ident, error: &TokenStream) -> TokenStream {
    let (outputs, context) = (format_ident!("{name}Outputs"), format_ident!("{name}Context"));
    quote! {
        /// A model that could not be compiled.
        #[allow(dead_code, reason = "it stands for a type that could not be made")]
        #vis type #name = [(); #error];
        /// The outputs of a model that could not be compiled.
        #[allow(dead_code, reason = "it stands for a type that could not be made")]
        #vis type #outputs = #name;
        /// The context of a model that could not be compiled.
        #[allow(dead_code, type_alias_bounds, reason = "it stands for a type that could not be made")]
        #vis type #context<'a> = ::core::marker::PhantomData<&'a #name>;
    }
}

/// Why the model needs the feature `dynamic` and what to do, as the compiler says it; `None` where it does not.
fn needs_session(request: &Request<'_>) -> Option<String> {
    let (summary, file) = (&request.stored.summary, &request.file_name);
    let what = match summary.run_time_nodes {
        0 => {
            let ports = summary.inputs.iter().chain(&summary.outputs);
            let port = ports.into_iter().find(|port| types::array_type(&port.ty).is_none())?;
            format!("{} is {}, which is no array of real numbers", crate::onnx::quote(&port.name), port.ty)
        }
        count => {
            let some = summary.run_time_examples.join(", ");
            let more = if count > summary.run_time_examples.len() as u64 { ", …" } else { "" };
            let steps =
                if count == 1 { "1 step has".to_owned() } else { format!("{} steps have", grouped(count)) };
            format!("{steps} shapes or values that only the run knows: {some}{more}")
        }
    };
    Some(format!(
        "{file}: {what}\nhelp: such models need a feature of infer-embed: write `features = [\"dynamic\"]` in Cargo.toml"
    ))
}

fn generate_items(request: &Request<'_>) -> Result<TokenStream, Diagnostic> {
    let Request { attributes, visibility: vis, name, crate_path: krate, .. } = request;
    let summary = &request.stored.summary;
    let outputs_name = format_ident!("{name}Outputs");
    let context_name = format_ident!("{name}Context");
    let module = format_ident!("__infer_embed_{}", snake_case(&name.to_string()));
    let embedded = embedded(request, &module)?;

    let inputs = items(&summary.inputs, "input", &["outputs"], |port| types::parameter(port, krate))?;
    let outputs = items(&summary.outputs, "output", &[], |port| types::field(port, krate))?;
    let parameters: Vec<TokenStream> =
        inputs.iter().map(|Item { ident, ty, .. }| quote!(#ident: #ty)).collect();
    let fields: Vec<&Ident> = outputs.iter().map(|output| &output.ident).collect();
    let field_types: Vec<&TokenStream> = outputs.iter().map(|output| &output.ty).collect();
    let field_docs: Vec<&String> = outputs.iter().map(|output| &output.doc).collect();
    let Runner { engine, context, open, backend, infer, run, zero, infer_into, is_on_gpu, allocations } =
        Runner::new(request, &module, &outputs_name, &inputs, &outputs);

    let new_doc = match (&request.stored.cuda_plan, request.stored.plan_bytes) {
        (None, _) => "Opens the model with as many threads as the machine has.",
        (Some(_), 0) => "Opens the model on the first GPU.",
        (Some(_), _) => {
            "Opens the model on the first GPU; where there is no driver or it reports no GPU, on the processor with as many \
             threads as the machine has. Any other failure of a GPU is an error."
        }
    };
    let struct_doc = struct_doc(request, &inputs, &outputs);
    let inputs_doc = list(&inputs);
    let constants = constants(summary, krate);
    let inherent = constants
        .iter()
        .map(|Constant { name, ty, value, doc }| quote!(#[doc = #doc] #vis const #name: #ty = #value;));
    let forwarded = constants
        .iter()
        .map(|Constant { name: constant, ty, .. }| quote!(const #constant: #ty = #name::#constant;));
    let version = plan::VERSION;
    let outputs_doc = format!("The outputs of [`{name}`].");
    let context_doc = format!(
        "The memory of one inference of [`{name}`], held from call to call: {} bytes.",
        grouped(summary.arena_bytes)
    );
    let infer_into_doc = format!("Runs the model, writing to `outputs`. {allocations}");
    let infer_device = is_on_gpu.then(|| {
        let inputs_doc = list(&inputs);
        quote! {
            /// Runs the model on inputs and outputs that lie on its GPU, both in the model's order. Nothing is copied; when
            /// the call returns, the outputs are there.
            ///
            #[doc = #inputs_doc]
            ///
            /// # Errors
            ///
            /// If a GPU does not run the model; if there are more or fewer inputs or outputs than it has, or one has
            /// another size or element type, is on another GPU or begins at no multiple of 64 bytes; those of
            /// [`infer_into`](Self::infer_into).
            #vis fn infer_device(
                &mut self,
                inputs: &[#krate::cuda::DeviceInput<'_>],
                outputs: &mut [#krate::cuda::DeviceOutput<'_>],
            ) -> #krate::Result<()> {
                self.context.run_device(inputs, outputs)
            }
        }
    });
    // Lints of the user's crate are about the user's code; clippy would ask for names and shapes that ONNX decides.
    let quiet =
        quote!(#[allow(dead_code, unused_qualifications, clippy::all, clippy::pedantic, clippy::nursery)]);

    Ok(quote! {
        #attributes
        #[doc = #struct_doc]
        #vis struct #name {
            engine: #engine,
        }

        #quiet
        impl #name {
            #(#inherent)*

            #[doc = #new_doc]
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
                #infer
            }

            /// What computes the model.
            #vis fn backend(&self) -> #krate::Backend {
                #backend
            }

            /// Memory to run the model in repeatedly.
            #vis fn context(&self) -> #context_name<'_> {
                #context_name { context: self.engine.context() }
            }
        }

        #quiet
        impl #krate::Model for #name {
            type Outputs = #outputs_name;

            #(#forwarded)*

            fn open(options: #krate::EngineOptions) -> #krate::Result<Self> {
                #open
            }

            fn backend(&self) -> #krate::Backend {
                #backend
            }

            fn run(&self, inputs: &[&[u8]], outputs: &mut [#krate::Output<'_>]) -> #krate::Result<()> {
                #run
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
                #vis #fields: #field_types,
            )*
        }

        #quiet
        impl #outputs_name {
            /// Outputs of zeros, to be written by `infer_into`.
            #vis fn zeroed() -> Self {
                Self { #(#fields: #zero),* }
            }
        }

        #[doc = #context_doc]
        #[allow(dead_code, reason = "an application need not use all that is generated")]
        #vis struct #context_name<'a> {
            context: #context,
        }

        #quiet
        impl #context_name<'_> {
            #[doc = #infer_into_doc]
            ///
            #[doc = #inputs_doc]
            ///
            /// # Errors
            ///
            /// If the model cannot compute with the values, such as an index out of range. What `outputs` holds then
            /// is not specified.
            #vis fn infer_into(&mut self, #(#parameters,)* outputs: &mut #outputs_name) -> #krate::Result<()> {
                #infer_into
            }

            #infer_device
        }

        const _: () = ::core::assert!(
            #krate::__private::PLAN_VERSION == #version,
            "infer-embed and infer-macros are of different versions: run `cargo update`",
        );

        #embedded
    })
}

/// A constant of the type and of the trait.
struct Constant {
    name: Ident,
    ty: TokenStream,
    value: TokenStream,
    doc: &'static str,
}

fn constants(summary: &Summary, krate: &TokenStream) -> [Constant; 9] {
    let inputs = summary.inputs.iter().map(|port| types::port_info(port, krate));
    let outputs = summary.outputs.iter().map(|port| types::port_info(port, krate));
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

/// The ports with their types and identifiers, which differ from each other and from `reserved`.
fn items(
    ports: &[ValuePort],
    kind: &str,
    reserved: &[&str],
    ty: impl Fn(&ValuePort) -> Result<TokenStream, Diagnostic>,
) -> Result<Vec<Item>, Diagnostic> {
    let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
    let idents = identifiers(&names, kind, reserved);
    let item = |(port, ident): (&ValuePort, String)| {
        Ok(Item { ident: Ident::new(&ident, Span::call_site()), ty: ty(port)?, doc: describe(port) })
    };
    ports.iter().zip(idents).map(item).collect()
}
