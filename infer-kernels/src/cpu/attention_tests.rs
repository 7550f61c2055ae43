//! Attention on every instruction set against its definition.

use crate::call::{Attention, HeadView, LEAD};
use crate::cpu::testing::{Random, attack, bytes, check_beside_scratch, check_f32};

/// Row-major views of so many positions, rows and elements.
fn dense(lead: [u64; LEAD], rows: u64, elements: u64) -> HeadView {
    let mut view = HeadView { row: elements, element: 1, ..HeadView::default() };
    let mut stride = rows * elements;
    for (slot, extent) in view.lead.iter_mut().zip(lead).rev() {
        *slot = stride;
        stride *= extent;
    }
    view
}

/// Heads side by side, as a projection of `[batch, rows, heads · elements]` holds them.
fn side_by_side(lead: [u64; LEAD], rows: u64, elements: u64) -> HeadView {
    let [_, _, heads, shared] = lead;
    let row = heads * shared * elements;
    HeadView { offset: 0, lead: [0, rows * row, shared * elements, elements], row, element: 1 }
}

fn params(lead: [u64; LEAD], rows: u64, keys: u64, size: u64, value_size: u64) -> Attention {
    Attention {
        lead,
        rows,
        keys,
        size,
        value_size,
        query: dense(lead, rows, size),
        key: dense(lead, keys, size),
        value: dense(lead, keys, value_size),
        mask: HeadView { element: 1, ..HeadView::default() },
        output: dense(lead, rows, value_size),
        scale: 1.0 / (size as f32).sqrt(),
        ..Attention::default()
    }
}

/// Random operands for `p` with scores of some units, and a run with `slots` times the scratch memory.
fn run(p: &Attention, mask: &[f32], slots: usize, seed: u64) {
    let mut random = Random::new(seed);
    let mut operand = |end: Option<u64>, by: f32| -> Vec<f32> {
        random.units(end.unwrap() as usize).iter().map(|x| x * by).collect()
    };
    let query = operand(p.query.end(&p.lead, p.rows, p.size), 3.0);
    let key = operand(p.key.end(&p.lead, p.keys, p.size), 3.0);
    let value = operand(p.value.end(&p.lead, p.keys, p.value_size), 1.0);
    let output = p.output.end(&p.lead, p.rows, p.value_size).unwrap() as usize * 4;
    let scratch = p.scratch().unwrap() as usize * 4 * slots;
    let inputs = [bytes(&query), bytes(&key), bytes(&value), bytes(mask)];
    // A score of up to 9·√size is wrong by a rounding of each of its terms, and so is its exponential relatively; sums
    // add a rounding a key. Values are up to 1.
    let scores = 9.0 * (p.size as f32).sqrt() * (p.size as f32).sqrt().max(4.0);
    let tolerance = (scores + p.keys as f32 + 32.0) * f32::EPSILON;
    check_beside_scratch("attention_f32", p, &inputs, &[output, scratch], 1, |_, _, x: f32, y: f32| {
        x == y || x.is_nan() && y.is_nan() || (x - y).abs() <= tolerance
    });
}

#[test]
fn agrees_with_the_reference_around_tiles_and_blocks() {
    let mut seed = 0;
    for (rows, keys) in
        [(1, 1), (1, 40), (3, 5), (6, 16), (14, 17), (15, 33), (65, 64), (29, 385), (2, 800), (130, 20)]
    {
        for (size, value_size) in [(1, 1), (16, 16), (64, 64), (17, 40), (33, 7)] {
            seed += 1;
            run(&params([1, 1, 2, 1], rows, keys, size, value_size), &[], 1 + seed as usize % 4, seed);
        }
    }
}

#[test]
fn heads_lie_side_by_side_and_share_keys() {
    for (heads, shared) in [(3, 1), (2, 3)] {
        let lead = [1, 2, heads, shared];
        let mut p = params(lead, 20, 37, 8, 24);
        p.query = side_by_side(lead, 20, 8);
        p.output = side_by_side(lead, 20, 24);
        // Keys and values are of one head for each group.
        p.key = side_by_side([1, 2, heads, 1], 37, 8);
        p.value = side_by_side([1, 2, heads, 1], 37, 24);
        (p.key.lead[3], p.value.lead[3]) = (0, 0);
        run(&p, &[], 3, 1);
        // Keys that are transposed already, and keys by any strides.
        p.key = HeadView { offset: 2, lead: [0, 8 * 40 * heads, 8 * 40, 0], row: 1, element: 40 };
        run(&p, &[], 2, 2);
        p.key = HeadView { offset: 1, lead: [0, 8 * 80 * heads, 8 * 80, 0], row: 2, element: 80 };
        run(&p, &[], 2, 3);
    }
}

