//! JPEG, in the arithmetic that ONNX's ImageDecoder names: that of libjpeg-turbo.
//!
//! Sequential and progressive files with Huffman codes, 8 bits, one component or three. The inverse cosine transform
//! is the "slow" integer one (Loeffler, Ligtenberg and Moschytz, with 13 bits of fraction); halved chroma is
//! interpolated with weights 3/4 and 1/4 that round down and up in turn. Everything else (arithmetic codes, 12 bits,
//! CMYK) is left to other decoders.
//!
//! Specification: ITU-T T.81.

use super::image_decoder::Picture;
use super::jpeg_huffman::{Bits, Codes};

/// The most pixels: coefficients, planes and the picture take some 12 bytes each.
const MAX_PIXELS: usize = 1 << 26;

/// The most scans: each may visit every block without reading a bit.
const MAX_SCANS: usize = 128;

/// The order in which a block's coefficients lie in a file.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

type Block = [i16; 64];

/// A component of the picture.
struct Component {
    id: u8,
    /// Samples across and down for each unit of the picture.
    across: usize,
    down: usize,
    table: usize,
    /// Samples that the picture has.
    width: usize,
    height: usize,
    /// Blocks in a row, those that only fill the last unit included.
    stride: usize,
    blocks: Vec<Block>,
}

#[derive(Default)]
struct Decoder {
    quantization: [Option<[u16; 64]>; 4],
    dc_codes: [Option<Codes>; 4],
    ac_codes: [Option<Codes>; 4],
    restart_interval: usize,
    width: usize,
    height: usize,
    progressive: bool,
    components: Vec<Component>,
    jfif: bool,
    adobe_transform: Option<u8>,
    scans: usize,
}

/// What a scan adds to coefficients: those from `first` to `last`, in bits above `low`; bits above `high` are there.
struct Scan {
    first: usize,
    last: usize,
    high: u32,
    low: u32,
}

/// One component in a scan.
#[derive(Clone, Copy)]
struct Part {
    component: usize,
    dc: usize,
    ac: usize,
    predicted: i32,
}

/// The picture, or `None` where the file is damaged or not of this kind.
pub(super) fn decode(data: &[u8]) -> Option<Picture> {
    let mut decoder = Decoder::default();
    let mut at = 2;
    if !data.starts_with(&[0xff, 0xd8]) {
        return None;
    }
    loop {
        // Markers: 0xff, as often as one likes, and a byte.
        while *data.get(at)? != 0xff {
            at += 1;
        }
        while *data.get(at)? == 0xff {
            at += 1;
        }
        let marker = *data.get(at)?;
        at += 1;
        match marker {
            0xd9 => break,
            0x00 | 0x01 | 0xd0..=0xd8 => continue,
            _ => {}
        }
        let length = usize::from(u16::from_be_bytes([*data.get(at)?, *data.get(at + 1)?]));
        let segment = data.get(at + 2..at + length.max(2))?;
        at += length.max(2);
        match marker {
            0xdb => decoder.read_quantization(segment)?,
            0xc4 => decoder.read_codes(segment)?,
            0xc0..=0xc2 => decoder.read_frame(segment, marker == 0xc2)?,
            0xc3 | 0xc5..=0xc7 | 0xc8..=0xcf | 0xdc => return None,
            0xdd => {
                decoder.restart_interval = u16::from_be_bytes([*segment.first()?, *segment.get(1)?]).into();
            }
            0xe0 => decoder.jfif |= segment.starts_with(b"JFIF\0"),
            0xee if segment.starts_with(b"Adobe") => {
                decoder.adobe_transform = segment.get(11).copied();
            }
            0xda => at = decoder.read_scan(segment, data, at)?,
            _ => {}
        }
    }
    decoder.picture()
}

