//! Longest common subsequence by bit-vectors (Hyyrö), 64 cells in one step, with the way back.
//!
//! The cells of a row, one for each token of the longer sequence (the columns), are bits: 0 where the length
//! of the common subsequence grows by one. Each token of the shorter sequence makes a row out of the one
//! before it.
//!
//! Invariant: the runs that are found are a longest common subsequence; rows take at most [`MAX_ROW_BYTES`],
//! or two times the square root of their number where all of them would take more.
//!
//! # Why
//! The way back needs the rows. Above the limit every k-th row is kept, and the rows between two kept ones
//! are computed again, last block first, up to the column where the way back has come to: one and a half
//! times the work, no recursion, and 8 MiB where two sequences of 100,000 tokens would need 1.2 GiB. A token
//! that is rare in the columns has a list of positions: with a mask for each of 50,000 classes the masks
//! would take 625 MB.

/// Rows that are kept whole. 4,096 x 4,096 cells take 2 MiB.
pub(super) const MAX_ROW_BYTES: usize = 4 << 20;
/// A class of tokens has a mask if it has at least one position in so many words of a row.
const WORDS_PER_POSITION: usize = 4;
const BITS: usize = u64::BITS as usize;

/// A run of equal tokens: where it starts in the columns and in the rows, and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) column: u32,
    pub(super) row: u32,
    pub(super) len: u32,
}

/// Where a class of tokens stands in the columns.
#[derive(Debug, Clone, Copy, Default)]
struct Class {
    /// Number of positions.
    count: u32,
    /// Start of its positions, or of its mask.
    start: u32,
    has_mask: bool,
}

/// Buffers of the search, used again by the next one.
#[derive(Debug, Default)]
pub(super) struct BitRows {
    columns: Positions,
    /// Every k-th row, from the first one on.
    kept: Vec<u64>,
    /// Rows of the block of the way back.
    block: Vec<u64>,
    /// Instead of [`MAX_ROW_BYTES`].
    max_row_bytes: Option<usize>,
}

/// Where tokens stand in the columns.
#[derive(Debug, Default)]
struct Positions {
    /// Class of each token plus one, 0 for tokens that are not in the columns.
    class_of: Vec<u32>,
    classes: Vec<Class>,
    positions: Vec<u32>,
    masks: Vec<u64>,
}

/// Steps that a token costs besides its cells: it is looked up twice, and the way back passes it.
const STEPS_PER_TOKEN: u64 = 8;

/// Steps of work that a search takes; computing rows again takes half as many once more, where the way back
/// goes straight.
pub(super) fn steps(columns: usize, rows: usize) -> u64 {
    let (columns, rows) = (columns.max(rows), columns.min(rows));
    let words = columns.div_ceil(BITS);
    let once = (words as u64 + 1) * rows as u64;
    let again = if rows_in_block(words, rows, MAX_ROW_BYTES) < rows { once / 2 } else { 0 };
    once + again + STEPS_PER_TOKEN * (columns + rows) as u64
}

/// Number of rows between two kept ones: all of them if they fit, else the square root.
fn rows_in_block(words: usize, rows: usize, max_bytes: usize) -> usize {
    if rows.saturating_mul(words).saturating_mul(size_of::<u64>()) <= max_bytes {
        return rows.max(1);
    }
    rows.isqrt().max(1)
}

impl BitRows {
    /// Keeps rows of so many bytes only, so that tests see both ways.
    #[cfg(test)]
    pub(super) fn with_row_bytes(max_row_bytes: usize) -> Self {
        Self { max_row_bytes: Some(max_row_bytes), ..Self::default() }
    }

    /// Bytes of the rows of the last search.
    #[cfg(test)]
    pub(super) fn row_bytes(&self) -> usize {
        (self.kept.len() + self.block.len()) * size_of::<u64>()
    }

    /// Bytes of masks and positions of the last search.
    #[cfg(test)]
    pub(super) fn mask_bytes(&self) -> usize {
        self.columns.masks.len() * size_of::<u64>() + self.columns.positions.len() * size_of::<u32>()
    }