#[test]
fn masks_broadcast() {
    let lead = [1, 2, 3, 1];
    for (rows, keys) in [(5_u64, 33_u64), (18, 400)] {
        let mut p = params(lead, rows, keys, 16, 16);
        for (view, elements) in [
            (HeadView { element: 1, ..HeadView::default() }, keys),
            (HeadView { lead: [0, keys, 0, 0], element: 1, ..HeadView::default() }, 2 * keys),
            (HeadView { row: 1, ..HeadView::default() }, rows),
            (HeadView { row: keys, element: 1, lead: [0, 0, rows * keys, 0], offset: 0 }, 3 * rows * keys),
        ] {
            p.mask = view;
            let mut random = Random::new(elements);
            let mask: Vec<f32> = (0..elements)
                .map(|_| match random.next() % 4 {
                    0 if view.element == 1 => f32::NEG_INFINITY,
                    1 => -1.0e4,
                    _ => random.unit(),
                })
                .collect();
            run(&p, &mask, 2, 4);
        }
    }
}

#[test]
fn rows_see_keys_up_to_their_own() {
    for (rows, keys, causal_offset) in
        [(1, 1, 0), (33, 33, 0), (20, 50, 30), (70, 800, 730), (500, 500, 0), (9, 4, 2), (9, 4, u64::MAX)]
    {
        let p = Attention { causal: 1, causal_offset, ..params([1, 1, 2, 1], rows, keys, 16, 16) };
        run(&p, &[], 3, rows);
    }
}

#[test]
fn special_scores_end_as_ieee_says() {
    let [rows, keys] = [4_usize, 20];
    for many in [keys, 800] {
        let p = params([1, 1, 1, 1], rows as u64, many as u64, 8, 8);
        for fill in [f32::NEG_INFINITY, f32::MIN, -1.0e9] {
            let mut mask = vec![0.0; many * rows];
            let p = Attention { mask: HeadView { row: many as u64, element: 1, ..p.mask }, ..p };
            // One row without any key, one whose first keys are hidden, one with a NaN or an infinity.
            mask[..many].fill(fill);
            mask[many..2 * many - 1].fill(fill);
            for special in [f32::NAN, f32::INFINITY] {
                mask[2 * many + 7] = special;
                run(&p, &mask, 1, 5);
            }
        }
    }
}

#[test]
fn hostile_parameters_stay_inside() {
    let lead = [1, 2, 3, 1];
    let p = params(lead, 5, 20, 6, 7);
    let p = Attention { causal: 1, causal_offset: 15, ..p };
    let mut random = Random::new(6);
    let sizes = [6 * 5 * 6, 6 * 20 * 6, 6 * 20 * 7, 20];
    let operands = sizes.map(|size| random.units(size));
    let inputs = operands.each_ref().map(|operand| bytes(operand));
    let outputs = [6 * 5 * 7 * 4, p.scratch().unwrap() as usize * 4];
    attack("attention_f32", &p, &inputs, &outputs);
}

#[test]
fn an_output_that_overlaps_itself_is_refused() {
    let p = params([1, 2, 1, 1], 3, 4, 8, 8);
    let overlapping = [
        HeadView { row: 4, ..p.output },
        HeadView { lead: [0, 8, 0, 0], ..p.output },
        HeadView { row: 0, ..p.output },
    ];
    let sizes = [1 << 12; 6];
    let validate = crate::kernels::ATTENTION_F32.validate;
    let call = |p: &Attention| {
        validate(&crate::Call { params: bytemuck::bytes_of(p), operand_bytes: &sizes }).is_ok()
    };
    let sizes_fit = p.scratch().unwrap() * 4 <= 1 << 16;
    assert!(sizes_fit);
    for output in overlapping {
        assert!(!call(&Attention { output, ..p }));
    }
    check_f32::<Attention>(
        "attention_f32",
        &Attention { rows: 0, ..p },
        &[&[], &[], &[], &[]],
        &[0, 0],
        |_| 0.0,
    );
}
