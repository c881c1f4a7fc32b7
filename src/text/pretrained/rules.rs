//! Checks SentencePiece's normalization rules: the crate that applies them trusts their indices.
//!
//! The rules are the size of a double-array trie in bytes, its units of 32 bits, and the replacements, each ended by
//! NUL ([Darts-clone](https://github.com/s-yata/darts-clone)).

/// Checks that every index that a search in the trie can reach is within the rules.
///
/// # Errors
/// The rules are damaged.
pub fn check(rules: &[u8]) -> Result<(), String> {
    let damaged = || "the normalization rules (precompiled_charsmap) are damaged".to_owned();
    let (size, rest) = rules.split_first_chunk::<4>().ok_or_else(damaged)?;
    let size = u32::from_le_bytes(*size) as usize;
    let (units, replacements) = rest.split_at_checked(size).filter(|_| size > 0).ok_or_else(damaged)?;
    let replacements = std::str::from_utf8(replacements).map_err(|_| damaged())?;
    let (units, odd) = units.as_chunks::<4>();
    let unit = |at: usize| units.get(at).map(|unit| u32::from_le_bytes(*unit) as usize);
    let is_valid = |at: usize| {
        let unit_ = unit(at)?;
        // A value, which is only read as the leaf of another unit. Of the root, a search asks no label.
        if at > 0 && unit_ >> 31 == 1 {
            return Some(());
        }
        let children = at ^ ((unit_ >> 10) << ((unit_ & (1 << 9)) >> 6));
        let leaf = unit(children | 0xff).and(unit(children))?;
        let is_found = (unit_ >> 8) & 1 == 0 || replacements.is_char_boundary(leaf & 0x7fff_ffff);
        is_found.then_some(())
    };
    let is_valid = odd.is_empty() && (0..units.len()).all(|at| is_valid(at).is_some());
    if is_valid { Ok(()) } else { Err(damaged()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two blocks: from the root, `a` leads to a leaf.
    fn rules(leaf: u32) -> Vec<u8> {
        let mut units = vec![0_u32; 256];
        units[usize::from(b'a')] = u32::from(b'a') | 1 << 8 | 1 << 10;
        units[usize::from(b'a') ^ 1] = 1 << 31 | leaf;
        let units: Vec<u8> = units.into_iter().flat_map(u32::to_le_bytes).collect();
        [&(units.len() as u32).to_le_bytes()[..], &units, "b\0é\0".as_bytes()].concat()
    }

    #[test]
    fn indices_beyond_the_rules_are_errors() {
        assert_eq!(check(&rules(0)), Ok(()));
        assert_eq!(check(&rules(2)), Ok(()));
        assert!(check(&rules(3)).is_err(), "within a character");
        assert!(check(&rules(9)).is_err(), "beyond the replacements");
        let good = rules(0);
        assert!(check(&good[..100]).is_err() && check(&[]).is_err());
        for (at, byte) in [(0, 1), (3, 0xff), (4 + 4 * usize::from(b'a') + 3, 0x10), (4 + 3, 0x90)] {
            let mut damaged = good.clone();
            damaged[at] = byte;
            assert!(check(&damaged).is_err(), "{at}");
        }
    }
}
