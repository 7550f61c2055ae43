//! Hides AVX-512 and AMX from the process that loads this library (`LD_PRELOAD`), and from the libraries it opens later.
//!
//! Engines choose kernels by CPUID, and not all of them, nor all of their parts, have a setting for it. Linux makes CPUID
//! fault where the processor can; what handles the fault answers without the features to hide. A process on another
//! processor says that it cannot, and goes on with all it has.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::arch::x86_64::{__cpuid_count, CpuidResult};
use std::ffi::{c_int, c_long, c_void};

/// arch_prctl's number for whether CPUID may run.
const ARCH_CPUID: c_int = 0x1012;

/// The instruction.
const CPUID: [u8; 2] = [0x0F, 0xA2];

#[used]
#[unsafe(link_section = ".init_array")]
static HIDE: extern "C" fn() = hide;

/// Runs when the library is loaded, before `main`: threads that start later inherit it.
extern "C" fn hide() {
    // SAFETY: all zeros are an action, and the handler has the signature that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = answer as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut());
    }
    if !let_run(false) {
        eprintln!("AVX-512 is not hidden: CPUID cannot fault here");
    }
}

/// Whether CPUID may run on this thread from now on; false if that cannot be set.
fn let_run(may: bool) -> bool {
    // SAFETY: the call changes nothing but what CPUID does.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_CPUID, c_long::from(may)) == 0 }
}

/// What CPUID answers, less AVX-512 and AMX.
fn masked(leaf: u32, subleaf: u32) -> CpuidResult {
    let bits = |bits: &[u32]| bits.iter().fold(0u32, |mask, bit| mask | 1 << bit);
    let mut found = __cpuid_count(leaf, subleaf);
    match (leaf, subleaf) {
        (7, 0) => {
            // F, DQ, IFMA, PF, ER, CD, BW, VL; VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ; 4VNNIW, 4FMAPS, VP2INTERSECT, AMX, FP16.
            found.ebx &= !bits(&[16, 17, 21, 26, 27, 28, 30, 31]);
            found.ecx &= !bits(&[1, 6, 11, 12, 14]);
            found.edx &= !bits(&[2, 3, 8, 22, 23, 24, 25]);
        }
        (7, 1) => {
            // BF16, AMX's FP16; AMX's COMPLEX, AVX10.
            found.eax &= !bits(&[5, 21]);
            found.edx &= !bits(&[8, 19]);
        }
        _ => {}
    }
    found
}

/// Answers a CPUID that faulted; any other fault is what it would have been.
extern "C" fn answer(signal: c_int, _info: *const libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives the interrupted thread's registers; where RIP points at no code, reading there ends the
    // process as the fault would have.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let register = |name: c_int| registers[name as usize] as u32;
        let at = registers[libc::REG_RIP as usize] as *const [u8; 2];
        if at.is_null() || *at != CPUID {
            libc::signal(signal, libc::SIG_DFL);
            return;
        }
        let (leaf, subleaf) = (register(libc::REG_RAX), register(libc::REG_RCX));
        let_run(true);
        let found = masked(leaf, subleaf);
        let_run(false);
        for (name, value) in [
            (libc::REG_RAX, found.eax),
            (libc::REG_RBX, found.ebx),
            (libc::REG_RCX, found.ecx),
            (libc::REG_RDX, found.edx),
        ] {
            registers[name as usize] = i64::from(value);
        }
        registers[libc::REG_RIP as usize] += CPUID.len() as i64;
    }
}