impl Decoder {
    fn read_quantization(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&head, rest)) = segment.split_first() {
            let bytes = if head >> 4 == 0 { 64 } else { 128 };
            let (values, after) = rest.split_at_checked(bytes)?;
            let mut table = [0u16; 64];
            for (index, &position) in ZIGZAG.iter().enumerate() {
                table[usize::from(position)] = if bytes == 64 {
                    values[index].into()
                } else {
                    u16::from_be_bytes([values[2 * index], values[2 * index + 1]])
                };
            }
            *self.quantization.get_mut(usize::from(head & 15))? = Some(table);
            segment = after;
        }
        Some(())
    }

    fn read_codes(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&head, rest)) = segment.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let total = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, after) = rest.split_at_checked(total)?;
            let tables = if head >> 4 == 0 { &mut self.dc_codes } else { &mut self.ac_codes };
            *tables.get_mut(usize::from(head & 15))? = Some(Codes::new(counts, symbols)?);
            segment = after;
        }
        Some(())
    }

    fn read_frame(&mut self, segment: &[u8], progressive: bool) -> Option<()> {
        let (head, parts) = segment.split_first_chunk::<6>()?;
        if head[0] != 8 || !self.components.is_empty() || !matches!(head[5], 1 | 3) {
            return None;
        }
        self.progressive = progressive;
        self.height = u16::from_be_bytes([head[1], head[2]]).into();
        self.width = u16::from_be_bytes([head[3], head[4]]).into();
        let pixels = self.width * self.height;
        if pixels == 0 || pixels > MAX_PIXELS || parts.len() < 3 * usize::from(head[5]) {
            return None;
        }
        let parts: Vec<&[u8]> = parts.chunks_exact(3).take(head[5].into()).collect();
        let factors = |part: &[u8]| (usize::from(part[1] >> 4), usize::from(part[1] & 15));
        let in_range =
            |part: &&[u8]| (1..=4).contains(&factors(part).0) && (1..=4).contains(&factors(part).1);
        if !parts.iter().all(in_range) {
            return None;
        }
        let across_most = parts.iter().map(|part| factors(part).0).max()?;
        let down_most = parts.iter().map(|part| factors(part).1).max()?;
        let units_across = self.width.div_ceil(8 * across_most);
        let units_down = self.height.div_ceil(8 * down_most);
        for part in parts {
            let (across, down) = factors(part);
            if across_most % across != 0 || down_most % down != 0 || part[2] > 3 {
                return None;
            }
            let stride = units_across * across;
            self.components.push(Component {
                id: part[0],
                across,
                down,
                table: part[2].into(),
                width: (self.width * across).div_ceil(across_most),
                height: (self.height * down).div_ceil(down_most),
                stride,
                blocks: vec![[0; 64]; stride * units_down * down],
            });
        }
        Some(())
    }

    /// Reads a scan whose codes begin at `at`, and tells where they end.
    fn read_scan(&mut self, segment: &[u8], data: &[u8], at: usize) -> Option<usize> {
        self.scans += 1;
        if self.scans > MAX_SCANS || self.components.is_empty() {
            return None;
        }
        let count = usize::from(*segment.first()?);
        let mut parts = Vec::with_capacity(count);
        for index in 0..count {
            let (id, tables) = (*segment.get(1 + 2 * index)?, *segment.get(2 + 2 * index)?);
            let component = self.components.iter().position(|component| component.id == id)?;
            if parts.iter().any(|part: &Part| part.component == component) {
                return None;
            }
            parts.push(Part { component, dc: (tables >> 4).into(), ac: (tables & 15).into(), predicted: 0 });
        }
        let tail = segment.get(1 + 2 * count..4 + 2 * count)?;
        let scan = if self.progressive {
            Scan {
                first: tail[0].into(),
                last: tail[1].into(),
                high: (tail[2] >> 4).into(),
                low: (tail[2] & 15).into(),
            }
        } else {
            Scan { first: 0, last: 63, high: 0, low: 0 }
        };
        let refines_wrongly = scan.high != 0 && scan.high != scan.low + 1;
        let mixes = self.progressive && (scan.first == 0) != (scan.last == 0);
        let several = scan.first > 0 && parts.len() != 1;
        if parts.is_empty() || scan.first > scan.last || scan.last > 63 || scan.low > 13 {
            return None;
        }
        if refines_wrongly || mixes || several {
            return None;
        }
        let mut bits = Bits::new(data, at);
        self.read_units(&mut parts, &scan, &mut bits)?;
        Some(bits.position())
    }

    fn read_units(&mut self, parts: &mut [Part], scan: &Scan, bits: &mut Bits<'_>) -> Option<()> {
        let across_most = self.components.iter().map(|c| c.across).max()?;
        let down_most = self.components.iter().map(|c| c.down).max()?;
        // A scan of one component goes block by block and leaves out those that only fill units.
        let alone = if let [part] = *parts { Some(self.components.get(part.component)?) } else { None };
        let (units_across, units_down) = match alone {
            Some(only) => (only.width.div_ceil(8), only.height.div_ceil(8)),
            None => (self.width.div_ceil(8 * across_most), self.height.div_ceil(8 * down_most)),
        };
        let is_alone = alone.is_some();
        let mut end_of_band = 0u32;
        for unit in 0..units_across * units_down {
            if self.restart_interval > 0 && unit > 0 && unit % self.restart_interval == 0 {
                bits.restart()?;
                end_of_band = 0;
                for part in parts.iter_mut() {
                    part.predicted = 0;
                }
            }
            let (x, y) = (unit % units_across, unit / units_across);
            for part in parts.iter_mut() {
                let component = self.components.get_mut(part.component)?;
                let (across, down) = if is_alone { (1, 1) } else { (component.across, component.down) };
                for row in 0..down {
                    for column in 0..across {
                        let index = (y * down + row) * component.stride + x * across + column;
                        let block = component.blocks.get_mut(index)?;
                        let (dc, ac) = (self.dc_codes.get(part.dc)?, self.ac_codes.get(part.ac)?);
                        let codes = (dc.as_ref(), ac.as_ref());
                        if self.progressive {
                            read_band(block, scan, codes, part, &mut end_of_band, bits)?;
                        } else {
                            read_block(block, codes, part, bits)?;
                        }
                    }
                }
            }
        }
        Some(())
    }

    fn picture(&self) -> Option<Picture> {
        let (width, height) = (self.width, self.height);
        let across_most = self.components.iter().map(|c| c.across).max()?;
        let down_most = self.components.iter().map(|c| c.down).max()?;
        let mut planes = Vec::with_capacity(self.components.len());
        for component in &self.components {
            let table = self.quantization.get(component.table)?.as_ref()?;
            let (across, down) = (across_most / component.across, down_most / component.down);
            planes.push(upsample(component.samples(table), across, down, width, height));
        }
        let pixels = match planes.as_slice() {
            [gray] => gray.clone(),
            [first, second, third] => {
                let mut pixels = vec![0u8; width * height * 3];
                let is_rgb = self.is_rgb();
                let samples = first.iter().zip(second).zip(third);
                for (pixel, ((&a, &b), &c)) in pixels.chunks_exact_mut(3).zip(samples) {
                    pixel.copy_from_slice(&if is_rgb { [a, b, c] } else { to_rgb(a, b, c) });
                }
                pixels
            }
            _ => return None,
        };
        Some(Picture { width, height, channels: self.components.len(), pixels })
    }

    /// Whether the three components are red, green and blue, not brightness and chroma.
    fn is_rgb(&self) -> bool {
        match (self.jfif, self.adobe_transform) {
            (true, _) => false,
            (false, Some(transform)) => transform == 0,
            (false, None) => self.components.iter().map(|c| c.id).eq(*b"RGB"),
        }
    }
}