    /// The runs of a longest common subsequence, last run first. `columns` is the longer sequence.
    pub(super) fn search(&mut self, columns: &[u32], rows: &[u32], found: &mut Vec<Run>) {
        let words = columns.len().div_ceil(BITS);
        self.columns.index(columns, words);
        let in_block = rows_in_block(words, rows.len(), self.max_row_bytes.unwrap_or(MAX_ROW_BYTES));
        self.keep_rows(rows, words, in_block);
        let mut back = WayBack { columns, rows, column: columns.len(), row: rows.len() };
        while back.row > 0 && back.column > 0 {
            let first = (back.row - 1) / in_block * in_block;
            // Bits carry towards later columns only, so those behind the way back are not needed.
            let needed = back.column.div_ceil(BITS);
            self.fill_block(&rows[first..back.row], first / in_block * words, needed);
            back.walk(&self.block, needed, first, found);
        }
        self.columns.clear(columns);
    }

    /// Computes the rows up to the last block, and keeps the one before each block.
    fn keep_rows(&mut self, rows: &[u32], words: usize, in_block: usize) {
        let blocks = rows.len().div_ceil(in_block).max(1);
        self.kept.clear();
        self.kept.resize(blocks * words, u64::MAX);
        for block in 1..blocks {
            let (before, row) = self.kept[(block - 1) * words..(block + 1) * words].split_at_mut(words);
            row.copy_from_slice(before);
            let rows = &rows[(block - 1) * in_block..block * in_block];
            rows.iter().for_each(|token| self.columns.advance(*token, row));
        }
    }

    /// Computes the first `needed` words of the rows of a block, from the kept row that starts at `kept`.
    fn fill_block(&mut self, rows: &[u32], kept: usize, needed: usize) {
        let cells = rows.len() * needed;
        if self.block.len() < cells {
            self.block.resize(cells, 0);
        }
        let mut before = &self.kept[kept..kept + needed];
        let mut rest = &mut self.block[..cells];
        for token in rows {
            let (row, behind) = rest.split_at_mut(needed);
            self.columns.advance_from(*token, before, row);
            (before, rest) = (row, behind);
        }
    }
}

impl Positions {
    /// Finds the positions of every token of the columns.
    fn index(&mut self, columns: &[u32], words: usize) {
        self.classes.clear();
        for token in columns {
            let token = *token as usize;
            if self.class_of.len() <= token {
                self.class_of.resize(token + 1, 0);
            }
            if self.class_of[token] == 0 {
                self.classes.push(Class::default());
                self.class_of[token] = self.classes.len() as u32;
            }
            self.classes[self.class_of[token] as usize - 1].count += 1;
        }
        let (mut positions, mut masked) = (0, 0);
        for class in &mut self.classes {
            class.has_mask = class.count as usize * WORDS_PER_POSITION >= words;
            class.start = if class.has_mask { masked } else { positions };
            if class.has_mask {
                masked += words as u32;
            } else {
                positions += class.count;
                class.count = 0; // counts again while positions are entered
            }
        }
        self.masks.clear();
        self.masks.resize(masked as usize, 0);
        self.positions.clear();
        self.positions.resize(positions as usize, 0);
        for (at, token) in columns.iter().enumerate() {
            let class = &mut self.classes[self.class_of[*token as usize] as usize - 1];
            if class.has_mask {
                self.masks[class.start as usize + at / BITS] |= 1 << (at % BITS);
            } else {
                self.positions[(class.start + class.count) as usize] = at as u32;
                class.count += 1;
            }
        }
    }

    /// Forgets the tokens of the columns.
    fn clear(&mut self, columns: &[u32]) {
        columns.iter().for_each(|token| self.class_of[*token as usize] = 0);
    }

