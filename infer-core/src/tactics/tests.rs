//! Files read and written, what of them is followed, and what is noted.

use proptest::prelude::*;

use super::*;

const WAYS: [Candidate; 2] = [Candidate { name: "direct", cost: 1.0 }, Candidate { name: "fast", cost: 2.0 }];

fn tactic(node: &str, signature: &str, candidate: &str) -> Tactic {
    Tactic {
        node: node.to_owned(),
        question: "sum".to_owned(),
        signature: signature.to_owned(),
        candidate: candidate.to_owned(),
    }
}

fn origin() -> Origin {
    Origin { model_sha256: "ab".repeat(32), isa: "avx2".to_owned(), threads: 2 }
}

fn notes(tactics: &Tactics, backends: Backends) -> Vec<String> {
    tactics.notes("m", "", Precision::Fp16, backends)
}

fn gpu(name: &str, precision: Precision) -> Gpu {
    Gpu { name: name.to_owned(), architecture: (9, 0), precision }
}

#[test]
fn files_survive() {
    let layers = vec![tactic("größe \"1\"\n\u{1}\\", "3→4 @5x6", "fast"), tactic("", "", "direct")];
    let tactics = Tactics::new(origin(), layers.clone());
    let text = tactics.to_text();
    assert_eq!(
        text.lines().skip(1).collect::<Vec<_>>(),
        [
            "infer-tactics 1",
            &format!("model {}", "ab".repeat(32)),
            "isa avx2",
            "threads 2",
            "layer \"größe \\\"1\\\"\\n\\u{1}\\\\\" sum \"3→4 @5x6\" fast",
            "layer \"\" sum \"\" direct",
        ]
    );
    let read = Tactics::parse(&text).unwrap();
    assert_eq!((read.origin(), read.tactics()), (&origin(), layers.as_slice()));
    let read = Tactics::parse("  # nothing\r\n\r\ninfer-tactics 1 # yet\r\n").unwrap();
    assert_eq!((read.origin(), read.tactics().len()), (&Origin::default(), 0));
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let header = "infer-tactics 1\n";
    for (text, line, what) in [
        ("", 1, "expected `infer-tactics 1`, found the end of the file"),
        ("# only\n# words", 2, "expected `infer-tactics 1`, found the end of the file"),
        ("\ntactics", 2, "expected `infer-tactics 1`, found `tactics`"),
        ("infer-tactics", 1, "expected the version of the format, found the end of the line"),
        ("infer-tactics 2", 1, "format `2`; this version of infer-embed reads 1"),
        ("infer-tactics 1 2", 1, "expected the end of the line, found `2`"),
        ("?model abc", 2, "expected the SHA-256 of the model, 64 hexadecimal digits, found `abc`"),
        ("?threads 0", 2, "expected the number of threads, found `0`"),
        ("?threads x", 2, "expected the number of threads, found `x`"),
        ("?isa", 2, "expected the instruction set, found the end of the line"),
        ("?isa a\nisa b", 3, "`isa` is there twice"),
        ("?color red", 2, "expected `model`, `isa`, `threads`, `gpu` or `layer`, found `color`"),
        ("?gpu H200", 2, "expected the GPU's name in quotes, found `H200`"),
        ("?gpu \"H200\" 9", 2, "expected the GPU's architecture, such as 9.0, found `9`"),
        ("?gpu \"H200\" 9.x", 2, "expected the GPU's architecture, such as 9.0, found `9.x`"),
        (
            "?gpu \"H200\" 9.0",
            2,
            "expected the precision, one of fp32, tf32, fp16, bf16, found the end of the line",
        ),
        ("?gpu \"\" 9.0 int8", 2, "expected the precision, one of fp32, tf32, fp16, bf16, found `int8`"),
        ("?gpu \"a\" 9.0 fp16\ngpu \"a\" 9.0 fp16", 3, "a (9.0, fp16) is there twice"),
        ("?\"a\"", 2, "expected a word, found `\"a\"`"),
        ("?layer a", 2, "expected the layer's name in quotes, found `a`"),
        ("?layer", 2, "expected the layer's name in quotes, found the end of the line"),
        ("?layer \"a", 2, "expected a closing quote after `\"a`"),
        ("?layer \"a\\", 2, "expected an escape that Rust knows after `\\` in `\"a\\`"),
        ("?layer \"a\\q\"", 2, "expected an escape that Rust knows after `\\` in `\"a\\q\"`"),
        ("?layer \"\\u{d800}\"", 2, "expected an escape that Rust knows after `\\` in `\"\\u{d800}\"`"),
        ("?layer \"a\"", 2, "expected what is chosen, such as convolution, found the end of the line"),
        ("?layer \"a\" \"b\"", 2, "expected what is chosen, such as convolution, found `\"b\"`"),
        ("?layer \"a\" sum x", 2, "expected what the layer computes in quotes, found `x`"),
        ("?layer \"a\" sum \"x\"", 2, "expected the way to compute the layer, found the end of the line"),
        ("?layer \"a\" sum \"x\" y z", 2, "expected the end of the line, found `z`"),
        ("?layer \"a\" s \"x\" y\nlayer \"a\" s \"x\" z", 3, "layer `a` is there twice"),
    ] {
        let text = text.replacen('?', header, 1);
        let error = Tactics::parse(&text).unwrap_err();
        assert_eq!((error.line, error.what.as_str()), (line, what), "{text:?}");
    }
}