/// Adds a number of `size` bits to what `bits` has, negative ones being below half.
fn extend(bits: &mut Bits<'_>, size: u32) -> Option<i32> {
    if size == 0 {
        return Some(0);
    }
    let value = bits.take(size)? as i32;
    Some(if value < 1 << (size - 1) { value - (1 << size) + 1 } else { value })
}

fn read_dc(codes: Option<&Codes>, part: &mut Part, bits: &mut Bits<'_>) -> Option<i32> {
    let size = u32::from(bits.symbol(codes?)?);
    if size > 15 {
        return None;
    }
    part.predicted = part.predicted.wrapping_add(extend(bits, size)?);
    Some(part.predicted)
}

type BothCodes<'a> = (Option<&'a Codes>, Option<&'a Codes>);

fn read_block(block: &mut Block, codes: BothCodes<'_>, part: &mut Part, bits: &mut Bits<'_>) -> Option<()> {
    block[0] = read_dc(codes.0, part, bits)? as i16;
    let ac = codes.1?;
    let mut index = 1;
    while index < 64 {
        let symbol = bits.symbol(ac)?;
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            if run != 15 {
                break;
            }
            index += 16;
            continue;
        }
        index += run;
        block[usize::from(*ZIGZAG.get(index)?)] = extend(bits, size)? as i16;
        index += 1;
    }
    Some(())
}

