//! Entropy-coded data of a baseline JPEG: Huffman codes to coefficients, or past them.
//!
//! Most of a photo's decoding time goes here, so a look into a table gives a value with its place, or, outside of the wanted
//! part, steps over several. Source: ITU-T T.81, annexes C and F.

/// The bits of a look.
const LOOK: u32 = 11;
/// The longest code.
const LONGEST: usize = 16;
/// More bits than any value of 8-bit samples has; twice a code and so many are less than [`Bits::refill`] gives.
const MAX_VALUE_BITS: u8 = 11;
/// How far the end of a block's values leads: more than any run.
const TO_THE_END: u8 = 128;
/// The place of the first coefficient that a block does not have.
pub(super) const BLOCK: usize = 64;

/// A block's coefficients, row by row, and room for the places behind them that an end leads to.
pub(super) type Coefficients = [i16; 256];

/// Where in its block each coefficient of the zigzag order lies (figure A.6); behind the last one, the first place that no
/// block has.
pub(super) const NATURAL: [u8; 256] = {
    let mut natural = [BLOCK as u8; 256];
    let (mut row, mut column, mut place) = (0, 0, 0);
    while place < BLOCK {
        natural[place] = row * 8 + column;
        if (row + column) % 2 == 0 {
            match (row, column) {
                (_, 7) => row += 1,
                (0, _) => column += 1,
                _ => (row, column) = (row - 1, column + 1),
            }
        } else {
            match (row, column) {
                (7, _) => column += 1,
                (_, 0) => row += 1,
                _ => (row, column) = (row + 1, column - 1),
            }
        }
        place += 1;
    }
    natural
};

/// What a code and the value behind it say, in a number, so that a look costs one load: how many bits they are (where a
/// shift takes them from), from bit 8 on how far their place is from the last one's, from 16 on the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Code(u32);

impl Code {
    /// The bits of a look are not all there is, or are no code.
    const NONE: Self = Self(0);

    /// `number` is the value as coded: one that begins with 0 is negative (F.2.2.1, EXTEND).
    fn new(span: Span, number: u32) -> Self {
        let value_bits = span.all_bits - span.bits;
        let is_negative = number < 1 << value_bits >> 1;
        let value = if is_negative { (number + 1).wrapping_sub(1 << value_bits) } else { number };
        Self(u32::from(span.all_bits) | u32::from(span.advance) << 8 | value << 16)
    }

    #[inline(always)]
    fn bits(self) -> u32 {
        self.0 & 63
    }

    fn without_bits(self) -> Self {
        Self(self.0 & !63)
    }

    #[inline(always)]
    fn advance(self) -> usize {
        (self.0 >> 8 & 0xFF) as usize
    }

    #[inline(always)]
    fn value(self) -> i16 {
        (self.0 >> 16) as i16
    }
}

/// A code without its value: its bits, all bits, how far it leads.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    bits: u8,
    all_bits: u8,
    advance: u8,
}

/// Of several codes in a row: all their bits, and from bit 8 on how far they lead.
#[derive(Debug, Clone, Copy, Default)]
struct Step(u16);

/// A table of codes, of one of the two kinds.
#[derive(Debug)]
pub(super) struct Table {
    codes: Box<[Code; 1 << LOOK]>,
    spans: Box<[Span; 1 << LOOK]>,
    steps: Box<[Step; 1 << LOOK]>,
    has_steps: bool,
    /// What the codes were made of, if they are whole.
    made_of: Option<(bool, [u8; LONGEST])>,
    /// Of each length: the first number of 16 bits that does not begin with a code of it or a shorter one.
    ends: [u32; LONGEST + 1],
    /// Of each length: what a code is to be added to for its place in `symbols`.
    offsets: [i32; LONGEST + 1],
    symbols: Vec<u8>,
    is_dc: bool,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            codes: Box::new([Code::NONE; 1 << LOOK]),
            spans: Box::new([Span::default(); 1 << LOOK]),
            steps: Box::new([Step::default(); 1 << LOOK]),
            has_steps: false,
            made_of: None,
            ends: [0; LONGEST + 1],
            offsets: [0; LONGEST + 1],
            symbols: Vec::new(),
            is_dc: false,
        }
    }
}

