//! What walks through time.

use super::Checks;

/// `extents`: steps, sequences, elements of a state.
fn check(checks: &mut Checks, [steps, batch, hidden]: [usize; 3], direction: &str, batch_first: bool) {
    let directions = if direction == "bidirectional" { 2 } else { 1 };
    for (cell, gates, extra) in
        [("LSTM", 4, ""), ("GRU", 3, "linear_before_reset=1"), ("GRU", 3, ""), ("RNN", 1, "")]
    {
        let (rows, both) = (gates * hidden, 2 * gates * hidden);
        let (c, outputs) = if cell == "LSTM" { (", c", "y, h, l") } else { ("", "y, h") };
        let last = if cell == "LSTM" { "output l" } else { "" };
        let (input, state) = match batch_first {
            true => (format!("{batch},{steps}"), format!("{batch},{directions}")),
            false => (format!("{steps},{batch}"), format!("{directions},{batch}")),
        };
        checks.by(
            &cell.to_lowercase(),
            &format!(
                "input x {input},11
                 random wl {directions},{rows},11
                 random rl {directions},{rows},{hidden}
                 random b {directions},{both}
                 input h0 {state},{hidden}
                 input c {state},{hidden}
                 {outputs} = {cell}(x, wl, rl, b, _, h0{c}) hidden_size={hidden} direction={direction} layout={} {extra}
                 output y
                 output h
                 {last}",
                u8::from(batch_first),
            ),
        );
    }
}

#[test]
fn networks_that_walk_through_time() {
    let mut checks = Checks::default();
    for (extents, direction) in [
        ([4, 3, 5], "forward"),
        ([7, 2, 33], "reverse"),
        ([5, 1, 16], "bidirectional"),
        ([1, 1, 64], "forward"),
        ([9, 2, 128], "bidirectional"),
        ([6, 1, 199], "forward"),
        ([5, 2, 256], "reverse"),
    ] {
        check(&mut checks, extents, direction, false);
        check(&mut checks, extents, direction, true);
    }
}

#[test]
fn long_states() {
    let mut checks = Checks::default();
    // Of the last no cluster has all.
    for extents in [[3, 2, 300], [4, 1, 513], [3, 1, 1030]] {
        check(&mut checks, extents, "forward", false);
    }
}

#[test]
fn more_sequences_than_clusters() {
    let mut checks = Checks::default();
    for (extents, direction) in [
        ([5, 9, 20], "bidirectional"),
        ([3, 18, 131], "forward"),
        ([3, 21, 270], "reverse"),
        ([2, 17, 600], "forward"),
    ] {
        check(&mut checks, extents, direction, false);
    }
}

#[test]
fn only_the_last_state_is_asked_for() {
    let mut checks = Checks::default();
    checks.by(
        "lstm",
        "input x 6,2,7
         random wl 2,160,7
         random rl 2,160,40
         _, h, _ = LSTM(x, wl, rl) hidden_size=40 direction=bidirectional
         output h",
    );
    // Weights that the run computes.
    checks.by(
        "gru",
        "input x 6,2,7
         input wl 1,120,7
         input r 1,120,40
         floats tenth [] 0.1
         rl = Mul(r, tenth)
         y = GRU(x, wl, rl) hidden_size=40
         output y",
    );
}