#[test]
fn what_does_not_fit_is_noted() {
    let layers = vec![
        tactic("fits", "4", "fast"),
        tactic("gone", "4", "fast"),
        tactic("grown", "4", "fast"),
        tactic("clever", "4", "magic"),
    ];
    let mut tactics = Tactics::new(origin(), layers);
    assert_eq!(tactics.fit("fits", "sum", "4", &WAYS), Fit::Candidate(1));
    assert_eq!(tactics.fit("grown", "sum", "5", &WAYS), Fit::Unknown);
    assert_eq!(tactics.fit("clever", "sum", "4", &WAYS), Fit::Unknown);
    assert_eq!(tactics.fit("new", "sum", "4", &WAYS), Fit::Unknown);
    assert_eq!(tactics.fit("gone", "product", "4", &WAYS), Fit::Unknown);
    assert_eq!(
        tactics.notes("m.tactics", &"cd".repeat(32), Precision::Fp32, Backends::Cpu),
        [
            "m.tactics was measured for another model (SHA-256 abababababab…, this one is cdcdcdcdcdcd…): only what \
             fits is used; `infer tune` measures again",
            "m.tactics: the model has no layer `gone` with a choice of sum",
            "m.tactics: layer `grown` computes 5, not 4: its tactic is not used",
            "m.tactics: layer `clever` cannot be computed by `magic`, but by `direct`, `fast`",
        ]
    );
    let many = (0..25).map(|index| tactic(&index.to_string(), "", "fast")).collect();
    let notes = notes(&Tactics::new(Origin::default(), many), Backends::Cpu);
    assert_eq!((notes.len(), notes[20].as_str()), (21, "m: 5 more tactics do not fit the model"));
}

#[test]
fn layers_of_one_name_are_told_apart() {
    let mut tactics =
        Tactics::new(Origin::default(), vec![tactic("a", "4", "direct"), tactic("a", "5", "fast")]);
    assert_eq!(tactics.fit("a", "sum", "5", &WAYS), Fit::Candidate(1));
    assert_eq!(tactics.fit("a", "sum", "4", &WAYS), Fit::Candidate(0));
    assert!(notes(&tactics, Backends::Cpu).is_empty());
}