impl Table {
    /// Takes what a file defines: the numbers of codes of 1 to 16 bits, and their symbols. False for what is no table, or
    /// one for larger samples.
    pub(super) fn set(&mut self, is_dc: bool, counts: &[u8; LONGEST], symbols: &[u8]) -> bool {
        // Many files have the tables of the standard.
        if self.made_of == Some((is_dc, *counts)) && self.symbols == symbols {
            return true;
        }
        self.made_of = None;
        self.codes.fill(Code::NONE);
        self.spans.fill(Span::default());
        self.has_steps = false;
        self.is_dc = is_dc;
        self.symbols.clear();
        self.symbols.extend_from_slice(symbols);
        let (mut code, mut place) = (0_u32, 0_usize);
        for bits in 1..=LONGEST as u32 {
            self.offsets[bits as usize] = place as i32 - code as i32;
            for _ in 0..counts[bits as usize - 1] {
                let Some(&symbol) = symbols.get(place) else { return false };
                if code >> bits != 0 || symbol & 15 > MAX_VALUE_BITS || is_dc && symbol > MAX_VALUE_BITS {
                    return false;
                }
                self.fill(code, bits, symbol);
                code += 1;
                place += 1;
            }
            self.ends[bits as usize] = code << (LONGEST as u32 - bits);
            code <<= 1;
        }
        self.made_of = Some((is_dc, *counts));
        true
    }

    /// Enters a code, with each value that may follow it if a look takes in both.
    fn fill(&mut self, code: u32, bits: u32, symbol: u8) {
        let Some(spare) = LOOK.checked_sub(bits) else { return };
        let span = self.span(bits, symbol);
        let first = (code << spare) as usize;
        let places = first..first + (1 << spare);
        self.spans[places.clone()].fill(span);
        let Some(spare) = LOOK.checked_sub(span.all_bits.into()) else { return };
        for (number, codes) in self.codes[places].chunks_exact_mut(1 << spare).enumerate() {
            codes.fill(Code::new(span, number as u32));
        }
    }

    fn span(&self, bits: u32, symbol: u8) -> Span {
        let advance = match symbol {
            0 if !self.is_dc => TO_THE_END,
            _ => (symbol >> 4) + 1,
        };
        Span { bits: bits as u8, all_bits: bits as u8 + (symbol & 15), advance }
    }

    /// The code and value at the front of `window`, of any length.
    #[cold]
    fn long_code(&self, window: u64) -> Option<Code> {
        let mut span = self.spans[(window >> (64 - LOOK)) as usize];
        if span.bits == 0 {
            let next = (window >> (64 - LONGEST)) as u32;
            let bits = (LOOK as usize..=LONGEST).find(|&bits| next < self.ends[bits])?;
            let place = (next >> (LONGEST - bits)) as i32 + self.offsets[bits];
            span = self.span(bits as u32, *self.symbols.get(usize::try_from(place).ok()?)?);
        }
        let number = (window << span.bits >> 1 >> (63 - (span.all_bits - span.bits))) as u32;
        Some(Code::new(span, number))
    }

    #[inline(always)]
    fn code(&self, window: u64) -> Result<Code, Wrong> {
        match self.codes[(window >> (64 - LOOK)) as usize] {
            Code::NONE => self.long_code(window).ok_or(Wrong::NoCode),
            code => Ok(code),
        }
    }

    /// Makes ready for [`Bits::step`]: it costs as much as some hundred blocks.
    pub(super) fn make_steps(&mut self) {
        if std::mem::replace(&mut self.has_steps, true) {
            return;
        }
        for (window, step) in self.steps.iter_mut().enumerate() {
            let (mut bits, mut advance) = (0, 0_u8);
            while bits < LOOK as usize {
                let span = self.spans[window << bits & ((1 << LOOK) - 1)];
                let is_end = span.advance == TO_THE_END;
                let is_whole = span.bits > 0 && bits + usize::from(span.bits) <= LOOK as usize;
                if !is_whole || !is_end && advance + span.advance >= BLOCK as u8 {
                    break;
                }
                bits += usize::from(span.all_bits);
                advance += span.advance;
                if is_end {
                    break;
                }
            }
            *step = Step(bits as u16 | (advance as u16) << 8);
        }
    }
}

