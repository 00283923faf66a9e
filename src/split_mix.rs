//! SplitMix64 (Steele, Lea and Flood, 2014): random numbers that a seed determines. Tests and tools
//! compile this file as a module of their own.

/// The difference of one state and the next. The first state is the seed plus this.
pub(crate) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Returns the random number of a state.
pub(crate) fn number(state: u64) -> u64 {
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
