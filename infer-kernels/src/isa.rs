//! Instruction sets: what the processor has, and which one a process uses.

use std::fmt;
use std::sync::OnceLock;

/// An instruction set that kernels are compiled for. Ordered: a later one is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// The target's baseline: SSE2 on x86-64, NEON on AArch64.
    Scalar,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AMX with bf16, beside AVX-512 with BF16: products of f32 by thirds, everything else as on AVX-512.
    #[cfg(target_arch = "x86_64")]
    Amx,
}

impl Isa {
    /// All of this architecture, the least first.
    pub const ALL: &'static [Isa] = &[
        Isa::Scalar,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512,
        #[cfg(target_arch = "x86_64")]
        Isa::Amx,
    ];

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512.is_available() && crate::cpu::amx::is_available(),
        }
    }

    /// The name that `INFER_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => "amx",
        }
    }

    /// The one this process uses: the best the processor has, or the one that the environment variable
    /// `INFER_ISA` names. Decided once.
    ///
    /// # Errors
    ///
    /// If `INFER_ISA` names none, or one that the processor lacks.
    pub fn selected() -> Result<Isa, IsaError> {
        static SELECTED: OnceLock<Result<Isa, IsaError>> = OnceLock::new();
        SELECTED.get_or_init(|| Isa::select(std::env::var_os("INFER_ISA"))).clone()
    }

    fn select(wanted: Option<std::ffi::OsString>) -> Result<Isa, IsaError> {
        let best = Isa::ALL.iter().rev().copied().find(|isa| isa.is_available()).unwrap_or(Isa::Scalar);
        let Some(wanted) = wanted else { return Ok(best) };
        let wanted = wanted.to_string_lossy();
        match Isa::ALL.iter().copied().find(|isa| isa.name() == wanted) {
            Some(isa) if isa.is_available() => Ok(isa),
            Some(isa) => Err(IsaError::Unavailable { wanted: isa, best }),
            None => Err(IsaError::Unknown(wanted.into_owned())),
        }
    }
}

/// An `INFER_ISA` that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IsaError {
    /// No instruction set of that name is known on this architecture.
    Unknown(String),
    /// The processor lacks it.
    Unavailable {
        /// What was asked for.
        wanted: Isa,
        /// The best that the processor has.
        best: Isa,
    },
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IsaError::Unknown(name) => {
                let known: Vec<&str> = Isa::ALL.iter().map(|isa| isa.name()).collect();
                write!(f, "INFER_ISA is {name:?}, which is none of: {}", known.join(", "))
            }
            IsaError::Unavailable { wanted, best } => write!(
                f,
                "INFER_ISA is {:?}, which this processor lacks; its best is {:?}",
                wanted.name(),
                best.name()
            ),
        }
    }
}

impl std::error::Error for IsaError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection_follows_the_variable_and_refuses_what_is_not_there() {
        assert_eq!(Isa::select(Some("scalar".into())), Ok(Isa::Scalar));
        assert!(Isa::select(None).unwrap().is_available());
        let error = Isa::select(Some("sse9".into())).unwrap_err();
        assert!(error.to_string().contains("sse9") && error.to_string().contains("scalar"), "{error}");
    }
}