    /// Where a token stands in the columns, if it does.
    fn of(&self, token: u32) -> Option<TokenColumns<'_>> {
        let class = self.class_of.get(token as usize).copied().unwrap_or(0) as usize;
        let class = &self.classes[class.checked_sub(1)?];
        let start = class.start as usize;
        Some(match class.has_mask {
            true => TokenColumns::Mask(&self.masks[start..]),
            false => TokenColumns::List(&self.positions[start..start + class.count as usize]),
        })
    }

    /// Turns a row into the one behind `token`; of a shorter row only the words that it has.
    fn advance(&self, token: u32, row: &mut [u64]) {
        match self.of(token) {
            Some(TokenColumns::Mask(mask)) => {
                let (masks, rest_masks) = mask[..row.len()].as_chunks();
                let (words, rest) = row.as_chunks_mut::<LANES>();
                let mut carry = false;
                for (words, masks) in words.iter_mut().zip(masks) {
                    *words = add(*words, *masks, &mut carry);
                }
                for (word, mask) in rest.iter_mut().zip(rest_masks) {
                    [*word] = add([*word], [*mask], &mut carry);
                }
            }
            Some(TokenColumns::List(positions)) => add_at(row, positions),
            None => {}
        }
    }

    /// Makes the row behind `token` out of the one before it, which is as long.
    fn advance_from(&self, token: u32, before: &[u64], row: &mut [u64]) {
        let Some(TokenColumns::Mask(mask)) = self.of(token) else {
            row.copy_from_slice(before);
            return self.advance(token, row);
        };
        let (before, rest_before) = before.as_chunks::<LANES>();
        let (masks, rest_masks) = mask[..row.len()].as_chunks();
        let (words, rest) = row.as_chunks_mut();
        let mut carry = false;
        for ((words, before), masks) in words.iter_mut().zip(before).zip(masks) {
            *words = add(*before, *masks, &mut carry);
        }
        for ((word, before), mask) in rest.iter_mut().zip(rest_before).zip(rest_masks) {
            [*word] = add([*before], [*mask], &mut carry);
        }
    }
}

/// Where a token stands in the columns.
enum TokenColumns<'p> {
    /// One bit for each column, and what belongs to other tokens behind them.
    Mask(&'p [u64]),
    List(&'p [u32]),
}

/// Words of a row in one step: compilers make one addition of their sums, where each word's carry alone took as long
/// as all the rest. Eight need more registers than there are.
const LANES: usize = 4;

/// Some words of a row: the lowest bit of each run of ones that begins at or before a position of the mask
/// moves to it.
fn add<const N: usize>(words: [u64; N], mask: [u64; N], carry: &mut bool) -> [u64; N] {
    let mut hits = words;
    hits.iter_mut().zip(mask).for_each(|(word, mask)| *word &= mask);
    let mut sums = hits;
    for (sum, word) in sums.iter_mut().zip(words) {
        let (partial, over) = word.overflowing_add(*sum);
        let (whole, over_by_carry) = partial.overflowing_add(u64::from(*carry));
        (*sum, *carry) = (whole, over | over_by_carry);
    }
    std::array::from_fn(|i| sums[i] | (words[i] ^ hits[i]))
}

/// The same for a mask of few positions: words without one only pass a carry on.
fn add_at(row: &mut [u64], positions: &[u32]) {
    let (mut next, mut carry) = (0, false);
    let mut positions = positions.iter().map(|at| *at as usize).peekable();
    while let Some(at) = positions.next() {
        let word = at / BITS;
        if word >= row.len() {
            break;
        }
        let mut mask = 1 << (at % BITS);
        while let Some(same) = positions.next_if(|same| same / BITS == word) {
            mask |= 1 << (same % BITS);
        }
        while carry && next < word {
            [row[next]] = add([row[next]], [0], &mut carry);
            next += 1;
        }
        [row[word]] = add([row[word]], [mask], &mut carry);
        next = word + 1;
    }
    while carry && next < row.len() {
        [row[next]] = add([row[next]], [0], &mut carry);
        next += 1;
    }
}

/// The way back from the last cell.
struct WayBack<'s> {
    columns: &'s [u32],
    rows: &'s [u32],
    column: usize,
    row: usize,
}

impl WayBack<'_> {
    /// Walks through a block whose rows begin behind row `first`.
    fn walk(&mut self, block: &[u64], words: usize, first: usize, found: &mut Vec<Run>) {
        let mut end = None;
        while self.column > 0 && self.row > first {
            // Equal tokens at the end belong to a longest common subsequence.
            if self.columns[self.column - 1] == self.rows[self.row - 1] {
                end = end.or(Some(self.row));
                (self.column, self.row) = (self.column - 1, self.row - 1);
                continue;
            }
            self.push(end.take(), found);
            let (word, bit) = ((self.column - 1) / BITS, (self.column - 1) % BITS);
            let grows = block[(self.row - 1 - first) * words + word] >> bit & 1 == 0;
            if grows {
                self.row -= 1;
            } else {
                self.column -= 1;
            }
        }
        self.push(end, found);
    }

    /// Notes the run from here up to row `end`.
    fn push(&self, end: Option<usize>, found: &mut Vec<Run>) {
        if let Some(end) = end {
            let len = (end - self.row) as u32;
            found.push(Run { column: self.column as u32, row: self.row as u32, len });
        }
    }
}
