//! The entropy coding of JPEG: Huffman codes and the bits they are read from (ITU-T T.81, annexes C and F).

/// The most bytes read as zeros where a marker ends a segment too early.
const MAX_PADDING: usize = 1 << 12;

/// A table of Huffman codes, of up to 16 bits.
pub(super) struct Codes {
    /// For each length the code after the last one of that length.
    ends: [u32; 17],
    /// For each length what is added to a code for the index of its symbol.
    offsets: [i32; 17],
    symbols: Vec<u8>,
}

impl Codes {
    /// The codes of which `counts` says how many there are of each length from 1.
    pub fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let (mut ends, mut offsets) = ([0u32; 17], [0i32; 17]);
        let (mut code, mut index) = (0u32, 0i32);
        for (length, &count) in (1..).zip(counts) {
            offsets[length] = index - code as i32;
            code += u32::from(count);
            index += i32::from(count);
            if code > 1 << length {
                return None;
            }
            ends[length] = code;
            code <<= 1;
        }
        Some(Codes { ends, offsets, symbols: symbols.to_vec() })
    }
}

/// Bits of a scan, highest first.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    held: u64,
    count: u32,
    padding: usize,
}

impl<'a> Bits<'a> {
    /// Those that begin at byte `at`.
    pub fn new(data: &'a [u8], at: usize) -> Self {
        Bits { data, at, held: 0, count: 0, padding: 0 }
    }

    /// The byte after the last one read: a marker's first, once all codes are read.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Holds at least `wanted` bits.
    fn fill(&mut self, wanted: u32) -> Option<()> {
        while self.count < wanted {
            let byte = *self.data.get(self.at)?;
            if byte != 0xff {
                self.at += 1;
                self.push(byte);
                continue;
            }
            match *self.data.get(self.at + 1)? {
                0 => {
                    self.at += 2;
                    self.push(0xff);
                }
                0xff => self.at += 1,
                _ => {
                    self.padding += 1;
                    if self.padding > MAX_PADDING {
                        return None;
                    }
                    self.push(0);
                }
            }
        }
        Some(())
    }

    fn push(&mut self, byte: u8) {
        self.held = (self.held << 8) | u64::from(byte);
        self.count += 8;
    }

    /// The next `count` bits, at most 16.
    pub fn take(&mut self, count: u32) -> Option<u32> {
        self.fill(count)?;
        self.count -= count;
        Some(((self.held >> self.count) & ((1 << count) - 1)) as u32)
    }

    /// The symbol of the next code.
    pub fn symbol(&mut self, codes: &Codes) -> Option<u8> {
        let mut code = 0;
        for length in 1..=16 {
            code = (code << 1) | self.take(1)?;
            if code < codes.ends[length] {
                let index = usize::try_from(code as i32 + codes.offsets[length]).ok()?;
                return codes.symbols.get(index).copied();
            }
        }
        None
    }

    /// Goes on after the restart marker that comes next.
    pub fn restart(&mut self) -> Option<()> {
        (self.held, self.count, self.padding) = (0, 0, 0);
        let mut at = self.at;
        while !matches!(self.data.get(at..at + 2)?, [0xff, 0xd0..=0xd7]) {
            // Another marker ends the scan.
            if matches!(self.data.get(at..at + 2)?, [0xff, 1..=0xfe]) {
                return None;
            }
            at += 1;
        }
        self.at = at + 2;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_stuffed_bytes() {
        // 0, 10, 110 for symbols 7, 8, 9.
        let mut counts = [0u8; 16];
        counts[..3].fill(1);
        let codes = Codes::new(&counts, &[7, 8, 9]).unwrap();
        let data = [0b0101_1011, 0xff, 0x00, 0b0000_0000, 0xff, 0xd9];
        let mut bits = Bits::new(&data, 0);
        assert_eq!([(); 3].map(|()| bits.symbol(&codes)), [Some(7), Some(8), Some(9)]);
        assert_eq!(bits.take(10), Some(0b11_1111_1111));
        assert_eq!(bits.take(16), Some(0));
        assert_eq!(bits.position(), 4);
        counts[0] = 3;
        assert!(Codes::new(&counts, &[0; 5]).is_none());
    }
}