fn read_band(
    block: &mut Block,
    scan: &Scan,
    codes: BothCodes<'_>,
    part: &mut Part,
    end_of_band: &mut u32,
    bits: &mut Bits<'_>,
) -> Option<()> {
    if scan.first == 0 {
        if scan.high == 0 {
            block[0] = (read_dc(codes.0, part, bits)? << scan.low) as i16;
        } else if bits.take(1)? == 1 {
            block[0] |= 1 << scan.low;
        }
        return Some(());
    }
    if scan.high != 0 {
        return refine_band(block, scan, codes.1?, end_of_band, bits);
    }
    if *end_of_band > 0 {
        *end_of_band -= 1;
        return Some(());
    }
    let mut index = scan.first;
    while index <= scan.last {
        let symbol = bits.symbol(codes.1?)?;
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            if run < 15 {
                *end_of_band = (1 << run) - 1 + bits.take(run as u32)?;
                break;
            }
            index += 16;
            continue;
        }
        index += run;
        block[usize::from(*ZIGZAG.get(index)?)] = (extend(bits, size)? << scan.low) as i16;
        index += 1;
    }
    Some(())
}

fn refine_band(
    block: &mut Block,
    scan: &Scan,
    codes: &Codes,
    end_of_band: &mut u32,
    bits: &mut Bits<'_>,
) -> Option<()> {
    let bit = 1i16 << scan.low;
    let refine = |coefficient: &mut i16, bits: &mut Bits<'_>| -> Option<()> {
        if bits.take(1)? == 1 && *coefficient & bit == 0 {
            *coefficient = coefficient.wrapping_add(if *coefficient > 0 { bit } else { -bit });
        }
        Some(())
    };
    let mut index = scan.first;
    if *end_of_band == 0 {
        while index <= scan.last {
            let symbol = bits.symbol(codes)?;
            let (mut run, size) = (u32::from(symbol >> 4), symbol & 15);
            let mut value = 0;
            match size {
                0 if run < 15 => {
                    *end_of_band = (1 << run) + bits.take(run)?;
                    break;
                }
                0 => {}
                _ => value = if bits.take(1)? == 1 { bit } else { -bit },
            }
            // `run` coefficients that are still zero are passed over, the others refined on the way.
            while index <= scan.last {
                let coefficient = &mut block[usize::from(ZIGZAG[index])];
                if *coefficient != 0 {
                    refine(coefficient, bits)?;
                } else if run == 0 {
                    *coefficient = value;
                    index += 1;
                    break;
                } else {
                    run -= 1;
                }
                index += 1;
            }
        }
    }
    if *end_of_band > 0 {
        for &position in ZIGZAG.get(index..=scan.last).unwrap_or_default() {
            let coefficient = &mut block[usize::from(position)];
            if *coefficient != 0 {
                refine(coefficient, bits)?;
            }
        }
        *end_of_band -= 1;
    }
    Some(())
}

/// Samples of one component: rows of `width`.
struct Plane {
    width: usize,
    height: usize,
    samples: Vec<u8>,
}

impl Component {
    fn samples(&self, table: &[u16; 64]) -> Plane {
        let mut samples = vec![0u8; self.width * self.height];
        for (index, block) in self.blocks.iter().enumerate() {
            let (x, y) = (index % self.stride * 8, index / self.stride * 8);
            if x >= self.width || y >= self.height {
                continue;
            }
            let values = inverse_cosine_transform(block, table);
            let columns = (self.width - x).min(8);
            for (row, values) in values.chunks_exact(8).enumerate().take(self.height - y) {
                let start = (y + row) * self.width + x;
                samples[start..start + columns].copy_from_slice(&values[..columns]);
            }
        }
        Plane { width: self.width, height: self.height, samples }
    }
}

