//! Sliding windows: the attributes that convolutions and pooling share, and the extents that follow from them.

use crate::diagnostic::Reason;
use crate::ops::{Attribute, ImportNode};

/// ONNX's `auto_pad`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoPad {
    /// `pads` says.
    NotSet,
    /// Output extent ⌈input / stride⌉, the odd element of padding at the end.
    SameUpper,
    /// The same, the odd element at the beginning.
    SameLower,
    /// None.
    Valid,
}

impl AutoPad {
    /// Reads the attribute.
    pub fn import(node: &mut ImportNode) -> Result<AutoPad, Reason> {
        match node.attributes.string("auto_pad")?.as_deref() {
            None | Some("NOTSET" | "") => Ok(AutoPad::NotSet),
            Some("SAME_UPPER") => Ok(AutoPad::SameUpper),
            Some("SAME_LOWER") => Ok(AutoPad::SameLower),
            Some("VALID") => Ok(AutoPad::Valid),
            Some(other) => Err(Reason::new(format!("auto_pad {other:?} is not known"))
                .supported("NOTSET, SAME_UPPER, SAME_LOWER, VALID")),
        }
    }
}

/// Attributes of a sliding window; an empty list stands for its default.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// How padding is chosen.
    pub auto_pad: AutoPad,
    /// Extents of the window; empty where the weights have them.
    pub kernel_shape: Vec<i64>,
    /// Steps between windows.
    pub strides: Vec<i64>,
    /// Steps between elements of a window.
    pub dilations: Vec<i64>,
    /// Padding: all beginnings, then all ends.
    pub pads: Vec<i64>,
    /// Whether a last window that hangs over the end counts.
    pub ceil_mode: bool,
}

/// A [`Window`] over a picture of known extents. Unused leading axes have extent 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Input extents.
    pub input: [usize; 3],
    /// Output extents.
    pub output: [usize; 3],
    /// Window extents.
    pub kernel: [usize; 3],
    /// Strides.
    pub stride: [usize; 3],
    /// Dilations.
    pub dilation: [usize; 3],
    /// Padding before.
    pub pad_begin: [usize; 3],
    /// Padding after.
    pub pad_end: [usize; 3],
}

const LIMIT: i64 = 1 << 31;

fn extents(name: &str, given: &[i64], rank: usize, default: i64, least: i64) -> Result<[i64; 3], Reason> {
    let mut all = [default; 3];
    if given.is_empty() {
        return Ok(all);
    }
    if given.len() != rank {
        return Err(Reason::new(format!("{name} {given:?} has {} entries for {rank} axes", given.len())));
    }
    if let Some(bad) = given.iter().find(|v| !(least..LIMIT).contains(*v)) {
        return Err(Reason::new(format!("{name} {given:?} has {bad}, which is out of range")));
    }
    all[3 - rank..].copy_from_slice(given);
    Ok(all)
}

impl Window {
    /// Reads the attributes that convolutions and pooling share.
    pub fn import(node: &mut ImportNode) -> Result<Window, Reason> {
        let auto_pad = AutoPad::import(node)?;
        let attributes = &mut node.attributes;
        Ok(Window {
            auto_pad,
            kernel_shape: attributes.ints("kernel_shape")?.unwrap_or_default(),
            strides: attributes.ints("strides")?.unwrap_or_default(),
            dilations: attributes.ints("dilations")?.unwrap_or_default(),
            pads: attributes.ints("pads")?.unwrap_or_default(),
            ceil_mode: false,
        })
    }

