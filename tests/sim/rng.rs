//! Random numbers that are the same everywhere and for ever: SplitMix64.

/// How everything that may take longer or shorter is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pace {
    /// Drawn from the seed.
    Random,
    /// As short as possible, and nothing unusual happens by itself (`model`).
    Quick,
    /// As long as possible, and nothing unusual happens by itself (`model`).
    Slow,
}

/// A stream of random numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rng {
    state: u64,
    pace: Pace,
}

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        let state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
        Self { state, pace: Pace::Random }
    }

    /// One that draws nothing.
    pub(crate) fn paced(pace: Pace) -> Self {
        Self { pace, ..Self::new(0) }
    }

    /// Nothing is drawn.
    pub(crate) fn is_calm(&self) -> bool {
        self.pace != Pace::Random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to `end` − 1; 0 when there is nothing to choose from.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        match self.pace {
            _ if end == 0 => 0,
            Pace::Random => self.next() % end,
            Pace::Quick => 0,
            Pace::Slow => end - 1,
        }
    }

    /// From `from` to `to`, both included.
    pub(crate) fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    /// True in `percent` of 100 cases.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.pace == Pace::Random && self.below(100) < percent
    }

    /// An index into something of this length.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }
}