#[test]
fn gpus_have_sections_of_their_own() {
    let processors = Tactics::new(origin(), vec![tactic("a", "4", "fast")]);
    let tactics = processors
        .with_gpu(gpu("L4", Precision::Fp16), vec![tactic("a", "4", "slow")])
        .with_gpu(gpu("H200", Precision::Fp32), Vec::new())
        .with_gpu(gpu("H200", Precision::Fp16), vec![tactic("a", "4", "x")])
        .with_gpu(gpu("L4", Precision::Fp16), vec![tactic("a", "4", "direct")])
        .with_gpu(gpu("H200", Precision::Fp16), vec![tactic("a", "4", "fast"), tactic("b", "4", "x")]);
    let text = tactics.to_text();
    assert_eq!(
        text.lines().skip(5).collect::<Vec<_>>(),
        [
            "layer \"a\" sum \"4\" fast",
            "gpu \"H200\" 9.0 fp16",
            "layer \"a\" sum \"4\" fast",
            "layer \"b\" sum \"4\" x",
            "gpu \"L4\" 9.0 fp16",
            "layer \"a\" sum \"4\" direct",
            "gpu \"H200\" 9.0 fp32",
        ]
    );
    let read = Tactics::parse(&text).unwrap();
    assert_eq!(read.gpus().collect::<Vec<_>>(), tactics.gpus().collect::<Vec<_>>());
    assert_eq!((read.origin(), read.tactics()), (tactics.origin(), tactics.tactics()));
    assert_eq!(read.gpu(Precision::Fp16), Some(&gpu("H200", Precision::Fp16)));
    assert_eq!(read.gpu(Precision::Tf32), None);
    let kept = Tactics::new(Origin::default(), Vec::new()).with_gpus_of(&read);
    assert_eq!(kept.gpus().count(), 3);
}

#[cfg(feature = "cuda")]
#[test]
fn what_does_not_fit_gpus_is_noted() {
    let file = Tactics::new(Origin::default(), vec![tactic("only on the processor", "4", "fast")]).with_gpu(
        gpu("H200", Precision::Fp16),
        vec![tactic("fits", "4", "fast"), tactic("stale", "4", "fast"), tactic("gone", "4", "fast")],
    );
    let mut tactics = file.clone();
    let find = |name: &str| if name == "fast" { Ok(1) } else { Err("`fast`".to_owned()) };
    assert_eq!(tactics.fit_gpu(Precision::Fp16, ["fits", "sum", "4"], find), Some(1));
    assert_eq!(tactics.fit_gpu(Precision::Fp16, ["stale", "sum", "5"], find), None);
    assert_eq!(tactics.fit_gpu(Precision::Fp32, ["gone", "sum", "4"], find), None);
    assert_eq!(
        notes(&tactics, Backends::Cuda),
        [
            "m, H200 (9.0, fp16): layer `stale` computes 5, not 4: its tactic is not used",
            "m, H200 (9.0, fp16): the model has no layer `gone` with a choice of sum",
        ]
    );
    // The processor does not ask what GPUs do, nor the other way round.
    let processors = "m: the model has no layer `only on the processor` with a choice of sum";
    assert_eq!(notes(&file, Backends::Cpu), [processors]);
    assert_eq!(notes(&tactics, Backends::Auto)[0], processors);
    assert_eq!(notes(&tactics, Backends::Auto).len(), 3);
    assert_eq!(
        file.notes("m", "", Precision::Tf32, Backends::Cuda),
        ["m has tactics of H200 (9.0, fp16), none of a GPU in tf32: there an estimate decides"]
    );
}

proptest! {
    #[test]
    fn no_text_panics(text in "(infer-tactics 1\n)?(layer |gpu |\"|\\\\|u\\{|[ -~→\n]){0,60}") {
        let _ = Tactics::parse(&text);
    }

    #[test]
    fn every_name_survives(node in any::<String>(), signature in any::<String>()) {
        let tactics = Tactics::new(Origin::default(), vec![tactic(&node, &signature, "x")]);
        let read = Tactics::parse(&tactics.to_text()).unwrap();
        prop_assert_eq!(read.tactics(), tactics.tactics());
    }
}