/// Bits without the zeros that are stuffed behind 0xFF, from the first one on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    window: u64,
    count: u32,
}

/// What is wrong with the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    NoCode,
    PastTheBlock,
    TooShort,
}

impl Wrong {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::NoCode => "its data have a code that is none",
            Self::PastTheBlock => "its data have a value past the end of a block",
            Self::TooShort => "its data end before the picture does",
        }
    }
}

impl<'a> Bits<'a> {
    pub(super) fn of(data: &'a [u8]) -> Self {
        Self { data, at: 0, window: 0, count: 0 }
    }

    /// Whether more was taken than there is: behind the data come zeros.
    pub(super) fn is_past_the_end(&self) -> bool {
        self.at * 8 > self.data.len() * 8 + self.count as usize
    }

    /// Lets `window` begin with at least 56 bits of the data.
    #[inline(always)]
    fn refill(&mut self) {
        let next = match self.data.get(self.at..).and_then(<[u8]>::first_chunk) {
            Some(bytes) => u64::from_be_bytes(*bytes),
            None => last_bytes(self.data, self.at),
        };
        self.window |= next >> (self.count & 63);
        self.at += ((63 - self.count) >> 3) as usize;
        self.count |= 56;
    }

    #[inline(always)]
    fn take(&mut self, bits: u32) {
        self.window <<= bits & 63;
        self.count = self.count.wrapping_sub(bits & 63);
    }

    /// How a block's first coefficient differs from the last block's.
    #[inline(always)]
    pub(super) fn difference(&mut self, table: &Table) -> Result<i32, Wrong> {
        self.refill();
        let code = table.code(self.window)?;
        self.take(code.bits());
        Ok(i32::from(code.value()))
    }

    /// The block's other coefficients, each to its place; those that are 0 are not written. Returns whether there was any.
    #[inline(always)]
    pub(super) fn block(&mut self, table: &Table, into: &mut Coefficients) -> Result<bool, Wrong> {
        let mut bits = *self;
        let mut place = 0_usize;
        while place < BLOCK - 1 {
            bits.refill();
            // So many looks use up less than there is.
            for _ in 0..4 {
                let mut code = table.codes[(bits.window >> (64 - LOOK)) as usize];
                if code == Code::NONE {
                    bits.refill();
                    code = table.long_code(bits.window).ok_or(Wrong::NoCode)?;
                    bits.take(code.bits());
                    bits.refill();
                    code = code.without_bits();
                }
                place += code.advance();
                into[usize::from(NATURAL[place & 255])] = code.value();
                bits.take(code.bits());
                if place >= BLOCK - 1 {
                    break;
                }
            }
        }
        *self = bits;
        match place {
            63 => Ok(true),
            64..128 => Err(Wrong::PastTheBlock),
            place => Ok(place > 128),
        }
    }

    /// Steps over the block's other coefficients; of a table with steps.
    #[inline(always)]
    pub(super) fn step(&mut self, table: &Table) -> Result<(), Wrong> {
        let mut bits = *self;
        let mut place = 0_usize;
        while place < BLOCK - 1 {
            bits.refill();
            let Step(step) = table.steps[(bits.window >> (64 - LOOK)) as usize];
            let advance = usize::from(step >> 8);
            let reached = place + (advance & usize::from(TO_THE_END - 1));
            if step == 0 || reached >= BLOCK - 1 {
                // A long code, or perhaps some of the next block's: one at a time.
                let code = table.code(bits.window)?;
                place += code.advance();
                bits.take(code.bits());
            } else {
                place += advance;
                bits.take(u32::from(step));
            }
        }
        *self = bits;
        if (BLOCK..usize::from(TO_THE_END)).contains(&place) { Err(Wrong::PastTheBlock) } else { Ok(()) }
    }
}