    /// The attributes that [`Window::import`] reads this from.
    pub fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let padding = match self.auto_pad {
            AutoPad::NotSet => "NOTSET",
            AutoPad::SameUpper => "SAME_UPPER",
            AutoPad::SameLower => "SAME_LOWER",
            AutoPad::Valid => "VALID",
        };
        let mut attributes = vec![("auto_pad", padding.into())];
        let lists = [
            ("kernel_shape", &self.kernel_shape),
            ("strides", &self.strides),
            ("dilations", &self.dilations),
            ("pads", &self.pads),
        ];
        let given = lists.into_iter().filter(|(_, values)| !values.is_empty());
        attributes.extend(given.map(|(name, values)| (name, values.clone().into())));
        attributes
    }

    /// A window as large as the picture.
    pub fn whole(spatial: &[usize]) -> Window {
        Window {
            auto_pad: AutoPad::Valid,
            kernel_shape: spatial.iter().map(|&d| d as i64).collect(),
            strides: Vec::new(),
            dilations: Vec::new(),
            pads: Vec::new(),
            ceil_mode: false,
        }
    }

    /// The windows over a picture of extents `spatial`, `kernel` being the weights' extents where there are any.
    pub fn over(&self, spatial: &[usize], kernel: Option<&[usize]>) -> Result<Windows, Reason> {
        let rank = spatial.len();
        if !(1..=3).contains(&rank) {
            return Err(Reason::new(format!("{rank} spatial axes")).supported("1 to 3 spatial axes"));
        }
        let from_weights: Vec<i64>;
        let kernel = match kernel {
            Some(extents) => {
                from_weights = extents.iter().map(|&d| d as i64).collect();
                if !self.kernel_shape.is_empty() && self.kernel_shape != from_weights {
                    return Err(Reason::new(format!(
                        "kernel_shape {:?} is not the weights' {from_weights:?}",
                        self.kernel_shape
                    )));
                }
                &from_weights
            }
            None => &self.kernel_shape,
        };
        let kernel = extents("kernel_shape", kernel, rank, 1, 1)?;
        let stride = extents("strides", &self.strides, rank, 1, 1)?;
        let dilation = extents("dilations", &self.dilations, rank, 1, 1)?;
        let (begin, end) = match self.pads.len() {
            0 => ([0; 3], [0; 3]),
            n if n == 2 * rank => (
                extents("pads", &self.pads[..rank], rank, 0, 0)?,
                extents("pads", &self.pads[rank..], rank, 0, 0)?,
            ),
            n => return Err(Reason::new(format!("pads {:?} has {n} entries for {rank} axes", self.pads))),
        };
        let mut windows = Windows {
            input: [1; 3],
            output: [1; 3],
            kernel: kernel.map(|v| v as usize),
            stride: stride.map(|v| v as usize),
            dilation: dilation.map(|v| v as usize),
            pad_begin: begin.map(|v| v as usize),
            pad_end: end.map(|v| v as usize),
        };
        for axis in 0..3 {
            let extent = if axis < 3 - rank { 1 } else { spatial[axis + rank - 3] };
            windows.input[axis] = extent;
            if axis >= 3 - rank {
                self.place(&mut windows, axis)?;
            }
        }
        Ok(windows)
    }

    /// Padding and output extent of one axis.
    fn place(&self, windows: &mut Windows, axis: usize) -> Result<(), Reason> {
        let (input, stride) = (windows.input[axis], windows.stride[axis]);
        let span = (windows.kernel[axis] - 1) * windows.dilation[axis] + 1;
        match self.auto_pad {
            AutoPad::NotSet => {}
            AutoPad::Valid => (windows.pad_begin[axis], windows.pad_end[axis]) = (0, 0),
            AutoPad::SameUpper | AutoPad::SameLower => {
                let output = input.div_ceil(stride);
                let total = (output.saturating_sub(1) * stride + span).saturating_sub(input);
                let (less, more) = (total / 2, total - total / 2);
                let upper = self.auto_pad == AutoPad::SameUpper;
                (windows.pad_begin[axis], windows.pad_end[axis]) =
                    if upper { (less, more) } else { (more, less) };
            }
        }
        let padded = input + windows.pad_begin[axis] + windows.pad_end[axis];
        let Some(room) = padded.checked_sub(span) else {
            return Err(Reason::new(format!(
                "a window of {span} does not fit into {input} elements with padding {} and {}",
                windows.pad_begin[axis], windows.pad_end[axis]
            )));
        };
        let mut output = room / stride + 1;
        if self.ceil_mode {
            output = room.div_ceil(stride) + 1;
            if (output - 1) * stride >= input + windows.pad_begin[axis] {
                output -= 1;
            }
        }
        windows.output[axis] = output;
        Ok(())
    }
}

impl Windows {
    /// The border of zeros that windows over rows and columns reach into: above, left, below, right.
    pub fn halo(&self) -> [usize; 4] {
        let after = |axis: usize| {
            let reach = (self.output[axis] - 1) * self.stride[axis]
                + (self.kernel[axis] - 1) * self.dilation[axis]
                + 1;
            reach.saturating_sub(self.pad_begin[axis] + self.input[axis])
        };
        [self.pad_begin[1], self.pad_begin[2], after(1), after(2)]
    }

    /// The output extents, leading unused axes dropped to leave `rank`.
    pub fn output_shape(&self, rank: usize) -> &[usize] {
        &self.output[3 - rank..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kernel: &[i64], strides: &[i64], pads: &[i64]) -> Window {
        Window {
            auto_pad: AutoPad::NotSet,
            kernel_shape: kernel.to_vec(),
            strides: strides.to_vec(),
            dilations: vec![],
            pads: pads.to_vec(),
            ceil_mode: false,
        }
    }

    #[test]
    fn output_extents_follow_from_padding_and_stride() {
        let windows = window(&[3, 3], &[2, 2], &[1, 1, 1, 1]).over(&[224, 7], None).unwrap();
        assert_eq!(windows.output, [1, 112, 4]);
        assert_eq!(windows.halo(), [1, 1, 0, 1]);
    }

    #[test]
    fn a_ceil_mode_window_that_starts_in_the_padding_does_not_count() {
        let mut pool = window(&[2], &[3], &[0, 0]);
        pool.ceil_mode = true;
        assert_eq!(pool.over(&[6], None).unwrap().output, [1, 1, 2]);
        assert_eq!(pool.over(&[7], None).unwrap().output, [1, 1, 3]);
        let mut padded = window(&[1], &[2], &[0, 1]);
        padded.ceil_mode = true;
        assert_eq!(padded.over(&[2], None).unwrap().output, [1, 1, 1]);
    }

    #[test]
    fn same_padding_puts_the_odd_element_where_it_says() {
        let mut same = window(&[2], &[1], &[]);
        same.auto_pad = AutoPad::SameUpper;
        let windows = same.over(&[5], None).unwrap();
        assert_eq!((windows.pad_begin[2], windows.pad_end[2], windows.output[2]), (0, 1, 5));
        same.auto_pad = AutoPad::SameLower;
        let windows = same.over(&[5], None).unwrap();
        assert_eq!((windows.pad_begin[2], windows.pad_end[2]), (1, 0));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (bad, says) in [
            (window(&[9, 9], &[], &[]), "does not fit"),
            (window(&[3], &[], &[]), "entries"),
            (window(&[3, 0], &[], &[]), "out of range"),
            (window(&[3, 3], &[], &[0, 0, -1, 0]), "out of range"),
        ] {
            let reason = bad.over(&[5, 5], None).unwrap_err();
            assert!(reason.what.contains(says), "{}", reason.what);
        }
    }
}
