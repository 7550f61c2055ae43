//! The plan's bytes in generated code.

use std::path::Path;

use proc_macro2::{Ident, Literal, TokenStream};
use quote::{format_ident, quote};

use super::{Embed, Request};
use crate::diagnostic::Diagnostic;

/// The private module that holds the plan, and tells the compiler which files the code depends on.
pub(super) fn embedded(request: &Request<'_>, module: &Ident) -> Result<TokenStream, Diagnostic> {
    let stored = request.stored;
    let mut plans = Vec::new();
    if stored.cuda_plan.is_none() || stored.plan_bytes > 0 {
        plans.push(plan(request, "plan", &stored.plan, stored.plan_bytes, &stored.plan_sha256)?);
    }
    if let Some(cuda) = &stored.cuda_plan {
        plans.push(plan(request, "cuda_plan", &cuda.path, cuda.bytes, &cuda.sha256)?);
    }
    let sources = request.stored.sources.iter().map(|path| utf8(path)).collect::<Result<Vec<_>, _>>()?;
    Ok(quote! {
        #[doc(hidden)]
        #[allow(dead_code, unused_qualifications, non_upper_case_globals, clippy::all, clippy::pedantic, clippy::nursery)]
        mod #module {
            #(#plans)*

            /// Read by nobody: it makes the compiler watch the files.
            trait Sources {
                const SOURCES: &'static [&'static [u8]] = &[#(::core::include_bytes!(#sources)),*];
            }
        }
    })
}

/// The function that gives a plan's bytes.
fn plan(
    request: &Request<'_>,
    function: &str,
    path: &Path,
    bytes: u64,
    sha256: &str,
) -> Result<TokenStream, Diagnostic> {
    let path = utf8(path)?;
    let function = format_ident!("{function}");
    let include = quote! {
        #[repr(C, align(64))]
        struct Aligned<T: ?Sized>(T);
        static PLAN: &Aligned<[u8]> = &Aligned(*::core::include_bytes!(#path));
        &PLAN.0
    };
    Ok(match request.embed {
        Embed::Bytes => quote! {
            pub(super) fn #function() -> &'static [u8] {
                #include
            }
        },
        Embed::Incbin => {
            // The content's hash in the symbol: one copy of equal plans, and never bytes of an earlier build.
            let symbol = format_ident!("infer_embed_plan_{}", &sha256[..32]);
            let length = Literal::u64_unsuffixed(bytes);
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
                pub(super) fn #function() -> &'static [u8] {
                    // Safe: the assembly above defines it with exactly this length, and nothing writes to it.
                    unsafe extern "C" {
                        safe static #symbol: [u8; #length];
                    }
                    &#symbol
                }

                #[cfg(not(#elf))]
                pub(super) fn #function() -> &'static [u8] {
                    #include
                }
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