#[cold]
fn last_bytes(data: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    let rest = data.get(at..).unwrap_or_default();
    bytes[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes of 2 to 16 bits, the last of them none: symbols of runs and values, the end, a run of 16 without a value.
    fn table() -> Table {
        let counts = [0, 3, 1, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 0, 0, 3];
        let symbols = [0x00, 0x01, 0x11, 0x02, 0x03, 0x21, 0x04, 0x12, 0xF0, 0x31, 0x05, 0x0A, 0x91, 0xE2];
        let mut table = Table::default();
        assert!(table.set(false, &counts, &symbols));
        table.make_steps();
        table
    }

    /// A generator of bytes that needs no crate (Knuth's MMIX).
    fn bytes(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    /// The bits from the front on, one by one, without a table.
    fn slowly(table: &Table, data: &[u8], at: &mut usize) -> Option<(u8, i32)> {
        let mut bit = || {
            let bit = data.get(*at / 8).map_or(0, |byte| byte >> (7 - *at % 8) & 1);
            *at += 1;
            u32::from(bit)
        };
        let mut code = 0;
        for bits in 1..=LONGEST {
            code = code << 1 | bit();
            if code << (LONGEST - bits) < table.ends[bits] {
                let symbol = table.symbols[(code as i32 + table.offsets[bits]) as usize];
                let number = (0..symbol & 15).fold(0, |number, _| number << 1 | bit() as i32);
                let least = 1 << (symbol & 15) >> 1;
                let value = if number < least { number + 1 - (1 << (symbol & 15)) } else { number };
                return Some((symbol, value));
            }
        }
        None
    }

    #[test]
    fn looks_find_what_bits_say_and_steps_lead_as_far() {
        let table = table();
        let (mut num_blocks, mut num_wrong) = (0, 0);
        for seed in 0..300 {
            let data = bytes(seed, 400);
            let (mut reading, mut stepping, mut at) = (Bits::of(&data), Bits::of(&data), 0);
            loop {
                let mut expected = [0; 256];
                let mut place = 0;
                let is_right = loop {
                    match slowly(&table, &data, &mut at) {
                        None => break false,
                        Some((0, _)) => break true,
                        Some((symbol, value)) => {
                            place += usize::from(symbol >> 4) + 1;
                            if place >= BLOCK {
                                break false;
                            }
                            expected[usize::from(NATURAL[place])] = value as i16;
                        }
                    }
                    if place == BLOCK - 1 {
                        break true;
                    }
                };
                let mut got = [0; 256];
                let read = reading.block(&table, &mut got);
                let stepped = stepping.step(&table);
                assert_eq!((read.is_ok(), stepped.is_ok()), (is_right, is_right), "{seed}");
                if !is_right {
                    num_wrong += 1;
                    break;
                }
                assert_eq!(got[..BLOCK], expected[..BLOCK], "{seed}");
                assert_eq!(read, Ok(place > 0), "{seed}");
                let consumed = |bits: &Bits<'_>| bits.at * 8 - bits.count as usize;
                assert_eq!((consumed(&reading), consumed(&stepping)), (at, at), "{seed}");
                assert_eq!(reading.is_past_the_end(), at > data.len() * 8, "{seed}");
                num_blocks += 1;
                if at > data.len() * 8 {
                    break;
                }
            }
        }
        assert!(num_blocks > 1000 && num_wrong > 10, "{num_blocks} blocks, {num_wrong} wrong");
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let mut table = Table::default();
        let mut set = |is_dc, counts: &[(usize, u8)], symbols: &[u8]| {
            let mut all = [0; LONGEST];
            counts.iter().for_each(|&(bits, count)| all[bits - 1] = count);
            table.set(is_dc, &all, symbols)
        };
        assert!(set(false, &[(1, 1), (2, 1)], &[0x00, 0x01]));
        for _ in 0..2 {
            assert!(!set(false, &[(1, 1), (2, 3)], &[0x00, 0x01, 2, 3]), "twice as well");
        }
        assert!(set(false, &[(1, 1), (2, 1)], &[0x00, 0x01]));
        assert!(!set(false, &[(1, 3)], &[0, 1, 2]), "more codes of a bit than there are");
        assert!(!set(false, &[(1, 1), (2, 3)], &[0, 1, 2, 3]));
        assert!(!set(false, &[(2, 2)], &[0]), "fewer symbols than codes");
        assert!(!set(false, &[(2, 1)], &[0x0C]), "a value of 12 bits");
        assert!(!set(true, &[(2, 1)], &[0x13]), "a run before a first coefficient");
    }
}
