//! What runs a model in generated code: an engine for a plan, a session for a program.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};

use super::{Item, Request, needs_session};

/// The parts of the generated code that differ.
pub(super) struct Runner {
    /// The type of the struct's field.
    pub engine: TokenStream,
    /// The type of the context's field, for the lifetime `'a`.
    pub context: TokenStream,
    /// The body of `open`.
    pub open: TokenStream,
    /// The body of `backend`.
    pub backend: TokenStream,
    /// The body of `infer`.
    pub infer: TokenStream,
    /// The body of `run`.
    pub run: TokenStream,
    /// An expression for an output before anything is written to it.
    pub zero: TokenStream,
    /// The body of `infer_into`.
    pub infer_into: TokenStream,
    /// Whether a GPU runs all of the model, where there is one.
    pub is_on_gpu: bool,
    /// What `infer_into` allocates.
    pub allocations: &'static str,
}

impl Runner {
    pub fn new(
        request: &Request<'_>,
        module: &Ident,
        outputs_name: &Ident,
        inputs: &[Item],
        outputs: &[Item],
    ) -> Self {
        let krate = &request.crate_path;
        let arguments: Vec<&Ident> = inputs.iter().map(|input| &input.ident).collect();
        let fields: Vec<&Ident> = outputs.iter().map(|output| &output.ident).collect();
        if needs_session(request).is_some() {
            let arguments = quote!(&[#(&#arguments),*]);
            return Runner {
                engine: quote!(#krate::__private::Session),
                context: quote!(#krate::__private::SessionContext<'a>),
                open: session_open(request, module),
                backend: quote!(self.engine.backend()),
                infer: quote! {
                    let mut outputs = self.engine.infer(#arguments)?;
                    ::core::result::Result::Ok(#outputs_name { #(#fields: outputs.take()?),* })
                },
                run: quote!(self.engine.run_bytes(inputs, outputs)),
                zero: quote!(#krate::__private::FromValue::zero()),
                infer_into: quote! {
                    let mut values = self.context.infer(#arguments)?;
                    #(values.write(&mut outputs.#fields)?;)*
                    ::core::result::Result::Ok(())
                },
                is_on_gpu: false,
                allocations: "The steps whose shapes only the run knows allocate their results.",
            };
        }
        let kernels = &request.stored.summary.kernels;
        let count = kernels.len();
        let kernels = kernels.iter().map(|kernel| format_ident!("{}", kernel.to_uppercase()));
        let run = |runner: TokenStream| {
            quote! {
                #runner.run(
                    &[#(#krate::Element::as_bytes(#arguments)),*],
                    &mut [#(#krate::Element::as_output(&mut *outputs.#fields)),*],
                )
            }
        };
        let (alone, in_context) = (run(quote!(self.engine)), run(quote!(self.context)));
        let table = quote! {
            static KERNELS: [&#krate::__private::Kernel; #count] = [#(&#krate::__private::kernels::#kernels),*];
        };
        let cuda = request.stored.cuda_plan.is_some();
        let (engine, context, open, backend) = if cuda {
            let modules = &request.stored.summary.cuda_modules;
            let module_count = modules.len();
            let modules = modules.iter().map(|module| format_ident!("{}", module.to_uppercase()));
            let helpers = &request.stored.summary.cuda_kernels;
            let helper_count = helpers.len();
            let helpers = helpers.iter().map(|kernel| format_ident!("{}", kernel.to_uppercase()));
            let (table, cpu) = match request.stored.plan_bytes {
                0 => (quote!(), quote!(::core::option::Option::None)),
                _ => (table, quote!(::core::option::Option::Some((#module::plan().into(), &KERNELS)))),
            };
            let open = quote! {
                #table
                static MODULES: [&#krate::__private::cuda::Module; #module_count] =
                    [#(&#krate::__private::cuda::#modules),*];
                static HELPERS: [&#krate::__private::Kernel; #helper_count] =
                    [#(&#krate::__private::kernels::#helpers),*];
                let plans = #krate::__private::Plans {
                    cpu: #cpu,
                    cuda: ::core::option::Option::Some(#krate::__private::CudaPlan {
                        plan: #module::cuda_plan().into(),
                        modules: &MODULES,
                        kernels: &HELPERS,
                    }),
                };
                ::core::result::Result::Ok(Self { engine: #krate::__private::AnyEngine::open(plans, options)? })
            };
            let (engine, context) = (quote!(AnyEngine), quote!(AnyContext<'a>));
            (engine, context, open, quote!(self.engine.backend()))
        } else {
            let open = quote! {
                #table
                ::core::result::Result::Ok(Self {
                    engine: #krate::__private::Engine::open(#module::plan(), &KERNELS, options)?,
                })
            };
            (quote!(Engine), quote!(Context<'a>), open, quote!(#krate::Backend::Cpu))
        };
        Runner {
            engine: quote!(#krate::__private::#engine),
            context: quote!(#krate::__private::#context),
            open,
            backend,
            infer: quote! {
                let mut outputs = #outputs_name::zeroed();
                #alone?;
                ::core::result::Result::Ok(outputs)
            },
            run: quote!(self.engine.run(inputs, outputs)),
            zero: quote!(#krate::zeroed()),
            infer_into: in_context,
            is_on_gpu: cuda && request.stored.summary.cuda_parts.len() <= 1,
            allocations: match request.stored.summary.cuda_parts.len() {
                0 | 1 => "After the first call of a context nothing is allocated.",
                _ => {
                    "After the first call of a context nothing is allocated; where parts run on a GPU and on the \
                     processor, but for lists of what each reads and writes."
                }
            },
        }
    }
}

/// The body of `open` where a session runs the model.
fn session_open(request: &Request<'_>, module: &Ident) -> TokenStream {
    let krate = &request.crate_path;
    if request.stored.cuda_plan.is_none() {
        return quote! {
            ::core::result::Result::Ok(Self {
                engine: #krate::__private::Session::open(#module::plan(), options)?,
            })
        };
    }
    let modules = &request.stored.summary.cuda_modules;
    let module_count = modules.len();
    let modules = modules.iter().map(|module| format_ident!("{}", module.to_uppercase()));
    let cpu = match request.stored.plan_bytes {
        0 => quote!(::core::option::Option::None),
        _ => quote!(::core::option::Option::Some((#module::plan().into(), &[]))),
    };
    quote! {
        static MODULES: [&#krate::__private::cuda::Module; #module_count] =
            [#(&#krate::__private::cuda::#modules),*];
        let plans = #krate::__private::Plans {
            cpu: #cpu,
            cuda: ::core::option::Option::Some(#krate::__private::CudaPlan {
                plan: #module::cuda_plan().into(),
                modules: &MODULES,
                kernels: &[],
            }),
        };
        ::core::result::Result::Ok(Self { engine: #krate::__private::Session::open_any(plans, options)? })
    }
}