/// One dimension of the transform, scaled by 2¹³ √8.
fn transform(input: [i64; 8]) -> [i64; 8] {
    let [x0, x1, x2, x3, x4, x5, x6, x7] = input;
    let z1 = (x2 + x6) * 4433;
    let (even2, even3) = (z1 - x6 * 15137, z1 + x2 * 6270);
    let (even0, even1) = ((x0 + x4) << 13, (x0 - x4) << 13);
    let (a, d, b, c) = (even0 + even3, even0 - even3, even1 + even2, even1 - even2);
    let (z1, z2, z3, z4) = (x7 + x1, x5 + x3, x7 + x3, x5 + x1);
    let z5 = (z3 + z4) * 9633;
    let (z1, z2) = (z1 * -7373, z2 * -20995);
    let (z3, z4) = (z3 * -16069 + z5, z4 * -3196 + z5);
    let odd0 = x7 * 2446 + z1 + z3;
    let odd1 = x5 * 16819 + z2 + z4;
    let odd2 = x3 * 25172 + z2 + z3;
    let odd3 = x1 * 12299 + z1 + z4;
    [a + odd3, b + odd2, c + odd1, d + odd0, d - odd0, c - odd1, b - odd2, a - odd3]
}

/// The samples of a block: columns first, with two bits of fraction between, then rows.
fn inverse_cosine_transform(block: &Block, table: &[u16; 64]) -> [u8; 64] {
    let round = |value: i64, bits: u32| (value + (1 << (bits - 1))) >> bits;
    let mut between = [0i64; 64];
    for column in 0..8 {
        let at = |row: usize| i64::from(block[8 * row + column]) * i64::from(table[8 * row + column]);
        let values = transform(std::array::from_fn(at));
        for (row, value) in values.into_iter().enumerate() {
            between[8 * row + column] = round(value, 11);
        }
    }
    let mut samples = [0u8; 64];
    for (row, output) in between.chunks_exact(8).zip(samples.chunks_exact_mut(8)) {
        let values = transform(std::array::from_fn(|column| row[column]));
        for (sample, value) in output.iter_mut().zip(values) {
            *sample = (round(value, 18) + 128).clamp(0, 255) as u8;
        }
    }
    samples
}

/// The plane enlarged by whole factors, cut to the picture.
fn upsample(plane: Plane, across: usize, down: usize, width: usize, height: usize) -> Vec<u8> {
    if (across, down) == (1, 1) {
        return plane.samples;
    }
    let interpolated = plane.width > 2 && across == 2 && down <= 2 || (across, down) == (1, 2);
    let row_at = |row: usize| &plane.samples[row * plane.width..][..plane.width];
    let mut output = Vec::with_capacity(width * height);
    let mut line: Vec<u8> = Vec::new();
    for y in 0..height {
        let near = row_at((y / down).min(plane.height - 1));
        line.clear();
        if !interpolated {
            line.extend(near.iter().flat_map(|&sample| std::iter::repeat_n(sample, across)));
        } else if down == 1 {
            let near: Vec<u32> = near.iter().map(|&sample| sample.into()).collect();
            widen(&near, 2, [1, 2], &mut line);
        } else {
            // The row above for the upper of two rows, that below for the lower; the edge stands for what lies
            // beyond it.
            let far = if y % 2 == 0 { (y / 2).saturating_sub(1) } else { (y / 2 + 1).min(plane.height - 1) };
            let sums = near.iter().zip(row_at(far)).map(|(&n, &f)| 3 * u32::from(n) + u32::from(f));
            if across == 1 {
                let bias = if y % 2 == 0 { 1 } else { 2 };
                line.extend(sums.map(|sum| ((sum + bias) >> 2) as u8));
            } else {
                let sums: Vec<u32> = sums.collect();
                widen(&sums, 4, [8, 7], &mut line);
            }
        }
        output.extend(line.iter().take(width));
    }
    output
}

/// Two samples for each of `row`: three parts of it and one of the neighbour on that side, `bits` of fraction rounded
/// with `bias`.
fn widen(row: &[u32], bits: u32, bias: [u32; 2], line: &mut Vec<u8>) {
    for (index, &here) in row.iter().enumerate() {
        let left = if index == 0 { here } else { row[index - 1] };
        let right = row.get(index + 1).copied().unwrap_or(here);
        line.push(((3 * here + left + bias[0]) >> bits) as u8);
        line.push(((3 * here + right + bias[1]) >> bits) as u8);
    }
}

/// Red, green and blue of brightness and chroma, in fixed point with 16 bits.
fn to_rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((91881 * cr + HALF) >> 16);
    let green = y + ((-22554 * cb - 46802 * cr + HALF) >> 16);
    let blue = y + ((116130 * cb + HALF) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}
